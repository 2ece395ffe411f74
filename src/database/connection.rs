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

/// A connection idle for longer than this is asked for a sign of life before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// What a session of our own is told apart by: PostgreSQL takes any name with a dot.
const MARK: &str = "wiki_service.session";

/// Makes connections, and judges whether they can be used again.
pub struct Connector {
    pub options: Options,
    pub ping_timeout: Duration,
    pub statement_timeout: Duration,
    /// When a connection was last found broken. Those that were taken before most likely share its
    /// fate, and are not used again.
    pub broken: Mutex<Option<Instant>>,
    /// Tells those who wait that a connection was made.
    pub made: Notify,
    /// Whether a pooler was met. It is not asked again for what it refuses.
    pub pooler: AtomicBool,
}

pub enum Connection {
    /// A session of PostgreSQL's.
    Session(PgConnection),
    /// To a pooler such as PgBouncer, which may give each transaction to another session, and takes
    /// no parameters for one.
    Pooler(PgConnection),
    Sqlite(SqliteConnection, Deadline),
}

pub struct Pooled {
    pub connection: Connection,
    /// A statement was sent and its answer not read to the end.
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
        // Boxed: it is rare, and large enough for every statement to feel it.
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

    /// A session gets its settings as it begins. A pooler refuses them or passes them over, and what
    /// one session is told by `SET` would meet other clients.
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

/// What each statement runs under. The server, too, gives up a statement whose client has stopped
/// waiting, and does not keep to itself that a commit was not waited for.
pub fn settings(statement_timeout: Duration) -> [(&'static str, String); 2] {
    [
        ("statement_timeout", statement_timeout.as_millis().max(1).to_string()),
        ("client_min_messages", "warning".to_owned()),
    ]
}

/// Whether an error of this code may be about the parameters of a session: a violation of the
/// protocol (PgBouncer), a feature that is not supported (RDS Proxy), a name that is not known.
fn refuses_settings(code: Option<&str>) -> bool {
    code.is_some_and(|code| ["08P01", "0A000", "42704"].contains(&code))
}

/// The one value of one row, by the protocol that names no statement.
pub async fn unprepared_value(
    connection: &mut PgConnection,
    sql: String,
) -> Result<Option<String>, sqlx::Error> {
    use sqlx::Row;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0)
}
