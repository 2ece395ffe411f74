//! What a user reads in `docker logs`.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Contents, RELEASE};
use crate::{cluster, dockerd, health, process};

const STEPS: usize = 6;
/// Set when the end has come: what is under way then has nothing more to say.
pub static STOPPING: AtomicBool = AtomicBool::new(false);

/// How often a step that goes on says so.
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

/// Runs one step, says how long it took, and from time to time that it still goes on.
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
                    "[{number}/{STEPS}] {name}: still at it after {} s{what}",
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
        Err(error) => {
            explain();
            Err(format!("{name} failed after {seconds:.0} s: {error}"))
        }
    }
}

pub fn urls() -> String {
    let base = format!("http://localhost:{}", health::PORT);
    format!(
        "  API      {base}/users\n  docs     {base}/docs and {base}/redoc\n  metrics  {base}/metrics\n  Grafana  {base}/grafana/"
    )
}

/// Pods that are not ready, with what holds them up.
pub fn waiting_for() -> Option<String> {
    let selector = format!("--selector=app.kubernetes.io/instance={RELEASE}");
    let pods = crate::status::pods(&selector).ok()?;
    let waiting: Vec<String> = pods
        .iter()
        .filter(|pod| !pod.ready)
        .map(|pod| format!("{} {}", pod.name, pod.state))
        .collect();
    (!waiting.is_empty()).then(|| waiting.join(", "))
}

/// What a person would look at when a step has failed. Parts that are not up yet have nothing to say.
fn explain() {
    let limit = Duration::from_secs(15);
    let show = |title: &str, program: &str, arguments: &[&str]| {
        if let Ok(text) = process::run(limit, program, arguments)
            && !text.trim().is_empty()
        {
            say(&format!("--- {title}"));
            say(&last_lines(&text, 40));
        }
    };
    if dockerd::answers() && cluster::exists() {
        show(
            "pods",
            "kubectl",
            &["get", "pods", "--all-namespaces", "--output=wide", "--request-timeout=10s"],
        );
        show(
            "events",
            "kubectl",
            &[
                "get",
                "events",
                "--all-namespaces",
                "--sort-by=.lastTimestamp",
                "--request-timeout=10s",
            ],
        );
        let selector = format!("--selector=app.kubernetes.io/instance={RELEASE}");
        show(
            "logs of the release",
            "kubectl",
            &[
                "logs",
                &selector,
                "--all-containers",
                "--prefix",
                "--tail=8",
                "--request-timeout=10s",
            ],
        );
        show("log of the node", "docker", &["logs", "--tail=15", cluster::NODE]);
    }
    if let Ok(log) = fs::read_to_string(dockerd::LOG) {
        say("--- log of dockerd");
        say(&last_lines(&log, 15));
    }
}

pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
