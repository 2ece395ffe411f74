"""The whole chain: a Docker, in it the cluster image with a Docker, a real k3d, a node, the pods.

Needs a k3d (WIKI_TEST_K3D, the program) and a test double of k3s (WIKI_TEST_K3S, a folder with its
root file system), from which the stand-in for nixpkgs builds the image. WIKI_TEST_RUNTIME is the
runtime for containers where runc itself cannot run privileged ones.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import docker as docker_support
from support import previous
from support.browser import Visit, chromium
from support.cache import turn
from support.docker import Container, Docker
from support.nix import ROOT, Nix
from support.page import documented_values
from support.wait import wait_until

GIVEN = ("WIKI_TEST_K3D", "WIKI_TEST_K3S")
MISSING = [name for name in GIVEN if not os.environ.get(name)]
BOOT = 400.0  # seconds; on two idle cores it takes less than 60
NODE = "k3d-wiki-server-0"

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"the whole chain needs {' and '.join(GIVEN)}"),
    pytest.mark.timeout(1800),
]
Boot = Callable[..., Container]


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    runtime = os.environ.get("WIKI_TEST_RUNTIME")
    try:
        with docker_support.dockerd(Path(runtime) if runtime else None) as docker:
            yield docker
    except docker_support.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def image(nix: Nix, docker: Docker) -> str:
    return docker.load(nix.build("cluster-image.stream")[0])


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What the inner Docker and k3s need on this machine."""
    options: tuple[str, ...] = ()
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        options = ("--env=K3S_ARGS=--kubelet-arg=fail-cgroupv1=false",)
    runtime = os.environ.get("WIKI_TEST_RUNTIME")
    if not runtime:
        return options
    settings = tmp_path_factory.mktemp("inside") / "daemon.json"
    own = {"log-driver": "local", "features": {"containerd-snapshotter": False}}
    path = f"/given/{Path(runtime).name}"
    given = {"default-runtime": "given", "runtimes": {"given": {"path": path}}}
    settings.write_text(json.dumps(own | given))
    program = Path(runtime).resolve()
    return (
        *options,
        f"--volume={settings}:/etc/docker/daemon.json:ro",
        f"--volume={program}:{path}:ro",
    )


@pytest.fixture
def boot(docker: Docker, image: str, inside: tuple[str, ...]) -> Iterator[Boot]:
    def boot(*options: str, of: str = image, **environment: str) -> Container:
        return docker.start(of, options=("--privileged", *inside, *options), **environment)

    # One at a time: it takes all cores.
    with turn("boot"):
        yield boot
        # shown by pytest if the test fails
        for container in docker.containers():
            print(container.log)
        docker.clean()


def wait_until_ready(container: Container, times: int = 1) -> None:
    def ready() -> bool:
        assert container.state["Running"], container.log
        return container.log.count("Ready after") >= times

    wait_until(ready, "the cluster to be ready", seconds=BOOT, every=0.5)


def create_user(container: Container, name: str) -> int:
    with container.client(8080) as client:
        answer = client.post("/users", json={"name": name})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])


def user(container: Container, number: int) -> str | None:
    with container.client(8080) as client:
        answer = client.get(f"/users/{number}")
        return answer.json().get("name")


def test_from_the_first_boot_to_the_next(boot: Boot, docker: Docker, tmp_path: Path) -> None:
    cluster = boot()
    assert cluster.state["Health"]["Status"] == "starting"
    wait_until_ready(cluster)
    wait_until(lambda: cluster.state["Health"]["Status"] == "healthy", "health", seconds=60)
    base = f"http://{cluster.address(8080)}".replace("0.0.0.0", "127.0.0.1")

    with chromium() as browser:
        for path in ("/docs", "/redoc", "/grafana/"):
            visit = Visit(browser.new_page())
            visit.page.goto(base + path)
            visit.page.get_by_text("Grafana" if path == "/grafana/" else "/users").first.wait_for()
            visit.page.screenshot(path=tmp_path / f"{path.strip('/')}.png")
            assert visit.hosts == {base.removeprefix("http://")}
            assert not visit.complaints or path == "/grafana/"  # the test double has no favicon
    assert "users_created_total" in httpx.get(f"{base}/metrics").text

    assert "wiki-release-api" in cluster.execute("kubectl", "get", "pods")
    assert "deployed" in cluster.execute("helm", "list")
    assert "1/1" in cluster.execute("k3d", "cluster", "list")
    status = cluster.execute("wiki-status")
    assert re.search(r"wiki-release-postgresql-0 +yes +0 +Running", status)
    assert "http://localhost:8080/docs" in status

    first = create_user(cluster, "Kept")
    dump = tmp_path / "wiki.sql"
    dump.write_text(cluster.execute("wiki-cluster", "backup"))
    second = create_user(cluster, "After the backup")
    with dump.open() as stdin:
        docker.run("exec", "-i", cluster.id, "wiki-cluster", "restore", stdin=stdin.fileno())
    assert (user(cluster, first), user(cluster, second)) == ("Kept", None)

    for damaged in ("", dump.read_text()[:-200]):
        dump.write_text(damaged)
        with dump.open() as stdin, pytest.raises(AssertionError, match="not a complete backup"):
            docker.run("exec", "-i", cluster.id, "wiki-cluster", "restore", stdin=stdin.fileno())
    assert user(cluster, first) == "Kept"

    assert cluster.stop() == 0
    assert "Stopped in" in cluster.log
    cluster.start()
    wait_until_ready(cluster, 2)
    assert user(cluster, first) == "Kept"
    log = cluster.execute("kubectl", "logs", "wiki-release-postgresql-0")
    assert "database system was shut down at" in log, log


State = Callable[[Container], bool]


def says(line: str) -> State:
    return lambda cluster: re.search(line, cluster.log) is not None


def has_done(step: str) -> State:
    """Its last line, other than progress reports."""
    return says(rf"\] {step}: [0-9.]+ s")


def shows(text: str, *command: str) -> State:
    """Executes nothing in the node: looking must not interfere."""

    def state(cluster: Container) -> bool:
        try:
            return text in cluster.execute(*command)
        except AssertionError:
            return False

    return state


# Helm is in that state for a second: it runs for a tenth of one at a time, and pauses when checked.
STOP_HELM = """
signal() {
  for comm in /proc/[0-9]*/comm; do
    if [ "$(<"$comm")" = helm ]; then kill -"$1" "${comm//[^0-9]/}"; fi
  done
}
pending() { kubectl get secret --selector=owner=helm,status=pending-install --output=name; }
until [ "$(pending)" ]; do
  ((SECONDS < 300)) || exit
  signal CONT
  sleep 0.1
  signal STOP
done
pending
"""

# After each step, and inside the long ones.
STATES: dict[str, State] = {
    "docker runs": has_done("docker"),
    "the node's image is there": has_done("node image"),
    "the node is made": shows(NODE, "docker", "ps", "--all", "--format={{.Names}}"),
    "k3s imports": shows("Importing images", "docker", "logs", NODE),
    "the cluster is there": has_done("cluster"),
    "the images are there": has_done("images"),
    "the release is pending": shows("secret/", "bash", "-c", STOP_HELM),
    "the release is there": has_done("release"),
    "some pod runs": shows("Running", "kubectl", "get", "pods"),
    "ready": says("Ready after"),
}


# The state after an undisturbed boot.
LEFT = {
    "volume": ["lock", "state.json"],
    "containers": [NODE],
    "volumes": ["#", "#", "#", "k3d-wiki-images", "wiki-k3s", "wiki-node"],
    "networks": ["bridge", "host", "k3d-wiki", "none"],
    "images": ["wiki-k3s"],
    "releases": [("wiki-release", "deployed")],
    "records": ["secret/sh.helm.release.v1.wiki-release.v1"],
    "claims": [
        f"persistentvolumeclaim/wiki-release-{name}"
        for name in ("grafana", "postgresql", "prometheus")
    ],
}
# In the container's own layer: settings and logs of programs, and k3s' record of its images.
LAYER = {"/etc/docker", "/opt/containerd", "/root/.config", "/root/.kube", "/usr/share", "/var/log"}


def left(cluster: Container) -> dict[str, Any]:
    """What is on the volume, in the inner Docker and in Helm."""

    def lines(*command: str) -> list[str]:
        # unnamed objects have a hash as their name
        names = (
            re.sub(r"[0-9a-f]{64}", "#", line) for line in cluster.execute(*command).splitlines()
        )
        return sorted(names)

    releases = json.loads(cluster.execute("helm", "list", "--all", "--output=json"))
    return {
        "volume": lines("ls", "-A", "/var/lib/docker/wiki-cluster"),
        "containers": lines("docker", "ps", "--all", "--format={{.Names}}"),
        "volumes": lines("docker", "volume", "ls", "--quiet"),
        "networks": lines("docker", "network", "ls", "--format={{.Name}}"),
        "images": lines("docker", "image", "ls", "--all", "--format={{.Repository}}"),
        "releases": [(each["name"], each["status"]) for each in releases],
        "records": lines("kubectl", "get", "secret", "--selector=owner=helm", "--output=name"),
        "claims": lines("kubectl", "get", "pvc", "--output=name"),
    }


@pytest.mark.parametrize("state", STATES)
def test_killed_in_any_state_of_the_boot(boot: Boot, state: str) -> None:
    cluster = boot()
    wait_until(lambda: STATES[state](cluster), state, seconds=BOOT, every=0.1)
    cluster.kill()
    before = cluster.log.count("Ready after")
    cluster.start()
    wait_until_ready(cluster, before + 1)
    assert left(cluster) == LEFT
    folders = {"/".join(path.split("/")[:3]) for path in cluster.changes if path.count("/") > 1}
    assert {each for each in folders if not each.startswith(("/run", "/tmp", "/given"))} <= LAYER
    assert user(cluster, create_user(cluster, "After the kill")) == "After the kill"


@pytest.mark.usefixtures("boot")
def test_no_network(docker: Docker, image: str, inside: tuple[str, ...], tmp_path: Path) -> None:
    """And with tokens, whose issuer nobody reaches."""
    values = tmp_path / "values.yaml"
    values.write_text(documented_values())
    given = ("--env=WIKI_VALUES=/values.yaml", f"--volume={values}:/values.yaml:ro")
    flags = ("--detach", "--privileged", "--network=none", *given, *inside)
    cluster = Container(docker, docker.run("run", *flags, image).splitlines()[-1])
    wait_until_ready(cluster)
    cluster.execute("wiki-cluster", "health")


def test_healthy_while_the_database_answers(boot: Boot) -> None:
    def becomes(status: str) -> None:
        wait_until(lambda: cluster.state["Health"]["Status"] == status, status, seconds=180)

    cluster = boot()
    wait_until_ready(cluster)
    becomes("healthy")
    scale = ("kubectl", "scale", "statefulset/wiki-release-postgresql")
    cluster.execute(*scale, "--replicas=0")
    becomes("unhealthy")
    with pytest.raises(AssertionError, match=r"port 8080 answers [45].. to /users/"):
        cluster.execute("wiki-cluster", "health")
    cluster.execute(*scale, "--replicas=1")
    becomes("healthy")
    cluster.execute("wiki-cluster", "health")


@pytest.fixture
def changed_image(image: str, docker: Docker, tmp_path: Path) -> str:
    """The image of another version of the project, with a different node."""
    folder = tmp_path / "changed"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    file = folder / "nix/images/k3s-image.nix"
    file.write_text(file.read_text().replace('title = "k3s"', 'title = "k3s, changed"'))
    changed = docker.load(Nix(folder).build("cluster-image.stream")[0])
    assert changed != image
    return changed


def test_another_version_on_the_same_volume(boot: Boot, changed_image: str, tmp_path: Path) -> None:
    volume = "--volume=data:/var/lib/docker"
    old = boot(volume)
    wait_until_ready(old)
    number = create_user(old, "Kept")
    contents = json.loads(old.execute("cat", "/usr/share/wiki-cluster/contents.json"))
    old.stop()

    new = boot(volume, of=changed_image)
    wait_until_ready(new)
    assert user(new, number) == "Kept"
    new.stop()

    contents["versions"]["wiki-cluster"] = "0.0.1"
    (tmp_path / "contents.json").write_text(json.dumps(contents))
    mount = f"--volume={tmp_path}/contents.json:/usr/share/wiki-cluster/contents.json:ro"
    older = boot(volume, mount)
    assert older.wait() == 1
    assert "downgrade refused" in older.log


@pytest.fixture
def first_image(docker: Docker, tmp_path: Path) -> str:
    """The image of 0.1.0, with the same PostgreSQL and the crates of its own lock."""
    folder = tmp_path / "0.1.0"
    folder.mkdir()
    previous.check_out(folder)
    return docker.load(Nix(folder).build("cluster-image.stream")[0])


def test_from_0_1_0_and_back_by_a_backup(
    boot: Boot, image: str, first_image: str, docker: Docker, tmp_path: Path
) -> None:
    """As docs/upgrade.md has it: up on the same volume, back on a new one."""

    def read(cluster: Container, *paths: str) -> list[Any]:
        with cluster.client(8080) as client:
            return [client.get(path).raise_for_status().json() for path in paths]

    volume = "--volume=data:/var/lib/docker"
    first = boot(volume, of=first_image)
    wait_until_ready(first)
    ada = create_user(first, "Ada")
    with first.client(8080) as client:
        post = client.post("/posts", json={"user_id": ada, "content": "of 0.1.0"}).json()
    kept = (f"/users/{ada}", f"/posts/{post['post_id']}")
    before = read(first, *kept)
    first.stop()

    new = boot(volume, of=image)
    wait_until_ready(new)
    assert read(new, *kept) == before
    grace = create_user(new, "Grace")
    assert [each["id"] for each in read(new, "/users")[0]] == [grace, ada]
    assert [each["post_id"] for each in read(new, "/posts?q=of")[0]] == [post["post_id"]]
    dump = tmp_path / "wiki.sql"
    dump.write_text(new.execute("wiki-cluster", "backup"))
    assert "dump complete" in "".join(dump.read_text().splitlines()[-5:])
    new.stop()

    refused = boot(volume, of=first_image)
    assert refused.wait() == 1
    assert "downgrade refused" in refused.log

    again = boot("--volume=new:/var/lib/docker", of=first_image)
    wait_until_ready(again)
    with dump.open() as stdin:
        docker.run("exec", "-i", again.id, "wiki-cluster", "restore", stdin=stdin.fileno())
    assert read(again, *kept) == before
    assert user(again, grace) == "Grace"
    assert user(again, create_user(again, "Alan")) == "Alan"


def test_without_privileges(docker: Docker, image: str) -> None:
    cluster = docker.start(image, options=())
    assert cluster.wait() == 1
    assert "docker run --privileged" in cluster.log
    docker.clean()
