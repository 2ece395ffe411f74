//! Indexes on large tables, which may be missing: on PostgreSQL they are built while requests are served,
//! and again after the restore of a dump without them.

use std::sync::atomic::{AtomicBool, Ordering};

use migration::{Index, search};
use tokio::sync::Notify;

use crate::config::Search;

/// The wanted indexes, and whether they were found.
pub struct Indexes {
    pub search: Search,
    pub wanted: Vec<(Index, AtomicBool)>,
    /// Whether the search index is to be dropped, which is done once.
    pub drop_search: AtomicBool,
    /// Notified when the schema may have changed.
    pub look: Notify,
}

impl Indexes {
    pub fn new(search: Search) -> Self {
        let wanted = Index::wanted(search == Search::True).into_iter();
        Self {
            search,
            wanted: wanted.map(|index| (index, false.into())).collect(),
            drop_search: (search == Search::Drop).into(),
            look: Notify::new(),
        }
    }

    /// Whether an index is wanted and usable.
    pub fn has(&self, index: &Index) -> bool {
        let mut wanted = self.wanted.iter();
        wanted.any(|(one, valid)| one.name == index.name && valid.load(Ordering::Relaxed))
    }

    /// Whether search is enabled; its index may not be there yet.
    pub fn has_search(&self) -> bool {
        self.wanted.iter().any(|(one, _)| one.name == search::INDEX.name)
    }
}
