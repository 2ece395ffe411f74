//! The database's metrics.

use deadpool::managed::Pool;
use prometheus::{
    IntCounter, IntGauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::database::connection::Connector;

pub fn acquire_timeouts() -> IntCounter {
    IntCounter::new(
        "database_pool_acquire_timeouts_total",
        "Requests that waited in vain for a database connection that others were using",
    )
    .expect("a valid name")
}

pub fn size() -> IntGauge {
    let help = "Size of the database on its disk, as it was within the last minute";
    IntGauge::new("database_size_bytes", help).expect("a valid name")
}

/// Read from the pool at each scrape.
pub struct Figures {
    pool: Pool<Connector>,
    max: IntGauge,
    open: IntGauge,
    idle: IntGauge,
    acquire_timeouts: IntCounter,
    size: IntGauge,
}

impl Figures {
    pub fn new(pool: Pool<Connector>, acquire_timeouts: IntCounter, size: IntGauge) -> Self {
        let gauge = |name, help| IntGauge::new(name, help).expect("a valid name");
        Self {
            pool,
            max: gauge(
                "database_pool_max_connections",
                "Most connections to the database at a time",
            ),
            open: gauge("database_pool_connections", "Open connections to the database"),
            idle: gauge(
                "database_pool_idle_connections",
                "Open connections to the database that are not in use",
            ),
            acquire_timeouts,
            size,
        }
    }

    fn all(&self) -> [&dyn Collector; 5] {
        [&self.max, &self.open, &self.idle, &self.acquire_timeouts, &self.size]
    }
}

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = self.pool.status();
        self.max.set(status.max_size as i64);
        self.open.set(status.size as i64);
        self.idle.set(status.available as i64);
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}
