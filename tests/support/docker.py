"""The tests' own dockerd, with an isolated network, and containers on it."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from support.cache import turn
from support.net import NO_CAS
from support.wait import wait_until

# Stricter than Kubernetes' "restricted": only volumes are writable.
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")


class UnavailableError(Exception):
    """Why there is no Docker here, in one line."""


class Container:
    def __init__(self, docker: "Docker", identifier: str):
        self._docker = docker
        self.id = identifier

    def address(self, port: int) -> str:
        """The address at which the host reaches one of its ports. It changes at each start."""
        return self._docker.run("port", self.id, str(port)).split()[0]

    def client(self, port: int) -> httpx.Client:
        return httpx.Client(base_url=f"http://{self.address(port)}", timeout=10, verify=NO_CAS)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(
            self._docker.run("inspect", "--format={{json .State}}", self.id)
        )
        return state

    @property
    def log(self) -> str:
        return self._docker.run("logs", self.id)

    @property
    def changes(self) -> list[str]:
        """The files that it has added to or changed in its image."""
        return sorted(
            line.split(" ", 1)[1] for line in self._docker.run("diff", self.id).splitlines()
        )

    def execute(self, *command: str) -> str:
        return self._docker.run("exec", self.id, *command)

    def stop(self) -> int:
        """Stops it with `docker stop`; returns its exit code."""
        self._docker.run("stop", self.id)
        return self.wait()

    def kill(self) -> None:
        self._docker.run("kill", self.id)

    def start(self) -> None:
        self._docker.run("start", self.id)

    def wait(self) -> int:
        return int(self._docker.run("wait", self.id))

    def wait_until_answers(self, port: int, path: str, seconds: float = 60) -> httpx.Response:
        last: list[httpx.Response] = []

        def answers() -> bool:
            assert self.state["Running"], f"the container ended:\n{self.log}"
            with contextlib.suppress(httpx.TransportError), self.client(port) as client:
                last.append(client.get(path))
                return last[-1].status_code == 200
            return False

        wait_until(answers, f"port {port} to answer 200 to {path}", seconds=seconds, every=0.1)
        return last[-1]


class Docker:
    def __init__(self, socket: Path, network: str):
        self._socket = socket
        self._network = network

    def run(self, *arguments: str, stdin: int | None = None) -> str:
        """Runs a docker command; returns what it printed, on stdout and stderr."""
        result = subprocess.run(
            ["docker", f"--host=unix://{self._socket}", *arguments],
            check=False,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, f"docker {' '.join(arguments)}:\n{result.stdout}"
        return result.stdout.strip()

    def load(self, archive: Path) -> str:
        """Loads an image archive, or the output of a program that streams one; returns its name."""
        if os.access(archive, os.X_OK):
            with subprocess.Popen([archive], stdout=subprocess.PIPE) as stream:
                assert stream.stdout
                loaded = self.run("load", "--quiet", stdin=stream.stdout.fileno())
            assert stream.returncode == 0
        else:
            loaded = self.run("load", "--quiet", f"--input={archive}")
        return loaded.removeprefix("Loaded image: ")

    def start(
        self,
        image: str,
        *command: str,
        options: tuple[str, ...] = HARDENED,
        **environment: str,
    ) -> Container:
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        flags = ("--detach", f"--network={self._network}", "--publish-all", *options, *variables)
        return Container(self, self.run("run", *flags, image, *command).splitlines()[-1])

    def containers(self) -> list[Container]:
        return [Container(self, each) for each in self.run("ps", "--all", "--quiet").split()]

    def clean(self) -> None:
        """Removes every container and volume."""
        if left := self.containers():
            self.run("rm", "--force", "--volumes", *(each.id for each in left))
        if left := self.run("volume", "ls", "--quiet").split():
            self.run("volume", "rm", *left)


@contextlib.contextmanager
def dockerd(runtime: Path | None = None) -> Iterator[Docker]:
    """`runtime`: a program that replaces runc."""
    if not shutil.which("dockerd"):
        install()
    with tempfile.TemporaryDirectory(prefix="dockerd-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        socket = directory / "docker.sock"
        with (directory / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [
                    "dockerd",
                    f"--host=unix://{socket}",
                    f"--data-root={directory}/data",
                    f"--exec-root={directory}/exec",
                    f"--pidfile={directory}/pid",
                    # Existing rules and bridges stay; published ports go through docker-proxy.
                    "--bridge=none",
                    "--iptables=false",
                    "--ip6tables=false",
                    *(
                        (f"--add-runtime=given={runtime}", "--default-runtime=given")
                        if runtime
                        else ()
                    ),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        stack.callback(daemon.wait, timeout=60)
        stack.callback(daemon.terminate)

        def ready() -> bool:
            text = (directory / "log").read_text()
            if daemon.poll() is not None:
                raise UnavailableError(f"dockerd does not start: {text.strip().splitlines()[-1]}")
            return "API listen on" in text

        wait_until(ready, "dockerd to listen", seconds=60)
        docker = Docker(socket, f"wiki{os.getpid()}")
        bridge = f"--opt=com.docker.network.bridge.name={docker._network}"
        # Each takes the first subnet to which the host has no route.
        with turn("subnet"):
            docker.run("network", "create", bridge, docker._network)
        stack.callback(docker.run, "network", "rm", docker._network)

        stack.callback(docker.clean)
        yield docker


def install() -> None:
    if os.geteuid() or not shutil.which("apt-get"):
        raise UnavailableError(
            "no dockerd, and it can be installed only by root on Debian or Ubuntu"
        )
    for command in (
        ["update", "-qq"],
        ["install", "-qq", "--yes", "--no-install-recommends", "docker.io"],
    ):
        subprocess.run(
            ["apt-get", *command],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
