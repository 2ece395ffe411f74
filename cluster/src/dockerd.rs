//! The inner Docker.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::SigSet;

use crate::process::{last_lines, wait_for};

pub const LOG: &str = "/var/log/dockerd.log";
const SOCKET: &str = "/run/docker.sock";
const LIMIT: Duration = Duration::from_secs(120);

/// Starts it and waits until it answers. Its other settings are in /etc/docker/daemon.json.
pub fn start(address_pool: &str) -> Result<Child, String> {
    // Left behind by a killed container: nothing of it is running.
    for left in ["/run/docker", "/run/containerd", "/run/docker.pid", SOCKET] {
        _ = fs::remove_dir_all(left).or_else(|_| fs::remove_file(left));
    }
    let log = File::create(LOG).map_err(|error| format!("{LOG}: {error}"))?;
    let errors = log.try_clone().map_err(|error| format!("{LOG}: {error}"))?;
    let mut command = Command::new("dockerd");
    command.arg(format!("--default-address-pool=base={address_pool},size=24"));
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    // Ctrl-C goes to the terminal's whole process group, but dockerd must stop after the node.
    command.process_group(0);
    // A child inherits blocked signals, and may pass them on to the containers, which then would never get the signal to
    // stop.
    // SAFETY: a single system call, which is allowed between fork and exec.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
    let mut child = command.spawn().map_err(|error| format!("dockerd cannot be run: {error}"))?;
    let came = wait_for(LIMIT, || match child.try_wait() {
        Ok(Some(status)) => Some(Err(status)),
        _ => answers().then_some(Ok(())),
    });
    match came {
        Some(Ok(())) => Ok(child),
        Some(Err(status)) => Err(format!("dockerd ended with {status}: {}", last_words())),
        None => {
            Err(format!("dockerd does not answer after {} s: {}", LIMIT.as_secs(), last_words()))
        }
    }
}

pub fn answers() -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.contains(" 200 "))
    };
    ask().unwrap_or(false)
}

pub fn last_words() -> String {
    last_lines(&fs::read_to_string(LOG).unwrap_or_default(), 1)
}
