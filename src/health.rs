//! Probes for an orchestrator.

use std::{sync::Arc, time::Duration};

use poem_openapi::{ApiResponse, OpenApi, payload::PlainText};
use tokio::time::timeout;

use crate::{
    app::{App, Phase},
    openapi::{NotReady, Tag},
    problem::{Failure, Problem},
};

/// Longest wait for the database's sign of life.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

pub struct Health(pub Arc<App>);

#[derive(ApiResponse)]
enum Fine {
    /// Yes.
    #[oai(status = 200)]
    Yes(PlainText<&'static str>),
}

const YES: Fine = Fine::Yes(PlainText("ok\n"));

#[OpenApi(tag = "Tag::Operations")]
impl Health {
    /// Is the process alive?
    ///
    /// Says nothing about the database: starting again would not cure that.
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
        match timeout(CHECK_TIMEOUT, self.0.database()?.check()).await {
            Ok(Ok(())) => Ok(YES),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Problem::unavailable("the database does not answer").into()),
        }
    }
}
