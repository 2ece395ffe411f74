//! Conditional requests (RFC 9110, section 13): entity tags, and what clients make of them.

use std::hash::{DefaultHasher, Hash, Hasher};

use poem::{
    Response,
    http::{HeaderMap, HeaderName, Method, StatusCode, header},
    web::headers::{self, HeaderMapExt},
};
use poem_openapi::{ApiResponse, types::Type};
use serde::Serialize;
use serde_json::json;
use serde_yaml::Value;

use crate::http::{json::Rendered, terms::yaml};

/// To be asked for again each time, which a 304 makes cheap.
pub const NO_CACHE: &str = "no-cache";

/// Headers about a body, of which a 304 has none.
const OF_BODY: [HeaderName; 4] =
    [header::CONTENT_DISPOSITION, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::LINK];

/// What a client has an answer for already, by the header `If-None-Match` of a read. One that is no list
/// of entity tags counts as none.
pub struct IfNoneMatch(Option<headers::IfNoneMatch>);

impl IfNoneMatch {
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        let is_read = [Method::GET, Method::HEAD].contains(method);
        Self(is_read.then(|| headers.typed_get()).flatten())
    }

    /// By the headers of what is a read.
    pub fn of_read(headers: &HeaderMap) -> Self {
        Self(headers.typed_get())
    }

    pub fn is_given(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the client has the answer with this tag, by the weak comparison.
    pub fn has(&self, etag: &str) -> bool {
        let etag = etag.parse().expect("an entity tag");
        self.0.as_ref().is_some_and(|tags| !tags.precondition_passes(&etag))
    }

    /// The answer, or a 304 in its place where the client has it.
    pub fn answer(self, mut response: Response) -> Response {
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        let is_known = self.is_given() && etag.is_some_and(|etag| self.has(etag));
        if response.status() == StatusCode::OK && is_known {
            response.set_status(StatusCode::NOT_MODIFIED);
            drop(response.take_body());
            for of_body in OF_BODY {
                response.headers_mut().remove(of_body);
            }
        }
        response
    }
}

/// Has the document say it of an operation that answers with an entity tag.
pub fn add_to(operation: &mut Value) {
    let mut headers = operation["responses"]["200"]["headers"].clone();
    let Some(headers) = headers.as_mapping_mut().filter(|headers| headers.contains_key("ETAG"))
    else {
        return;
    };
    for of_body in OF_BODY {
        headers.remove(of_body.as_str().to_uppercase());
    }
    operation["responses"]["304"] = yaml(json!({
        "description": "The client has it already, by what it sent in `If-None-Match`.",
        "headers": headers,
    }));
    let parameter = yaml(json!({
        "name": "If-None-Match",
        "in": "header",
        "description": "Entity tags that the client has an answer for.",
        "required": false,
        "schema": {"type": "string"},
    }));
    match operation["parameters"].as_sequence_mut() {
        Some(parameters) => parameters.push(parameter),
        None => operation["parameters"] = vec![parameter].into(),
    }
}

/// The entity tag of a body: it changes with it, whoever has changed what it was made of.
pub fn tag<T>(body: &Rendered<T>) -> String {
    let mut hasher = DefaultHasher::new();
    body.bytes().hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// One resource.
#[derive(ApiResponse)]
pub enum Found<T: Type + Serialize> {
    /// It was found.
    #[oai(status = 200)]
    Found(
        Rendered<T>,
        /// Changes with the resource (RFC 9110, section 8.8.3).
        #[oai(header = "ETag")]
        String,
        /// `no-cache`: to be asked for again each time, by `If-None-Match`.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

impl<T: Type + Serialize> Found<T> {
    pub fn new(resource: &T) -> Self {
        let body = Rendered::new(resource);
        let etag = tag(&body);
        Self::tagged(body, etag)
    }

    /// From a body whose tag is known.
    pub fn tagged(body: impl Into<Rendered<T>>, etag: String) -> Self {
        Self::Found(body.into(), etag, NO_CACHE.into())
    }
}
