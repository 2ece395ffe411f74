//! Answers to reads by id, kept in memory for a while, so that repeating one needs no database.

use std::{
    array,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use poem::{
    error::ResponseError,
    http::{HeaderMap, StatusCode, header},
};
use poem_openapi::types::Type;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{self, DefaultLifecycle},
};
use serde::Serialize;

use crate::{
    config::Config,
    http::{conditional::Found, parameter::InHead, problem::Problem},
    id::Id,
};

/// What an answer is about: a kind of resource, and which of them.
pub type Key = (&'static str, Id);

/// The largest body that is kept: a larger one counts as a body in memory while it is sent.
const LARGEST: usize = 64 << 10;
/// What an answer takes besides its body, in bytes: its slot, its tag, and the allocator's overhead.
const OVERHEAD: u64 = 300;
/// A typical answer's size, to estimate how many there will be.
const USUAL: u64 = 512;
/// The cache is sharded, with a lock for each shard; this is a shard's size if there are enough bytes.
const PART: u64 = 1 << 20;
const GATES: usize = 256;

/// Keeps nothing where `CACHE_SECONDS` is 0.
pub struct Cache(Option<Arc<Store>>);

struct Store {
    answers: sync::Cache<Key, Answer, Weight>,
    lifetime: Duration,
    /// Counts the writes to the keys of each gate. A read during which it has changed may be stale.
    gates: [Mutex<u64>; GATES],
    requests: IntCounterVec,
    hits: IntCounter,
    misses: IntCounter,
    bytes: IntGauge,
}

#[derive(Clone)]
struct Answer {
    body: Bytes,
    etag: String,
    /// When the database was asked.
    since: Instant,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Answer> for Weight {
    fn weight(&self, _: &Key, answer: &Answer) -> u64 {
        answer.body.len() as u64 + OVERHEAD
    }
}

impl Cache {
    pub fn new(config: &Config) -> Self {
        let lifetime = config.cache_seconds.0;
        let store = || Arc::new(Store::new(lifetime, config.cache_bytes.get().into()));
        Self((!lifetime.is_zero()).then(store))
    }

    /// Hits, misses and the size of the cache.
    pub fn figures(&self) -> Option<impl Collector + use<>> {
        self.0.clone().map(Figures)
    }

    /// The resource with this key: from the cache, if that is `fresh` enough, or else from `read`.
    pub async fn find<T: Type + Serialize>(
        &self,
        key: Key,
        fresh: Fresh,
        read: impl Future<Output = Result<Found<T>, Problem>>,
    ) -> Result<Found<T>, Problem> {
        let Some(store) = &self.0 else { return read.await };
        let Answer { body, etag, .. } = match store.get(&key, fresh) {
            Some(answer) => answer,
            None => store.fill(key, read).await?,
        };
        Ok(Found::tagged(body, etag))
    }

    /// Forgets what is kept under this key, and keeps reads in progress from being stored. Call it after a
    /// row is written, and before that is acknowledged.
    pub fn forget(&self, key: &Key) {
        if let Some(store) = &self.0 {
            *store.gate(key) += 1;
            store.answers.remove(key);
        }
    }
}

impl Store {
    fn new(lifetime: Duration, bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            .shards((bytes / PART).clamp(1, 64) as usize)
            .estimated_items_capacity((bytes / USUAL) as usize)
            .weight_capacity(bytes)
            .build()
            .expect("all of them are given");
        let opts = Opts::new(
            "cache_requests_total",
            "Reads by id that were answered from memory (hit), or from the database (miss)",
        );
        let requests = IntCounterVec::new(opts, &["result"]).expect("valid names");
        let help = "Memory that the answers kept for reads by id take";
        Self {
            answers: sync::Cache::with_options(
                options,
                Weight,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            lifetime,
            gates: array::from_fn(|_| Mutex::default()),
            hits: requests.with_label_values(&["hit"]),
            misses: requests.with_label_values(&["miss"]),
            requests,
            bytes: IntGauge::new("cache_bytes", help).expect("a valid name"),
        }
    }

    fn gate(&self, (_, Id(id)): &Key) -> MutexGuard<'_, u64> {
        self.gates[*id as usize % GATES].lock().expect("no panic")
    }

    fn get(&self, key: &Key, fresh: Fresh) -> Option<Answer> {
        let limit = self.lifetime.min(fresh.0);
        let answer = self.answers.get(key).filter(|answer| answer.since.elapsed() < limit);
        if answer.is_some() { &self.hits } else { &self.misses }.inc();
        answer
    }

    async fn fill<T: Type + Serialize>(
        &self,
        key: Key,
        read: impl Future<Output = Result<Found<T>, Problem>>,
    ) -> Result<Answer, Problem> {
        let (since, writes) = (Instant::now(), *self.gate(&key));
        let Found::Found(body, etag, _) = read.await.inspect_err(|problem| {
            if problem.status() == StatusCode::NOT_FOUND {
                self.answers.remove(&key);
            }
        })?;
        let body = body.bytes().clone();
        if body.len() > LARGEST {
            self.answers.remove(&key);
            return Ok(Answer { body, etag, since });
        }
        // Copied to drop the spare capacity.
        let answer = Answer { body: Bytes::copy_from_slice(&body), etag, since };
        let gate = self.gate(&key);
        if *gate == writes {
            self.answers.insert(key, answer.clone());
        }
        Ok(answer)
    }
}

struct Figures(Arc<Store>);

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        [self.0.requests.desc(), self.0.bytes.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.bytes.set(self.0.answers.weight() as i64);
        [self.0.requests.collect(), self.0.bytes.collect()].concat()
    }
}

/// How old an answer may be at most, by the request's `Cache-Control`. With `no-cache`, or with `If-Match`,
/// which is about the current state, nothing cached will do.
#[derive(Clone, Copy)]
pub struct Fresh(Duration);

impl InHead for Fresh {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        if headers.contains_key(header::IF_MATCH) {
            return Ok(Self(Duration::ZERO));
        }
        let lines = headers.get_all(header::CACHE_CONTROL).iter();
        let directives = lines.filter_map(|line| line.to_str().ok()).flat_map(|s| s.split(','));
        let limits = directives.filter_map(|directive| {
            let directive = directive.trim().to_ascii_lowercase();
            match directive.strip_prefix("max-age=") {
                Some(seconds) => seconds.trim_matches('"').parse().ok().map(Duration::from_secs),
                None => (directive == "no-cache").then_some(Duration::ZERO),
            }
        });
        Ok(Self(limits.min().unwrap_or(Duration::MAX)))
    }
}
