//! The issuer's keys over time: refreshed regularly, fetched again when a token names an unknown key, and
//! kept while the issuer cannot be reached.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::Algorithm;
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::identity::{
    fetch::{Client, MAX_BYTES, TIMEOUT},
    keys::Keys,
    refusal::Refusal,
};

/// How often the issuer is called without a reason, and how often the file is read.
const REFRESH: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_secs(10);
/// The pauses after failed attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// For unknown keys, the issuer is called up to five times at once, then every twelve seconds: at most ten
/// times a minute, and a flood of unknown keys cannot hide a new one for longer than that.
const BURST: u32 = 5;
const SPACING: Duration = Duration::from_secs(12);

pub enum Origin {
    Issuer(Client, String),
    File(PathBuf),
}

pub struct Source {
    origin: Origin,
    state: watch::Sender<State>,
    /// The generation of the keys in `state`, readable without its lock.
    generation: AtomicU64,
    asked: Mutex<Asked>,
    wake: Notify,
}

struct State {
    keys: Arc<Keys>,
    /// When they were last confirmed; if never, the start.
    confirmed: Instant,
    /// Whether the last attempt failed.
    failed: bool,
    /// How many attempts have ended.
    over: u64,
}

struct Asked {
    /// How many attempts have begun, and the number of the last one that somebody waits for.
    begun: u64,
    promised: u64,
    /// When everything asked for would be done at the allowed rate (GCRA).
    due: Instant,
}

impl Source {
    pub fn new(origin: Origin) -> Self {
        let now = Instant::now();
        let state = State { keys: Arc::default(), confirmed: now, failed: true, over: 0 };
        Self {
            origin,
            state: watch::Sender::new(state),
            generation: AtomicU64::new(0),
            asked: Mutex::new(Asked { begun: 0, promised: 0, due: now }),
            wake: Notify::new(),
        }
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn is_empty(&self) -> bool {
        self.state.borrow().keys.len() == 0
    }

    /// Seconds since the keys were last confirmed.
    pub fn age(&self) -> f64 {
        self.state.borrow().confirmed.elapsed().as_secs_f64()
    }

    /// Keeps the keys fresh; never returns.
    pub async fn keep(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let wait = match self.refresh().await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    match self.origin {
                        // Jitter, so that replicas that start together spread out.
                        Origin::Issuer(..) => REFRESH.mul_f64(0.9 + 0.1 * fastrand::f64()),
                        Origin::File(_) => LOOK,
                    }
                }
                Err(error) => {
                    tracing::warn!("the keys of AUTH_ISSUER cannot be read: {error}");
                    let wait = pause;
                    pause = (pause * 2).min(LAST_PAUSE);
                    wait
                }
            };
            tokio::select! {
                () = sleep(wait) => (),
                () = self.wake.notified() => (),
            }
        }
    }

    /// One attempt.
    pub async fn refresh(&self) -> Result<(), String> {
        self.asked().begun += 1;
        let read = timeout(TIMEOUT, self.origin.read()).await;
        let read =
            read.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
        let known = self.state.borrow().keys.clone();
        let keys = read.and_then(|text| match known.are_from(&text) {
            true => Ok(known),
            false => {
                let keys = known.read(text).map_err(|e| format!("{}: {e}", self.origin.name()))?;
                tracing::info!("{}: keys that can be used: {}", self.origin.name(), keys.len());
                Ok(Arc::new(keys))
            }
        });
        let mut result = Ok(());
        self.state.send_modify(|state| {
            state.over += 1;
            state.failed = keys.is_err();
            match keys {
                Ok(keys) => {
                    self.generation.store(keys.generation, Ordering::Release);
                    state.keys = keys;
                    state.confirmed = Instant::now();
                }
                Err(error) => result = Err(error),
            }
        });
        result
    }

    /// The keys; if they lack this one, they are fetched again first.
    pub async fn keys_for(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<Keys>, Refusal> {
        let find = |state: &State| match state.keys.find(id, algorithm) {
            Ok(_) => Ok(state.keys.clone()),
            Err(Refusal::UnknownKey) if state.failed => Err(Refusal::NoKeys),
            Err(refusal) => Err(refusal),
        };
        let found = find(&self.state.borrow());
        if !matches!(found, Err(Refusal::UnknownKey | Refusal::NoKeys)) {
            return found;
        }
        let Some(attempt) = self.ask() else { return found };
        let mut state = self.state.subscribe();
        let state = state.wait_for(|state| state.over >= attempt).await;
        find(&state.expect("the sender is ours"))
    }

    /// The number of an attempt that begins from now on, or of the one in progress if no other may begin.
    fn ask(&self) -> Option<u64> {
        let over = self.state.borrow().over;
        let mut asked = self.asked();
        let next = asked.begun + 1;
        if asked.promised < next {
            let now = Instant::now();
            if asked.due > now + SPACING * (BURST - 1) {
                return (asked.begun > over).then_some(asked.begun);
            }
            asked.due = asked.due.max(now) + SPACING;
            asked.promised = next;
            self.wake.notify_one();
        }
        Some(next)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().expect("no panic")
    }
}

impl Origin {
    fn name(&self) -> String {
        match self {
            Self::Issuer(_, issuer) => issuer.clone(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// A JWK Set.
    async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Issuer(client, issuer) => client.keys(issuer).await.map(Vec::from),
            Self::File(path) => {
                let own = path.clone();
                match spawn_blocking(move || read_file(&own)).await.expect("no panic") {
                    Ok(text) if text.len() <= MAX_BYTES => Ok(text),
                    Ok(_) => Err(format!("{}: larger than {MAX_BYTES} bytes", self.name())),
                    Err(error) => Err(format!("{}: {error}", self.name())),
                }
            }
        }
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}
