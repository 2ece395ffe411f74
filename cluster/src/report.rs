//! What a user reads in `docker logs`.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Contents;
use crate::health;

const STEPS: usize = 6;
/// Set on shutdown: steps in progress then report nothing more.
pub static STOPPING: AtomicBool = AtomicBool::new(false);

/// How often a running step reports that it is.
const PROGRESS: Duration = Duration::from_secs(10);

pub fn banner(contents: &Contents) {
    let others: Vec<String> = contents
        .versions
        .iter()
        .filter(|(name, _)| *name != "wiki-cluster")
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    say(&format!("wiki-cluster {}", contents.version()));
    say(&format!("with {}", others.join(", ")));
}

pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    _ = writeln!(out, "{line}");
    _ = out.flush();
}

/// Runs one step, reports how long it took, and now and then that it is still running.
pub fn step<T: Send>(
    number: usize,
    name: &str,
    progress: impl Fn() -> Option<String> + Send,
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    say(&format!("[{number}/{STEPS}] {name} ..."));
    let start = Instant::now();
    let (done, is_done) = channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(move || {
            while is_done.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
                if STOPPING.load(Ordering::Relaxed) {
                    return;
                }
                let what = progress().map_or_else(String::new, |what| format!(": {what}"));
                say(&format!(
                    "[{number}/{STEPS}] {name}: still running after {} s{what}",
                    start.elapsed().as_secs()
                ));
            }
        });
        let result = work();
        drop(done);
        result
    });
    let seconds = start.elapsed().as_secs_f64();
    match result {
        Ok(value) => {
            say(&format!("[{number}/{STEPS}] {name}: {seconds:.1} s"));
            Ok(value)
        }
        Err(error) if STOPPING.load(Ordering::Relaxed) => Err(error),
        Err(error) => Err(format!("{name} failed after {seconds:.0} s: {error}")),
    }
}

pub fn urls() -> String {
    let base = format!("http://localhost:{}", health::PORT);
    format!(
        "  API      {base}/users\n  docs     {base}/docs and {base}/redoc\n  metrics  {base}/metrics\n  Grafana  {base}/grafana/"
    )
}
