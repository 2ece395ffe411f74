//! The image's contents and the user's settings. Everything is checked before anything is started.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;
use std::{env, fs};

use serde::Deserialize;

use crate::process;

/// Written by nix/images/cluster-image.nix.
pub const SHARE: &str = "/usr/share/wiki-cluster";
pub const RELEASE: &str = "wiki-release";
/// Written at every start: values from the environment.
const VALUES_OF_ENVIRONMENT: &str = "/run/wiki-cluster-values.json";
/// A block reserved for benchmarking network devices (RFC 2544), which no machine's network should use.
const ADDRESS_POOL: &str = "198.18.0.0/15";
/// Options that this program sets itself, or that would lose the data if changed.
const OWN_OPTIONS: [&str; 6] =
    ["--cluster-init", "--config", "--data-dir", "--disable", "--node-name", "--token"];

#[derive(Deserialize)]
pub struct Contents {
    /// By program name, including `wiki-cluster` itself.
    pub versions: BTreeMap<String, String>,
    /// `name:tag` of the node's image.
    pub node: String,
    /// `name:tag` of the release's images.
    pub images: Vec<String>,
    /// The options that `k3s server` knows.
    pub k3s_options: Vec<String>,
}

impl Contents {
    pub fn read() -> Result<Contents, String> {
        let path = format!("{SHARE}/contents.json");
        let text = fs::read(&path).map_err(|error| {
            format!("{path}: {error}; this program runs only in the cluster image")
        })?;
        serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))
    }

    pub fn version(&self) -> &str {
        self.versions.get("wiki-cluster").map_or("?", String::as_str)
    }
}

/// What `WIKI_VALUES` says.
#[derive(PartialEq)]
pub enum UserValues {
    NotSet,
    /// The chart's defaults are wanted.
    Empty,
    Given,
}

pub struct Config {
    pub values: Vec<String>,
    pub user_values: UserValues,
    pub k3s_args: Vec<String>,
    /// Where the inner Docker's networks are, each of them a /24.
    pub address_pool: String,
}

impl Config {
    pub fn read(contents: &Contents) -> Result<Config, String> {
        let variable = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let mut values = vec![format!("{SHARE}/values.yaml")];
        let mut user_values = match env::var_os("WIKI_VALUES") {
            Some(_) => UserValues::Empty,
            None => UserValues::NotSet,
        };
        if let Some(path) = variable("WIKI_VALUES") {
            fs::read_to_string(&path)
                .map_err(|error| format!("WIKI_VALUES={path}: {error}; mount the file there"))?;
            values.push(path);
            user_values = UserValues::Given;
        }
        if let Some(password) = variable("GRAFANA_ADMIN_PASSWORD") {
            check_password(&password)?;
            let content = serde_json::json!({"grafana": {"adminPassword": password}}).to_string();
            process::replace_file(VALUES_OF_ENVIRONMENT.as_ref(), content.as_bytes())
                .map_err(|error| format!("{VALUES_OF_ENVIRONMENT}: {error}"))?;
            values.push(VALUES_OF_ENVIRONMENT.into());
        }
        let k3s_args =
            parse_k3s_args(&variable("K3S_ARGS").unwrap_or_default(), &contents.k3s_options)?;
        let address_pool = variable("DOCKER_ADDRESS_POOL").unwrap_or_else(|| ADDRESS_POOL.into());
        check_address_pool(&address_pool)?;
        let config = Config { values, user_values, k3s_args, address_pool };
        config.render(contents)?;
        Ok(config)
    }

    /// `--values` for each file; later ones override earlier ones.
    pub fn helm_values(&self) -> Vec<&str> {
        self.values.iter().flat_map(|path| ["--values", path]).collect()
    }

    /// The user's value for a kubelet option: `NAME=VALUE`, to k3s also with leading dashes.
    pub fn kubelet_arg(&self, name: &str) -> Option<&str> {
        self.k3s_args.iter().rev().find_map(|argument| {
            let (option, value) = argument.strip_prefix("--kubelet-arg=")?.split_once('=')?;
            let option = option.trim_start_matches('-').trim_end_matches(['+', '-']);
            (option.replace('_', "-") == name).then_some(value)
        })
    }

    /// The chart validates the values by its schema; port 8080 needs some of them unchanged.
    fn render(&self, contents: &Contents) -> Result<(), String> {
        let chart = format!("{SHARE}/chart.tgz");
        let kubernetes = contents
            .versions
            .get("k3s")
            .and_then(|version| version.split('+').next())
            .unwrap_or_default();
        let mut arguments = vec![
            "template",
            RELEASE,
            &chart,
            "--kube-version",
            kubernetes,
            "--show-only",
            "templates/ingress.yaml",
        ];
        arguments.extend(self.helm_values());
        let ingress =
            process::run(Duration::from_secs(60), "helm", &arguments).map_err(|error| {
                if error.contains("could not find template") {
                    "WIKI_VALUES: ingress.enabled is false, but port 8080 needs the Ingress"
                        .to_owned()
                } else {
                    format!("WIKI_VALUES: {}", error.trim_start_matches("Error: "))
                }
            })?;
        if !ingress.contains("path: /users") {
            return Err(
                "WIKI_VALUES: api.enabled is false, but this image is for running the API".into()
            );
        }
        if ingress.contains(" host:") || ingress.contains(" tls:") {
            return Err("WIKI_VALUES: ingress.host and ingress.tls have to be empty: port 8080 serves every host name".into());
        }
        Ok(())
    }
}

fn check_password(password: &str) -> Result<(), String> {
    if password.chars().any(char::is_control) {
        return Err(
            "GRAFANA_ADMIN_PASSWORD: it contains a line break or another control character".into(),
        );
    }
    // Grafana's own minimum, below which its login form refuses to change it.
    if password.chars().count() < 4 {
        return Err("GRAFANA_ADMIN_PASSWORD: Grafana requires at least 4 characters".into());
    }
    Ok(())
}

fn check_address_pool(pool: &str) -> Result<(), String> {
    let parts = pool.split_once('/').and_then(|(address, prefix)| {
        Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u32>().ok()?))
    });
    match parts {
        Some((address, 8..=22)) if !address.is_unspecified() => Ok(()),
        _ => Err(format!(
            "DOCKER_ADDRESS_POOL: {pool} is not an IPv4 network from /8 to /22, such as {ADDRESS_POOL}"
        )),
    }
}

fn parse_k3s_args(text: &str, known: &[String]) -> Result<Vec<String>, String> {
    let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    for argument in &arguments {
        let option = argument.split('=').next().unwrap_or_default();
        if !option.starts_with("--") {
            return Err(format!("K3S_ARGS: {argument} is not an option: write --option=value"));
        }
        if argument.contains("\\@") {
            return Err(format!(
                "K3S_ARGS: {argument}: k3d cannot pass on a backslash before an @"
            ));
        }
        if OWN_OPTIONS.contains(&option) {
            return Err(format!("K3S_ARGS: {option} is set by the image itself"));
        }
        if !known.iter().any(|known| known == option) {
            return Err(format!(
                "K3S_ARGS: k3s has no option {option}; `docker exec wiki-cluster docker exec k3d-wiki-server-0 k3s server --help` lists them"
            ));
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_k3s() {
        let known = ["--kubelet-arg".to_owned(), "--token".to_owned(), "--debug".to_owned()];
        let parse = |text| parse_k3s_args(text, &known);
        assert_eq!(parse(" --debug\n--kubelet-arg=max-pods=50 ").unwrap().len(), 2);
        assert_eq!(parse("").unwrap().len(), 0);
        assert!(
            parse("--kubelet-arg max-pods=50")
                .unwrap_err()
                .contains("max-pods=50 is not an option")
        );
        assert!(parse("--no-such=1").unwrap_err().contains("has no option --no-such"));
        assert!(parse("--debug=\\@").unwrap_err().contains("backslash before an @"));
        assert!(parse("--token=x").unwrap_err().contains("--token is set by the image"));
    }

    #[test]
    fn passwords() {
        assert!(check_password("pass word").is_ok());
        assert!(check_password("abc").is_err());
        assert!(check_password("abcd\n").is_err());
    }
}
