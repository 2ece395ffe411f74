//! The images of the release, in the node's containerd.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cluster::NODE;
use crate::config::{Contents, SHARE};
use crate::process::{run, run_with_input};

const LIMIT: Duration = Duration::from_secs(300);

/// Imports what is not there.
pub fn import(contents: &Contents) -> Result<(), String> {
    let there = run(
        LIMIT,
        "docker",
        &["exec", NODE, "k3s", "ctr", "--namespace", "k8s.io", "images", "ls", "--quiet"],
    )?;
    for image in &contents.images {
        let name = format!("docker.io/library/{image}");
        if !there.lines().any(|line| line == name) {
            let archive = format!("{SHARE}/images/{}.tar.zst", image.replace(':', "-"));
            let import = [
                "exec",
                "--interactive",
                NODE,
                "k3s",
                "ctr",
                "--namespace",
                "k8s.io",
                "images",
                "import",
                "-",
            ];
            unpack_into(&archive, &import)?;
        }
    }
    Ok(())
}

/// `zstd --decompress ARCHIVE | docker ARGUMENTS`
pub fn unpack_into(archive: &str, arguments: &[&str]) -> Result<(), String> {
    let mut zstd = Command::new("zstd")
        .args(["--decompress", "--stdout", "--quiet", archive])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("zstd cannot be run: {error}"))?;
    let image = zstd.stdout.take().ok_or("zstd has no output")?;
    let done = run_with_input(LIMIT, "docker", arguments, image);
    _ = zstd.wait();
    done.map(drop).map_err(|error| format!("{archive}: {error}"))
}
