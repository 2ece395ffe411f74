//! The images of the release, in the node's containerd.

use std::time::Duration;

use crate::cluster::NODE;
use crate::config::Contents;
use crate::process::run;

const LIMIT: Duration = Duration::from_secs(300);

/// Imports what is not there. The node sees the archives at /images.
pub fn import(contents: &Contents) -> Result<(), String> {
    let ctr = ["exec", NODE, "k3s", "ctr", "--namespace", "k8s.io", "images"];
    let there = run(LIMIT, "docker", &[&ctr[..], &["ls", "--quiet"]].concat())?;
    for image in &contents.images {
        let name = format!("docker.io/library/{image}");
        if !there.lines().any(|line| line == name) {
            let archive = format!("/images/{}.tar.zst", image.replace(':', "-"));
            run(LIMIT, "docker", &[&ctr[..], &["import", &archive]].concat())?;
        }
    }
    Ok(())
}
