//! The span of a request, by W3C's Trace Context and OpenTelemetry's semantic conventions for HTTP servers.

use std::net::IpAddr;

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
        TraceState, Tracer,
    },
};
use opentelemetry_sdk::trace::Span;
use poem::{
    Request,
    http::{HeaderMap, StatusCode, Version, header, uri::Authority},
};

use crate::telemetry::traces::tracer;

/// The longest text from a client in a span, so that a full queue stays small; W3C's limit for `tracestate`.
const MOST: usize = 512;
/// Polled every few seconds, so traced only if the caller traces it.
const PROBES: [&str; 4] = ["/livez", "/readyz", "/healthz", "/metrics"];

/// The span of a request that is traced. It ends when it is dropped.
pub struct ServerSpan(Box<Span>);

impl ServerSpan {
    /// `None` if traces are off, or this request is not sampled.
    pub fn begin(request: &Request) -> Option<Self> {
        let tracer = tracer()?;
        let headers = request.headers();
        let context = match parent(headers) {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None if PROBES.contains(&request.uri().path()) => return None,
            None => Context::new(),
        };
        let span = tracer.span_builder("HTTP").with_kind(SpanKind::Server);
        let mut span = tracer.build_with_context(span, &context);
        if !span.is_recording() {
            return None;
        }
        let version = if request.version() < Version::HTTP_11 { "1.0" } else { "1.1" };
        span.set_attribute(KeyValue::new("network.protocol.version", version));
        span.set_attribute(KeyValue::new("url.scheme", "http"));
        let mut say = |name, value: &str| {
            span.set_attribute(KeyValue::new(name, shortened(value).to_owned()));
        };
        say("url.path", request.uri().path());
        if let Some(agent) = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()) {
            say("user_agent.original", agent);
        }
        let host = headers.get(header::HOST).map(|host| Authority::try_from(host.as_bytes()));
        if let Some(Ok(host)) = host {
            say("server.address", host.host());
            if let Some(port) = host.port_u16() {
                span.set_attribute(KeyValue::new("server.port", i64::from(port)));
            }
        }
        Some(Self(Box::new(span)))
    }

    /// For child spans.
    pub fn context(&self) -> Context {
        Context::new().with_remote_span_context(self.0.span_context().clone())
    }

    /// Records how the request went, and ends the span.
    pub fn end(
        mut self,
        method: &str,
        is_known: bool,
        route: Option<&str>,
        client: Option<IpAddr>,
        status: StatusCode,
    ) {
        let mut say = |attribute| self.0.set_attribute(attribute);
        let name = if is_known { method } else { "_OTHER" };
        say(KeyValue::new("http.request.method", name.to_owned()));
        if !is_known {
            say(KeyValue::new("http.request.method_original", shortened(method).to_owned()));
        }
        if let Some(route) = route {
            say(KeyValue::new("http.route", route.to_owned()));
        }
        if let Some(client) = client {
            say(KeyValue::new("client.address", client.to_string()));
        }
        say(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            say(KeyValue::new("error.type", status.as_str().to_owned()));
            self.0.set_status(Status::error(""));
        }
        let method = if is_known { method } else { "HTTP" };
        match route {
            Some(route) => self.0.update_name(format!("{method} {route}")),
            None => self.0.update_name(method.to_owned()),
        }
    }
}

/// The caller's span, strictly by W3C's Trace Context: a malformed one is ignored.
fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut lines = headers.get_all("traceparent").iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let (line, rest) = line.to_str().ok()?.trim().split_at_checked(55)?;
    let mut fields = line.split('-');
    let mut field = |length| {
        let is_hex = |text: &&str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fields.next().filter(|text| text.len() == length).filter(is_hex)
    };
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    // A later version may append more fields.
    if version == "ff" || !rest.is_empty() && (version == "00" || !rest.starts_with('-')) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, state(headers))).filter(SpanContext::is_valid)
}

/// The caller's `tracestate`; a malformed one is ignored.
fn state(headers: &HeaderMap) -> TraceState {
    let lines = headers.get_all("tracestate").iter().map(|line| line.to_str());
    let Ok(lines) = lines.collect::<Result<Vec<_>, _>>() else { return TraceState::NONE };
    let all = lines.join(",");
    let kept = match all.split_at_checked(MOST) {
        // Whole entries only.
        Some((kept, rest)) if !rest.is_empty() => {
            kept.rsplit_once(',').map_or("", |(kept, _)| kept)
        }
        _ => &all,
    };
    kept.parse().unwrap_or(TraceState::NONE)
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST)]
}
