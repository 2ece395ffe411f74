"""The service as users run it: a process with an environment, a port and a log."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from support.net import NO_CAS, free_port
from support.wait import wait_until

ROOT = Path(__file__).parents[2]

live: list["Service"] = []


def build(*, release: bool = False) -> Path:
    """Builds the service, unless WIKI_SERVICE names one, and returns the path of its program."""
    if program := os.environ.get("WIKI_SERVICE"):
        return Path(program)
    command = ["cargo", "build", "--locked", "--message-format=json-render-diagnostics"]
    messages = subprocess.run(
        [*command, *(["--release"] if release else [])],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    programs = [
        message["executable"]
        for message in map(json.loads, messages.splitlines())
        if message.get("executable") and message["target"]["name"] == "wiki-service"
    ]
    return Path(programs[-1])


def lint() -> None:
    """With the crates that the build has compiled: clippy's own are for it alone."""
    command = "nix/stand-in/cargo-clippy clippy --workspace --locked -- -D warnings"
    subprocess.run(command.split(), cwd=ROOT, check=True)


def environment(**variables: str) -> dict[str, str]:
    """An environment without the developer's own variables that the service might read."""
    return {"PATH": os.environ["PATH"], **variables}


class Service:
    def __init__(
        self,
        program: Path,
        directory: Path,
        variables: dict[str, str],
        *,
        host: str = "127.0.0.1",
        wrapper: tuple[str, ...] = (),
        **popen: Any,
    ):
        self.host = host
        self.port = int(variables.get("PORT") or free_port())
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.log = directory / f"service-{self.port}.log"
        self._seen = 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, program],
                cwd=directory,
                env=environment(**variables | {"PORT": str(self.port)}),
                **{
                    "stdin": subprocess.DEVNULL,
                    "stdout": log,
                    "stderr": subprocess.STDOUT,
                    **popen,
                },
            )
        self.client = httpx.Client(base_url=self.url, timeout=30, verify=NO_CAS)
        live.append(self)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """The log's JSON lines, each as one flat dictionary, in order."""
        lines = self.text.rpartition("\n")[0].splitlines()
        return [flatten(json.loads(line)) for line in lines if line[:1] == "{"]

    def lines_of(self, request_id: str) -> list[dict[str, Any]]:
        """A request's log lines, once the last of them is there: the one with its status. It may be
        written after the response was sent; by then everything before it is written."""

        def lines() -> list[dict[str, Any]] | None:
            found = [line for line in self.lines() if line.get("request_id") == request_id]
            return found if any("status" in line for line in found) else None

        return wait_until(lines, f"the log line of {request_id}")

    def connect(self) -> socket.socket:
        """A raw connection, for what no HTTP library would send."""
        return socket.create_connection((self.host, self.port), timeout=30)

    def new_text(self) -> str:
        """What was logged since the last call."""
        new = self.text[self._seen :]
        self._seen += len(new)
        return new

    def wait_until_ready(self) -> "Service":
        def ready() -> bool:
            assert self.process.poll() is None, (
                f"the service ended with {self.process.returncode}:\n{self.text}"
            )
            with contextlib.suppress(httpx.TransportError):
                return self.client.get("/readyz").status_code == 200
            return False

        wait_until(ready, f"{self.url}/readyz to answer 200", seconds=60)
        return self

    def wait_until_listening(self) -> "Service":
        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return self.client.get("/livez").status_code == 200
            return False

        wait_until(answers, f"{self.url}/livez to answer 200")
        return self

    def wait_for_end(self, seconds: float = 30) -> int:
        return self.process.wait(timeout=seconds)

    def terminate(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 30) -> int:
        self.process.send_signal(number)
        return self.wait_for_end(seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kills it at once, whatever state the test left it in."""
        self.client.close()
        live.remove(self)
        self.kill()


StartService = Callable[..., Service]


def flatten(value: dict[str, Any]) -> dict[str, Any]:
    """Flattens nested objects, so that no test depends on where a field is."""
    flat: dict[str, Any] = {}

    def walk(node: dict[str, Any]) -> None:
        for key, inner in node.items():
            if isinstance(inner, dict):
                walk(inner)
            else:
                flat[key] = inner

    walk(value)
    return flat


def metrics(service: Service | httpx.Client) -> dict[str, float]:
    """Each sample of /metrics by name and labels, as written."""
    client = service.client if isinstance(service, Service) else service
    return dict(samples(client.get("/metrics").text))


def requests_seen(service: Service, status: str = "") -> float:
    """The number of requests, or of those whose status begins so; without those for metrics."""
    return sum(
        number
        for sample, number in metrics(service).items()
        if sample.startswith("http_requests_total{")
        and 'route="/metrics"' not in sample
        and f'status="{status}' in sample
    )


def samples(exposition: str) -> Iterator[tuple[str, float]]:
    for line in exposition.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            yield name, float(value)
