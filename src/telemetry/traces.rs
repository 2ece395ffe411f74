//! Traces: the tracer, and the task that sends its spans.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_sdk::{
    Resource,
    resource::TelemetryResourceDetector,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{
    otel::Otel,
    telemetry::{
        exporter::{Exporter, Phase},
        metrics::Metrics,
        spans::{Processor, Queue},
    },
};

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The tracer, if traces are on.
pub fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// The task that sends spans to the collector.
pub struct Traces {
    phase: watch::Sender<Phase>,
    task: JoinHandle<()>,
}

impl Traces {
    /// Starts making and sending spans. To be called once, on the runtime.
    pub fn start(otel: &Otel, metrics: &Metrics) -> Result<Self, String> {
        let attribute =
            |(name, value): &(String, String)| KeyValue::new(name.clone(), value.clone());
        let resource = Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(otel.attributes.iter().map(attribute))
            .build();
        let queue = Arc::new(Queue::new(metrics));
        let (phase, changes) = watch::channel(Phase::Serving);
        let exporter = Exporter::new(otel, queue.clone(), &resource, changes)?;
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Processor(queue))
            .with_sampler(otel.sampler.clone())
            .with_resource(resource)
            .build();
        TRACER.set(provider.tracer("wiki-service")).map_err(|_| "traces are on already")?;
        Ok(Self { phase, task: tokio::spawn(exporter.work()) })
    }

    /// From now on spans are sent sooner; everything ends within `grace`.
    pub fn stop(&self, grace: Duration) {
        self.phase.send_replace(Phase::Stopping(Instant::now() + grace));
    }

    /// Sends what is left, and gives up at the end of the grace period, or if the collector fails.
    pub async fn end(self) {
        let end = match *self.phase.borrow() {
            Phase::Serving => Instant::now(),
            Phase::Stopping(end) | Phase::Ending(end) => end,
        };
        self.phase.send_replace(Phase::Ending(end));
        self.task.await.ok();
    }
}
