//! The search on SQLite: its index and triggers are created at the start, and filled while requests
//! are served.

use std::time::Duration;

use migration::{INDEXES, search};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};
use tokio::time::{Instant, sleep};

use crate::{
    config::Search,
    database::{
        error::{is_permanent, reason},
        pool::Database,
    },
};

/// How long writers may wait for a batch of the index.
const BATCH: Duration = Duration::from_millis(30);
/// How often its progress is logged.
const TELL: Duration = Duration::from_secs(10);

/// Creates what is missing, or drops what is not wanted. The caller holds the lock for schema changes.
pub async fn make_indexes(connection: &DatabaseConnection, search: Search) -> Result<(), DbErr> {
    let backend = connection.get_database_backend();
    for index in INDEXES {
        connection.execute_unprepared(&index.create_at_once()).await?;
    }
    let count = Statement::from_string(backend, search::COUNT);
    let found = connection.query_one_raw(count).await?.map(|row| row.try_get_by_index::<i64>(0));
    let found = found.transpose()?.unwrap_or_default();
    let change = match search {
        Search::True if found < search::ALL => search::create(),
        Search::Drop if found > 0 => search::DROP.to_owned(),
        _ => return Ok(()),
    };
    connection.execute_unprepared(&format!("BEGIN IMMEDIATE; {change} COMMIT")).await.map(drop)
}

impl Database {
    /// Fails the start if the server cannot split texts into words.
    pub async fn check_search(&self) -> Result<(), DbErr> {
        if self.get_database_backend() == DbBackend::Sqlite || !self.indexes.has_search() {
            return Ok(());
        }
        let ask = Statement::from_string(DbBackend::Postgres, search::CHECK);
        match self.query_one_raw(ask).await {
            Err(error) if is_permanent(&error) => Err(DbErr::Custom(format!(
                "SEARCH=true needs a server with ICU, and the encoding UTF8: {}",
                reason(&error)
            ))),
            asked => asked.map(drop),
        }
    }

    /// Indexes the posts that are older than the triggers, in batches that take turns with other writes.
    /// Half of the time is left to the writes of other processes.
    pub async fn fill_search(&self) -> Result<(), DbErr> {
        self.look_at_indexes().await?;
        if !self.indexes.has_search() || self.indexes.has(&search::INDEX) {
            return Ok(());
        }
        let (name, began) = (self.name(), Instant::now());
        tracing::info!("{name}: posts are being indexed for the search");
        let (mut told, mut batch, mut first) = (began, 16_i64, None);
        loop {
            let started = Instant::now();
            let fill = Statement::from_sql_and_values(
                self.get_database_backend(),
                search::FILL,
                [batch.into()],
            );
            let Some(row) = self.query_one_raw(fill).await? else { break };
            let left: i64 = row.try_get_by_index(0)?;
            let took = started.elapsed();
            batch = if took < BATCH { batch * 2 } else { (batch / 2).max(1) };
            let first = *first.get_or_insert(left.max(1));
            if told.elapsed() >= TELL {
                told = Instant::now();
                let percent = 100 - left / first.div_euclid(100).max(1);
                let seconds = began.elapsed().as_secs();
                tracing::info!(
                    "{name}: posts are being indexed for the search: {percent} %, {seconds} s so far"
                );
            }
            sleep(took).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        tracing::info!("{name}: all posts are indexed for the search, after {seconds:.1} s");
        self.look_at_indexes().await.map(drop)
    }
}
