//! The state kept on the volume at /var/lib/docker: which version used it last, and whether it holds a cluster.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::OnceLock;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Contents, UserValues};
use crate::process;

const DIRECTORY: &str = "/var/lib/docker/wiki-cluster";

#[derive(Default, Serialize, Deserialize)]
pub struct State {
    /// Those of the image that was last started on it.
    pub versions: BTreeMap<String, String>,
    /// The completely created node; empty while it is being replaced. Without one there is nothing yet that anyone could
    /// have written to.
    pub node: Option<String>,
    /// What k3s encrypts its data with.
    pub token: Option<String>,
    /// Whether the last start was given a file of values.
    #[serde(default)]
    pub has_values: bool,
}

/// Held as long as the process lives, since what it has started uses the volume.
static LOCK: OnceLock<File> = OnceLock::new();

pub struct Volume {
    pub state: State,
}

impl Volume {
    pub fn open() -> Result<Volume, String> {
        let failed = |error| format!("{DIRECTORY}: {error}");
        fs::create_dir_all(DIRECTORY).map_err(failed)?;
        let lock = File::create(format!("{DIRECTORY}/lock")).map_err(failed)?;
        lock.try_lock().map_err(|_| {
            "another container is using the volume at /var/lib/docker: stop that one first"
                .to_owned()
        })?;
        _ = LOCK.set(lock);
        let state = match fs::read(file()) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| format!("{}: {error}", file().display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => State::default(),
            // Treating it as empty would delete the data.
            Err(error) => return Err(format!("{}: {error}", file().display())),
        };
        Ok(Volume { state })
    }

    pub fn refuse_downgrade(&self, contents: &Contents) -> Result<(), String> {
        refuse_downgrade(&self.state.versions, &contents.versions)
    }

    /// Values belong to the container, not to the volume: without them an upgrade would silently go back to the
    /// chart's defaults, under which anyone may write.
    pub fn refuse_forgotten_values(&mut self, config: &Config) -> Result<(), String> {
        if self.state.has_values && config.user_values == UserValues::NotSet {
            return Err(
                "the volume at /var/lib/docker was last used with WIKI_VALUES, which is not set now: set it again, or to \
                 nothing (WIKI_VALUES=) for the chart's defaults, with which anyone may write"
                    .into(),
            );
        }
        self.state.has_values = config.user_values == UserValues::Given;
        self.save()
    }

    /// From now on, older versions are refused.
    pub fn adopt(&mut self, contents: &Contents) -> Result<(), String> {
        self.state.versions.clone_from(&contents.versions);
        self.save()
    }

    pub fn save(&self) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(&self.state).map_err(|error| error.to_string())?;
        process::replace_file(&file(), &text)
            .map_err(|error| format!("{}: {error}", file().display()))
    }
}

fn file() -> PathBuf {
    [DIRECTORY, "state.json"].iter().collect()
}

/// An older program must not get data written by a newer one. PostgreSQL refuses both directions.
fn refuse_downgrade(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> Result<(), String> {
    for program in ["wiki-cluster", "k3s"] {
        if let (Some(old), Some(new)) = (old.get(program), new.get(program))
            && parse(new)? < parse(old)?
        {
            return Err(format!(
                "downgrade refused: the volume at /var/lib/docker was used by {program} {old}, but this image has {new}; \
                 use that version or a newer one, or restore a backup on a new volume"
            ));
        }
    }
    if let (Some(old), Some(new)) = (old.get("postgresql"), new.get("postgresql"))
        && major(old) != major(new)
    {
        let way = if major(new) < major(old) {
            "use an image with that version"
        } else {
            "make a backup with the old image and restore it on a new volume"
        };
        return Err(format!(
            "the volume at /var/lib/docker holds a database of PostgreSQL {old}, but this image has {new}: {way}"
        ));
    }
    Ok(())
}

/// Unlike the specification, this also compares build metadata: `1.35.5+k3s2` is newer than `1.35.5+k3s1`.
fn parse(version: &str) -> Result<Version, String> {
    Version::parse(version).map_err(|error| format!("the version {version}: {error}"))
}

/// `16.9` is 16, and so is `16rc1`.
fn major(version: &str) -> Option<u64> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(cluster: &str, k3s: &str, postgresql: &str) -> BTreeMap<String, String> {
        [("wiki-cluster", cluster), ("k3s", k3s), ("postgresql", postgresql)]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into()
    }

    #[test]
    fn what_may_follow_what() {
        let refused = |old, new| refuse_downgrade(&old, &new).err();
        let now = || versions("0.9.0", "1.35.5+k3s1", "16.9");
        assert_eq!(refused(BTreeMap::new(), now()), None);
        assert_eq!(refused(now(), now()), None);
        assert_eq!(refused(now(), versions("0.10.0", "1.36.0+k3s1", "16.10")), None);
        assert_eq!(refused(now(), versions("0.9.0", "1.35.5+k3s2", "16.8")), None);
        assert_eq!(refused(versions("0.9.0-rc1", "1.35.5-rc1+k3s1", "16rc1"), now()), None);
        assert_eq!(refused(now(), versions("0.9.1-rc1", "1.35.6-rc1+k3s1", "16.9")), None);
        assert!(
            refused(now(), versions("0.9.0-rc1", "1.35.5+k3s1", "16.9"))
                .unwrap()
                .contains("this image has 0.9.0-rc1")
        );
        assert!(
            refused(now(), versions("0.8.9", "1.35.5+k3s1", "16.9"))
                .unwrap()
                .contains("wiki-cluster 0.9.0")
        );
        assert!(
            refused(now(), versions("0.9.0", "1.35.4+k3s9", "16.9"))
                .unwrap()
                .contains("k3s 1.35.5+k3s1")
        );
        assert!(
            refused(now(), versions("1.0.0", "1.36.0+k3s1", "17.1"))
                .unwrap()
                .contains("make a backup with the old image")
        );
        assert!(
            refused(now(), versions("0.9.0", "1.35.5+k3s1", "15.9"))
                .unwrap()
                .contains("PostgreSQL 16.9, but this image has 15.9: use an image")
        );
    }
}
