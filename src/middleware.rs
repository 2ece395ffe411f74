//! What is done for every request: its id, its time limit, its line in the log, its figures, and the
//! form of its errors.

use std::{
    net::IpAddr,
    ops::Range,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::body::Bytes;
use poem::{
    Addr, Endpoint, Request, Response, Result,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};

use crate::{
    app::App,
    config::{Config, Network, Origin},
    problem::Problem,
};

tokio::task_local! {
    static EXCHANGE: Arc<Exchange>;
}

/// What is known of the request that the current task serves.
struct Exchange {
    request_id: String,
    /// Whether a statement of it has been sent to the database.
    statement: AtomicBool,
}

/// Runs `f` with the id of the request that the current task serves, if it serves one.
pub fn with_request_id(f: impl FnOnce(&str)) {
    EXCHANGE.try_with(|exchange| f(&exchange.request_id)).ok();
}

/// Does `work` to its end, even if the request is given up meanwhile: what the database has committed
/// is counted, and its connection is as good as before.
pub async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    ToTheEnd(Some(Box::pin(work))).await
}

/// Work that goes on in a task of its own when it is dropped. Beginning it there would cost every
/// request a task and a wake-up.
struct ToTheEnd<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> Future for ToTheEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut work = self.0.take().expect("not polled again when it is done, or has panicked");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for ToTheEnd<F> {
    fn drop(&mut self) {
        let Some(work) = self.0.take() else { return };
        // There is none when the process ends.
        let Ok(runtime) = Handle::try_current() else { return };
        // From now on it may reach the database at any time.
        note_statement();
        match EXCHANGE.try_with(Arc::clone) {
            Ok(exchange) => drop(runtime.spawn(EXCHANGE.scope(exchange, work))),
            Err(_) => drop(runtime.spawn(work)),
        }
    }
}

/// Remembers that a statement of this request is on its way to the database.
pub fn note_statement() {
    EXCHANGE.try_with(|exchange| exchange.statement.store(true, Ordering::Relaxed)).ok();
}

/// Whether a statement of this request was sent to the database.
pub fn statement_noted() -> bool {
    EXCHANGE.try_with(|exchange| exchange.statement.load(Ordering::Relaxed)).unwrap_or(false)
}

pub struct Middleware<E> {
    app: Arc<App>,
    inner: E,
    routes: Vec<Route>,
    request_timeout: Duration,
    max_body_bytes: usize,
    /// Room for bodies in memory, in bytes.
    room: Arc<Semaphore>,
    trusted_proxies: Vec<Network>,
    cors_allowed_origins: Vec<Origin>,
}

/// A path of the API such as `/users/{id}`.
struct Route {
    template: String,
    /// Where the parameter is, braces included; no path has two.
    parameter: Option<Range<usize>>,
    allow: HeaderValue,
}

/// Most bytes of bodies in memory at a time, those of all requests together.
const BODIES_IN_MEMORY: usize = 64 << 20;
const X_REQUEST_ID: &str = "x-request-id";
/// The label of requests to paths that are none of ours.
const UNMATCHED: &str = "unmatched";

impl<E> Middleware<E> {
    /// `paths` holds each path of `inner` with its methods, as the header `Allow` lists them.
    pub fn new(app: Arc<App>, config: &Config, inner: E, paths: Vec<(String, String)>) -> Self {
        let max_body_bytes = config.max_body_bytes.get() as usize;
        let routes = paths.into_iter().map(|(template, allow)| Route {
            parameter: template.find('{').zip(template.find('}')).map(|(from, to)| from..to + 1),
            template,
            allow: allow.parse().expect("names of methods"),
        });
        Self {
            app,
            inner,
            routes: routes.collect(),
            request_timeout: config.request_timeout_seconds.0,
            max_body_bytes,
            room: Arc::new(Semaphore::new(BODIES_IN_MEMORY.max(max_body_bytes))),
            trusted_proxies: config.trusted_proxies.0.clone(),
            cors_allowed_origins: config.cors_allowed_origins.0.clone(),
        }
    }

    fn route(&self, path: &str) -> Option<&Route> {
        self.routes.iter().find(|route| match &route.parameter {
            None => path == route.template,
            Some(place) => path
                .strip_prefix(&route.template[..place.start])
                .and_then(|rest| rest.strip_suffix(&route.template[place.end..]))
                .is_some_and(|value| !value.is_empty() && !value.contains('/')),
        })
    }

    /// The way from `/users/` to `/users`, as the predecessor shows it.
    fn without_slash(&self, path: &str) -> Option<Response> {
        let path = path.strip_suffix('/').filter(|path| self.route(path).is_some())?;
        let name = path.rsplit('/').next()?;
        let response = Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            // Relative, so that it works under a prefix.
            .header(header::LOCATION, format!("../{name}"));
        Some(response.finish())
    }

    /// The peer's address, or the one that trusted proxies say it speaks for: the last in
    /// `X-Forwarded-For` that is not a trusted proxy itself.
    fn client(&self, request: &Request) -> Option<IpAddr> {
        let Addr::SocketAddr(peer) = request.remote_addr().0 else { return None };
        let mut client = peer.ip().to_canonical();
        if self.trusted_proxies.is_empty() {
            return Some(client);
        }
        let trusted = |ip: &IpAddr| self.trusted_proxies.iter().any(|n| n.0.contains(ip));
        let lines: Vec<_> = request.headers().get_all("x-forwarded-for").iter().collect();
        for address in lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|b| *b == b',')) {
            match str::from_utf8(address).map(|address| address.trim().parse::<IpAddr>()) {
                Ok(Ok(address)) if trusted(&client) => client = address.to_canonical(),
                _ => break,
            }
        }
        Some(client)
    }

    /// The request's origin, if its pages may call the API.
    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let allowed = |o: &Origin| o.0 == "*" || o.0.as_bytes() == origin.as_bytes();
        self.cors_allowed_origins.iter().any(allowed).then(|| origin.clone())
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Middleware<E> {
    type Output = Response;

    /// Never an error: each has become a response.
    async fn call(&self, request: Request) -> Result<Response> {
        let request_id = match request.header(X_REQUEST_ID) {
            Some(id) if is_sane(id) => id.to_owned(),
            _ => format!("{:032x}", fastrand::u128(..)),
        };
        let exchange =
            Arc::new(Exchange { request_id: request_id.clone(), statement: false.into() });
        Ok(EXCHANGE.scope(exchange, self.serve(request, request_id)).await)
    }
}

impl<E: Endpoint<Output = Response>> Middleware<E> {
    async fn serve(&self, request: Request, request_id: String) -> Response {
        let uri = request.uri().clone();
        let route = self.route(uri.path());
        let mut record = Record {
            app: &self.app,
            started: Instant::now(),
            method: request.method().clone(),
            path: uri.path(),
            route: route.map_or(UNMATCHED, |route| &route.template),
            client: self.client(&request),
            // Dropped before it has an answer: the client has gone away (nginx's code for it).
            status: StatusCode::from_u16(499).expect("a number of three digits"),
        };
        self.app.metrics.requests_in_flight.inc();
        let origin = self.allowed_origin(request.headers());
        let instead =
            preflight(&request, origin.as_ref(), route).or_else(|| self.without_slash(uri.path()));
        let (answer, body_is_read) = self.answer(request, instead).await;
        let mut response =
            answer.unwrap_or_else(|problem| problem.response(uri.path(), &request_id));
        if !body_is_read {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        let headers = response.headers_mut();
        headers.insert(X_REQUEST_ID, request_id.parse().expect("sane"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let exposed = HeaderValue::from_static("location, retry-after, x-request-id");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        if !self.cors_allowed_origins.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        record.status = response.status();
        if let (StatusCode::METHOD_NOT_ALLOWED, Some(route)) = (response.status(), route) {
            response.headers_mut().insert(header::ALLOW, route.allow.clone());
        }
        response
    }

    /// What the API makes of the request, if there is no answer `instead`, and whether the request
    /// was read to its end.
    async fn answer(
        &self,
        mut request: Request,
        instead: Option<Response>,
    ) -> (Result<Response, Problem>, bool) {
        let deadline = Instant::now() + self.request_timeout;
        let limit = self.request_timeout.as_secs_f64();
        let read = timeout_at(deadline.into(), self.read_body(&mut request)).await;
        let slow = |_| {
            let detail = format!("the body took longer than {limit} s to arrive");
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        };
        let _room = match read.map_err(slow).flatten() {
            Ok(room) => room,
            Err(problem) => return (Err(problem), false),
        };
        if let Some(response) = instead {
            return (Ok(response), true);
        }
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let answer = match timeout_at(deadline.into(), answer).await {
            Ok(Ok(Ok(response))) => Ok(response),
            Ok(Ok(Err(error))) => Err(Problem::from_error(&error)),
            Ok(Err(_panic)) => Err(Problem::internal()),
            Err(_elapsed) => {
                Err(Problem::unavailable(format!("the request took longer than {limit} s")))
            }
        };
        (answer, true)
    }

    /// Reads the whole body, whether or not it will be looked at: hyper ends a connection without a
    /// word when an answer leaves while the body is still on its way. What is too long is read on
    /// for a while and thrown away, since most clients send all of it before they look.
    ///
    /// Gives the room that the body takes in memory.
    async fn read_body(
        &self,
        request: &mut Request,
    ) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        let max = self.max_body_bytes;
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
}

/// The answer to a browser that asks whether a page of `origin` may send its request.
fn preflight(
    request: &Request,
    origin: Option<&HeaderValue>,
    route: Option<&Route>,
) -> Option<Response> {
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() != Method::OPTIONS || origin.is_none() || asked.is_none() {
        return None;
    }
    let response = Response::builder()
        .status(StatusCode::NO_CONTENT)
        .header(header::ACCESS_CONTROL_ALLOW_METHODS, &route?.allow)
        .header(header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type, x-request-id")
        .header(header::ACCESS_CONTROL_MAX_AGE, "3600");
    Some(response.finish())
}

/// An id that can stand in a header and in a log: up to 128 letters, digits and `-_.:/+=@`.
fn is_sane(request_id: &str) -> bool {
    (1..=128).contains(&request_id.len())
        && request_id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&b))
}

/// Writes, when dropped, a request into the figures and the log.
struct Record<'a> {
    app: &'a App,
    started: Instant,
    method: Method,
    path: &'a str,
    route: &'a str,
    client: Option<IpAddr>,
    status: StatusCode,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        // A client can make up methods; the figures know those of RFC 9110 and PATCH.
        let method = match self.method {
            Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::CONNECT
            | Method::OPTIONS
            | Method::TRACE
            | Method::PATCH => self.method.as_str(),
            _ => "other",
        };
        self.app.metrics.requests_in_flight.dec();
        self.app.metrics.observe_request(method, self.route, self.status.as_str(), duration);
        tracing::info!(
            message = self.path,
            method = self.method.as_str(),
            route = self.route,
            status = self.status.as_u16(),
            duration_seconds = duration.as_secs_f64(),
            client = self.client.map(|ip| ip.to_string()),
        );
    }
}
