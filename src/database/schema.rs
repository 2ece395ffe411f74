//! The schema: migrated at the start, and checked from then on.

use std::{io, time::Duration};

use futures_util::{FutureExt, TryFutureExt};
use migration::{Migrator, MigratorTrait, seaql_migrations};
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, RuntimeErr, Statement,
    TransactionTrait,
    sqlx::{
        self,
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::SqlitePoolOptions,
    },
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::database::{
    address::Options,
    error::{connection_error, is_missing_table, is_permanent, is_timeout, reason},
    fill::make_indexes,
    pool::Database,
    sqlite,
};

/// The longest wait for the first connection before a retry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait for an answer to a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer counts as proof that the database is up, while all connections are busy.
const LATELY: Duration = Duration::from_secs(3);
/// How often a running migration is checked, and how often its progress is logged.
const LOOK: Duration = Duration::from_secs(1);
const TELL: Duration = Duration::from_secs(10);
/// The key of the advisory lock under which the schema is changed: the bytes of "wiki".
const MIGRATION_LOCK: i64 = 0x77696b69;

impl Database {
    /// Waits until the database answers, for at most `limit`, and brings its schema up to date.
    pub async fn prepare(&self, limit: Duration) -> Result<(), String> {
        let name = self.name();
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(100);
        let mut cause = None;
        loop {
            let error = match self.migrate(deadline, limit).await {
                Ok(()) => return Ok(()),
                Err(error) if is_permanent(&error) => {
                    return Err(format!("{name}: {}", reason(&error)));
                }
                Err(error) => error,
            };
            let last = reason(&error);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // That time has passed says less than the error before it.
                let cause = cause.filter(|_| is_timeout(&error)).unwrap_or(last);
                return Err(format!("{name}: gave up after {limit:?}: {cause}"));
            }
            tracing::warn!("waiting for {name}: {last}");
            cause = if is_timeout(&error) { cause } else { Some(last) };
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// Brings the schema up to date again whenever it is found outdated, such as after the restore of an
    /// older version's dump.
    pub async fn keep_up_to_date(&self, limit: Duration) {
        // Discards a notification from the start, which `prepare` has dealt with.
        timeout(Duration::ZERO, self.outdated.notified()).await.ok();
        loop {
            self.outdated.notified().await;
            match self.prepare(limit).await {
                Ok(()) => {
                    tracing::info!("{}: the schema is up to date again", self.name());
                    self.indexes.look.notify_one();
                }
                Err(error) => tracing::error!("{error}"),
            }
            // Each failing request notifies again; trying for each of them would not help.
            sleep(LOOK).await;
        }
    }

    /// Whether a request could be served: the database answers and has this version's schema. A busy
    /// database is up, and another query would only wait behind the others.
    pub async fn check(&self) -> Result<(), DbErr> {
        let lives = || self.is_busy() && self.has_answered_within(LATELY);
        if lives() {
            return Ok(());
        }
        match timeout(CHECK_TIMEOUT, self.check_schema()).await {
            Err(_) | Ok(Err(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))) if lives() => {
                Ok(())
            }
            Ok(checked) => {
                if let Err(DbErr::Migration(_)) = checked {
                    self.outdated.notify_one();
                }
                checked
            }
            Err(_) => {
                let error = format!("no sign of life within {CHECK_TIMEOUT:?}");
                Err(DbErr::Query(RuntimeErr::Internal(error)))
            }
        }
    }

    async fn check_schema(&self) -> Result<(), DbErr> {
        let newest = Migrator::migrations().pop().expect("a migration").name().to_owned();
        match seaql_migrations::Entity::find_by_id(newest).one(self).await {
            Ok(Some(_)) => Ok(()),
            Err(error) if !is_missing_table(&error) => Err(error),
            _ => Err(DbErr::Migration("the schema is not that of this version".into())),
        }
    }

    async fn migrate(&self, deadline: Instant, limit: Duration) -> Result<(), DbErr> {
        match self.options().clone() {
            Options::Postgres(options) => {
                by(deadline, self.check_search()).await?;
                // A start with nothing to migrate, the usual case, needs no lock and no extra connection.
                match by(deadline, self.check_schema()).await {
                    Ok(()) => {}
                    Err(DbErr::Migration(_)) => {
                        self.migrate_postgres(*options, deadline, limit).await?
                    }
                    // A failed check does not mean that the schema is outdated.
                    Err(error) => return Err(error),
                }
            }
            Options::Sqlite(options) => {
                let file = options.get_filename().to_owned();
                let locked = tokio::task::spawn_blocking(move || sqlite::lock(&file));
                let locked = locked
                    .map(|finished| finished.expect("no panic"))
                    .map_err(|error| connection_error(sqlx::Error::Configuration(error.into())));
                let _lock = by(deadline, locked).await.map_err(in_turn)?;
                let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(*options);
                apply_migrations(&pool.clone().into(), deadline).await?;
                make_indexes(&pool.clone().into(), self.indexes.search).await?;
                pool.close().await;
            }
        }
        migration::check_columns(self).await?;
        self.look_at_indexes().await.map(drop)
    }

    /// One transaction, with its lock and settings local to it: behind a pooler, a session's lock or
    /// settings would be left to other clients.
    async fn migrate_postgres(
        &self,
        options: PgConnectOptions,
        deadline: Instant,
        limit: Duration,
    ) -> Result<(), DbErr> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(options);
        let connection = DatabaseConnection::from(pool);
        let soon = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        let transaction = by(soon, connection.begin()).await?;
        // Replicas that start together take turns, however long each takes.
        let lock = format!(
            "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; \
             SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"
        );
        by(deadline, transaction.execute_unprepared(&lock)).await.map_err(in_turn)?;
        let applied = match by(deadline, Migrator::get_migration_models(self)).await {
            Ok(applied) => applied,
            Err(error) if is_missing_table(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        let work = async {
            // If somebody holds a lock on a table, as a dump does, others must not queue behind us beyond
            // their statement timeout, nor we until PostgreSQL checks for deadlocks (1 s).
            transaction.execute_unprepared("SET LOCAL lock_timeout = '500ms'").await?;
            Migrator::apply(&transaction, &applied).await?;
            for (index, _) in &self.indexes.wanted {
                transaction.execute_unprepared(&index.create_if_empty()).await?;
            }
            transaction.commit().await
        };
        tokio::select! {
            done = work => done?,
            error = self.silence(limit) => return Err(error),
        }
        connection.close().await
    }

    /// Returns an error once the database has shown no running migration for `limit`. A migration may take
    /// its time, but its answer may also be lost, or wait for a standby.
    async fn silence(&self, limit: Duration) -> DbErr {
        let began = Instant::now();
        let (mut seen, mut told) = (began, began);
        let held = format!(
            "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) \
             WHERE locktype = 'advisory' AND granted AND datname = current_database() \
             AND classid = 0 AND objid = {MIGRATION_LOCK} AND objsubid = 1 \
             AND wait_event IS DISTINCT FROM 'SyncRep'"
        );
        loop {
            sleep(LOOK).await;
            let held = Statement::from_string(self.get_database_backend(), &held);
            if let Ok(Some(_)) = self.query_one_raw(held).await {
                seen = Instant::now();
            }
            if seen.elapsed() >= limit {
                let error = "no sign of life while its schema was brought up to date";
                return connection_error(io::Error::new(io::ErrorKind::TimedOut, error).into());
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                let (name, seconds) = (self.name(), began.elapsed().as_secs());
                tracing::info!(
                    "{name}: its schema is being brought up to date, {seconds} s so far"
                );
            }
        }
    }
}

async fn apply_migrations(connection: &DatabaseConnection, deadline: Instant) -> Result<(), DbErr> {
    // Usually there is nothing to do, and that must not need the right to change the schema.
    let applied = match by(deadline, Migrator::get_migration_models(connection)).await {
        Ok(models) => models.len(),
        Err(error) if is_missing_table(&error) => 0,
        Err(error) => return Err(error),
    };
    if applied < Migrator::migrations().len() {
        Migrator::up(connection, None).await?;
    }
    Ok(())
}

/// The result of `future`, or an error once `deadline` has passed.
async fn by<T>(
    deadline: Instant,
    future: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    timeout_at(deadline, future).await.unwrap_or_else(|_| Err(too_late("no answer in time")))
}

/// What a wait for the lock on the schema has ended with.
fn in_turn(error: DbErr) -> DbErr {
    match is_timeout(&error) {
        true => too_late("another process is changing the schema"),
        false => error,
    }
}

fn too_late(why: &str) -> DbErr {
    connection_error(io::Error::new(io::ErrorKind::TimedOut, why).into())
}
