"""The start program, with test doubles of what it runs: steps, refusals, nothing done twice."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from support.page import documented_values

PAUSE = "docker.io/rancher/mirrored-pause:3.6"
STEPS = ["docker", "node image", "cluster", "images", "release", "ready"]
# An overlayfs cannot be the upper layer of another one.
NESTED = """
    mount -t tmpfs tmpfs /mnt
    cd /mnt
    mkdir lower upper work
    mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay /var/lib/docker
"""
WITHOUT_OVERLAY = """
    grep -v overlay /proc/filesystems >/run/filesystems
    mount --bind /run/filesystems /proc/filesystems
"""
SQUATTER = """
    python3 -m http.server 8080 >/dev/null 2>&1 &
    curl --silent --output /dev/null --retry 30 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080
"""

# 7 of 200 GB are free, in a mostly sparse file.
LARGE_DISK = """
    truncate --size=200G {folder}/disk
    mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=1,nodiscard {folder}/disk
    mount -o loop {folder}/disk /var/lib/docker
    free=$(df --output=avail --block-size=1 /var/lib/docker | tail -1)
    fallocate --length $((free - (7 << 30))) /var/lib/docker/ballast
"""
# Its device is in a folder of /dev, as with LUKS and LVM.
BTRFS = """
    truncate --size=8G {folder}/disk
    mkfs.btrfs --quiet --force {folder}/disk
    mount -t tmpfs tmpfs /mnt
    # Others' files in /dev/shm come and go.
    find /dev -mindepth 1 -maxdepth 1 -not -name shm -exec cp --archive -t /mnt {{}} +
    mount --bind /mnt /dev
    mkdir -p /dev/mapper
    loop=$(losetup --find --show {folder}/disk)
    mknod /dev/mapper/luks-1 b $(stat --format='0x%t 0x%T' $loop)
    mount /dev/mapper/luks-1 /var/lib/docker
    losetup --detach $loop
    touch /var/lib/docker/calls
    mount --bind {folder}/volume/calls /var/lib/docker/calls
"""

LIMITED = """
api:
  rateLimit: {perSecond: 0.5}
  extraEnv: [{name: TRUSTED_PROXIES, value: 10.42.0.0/16}]
"""


def test_the_first_boot_reads_well(machine) -> None:
    lines = machine.boot()
    assert lines[0] == "wiki-cluster 0.2.0"
    assert lines[1] == "with docker 29.1.0, k3s 1.35.5+k3s1, postgresql 16.9"
    done = [line for line in lines if re.fullmatch(r"\[\d/6\] [a-z ]+: \d+\.\d s", line)]
    assert [line.split("] ")[1].split(":")[0] for line in done] == STEPS
    for path in ("/users", "/docs", "/redoc", "/metrics", "/grafana/"):
        assert any(f"http://localhost:8080{path}" in line for line in lines)
    assert re.fullmatch(r"Stopped in \d+\.\d s", lines[-1])


def test_a_stop_is_over_before_docker_kills(machine) -> None:
    """By `docker stop`, after ten seconds. Here the node is slow, and dockerd never exits."""
    *_, last = machine.boot(BROKEN="stop")
    assert float(last.removeprefix("Stopped in ").removesuffix(" s")) < 9.5
    assert any(call == "dockerd heard SIGTERM" for call in machine.calls)


def test_dockerd_inherits_no_blocked_signal(machine) -> None:
    machine.boot()
    assert "blocked signals: 0000000000000000" in machine.calls


def test_nothing_is_done_twice(machine) -> None:
    machine.boot()
    once = ("docker load", "k3d cluster create", "images import", "helm upgrade")
    for call in once:
        assert any(call in each for each in machine.calls), call
    machine.forget_calls()
    machine.boot()
    for call in once:
        assert not any(call in each for each in machine.calls), call
    assert any("docker start k3d-wiki-server-0" in each for each in machine.calls)


def test_a_changed_node_keeps_the_volumes(machine) -> None:
    machine.boot()
    machine.forget_calls()
    machine.describe(node="wiki-k3s:m", wiki_cluster="0.3.0")
    (machine.share / "node/wiki-k3s-m.tar.zst").write_text("wiki-k3s:m")
    machine.boot()
    assert any(call.startswith("k3d cluster create") for call in machine.calls)
    assert not any("volume rm" in call for call in machine.calls)
    assert "docker image rm wiki-k3s:n" in machine.calls


def test_no_two_volumes_have_the_same_token(machine) -> None:
    """Whoever knows it and can reach k3s, as every pod can, gets the keys of the cluster."""
    machine.boot()
    first = machine.memory["token"]
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    shutil.rmtree(machine.volume)
    machine.volume.mkdir()
    machine.boot()
    assert machine.memory["token"] not in (first, "wiki-cluster")


def test_what_was_never_finished_is_begun_anew(machine) -> None:
    assert "k3d is broken" in machine.refuse(BROKEN="k3d")
    machine.forget_calls()
    machine.boot()
    assert "docker volume rm --force wiki-k3s" in machine.calls


def test_options_of_k3s_reach_it(machine) -> None:
    machine.boot(K3S_ARGS="--debug --kubelet-arg=max-pods=50")
    given = machine.memory["node"]["arguments"]
    assert given[-2:] == ["--debug", "--kubelet-arg=max-pods=50"]
    machine.boot()
    creations = [call for call in machine.calls if call.startswith("k3d cluster create")]
    assert len(creations) == 2, "different options mean a new node"


def test_characters_that_mean_something_to_k3d(machine) -> None:
    options = ["--kubelet-arg=node-labels=a@b,c=d", "--debug=e\\"]
    machine.boot(K3S_ARGS=" ".join(options))
    assert machine.memory["node"]["arguments"][-2:] == options
    label = machine.memory["node"]["label"]
    assert "a@b" not in label, "an option may hold a password, and labels are for everyone"


def test_an_option_of_the_kubelet_takes_the_place_of_ours(machine) -> None:
    machine.boot(K3S_ARGS="--kubelet-arg=eviction-hard=nodefs.available<1Gi")
    given = [each for each in machine.memory["node"]["arguments"] if "eviction-hard" in each]
    assert given == ["--kubelet-arg=eviction-hard=nodefs.available<1Gi"]


def test_cgroup_v1_where_the_kubelet_is_told_to_take_it(machine) -> None:
    before = "rm /sys/fs/cgroup/cgroup.*"
    machine.boot(before=before, K3S_ARGS="--kubelet-arg=fail-cgroupv1=false")


def test_a_node_cleared_after_its_import_imports_again(machine) -> None:
    assert "k3d is killed" in machine.refuse(BROKEN="k3d after the start")
    machine.boot()


def test_a_swap_of_nodes_that_was_cut_off_twice(machine) -> None:
    machine.boot()
    cut_off = {"BROKEN": "k3d before its files"}
    assert "k3d is killed" in machine.refuse(K3S_ARGS="--debug", **cut_off)
    assert "k3d is killed" in machine.refuse(**cut_off)
    machine.forget_calls()
    machine.boot()
    assert not any("volume rm" in call for call in machine.calls)


def test_every_image_is_pinned_after_each_start(machine) -> None:
    for _ in range(2):
        machine.boot()
        imported = machine.memory["imported"]
        names = {name for name in imported if not name.startswith("sha256:")}
        assert len(names) == 3
        assert {name for name in names if "io.cri-containerd.pinned" in imported[name]} == names


def test_an_older_versions_images_may_go(machine) -> None:
    machine.boot()
    machine.describe(images=["wiki-service:c"], wiki_cluster="0.3.0")
    (machine.share / "images/wiki-service-c.tar.zst").write_text("wiki-service:c")
    machine.boot()
    imported = machine.memory["imported"]
    pinned = {name for name in imported if "io.cri-containerd.pinned" in imported[name]}
    assert pinned == {PAUSE, "docker.io/library/wiki-service:c"}


def test_a_process_that_comes_while_cgroups_are_handed_on(machine) -> None:
    """Like an exec: the first attempt fails."""
    control = "/sys/fs/cgroup/cgroup.subtree_control"
    machine.boot(
        before=f"""
            mount --bind /dev/full {control}
            (
              until [ -e /sys/fs/cgroup/init ]; do sleep 0.1; done
              until umount {control}; do sleep 0.01; done
            ) &
        """
    )


def test_networks_that_no_machine_should_be_in(machine) -> None:
    machine.boot()
    assert "docker0: 198.18.0.0/24" in machine.calls
    assert machine.memory["network"] == "198.18.1.0/24"
    machine.boot(DOCKER_ADDRESS_POOL="10.200.0.0/16")
    assert "docker0: 10.200.0.0/24" in machine.calls
    assert machine.memory["network"] == "10.200.1.0/24"
    assert not any("volume rm" in call for call in machine.calls[len(machine.calls) // 2 :])


def test_a_network_that_was_left_without_its_node(machine) -> None:
    """k3d deletes the node first, and its network only where there was a node."""
    machine.boot()
    memory = machine.memory | {"node": None, "network": "172.18.0.0/16"}
    (machine.volume / "double.json").write_text(json.dumps(memory))
    machine.boot()
    assert machine.memory["network"] == "198.18.1.0/24"


def test_a_volume_of_0_1_keeps_its_data_and_not_its_network(machine) -> None:
    machine.boot()
    state = machine.volume / "wiki-cluster/state.json"
    state.write_text(json.dumps({"versions": {"wiki-cluster": "0.1.0"}, "node": "wiki-k3s:n"}))
    memory = machine.memory
    memory["node"]["label"] = "wiki-k3s:n"
    memory["network"] = "172.18.0.0/16"
    memory["token"] = "wiki-cluster"
    (machine.volume / "double.json").write_text(json.dumps(memory))
    machine.forget_calls()
    machine.boot()
    assert machine.memory["network"] == "198.18.1.0/24"
    assert not any("volume rm" in call or "images import" in call for call in machine.calls)


def test_some_gigabytes_of_a_large_disk_are_not_full(machine) -> None:
    machine.boot(before=LARGE_DISK.format(folder=machine.directory))


@pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="no mkfs.btrfs (btrfs-progs)")
def test_btrfs_on_luks(machine) -> None:
    (machine.volume / "calls").touch()
    before = BTRFS.format(folder=machine.directory)
    line = machine.refuse(before=f"{before}\nrm /dev/mapper/luks-1")
    assert "add --volume /dev/mapper:/dev/mapper to docker run" in line
    assert machine.calls == [call for call in machine.calls if call.startswith("helm template")]
    machine.boot(before=before)
    assert any("--volume /dev/mapper:/dev/mapper@server:0" in call for call in machine.calls)


def test_ctrl_c_is_for_the_first_process_alone(machine) -> None:
    with machine.run(RUN="setsid") as (process, _):
        os.killpg(machine.first_process(process), signal.SIGINT)  # like a terminal
        assert process.wait(timeout=30) == 0
    heard = [call for call in machine.calls if call.startswith("dockerd heard")]
    assert heard == ["dockerd heard SIGTERM"]


@pytest.mark.parametrize(
    ("environment", "values", "complaint"),
    [
        ({"WIKI_VALUES": "/no/such.yaml"}, "", "WIKI_VALUES=/no/such.yaml: No such file"),
        ({}, "api: [", "WIKI_VALUES: failed to parse"),
        ({}, "api: {replica: 2}", "additional properties 'replica' not allowed"),
        ({}, "api: {replicas: many}", "WIKI_VALUES: "),
        ({}, "ingress: {enabled: false}", "WIKI_VALUES: ingress.enabled is false"),
        ({}, "api: {enabled: false}", "WIKI_VALUES: api.enabled is false"),
        ({}, "ingress: {host: example.com}", "WIKI_VALUES: ingress.host"),
        ({"GRAFANA_ADMIN_PASSWORD": "abc"}, "", "GRAFANA_ADMIN_PASSWORD: "),
        ({"GRAFANA_ADMIN_PASSWORD": "abcd\nefgh"}, "", "GRAFANA_ADMIN_PASSWORD: "),
        ({"K3S_ARGS": "max-pods=3"}, "", "K3S_ARGS: max-pods=3 is not an option"),
        ({"K3S_ARGS": "--kublet-arg=x"}, "", "K3S_ARGS: k3s has no option --kublet-arg"),
        ({"K3S_ARGS": "--token=x"}, "", "K3S_ARGS: --token is set by the image"),
        (
            {"DOCKER_ADDRESS_POOL": "10.0.0.0"},
            "",
            "DOCKER_ADDRESS_POOL: 10.0.0.0 is not an IPv4 network",
        ),
    ],
)
def test_a_mistake_in_the_environment(machine, environment, values, complaint) -> None:
    if values:
        (machine.directory / "values-of-user.yaml").write_text(values)
        environment = environment | {"WIKI_VALUES": "/run/values-of-user.yaml"}
    assert complaint in machine.refuse(**environment)
    assert len(machine.output.splitlines()) == 3, machine.output  # the banner's two, and this
    assert not any(call.startswith("dockerd") for call in machine.calls)


def test_a_downgrade_is_refused(machine) -> None:
    machine.boot()
    machine.forget_calls()
    machine.describe(wiki_cluster="0.1.9")
    line = machine.refuse()
    assert "downgrade refused" in line
    assert "wiki-cluster 0.2.0, but this image has 0.1.9" in line
    machine.describe(k3s="1.35.4+k3s1")
    assert "k3s 1.35.5+k3s1, but this image has 1.35.4+k3s1" in machine.refuse()
    machine.describe(postgresql="17.1")
    assert "holds a database of PostgreSQL 16.9" in machine.refuse()
    assert not any(call.startswith("dockerd") for call in machine.calls)
    machine.describe()
    machine.boot()


def test_values_are_not_forgotten(machine) -> None:
    """They are the container's, and the next one may be made without them."""
    (machine.directory / "values-of-user.yaml").write_text("api: {replicas: 2}")
    given = {"WIKI_VALUES": "/run/values-of-user.yaml"}
    machine.boot(**given)
    machine.forget_calls()
    assert "was last used with WIKI_VALUES" in machine.refuse()
    assert not any(call.startswith("dockerd") for call in machine.calls)
    machine.boot(**given)
    machine.boot(WIKI_VALUES="")
    machine.boot()


@pytest.mark.parametrize("values", ["the page's", LIMITED])
def test_values_that_keep_the_health_check_out(machine, values: str) -> None:
    """It has no token, and is a client like others."""
    file = machine.directory / "values-of-user.yaml"
    file.write_text(documented_values() if values == "the page's" else values)
    machine.boot(WIKI_VALUES="/run/values-of-user.yaml")


def test_an_upgrade_that_comes_to_nothing_leaves_the_way_back(machine) -> None:
    machine.boot()
    machine.describe(node="wiki-k3s:m", wiki_cluster="0.3.0")  # whose archive is missing
    assert "wiki-k3s-m.tar.zst cannot be unpacked" in machine.refuse()
    machine.describe()
    machine.boot()


def test_a_state_that_cannot_be_read_is_not_taken_for_none(machine) -> None:
    machine.boot()
    machine.forget_calls()
    state = machine.volume / "wiki-cluster/state.json"
    text = state.read_text()
    state.unlink()
    state.mkdir()
    assert "wiki-cluster/state.json: Is a directory" in machine.refuse()
    assert machine.calls == []
    state.rmdir()
    state.write_text(text)
    machine.boot()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"RUN": "setpriv --bounding-set=-sys_admin --"}, "docker run --privileged"),
        ({"before": "mount -o bind,ro /proc/sys /proc/sys"}, "docker run --privileged"),
        (
            {"before": "echo 1000000000 >/sys/fs/cgroup/memory.max"},
            "too little memory: 0.9 GiB, but 2.5 GiB are needed",
        ),
        ({"RUN": "unshare --user --map-root-user"}, "it is in a user namespace (a rootless Docker"),
        ({"before": "rm /sys/fs/cgroup/cgroup.*"}, "this machine has cgroup v1"),
        (
            {"before": "echo io memory pids >/sys/fs/cgroup/cgroup.controllers"},
            "the cgroup of this container has no cpu, cpuset, which k3s needs",
        ),
        (
            {"before": "mount -t tmpfs -o size=1g tmpfs /var/lib/docker"},
            "too little disk: 1.0 GiB free at /var/lib/docker, but 6.0 GiB are needed",
        ),
        (
            {"before": "mount -t proc -o ro proc /var/lib/docker"},
            "/var/lib/docker",
        ),
        (
            {"before": NESTED},
            "overlayfs does not work on the file system at /var/lib/docker (Invalid argument)",
        ),
        ({"before": NESTED + WITHOUT_OVERLAY}, "the kernel has no overlayfs: `modprobe overlay`"),
        (
            {"before": "mount -t tmpfs tmpfs /proc/sys/net && mkdir /proc/sys/net/x"},
            "the kernel has no br_netfilter: `modprobe br_netfilter`",
        ),
        ({"BROKEN": "iptables"}, "the kernel has no iptables: `modprobe -a nf_tables nft_compat`"),
        (
            {"before": SQUATTER},
            "port 8080 is taken inside the container",
        ),
        ({"BROKEN": "dockerd"}, "dockerd ended with exit status: 1: dockerd is broken"),
        ({"BROKEN": "k3d"}, ": k3d is broken"),
        ({"BROKEN": "helm"}, "helm is broken"),
        (
            {"BROKEN": "pods"},
            "wiki-release-grafana CrashLoopBackOff (the disk is full) "
            "(error: timed out waiting for the condition)",
        ),
    ],
)
def test_a_machine_that_will_not_do(machine, options: dict[str, str], complaint: str) -> None:
    assert complaint in machine.refuse(**options)


def test_a_step_that_fails_shows_why(machine) -> None:
    last = machine.refuse(BROKEN="pods")
    assert "wiki-release-grafana CrashLoopBackOff (the disk is full)" in last
    for title in ("--- pods", "the pods", "--- events", "the events", "--- log of dockerd"):
        assert title in machine.output.splitlines()


def test_one_container_at_a_time_has_the_volume(machine) -> None:
    with machine.run():
        assert "another container is using the volume" in machine.refuse()
    machine.boot()


def test_the_state_is_readable(machine) -> None:
    machine.boot()
    state = json.loads((machine.volume / "wiki-cluster/state.json").read_text())
    assert state["node"].startswith("wiki-k3s:n ")


def test_help(program: Path) -> None:
    text = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    for word in ("status", "health", "backup", "restore", "WIKI_VALUES", "K3S_ARGS"):
        assert word in text
    unknown = subprocess.run([program, "nonsense"], check=False, capture_output=True, text=True)
    assert unknown.returncode == 1
    assert unknown.stderr == "wiki-cluster: no such command: nonsense; --help lists them\n"


def test_unit_tests(program: Path) -> None:
    directory = program.parents[2]
    subprocess.run(["cargo", "test", "--quiet", "--locked"], cwd=directory, check=True)
