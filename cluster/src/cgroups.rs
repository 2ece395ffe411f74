//! Control groups: what the kubelet requires of them, and their delegation to what runs inside.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::config::Config;
use crate::process::wait_for;

const ROOT: &str = "/sys/fs/cgroup";
/// k3s exits if one of them is missing.
const NEEDED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
const LIMIT: Duration = Duration::from_secs(10);

/// Before anything is moved to another group.
pub fn check(config: &Config) -> Result<(), String> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Other lines are additionally mounted hierarchies of cgroup v1.
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let controllers = fs::read_to_string(format!("{ROOT}{own}/cgroup.controllers"))
        .or_else(|_| fs::read_to_string(format!("{ROOT}/cgroup.controllers")));
    let Ok(controllers) = controllers else {
        if config.kubelet_arg("fail-cgroupv1") == Some("false") {
            return Ok(());
        }
        return Err("this machine has cgroup v1, on which the kubelet does not start: boot it with the kernel's option \
                    systemd.unified_cgroup_hierarchy=1 (in WSL: cgroup_no_v1=all), or set \
                    K3S_ARGS=--kubelet-arg=fail-cgroupv1=false"
            .into());
    };
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|needed| controllers.split_whitespace().all(|name| name != *needed))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "the cgroup of this container has no {}, which k3s needs: enable it on the machine that runs Docker \
             (a hierarchy of cgroup v1 may have taken it: see /proc/cgroups)",
            missing.join(", ")
        ))
    }
}

/// cgroup v2 delegates controllers only from a group without processes of its own.
pub fn delegate() -> Result<(), String> {
    let root = Path::new(ROOT);
    let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) else {
        return Ok(());
    };
    let init = root.join("init");
    _ = fs::create_dir(&init);
    let all: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    let all = all.join(" ");
    let mut last = Ok(());
    // As in moby's hack/dind: an exec into this container, such as the health check, may add a process between the two steps.
    wait_for(LIMIT, || {
        for pid in fs::read_to_string(root.join("cgroup.procs")).unwrap_or_default().lines() {
            _ = fs::write(init.join("cgroup.procs"), pid);
        }
        last = fs::write(root.join("cgroup.subtree_control"), &all);
        last.is_ok().then_some(())
    });
    last.map_err(|error| format!("{ROOT}/cgroup.subtree_control: {error}"))
}

/// Whether the container with this first process has done the same, by k3d's script. Until then an exec into it could make the
/// script fail, and the node with it: the script tries only once.
pub fn are_delegated_in(pid: &str) -> bool {
    !Path::new(ROOT).join("cgroup.controllers").exists()
        || fs::read_to_string(format!("/proc/{pid}/root{ROOT}/cgroup.subtree_control"))
            .is_ok_and(|controllers| !controllers.trim().is_empty())
}
