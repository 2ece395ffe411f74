//! Remembers verified tokens: a signature costs more than everything else in a request.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex},
};

use crate::identity::token::Caller;

/// The most bytes of tokens of each age: 8,192 tokens of a typical length.
const CAPACITY: usize = 8 << 20;
/// What each token takes besides its bytes, at most.
const OVERHEAD: usize = 256;

/// Keyed by the whole token. When the young tokens reach their capacity, they become the old ones, and old
/// ones that nobody has sent meanwhile are forgotten.
#[derive(Default)]
pub struct Cache(Mutex<Ages>);

#[derive(Default)]
struct Ages {
    young: HashMap<Box<str>, Entry>,
    /// The bytes that the young ones take.
    taken: usize,
    old: HashMap<Box<str>, Entry>,
}

#[derive(Clone)]
struct Entry {
    caller: Arc<Caller>,
    /// The generation of the keys that it was verified with.
    generation: u64,
}

impl Cache {
    /// The caller of a token that was verified with the keys of this generation and is still valid `now`.
    pub fn find(&self, token: &str, generation: u64, now: u64) -> Option<Arc<Caller>> {
        let mut ages = self.0.lock().expect("no panic");
        let is_valid = |entry: &Entry| entry.generation == generation && now <= entry.caller.until;
        if let Some(entry) = ages.young.get(token) {
            return is_valid(entry).then(|| entry.caller.clone());
        }
        let (token, entry) = ages.old.remove_entry(token).filter(|(_, entry)| is_valid(entry))?;
        let caller = entry.caller.clone();
        ages.insert(token, entry);
        Some(caller)
    }

    pub fn insert(&self, token: &str, caller: Arc<Caller>, generation: u64) {
        self.0.lock().expect("no panic").insert(token.into(), Entry { caller, generation });
    }
}

impl Ages {
    fn insert(&mut self, token: Box<str>, entry: Entry) {
        let size = token.len() + OVERHEAD;
        if self.taken + size > CAPACITY {
            self.old = mem::take(&mut self.young);
            self.taken = 0;
        }
        if self.young.insert(token, entry).is_none() {
            self.taken += size;
        }
    }
}
