//! What the machine provides. Each check says what is missing and what to do.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::net::if_::if_nametoindex;
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::config::Config;
use crate::{cgroups, health, process};

const GIB: u64 = 1 << 30;
/// For the chart's pods (1.5 GiB), and k3s and dockerd (1 GiB).
const MEMORY: u64 = 5 * GIB / 2;
/// For images, which exist twice while they are imported, and the volumes of the release.
const DISK_AT_FIRST: u64 = 6 * GIB;
const DISK: u64 = GIB / 2;
/// Every pod needs some; k3s and its containerd alone more than the kernel's default of 128.
const INOTIFY: [(&str, u32); 2] = [("max_user_instances", 8192), ("max_user_watches", 524_288)];

pub const DATA: &str = "/var/lib/docker";

pub fn check(config: &Config, first_boot: bool) -> Result<(), String> {
    user_namespace(config)?;
    cgroups::check(config)?;
    memory()?;
    overlayfs()?;
    btrfs()?;
    disk(if first_boot { DISK_AT_FIRST } else { DISK })?;
    bridge_filter()?;
    iptables()?;
    port()
}

/// Kernel settings that can be changed without restarting anything.
pub fn prepare() -> Result<(), String> {
    for (limit, least) in INOTIFY {
        let path = format!("/proc/sys/fs/inotify/{limit}");
        let now = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(u32::MAX);
        if now < least {
            _ = fs::write(&path, least.to_string());
        }
    }
    // Docker's own Docker-in-Docker image does the same two things, in moby's hack/dind.
    let security = "/sys/kernel/security";
    if fs::read_dir(security).is_ok_and(|mut files| files.next().is_none()) {
        _ = mount(Some("none"), security, Some("securityfs"), MsFlags::empty(), None::<&str>);
    }
    cgroups::delegate()
}

/// Comes first: without it the other checks do not work.
pub fn check_privileged() -> Result<(), String> {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let read_only =
        |path| statvfs(path).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    if capabilities & SYS_ADMIN == 0 || read_only("/proc/sys") || read_only("/sys/fs/cgroup") {
        return Err("it runs a cluster inside, which needs `docker run --privileged`".into());
    }
    Ok(())
}

fn user_namespace(config: &Config) -> Result<(), String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.is_empty() || map.split_whitespace().eq(["0", "0", "4294967295"]);
    let gates = config.kubelet_arg("feature-gates").unwrap_or_default();
    if whole || gates.split(',').any(|gate| gate == "KubeletInUserNamespace=true") {
        Ok(())
    } else {
        Err("it is in a user namespace (a rootless Docker or Podman), in which the kubelet does not start: use a Docker that \
             runs as root, or try K3S_ARGS=--kubelet-arg=feature-gates=KubeletInUserNamespace=true"
            .into())
    }
}

fn memory() -> Result<(), String> {
    let total = fs::read_to_string("/proc/meminfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        })
        .map_or(u64::MAX, |kib| kib * 1024);
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .unwrap_or(u64::MAX);
    let there = total.min(limit);
    if there < MEMORY {
        return Err(format!(
            "too little memory: {} GiB, but {} GiB are needed",
            gib(there),
            gib(MEMORY)
        ));
    }
    Ok(())
}

fn disk(least: u64) -> Result<(), String> {
    let found = statvfs(DATA).map_err(|error| format!("{DATA}: {error}"))?;
    let free = found.blocks_available() * found.fragment_size();
    if free < least {
        return Err(format!(
            "too little disk: {} GiB free at {DATA}, but {} GiB are needed",
            gib(free),
            gib(least)
        ));
    }
    Ok(())
}

fn gib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    let amount = bytes as f64 / GIB as f64;
    format!("{amount:.1}")
}

/// By trying it, since the attempt may load a module, and the volume's file system may not support it.
fn overlayfs() -> Result<(), String> {
    let work = Path::new(DATA).join("wiki-cluster/overlay");
    let part = |name| work.join(name);
    let parts = ["lower", "upper", "work", "merged"];
    for name in parts {
        fs::create_dir_all(part(name))
            .map_err(|error| format!("{}: {error}", part(name).display()))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        part("lower").display(),
        part("upper").display(),
        part("work").display()
    );
    let mounted = mount(
        Some("overlay"),
        &part("merged"),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    );
    _ = umount2(&part("merged"), MntFlags::MNT_DETACH);
    _ = fs::remove_dir_all(&work);
    let supported =
        fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("\toverlay\n"));
    match mounted {
        Ok(()) => Ok(()),
        Err(_) if !supported => {
            Err("the kernel has no overlayfs: `modprobe overlay` on the machine that runs Docker"
                .into())
        }
        Err(error) => Err(format!(
            "overlayfs does not work on the file system at {DATA} ({}): give it a volume on ext4, xfs or btrfs",
            error.desc()
        )),
    }
}

/// The kubelet needs the device number of a btrfs, and looks for the device by the name with which it was mounted.
fn btrfs() -> Result<(), String> {
    match btrfs_device() {
        Some(device) if !device.exists() => {
            let folder = device.parent().unwrap_or(&device).display();
            Err(format!(
                "the volume at {DATA} is on a btrfs on {}, which does not exist in this container; without it the kubelet does \
                 not start: add --volume {folder}:{folder} to docker run",
                device.display()
            ))
        }
        _ => Ok(()),
    }
}

/// Only one in a folder of /dev, like the links of LUKS and LVM, which Docker does not bring into a container.
pub fn btrfs_device() -> Option<PathBuf> {
    device_of(Path::new(DATA), &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// `mounts` is in the format of proc_pid_mountinfo(5).
fn device_of(path: &Path, mounts: &str) -> Option<PathBuf> {
    let (_, kind, source) = mounts
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut file_system = file_system.split(' ');
            Some((mount.split(' ').nth(4)?, file_system.next()?, Path::new(file_system.next()?)))
        })
        .filter(|(point, ..)| path.starts_with(point))
        .max_by_key(|(point, ..)| point.len())?;
    let in_a_folder = source.starts_with("/dev") && source.parent() != Some(Path::new("/dev"));
    (kind == "btrfs" && in_a_folder).then(|| source.into())
}

/// Without it, a pod cannot reach another pod on the same node through a Service's address.
fn bridge_filter() -> Result<(), String> {
    let there = || Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists();
    if !there() {
        // The kernel takes the name of an unknown interface for a module's, and loads it outside the container,
        // where its file is. The modprobe in moby's Docker-in-Docker image works this way.
        _ = if_nametoindex("br_netfilter");
    }
    if there() {
        Ok(())
    } else {
        Err("the kernel has no br_netfilter: `modprobe br_netfilter` on the machine that runs Docker".into())
    }
}

fn iptables() -> Result<(), String> {
    for table in ["nat", "filter"] {
        process::run(Duration::from_secs(30), "iptables", &["--wait", "--table", table, "--numeric", "--list"]).map_err(
            |error| {
                format!("the kernel has no iptables: `modprobe -a nf_tables nft_compat` on the machine that runs Docker ({error})")
            },
        )?;
    }
    Ok(())
}

fn port() -> Result<(), String> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, health::PORT)).map(drop).map_err(|error| {
        format!("port {} is taken inside the container ({error}): leave out --network=host, or stop what is listening there", health::PORT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_of_a_btrfs() {
        let root = "1 0 0:26 / / rw - overlay overlay rw\n";
        let device = |line: &str| device_of(Path::new(DATA), &format!("{root}{line}"));
        let luks =
            "2 1 0:40 /@/v /var/lib/docker rw,noatime shared:7 - btrfs /dev/mapper/luks-1 rw,ssd";
        assert_eq!(device(luks).unwrap(), Path::new("/dev/mapper/luks-1"));
        assert_eq!(device("2 1 0:40 /v /var/lib/docker rw - btrfs /dev/sda5 rw"), None);
        assert_eq!(device("2 1 254:0 /v /var/lib/docker rw - ext4 /dev/mapper/vg-root rw"), None);
        assert_eq!(device("2 1 0:40 /v /var/lib/other rw - btrfs /dev/mapper/luks-1 rw"), None);
        assert_eq!(device(""), None);
    }
}
