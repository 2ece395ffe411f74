//! The request that the current task serves: its context for all code below.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    task::{Context, Poll},
};

use opentelemetry::{
    Context as Trace,
    trace::{TraceContextExt, TraceId},
};
use tokio::runtime::Handle;

tokio::task_local! {
    static CURRENT: Arc<Current>;
}

struct Current {
    id: String,
    /// Its span, if it is traced.
    trace: Option<Trace>,
    /// Whether one of its statements was sent to the database.
    statement: AtomicBool,
    /// Whether it is idempotent: however often it is sent, it writes once.
    repeatable: AtomicBool,
    /// Whether the database has warned since `forget_warning`.
    warning: AtomicBool,
    /// Its caller's user, or -1 while that is not known.
    user: AtomicI64,
}

/// Runs `work` for the request with this id; `trace` is its span.
pub fn serving<T>(
    id: String,
    trace: Option<Trace>,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let current = Current {
        id,
        trace,
        statement: false.into(),
        repeatable: false.into(),
        warning: false.into(),
        user: (-1).into(),
    };
    CURRENT.scope(Arc::new(current), work)
}

/// Calls `f` with the id of the request that the current task serves, if any.
pub fn with_id(f: impl FnOnce(&str)) {
    CURRENT.try_with(|current| f(&current.id)).ok();
}

/// Calls `f` with the span of this request, if it is traced.
pub fn with_trace<T>(f: impl FnOnce(&Trace) -> T) -> Option<T> {
    CURRENT.try_with(|current| current.trace.as_ref().map(f)).ok().flatten()
}

/// The trace that this request is part of.
pub fn trace_id() -> Option<TraceId> {
    with_trace(|trace| trace.span().span_context().trace_id())
}

/// Remembers that a statement of this request may have been sent to the database.
pub fn note_statement() {
    CURRENT.try_with(|current| current.statement.store(true, Ordering::Relaxed)).ok();
}

/// Remembers that this request is idempotent.
pub fn note_repeatable() {
    CURRENT.try_with(|current| current.repeatable.store(true, Ordering::Relaxed)).ok();
}

/// Whether a retry of this request cannot write twice.
pub fn may_be_repeated() -> bool {
    let may = |current: &Arc<Current>| {
        current.repeatable.load(Ordering::Relaxed) || !current.statement.load(Ordering::Relaxed)
    };
    CURRENT.try_with(may).unwrap_or(true)
}

/// Remembers that the database has warned during this request.
pub fn note_warning() {
    CURRENT.try_with(|current| current.warning.store(true, Ordering::Relaxed)).ok();
}

pub fn forget_warning() {
    CURRENT.try_with(|current| current.warning.store(false, Ordering::Relaxed)).ok();
}

pub fn warned() -> bool {
    CURRENT.try_with(|current| current.warning.load(Ordering::Relaxed)).unwrap_or(false)
}

/// Remembers the user of this request's caller.
pub fn note_user(id: i64) {
    CURRENT.try_with(|current| current.user.store(id, Ordering::Relaxed)).ok();
}

/// The user of this request's caller, if known.
pub fn user() -> Option<i64> {
    let user = CURRENT.try_with(|current| current.user.load(Ordering::Relaxed));
    user.ok().filter(|&id| id >= 0)
}

/// Runs `work` to completion, even if the request is given up meanwhile, so that what the database has
/// committed is counted.
pub fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send {
    ToTheEnd(Some(Box::pin(work)))
}

/// Work that continues in a task of its own when it is dropped. Starting it there would cost every
/// request a task and a wake-up.
struct ToTheEnd<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> Future for ToTheEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut work = self.0.take().expect("not polled again when it is done, or has panicked");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for ToTheEnd<F> {
    fn drop(&mut self) {
        let Some(work) = self.0.take() else { return };
        // From now on it may reach the database at any time.
        note_statement();
        spawn(work);
    }
}

/// Continues `work` in a task of its own, still as part of this request.
pub fn spawn(work: impl Future<Output: Send> + Send + 'static) {
    // There is no runtime when the process ends.
    let Ok(runtime) = Handle::try_current() else { return };
    let work = async { drop(work.await) };
    match CURRENT.try_with(Arc::clone) {
        Ok(current) => drop(runtime.spawn(CURRENT.scope(current, work))),
        Err(_) => drop(runtime.spawn(work)),
    }
}
