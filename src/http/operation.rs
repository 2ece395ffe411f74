//! What operations declare: their answers on success and on failure.

use std::marker::PhantomData;

use poem::http::StatusCode;
use poem_openapi::{
    ApiResponse,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, Registry},
    types::{ToJSON, Type},
};
use serde::Serialize;

use crate::http::{
    json::Rendered,
    problem::{CONTENT_TYPE, Problem},
};

/// 201, with where the new thing is.
#[derive(ApiResponse)]
pub enum Created<T: Type + Serialize> {
    /// It was created.
    #[oai(status = 201)]
    Created(
        Rendered<T>,
        /// Where it is, from the path of the request (a relative reference: RFC 9110, section
        /// 10.2.2).
        #[oai(header = "Location")]
        String,
    ),
}

impl<T: Type + Serialize> Created<T> {
    pub fn at(location: String, body: &T) -> Self {
        Self::Created(Rendered::new(body), location)
    }
}

/// 204.
#[derive(ApiResponse)]
pub enum Done {
    /// It is done.
    #[oai(status = 204)]
    Done,
}

/// A status of failure, and what it means.
pub type Status = (StatusCode, &'static str);

pub const TOO_SLOW: Status =
    (StatusCode::REQUEST_TIMEOUT, "The body took too long to arrive (10 s by default).");
pub const TOO_LARGE: Status = (
    StatusCode::PAYLOAD_TOO_LARGE,
    "The body is larger than the service takes (1 MiB by default).",
);
pub const NOT_JSON: Status =
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not `application/json`, or is compressed.");
pub const CUT_SHORT: Status = (StatusCode::BAD_REQUEST, "The body ended too early.");
pub const INVALID: Status =
    (StatusCode::UNPROCESSABLE_ENTITY, "The request is not valid; `errors` lists what is wrong.");
pub const INTERNAL: Status =
    (StatusCode::INTERNAL_SERVER_ERROR, "Internal error; the service's log has the cause.");
pub const UNAVAILABLE: Status =
    (StatusCode::SERVICE_UNAVAILABLE, "The database is not available, or a time limit has passed.");

/// A [`Problem`], with the statuses that a kind of operation can fail with, for the document.
pub struct Failure<K>(Problem, PhantomData<K>);

/// A kind of operation: its failures by status, with what each means.
pub trait Kind {
    const STATUSES: &'static [Status];
}

impl<K, E: Into<Problem>> From<E> for Failure<K> {
    fn from(error: E) -> Self {
        Self(error.into(), PhantomData)
    }
}

impl<K> From<Failure<K>> for poem::Error {
    fn from(failure: Failure<K>) -> Self {
        failure.0.into()
    }
}

impl<K: Kind> ApiResponse for Failure<K> {
    fn meta() -> MetaResponses {
        let response = |(status, description): &Status| MetaResponse {
            description,
            status: Some(status.as_u16()),
            status_range: None,
            content: vec![MetaMediaType {
                content_type: CONTENT_TYPE,
                schema: Problem::schema_ref().merge(MetaSchema {
                    example: Problem::example(*status, description).to_json(),
                    ..MetaSchema::ANY
                }),
            }],
            headers: headers(*status),
        };
        MetaResponses { responses: K::STATUSES.iter().map(response).collect() }
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}

/// The headers that an answer with `status` may have.
fn headers(status: StatusCode) -> Vec<MetaHeader> {
    let header = |name: &str, description: &str, schema| MetaHeader {
        name: name.into(),
        description: Some(description.into()),
        required: false,
        deprecated: false,
        schema,
    };
    match status {
        StatusCode::SERVICE_UNAVAILABLE => vec![header(
            "Retry-After",
            "Seconds; only if a retry cannot write twice: nothing has reached the database, or the \
             request has an `Idempotency-Key`",
            u32::schema_ref(),
        )],
        StatusCode::PRECONDITION_FAILED => {
            vec![header("ETag", "The current one", String::schema_ref())]
        }
        StatusCode::CONFLICT => {
            vec![header("Location", "Where to find what conflicts", String::schema_ref())]
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            vec![header("Content-Range", "How many bytes there are", String::schema_ref())]
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => vec![
            header("Accept", "The media type to send instead", String::schema_ref()),
            header("Accept-Encoding", "The coding to send instead", String::schema_ref()),
        ],
        _ => Vec::new(),
    }
}
