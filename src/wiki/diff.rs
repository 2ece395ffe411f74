//! The diff between two revisions of a post.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use poem_openapi::{ApiResponse, OpenApi, payload::PlainText};
use similar::TextDiff;
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{
    app::App,
    http::{
        operation::Failure,
        parameter::{Path, Required},
        problem::Problem,
    },
    id::Id,
    wiki::{Tag, failure::ReadFailure, revisions},
};

/// How long to look for the shortest diff; after that, any correct one will do.
const LIMIT: Duration = Duration::from_millis(200);
/// How many are made at a time: each occupies a CPU.
const AT_A_TIME: usize = 2;

#[derive(Clone)]
pub struct Diffs {
    app: Arc<App>,
    turns: Arc<Semaphore>,
}

impl Diffs {
    pub fn new(app: &Arc<App>) -> Self {
        Self { app: app.clone(), turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }
}

#[derive(ApiResponse)]
enum Compared {
    /// In the format of `diff -u` and `patch`, with three lines of context; empty if the texts are the
    /// same.
    #[oai(status = 200)]
    Unified(PlainText<String>),
}

#[OpenApi(tag = "Tag::Posts")]
impl Diffs {
    /// Compare two revisions of a post
    #[oai(path = "/posts/:id/diff", method = "get", operation_id = "diff_revisions")]
    async fn diff(
        &self,
        /// The post's id.
        id: Path<Id>,
        /// The number of the old revision.
        from: Required<Id>,
        /// The number of the new revision.
        to: Required<Id>,
    ) -> Result<Compared, Failure<ReadFailure>> {
        let (from, to) = (from.0, to.0);
        let (old, new) = revisions::find_two(&self.app, id.0, from, to).await?;
        let turn = self.turns.clone().try_acquire_owned().map_err(|_| {
            Problem::retry_later("too many revisions are being compared at the moment")
        })?;
        let diff = spawn_blocking(move || {
            let _turn = turn;
            unified(&old, &new, from, to)
        });
        let diff = diff.await.map_err(|_panicked| Problem::internal())?;
        Ok(Compared::Unified(PlainText(diff)))
    }
}

/// Only a line feed ends a line, as for `patch`.
fn unified(old: &str, new: &str, from: Id, to: Id) -> String {
    let (old, new): (Vec<_>, Vec<_>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let diff = TextDiff::configure().deadline(Instant::now() + LIMIT).diff_slices(&old, &new);
    let mut text = String::new();
    for hunk in diff.unified_diff().iter_hunks() {
        if text.is_empty() {
            text = format!("--- revision {from}\n+++ revision {to}\n");
        }
        writeln!(text, "{}", hunk.header()).expect("a String");
        for change in hunk.iter_changes() {
            write!(text, "{}{}", change.tag(), change.value()).expect("a String");
            if !change.value().ends_with('\n') {
                text += "\n\\ No newline at end of file\n";
            }
        }
    }
    text
}
