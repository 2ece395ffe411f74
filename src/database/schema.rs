//! The schema: brought up to date at the start, and asked for ever after.

use std::{io, time::Duration};

use futures_util::{FutureExt, TryFutureExt};
use migration::{Migrator, MigratorTrait};
use sea_orm::{
    DatabaseConnection, DbErr, EntityTrait,
    sqlx::{self, ConnectOptions, Connection, postgres::PgPoolOptions, sqlite::SqlitePoolOptions},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::database::{
    address::Options,
    error::{connection_error, is_missing_table, is_permanent, is_timeout, query_error, reason},
    pool::Database,
    sqlite,
};

/// Longest wait for the first connection, before it is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The key of the advisory lock under which the schema is changed: the bytes of "wiki".
const MIGRATION_LOCK: i64 = 0x77696b69;

impl Database {
    /// Waits until the database answers, for at most `limit`, and brings its schema up to date.
    pub async fn prepare(&self, limit: Duration) -> Result<(), String> {
        let name = self.name();
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(100);
        let mut error = None;
        loop {
            error = match self.migrate(deadline).await {
                Ok(()) => return Ok(()),
                Err(error) if is_permanent(&error) => {
                    return Err(format!("{name}: {}", reason(&error)));
                }
                Err(last) => match error {
                    // It was cut short: what the try before it met says more.
                    Some(_) if is_timeout(&last) && Instant::now() >= deadline => error,
                    _ => Some(reason(&last)),
                },
            };
            let error = error.as_deref().unwrap_or_default();
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

    async fn migrate(&self, deadline: Instant) -> Result<(), DbErr> {
        match self.options().clone() {
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
                let file = options.get_filename().to_owned();
                let locked = tokio::task::spawn_blocking(move || sqlite::lock(&file));
                let locked = locked
                    .map(|finished| finished.expect("no panic"))
                    .map_err(|error| connection_error(sqlx::Error::Configuration(error.into())));
                let _lock =
                    by(deadline, locked).await.map_err(|error| match is_timeout(&error) {
                        true => timeout("another process is changing the schema"),
                        false => error,
                    })?;
                let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(*options);
                apply_migrations(pool.into(), deadline).await
            }
        }
    }
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
    timeout_at(deadline, future).await.unwrap_or_else(|_| Err(timeout("no answer in time")))
}

fn timeout(why: &str) -> DbErr {
    connection_error(io::Error::new(io::ErrorKind::TimedOut, why).into())
}
