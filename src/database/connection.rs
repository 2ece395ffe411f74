//! Connections: how they are opened, and when one may be used again.

use std::{sync::Mutex, time::Duration};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use sea_orm::sqlx::{
    self, AssertSqlSafe, ConnectOptions, Connection as _, Executor, PgConnection, SqliteConnection,
};
use tokio::time::{Instant, timeout};

use crate::database::address::Options;

/// A connection idle for longer than this is asked for a sign of life before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Makes connections, and judges whether they can be used again.
pub struct Connector {
    pub options: Options,
    pub ping_timeout: Duration,
    pub statement_timeout: Duration,
    /// When a connection was last found broken. Those that were taken before most likely share its
    /// fate, and are not used again.
    pub broken: Mutex<Option<Instant>>,
}

pub enum Connection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

pub struct Pooled {
    pub connection: Connection,
    /// A statement was sent and its answer not read to the end.
    pub unanswered: bool,
}

impl managed::Manager for Connector {
    type Type = Pooled;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<Pooled, sqlx::Error> {
        tracing::debug!("opening a connection to the database");
        // Boxed: it is rare, and large enough for every statement to feel it.
        let connection = Box::pin(async {
            Ok::<_, sqlx::Error>(match &self.options {
                Options::Postgres(options) => {
                    let mut connection = options.connect().await?;
                    // The server, too, gives up a statement whose client has stopped waiting.
                    let limit = self.statement_timeout.as_millis().max(1);
                    connection
                        .execute(AssertSqlSafe(format!("SET statement_timeout = {limit}")))
                        .await?;
                    Connection::Postgres(connection)
                }
                Options::Sqlite(options) => Connection::Sqlite(options.connect().await?),
            })
        });
        Ok(Pooled { connection: connection.await?, unanswered: false })
    }

    async fn recycle(&self, pooled: &mut Pooled, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if pooled.unanswered {
            return Err(RecycleError::message("its last statement was not answered"));
        }
        let taken = Instant::from_std(metrics.recycled.unwrap_or(metrics.created));
        if self.broken.lock().expect("no panic").is_some_and(|broken| taken < broken) {
            return Err(RecycleError::message("others of its age are broken"));
        }
        match &mut pooled.connection {
            Connection::Postgres(connection) if metrics.last_used() > TRUSTED_IDLE => {
                match timeout(self.ping_timeout, connection.ping()).await {
                    Ok(Ok(())) => Ok(()),
                    _ => {
                        self.distrust();
                        Err(RecycleError::message("no sign of life"))
                    }
                }
            }
            _ => Ok(()),
        }
    }
}

impl Connector {
    pub fn distrust(&self) {
        *self.broken.lock().expect("no panic") = Some(Instant::now());
    }
}
