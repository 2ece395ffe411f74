//! `wiki-status`: the state of everything, in a few lines.

use crate::config::Contents;
use crate::report::{self, say};
use crate::{cluster, dockerd, health, pods};

pub fn run() -> Result<(), String> {
    let contents = Contents::read()?;
    report::banner(&contents);
    if !dockerd::answers() || !cluster::exists() {
        return Err(
            "there is no cluster yet: `docker logs --follow wiki-cluster` shows the progress"
                .into(),
        );
    }
    let mut healthy = health::api();
    say("");
    let pods = pods::list("--all-namespaces")?;
    let width = pods.iter().map(|pod| pod.name.len()).max().unwrap_or(0);
    say(&format!("{:width$}  ready  restarts  state", "pod"));
    for pod in &pods {
        let ready = if pod.ready { "yes" } else { "no" };
        say(&format!("{:width$}  {ready:5}  {:8}  {}", pod.name, pod.restarts, pod.state));
    }
    say("");
    say(&report::urls());
    if let Some(pod) = pods.iter().find(|pod| !pod.ready) {
        healthy = healthy.and(Err(format!("{} is not ready: {}", pod.name, pod.state)));
    }
    healthy
}
