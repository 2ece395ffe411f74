//! The connection to SQLite or PostgreSQL: a pool in which every wait has a limit.
//!
//! sqlx's own pool pings a connection without a limit when it is handed back, so a database that
//! falls silent would keep it for good; it also costs a round trip per request. Here a connection
//! goes back unasked when its last statement was answered, and is thrown away otherwise.

use std::{io, sync::Arc, time::Duration};

use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult, Timeouts};
use migration::{Migrator, MigratorTrait};
use prometheus::IntCounter;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, ExecResult,
    QueryResult, RuntimeErr, Statement,
    entity::prelude::async_trait::async_trait,
    sqlx::{
        self, AssertSqlSafe, ConnectOptions, Connection as _, Executor, PgConnection,
        SqliteConnection,
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};
use sea_query_sqlx::SqlxValues;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use crate::{config::Config, middleware};

/// Longest wait for the first connection, before it is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection idle for longer than this is asked for a sign of life before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How much longer than the server we wait for a statement that it should have cancelled itself.
const SERVER_HEAD_START: Duration = Duration::from_millis(100);
/// The key of the advisory lock under which the schema is changed: the bytes of "wiki".
const MIGRATION_LOCK: i64 = 0x77696b69;

/// The database: a [`ConnectionTrait`] for sea-orm.
pub struct Database {
    pool: managed::Pool<Connector>,
    /// SQLite has one writer at a time; waiting here is fair, waiting for its lock is not.
    writer: Option<Semaphore>,
    acquire_timeout: Duration,
    statement_timeout: Duration,
    pub acquire_timeouts: IntCounter,
}

struct Connector {
    options: Options,
    statement_timeout: Duration,
}

#[derive(Clone)]
enum Options {
    Postgres(Box<PgConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
}

enum Connection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

struct Pooled {
    connection: Connection,
    /// A statement was sent and its answer not read to the end.
    unanswered: bool,
}

impl managed::Manager for Connector {
    type Type = Pooled;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<Pooled, sqlx::Error> {
        tracing::debug!("opening a connection to the database");
        let connection = match &self.options {
            Options::Postgres(options) => {
                let mut connection = options.connect().await?;
                // The server, too, gives up a statement whose client has stopped waiting.
                let limit = self.statement_timeout.as_millis();
                connection
                    .execute(AssertSqlSafe(format!("SET statement_timeout = {limit}")))
                    .await?;
                Connection::Postgres(connection)
            }
            Options::Sqlite(options) => Connection::Sqlite(options.connect().await?),
        };
        Ok(Pooled { connection, unanswered: false })
    }

    async fn recycle(&self, pooled: &mut Pooled, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if pooled.unanswered {
            return Err(RecycleError::message("its last statement was not answered"));
        }
        match &mut pooled.connection {
            Connection::Postgres(connection) if metrics.last_used() > TRUSTED_IDLE => {
                Ok(connection.ping().await?)
            }
            _ => Ok(()),
        }
    }
}

impl Database {
    /// Reads `DATABASE_URL`; nothing is connected yet.
    pub fn new(config: &Config) -> Result<Self, String> {
        let options = Options::parse(config).map_err(|error| {
            format!("DATABASE_URL is not valid: {error}; see wiki-service --help")
        })?;
        let acquire_timeout = config.database_acquire_timeout_seconds.0;
        let statement_timeout = config.database_statement_timeout_seconds.0;
        let writer = matches!(options, Options::Sqlite(_)).then(|| Semaphore::new(1));
        let pool = managed::Pool::builder(Connector { options, statement_timeout })
            .max_size(config.database_pool_size.get())
            .runtime(deadpool::Runtime::Tokio1)
            .timeouts(Timeouts { recycle: Some(acquire_timeout / 4), ..Timeouts::new() })
            .build()
            .expect("a runtime is set");
        let acquire_timeouts = IntCounter::new(
            "database_pool_acquire_timeouts_total",
            "Requests that got no database connection in time",
        )
        .expect("a valid name");
        Ok(Self { pool, writer, acquire_timeout, statement_timeout, acquire_timeouts })
    }

    /// Waits until the database answers, for at most `limit`, and brings its schema up to date.
    pub async fn prepare(&self, limit: Duration) -> Result<(), String> {
        let name = self.name();
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(100);
        loop {
            let error = match self.migrate().await {
                Ok(()) => return Ok(()),
                Err(error) if is_permanent(&error) => {
                    return Err(format!("{name}: {}", reason(&error)));
                }
                Err(error) => reason(&error),
            };
            if Instant::now() + pause > deadline {
                return Err(format!("{name}: gave up after {limit:?}: {error}"));
            }
            tracing::warn!("waiting for {name}: {error}");
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// Whether a request could be served: the database answers and has this version's schema.
    pub async fn check(&self) -> Result<(), DbErr> {
        let newest = Migrator::migrations().pop().expect("a migration").name().to_owned();
        migration::seaql_migrations::Entity::find_by_id(newest)
            .one(self)
            .await?
            .map(drop)
            .ok_or(DbErr::Migration("the schema is not that of this version".into()))
    }

    /// Connections open, and those of them that are idle.
    pub fn connections(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.available)
    }

    pub fn max_connections(&self) -> usize {
        self.pool.status().max_size
    }

    /// Says goodbye on every idle connection and lets no new one come.
    pub async fn close(&self) {
        let idle = self.pool.retain(|_, _| false).removed;
        self.pool.close();
        for pooled in idle {
            let goodbye = async {
                match pooled.connection {
                    Connection::Postgres(connection) => connection.close().await,
                    Connection::Sqlite(connection) => connection.close().await,
                }
            };
            timeout(self.statement_timeout, goodbye).await.ok();
        }
    }

    /// What a person calls this database; never a password.
    pub fn name(&self) -> String {
        match &self.pool.manager().options {
            Options::Postgres(options) => format!(
                "PostgreSQL database {} at {}:{}",
                options.get_database().unwrap_or(options.get_username()),
                options.get_host(),
                options.get_port()
            ),
            Options::Sqlite(options) => format!("SQLite file {}", options.get_filename().display()),
        }
    }

    async fn migrate(&self) -> Result<(), DbErr> {
        match self.pool.manager().options.clone() {
            Options::Postgres(options) => {
                // Replicas that start together take turns. The lock ends with its connection.
                let mut lock = timeout(CONNECT_TIMEOUT, options.connect())
                    .await
                    .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
                    .map_err(connection_error)?;
                sqlx::query("SELECT pg_advisory_lock($1)")
                    .bind(MIGRATION_LOCK)
                    .execute(&mut lock)
                    .await
                    .map_err(query_error)?;
                let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(*options);
                apply_migrations(pool.into()).await?;
                lock.close().await.map_err(query_error)
            }
            Options::Sqlite(options) => {
                // A lock of another kind than SQLite's own, which closing this file would release:
                // no connection of ours is open on it yet.
                let file = options.get_filename().to_owned();
                let lock = tokio::task::spawn_blocking(move || {
                    let file = std::fs::OpenOptions::new()
                        .create(true)
                        .truncate(false)
                        .write(true)
                        .open(file)?;
                    file.lock().map(|()| file)
                });
                let lock = lock.await.expect("no panic").map_err(|e| connection_error(e.into()))?;
                let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(*options);
                apply_migrations(pool.into()).await?;
                drop(lock);
                Ok(())
            }
        }
    }

    /// Runs one statement on a free connection, within the limits.
    async fn run<T, F>(&self, is_write: bool, statement: F) -> Result<T, DbErr>
    where
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    {
        let ready = async {
            let turn = match &self.writer {
                Some(writer) if is_write => writer.acquire().await.ok(),
                _ => None,
            };
            Ok((turn, self.pool.get().await?))
        };
        let (_turn, mut pooled) = match timeout(self.acquire_timeout, ready).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(PoolError::Backend(error))) => return Err(connection_error(error)),
            Ok(Err(_)) => return Err(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed)),
            Err(_) => {
                self.acquire_timeouts.inc();
                return Err(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout));
            }
        };
        middleware::note_statement();
        pooled.unanswered = true;
        let limit = self.statement_timeout + SERVER_HEAD_START;
        let error = match timeout(limit, statement(&mut pooled.connection)).await {
            Ok(Ok(value)) => {
                pooled.unanswered = false;
                return Ok(value);
            }
            Ok(Err(error)) if !is_disconnect(&error) => {
                pooled.unanswered = false;
                return Err(query_error(error));
            }
            Ok(Err(error)) => query_error(error),
            Err(_) => DbErr::Query(RuntimeErr::Internal(format!("no answer within {limit:?}"))),
        };
        // What broke this connection has most likely broken those that lie idle.
        drop(Object::take(pooled));
        self.pool.retain(|_, _| false);
        Err(error)
    }
}

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs `$method` of sqlx on whichever connection it is.
macro_rules! on {
    ($connection:ident, $statement:ident, $method:ident, $convert:expr) => {
        Box::pin(async move {
            let sql = AssertSqlSafe($statement.sql);
            let values = SqlxValues($statement.values.unwrap_or(sea_orm::Values(Vec::new())));
            match $connection {
                Connection::Postgres(connection) => {
                    sqlx::query_with(sql, values).$method(connection).await.map($convert)
                }
                Connection::Sqlite(connection) => {
                    sqlx::query_with(sql, values).$method(connection).await.map($convert)
                }
            }
        })
    };
}

#[async_trait]
impl ConnectionTrait for Database {
    fn get_database_backend(&self) -> DbBackend {
        match self.pool.manager().options {
            Options::Postgres(_) => DbBackend::Postgres,
            Options::Sqlite(_) => DbBackend::Sqlite,
        }
    }

    /// SQLite has `RETURNING` since 3.35, and ours is bundled.
    fn support_returning(&self) -> bool {
        true
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.run(true, |c| on!(c, statement, execute, |done| done.into())).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.execute_raw(Statement::from_string(self.get_database_backend(), sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let is_write = !statement.sql.starts_with("SELECT");
        self.run(is_write, |c| on!(c, statement, fetch_optional, |row| row.map(|row| row.into())))
            .await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let is_write = !statement.sql.starts_with("SELECT");
        self.run(is_write, |c| {
            on!(c, statement, fetch_all, |rows| rows.into_iter().map(|row| row.into()).collect())
        })
        .await
    }
}

impl Options {
    fn parse(config: &Config) -> Result<Self, String> {
        let url = &config.database_url;
        let (scheme, rest) = url.split_once(':').ok_or("it has no scheme")?;
        match scheme {
            "postgres" | "postgresql" | "postgresql+asyncpg" => {
                let mut options: PgConnectOptions =
                    format!("postgres:{rest}").parse().map_err(|e| reason(&connection_error(e)))?;
                let authority = rest.trim_start_matches('/').split(['/', '?']).next().unwrap();
                let has_password =
                    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
                if !has_password && !config.pgpassword.is_empty() {
                    options = options.password(&config.pgpassword);
                }
                let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
                for file in parameters.split('&').filter_map(|p| p.strip_prefix("sslrootcert=")) {
                    // sqlx would look for it only when it connects, and not say what it looked for.
                    std::fs::metadata(file).map_err(|e| format!("sslrootcert={file}: {e}"))?;
                }
                let options = options.application_name("wiki-service").disable_statement_logging();
                Ok(Self::Postgres(Box::new(options)))
            }
            "sqlite" if rest.contains(":memory:") || rest.contains("mode=memory") => {
                Err("a SQLite database in memory ends with its connection: name a file".into())
            }
            "sqlite" => {
                let options: SqliteConnectOptions =
                    url.parse().map_err(|e| reason(&connection_error(e)))?;
                Ok(Self::Sqlite(Box::new(
                    options
                        .create_if_missing(true)
                        .journal_mode(SqliteJournalMode::Wal)
                        .synchronous(SqliteSynchronous::Full)
                        .foreign_keys(true)
                        .busy_timeout(config.database_statement_timeout_seconds.0)
                        .disable_statement_logging(),
                )))
            }
            _ => Err(format!("it begins with {scheme}:, neither sqlite: nor postgres:")),
        }
    }
}

async fn apply_migrations(connection: DatabaseConnection) -> Result<(), DbErr> {
    // Nothing to do is the usual case, and needs no right to change the schema.
    let applied = Migrator::get_migration_models(&connection).await.map_or(0, |m| m.len());
    let result = if applied < Migrator::migrations().len() {
        Migrator::up(&connection, None).await
    } else {
        Ok(())
    };
    connection.close().await.ok();
    result
}

fn connection_error(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)))
}

fn query_error(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
}

/// The driver's error inside sea-orm's.
fn cause(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// The cause in one line, without sea-orm's and sqlx's prefixes.
pub fn reason(error: &DbErr) -> String {
    match cause(error) {
        Some(sqlx::Error::Io(error)) => error.to_string(),
        Some(sqlx::Error::Tls(error) | sqlx::Error::Configuration(error)) => error.to_string(),
        Some(sqlx::Error::Database(error)) => error.message().to_owned(),
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

/// Whether the connection is of no more use: anything but an answer of the database that it lives.
fn is_disconnect(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
        }
        sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            false
        }
        _ => true,
    }
}

/// Whether waiting helps: the database is not there, starting, stopping, full or locked.
pub fn is_unavailable(error: &DbErr) -> bool {
    match (error, cause(error)) {
        (_, Some(sqlx::Error::Database(error))) => {
            let code = error.code().unwrap_or_default();
            match code.parse::<i32>() {
                // SQLite: the low byte of BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN.
                Ok(number) if code.len() < 5 => matches!(number & 0xff, 5 | 6 | 8 | 10 | 13 | 14),
                // PostgreSQL: connection, transaction rollback, read-only, resources, intervention.
                _ => ["08", "25006", "40", "53", "57"].iter().any(|c| code.starts_with(c)),
            }
        }
        (_, Some(error)) => is_disconnect(error),
        (DbErr::ConnectionAcquire(_) | DbErr::Migration(_), _) => true,
        (DbErr::Query(RuntimeErr::Internal(_)), _) => true,
        _ => false,
    }
}

/// Whether starting again would meet the same error: a wrong password, name, file or certificate.
fn is_permanent(error: &DbErr) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, IsADirectory, NotFound, PermissionDenied};
    match cause(error) {
        Some(sqlx::Error::Io(error)) => matches!(
            error.kind(),
            InvalidData | InvalidInput | IsADirectory | NotFound | PermissionDenied
        ),
        Some(sqlx::Error::Database(db)) => {
            let cannot_open = db.code().is_some_and(|c| ["8", "14"].contains(&c.as_ref()));
            cannot_open || !is_unavailable(error)
        }
        Some(sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => true,
        Some(_) => false,
        None => true,
    }
}
