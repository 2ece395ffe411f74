//! The images: the node's in the inner Docker, those of the release in the node's containerd.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::cgroups;
use crate::cluster::NODE;
use crate::config::{Contents, SHARE};
use crate::process::{run, run_with_input, wait_for};

const SHORT: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(300);

/// For the node, until its containerd answers.
const CONTAINERD: Duration = Duration::from_secs(600);
/// Each attempt is a process in a busy node.
const BETWEEN: Duration = Duration::from_millis(500);
const CTR: [&str; 5] = [NODE, "k3s", "ctr", "--namespace", "k8s.io"];
/// Where containerd puts images without a registry in their name.
const LIBRARY: &str = "docker.io/library/";
/// Run in the node, with the label's value and the names as arguments.
const PIN: &str = "value=$1; shift; for image; do \
    k3s ctr --namespace k8s.io images label \"$image\" \"io.cri-containerd.pinned=$value\" || exit 1; done";

pub fn load_node(contents: &Contents) -> Result<(), String> {
    if run(SHORT, "docker", &["image", "inspect", &contents.node]).is_ok() {
        return Ok(());
    }
    let archive = format!("{SHARE}/node/{}.tar.zst", contents.node.replace(':', "-"));
    unpack_into(&archive, &["load", "--quiet"])
}

/// Imports what is missing, as soon as the node's containerd answers.
pub fn import(images: &[String]) -> Result<(), String> {
    let list: Vec<&str> =
        ["exec"].into_iter().chain(CTR).chain(["images", "ls", "--quiet"]).collect();
    let mut last = Err(String::new());
    wait_for(CONTAINERD, || {
        last = ready_for_exec().and_then(|()| run(LIMIT, "docker", &list));
        if last.is_err() {
            thread::sleep(BETWEEN);
        }
        last.is_ok().then_some(())
    });
    let there = last?;
    let import: Vec<&str> =
        ["exec", "--interactive"].into_iter().chain(CTR).chain(["images", "import", "-"]).collect();
    for image in images {
        let name = format!("{LIBRARY}{image}");
        if !there.lines().any(|line| line == name) {
            let archive = format!("{SHARE}/images/{}.tar.zst", image.replace(':', "-"));
            unpack_into(&archive, &import)?;
        }
    }
    Ok(())
}

/// An error as long as nothing may be executed in the node.
fn ready_for_exec() -> Result<(), String> {
    let pid = run(SHORT, "docker", &["container", "inspect", "--format", "{{.State.Pid}}", NODE])?;
    if cgroups::are_delegated_in(pid.trim()) {
        Ok(())
    } else {
        Err(format!("{NODE} has not delegated its cgroups yet"))
    }
}

/// Keeps the kubelet from deleting images when the disk is full: nobody could pull them again. An older version's may be deleted.
pub fn pin(images: &[String]) -> Result<(), String> {
    let is_old = |name: &&str| {
        name.strip_prefix(LIBRARY)
            .is_some_and(|name| name.starts_with("wiki-") && !images.iter().any(|new| new == name))
    };
    for (operator, value) in [("!=", "pinned"), ("==", "")] {
        let which = format!("labels.\"io.cri-containerd.pinned\"{operator}pinned");
        let list = [&["exec"], &CTR[..], &["images", "ls", "--quiet", &which]].concat();
        let listed = run(SHORT, "docker", &list)?;
        // An image is pinned by one of its names; the others are digests.
        let names: Vec<&str> = listed
            .lines()
            .filter(|name| !name.contains("sha256:") && is_old(name) == value.is_empty())
            .collect();
        if !names.is_empty() {
            let run_it = [&["exec", NODE, "sh", "-c", PIN, "sh", value][..], &names].concat();
            run(LIMIT, "docker", &run_it)?;
        }
    }
    Ok(())
}

/// `zstd --decompress ARCHIVE | docker ARGUMENTS`
fn unpack_into(archive: &str, arguments: &[&str]) -> Result<(), String> {
    let mut zstd = Command::new("zstd")
        .args(["--decompress", "--stdout", "--quiet", archive])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("zstd cannot be run: {error}"))?;
    let image = zstd.stdout.take().ok_or("zstd has no output")?;
    let done = run_with_input(LIMIT, "docker", arguments, image);
    match zstd.wait() {
        // If docker did not read everything, zstd was ended by a signal, and docker says why.
        Ok(status) if status.code().is_some_and(|code| code != 0) => {
            Err(format!("{archive} cannot be unpacked"))
        }
        _ => done.map(drop).map_err(|error| format!("{archive}: {error}")),
    }
}
