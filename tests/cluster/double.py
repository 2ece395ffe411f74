#!/usr/bin/env -S python3 -IS
"""Test double of dockerd, docker, k3d, kubectl, helm, zstd and iptables, as in a real boot.

It acts as the program it is called as, keeps its state on the volume, and records each call
there. BROKEN in the environment names what fails. Where the real programs refuse, it does, too.
"""

import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType

MEMORY = Path("/var/lib/docker/double.json")  # outlives the container, as the real things do
CALLS = Path("/var/lib/docker/calls")
CGROUP = Path("/sys/fs/cgroup")
NODE = Path("/run/node")  # its process, and how far it is
BROKEN = os.environ.get("BROKEN")
# The API's response behind port 8080, by what the chart tells it.
API = (
    "HTTP/1.1 {}\r\nContent-Type: application/problem+json\r\n"
    "Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
)
ANSWERS = {
    r"RATE_LIMIT_PER_SECOND": "429 Too Many Requests",  # others have used it up
    r'AUTH_READ\s+value: "?token': "401 Unauthorized",
    r"": "404 Not Found",
}
PIN, K3S_PIN = "io.cri-containerd.pinned", "io.cattle.k3s.pinned"
PAUSE = "docker.io/rancher/mirrored-pause:3.6"
RUNS, CRASHES = {"running": {}}, {"waiting": {"reason": "CrashLoopBackOff"}}
PODS = {
    "items": [
        {
            "metadata": {"name": f"wiki-release-{name}"},
            "status": {
                "phase": "Running",
                "containerStatuses": [{"ready": state == RUNS, "restartCount": 0, "state": state}],
            },
        }
        for name, state in {"api": RUNS, "grafana": CRASHES if BROKEN == "pods" else RUNS}.items()
    ]
}


def module(name: str) -> ModuleType:
    """Imported by those that need it: to import them all takes half of a call, and a boot makes
    fifty."""
    return __import__(name)


def recall() -> dict:
    empty = {
        "images": [],
        "imported": {},  # labels by name, in the volume wiki-k3s
        "token": None,  # the token that its data is encrypted with
        "node": None,  # its label, arguments, volumes, and whether k3d has put its files into it
        "network": None,
        "pool": None,
        "release": None,
        "answer": None,  # the API's status
    }
    return json.loads(MEMORY.read_text()) if MEMORY.exists() else empty


@contextmanager
def memory() -> Iterator[dict]:
    """The state, to be changed by one process at a time."""
    with MEMORY.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = recall()
        yield content
        MEMORY.write_text(json.dumps(content))


def remember(**changes: object) -> None:
    with memory() as content:
        content.update(changes)


def note(call: str) -> None:
    with CALLS.open("a") as calls:
        calls.write(f"{call}\n")


def fail(message: str) -> None:
    sys.exit(message)


def dockerd(*arguments: str) -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    (blocked,) = (line.split()[1] for line in status if line.startswith("SigBlk:"))
    note(f"blocked signals: {blocked}")
    pools = [re.findall(r"base=(.*),size=24", each) for each in arguments]
    ((pool,),) = pools or [["172.17.0.0/16"]]
    (first, *_) = module("ipaddress").ip_network(pool).subnets(new_prefix=24)
    note(f"docker0: {first}")
    remember(pool=pool)
    server = module("socket").socket(module("socket").AF_UNIX)
    server.bind("/run/docker.sock")
    server.listen()

    def end(number: int, _: object) -> None:
        note(f"dockerd heard {signal.Signals(number).name}")
        BROKEN == "stop" or sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    print("API listen on /run/docker.sock", flush=True)
    while True:
        client, _ = server.accept()
        client.recv(1000)
        client.sendall(b"HTTP/1.0 200 OK\r\n\r\nOK")
        client.close()


def docker(*arguments: str) -> None:
    known = recall()
    match arguments:
        case ["image", "inspect", image]:
            image in known["images"] or fail(f"Error: No such image: {image}")
        case ["load", *_]:
            with memory() as content:
                content["images"].append(sys.stdin.read().strip())
        case ["container", "inspect", *_, _]:
            known["node"] or fail("Error: No such object: k3d-wiki-server-0")
            print(node()[0] if "{{.State.Pid}}" in arguments else known["node"]["label"])
        case ["start", _]:
            start()
        case ["exec", *command]:
            execute(*[word for word in command if word != "--interactive"])
        case ["image", "ls", *_]:
            print("\n".join(known["images"]))
        case ["network" | "volume", *_]:
            docker_stores(*arguments)
        case ["stop", *_]:
            BROKEN == "stop" and time.sleep(8)
            node()[0] and os.kill(node()[0], signal.SIGTERM)
        case ["image", "rm", _] | ["logs", *_]:
            pass
        case _:
            fail(f"docker does not know {arguments}")


def docker_stores(*arguments: str) -> None:
    known = recall()
    match arguments:
        case ["network", "ls", "--quiet", "--filter", "name=^k3d-wiki$"]:
            sys.stdout.write("0123456789ab\n" if known["network"] else "")
        case ["network", "rm", "0123456789ab"]:
            known["node"] and fail("Error response from daemon: network has active endpoints")
            remember(network=None)
        case ["volume", "rm", "--force", name]:
            known["node"] and fail("Error response from daemon: volume is in use")
            if name == "wiki-k3s":
                remember(imported={}, token=None)
        case _:
            fail(f"docker does not know {arguments}")


def execute(container: str, *command: str) -> None:
    """A new process in the node, in its root cgroup as long as others are."""
    pid, state = node()
    if not pid or container != "k3d-wiki-server-0":
        fail(f"Error response from daemon: container {container} is not running")
    if state == "moving":
        NODE.write_text(f"cgroup.subtree_control: Device or resource busy {pid}")
        os.kill(pid, signal.SIGKILL)
        fail("OCI runtime exec failed")
    match command:
        case ["k3s", "ctr", "--namespace", "k8s.io", "images", *arguments]:
            ctr(*arguments)
        case ["sh", "-c", script, "sh", *arguments]:
            k3s = "k3s() { shift 4; " + f'"{Path(__file__).resolve()}" ctr "$@"; }}; '
            module("subprocess").run(["sh", "-c", k3s + script, "sh", *arguments], check=True)
        case _:
            fail(f"{container} does not know {command}")


def ctr(*arguments: str) -> None:
    with memory() as content:
        imported = content["imported"]
        match arguments:
            case ["ls", "--quiet"]:
                print("\n".join(imported))
            case ["ls", "--quiet", filter_] if "!=pinned" in filter_ or "==pinned" in filter_:
                pinned = filter_ == 'labels."io.cri-containerd.pinned"==pinned'
                found = [each for each in imported if (PIN in imported[each]) == pinned]
                sys.stdout.write("".join(f"{name}\n" for name in found))
            case ["import", "-"]:
                imported |= names(f"docker.io/library/{sys.stdin.read().strip()}")
            case ["label", name, label] if name in imported:
                key, value = label.split("=")
                imported[name][key] = value
                value or imported[name].pop(key)
            case _:
                fail(f"ctr does not know {arguments}")


def names(image: str, **labels: str) -> dict[str, dict[str, str]]:
    """The CRI side of containerd gives each image a second name."""
    return {image: labels, f"sha256:{image.encode().hex()}": {}}


def k3d(*arguments: str) -> None:
    known = recall()
    match arguments:
        case ["cluster", "delete", _] if known["node"]:
            remember(node=None, network=None)
        case ["cluster", "delete", _]:
            print("INFO[0000] No nodes found for cluster 'wiki', nothing to delete.")
        case ["cluster", "create", *_]:
            known["node"] and fail("a node with that name exists already")
            create(arguments)
        case ["kubeconfig", "get", _]:
            print("kubeconfig")
        case _:
            fail(f"k3d does not know {arguments}")


def create(arguments: tuple[str, ...]) -> None:
    """If it is killed, what gets in the way of the next one stays."""
    values: dict[str, list[str]] = {}
    for flag, value in pairwise(arguments):
        if flag in ("--runtime-label", "--k3s-arg", "--volume", "--port"):
            values.setdefault(flag, []).append(on_the_node(value))
    options = [each.split("=")[1] for each in values["--k3s-arg"] if "--kubelet-arg=" in each]
    if len(options) != len(set(options)):
        fail(f"k3d keeps arguments in a map: which of two comes last in {options}?")
    (label,) = values["--runtime-label"]
    token = arguments[arguments.index("--token") + 1]
    if recall()["token"] not in (None, token):
        fail("bootstrap data already found and encrypted with different token")
    node = {
        "label": label.removeprefix("wiki-cluster.node="),
        "arguments": values["--k3s-arg"],
        "volumes": values["--volume"],
        "is_whole": False,
    }
    with memory() as content:
        _, second, *_ = module("ipaddress").ip_network(content["pool"]).subnets(new_prefix=24)
        content["network"] = content["network"] or str(second)
        content["node"] = node
        content["token"] = token
    if BROKEN == "k3d before its files":
        fail("k3d is killed")
    remember(node=node | {"is_whole": True})
    start()
    if BROKEN == "k3d after the start":
        fail("k3d is killed")


def on_the_node(flag: str) -> str:
    """A flag's value without its node filter: k3d 5.8.3, `SplitFiltersFromFlag`."""
    if "@" not in flag:
        fail("FATA[0000] lacks a node filter, but there's more than one node")
    parts, buffer = [], ""
    *before, last = flag.split("@")
    for part in before:
        if part.endswith("\\") and not part.endswith("\\\\"):
            buffer += part.removesuffix("\\") + "@"
            continue
        parts.append(buffer + (part.removesuffix("\\") if part.endswith("\\\\") else part))
        buffer = ""
    parts.append(buffer + last)
    if len(parts) != 2:
        fail(f"FATA[0000] Invalid flag '{flag}': only one unescaped '@' allowed")
    if parts[1] not in ("server:0", "server:0:direct"):
        fail(f"FATA[0000] Failed to parse node filters: {parts[1]}")
    return parts[0]


def start() -> None:
    """Starts the node's container, and waits until k3s is up and running."""
    node = recall()["node"] or fail("Error: No such container: k3d-wiki-server-0")
    node["is_whole"] or fail('exec: "/bin/k3d-entrypoint.sh": no such file or directory')
    handed_on = CGROUP / "cgroup.subtree_control"
    if handed_on.exists() and "+memory" not in handed_on.read_text().split():
        fail("runc create failed: the memory controller is not available")
    NODE.unlink(missing_ok=True)
    process = module("subprocess").Popen(
        ["unshare", "--mount", sys.executable, Path(__file__).resolve(), "node"],
        start_new_session=True,
    )
    while not NODE.exists() or not node_state().startswith("up"):
        if process.poll() is not None:
            fail(f"the node ended: {node_state()}")
        time.sleep(0.01)


def node() -> tuple[int, str]:
    """Its process, 0 when there is none, and how far it is."""
    if not NODE.exists():
        return 0, ""
    state, _, pid = NODE.read_text().rpartition(" ")
    return (int(pid) if Path(f"/proc/{pid}").exists() else 0), state


def node_state() -> str:
    return node()[1]


def run_node() -> None:
    """k3d's script for cgroups, then k3s: containerd, its images, the kubelet, the ingress."""

    def becomes(state: str) -> None:
        beside = NODE.with_suffix(".new")
        beside.write_text(f"{state} {os.getpid()}")
        beside.rename(NODE)

    node = recall()["node"]
    folders = dict(each.rsplit(":", 1)[::-1] for each in node["volumes"])
    kubelet = dict(each.split("=", 2)[1:] for each in node["arguments"] if "--kubelet-arg=" in each)
    if (CGROUP / "cgroup.controllers").exists():
        module("subprocess").run(["mount", "-t", "tmpfs", "tmpfs", CGROUP], check=True)
        (CGROUP / "cgroup.controllers").write_text("cpuset cpu memory pids")
        (CGROUP / "cgroup.subtree_control").touch()
        becomes("moving")
        time.sleep(0.8)  # as long as a script with a few processes takes on a busy machine
        (CGROUP / "cgroup.subtree_control").write_text("cpuset cpu memory pids")
    becomes("containerd")
    import_archives(Path(folders["/var/lib/rancher/k3s/agent/images"]))
    run_kubelet(kubelet)
    server = module("socket").create_server(("0.0.0.0", 8080))
    becomes("up")
    while True:
        client, _ = server.accept()
        client.recv(1000)
        client.sendall(API.format(recall()["answer"]).encode())
        client.close()


def import_archives(folder: Path) -> None:
    """Like k3s 1.35.5: skips what is in .cache.json, and does not pin it again."""
    cache = folder / ".cache.json"
    known = json.loads(cache.read_text() or "{}") if cache.exists() else {}
    archives = list(folder.glob("*.tar.zst"))
    with memory() as content:
        for labels in content["imported"].values():
            if labels.pop(K3S_PIN, None):
                labels.pop(PIN, None)
        for archive in archives:
            if archive.name not in known:
                pinned = {PIN: "pinned", K3S_PIN: "pinned"}
                content["imported"] |= names(archive.read_text(), **pinned)
    if cache.exists():
        cache.write_text(json.dumps({archive.name: {} for archive in archives}))


def run_kubelet(arguments: dict[str, str]) -> None:
    """Exits on cgroup v1, and evicts when there is too little disk."""
    if not (CGROUP / "cgroup.controllers").exists() and arguments.get("fail-cgroupv1") != "false":
        fail("kubelet is configured to not run on a host using cgroup v1")
    if PAUSE not in recall()["imported"]:
        fail(f"failed to pull {PAUSE}")
    disk = os.statvfs("/var/lib/docker")
    least = arguments.get("eviction-hard", "imagefs.available<5%,nodefs.available<5%")
    more = arguments.get("eviction-minimum-reclaim", "imagefs.available=10%,nodefs.available=10%")

    def amount(signals: str) -> int:
        """Of nodefs, in bytes."""
        (share, percent, unit), *_ = re.findall(r"nodefs.available[<=](\d+)(%)?([MG]i)?", signals)
        if percent:
            return disk.f_blocks * disk.f_frsize * int(share) // 100
        return int(share) << {"Mi": 20, "Gi": 30}[unit]

    if disk.f_bavail * disk.f_frsize < amount(least):
        fail(f"DiskPressure: evicts until {amount(least) + amount(more)} bytes are free")


def kubectl(*arguments: str) -> None:
    match arguments:
        case ["get", "--raw", "/readyz", *_]:
            node_state() == "up" or fail("connection refused")
        case ["rollout", *_] if BROKEN == "pods":
            fail("error: timed out waiting for the condition")
        case ["get", "pods", *_, "--output=json", _]:
            print(json.dumps(PODS))
        case ["logs", "wiki-release-grafana", "--previous", "--tail=20", _]:
            print('the disk is full\n{"level":"INFO"}')
        case ["get", "pods" | "events" as what, *_]:
            print(f"the {what}")
        case ["exec", *_]:
            sys.stdout.write("-- dump\n--\n-- PostgreSQL database dump complete\n--\n")


def helm(*arguments: str) -> None:
    match arguments:
        case ["template", *_]:
            real = [os.environ["REAL_HELM"], *arguments]
            sys.exit(module("subprocess").run(real, check=False).returncode)
        case ["status", *_]:
            release = recall()["release"] or fail("Error: release: not found")
            print(json.dumps({"info": {"status": "deployed", "description": release}}))
        case ["upgrade", *_]:
            values = [
                word for pair in pairwise(arguments) if pair[0] == "--values" for word in pair
            ]
            chart = [*arguments[2:4], "--kube-version=1.35.5", *values]
            real = [os.environ["REAL_HELM"], "template", *chart]
            rendered = (
                module("subprocess").run(real, check=True, capture_output=True, text=True).stdout
            )
            answer = next(ANSWERS[each] for each in ANSWERS if re.search(each, rendered))
            remember(release=arguments[arguments.index("--description") + 1], answer=answer)


def zstd(*arguments: str) -> None:
    print(Path(arguments[-1]).read_text())


def iptables(*_: str) -> None:
    pass


def main() -> None:
    name = Path(sys.argv[0]).name
    match sys.argv[1:]:
        case ["node"]:
            run_node()
        case ["ctr", *arguments]:
            sys.exit(ctr(*arguments))
    note(" ".join([name, *sys.argv[1:]]))
    if name == BROKEN:
        fail(f"{name} is broken")
    globals()[name](*sys.argv[1:])


if __name__ == "__main__":
    main()
