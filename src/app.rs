//! What the parts of the service share while it runs.

use std::sync::atomic::{AtomicU8, Ordering};

use migration::Index;

use crate::{
    database::pool::Database,
    http::{cache::Cache, problem::Problem},
    telemetry::metrics::Metrics,
};

pub struct App {
    database: Database,
    pub cache: Cache,
    pub metrics: Metrics,
    phase: AtomicU8,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Phase {
    Starting,
    Serving,
    Stopping,
}

impl App {
    pub fn new(database: Database, cache: Cache) -> Self {
        let metrics = Metrics::new();
        metrics.include(database.figures());
        if let Some(figures) = cache.figures() {
            metrics.include(figures);
        }
        Self { database, cache, metrics, phase: AtomicU8::new(Phase::Starting as u8) }
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    /// The database, once it is reachable and migrated.
    pub fn database(&self) -> Result<&Database, Problem> {
        if self.is(Phase::Starting) {
            return Err(Problem::unavailable("the service is starting: its database is not ready"));
        }
        Ok(&self.database)
    }

    /// The database, once this index, which is built while requests are served, is there.
    pub fn database_with(&self, index: &Index) -> Result<&Database, Problem> {
        let database = self.database()?;
        if !database.indexes.has(index) {
            let name = index.name;
            let detail = format!("the index {name}, which this request needs, is not there yet");
            return Err(Problem::unavailable(detail));
        }
        Ok(database)
    }

    /// The database as it is, reachable or not.
    pub fn raw_database(&self) -> &Database {
        &self.database
    }
}
