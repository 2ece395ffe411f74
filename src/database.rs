//! The connection to SQLite or PostgreSQL: a pool in which every wait has a limit.
//!
//! sqlx's own pool pings a connection without a limit when it is handed back, so a database that
//! falls silent would keep it for good; it also costs a round trip per request. Here a connection
//! goes back unasked when its last statement was answered, and is thrown away otherwise.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult};
use futures_util::{FutureExt, TryFutureExt};
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
    time::{Instant, sleep, timeout, timeout_at},
};
use url::Url;

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
    ping_timeout: Duration,
    statement_timeout: Duration,
    /// When a connection was last found broken. Those that were taken before most likely share its
    /// fate, and are not used again.
    broken: Mutex<Option<Instant>>,
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
    fn distrust(&self) {
        *self.broken.lock().expect("no panic") = Some(Instant::now());
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
        let connector = Connector {
            options,
            ping_timeout: acquire_timeout / 4,
            statement_timeout,
            broken: Mutex::new(None),
        };
        // The connection that was used last is the one most likely to live.
        let pool = managed::Pool::builder(connector)
            .max_size(config.database_pool_size.get().into())
            .queue_mode(QueueMode::Lifo)
            .build()
            .expect("no time limits of its own");
        let acquire_timeouts = IntCounter::new(
            "database_pool_acquire_timeouts_total",
            "Requests that waited in vain for a database connection that others were using",
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
            let error = match self.migrate(deadline).await {
                Ok(()) => return Ok(()),
                Err(error) if is_permanent(&error) => {
                    return Err(format!("{name}: {}", reason(&error)));
                }
                Err(error) => reason(&error),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{name}: gave up after {limit:?}: {error}"));
            }
            tracing::warn!("waiting for {name}: {error}");
            sleep(pause.min(left)).await;
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
            Options::Postgres(options) => {
                let database = options.get_database().unwrap_or(options.get_username());
                match options.get_socket() {
                    Some(socket) => {
                        format!("PostgreSQL database {database} in {}", socket.display())
                    }
                    None => {
                        let (host, port) = (options.get_host(), options.get_port());
                        format!("PostgreSQL database {database} at {host}:{port}")
                    }
                }
            }
            Options::Sqlite(options) => format!("SQLite file {}", options.get_filename().display()),
        }
    }

    async fn migrate(&self, deadline: Instant) -> Result<(), DbErr> {
        match self.pool.manager().options.clone() {
            Options::Postgres(options) => {
                // The usual start is spared the lock and its connections.
                if by(deadline, self.check()).await.is_ok() {
                    return Ok(());
                }
                // Replicas that start together take turns. The lock ends with its connection.
                let connected = options.connect().map_err(connection_error);
                let soon = deadline.min(Instant::now() + CONNECT_TIMEOUT);
                let mut lock = by(soon, connected).await?;
                let locked = sqlx::query("SELECT pg_advisory_lock($1)")
                    .bind(MIGRATION_LOCK)
                    .execute(&mut lock)
                    .map_err(query_error);
                by(deadline, locked).await?;
                // Whoever holds a table does not have others wait behind us.
                let options = options.options([("lock_timeout", "2s")]);
                let pool = PgPoolOptions::new()
                    .max_connections(1)
                    .acquire_timeout(CONNECT_TIMEOUT)
                    .connect_lazy_with(options);
                apply_migrations(pool.into(), deadline).await?;
                lock.close().await.map_err(query_error)
            }
            Options::Sqlite(options) => {
                // A lock of another kind than SQLite's own, which closing this file would release:
                // no connection of ours is open on it yet.
                let file = options.get_filename().to_owned();
                let locked = tokio::task::spawn_blocking(move || {
                    let file = std::fs::OpenOptions::new()
                        .create(true)
                        .truncate(false)
                        .write(true)
                        .open(file)?;
                    file.lock().map(|()| file)
                });
                let locked = locked.map(|finished| finished.expect("no panic")).map_err(|error| {
                    let error = format!("{error}: its directory must exist and be writable");
                    connection_error(sqlx::Error::Configuration(error.into()))
                });
                let _lock = by(deadline, locked).await?;
                let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(*options);
                apply_migrations(pool.into(), deadline).await
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
                let pool = self.pool.status();
                // Where the pool could still grow, it was a silent server that let one wait.
                if self.writer.is_some() || pool.size == pool.max_size {
                    self.acquire_timeouts.inc();
                }
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
        drop(Object::take(pooled));
        self.pool.manager().distrust();
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
        // All rows, though there is one: sqlx ends an INSERT on SQLite, and with it the commit, only
        // when it is asked for more, and keeps its error to itself when it is not.
        self.run(is_write, |c| {
            on!(c, statement, fetch_all, |rows| rows.into_iter().next().map(|row| row.into()))
        })
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
                let url = Url::parse(&format!("postgres:{rest}")).map_err(|error| {
                    format!(
                        "{error} (write special characters of a password as %23 and the like, or \
                         give it by PGPASSWORD)"
                    )
                })?;
                Ok(Self::Postgres(Box::new(postgres_options(url, &config.pgpassword)?)))
            }
            "sqlite" if rest.contains(":memory:") || rest.contains("mode=memory") => {
                Err("a SQLite database in memory ends with its connection: name a file".into())
            }
            "sqlite" if rest.trim_start_matches('/').is_empty() => Err("name a file".into()),
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

/// Parameters that sqlx does not know would be logged with their values, and ignored: `ssl`, which
/// is asyncpg's name for `sslmode`, among them.
fn postgres_options(mut url: Url, password: &str) -> Result<PgConnectOptions, String> {
    let parameters: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let mut has_password = url.password().is_some();
    let mut has_user = !url.username().is_empty() || std::env::var_os("PGUSER").is_some();
    url.set_query(None);
    for (name, value) in parameters {
        let name = if name == "ssl" { "sslmode" } else { &name };
        match name {
            "password" => has_password = true,
            "sslrootcert" | "sslcert" | "sslkey" => {
                // sqlx would look for it only when it connects, and not say what it looked for.
                std::fs::metadata(&value).map_err(|error| format!("{name}={value}: {error}"))?;
            }
            "user" => has_user = true,
            "sslmode"
            | "host"
            | "port"
            | "dbname"
            | "options"
            | "application_name"
            | "statement-cache-capacity" => {}
            _ => return Err(format!("it has the parameter {name}, which is not known")),
        }
        url.query_pairs_mut().append_pair(name, &value);
    }
    if !has_user {
        return Err("name a user: postgres://USER@HOST/NAME".into());
    }
    let mut options: PgConnectOptions =
        url.as_str().parse().map_err(|error| reason(&connection_error(error)))?;
    if !has_password && !password.is_empty() {
        options = options.password(password);
    }
    if options.get_application_name().is_none() {
        options = options.application_name("wiki-service");
    }
    Ok(options.disable_statement_logging())
}

async fn apply_migrations(connection: DatabaseConnection, deadline: Instant) -> Result<(), DbErr> {
    // Nothing to do is the usual case, and needs no right to change the schema.
    let applied = match by(deadline, Migrator::get_migration_models(&connection)).await {
        Ok(models) => models.len(),
        Err(error) if is_missing_table(&error) => 0,
        Err(error) => return Err(error),
    };
    if applied < Migrator::migrations().len() {
        Migrator::up(&connection, None).await?;
    }
    connection.close().await
}

/// What comes of `future`, or an error once `deadline` has passed.
async fn by<T>(
    deadline: Instant,
    future: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    timeout_at(deadline, future)
        .await
        .unwrap_or_else(|_| Err(connection_error(io::Error::from(io::ErrorKind::TimedOut).into())))
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
            // 25006: connected while the server took no writes, as one that is no longer the primary.
            let codes = ["08", "25006", "57P"];
            error.code().is_some_and(|code| codes.iter().any(|c| code.starts_with(c)))
        }
        sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            false
        }
        _ => true,
    }
}

fn is_missing_table(error: &DbErr) -> bool {
    match cause(error) {
        Some(sqlx::Error::Database(error)) => {
            error.code().is_some_and(|code| code == "42P01")
                || error.message().starts_with("no such table")
        }
        _ => false,
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
                // PostgreSQL: connection, read-only, rollback, resources, locks, intervention.
                _ => ["08", "25006", "40", "53", "55P03", "57"].iter().any(|c| code.starts_with(c)),
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
    use io::ErrorKind::{InvalidData, InvalidInput, IsADirectory, PermissionDenied};
    match cause(error) {
        Some(sqlx::Error::Io(error)) => {
            matches!(error.kind(), InvalidData | InvalidInput | IsADirectory | PermissionDenied)
        }
        Some(sqlx::Error::Database(db)) => {
            let cannot_open = db.code().is_some_and(|c| ["8", "14"].contains(&c.as_ref()));
            cannot_open || !is_unavailable(error)
        }
        Some(sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => true,
        Some(_) => false,
        None => !matches!(error, DbErr::ConnectionAcquire(_)),
    }
}
