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
}

pub struct Routes(Vec<Route>);

impl Routes {
    /// `paths` holds each path with its methods, as the header `Allow` lists them.
    pub fn new(paths: Vec<(String, String)>) -> Self {
        let routes = paths.into_iter().map(|(template, allow)| Route {
            parameter: template.find('{').zip(template.find('}')).map(|(from, to)| from..to + 1),
            template,
            allow: allow.parse().expect("names of methods"),
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

    /// The way from `/users/` to `/users`, as the predecessor shows it.
    pub fn without_slash(&self, path: &str) -> Option<Response> {
        let path = path.strip_suffix('/').filter(|path| self.find(path).is_some())?;
        let name = path.rsplit('/').next()?;
        let response = Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            // Relative, so that it works under a prefix.
            .header(header::LOCATION, format!("../{name}"));
        Some(response.finish())
    }
}
