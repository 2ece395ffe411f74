//! `GET /metrics`: metrics for Prometheus, in its text format.

use std::{sync::Arc, time::Duration};

use poem_openapi::{ApiResponse, OpenApi, payload::PlainText};
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector, process_collector::ProcessCollector,
};

use crate::{app::App, database::Database, openapi::Tag};

pub struct Metrics {
    registry: Registry,
    pub users_created: IntCounter,
    pub posts_created: IntCounter,
    pub requests_in_flight: IntGauge,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    connections: IntGauge,
    idle_connections: IntGauge,
}

const LABELS: &[&str] = &["method", "route", "status"];
/// Upper bounds in seconds: a read takes under a millisecond, a limit ends a request at ten seconds.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Metrics {
    pub fn new(database: &Database) -> Self {
        let registry = Registry::new();
        let gauge =
            |name, help| register(&registry, IntGauge::new(name, help).expect("a valid name"));
        let counter =
            |name, help| register(&registry, IntCounter::new(name, help).expect("a valid name"));
        let build = register(
            &registry,
            IntGaugeVec::new(
                Opts::new("build_info", "1, labelled with the version of the service"),
                &["version"],
            )
            .expect("valid names"),
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        gauge("database_pool_max_connections", "Most connections to the database at a time")
            .set(database.max_connections() as i64);
        register(&registry, database.acquire_timeouts.clone());
        registry.register(Box::new(ProcessCollector::for_self())).expect("new names");
        Self {
            users_created: counter("users_created_total", "Users created since the start"),
            posts_created: counter("posts_created_total", "Posts created since the start"),
            requests_in_flight: gauge("http_requests_in_flight", "Requests being served now"),
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
            connections: gauge("database_pool_connections", "Open connections to the database"),
            idle_connections: gauge(
                "database_pool_idle_connections",
                "Open connections to the database that are not in use",
            ),
            registry,
        }
    }

    pub fn observe_request(&self, method: &str, route: &str, status: &str, duration: Duration) {
        let labels = &[method, route, status];
        self.requests.with_label_values(labels).inc();
        self.request_duration.with_label_values(labels).observe(duration.as_secs_f64());
    }

    fn render(&self, database: &Database) -> String {
        let (open, idle) = database.connections();
        self.connections.set(open as i64);
        self.idle_connections.set(idle as i64);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("valid metrics");
        String::from_utf8(text).expect("Prometheus text is UTF-8")
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("a new name");
    collector
}

pub struct MetricsApi(pub Arc<App>);

#[derive(ApiResponse)]
enum Exposition {
    /// The metrics, in Prometheus' text format.
    #[oai(status = 200, content_type = "text/plain; version=0.0.4; charset=utf-8")]
    Text(PlainText<String>),
}

#[OpenApi(tag = "Tag::Operations")]
impl MetricsApi {
    /// Metrics for Prometheus
    ///
    /// Users and posts created, requests and their durations by route, database pool, process.
    #[oai(path = "/metrics", method = "get", operation_id = "metrics")]
    async fn metrics(&self) -> Exposition {
        Exposition::Text(PlainText(self.0.metrics.render(self.0.raw_database())))
    }
}
