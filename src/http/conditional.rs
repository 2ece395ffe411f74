//! Conditional requests (RFC 9110, section 13): entity tags, and the preconditions that use them.

use std::hash::{DefaultHasher, Hash, Hasher};

use poem::{
    Response,
    http::{HeaderMap, HeaderName, Method, StatusCode, header},
    web::headers::{self, HeaderMapExt},
};
use poem_openapi::{ApiResponse, registry::MetaSchema, types::Type};
use serde::Serialize;
use serde_json::json;
use serde_yaml::Value;

use crate::{
    digits,
    http::{
        json::Rendered,
        parameter::InHead,
        problem::{Invalid, Problem},
        terms::yaml,
    },
};

/// To be revalidated each time, which a 304 makes cheap.
pub const NO_CACHE: &str = "no-cache";

/// Headers about a body, which a 304 does not have.
const OF_BODY: [HeaderName; 4] =
    [header::CONTENT_DISPOSITION, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::LINK];

/// The answers that a client already has, by the header `If-None-Match` of a read. A header that is not a
/// list of entity tags is ignored.
pub struct IfNoneMatch(Option<headers::IfNoneMatch>);

impl IfNoneMatch {
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        let is_read = [Method::GET, Method::HEAD].contains(method);
        Self(is_read.then(|| headers.typed_get()).flatten())
    }

    /// For headers that are known to be a read's.
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

    /// The answer, or a 304 if the client already has it.
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

/// The states of a resource that a request is meant for, by the header `If-Match`.
pub enum IfMatch {
    /// Any: there is no such header.
    Missing,
    /// Any: the header is `*`.
    Any,
    /// Those with one of these strong tags: a weak one never matches.
    Tags(Vec<String>),
}

const MAX_TAGS: usize = 100;
const TAGS: &str = r#"^(\*|(W/)?"[!#-~]*"([ \t]*,[ \t]*(W/)?"[!#-~]*"){0,99})$"#;

impl IfMatch {
    /// A 412 if the request is not meant for the resource in the state that `etag` names.
    pub fn check(&self, etag: &str) -> Result<(), Problem> {
        match self {
            Self::Tags(tags) if !tags.iter().any(|tag| tag == etag) => {
                let detail = format!("it has been changed: its ETag is {etag} now; read it again");
                let problem = Problem::new(StatusCode::PRECONDITION_FAILED, detail);
                Err(problem.with_header("etag", etag.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// The same where the header is required: without it, a 428.
    pub fn require(&self, etag: &str) -> Result<(), Problem> {
        match self {
            Self::Missing => Err(Problem::new(
                StatusCode::PRECONDITION_REQUIRED,
                "send the ETag of what you change as If-Match, so that nobody else's change is lost; \
                 * matches any",
            )),
            _ => self.check(etag),
        }
    }

    fn parse(list: &str) -> Option<Self> {
        if list.trim_matches(BLANKS) == "*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        let mut rest = list;
        loop {
            // Empty elements are allowed (RFC 9110, section 5.6.1).
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let strong = rest.strip_prefix("W/").unwrap_or(rest);
            let (opaque, after) = strong.strip_prefix('"')?.split_once('"')?;
            tags.push(match strong.len() == rest.len() {
                true => format!("\"{opaque}\""),
                false => String::new(),
            });
            rest = after.trim_start_matches(BLANKS);
            if rest.trim_start_matches([' ', '\t', ',']).is_empty() {
                return Some(Self::Tags(tags));
            }
            rest = rest.strip_prefix(',')?;
        }
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

impl InHead for IfMatch {
    fn schema() -> MetaSchema {
        MetaSchema { pattern: Some(TAGS.into()), ..MetaSchema::new("string") }
    }

    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let lines: Vec<_> = headers
            .get_all(header::IF_MATCH)
            .iter()
            .map(|line| String::from_utf8_lossy(line.as_bytes()))
            .collect();
        if lines.is_empty() {
            return Ok(Self::Missing);
        }
        let list = lines.join(",");
        let wanted = match Self::parse(&list) {
            Some(Self::Tags(tags)) if tags.len() > MAX_TAGS => {
                "names more than 100 entity tags".into()
            }
            Some(found) => return Ok(found),
            None => {
                let given: String = list.chars().take(40).collect();
                format!("is {given:?}: give an ETag as it was sent, with its quotes, or *")
            }
        };
        let pointer = "#/header/If-Match".into();
        Err(Problem::invalid(vec![Invalid { pointer, detail: format!("If-Match {wanted}") }]))
    }
}

/// The same where the header is required: without it, a 428 (RFC 6585, section 3), once the resource was
/// found.
pub struct MustMatch(pub IfMatch);

impl InHead for MustMatch {
    const IS_REQUIRED: bool = true;

    fn schema() -> MetaSchema {
        IfMatch::schema()
    }

    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        IfMatch::read(headers).map(Self)
    }
}

/// Documents `If-None-Match` for a read that answers with an entity tag.
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
        "description": "The client already has it, according to its `If-None-Match`.",
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

/// The entity tag of a body: a hash, so that it changes with the body whoever has changed the row.
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
        /// `no-cache`: revalidate each time, with `If-None-Match`.
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
