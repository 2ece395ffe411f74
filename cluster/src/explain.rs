//! What one would look at when a step has failed.

use std::fs;
use std::time::Duration;

use crate::config::RELEASE;
use crate::process::{last_lines, run};
use crate::report::say;
use crate::{cluster, dockerd};

/// Components that are not up yet are left out.
pub fn explain() {
    let limit = Duration::from_secs(15);
    let show = |title: &str, program: &str, arguments: &[&str]| {
        if let Ok(text) = run(limit, program, arguments)
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
