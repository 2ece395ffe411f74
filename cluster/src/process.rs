//! Child processes with a time limit.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub const POLL: Duration = Duration::from_millis(50);

/// Runs a command to its end, and returns its stdout. An error is its stderr, on one line.
pub fn run(limit: Duration, program: &str, arguments: &[&str]) -> Result<String, String> {
    run_with_input(limit, program, arguments, Stdio::null())
}

pub fn run_with_input(
    limit: Duration,
    program: &str,
    arguments: &[&str],
    input: impl Into<Stdio>,
) -> Result<String, String> {
    finish(limit, Command::new(program).args(arguments).stdin(input).stdout(Stdio::piped()))
}

/// Runs a command that writes to `output`.
pub fn run_into(
    output: impl Into<Stdio>,
    limit: Duration,
    program: &str,
    arguments: &[&str],
) -> Result<(), String> {
    let mut command = Command::new(program);
    finish(limit, command.args(arguments).stdin(Stdio::null()).stdout(output)).map(drop)
}

fn finish(limit: Duration, command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, limit);
    let (stdout, stderr) = (join(&stdout), join(&stderr));
    match status {
        Some(status) if status.success() => Ok(stdout),
        Some(_) => Err(one_line(&stderr)),
        None => {
            let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
            Err(format!("`{program} {}` took more than {} s", arguments.join(" "), limit.as_secs()))
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if start.elapsed() > limit {
            _ = child.kill();
            _ = child.wait();
            return None;
        }
        thread::sleep(POLL);
    }
}

/// What was read from a stream so far, and whether it has ended.
type Collected = Arc<Mutex<(Vec<u8>, bool)>>;

fn collect(stream: Option<impl Read + Send + 'static>) -> Collected {
    let collected = Collected::default();
    let kept = Arc::clone(&collected);
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        let mut stream = stream;
        while let Some(Ok(count @ 1..)) = stream.as_mut().map(|stream| stream.read(&mut buffer)) {
            kept.lock().unwrap().0.extend_from_slice(&buffer[..count]);
        }
        kept.lock().unwrap().1 = true;
    });
    collected
}

/// A background process may hold the stream open after the command itself has exited.
fn join(collected: &Collected) -> String {
    wait_for(Duration::from_secs(2), || collected.lock().unwrap().1.then_some(()));
    String::from_utf8_lossy(&collected.lock().unwrap().0).into_owned()
}

/// The lines that matter, joined by spaces.
pub fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Waits until `condition` returns something; None after `limit`.
pub fn wait_for<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if start.elapsed() > limit {
            return None;
        }
        thread::sleep(POLL);
    }
}

/// Writes to a temporary file first, so that a kill leaves either the old or the new content.
pub fn replace_file(path: &std::path::Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended() {
        let limit = Duration::from_millis(200);
        let error = run(limit, "sleep", &["60"]).unwrap_err();
        assert!(error.contains("sleep 60"), "{error}");
    }

    #[test]
    fn what_is_left_in_the_background_holds_nobody_up() {
        let output = run(Duration::from_secs(10), "sh", &["-c", "echo here; sleep 60 &"]).unwrap();
        assert_eq!(output, "here\n");
    }

    #[test]
    fn an_error_is_one_line() {
        let error =
            run(Duration::from_secs(10), "sh", &["-c", "printf 'a\\n\\n  b\\n' >&2; exit 3"])
                .unwrap_err();
        assert_eq!(error, "a b");
    }
}
