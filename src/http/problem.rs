//! Errors as a client sees them: `application/problem+json`, RFC 9457.

use std::{borrow::Cow, fmt};

use poem::{
    Response,
    error::{MethodNotAllowedError, NotFoundError, ResponseError},
    http::StatusCode,
};
use poem_openapi::Object;
use sea_orm::DbErr;
use serde::Serialize;

use crate::{database::error as database, identity::Refusal, request};

/// What went wrong with a request (RFC 9457).
#[derive(Clone, Debug, Object, Serialize)]
#[oai(read_only_all)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[oai(rename = "type", validator(pattern = "^about:blank$"))]
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong, with which value, and what to do: text for a person.
    detail: String,
    /// The path of the request.
    instance: String,
    /// The request's id, as in the header `X-Request-Id` and in the service's log.
    request_id: String,
    /// For a request that is not valid: each thing that is wrong with it.
    #[oai(skip_serializing_if_is_none)]
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<Invalid>>,
    #[oai(skip)]
    #[serde(skip)]
    header: Option<Box<(&'static str, Cow<'static, str>)>>,
    /// For the metrics: why a caller was refused.
    #[oai(skip)]
    #[serde(skip)]
    pub refusal: Option<Refusal>,
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, Object, Serialize)]
#[oai(read_only_all)]
pub struct Invalid {
    /// Where: a JSON Pointer (RFC 6901) into the body as a URI fragment, or `#/path/NAME`,
    /// `#/query/NAME`, `#/header/NAME`.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

pub const CONTENT_TYPE: &str = "application/problem+json";

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            instance: String::new(),
            request_id: String::new(),
            errors: None,
            header: None,
            refusal: None,
        }
    }

    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.header = Some(Box::new((name, value.into())));
        self
    }

    /// A 422 that lists everything that is wrong.
    pub fn invalid(errors: Vec<Invalid>) -> Self {
        let detail = errors.iter().map(|e| e.detail.as_str()).collect::<Vec<_>>().join("; ");
        Self { errors: Some(errors), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// A 503. A client is told to retry only if that cannot write twice: the answer to an insert may be
    /// lost, but not the insert.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        match request::may_be_repeated() {
            true => Self::retry_later(detail),
            false => Self::new(StatusCode::SERVICE_UNAVAILABLE, detail),
        }
    }

    /// A 503 to a request that may be retried, whatever has reached the database.
    pub fn retry_later(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header("retry-after", "1")
    }

    /// A 415, with the header that says what is supported instead (RFC 9110, section 15.5.16).
    pub fn unsupported(
        detail: impl Into<String>,
        supported: &'static (&'static str, &'static str),
    ) -> Self {
        let (name, value) = *supported;
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).with_header(name, value)
    }

    /// Whether somebody else has changed the resource meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.status == StatusCode::PRECONDITION_FAILED
    }

    /// A 416, with how many bytes there are (RFC 9110, section 15.5.17).
    pub fn no_range(size: u64) -> Self {
        let detail = format!("the range is empty or beyond the end: there are {size} bytes");
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, detail)
            .with_header("content-range", format!("bytes */{size}"))
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// From an error of poem's, or of a handler.
    pub fn from_error(error: &poem::Error) -> Self {
        if let Some(problem) = error.downcast_ref::<Self>() {
            return problem.clone();
        }
        if error.is::<NotFoundError>() {
            return Self::new(
                StatusCode::NOT_FOUND,
                "there is nothing here; the documentation is at /docs",
            );
        }
        if error.is::<MethodNotAllowedError>() {
            return Self::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed on this path");
        }
        tracing::error!("unexpected: {error}");
        Self::internal()
    }

    /// A 500. The cause goes to the log only.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error; the service's log has more under this request's id",
        )
    }

    pub fn example(status: StatusCode, detail: &str) -> Self {
        let mut example = match status {
            StatusCode::UNPROCESSABLE_ENTITY => Self::invalid(vec![Invalid {
                pointer: "#/name".into(),
                detail: "name is blank: give a text of 1 to 200 characters".into(),
            }]),
            _ => Self::new(status, detail),
        };
        example.instance = "/users".into();
        example.request_id = "4bf92f3577b34da6a3ce929d0e0e4736".into();
        example
    }

    pub fn response(mut self, instance: &str, request_id: &str) -> Response {
        self.instance = instance.to_owned();
        self.request_id = request_id.to_owned();
        let mut response = Response::builder()
            .status(StatusCode::from_u16(self.status).expect("made from one"))
            .content_type(CONTENT_TYPE);
        if let Some((name, value)) = self.header.as_deref() {
            response = response.header(*name, value.as_ref());
        }
        response.body(serde_json::to_vec(&self).expect("serializable"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).expect("made from one")
    }
}

impl From<DbErr> for Problem {
    fn from(error: DbErr) -> Self {
        if database::is_missing_index(&error) {
            // Refused before anything was written.
            return Self::retry_later("an index that this request needs is not there yet");
        }
        let reason = database::reason(&error);
        if database::is_unavailable(&error) {
            tracing::warn!("database: {reason}");
            return Self::unavailable("the database is not available at the moment");
        }
        tracing::error!("database: {reason}");
        Self::internal()
    }
}
