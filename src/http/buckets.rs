//! Token buckets, one for each client, in memory that does not grow.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::Mutex,
    time::{Duration, Instant},
};

const SETS: usize = 8192;
/// With 8192 sets, 65,536 buckets in 1.1 MB.
const WAYS: usize = 8;
/// 146 years; with a greater depth, sums could overflow.
const MAX_DEPTH: u64 = u64::MAX / 4;

/// A bucket is stored as the time at which it is full again (the theoretical arrival time of the generic
/// cell rate algorithm, ITU-T I.371), in nanoseconds since `start`. Its hash leaves it eight places. A new
/// bucket evicts the one that is full first, which loses the least: a flood of new clients evicts its own
/// buckets, and an empty bucket stays.
pub struct Buckets {
    sets: Box<[Mutex<[Bucket; WAYS]>]>,
    hasher: RandomState,
    start: Instant,
    /// How long one token takes to come back.
    interval: u64,
    /// How long an empty bucket takes to fill.
    depth: u64,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// The hash of its owner: 64 bits that nobody outside can predict.
    key: u64,
    full_at: u64,
}

impl Buckets {
    /// Buckets that refill at `per_second` and hold `burst` tokens, by default a second's worth.
    pub fn new(per_second: f64, burst: Option<u32>) -> Self {
        let second = 1_000_000_000;
        let interval = (second as f64 / per_second) as u64;
        let depth = match burst {
            Some(burst) => interval.saturating_mul(burst.into()),
            None => second.max(interval),
        };
        Self {
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            start: Instant::now(),
            interval,
            depth: depth.min(MAX_DEPTH),
        }
    }

    /// Takes a token from the bucket of `whom`. The error is how long to wait for the next one.
    pub fn take(&self, whom: impl Hash, now: Instant) -> Result<(), Duration> {
        let now = now.saturating_duration_since(self.start).as_nanos() as u64;
        self.with(whom, |bucket| {
            let full_at = bucket.full_at.max(now) + self.interval;
            match (full_at - now).checked_sub(self.depth) {
                None | Some(0) => {
                    bucket.full_at = full_at;
                    Ok(())
                }
                Some(wait) => Err(Duration::from_nanos(wait)),
            }
        })
    }

    /// Returns a token that was taken from the bucket of `whom`.
    pub fn give_back(&self, whom: impl Hash) {
        self.with(whom, |bucket| bucket.full_at = bucket.full_at.saturating_sub(self.interval));
    }

    fn with<T>(&self, whom: impl Hash, work: impl FnOnce(&mut Bucket) -> T) -> T {
        let key = self.hasher.hash_one(whom);
        let mut set = self.sets[key as usize % SETS].lock().expect("no panic");
        let place = set.iter().position(|bucket| bucket.key == key).unwrap_or_else(|| {
            let (place, _) = set.iter().enumerate().min_by_key(|(_, b)| b.full_at).expect("eight");
            place
        });
        let bucket = &mut set[place];
        if bucket.key != key {
            *bucket = Bucket { key, full_at: 0 };
        }
        work(bucket)
    }
}
