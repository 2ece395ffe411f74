//! The node: a k3s in a container of the Docker inside, made by k3d.

use std::fs;
use std::time::Duration;

use crate::config::{Config, Contents, SHARE};
use crate::process::{run, wait_for};
use crate::state::Volume;

const NAME: &str = "wiki";
pub const NODE: &str = "k3d-wiki-server-0";
/// What the node was made from: another image or other options make another node.
const LABEL: &str = "wiki-cluster.node";
/// k3d deletes the volumes it has named itself, and those whose names begin with k3d-.
const VOLUMES: [(&str, &str); 2] =
    [("wiki-k3s", "/var/lib/rancher/k3s"), ("wiki-node", "/etc/rancher/node")];
/// The data on the volumes is sealed with it. It opens nothing: port 6443 is not published.
const TOKEN: &str = "wiki-cluster";

const SHORT: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(300);

/// The one that is wanted.
pub struct Node<'a> {
    config: &'a Config,
    contents: &'a Contents,
    label: String,
    is_there: bool,
}

impl<'a> Node<'a> {
    /// What is there instead of it is removed.
    pub fn find_or_clear(
        config: &'a Config,
        contents: &'a Contents,
        volume: &Volume,
    ) -> Result<Node<'a>, String> {
        let label = format!("{} {}", contents.node, config.k3s_args.join(" ")).trim().to_owned();
        let format = format!("{{{{index .Config.Labels \"{LABEL}\"}}}}");
        let there = run(SHORT, "docker", &["container", "inspect", "--format", &format, NODE]).ok();
        let finished = volume.state.node.as_deref();
        let is_there = there.as_deref().map(str::trim) == Some(&label) && finished == Some(&label);
        if !is_there {
            // Also what is left of one whose making was interrupted, such as a network.
            run(SHORT, "k3d", &["cluster", "delete", NAME])?;
            if finished.is_none() {
                for (name, _) in VOLUMES {
                    run(SHORT, "docker", &["volume", "rm", "--force", name])?;
                }
            }
        }
        Ok(Node { config, contents, label, is_there })
    }

    /// Until Kubernetes answers.
    pub fn start(self, volume: &mut Volume) -> Result<(), String> {
        volume.adopt(self.contents)?;
        if self.is_there {
            run(SHORT, "docker", &["start", NODE])?;
        } else {
            self.create()?;
            remove_other_images(&self.contents.node);
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
        let mut volumes: Vec<String> = VOLUMES.map(|(name, path)| format!("{name}:{path}")).into();
        volumes.push(format!("{SHARE}/airgap:/var/lib/rancher/k3s/agent/images"));
        volumes.push(format!(
            "{SHARE}/traefik.yaml:/var/lib/rancher/k3s/server/manifests/wiki-traefik.yaml"
        ));
        let volumes: Vec<String> =
            volumes.iter().map(|volume| format!("{volume}@server:0")).collect();
        let label = format!("{LABEL}={}@server:0", self.label);
        let k3s_args: Vec<String> = ["--disable=metrics-server"]
            .into_iter()
            .chain(self.config.k3s_args.iter().map(String::as_str))
            .map(|argument| format!("{}@server:0", argument.replace('@', "\\@")))
            .collect();

        let image = self.contents.node.as_str();
        let mut arguments =
            vec!["cluster", "create", NAME, "--image", image, "--token", TOKEN, "--no-lb"];
        arguments.extend(["--port", "8080:80@server:0:direct", "--api-port", "127.0.0.1:6443"]);
        arguments.extend(["--kubeconfig-update-default=false", "--runtime-label", &label]);
        arguments.extend(volumes.iter().flat_map(|volume| ["--volume", volume]));
        arguments.extend(k3s_args.iter().flat_map(|argument| ["--k3s-arg", argument]));
        run(LIMIT, "k3d", &arguments).map(drop)
    }
}

/// Makes kubectl, helm and k3d work for everyone in the container.
fn write_kubeconfig() -> Result<(), String> {
    let kubeconfig = run(SHORT, "k3d", &["kubeconfig", "get", NAME])?;
    fs::create_dir_all("/root/.kube")
        .and_then(|()| fs::write("/root/.kube/config", kubeconfig))
        .map_err(|error| format!("/root/.kube/config: {error}"))
}

/// An older version's. One that cannot be removed only takes room.
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
