//! Boots the cluster image: dockerd, inside it a k3d node, inside that the release; and watches over it.

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

  status    shows pods, restarts, URLs and versions (also: wiki-status)
  health    exits with 0 if a request through port 8080 is answered from the database
  backup    writes a dump of the database to stdout:  docker exec wiki-cluster wiki-cluster backup > wiki.sql
  restore   reads a dump from stdin:                  docker exec -i wiki-cluster wiki-cluster restore < wiki.sql
  start     boots the cluster; the image's default command

Environment of the container, all of it optional:

  WIKI_VALUES             a YAML file in the container with values for the chart; once given, needed at each start
  GRAFANA_ADMIN_PASSWORD  password of Grafana's first login, created at the first start
  K3S_ARGS                further options for `k3s server`, for example --kubelet-arg=max-pods=50
  DOCKER_ADDRESS_POOL     where the networks of the inner Docker are; by default 198.18.0.0/15
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
        // Only process 1 inherits orphans, and has to reap them.
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
