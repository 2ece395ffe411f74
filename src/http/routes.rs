//! The paths of the API, and which of them a request is about.

use std::ops::Range;

use poem::{
    Response,
    http::{HeaderValue, StatusCode, header},
};

/// A path of the API such as `/users/{id}`.
pub struct Route {
    pub template: String,
    /// Where the parameter is, braces included; no path has two.
    parameter: Option<Range<usize>>,
    pub allow: HeaderValue,
    /// Whether it is there for everybody, whatever the API asks of its callers.
    pub is_open: bool,
    /// Whether it may be asked for however often.
    pub is_unlimited: bool,
}

pub struct Routes(Vec<Route>);

impl Routes {
    /// `paths` holds each path with its methods, as the header `Allow` lists them; `open` those that
    /// are there for everybody, and `unlimited` those that may be asked for however often.
    pub fn new(paths: Vec<(String, String)>, open: &[String], unlimited: &[String]) -> Self {
        let routes = paths.into_iter().map(|(template, allow)| Route {
            parameter: template.find('{').zip(template.find('}')).map(|(from, to)| from..to + 1),
            allow: allow.parse().expect("names of methods"),
            is_open: open.contains(&template),
            is_unlimited: unlimited.contains(&template),
            template,
        });
        Self(routes.collect())
    }

    pub fn find(&self, path: &str) -> Option<&Route> {
        self.0.iter().find(|route| match &route.parameter {
            None => path == route.template,
            Some(place) => path
                .strip_prefix(&route.template[..place.start])
                .and_then(|rest| rest.strip_suffix(&route.template[place.end..]))
                .is_some_and(|value| !value.is_empty() && !value.contains('/')),
        })
    }

    /// The route that `/users/` leads to, which is `/users`.
    pub fn find_without_slash(&self, path: &str) -> Option<&Route> {
        self.find(path.strip_suffix('/')?)
    }

    /// The way from `/users/` to `/users`, as the predecessor shows it.
    pub fn without_slash(&self, path: &str) -> Option<Response> {
        self.find_without_slash(path)?;
        let name = path.strip_suffix('/')?.rsplit('/').next()?;
        let response = Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            // Relative, so that it works under a prefix.
            .header(header::LOCATION, format!("../{name}"));
        Some(response.finish())
    }
}
