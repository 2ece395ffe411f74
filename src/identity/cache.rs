//! Tokens that were verified: a signature costs more than all else of a request.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex},
};

use ring::digest::{SHA256, digest};

use crate::identity::token::Caller;

/// Most tokens of each age.
const CAPACITY: usize = 8192;

/// By SHA-256 of the whole token, since tokens are long. The young ones that fill their place become the
/// old ones, and those that nobody has sent meanwhile are forgotten.
#[derive(Default)]
pub struct Cache(Mutex<Ages>);

#[derive(Default)]
struct Ages {
    young: HashMap<Digest, Entry>,
    old: HashMap<Digest, Entry>,
}

pub type Digest = [u8; 32];

#[derive(Clone)]
struct Entry {
    caller: Arc<Caller>,
    /// The generation of the keys that it was verified by.
    generation: u64,
}

pub fn digest_of(token: &str) -> Digest {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().expect("256 bits")
}

impl Cache {
    /// Whom a token speaks for that was verified by the keys of this generation and is valid `now`.
    pub fn find(&self, digest: &Digest, generation: u64, now: u64) -> Option<Arc<Caller>> {
        let mut ages = self.0.lock().expect("no panic");
        let is_valid = |entry: &Entry| entry.generation == generation && now <= entry.caller.until;
        if let Some(entry) = ages.young.get(digest) {
            return is_valid(entry).then(|| entry.caller.clone());
        }
        let entry = ages.old.remove(digest).filter(is_valid)?;
        let caller = entry.caller.clone();
        ages.insert(*digest, entry);
        Some(caller)
    }

    pub fn insert(&self, digest: Digest, caller: Arc<Caller>, generation: u64) {
        self.0.lock().expect("no panic").insert(digest, Entry { caller, generation });
    }
}

impl Ages {
    fn insert(&mut self, digest: Digest, entry: Entry) {
        if self.young.len() >= CAPACITY {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(digest, entry);
    }
}
