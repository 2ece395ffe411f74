//! Spans that wait to be sent.
//!
//! The SDK's own processors export in a thread that blocks on a future, where clients that need the
//! runtime hang, and do not report what they drop. Here a task exports, and lost spans are counted.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use prometheus::IntCounter;
use tokio::sync::Notify;

use crate::telemetry::metrics::Metrics;

/// Beyond this many spans, further ones are lost. With all that clients can put into them, they take some
/// ten megabytes; typically, one.
pub const MOST_WAITING: usize = 2048;
/// The most spans in one request to the collector.
const BATCH: usize = 512;

pub struct Queue {
    waiting: Mutex<Vec<SpanData>>,
    /// Notified when there are enough for a request.
    pub full: Notify,
    pub lost: IntCounter,
    pub exported: IntCounter,
}

impl Queue {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            waiting: Mutex::default(),
            full: Notify::new(),
            lost: metrics.counter(
                "trace_spans_lost_total",
                "Spans that no collector took: none was there, it refused them, or too many waited",
            ),
            exported: metrics.counter("trace_spans_exported_total", "Spans that a collector took"),
        }
    }

    fn put(&self, span: SpanData) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == MOST_WAITING {
            return self.lost.inc();
        }
        waiting.push(span);
        if waiting.len() >= BATCH {
            self.full.notify_one();
        }
    }

    /// The oldest spans, as many as fit into a request.
    pub fn take(&self) -> Vec<SpanData> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = waiting.len().min(BATCH);
        let rest = waiting.split_off(batch);
        std::mem::replace(&mut waiting, rest)
    }
}

pub struct Processor(pub Arc<Queue>);

impl fmt::Debug for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Processor")
    }
}

impl SpanProcessor for Processor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.put(span);
    }

    /// The exporter's task flushes on its own.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
