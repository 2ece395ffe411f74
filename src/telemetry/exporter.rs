//! Sends spans to a collector: OTLP over HTTP, as protobuf.

use std::{sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{Resource, trace::SpanData};
use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    https::Client,
    otel::Otel,
    telemetry::spans::{MOST_WAITING, Queue},
};

/// How long spans wait for others to fill a batch; less while the service stops.
const PATIENCE: Duration = Duration::from_secs(1);
const LAST_PATIENCE: Duration = Duration::from_millis(100);
/// The longest wait for the collector's answer; shorter while the service stops.
const LIMIT: Duration = Duration::from_secs(10);
const LAST_LIMIT: Duration = Duration::from_secs(3);
/// The first and the longest pause before a retry; the collector may ask for more.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
const MOST_ASKED: Duration = Duration::from_secs(60);
/// How often the log repeats that the collector takes no spans.
const REMINDER: Duration = Duration::from_secs(60);
/// The most bytes of a collector's answer.
const MOST_ANSWERED: usize = 64 * 1024;

pub struct Exporter {
    queue: Arc<Queue>,
    client: Client,
    endpoint: Uri,
    /// The endpoint for the log, without its query, which may hold a password.
    name: String,
    headers: HeaderMap,
    resource: ResourceAttributesWithSchema,
    phase: watch::Receiver<Phase>,
    trouble: Option<Trouble>,
    /// The collector has failed while the service stops, and is not tried again.
    given_up: bool,
}

/// The service's phase, as far as the exporter is concerned.
#[derive(Clone, Copy)]
pub enum Phase {
    Serving,
    /// Stopping: nothing is tried beyond this time.
    Stopping(Instant),
    /// There will be no more spans.
    Ending(Instant),
}

/// An outage of the collector.
struct Trouble {
    /// When it was last logged.
    said: Instant,
    /// How many spans were lost before it.
    lost: u64,
}

/// Why a collector did not take spans.
struct Refusal {
    why: String,
    /// If a retry may help: how long the collector asks to wait before it, or zero.
    retry: Option<Duration>,
}

impl Exporter {
    pub fn new(
        otel: &Otel,
        queue: Arc<Queue>,
        resource: &Resource,
        phase: watch::Receiver<Phase>,
    ) -> Result<Self, String> {
        let (variable, authorities) = otel.certificate.clone().unzip();
        let client = Client::new(authorities).map_err(|why| {
            let variable = variable.unwrap_or_default();
            format!("{variable} is not valid: {why}; see wiki-service --help")
        })?;
        let name = otel.endpoint.to_string();
        let name = name.split('?').next().unwrap_or_default().to_owned();
        tracing::info!("traces go to {name}");
        Ok(Self {
            queue,
            client,
            endpoint: otel.endpoint.clone(),
            name,
            headers: otel.headers.clone(),
            resource: resource.into(),
            phase,
            trouble: None,
            given_up: false,
        })
    }

    pub async fn work(mut self) {
        loop {
            let phase = *self.phase.borrow_and_update();
            let patience = match phase {
                Phase::Serving => PATIENCE,
                Phase::Stopping(_) => LAST_PATIENCE,
                Phase::Ending(_) => Duration::ZERO,
            };
            tokio::select! {
                () = sleep(patience) => {}
                () = self.queue.full.notified() => {}
                // The sender is gone, so nobody waits for the rest.
                changed = self.phase.changed() => if changed.is_err() { return },
            }
            loop {
                let batch = self.queue.take();
                if batch.is_empty() {
                    break;
                }
                self.export(batch).await;
            }
            if matches!(phase, Phase::Ending(_)) {
                return self.say_what_was_lost();
            }
        }
    }

    /// Sends spans until the collector takes them, or refuses them for good.
    async fn export(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        let [mut pause, longest] = PAUSES;
        loop {
            if self.given_up {
                return self.lose(spans);
            }
            let Refusal { why, retry } = match self.send(body.clone()).await {
                Ok(rejected) => {
                    self.queue.exported.inc_by(spans.saturating_sub(rejected));
                    self.queue.lost.inc_by(rejected.min(spans));
                    return self.recovered();
                }
                Err(refusal) => refusal,
            };
            self.given_up = !matches!(*self.phase.borrow(), Phase::Serving);
            let asked = retry.filter(|_| !self.given_up);
            self.complain(&why, asked.is_some());
            let Some(asked) = asked else { return self.lose(spans) };
            // Jitter, so that replicas do not retry at the same moment.
            let own = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            let wait = asked.min(MOST_ASKED).max(own);
            tokio::select! {
                () = sleep(wait) => pause = longest.min(pause * 2),
                _ = self.phase.changed() => {}
            }
        }
    }

    /// Sends spans once, and returns how many of them the collector rejected.
    async fn send(&self, body: Bytes) -> Result<u64, Refusal> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = self.headers.clone();
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(CONTENT_TYPE, protobuf);
        let mut phase = self.phase.clone();
        let cut_off = async {
            loop {
                let stopping = *phase.borrow_and_update();
                match stopping {
                    Phase::Stopping(end) | Phase::Ending(end) => {
                        return sleep_until(end.min(Instant::now() + LAST_LIMIT)).await;
                    }
                    Phase::Serving if phase.changed().await.is_err() => return,
                    Phase::Serving => {}
                }
            }
        };
        let sent = tokio::select! {
            sent = self.client.send(request, LIMIT, MOST_ANSWERED) => sent,
            () = cut_off => Err("no answer before the service had to stop".to_owned()),
        };
        let answer = sent.map_err(|why| Refusal { why, retry: Some(Duration::ZERO) })?;
        let status = answer.status();
        if status.is_success() {
            let answer = ExportTraceServiceResponse::decode(answer.into_body()).unwrap_or_default();
            let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
            return Ok(u64::try_from(rejected).unwrap_or(0));
        }
        // OTLP/HTTP, "Failures": no other status may be retried.
        let retry = match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let after =
                    answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
                Some(Duration::from_secs(after.unwrap_or(0)))
            }
            _ => None,
        };
        Err(Refusal { why: format!("it answers {status}"), retry })
    }

    fn lose(&self, spans: u64) {
        self.queue.lost.inc_by(spans);
    }

    /// Logged at the end, when metrics are no longer scraped.
    fn say_what_was_lost(&self) {
        if let Some(trouble) = &self.trouble {
            let lost = self.queue.lost.get() - trouble.lost;
            tracing::warn!("traces: {lost} spans were lost, as {} took none", self.name);
        }
    }

    fn complain(&mut self, why: &str, again: bool) {
        let lost = self.queue.lost.get();
        let said = Instant::now();
        match &mut self.trouble {
            Some(trouble) if trouble.said.elapsed() < REMINDER => return,
            Some(trouble) => trouble.said = said,
            None => self.trouble = Some(Trouble { said, lost }),
        }
        let then = match again {
            true => format!("they are sent again; beyond {MOST_WAITING}, further ones are lost"),
            false => "they are lost".to_owned(),
        };
        let name = &self.name;
        tracing::warn!("traces: {name} takes no spans: {why}; {then} ({lost} so far)");
    }

    fn recovered(&mut self) {
        if let Some(trouble) = self.trouble.take() {
            let lost = self.queue.lost.get() - trouble.lost;
            tracing::info!("traces: {} takes spans again; {lost} were lost meanwhile", self.name);
        }
    }
}
