//! The pods, as Kubernetes sees them.

use std::time::Duration;

use serde_json::Value;

use crate::config::RELEASE;
use crate::process::run;

const LIMIT: Duration = Duration::from_secs(15);

pub struct Pod {
    pub name: String,
    pub ready: bool,
    pub restarts: u64,
    pub state: String,
}

/// Pods that should be running; those that have completed are left out.
pub fn list(which: &str) -> Result<Vec<Pod>, String> {
    let text =
        run(LIMIT, "kubectl", &["get", "pods", which, "--output=json", "--request-timeout=10s"])?;
    let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    Ok(items.iter().filter(|pod| pod["status"]["phase"] != "Succeeded").map(read_pod).collect())
}

fn read_pod(pod: &Value) -> Pod {
    let status = &pod["status"];
    let containers = status["containerStatuses"].as_array().cloned().unwrap_or_default();
    let reason = containers
        .iter()
        .flat_map(|container| {
            [&container["state"]["waiting"]["reason"], &container["state"]["terminated"]["reason"]]
        })
        .find_map(Value::as_str)
        .or_else(|| status["phase"].as_str());
    let ready =
        !containers.is_empty() && containers.iter().all(|container| container["ready"] == true);
    let reason =
        reason.map(|reason| if reason == "Running" && !ready { "NotReady" } else { reason });
    Pod {
        name: pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        ready,
        restarts: containers
            .iter()
            .filter_map(|container| container["restartCount"].as_u64())
            .sum(),
        state: reason.unwrap_or("Unknown").to_owned(),
    }
}

/// The release's pods that are not ready, with the reason.
pub fn waiting_for() -> Option<String> {
    let selector = format!("--selector=app.kubernetes.io/instance={RELEASE}");
    let pods = list(&selector).ok()?;
    let waiting: Vec<String> = pods
        .iter()
        .filter(|pod| !pod.ready)
        .map(|pod| match last_words(pod) {
            Some(words) => format!("{} {} ({words})", pod.name, pod.state),
            None => format!("{} {}", pod.name, pod.state),
        })
        .collect();
    (!waiting.is_empty()).then(|| waiting.join(", "))
}

/// The last words of a crashing container. What a program says as it exits is not JSON, and may not be in the last line of its log.
fn last_words(pod: &Pod) -> Option<String> {
    if pod.state != "CrashLoopBackOff" {
        return None;
    }
    let arguments = ["logs", &pod.name, "--previous", "--tail=20", "--request-timeout=10s"];
    let log = run(LIMIT, "kubectl", &arguments).ok()?;
    let lines: Vec<&str> = log.lines().collect();
    let words = lines.iter().rfind(|line| !line.starts_with('{')).or(lines.last())?;
    Some((*words).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_waits_says_for_what() {
        let pod = read_pod(&serde_json::json!({
            "metadata": {"name": "a"},
            "status": {"phase": "Pending", "containerStatuses": [
                {"ready": false, "restartCount": 3, "state": {"waiting": {"reason": "ErrImagePull"}}}]}
        }));
        assert_eq!((pod.ready, pod.restarts, pod.state.as_str()), (false, 3, "ErrImagePull"));
    }
}
