//! The paths of the API, which of them a request is for, and the endpoints there.
//!
//! poem's own router would match the path a second time, and record data that nobody reads.

use std::collections::{BTreeSet, HashMap};

use poem::{
    Endpoint, EndpointExt, Response, Result,
    endpoint::BoxEndpoint,
    error::MethodNotAllowedError,
    http::{HeaderValue, Method, StatusCode, Uri, header},
};
use poem_openapi::OpenApi;
use serde_json::Value;

use crate::http::terms::Terms;

/// A path of the API such as `/users/{id}`.
pub struct Route {
    pub template: String,
    /// Where the first parameter begins.
    literal: usize,
    /// Its methods, as the header `Allow` lists them.
    pub allow: HeaderValue,
    /// The headers that its operations read, as a preflight's answer lists them.
    pub request_headers: HeaderValue,
    /// Whether it needs no token, whatever the rest of the API requires.
    pub is_open: bool,
    /// Whether the rate limit does not apply to it.
    pub is_unlimited: bool,
    endpoints: Endpoints,
}

/// By method.
type Endpoints = Vec<(Method, BoxEndpoint<'static>)>;

impl Route {
    fn new(template: &str, methods: &str, request_headers: &str) -> Self {
        Self {
            literal: template.find('{').unwrap_or(template.len()),
            template: template.to_owned(),
            allow: methods.parse().expect("names of methods"),
            request_headers: request_headers.parse().expect("names of headers"),
            is_open: true,
            is_unlimited: false,
            endpoints: Vec::new(),
        }
    }

    /// A read-only path that is open to everybody.
    pub fn page(template: &str, page: impl Endpoint<Output = Response> + 'static) -> Self {
        Self {
            endpoints: vec![(Method::GET, page.boxed())],
            ..Self::new(template, "GET, HEAD", "if-none-match, x-request-id")
        }
    }

    /// Each path of an OpenAPI document, with the endpoints that `resources` have there.
    pub fn of_document(document: &str, resources: impl OpenApi, terms: &Terms) -> Vec<Self> {
        let mut endpoints = HashMap::new();
        resources.add_routes(&mut endpoints);
        let document: Value = serde_json::from_str(document).expect("made by poem-openapi");
        let paths = document["paths"].as_object().expect("an object");
        let route = |(path, operations): (&String, &Value)| {
            let is_unlimited = terms.is_open(path);
            let is_open = is_unlimited || terms.security.is_none();
            let endpoints = endpoints.remove(&poems(path)).expect("those of the document");
            let endpoints = endpoints.into_iter().collect();
            Self { is_unlimited, endpoints, ..Self::of_operations(path, operations, is_open) }
        };
        paths.iter().map(route).collect()
    }

    fn of_operations(path: &str, operations: &Value, is_open: bool) -> Self {
        let mut methods = Vec::new();
        let mut headers = BTreeSet::from(["x-request-id".to_owned()]);
        if !is_open {
            headers.insert("authorization".to_owned());
        }
        for (method, operation) in operations.as_object().expect("an object") {
            methods.push(method.to_uppercase());
            if !operation["requestBody"].is_null() {
                headers.insert("content-type".to_owned());
            }
            if !operation["responses"]["200"]["headers"]["ETAG"].is_null() {
                headers.insert("if-none-match".to_owned());
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "header" {
                    let name = parameter["name"].as_str().expect("a text");
                    headers.insert(name.to_lowercase());
                }
            }
        }
        let methods = methods.join(", ").replace("GET", "GET, HEAD");
        let headers: Vec<String> = headers.into_iter().collect();
        Self { is_open, ..Self::new(path, &methods, &headers.join(", ")) }
    }

    /// Adds `data` to the extensions of requests that write.
    pub fn with_data<T: Clone + Send + Sync + 'static>(mut self, data: T) -> Self {
        let writes = self.endpoints.into_iter().map(|(method, endpoint)| match method.is_safe() {
            true => (method, endpoint),
            false => (method, endpoint.data(data.clone()).boxed()),
        });
        self.endpoints = writes.collect();
        self
    }

    /// The endpoint for a method. HEAD takes GET's, and hyper drops the body.
    pub fn endpoint(&self, method: &Method) -> Result<&BoxEndpoint<'static>> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let endpoint = self.endpoints.iter().find(|(known, _)| known == method);
        endpoint.map(|(_, endpoint)| endpoint).ok_or_else(|| MethodNotAllowedError.into())
    }

    fn matches(&self, path: &str) -> bool {
        let (literal, parameters) = self.template.split_at(self.literal);
        let Some(rest) = path.strip_prefix(literal) else { return false };
        let mut segments = rest.split('/');
        parameters.split('/').all(|expected| match segments.next() {
            Some(segment) if expected.starts_with('{') => !segment.is_empty(),
            segment => segment == Some(expected),
        }) && segments.next().is_none()
    }
}

/// A path as poem-openapi writes it: `/users/:param0`.
fn poems(template: &str) -> String {
    let mut parameters = 0;
    let segments = template.split('/').enumerate().map(|(position, segment)| {
        if !segment.starts_with('{') {
            return segment.to_owned();
        }
        assert_eq!(position, 2 * parameters + 2, "{template}: names and parameters take turns");
        parameters += 1;
        format!(":param{}", parameters - 1)
    });
    segments.collect::<Vec<_>>().join("/")
}

pub struct Routes(pub Vec<Route>);

impl Routes {
    pub fn find(&self, path: &str) -> Option<&Route> {
        self.0.iter().find(|route| route.matches(path))
    }

    /// The route that `/users/` redirects to, which is `/users`.
    pub fn find_without_slash(&self, path: &str) -> Option<&Route> {
        self.find(path.strip_suffix('/')?)
    }

    /// The redirect from `/users/` to `/users`, as the predecessor has it.
    pub fn without_slash(&self, uri: &Uri) -> Option<Response> {
        let path = uri.path();
        self.find_without_slash(path)?;
        let name = path.strip_suffix('/')?.rsplit('/').next()?;
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let response = Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            // Relative, so that it works under a prefix.
            .header(header::LOCATION, format!("../{name}{query}").into_bytes());
        Some(response.finish())
    }
}
