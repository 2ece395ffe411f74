//! Builds indexes on PostgreSQL, in one replica, while all replicas serve requests.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::TryFutureExt;
use migration::{Index, search};
use sea_orm::{
    ConnectionTrait, DbErr, RuntimeErr, Statement,
    sqlx::{self, AssertSqlSafe, Connection as _, PgConnection, raw_sql},
};
use tokio::time::{Instant, sleep, timeout};

use crate::database::{
    address::Options,
    connection::{Connection, unprepared_value},
    error::{connection_error, is_forbidden, query_error, reason},
    indexes::Indexes,
    pool::Database,
};

/// How often to check whether another process has finished, and whether our build is still running.
const LOOK: Duration = Duration::from_secs(1);
/// How often a build's progress is logged.
const TELL: Duration = Duration::from_secs(10);
/// How many times in a row the database has to say that no build is running, before ours is given up.
const LOST: u32 = 10;
/// How often to check that all indexes are still there: a restored dump may lack some.
const AGAIN: Duration = Duration::from_secs(60);
/// The key of the advisory lock under which an index is built: the bytes of "wikI". It is only tried,
/// never awaited: the build would wait for the statement that waits for the lock.
const LOCK: i64 = 0x77696b49;
/// Begins the transaction that holds the lock. If its client is lost, the server ends it.
const BEGIN_TURN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
                          SET LOCAL idle_in_transaction_session_timeout = '1min'";
/// The settings of a build, where sessions are our own.
const UNLIMITED: [(&str, &str); 3] =
    [("statement_timeout", "0"), ("lock_timeout", "0"), ("client_min_messages", "warning")];

/// What is left to do for an index: the statements, each with a word for the log.
type Work = (Index, Vec<(&'static str, String)>);

impl Database {
    /// Builds missing indexes, now and whenever one goes missing.
    pub async fn keep_indexes(&self, limit: Duration) {
        let (mut pause, mut told) = (LOOK, None);
        loop {
            match self.build_indexes(limit).await {
                Ok(()) => {
                    (pause, told) = (LOOK, None);
                    timeout(AGAIN, self.indexes.look.notified()).await.ok();
                }
                Err(error) => {
                    let error = Some(self.explain(&error));
                    if told != error {
                        tracing::warn!("{}", error.as_deref().unwrap_or_default());
                        told = error;
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(AGAIN);
                }
            }
        }
    }

    /// The error in one line, with what to do about it.
    pub fn explain(&self, error: &DbErr) -> String {
        let (name, reason) = (self.name(), reason(error));
        match is_forbidden(error) {
            true => {
                let create = |(index, valid): &(Index, AtomicBool)| {
                    (!valid.load(Ordering::Relaxed)).then(|| index.create_concurrently())
                };
                let create: Vec<_> = self.indexes.wanted.iter().filter_map(create).collect();
                format!(
                    "{name}: {reason}: as the tables' owner, run `wiki-service migrate`, or {}",
                    create.join("; ")
                )
            }
            false => format!("{name}: an index is not there yet: {reason}"),
        }
    }

    /// Builds missing indexes, unless another process does; returns when all are there. A build may take its
    /// time, but ends with an error if the database is silent for `limit`.
    pub async fn build_indexes(&self, limit: Duration) -> Result<(), DbErr> {
        if let Options::Sqlite(_) = self.options() {
            return self.fill_search().await;
        }
        let mut told = false;
        while !self.look_at_indexes().await?.is_empty() {
            let is_free = self.query_one_raw(self.select(self.others())).await?.is_none();
            let turn = if is_free { within(limit, self.take_turn()).await? } else { None };
            match turn {
                Some(mut turn) => {
                    let work = async {
                        // Checks again after each, so that an index is used as soon as it is there.
                        while let Some(work) = self.look_at_indexes().await?.into_iter().next() {
                            self.change(work, limit).await?;
                        }
                        Ok::<_, DbErr>(())
                    };
                    tokio::select! {
                        done = work => done?,
                        error = hold(&mut turn, limit) => return Err(error),
                    }
                    turn.close().await.ok();
                }
                None => {
                    if !told {
                        let name = self.name();
                        tracing::info!("{name}: an index is missing; another process builds it");
                        told = true;
                    }
                    sleep(LOOK).await;
                }
            }
        }
        self.indexes.drop_search.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Checks which indexes are there, and returns what has to be done for the rest.
    pub async fn look_at_indexes(&self) -> Result<Vec<Work>, DbErr> {
        let Indexes { wanted, drop_search, .. } = &*self.indexes;
        if let Options::Sqlite(_) = self.options() {
            let left = match self.indexes.has_search() {
                true => {
                    self.query_one_raw(self.select("SELECT upto FROM posts_search_left")).await?
                }
                false => None,
            };
            let left: Option<i64> = left.map(|row| row.try_get_by_index(0)).transpose()?;
            for (index, valid) in wanted {
                let is_filled = index.name != search::INDEX.name || left == Some(0);
                valid.store(is_filled, Ordering::Relaxed);
            }
            return Ok(Vec::new());
        }
        let drop_search = drop_search.load(Ordering::Relaxed);
        let all = wanted.iter().map(|(index, valid)| (index, Some(valid)));
        let mut work = Vec::new();
        for (index, valid) in all.chain(drop_search.then_some((&search::INDEX, None))) {
            let Index { name, .. } = index;
            let look =
                format!("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{name}')");
            let found = self.query_one_raw(self.select(look)).await?;
            let found: Option<bool> = found.map(|row| row.try_get_by_index(0)).transpose()?;
            if let Some(valid) = valid {
                valid.store(found == Some(true), Ordering::Relaxed);
            }
            let drop = || ("dropped", format!("DROP INDEX CONCURRENTLY IF EXISTS {name}"));
            let create = || ("built", index.create_concurrently());
            match (valid, found) {
                (Some(_), None) => work.push((*index, vec![create()])),
                (Some(_), Some(false)) => work.push((*index, vec![drop(), create()])),
                (None, Some(_)) => work.push((*index, vec![drop()])),
                (Some(_), Some(true)) | (None, None) => {}
            }
        }
        Ok(work)
    }

    fn select(&self, sql: impl Into<String>) -> Statement {
        Statement::from_string(self.get_database_backend(), sql)
    }

    /// Selects whoever holds the advisory lock or is at work.
    fn others(&self) -> String {
        let has_lock = "locktype = 'advisory' AND classid = 0 AND objsubid = 1 AND objid =";
        sessions(&format!("{} OR {has_lock} {LOCK}", self.is_at_work()))
    }

    /// Of a lock: since a statement outlives its client, this is the table lock that builds and drops take, held
    /// or awaited. Autovacuum, which has no user, gives way.
    fn is_at_work(&self) -> String {
        let tables = self.indexes.wanted.iter().map(|(index, _)| index.table);
        let tables: Vec<_> = tables.map(|table| format!("to_regclass('{table}')")).collect();
        format!(
            "relation IN ({}) AND mode = 'ShareUpdateExclusiveLock' AND usesysid IS NOT NULL",
            tables.join(", ")
        )
    }

    /// A connection whose open transaction holds the lock, unless somebody else has it. Behind a pooler, a
    /// session could not hold it; and a build does not wait for a transaction that is between statements.
    async fn take_turn(&self) -> Result<Option<PgConnection>, DbErr> {
        let work = async {
            let mut connection = self.connect_unlimited().await?;
            raw_sql(BEGIN_TURN).execute(&mut connection).await?;
            let others = self.others();
            let ask = format!(
                "SELECT CASE WHEN pg_try_advisory_xact_lock({LOCK}) AND NOT EXISTS ({others}) \
                 THEN 'taken' END"
            );
            let taken = unprepared_value(&mut connection, ask).await?;
            Ok(taken.map(|_| connection))
        };
        work.await.map_err(query_error)
    }

    async fn connect_unlimited(&self) -> Result<PgConnection, sqlx::Error> {
        let Options::Postgres(options) = self.options() else {
            unreachable!("builds at the start")
        };
        match self.connector().connect(options, UNLIMITED).await? {
            Connection::Session(connection) | Connection::Pooler(connection) => Ok(connection),
            Connection::Sqlite(..) => unreachable!("options of PostgreSQL"),
        }
    }

    async fn change(&self, (index, statements): Work, limit: Duration) -> Result<(), DbErr> {
        let database = self.name();
        let connect = self.connect_unlimited().map_err(connection_error);
        let mut connection = within(limit, connect).await?;
        for (what, sql) in statements {
            let name = index.name;
            tracing::info!("{database}: the index {name} is being {what}");
            let began = Instant::now();
            tokio::select! {
                done = raw_sql(AssertSqlSafe(sql)).execute(&mut connection) => {
                    done.map_err(query_error)?;
                }
                error = self.watch(&index) => return Err(error),
            }
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!("{database}: the index {name} is {what}, after {seconds:.1} s");
        }
        connection.close().await.ok();
        Ok(())
    }

    /// Logs a build's progress; returns an error once the database knows of no build, as after a failover
    /// to another server.
    async fn watch(&self, index: &Index) -> DbErr {
        let began = Instant::now();
        let (mut told, mut lost) = (began, 0);
        let (at_work, progress) = (sessions(&self.is_at_work()), progress(index.table));
        while lost < LOST {
            sleep(LOOK).await;
            match self.query_one_raw(self.select(&at_work)).await {
                Ok(Some(_)) => lost = 0,
                Ok(None) => lost += 1,
                Err(_) => {}
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                let row = self.query_one_raw(self.select(&progress)).await.ok().flatten();
                let phase: Option<String> = row.and_then(|row| row.try_get_by_index(0).ok());
                let (name, seconds) = (self.name(), began.elapsed().as_secs());
                let phase = phase.as_deref().unwrap_or("at work");
                tracing::info!("{name}: the index {}: {phase}, {seconds} s so far", index.name);
            }
        }
        DbErr::Query(RuntimeErr::Internal("the server no longer works on it".into()))
    }
}

/// Selects the other sessions of this database that have or await such a lock.
fn sessions(lock: &str) -> String {
    format!(
        "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) \
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND ({lock})"
    )
}

/// Keeps the transaction of a turn alive; returns an error once the server is silent for `limit`.
async fn hold(turn: &mut PgConnection, limit: Duration) -> DbErr {
    loop {
        sleep(TELL.min(limit)).await;
        if let Err(error) = within(limit, turn.ping().map_err(query_error)).await {
            return error;
        }
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    let silent = || format!("no sign of life within {limit:?} while an index was built");
    let done = timeout(limit, work).await;
    done.unwrap_or_else(|_| Err(DbErr::Query(RuntimeErr::Internal(silent()))))
}

/// Selects the progress of a build.
fn progress(table: &str) -> String {
    format!(
        "SELECT phase \
             || coalesce(', ' || 100 * blocks_done / nullif(blocks_total, 0) || ' %', \
                 ', ' || 100 * tuples_done / nullif(tuples_total, 0) || ' %', '') \
             || coalesce(', for process ' || nullif(current_locker_pid, 0), '') \
         FROM pg_stat_progress_create_index WHERE relid = to_regclass('{table}')"
    )
}
