//! The node: a k3s in a container of the inner Docker, created by k3d.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::config::{Config, Contents, SHARE};
use crate::machine;
use crate::process::{run, wait_for};
use crate::state::Volume;

const NAME: &str = "wiki";
pub const NODE: &str = "k3d-wiki-server-0";
/// What the node was made from: a different image or different options mean a new node.
const LABEL: &str = "wiki-cluster.node";
/// k3d deletes volumes that it has named itself, and those whose names begin with k3d-.
const VOLUMES: [(&str, &str); 2] =
    [("wiki-k3s", "/var/lib/rancher/k3s"), ("wiki-node", "/etc/rancher/node")];
const NETWORK: &str = "k3d-wiki";
/// Free space as absolute figures: k3s' percentages (5 %, and 10 % more once that is reached) are 75 GB of a 500 GB disk. No image
/// is deleted for being unused. All of this is less than what `machine` requires at a start.
const KUBELET_ARGS: [(&str, &str); 3] = [
    ("eviction-hard", "imagefs.available<256Mi,nodefs.available<256Mi"),
    ("eviction-minimum-reclaim", "imagefs.available=128Mi,nodefs.available=128Mi"),
    ("image-gc-high-threshold", "100"),
];
/// The token of every 0.1 node: k3s encrypts its data with it, so volumes of 0.1 keep it.
const FIRST_TOKEN: &str = "wiki-cluster";

const SHORT: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(300);

/// The node as it should be.
pub struct Node {
    /// `k3d cluster create` with everything but the label.
    command: Vec<String>,
    label: String,
    is_there: bool,
}

impl Node {
    /// Removes a node that differs from it.
    pub fn find_or_clear(
        config: &Config,
        contents: &Contents,
        volume: &mut Volume,
    ) -> Result<Node, String> {
        let command = command(config, contents, token(volume)?);
        let mut hasher = DefaultHasher::new();
        (&command, &config.address_pool).hash(&mut hasher);
        let label = format!("{} {:016x}", contents.node, hasher.finish());
        let format = format!("{{{{index .Config.Labels \"{LABEL}\"}}}}");
        let there = run(SHORT, "docker", &["container", "inspect", "--format", &format, NODE]).ok();
        let finished = &mut volume.state.node;
        let is_there =
            there.as_deref().map(str::trim) == Some(&label) && finished.as_deref() == Some(&label);
        if !is_there {
            let has_data = finished.is_some();
            if let Some(label) = finished {
                label.clear();
                volume.save()?;
            }
            clear(has_data)?;
        }
        Ok(Node { command, label, is_there })
    }

    /// Returns when Kubernetes answers.
    pub fn start(self, contents: &Contents, volume: &mut Volume) -> Result<(), String> {
        volume.adopt(contents)?;
        if self.is_there {
            run(SHORT, "docker", &["start", NODE])?;
        } else {
            self.create()?;
            remove_other_images(&contents.node);
        }
        write_kubeconfig()?;
        wait_for(LIMIT, || {
            run(SHORT, "kubectl", &["get", "--raw", "/readyz", "--request-timeout=5s"]).ok()
        })
        .ok_or_else(|| format!("Kubernetes is not ready after {} s", LIMIT.as_secs()))?;
        if !self.is_there {
            volume.state.node = Some(self.label);
            volume.save()?;
        }
        Ok(())
    }

    fn create(&self) -> Result<(), String> {
        // It lists what was imported into a volume that may be gone.
        let known = format!("{SHARE}/airgap/.cache.json");
        fs::write(&known, "").map_err(|error| format!("{known}: {error}"))?;
        let label = on_the_node(&format!("{LABEL}={}", self.label));
        let mut arguments: Vec<&str> = self.command.iter().map(String::as_str).collect();
        arguments.extend(["--runtime-label", &label]);
        run(LIMIT, "k3d", &arguments).map(drop)
    }
}

/// With it a node joins, and gets the keys of the cluster; pods can reach that port. So each volume has a token of its own.
fn token(volume: &mut Volume) -> Result<&str, String> {
    if volume.state.token.is_none() {
        let token = match volume.state.node {
            Some(_) => FIRST_TOKEN.to_owned(),
            None => random_token().map_err(|error| format!("/dev/urandom: {error}"))?,
        };
        volume.state.token = Some(token);
        volume.save()?;
    }
    Ok(volume.state.token.as_deref().expect("set above"))
}

fn random_token() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

fn command(config: &Config, contents: &Contents, token: &str) -> Vec<String> {
    let mut volumes: Vec<String> = VOLUMES.map(|(name, path)| format!("{name}:{path}")).into();
    volumes.push(format!("{SHARE}/airgap:/var/lib/rancher/k3s/agent/images"));
    volumes.push(format!(
        "{SHARE}/traefik.yaml:/var/lib/rancher/k3s/server/manifests/wiki-traefik.yaml"
    ));
    if let Some(folder) = machine::btrfs_device().as_deref().and_then(Path::parent) {
        volumes.push(format!("{0}:{0}", folder.display()));
    }
    // Of two with the same name either may win: k3d keeps them in a map, whose order is random.
    let kubelet = KUBELET_ARGS
        .iter()
        .filter(|(name, _)| config.kubelet_arg(name).is_none())
        .map(|(name, value)| format!("--kubelet-arg={name}={value}"));
    let k3s = ["--disable=metrics-server".to_owned()]
        .into_iter()
        .chain(kubelet)
        .chain(config.k3s_args.iter().cloned());

    let mut command: Vec<String> =
        ["cluster", "create", NAME, "--image", &contents.node, "--token", token, "--no-lb"]
            .map(str::to_owned)
            .into();
    command.extend(
        ["--port", "8080:80@server:0:direct", "--api-port", "127.0.0.1:6443"].map(str::to_owned),
    );
    command.push("--kubeconfig-update-default=false".into());
    command.extend(volumes.iter().flat_map(|volume| ["--volume".into(), on_the_node(volume)]));
    command.extend(k3s.flat_map(|argument| ["--k3s-arg".into(), on_the_node(&argument)]));
    command
}

/// For what k3d makes of an @, and of a backslash before one, see `SplitFiltersFromFlag` in its cmd/util/filter.go.
fn on_the_node(value: &str) -> String {
    let escape = if value.ends_with('\\') { "\\" } else { "" };
    format!("{}{escape}@server:0", value.replace('@', "\\@"))
}

fn clear(has_data: bool) -> Result<(), String> {
    run(SHORT, "k3d", &["cluster", "delete", NAME])?;
    // If no node is left to refer to it, k3d leaves the network, and the next node would end up in it.
    let filter = format!("name=^{NETWORK}$");
    let left = run(SHORT, "docker", &["network", "ls", "--quiet", "--filter", &filter])?;
    for network in left.lines() {
        run(SHORT, "docker", &["network", "rm", network])?;
    }
    if !has_data {
        for (name, _) in VOLUMES {
            run(SHORT, "docker", &["volume", "rm", "--force", name])?;
        }
    }
    Ok(())
}

/// Makes kubectl, helm and k3d work for everyone in the container.
fn write_kubeconfig() -> Result<(), String> {
    let kubeconfig = run(SHORT, "k3d", &["kubeconfig", "get", NAME])?;
    fs::create_dir_all("/root/.kube")
        .and_then(|()| fs::write("/root/.kube/config", kubeconfig))
        .map_err(|error| format!("/root/.kube/config: {error}"))
}

/// Those of older versions. One that cannot be removed only takes space.
fn remove_other_images(node: &str) {
    let repository = node.split(':').next().unwrap_or(node);
    let listed =
        run(SHORT, "docker", &["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository]);
    for image in listed.unwrap_or_default().lines().filter(|image| *image != node) {
        _ = run(SHORT, "docker", &["image", "rm", image]);
    }
}

pub fn exists() -> bool {
    run(SHORT, "docker", &["container", "inspect", NODE]).is_ok()
}

/// Stops the pods and then k3s, within the time given.
pub fn stop(limit: Duration) {
    let seconds = limit.as_secs().to_string();
    _ = run(limit + Duration::from_secs(2), "docker", &["stop", "--time", &seconds, NODE]);
}
