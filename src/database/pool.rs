//! The pool of connections to SQLite or PostgreSQL, in which every wait has a limit.
//!
//! sqlx's own pool pings a connection without a limit when it is returned, so a database that stops
//! responding would keep it for good; it also costs a round trip per request. Here a connection goes
//! back without a ping when its last statement was answered, and is closed otherwise.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, PoolError, QueueMode};
use prometheus::{IntCounter, IntGauge, core::Collector};
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr,
    Statement,
    entity::prelude::async_trait::async_trait,
    sqlx::{self, Connection as _},
};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    config::Config,
    database::{
        address::Options,
        begun::Begun,
        connection::{Connection, Connector, Lease},
        error::{connection_error, is_disconnect, is_missing_index, is_other_schema, query_error},
        figures::{self, Figures},
        indexes::Indexes,
        spans::Spans,
        statement::Answer,
        texts::Texts,
    },
    request,
};

/// How much longer than the server's own limit we wait, so that the server is the one to cancel.
const SERVER_HEAD_START: Duration = Duration::from_millis(100);

/// The database: a [`ConnectionTrait`] for sea-orm.
#[derive(Clone)]
pub struct Database {
    pool: managed::Pool<Connector>,
    /// Permits to write. SQLite has one writer at a time; waiting here is fair, waiting for its lock is
    /// not. PostgreSQL's writers leave one connection to the readers: a commit waits for as long as there
    /// is no standby.
    writers: Arc<Semaphore>,
    acquire_timeout: Duration,
    pub statement_timeout: Duration,
    acquire_timeouts: IntCounter,
    /// Writes that the server is still working on after their time limit.
    pub overdue_writes: Arc<AtomicUsize>,
    /// Notified when the schema turns out not to be this version's.
    pub outdated: Arc<Notify>,
    pub indexes: Arc<Indexes>,
    pub texts: Arc<Texts>,
    size: IntGauge,
    spans: Spans,
    started: Instant,
    /// When a statement was last answered, in milliseconds since `started`.
    answered: Arc<AtomicU64>,
}

impl Database {
    /// Reads `DATABASE_URL`; nothing is connected yet.
    pub fn new(config: &Config) -> Result<Self, String> {
        let mut options = Options::parse(config)?;
        let size = usize::from(config.database_pool_size.get());
        let writers = match &mut options {
            Options::Sqlite(_) => 1,
            Options::Postgres(options) => {
                // A startup parameter that poolers refuse, and that no column of ours needs.
                **options = options.clone().extra_float_digits(None);
                (size - 1).max(1)
            }
        };
        let acquire_timeout = config.database_acquire_timeout_seconds.0;
        let statement_timeout = config.database_statement_timeout_seconds.0;
        let spans = Spans::new(&options);
        let connector = Connector {
            options,
            ping_timeout: acquire_timeout / 4,
            statement_timeout,
            broken: Mutex::new(None),
            made: Notify::new(),
            pooler: AtomicBool::new(false),
        };
        // The connection that was used last is the most likely to be alive.
        let pool = managed::Pool::builder(connector)
            .max_size(size)
            .queue_mode(QueueMode::Lifo)
            .build()
            .expect("no time limits of its own");
        Ok(Self {
            pool,
            writers: Arc::new(Semaphore::new(writers)),
            acquire_timeout,
            statement_timeout,
            acquire_timeouts: figures::acquire_timeouts(),
            overdue_writes: Arc::default(),
            outdated: Arc::default(),
            indexes: Arc::new(Indexes::new(config.search)),
            texts: Arc::default(),
            size: figures::size(),
            spans,
            started: Instant::now(),
            answered: Arc::default(),
        })
    }

    /// The metrics of the pool, and the database's size.
    pub fn figures(&self) -> impl Collector + use<> {
        Figures::new(self.pool.clone(), self.acquire_timeouts.clone(), self.size.clone())
    }

    /// Asks for the size of the database, now and every minute, for the metrics.
    pub async fn watch_size(&self) {
        let backend = self.get_database_backend();
        let sql = match backend {
            DbBackend::Postgres => "SELECT pg_database_size(current_database())",
            _ => "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        };
        loop {
            if let Ok(Some(row)) = self.query_one_raw(Statement::from_string(backend, sql)).await
                && let Ok(size) = row.try_get_by_index(0)
            {
                self.size.set(size);
            }
            sleep(Duration::from_secs(60)).await;
        }
    }

    pub fn connector(&self) -> &Connector {
        self.pool.manager()
    }

    pub fn options(&self) -> &Options {
        &self.connector().options
    }

    /// The database's name for people; never contains a password.
    pub fn name(&self) -> String {
        self.options().name()
    }

    pub fn pool_size(&self) -> usize {
        self.pool.status().max_size
    }

    /// Whether every connection is in use.
    pub fn is_busy(&self) -> bool {
        let pool = self.pool.status();
        pool.size == pool.max_size && pool.available == 0
    }

    /// Whether a statement was answered no longer ago than this.
    pub fn has_answered_within(&self, span: Duration) -> bool {
        match self.answered.load(Ordering::Relaxed) {
            0 => false,
            answered => self.started.elapsed() < Duration::from_millis(answered) + span,
        }
    }

    /// Remembers that the database is alive, if this is an answer from it.
    pub fn note_answer(&self, answer: &Result<Answer, sqlx::Error>) {
        if !answer.as_ref().is_err_and(is_disconnect) {
            let now = self.started.elapsed().as_millis() as u64;
            self.answered.store(now, Ordering::Relaxed);
        }
    }

    /// Closes every idle connection, and opens no new one.
    pub async fn close(&self) {
        let idle = self.pool.retain(|_, _| false).removed;
        self.pool.close();
        for pooled in idle {
            let goodbye = async {
                match pooled.connection {
                    Connection::Session(connection) | Connection::Pooler(connection) => {
                        connection.close().await
                    }
                    Connection::Sqlite(connection, _) => connection.close().await,
                }
            };
            timeout(self.statement_timeout, goodbye).await.ok();
        }
    }

    /// Runs one statement on a free connection, within the time limits.
    pub async fn run(&self, statement: Statement) -> Result<Answer, DbErr> {
        let span = self.spans.begin(&statement.sql);
        let answer = self.run_untraced(statement).await;
        if let Some(span) = span {
            span.end(&answer);
        }
        answer
    }

    async fn run_untraced(&self, statement: Statement) -> Result<Answer, DbErr> {
        let is_write = !statement.sql.starts_with("SELECT");
        let ready = async {
            let turn = match is_write {
                true => self.writers.clone().acquire_owned().await.ok(),
                false => None,
            };
            Ok((turn, Lease(Some(self.pool.get().await?))))
        };
        let (turn, lease) = match timeout(self.acquire_timeout, ready).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(PoolError::Backend(error))) => return Err(connection_error(error)),
            Ok(Err(_)) => return Err(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed)),
            Err(_) => {
                let pool = self.pool.status();
                // If the pool could still grow, the wait was for a server that does not respond.
                if pool.size == pool.max_size || is_write && self.writers.available_permits() == 0 {
                    self.acquire_timeouts.inc();
                }
                if is_write && self.overdue_writes.load(Ordering::Relaxed) > 0 {
                    // No write is answered at present, so no Retry-After: a second would not help.
                    request::note_statement();
                }
                return Err(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout));
            }
        };
        request::note_statement();
        let limit = self.statement_timeout + SERVER_HEAD_START;
        let deadline = Instant::now() + limit;
        let begun = Begun::new(lease, statement, self.statement_timeout, |work| {
            request::spawn(self.clone().see_through(work, deadline, turn));
        });
        let error = match timeout_at(deadline, begun).await {
            Ok(answer) => {
                self.note_answer(&answer);
                match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error) if !is_disconnect(&error) => {
                        let error = query_error(error);
                        if is_other_schema(&error) {
                            self.outdated.notify_one();
                        }
                        if is_missing_index(&error) {
                            self.indexes.look.notify_one();
                        }
                        return Err(error);
                    }
                    Err(error) => query_error(error),
                }
            }
            Err(_) => DbErr::Query(RuntimeErr::Internal(format!("no answer within {limit:?}"))),
        };
        self.connector().distrust();
        Err(error)
    }
}

#[async_trait]
impl ConnectionTrait for Database {
    fn get_database_backend(&self) -> DbBackend {
        match self.options() {
            Options::Postgres(_) => DbBackend::Postgres,
            Options::Sqlite(_) => DbBackend::Sqlite,
        }
    }

    /// SQLite has had `RETURNING` since 3.35, and ours is bundled.
    fn support_returning(&self) -> bool {
        true
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.run(statement).await.map(|(done, _)| done)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.execute_raw(Statement::from_string(self.get_database_backend(), sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.run(statement).await.map(|(_, rows)| rows.into_iter().next())
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.run(statement).await.map(|(_, rows)| rows)
    }
}
