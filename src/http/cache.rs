//! Answers to reads by id, kept in memory for a while: to give one again asks no database.

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

/// The largest body that is kept: a larger one takes room of its own on its way to a client.
const LARGEST: usize = 64 << 10;
/// What an answer takes beside its body, in bytes: its place, its tag, and what the allocator adds.
const OVERHEAD: u64 = 300;
/// An answer of a usual size, for what has to be estimated.
const USUAL: u64 = 512;
/// The cache is in parts with a lock each, of so many bytes if there are enough.
const PART: u64 = 1 << 20;
const GATES: usize = 256;

/// Keeps nothing where `CACHE_SECONDS` is 0.
pub struct Cache(Option<Arc<Store>>);

struct Store {
    answers: sync::Cache<Key, Answer, Weight>,
    lifetime: Duration,
    /// How often a key of each gate was written. What was read meanwhile may be from before.
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

    /// How often it helps, and how large it is.
    pub fn figures(&self) -> Option<impl Collector + use<>> {
        self.0.clone().map(Figures)
    }

    /// The resource by this key: as it is kept, if that is `fresh`, or else as `read` finds it.
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

    /// Forgets what is kept by this key, and what is being read: whoever writes a row calls it once that
    /// is done, and before anybody is told.
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
        // Without the room that was left for more of it.
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

/// How old an answer may be at most, by the request's `Cache-Control`: nothing at all by `no-cache`, or
/// if the request depends on the resource as it is, by `If-Match`.
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
