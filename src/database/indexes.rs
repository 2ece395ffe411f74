//! Indexes on large tables, which are not always there: on PostgreSQL they are built while requests are
//! served, and after the restore of a dump without them again.

use std::sync::atomic::{AtomicBool, Ordering};

use migration::{Index, search};
use tokio::sync::Notify;

use crate::config::Search;

/// The indexes that are wanted, and whether they were seen.
pub struct Indexes {
    pub search: Search,
    pub wanted: Vec<(Index, AtomicBool)>,
    /// Whether that of the search is to be dropped, which is done once.
    pub drop_search: AtomicBool,
    /// Told when the schema may be another one.
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

    /// Whether an index that is wanted can be used.
    pub fn has(&self, index: &Index) -> bool {
        let mut wanted = self.wanted.iter();
        wanted.any(|(one, valid)| one.name == index.name && valid.load(Ordering::Relaxed))
    }

    /// Whether posts can be searched, once the index is there.
    pub fn has_search(&self) -> bool {
        self.wanted.iter().any(|(one, _)| one.name == search::INDEX.name)
    }
}
