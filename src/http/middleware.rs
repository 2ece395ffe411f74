//! What is done for every request: its id, its time limit, its log line, its metrics, and the form of
//! its errors.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use poem::{
    Endpoint, Request, Response, Result,
    endpoint::DynEndpoint,
    error::NotFoundError,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
};
use tokio::time::timeout_at;

use crate::{
    config::{Config, Network},
    digits,
    http::{
        authorization::{Admitted, Authorization},
        body::Bodies,
        client,
        conditional::IfNoneMatch,
        cors::{self, Cors},
        problem::Problem,
        rate_limit::{RateLimit, Toll},
        routes::{Route, Routes},
        spans::ServerSpan,
    },
    request,
    telemetry::metrics::Metrics,
};

pub struct Middleware {
    metrics: Metrics,
    routes: Routes,
    request_timeout: Duration,
    bodies: Bodies,
    trusted_proxies: Vec<Network>,
    cors: Cors,
    authorization: Option<Authorization>,
    rate_limit: Option<RateLimit>,
}

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The route label of requests to paths that we do not have.
const UNMATCHED: &str = "unmatched";

impl Middleware {
    /// Without an `authorization`, anybody may do anything.
    pub fn new(
        metrics: Metrics,
        config: &Config,
        routes: Vec<Route>,
        authorization: Option<Authorization>,
    ) -> Self {
        Self {
            routes: Routes(routes),
            request_timeout: config.request_timeout_seconds.0,
            bodies: Bodies::new(config.max_body_bytes.get() as usize),
            trusted_proxies: config.trusted_proxies.0.clone(),
            cors: Cors {
                allowed_origins: config.cors_allowed_origins.0.clone(),
                tokens: authorization.is_some(),
            },
            authorization,
            rate_limit: RateLimit::new(config, &metrics),
            metrics,
        }
    }
}

impl Endpoint for Middleware {
    type Output = Response;

    /// Never an error: each becomes a response.
    async fn call(&self, request: Request) -> Result<Response> {
        let request_id = match request.headers().get(&X_REQUEST_ID).map(HeaderValue::to_str) {
            Some(Ok(id)) if is_sane(id) => id.to_owned(),
            _ => digits::hex(&[fastrand::u64(..), fastrand::u64(..)]),
        };
        let span = ServerSpan::begin(&request);
        let trace = span.as_ref().map(ServerSpan::context);
        // Pinned here: it is large, and would otherwise be moved several times.
        let work = pin!(self.serve(request, request_id.clone(), span));
        Ok(request::serving(request_id, trace, work).await)
    }
}

impl Middleware {
    async fn serve(
        &self,
        request: Request,
        request_id: String,
        span: Option<ServerSpan>,
    ) -> Response {
        let uri = request.uri().clone();
        let route = self.routes.find(uri.path());
        let mut record = Record {
            metrics: &self.metrics,
            started: Instant::now(),
            method: request.method().clone(),
            span,
            path: uri.path(),
            route: route.map_or(UNMATCHED, |route| &route.template),
            client: client::address(&request, &self.trusted_proxies),
            // If dropped before there is an answer: the client has gone away (nginx's code for it).
            status: StatusCode::from_u16(499).expect("a number of three digits"),
        };
        self.metrics.requests_in_flight.inc();
        let origin = self.cors.allowed_origin(request.headers());
        let preflight = cors::preflight(&request, origin.as_ref(), route);
        let mut admitted = Admitted::default();
        let toll =
            Toll { limit: self.rate_limit.as_ref(), client: record.client, at: record.started };
        let (answer, body_is_read) =
            self.answer(request, route, preflight, &mut admitted, toll).await;
        let mut response = answer.unwrap_or_else(|problem| {
            if let Some(authorization) = &self.authorization {
                authorization.count(&problem);
            }
            problem.response(uri.path(), &request_id)
        });
        if !body_is_read {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        let headers = response.headers_mut();
        headers.insert(&X_REQUEST_ID, request_id.parse().expect("sane"));
        self.cors.expose(headers, origin);
        admitted.mark(headers);
        record.status = response.status();
        if let (StatusCode::METHOD_NOT_ALLOWED, Some(route)) = (response.status(), route) {
            response.headers_mut().insert(header::ALLOW, route.allow.clone());
        }
        response
    }

    /// The API's answer, or the `preflight`'s, and whether the request was read to its end.
    async fn answer(
        &self,
        mut request: Request,
        route: Option<&Route>,
        preflight: Option<Response>,
        admitted: &mut Admitted,
        toll: Toll<'_>,
    ) -> (Result<Response, Problem>, bool) {
        let route = route.or_else(|| self.routes.find_without_slash(request.uri().path()));
        let toll = match route {
            Some(route) if route.is_unlimited => Toll { limit: None, ..toll },
            _ => toll,
        };
        let deadline = Instant::now() + self.request_timeout;
        let limit = self.request_timeout.as_secs_f64();
        let read = timeout_at(deadline.into(), self.bodies.read(&mut request)).await;
        let slow = |_| {
            let detail = format!("the body took longer than {limit} s to arrive");
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        };
        let room = match read.map_err(slow).flatten() {
            Ok(room) => room,
            Err(problem) => return (Err(toll.of_address().err().unwrap_or(problem)), false),
        };
        if let Some(response) = preflight {
            return (Ok(response), true);
        }
        let too_long =
            || Err(Problem::unavailable(format!("the request took longer than {limit} s")));
        if let Some(authorization) = &self.authorization {
            let admission = authorization.admit(&mut request, route, admitted, toll);
            match timeout_at(deadline.into(), admission).await {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => return (Err(problem), true),
                Err(_elapsed) => return (too_long(), true),
            }
        } else if let Err(problem) = toll.of_address() {
            return (Err(problem), true);
        }
        if let Some(response) = self.routes.without_slash(request.uri()) {
            return (Ok(response), true);
        }
        if request.method() == Method::HEAD {
            // Defined for GET only (RFC 9110, section 14.2).
            request.headers_mut().remove(header::RANGE);
        }
        let endpoint = route.ok_or_else(|| NotFoundError.into());
        let endpoint = match endpoint.and_then(|route| route.endpoint(request.method())) {
            Ok(endpoint) => endpoint,
            Err(error) => return (Err(Problem::from_error(&error)), true),
        };
        let is_written = !request.method().is_safe();
        let if_none_match = IfNoneMatch::of(request.method(), request.headers());
        let answer = AssertUnwindSafe(DynEndpoint::call(&**endpoint, request)).catch_unwind();
        let answer = match timeout_at(deadline.into(), answer).await {
            Ok(Ok(Ok(response))) => {
                self.bodies.hold(if_none_match.answer(response), room, is_written).await
            }
            Ok(Ok(Err(error))) => Err(Problem::from_error(&error)),
            Ok(Err(_panic)) => Err(Problem::internal()),
            Err(_elapsed) => too_long(),
        };
        (answer, true)
    }
}

/// Safe for a header and for the log: up to 128 letters, digits and `-_.:/+=@`.
fn is_sane(request_id: &str) -> bool {
    (1..=128).contains(&request_id.len())
        && request_id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&b))
}

/// When dropped, records a request in the metrics, the log and its trace.
struct Record<'a> {
    metrics: &'a Metrics,
    span: Option<ServerSpan>,
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
        // A client can make up methods; the metrics know those of RFC 9110 and PATCH.
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
        self.metrics.requests_in_flight.dec();
        self.metrics.observe_request(method, self.route, self.status.as_str(), duration);
        tracing::info!(
            message = self.path,
            method = self.method.as_str(),
            route = self.route,
            status = self.status.as_u16(),
            duration_seconds = duration.as_secs_f64(),
            client = self.client.map(client::text),
            user_id = request::user(),
        );
        if let Some(span) = self.span.take() {
            let route = Some(self.route).filter(|route| *route != UNMATCHED);
            let is_known = method != "other";
            span.end(self.method.as_str(), is_known, route, self.client, self.status);
        }
    }
}
