//! Bodies: how much of a request's body is read, and how much memory all bodies take together.

use std::sync::Arc;

use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::body::{Body as _, Bytes};
use poem::{
    Body, Request, Response,
    http::{StatusCode, header},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::problem::Problem;

/// The most bytes of bodies in memory at a time, over all requests and answers.
const IN_MEMORY: usize = 64 << 20;
/// The largest answer that does not count against that limit.
const SMALL: u64 = 64 << 10;

pub struct Bodies {
    max_bytes: usize,
    /// Room in memory, in bytes.
    room: Arc<Semaphore>,
}

impl Bodies {
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, room: Arc::new(Semaphore::new(IN_MEMORY.max(max_bytes))) }
    }

    /// Reads the whole body, whether or not it will be used: hyper silently closes a connection when
    /// the answer is sent while the body is still arriving. A body that is too large is read for a
    /// while longer and discarded, since most clients send all of it before they look for an answer.
    ///
    /// Returns a permit for the memory that the body takes.
    pub async fn read(
        &self,
        request: &mut Request,
    ) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        let max = self.max_bytes;
        let too_large = || {
            Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {max} bytes"),
            )
        };
        let length = request.header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        if length > Some(max) && request.headers().contains_key(header::EXPECT) {
            return Err(too_large());
        }
        if length.is_none() && !request.headers().contains_key(header::TRANSFER_ENCODING) {
            return Ok(None);
        }
        let mut body: BoxBody<Bytes, std::io::Error> = request.take_body().into();
        let mut room = self.room.clone().try_acquire_many_owned(0).ok();
        let mut bytes = Vec::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(|error| {
                tracing::debug!("reading the body: {error}");
                Problem::new(StatusCode::BAD_REQUEST, "the body ended too early")
            })?;
            let Ok(data) = data.into_data() else { continue };
            length += data.len();
            if length <= max {
                let more = self.room.clone().try_acquire_many_owned(data.len() as u32);
                let more = more.map_err(|_| Problem::unavailable("too many bodies at a time"))?;
                room.as_mut().expect("of nothing").merge(more);
                bytes.extend_from_slice(&data);
            } else if length > max.saturating_mul(16) {
                break;
            }
        }
        if length > max {
            return Err(too_large());
        }
        request.set_body(bytes);
        Ok(room)
    }

    /// Counts a large answer against the limit until the client has taken it, or is gone; the `room` of
    /// the request's body is reused. If there is no room, a read is refused. What `is_written` cannot be
    /// undone, so it is answered all the same; its answer only repeats what was sent.
    pub async fn hold(
        &self,
        mut response: Response,
        room: Option<OwnedSemaphorePermit>,
        is_written: bool,
    ) -> Result<Response, Problem> {
        let body: BoxBody<Bytes, std::io::Error> = response.take_body().into();
        if body.size_hint().lower() <= SMALL {
            response.set_body(Body::from(body));
            return Ok(response);
        }
        let bytes = body.collect().await.map_err(|_| Problem::internal())?.to_bytes();
        // Shared bytes, such as the pages of the documentation, take no additional memory.
        if bytes.is_unique() {
            let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let length = bytes.len().min(IN_MEMORY).saturating_sub(held) as u32;
            let mut room = room.or_else(|| self.room.clone().try_acquire_many_owned(0).ok());
            match self.room.clone().try_acquire_many_owned(length) {
                Ok(more) => room.as_mut().expect("of nothing").merge(more),
                Err(_) if is_written => {}
                Err(_) => {
                    let detail = "too many large answers are being sent at the moment";
                    return Err(Problem::retry_later(detail));
                }
            }
            response.set_body(Bytes::from_owner(Held { bytes, _room: room }));
        } else {
            response.set_body(bytes);
        }
        Ok(response)
    }
}

struct Held {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
