"""A Kubernetes for tests."""

import contextlib
import gzip
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from support import nix
from support.cache import turn
from support.net import free_port
from support.wait import wait_until

Result = subprocess.CompletedProcess[str]

# A command that prints `export` lines.
GIVEN = os.environ.get("WIKI_TEST_KUBE")


@dataclass
class Cluster:
    """`ingress` is the address of its Ingress controller; `provider` the program that runs it, if
    that can do more: add nodes, restart components."""

    kubeconfig: str
    ingress: str
    load_command: Sequence[str]
    provider: Sequence[str] = field(default_factory=tuple)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"KUBECONFIG": self.kubeconfig}

    def run(
        self,
        *command: str | Path,
        check: bool = True,
        stdin: str | None = None,
        seconds: float = 300,
    ) -> Result:
        done = subprocess.run(
            command,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}{done.stderr}"
        return done

    def kubectl(self, *arguments: str | Path, **options: Any) -> str:
        return str(self.run("kubectl", *arguments, **options).stdout)

    def load(self, *archives: Path) -> None:
        """Loads image archives into all nodes. k3d needs plain ones, and always exits with 0."""
        with tempfile.TemporaryDirectory() as folder:
            plain = [_unpacked(archive, Path(folder)) for archive in archives]
            done = self.run(*self.load_command, *plain, seconds=600)
        assert "failed" not in done.stderr, done.stderr


def _unpacked(archive: Path, folder: Path) -> Path:
    if archive.suffix != ".gz":
        return archive
    plain = folder / archive.stem
    with gzip.open(archive) as source, plain.open("wb") as target:
        shutil.copyfileobj(source, target)
    return plain


def available() -> bool:
    return bool(GIVEN) or bool(shutil.which("k3d") and _docker_runs())


def start() -> str:
    """Starts the one that is given, if it does not run; its `export` lines."""
    assert GIVEN
    # `ip netns` mounts /run/netns over itself when it is first used. With pods running already,
    # as when a node is added, theirs would be hidden below and could not be removed any more.
    with turn("kubernetes-start"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(["ip", "netns", "add", "wiki-test"], check=True)
            subprocess.run(["ip", "netns", "delete", "wiki-test"], check=True)
        return subprocess.run(
            ["sh", "-c", GIVEN], stdout=subprocess.PIPE, text=True, check=True
        ).stdout


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[Cluster | None]:
    """The one that is given, which workers share, or from k3d with Docker."""
    if GIVEN:
        lines = start()
        given = dict(re.findall(r"export (\w+)=(.*)", lines))
        yield Cluster(
            shlex.split(given["KUBECONFIG"])[0],
            shlex.split(given["KUBE_INGRESS_URL"])[0],
            shlex.split(shlex.split(given["KUBE_LOAD"])[0]),
            provider=[shlex.split(GIVEN)[0]],
        )
    elif available():
        name, port = f"wiki-test-{os.getpid()}", free_port()
        ports = ["--no-lb", "-p", f"127.0.0.1:{port}:80@server:0:direct"]
        own = ["--kubeconfig-update-default=false", *_node_image()]
        subprocess.run(["k3d", "cluster", "create", name, *ports, *own], check=True)
        kubeconfig = directory / "kubeconfig"
        try:
            written = subprocess.run(
                ["k3d", "kubeconfig", "get", name], check=True, stdout=subprocess.PIPE
            )
            kubeconfig.write_bytes(written.stdout)
            load = ["k3d", "image", "import", "--cluster", name]
            ingress = f"http://127.0.0.1:{port}"
            # k3d is done before k3s has installed its Traefik
            wait_until(partial(_answers, ingress), "Traefik", seconds=240, every=1)
            yield Cluster(str(kubeconfig), ingress, load)
        finally:
            subprocess.run(["k3d", "cluster", "delete", name], check=True)
    else:
        yield None


def _node_image() -> list[str]:
    """The flake's own, if there is a real k3s or a test double to build it from; else k3d's."""
    if not (nix.REAL or os.environ.get("WIKI_TEST_K3S")):
        return []
    flake = nix.find()
    with subprocess.Popen(flake.build("k3s-image.stream"), stdout=subprocess.PIPE) as stream:
        subprocess.run(["docker", "load", "--quiet"], stdin=stream.stdout, check=True)
    reference = 'image: "${image.imageName}:${image.imageTag}"'
    return ["--image", str(flake.evaluate("k3s-image", reference))]


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code > 0
    return False


def _docker_runs() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
