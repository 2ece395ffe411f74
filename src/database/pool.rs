//! The pool of connections to SQLite or PostgreSQL, in which every wait has a limit.
//!
//! sqlx's own pool pings a connection without a limit when it is handed back, so a database that
//! falls silent would keep it for good; it also costs a round trip per request. Here a connection
//! goes back unasked when its last statement was answered, and is thrown away otherwise.

use std::{sync::Mutex, time::Duration};

use deadpool::managed::{self, Object, PoolError, QueueMode};
use prometheus::{IntCounter, core::Collector};
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr,
    Statement,
    entity::prelude::async_trait::async_trait,
    sqlx::{self, AssertSqlSafe, Connection as _},
};
use sea_query_sqlx::SqlxValues;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    config::Config,
    database::{
        address::Options,
        connection::{Connection, Connector},
        error::{connection_error, is_disconnect, query_error},
        figures::{self, Figures},
    },
    request,
};

/// How much longer than the server we wait for a statement that it should have cancelled itself.
const SERVER_HEAD_START: Duration = Duration::from_millis(100);

/// The database: a [`ConnectionTrait`] for sea-orm.
pub struct Database {
    pool: managed::Pool<Connector>,
    /// SQLite has one writer at a time; waiting here is fair, waiting for its lock is not.
    writer: Option<Semaphore>,
    acquire_timeout: Duration,
    statement_timeout: Duration,
    acquire_timeouts: IntCounter,
}

impl Database {
    /// Reads `DATABASE_URL`; nothing is connected yet.
    pub fn new(config: &Config) -> Result<Self, String> {
        let options = Options::parse(config)?;
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
        let acquire_timeouts = figures::acquire_timeouts();
        Ok(Self { pool, writer, acquire_timeout, statement_timeout, acquire_timeouts })
    }

    /// How many connections there are, and who waited for one in vain.
    pub fn figures(&self) -> impl Collector + use<> {
        Figures::new(self.pool.clone(), self.acquire_timeouts.clone())
    }

    pub fn options(&self) -> &Options {
        &self.pool.manager().options
    }

    /// What a person calls this database; never a password.
    pub fn name(&self) -> String {
        self.options().name()
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
        request::note_statement();
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
        match self.options() {
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
