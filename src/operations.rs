//! Probes and metrics, for those who run the service.

use std::sync::Arc;

use poem::http::StatusCode;
use poem_openapi::{ApiResponse, OpenApi, Tags, payload::PlainText};

use crate::{
    app::{App, Phase},
    http::{
        operation::{Failure, INTERNAL, Kind, Status},
        problem::Problem,
    },
};

#[derive(Tags)]
enum Tag {
    /// Probes and metrics, for those who run the service.
    Operations,
}

#[derive(Clone)]
pub struct Operations(pub Arc<App>);

#[derive(ApiResponse)]
enum Fine {
    /// Yes.
    #[oai(status = 200)]
    Yes(PlainText<&'static str>),
}

#[derive(ApiResponse)]
enum Exposition {
    /// The metrics, in Prometheus' text format.
    #[oai(status = 200, content_type = "text/plain; version=0.0.4; charset=utf-8")]
    Text(PlainText<String>),
}

const YES: Fine = Fine::Yes(PlainText("ok\n"));

pub struct NotReady;
impl Kind for NotReady {
    const STATUSES: &[Status] = &[
        INTERNAL,
        (StatusCode::SERVICE_UNAVAILABLE, "Starting, stopping, or without a database."),
    ];
}

#[OpenApi(tag = "Tag::Operations")]
impl Operations {
    /// Is the process alive?
    ///
    /// Says nothing about the database: a restart would not help there.
    #[oai(path = "/livez", method = "get", operation_id = "livez")]
    async fn livez(&self) -> Fine {
        YES
    }

    /// Is the process alive? By another name
    ///
    /// The same as `/livez`.
    #[oai(path = "/healthz", method = "get", operation_id = "healthz")]
    async fn healthz(&self) -> Fine {
        self.livez().await
    }

    /// Can requests be served?
    ///
    /// That is: the service is neither starting nor stopping, the database answers, and its schema
    /// is this version's.
    #[oai(path = "/readyz", method = "get", operation_id = "readyz")]
    async fn readyz(&self) -> Result<Fine, Failure<NotReady>> {
        if self.0.is(Phase::Stopping) {
            return Err(Problem::unavailable("the service is stopping").into());
        }
        self.0.database()?.check().await?;
        Ok(YES)
    }

    /// Metrics for Prometheus
    ///
    /// Users and posts created, requests and their durations by route, database pool, process.
    #[oai(path = "/metrics", method = "get", operation_id = "metrics")]
    async fn metrics(&self) -> Exposition {
        Exposition::Text(PlainText(self.0.metrics.render()))
    }
}
