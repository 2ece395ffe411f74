//! Which pages may call the API: cross-origin resource sharing (CORS), as the Fetch standard defines it.
//!
//! A request whose origin is not allowed is served all the same: without the headers, the browser
//! keeps the answer from the page.

use poem::{
    Request, Response,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};

use crate::{config::Origin, http::routes::Route};

pub struct Cors {
    pub allowed_origins: Vec<Origin>,
    /// Whether pages may send tokens.
    pub tokens: bool,
}

impl Cors {
    /// The request's origin, if its pages may call the API.
    pub fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let allowed = |o: &Origin| o.0 == "*" || o.0.as_bytes() == origin.as_bytes();
        self.allowed_origins.iter().any(allowed).then(|| origin.clone())
    }

    /// Adds the headers that a browser looks for in the answer to a request from this allowed origin.
    pub fn expose(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>) {
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let exposed = HeaderValue::from_static(match self.tokens {
                false => {
                    "accept-ranges, content-disposition, content-range, etag, link, location, \
                     retry-after, x-request-id"
                }
                true => {
                    "accept-ranges, content-disposition, content-range, etag, link, location, \
                     retry-after, www-authenticate, x-request-id"
                }
            });
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        if !self.allowed_origins.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
    }
}

/// The answer to a preflight from a page of `origin`; `None` if the request is no preflight.
pub fn preflight(
    request: &Request,
    origin: Option<&HeaderValue>,
    route: Option<&Route>,
) -> Option<Response> {
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() != Method::OPTIONS || origin.is_none() || asked.is_none() {
        return None;
    }
    let route = route?;
    let response = Response::builder()
        .status(StatusCode::NO_CONTENT)
        .header(header::ACCESS_CONTROL_ALLOW_METHODS, &route.allow)
        .header(header::ACCESS_CONTROL_ALLOW_HEADERS, &route.request_headers)
        .header(header::ACCESS_CONTROL_MAX_AGE, "3600");
    Some(response.finish())
}
