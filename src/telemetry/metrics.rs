//! Metrics for Prometheus, in its text format.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

use crate::telemetry::process::Process;

/// The service's metrics; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    pub requests_in_flight: IntGauge,
    requests: IntCounterVec,
    request_duration: HistogramVec,
}

const LABELS: &[&str] = &["method", "route", "status"];
/// Upper bounds in seconds: a read takes under a millisecond, and by default a request ends at ten seconds.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let build = register(
            &registry,
            IntGaugeVec::new(
                Opts::new("build_info", "1, labelled with the version of the service"),
                &["version"],
            )
            .expect("valid names"),
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(Process::new())).expect("new names");
        Self {
            requests_in_flight: register(
                &registry,
                IntGauge::new("http_requests_in_flight", "Requests being served now")
                    .expect("a valid name"),
            ),
            requests: register(
                &registry,
                IntCounterVec::new(Opts::new("http_requests_total", "Requests served"), LABELS)
                    .expect("valid names"),
            ),
            request_duration: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "http_request_duration_seconds",
                        "Time from a request's headers to its answer",
                    )
                    .buckets(BUCKETS.to_vec()),
                    LABELS,
                )
                .expect("valid names"),
            ),
            registry,
        }
    }

    /// A new counter. Panics if the name is taken.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        register(&self.registry, IntCounter::new(name, help).expect("a valid name"))
    }

    /// Adds metrics that are kept elsewhere. Panics if a name is taken.
    pub fn include(&self, collector: impl Collector + 'static) {
        self.registry.register(Box::new(collector)).expect("new names");
    }

    pub fn observe_request(&self, method: &str, route: &str, status: &str, duration: Duration) {
        let labels = &[method, route, status];
        self.requests.with_label_values(labels).inc();
        self.request_duration.with_label_values(labels).observe(duration.as_secs_f64());
    }

    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("valid metrics");
        String::from_utf8(text).expect("Prometheus text is UTF-8")
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("a new name");
    collector
}
