//! Conditional requests (RFC 9110, section 13): entity tags, and what clients make of them.

use std::hash::{DefaultHasher, Hash, Hasher};

use poem::{
    http::HeaderMap,
    web::headers::{self, HeaderMapExt},
};
use poem_openapi::{ApiResponse, types::Type};
use serde::Serialize;

use crate::{
    digits,
    http::{json::Rendered, parameter::InHead, problem::Problem},
};

/// To be asked for again each time, which a 304 makes cheap.
pub const NO_CACHE: &str = "no-cache";

/// The header `If-None-Match`. One that is no list of entity tags counts as none.
pub struct IfNoneMatch(Option<headers::IfNoneMatch>);

impl IfNoneMatch {
    pub fn of(headers: &HeaderMap) -> Self {
        Self(headers.typed_get())
    }

    /// Whether the client has what goes by `etag`, by the weak comparison.
    pub fn names(&self, etag: &str) -> bool {
        let etag = || etag.parse().expect("an entity tag");
        self.0.as_ref().is_some_and(|tags| !tags.precondition_passes(&etag()))
    }
}

impl InHead for IfNoneMatch {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self::of(headers))
    }
}

/// The entity tag of a body: it changes with it, whoever has changed what it was made of.
pub fn tag<T>(body: &Rendered<T>) -> String {
    let mut hasher = DefaultHasher::new();
    body.bytes().hash(&mut hasher);
    ["\"", &digits::hex(&[hasher.finish()]), "\""].concat()
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
    /// The client has it already, by what it sent in `If-None-Match`.
    #[oai(status = 304)]
    NotModified(#[oai(header = "ETag")] String, #[oai(header = "Cache-Control")] String),
}

impl<T: Type + Serialize> Found<T> {
    pub fn new(resource: &T, if_none_match: &IfNoneMatch) -> Self {
        let body = Rendered::new(resource);
        let etag = tag(&body);
        Self::tagged(body, etag, if_none_match)
    }

    /// From a body whose tag is known.
    pub fn tagged(body: impl Into<Rendered<T>>, etag: String, if_none_match: &IfNoneMatch) -> Self {
        if if_none_match.names(&etag) {
            Self::NotModified(etag, NO_CACHE.into())
        } else {
            Self::Found(body.into(), etag, NO_CACHE.into())
        }
    }
}
