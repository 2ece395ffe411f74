//! Boots the cluster image: dockerd, in it a k3d node, in that the release; and looks after it.

mod backup;
mod cgroups;
mod cluster;
mod config;
mod dockerd;
mod explain;
mod health;
mod images;
mod init;
mod machine;
mod pods;
mod process;
mod release;
mod report;
mod start;
mod state;
mod status;

use std::env;
use std::path::Path;
use std::process::ExitCode;

const HELP: &str = "\
wiki-cluster, in the container: docker exec wiki-cluster wiki-cluster COMMAND

  status    how everything is: pods, restarts, URLs, versions (also: wiki-status)
  health    exits with 0 if a request through port 8080 is answered from the database
  backup    writes a dump of the database to stdout:  docker exec wiki-cluster wiki-cluster backup > wiki.sql
  restore   reads one from stdin:                     docker exec -i wiki-cluster wiki-cluster restore < wiki.sql
  start     boots the cluster; the image's own command

Environment of the container, all of it optional:

  WIKI_VALUES             a YAML file in the container with values for the chart, needed at each start once it was given
  GRAFANA_ADMIN_PASSWORD  password of Grafana's first login, made at the first start
  K3S_ARGS                further options for `k3s server`, as in: --kubelet-arg=max-pods=50
  DOCKER_ADDRESS_POOL     where the networks of the Docker inside are; 198.18.0.0/15 unless it is set
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let called_as = Path::new(&arguments[0]).file_name().unwrap_or_default();
    let command = match &arguments[1..] {
        [] if called_as == "wiki-status" => "status",
        [] => "start",
        [command] => command,
        _ => "--help",
    };
    let done = match command {
        // Only the first process inherits the orphans of all others, and has to reap them.
        "start" if std::process::id() == 1 => return init::run(),
        "start" => start::run(),
        "status" => status::run(),
        "health" => health::api(),
        "backup" => backup::run(),
        "restore" => backup::restore(),
        "--help" => {
            print!("{HELP}");
            Ok(())
        }
        unknown => Err(format!("no such command: {unknown}; --help lists them")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("wiki-cluster: {message}");
            ExitCode::FAILURE
        }
    }
}
