//! The Helm release.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::time::Duration;

use crate::config::{Config, RELEASE, SHARE};
use crate::process::{run, wait_for};
use crate::{health, pods};

const LIMIT: Duration = Duration::from_secs(120);
/// Grafana's and Prometheus' first start takes long on a slow disk.
const READY: Duration = Duration::from_secs(600);

/// Installs or upgrades it, unless it is up to date.
pub fn install(config: &Config) -> Result<(), String> {
    let chart = format!("{SHARE}/chart.tgz");
    let description = describe(&chart, config)?;
    let status = run(LIMIT, "helm", &["status", RELEASE, "--output", "json"]).unwrap_or_default();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
    let info = &status["info"];
    if info["status"] == "deployed" && info["description"] == description.as_str() {
        return Ok(());
    }
    // Helm refuses to work on a release whose last change was interrupted. At startup nobody else is working on it.
    let pending = format!(
        "owner=helm,name={RELEASE},status in (pending-install,pending-upgrade,pending-rollback)"
    );
    run(LIMIT, "kubectl", &["delete", "secret", "--selector", &pending, "--ignore-not-found"])?;
    let mut arguments =
        vec!["upgrade", "--install", RELEASE, &chart, "--description", &description];
    arguments.extend(["--history-max", "3", "--timeout", "100s"]);
    arguments.extend(config.helm_values());
    run(LIMIT, "helm", &arguments).map(drop)
}

/// The release's description says which chart and values it was made from.
fn describe(chart: &str, config: &Config) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    for path in [chart].into_iter().chain(config.values.iter().map(String::as_str)) {
        hasher.write(&fs::read(path).map_err(|error| format!("{path}: {error}"))?);
    }
    Ok(format!("wiki-cluster {:016x}", hasher.finish()))
}

/// Waits for every pod, and for a response through port 8080.
pub fn wait_until_ready() -> Result<(), String> {
    let seconds = READY.as_secs();
    let selector = format!("--selector=app.kubernetes.io/instance={RELEASE}");
    let timeout = format!("--timeout={seconds}s");
    run(
        READY + LIMIT,
        "kubectl",
        &["rollout", "status", "deployment,statefulset", &selector, &timeout],
    )
    .map_err(|error| match pods::waiting_for() {
        Some(waiting) => format!("{waiting} ({error})"),
        None => error,
    })?;
    let mut last = Ok(());
    // k3s installs Traefik with jobs of its own, which may finish last.
    wait_for(READY, || {
        last = health::api();
        last.is_ok().then_some(())
    });
    last
}
