//! Connections: how they are opened, and when one may be used again.

use std::{
    fmt::Display,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use sea_orm::sqlx::{
    self, ConnectOptions, Connection as _, PgConnection, SqliteConnection,
    postgres::PgConnectOptions,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::database::{
    address::Options,
    sqlite::{self, Deadline},
};

/// A connection idle for longer than this is pinged before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// The setting that marks a session as our own: PostgreSQL accepts any name with a dot.
const MARK: &str = "wiki_service.session";

/// Opens connections, and decides whether they can be reused.
pub struct Connector {
    pub options: Options,
    pub ping_timeout: Duration,
    pub statement_timeout: Duration,
    /// When a connection was last found broken. Those last taken from the pool before that are most likely
    /// broken as well, and are not reused.
    pub broken: Mutex<Option<Instant>>,
    /// Notified when a connection is opened.
    pub made: Notify,
    /// Whether there is a pooler; if so, session settings are not tried again.
    pub pooler: AtomicBool,
}

pub enum Connection {
    /// A PostgreSQL session of our own.
    Session(PgConnection),
    /// To a pooler such as PgBouncer, which may run each transaction in another session, and accepts no
    /// session parameters.
    Pooler(PgConnection),
    Sqlite(SqliteConnection, Deadline),
}

pub struct Pooled {
    pub connection: Connection,
    /// A statement was sent, and its answer was not read to the end.
    pub unanswered: bool,
}

/// A connection in use. It goes back to the pool, unless a statement is unanswered.
pub struct Lease(pub Option<Object<Connector>>);

impl Lease {
    pub fn pooled(&mut self) -> &mut Pooled {
        self.0.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.0.take() {
            Some(pooled) if pooled.unanswered => drop(Object::take(pooled)),
            _ => {}
        }
    }
}

impl managed::Manager for Connector {
    type Type = Pooled;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<Pooled, sqlx::Error> {
        tracing::debug!("opening a connection to the database");
        // Boxed: it is rare, and its size would cost every statement.
        let connection = Box::pin(async {
            match &self.options {
                Options::Postgres(options) => {
                    self.connect(options, settings(self.statement_timeout)).await
                }
                Options::Sqlite(options) => {
                    let (connection, deadline) = sqlite::connect(options).await?;
                    Ok(Connection::Sqlite(connection, deadline))
                }
            }
        });
        let connection = connection.await?;
        self.made.notify_waiters();
        Ok(Pooled { connection, unanswered: false })
    }

    async fn recycle(&self, pooled: &mut Pooled, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        let taken = Instant::from_std(metrics.recycled.unwrap_or(metrics.created));
        if self.broken.lock().expect("no panic").is_some_and(|broken| taken < broken) {
            return Err(RecycleError::message("others of its age are broken"));
        }
        match &mut pooled.connection {
            Connection::Session(connection) | Connection::Pooler(connection)
                if metrics.last_used() > TRUSTED_IDLE =>
            {
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

    /// A session gets its settings as startup parameters. A pooler refuses or ignores those, and a `SET` in
    /// its sessions would affect other clients.
    pub async fn connect<V: Display>(
        &self,
        options: &PgConnectOptions,
        settings: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Result<Connection, sqlx::Error> {
        if !self.pooler.load(Ordering::Relaxed) {
            let mark = fastrand::u64(..).to_string();
            let own = options.clone().options(settings).options([(MARK, &mark)]);
            match own.connect().await {
                Ok(mut connection) => {
                    let sql = format!("SELECT current_setting('{MARK}', true)");
                    let found: Option<String> = unprepared_value(&mut connection, sql).await?;
                    if found == Some(mark) {
                        return Ok(Connection::Session(connection));
                    }
                }
                Err(sqlx::Error::Database(error)) if refuses_settings(error.code().as_deref()) => {
                    tracing::debug!("{error}");
                }
                Err(error) => return Err(error),
            }
            if !self.pooler.swap(true, Ordering::Relaxed) {
                tracing::info!(
                    "the database is behind a connection pooler: each statement is a transaction \
                     with settings of its own"
                );
            }
        }
        options.connect().await.map(Connection::Pooler)
    }
}

/// The settings that each statement runs under: the server, too, gives up a statement when its client
/// stops waiting, and it warns of a commit that did not wait for a standby.
pub fn settings(statement_timeout: Duration) -> [(&'static str, String); 2] {
    [
        ("statement_timeout", statement_timeout.as_millis().max(1).to_string()),
        ("client_min_messages", "warning".to_owned()),
    ]
}

/// Whether an error with this code may be about startup parameters: a protocol violation (PgBouncer),
/// an unsupported feature (RDS Proxy), an unknown name.
fn refuses_settings(code: Option<&str>) -> bool {
    code.is_some_and(|code| ["08P01", "0A000", "42704"].contains(&code))
}

/// The first value of the first row, by the simple query protocol, which prepares no statement.
pub async fn unprepared_value(
    connection: &mut PgConnection,
    sql: String,
) -> Result<Option<String>, sqlx::Error> {
    use sqlx::Row;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0)
}
