"""A Kubernetes to test on, and a release of the chart in it."""

import base64
import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from support import nix
from support.net import free_port
from support.wait import wait_until

Result = subprocess.CompletedProcess[str]

# For tests of faults: the API's limits for a hung database, which a slow machine alone would reach.
PATIENT = tuple(
    f"--set-string=api.extraEnv[{index}].{key}={value}"
    for index, (name, seconds) in enumerate(
        {"DATABASE_ACQUIRE_TIMEOUT_SECONDS": 3, "DATABASE_STATEMENT_TIMEOUT_SECONDS": 5}.items()
    )
    for key, value in (("name", name), ("value", seconds))
)
SMALL = ("--set=prometheus.enabled=false", "--set=grafana.enabled=false")


@dataclass
class Cluster:
    """`ingress` is where its ingress controller answers; `provider` the program that runs it, where
    that can do more: add nodes, restart parts."""

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
        """Image archives, into every node. k3d takes plain ones, and ends with 0 if it fails."""
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


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[Cluster | None]:
    """From WIKI_TEST_KUBE, a command that prints `export` lines, or else from k3d with a Docker."""
    if command := os.environ.get("WIKI_TEST_KUBE"):
        # `ip netns` mounts /run/netns over itself when it is first used. With pods running already,
        # as when a node is added, theirs would be hidden below and could not be removed any more.
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(["ip", "netns", "add", "wiki-test"], check=True)
            subprocess.run(["ip", "netns", "delete", "wiki-test"], check=True)
        lines = subprocess.run(
            ["sh", "-c", command], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        given = dict(re.findall(r"export (\w+)=(.*)", lines))
        yield Cluster(
            shlex.split(given["KUBECONFIG"])[0],
            shlex.split(given["KUBE_INGRESS_URL"])[0],
            shlex.split(shlex.split(given["KUBE_LOAD"])[0]),
            provider=[shlex.split(command)[0]],
        )
    elif shutil.which("k3d") and _docker_runs():
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
    """The flake's own, where there is a real k3s to make it from, or a double; else k3d's."""
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


class Release:
    """A release in a namespace of its own that enforces Pod Security "restricted"."""

    def __init__(
        self,
        cluster: Cluster,
        helm: Path,
        namespace: str,
        chart: Path,
        *,
        name: str = "wiki-release",
        host: str = "",
    ):
        self.cluster = cluster
        self.helm_program = helm
        self.namespace = namespace
        self.chart = chart
        self.name = name
        self.fullname = name if "wiki" in name else f"{name}-wiki"
        self.host = host or f"{namespace}.example.com"
        self.client = httpx.Client(
            base_url=cluster.ingress, headers={"Host": self.host}, timeout=30
        )

    def helm(self, command: str, *arguments: str | Path, **options: Any) -> Result:
        return self.cluster.run(
            self.helm_program,
            command,
            self.name,
            *arguments,
            "--namespace",
            self.namespace,
            **options,
        )

    def install(
        self, *arguments: str, chart: Path | str | None = None, command: str = "install"
    ) -> Result:
        """Waits until every pod is ready."""
        options = ["--wait", "--timeout=5m", f"--set=ingress.host={self.host}", *arguments]
        done = self.helm(command, chart or self.chart, *options, seconds=330, check=False)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.explain()}"
        return done

    def upgrade(self, *arguments: str, chart: Path | None = None) -> Result:
        return self.install("--reset-then-reuse-values", *arguments, chart=chart, command="upgrade")

    def kubectl(self, *arguments: str | Path, **options: Any) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, **options)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def pods(self, component: str) -> list[Any]:
        labels = {"instance": self.name, "component": component}
        selector = ",".join(f"app.kubernetes.io/{key}={value}" for key, value in labels.items())
        return list(self.get("pods", f"--selector={selector}")["items"])

    def rollout(self, *objects: str, seconds: int = 180) -> None:
        for each in objects:
            kind, name = each.split("/")
            target = f"{kind}/{self.fullname}-{name}"
            self.kubectl("rollout", "status", target, f"--timeout={seconds}s", seconds=seconds + 10)

    def secret(self, name: str, key: str) -> str:
        return base64.b64decode(self.get("secret", f"{self.fullname}-{name}")["data"][key]).decode()

    def sql(self, statement: str) -> str:
        """What psql prints: a row a line, columns parted by `|`."""
        return self.kubectl(
            *("exec", f"statefulset/{self.fullname}-postgresql", "--", "psql"),
            *("--username=wikiuser", "--dbname=wikidb", "--tuples-only", "--no-align"),
            *("--quiet", f"--command={statement}"),
        )

    def explain(self) -> str:
        """What a person would look at when a pod does not become ready."""
        look = [
            ["get", "pods", "--output=wide"],
            ["get", "events", "--sort-by=.lastTimestamp"],
            *(
                [
                    "logs",
                    "--all-containers",
                    "--tail=20",
                    f"--selector=app.kubernetes.io/component={each}",
                ]
                for each in ("api", "postgresql", "prometheus", "grafana")
            ),
        ]
        return "\n".join(self.kubectl(*arguments, check=False) for arguments in look)

    def reached_from(self, labels: str, targets: dict[str, int], image: str) -> set[str]:
        """To which hosts and ports a pod with these labels gets a connection; it needs a bash."""
        name = f"probe-{uuid.uuid4().hex[:8]}"
        # policies take some seconds to learn of a new pod; packets that they drop get no answer
        attempts = " ".join(
            f"(</dev/tcp/{host}/{port} && echo reached {host}) 2>/dev/null &"
            for host, port in targets.items()
        )
        script = f"for round in {{1..10}}; do {attempts} sleep 2; kill $(jobs -p); wait; done"
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": dict(each.split("=") for each in labels.split(",")),
            },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 999,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "probe",
                        "image": image,
                        "command": ["bash", "-c", script],
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
            },
        }
        self.kubectl("create", "--filename=-", stdin=json.dumps(manifest))
        try:
            self.wait_for_pod(name)
            return set(re.findall(r"^reached (\S+)$", self.kubectl("logs", name), re.MULTILINE))
        finally:
            self.kubectl("delete", "pod", name, "--now")

    def wait_for_pod(self, name: str, seconds: float = 120) -> str:
        """Waits until the pod has ended; says how."""

        def phase() -> str | None:
            found = self.get("pod", name)["status"]["phase"]
            return found if found in ("Succeeded", "Failed") else None

        return str(wait_until(phase, f"the pod {name} to end", seconds=seconds, every=0.3))

    def run_job(self, cronjob: str, *, environment: str = "") -> str:
        """Runs a CronJob's job now, as the README tells, and gives its log."""
        name = f"{cronjob}-{uuid.uuid4().hex[:8]}"
        source = f"--from=cronjob/{self.fullname}-{cronjob}"
        if environment:
            job = self.kubectl("create", "job", name, source, "--dry-run=client", "--output=yaml")
            job = self.kubectl(
                "set", "env", "--local", "--filename=-", environment, "--output=yaml", stdin=job
            )
            self.kubectl("create", "--filename=-", stdin=job)
        else:
            self.kubectl("create", "job", name, source)

        def ended() -> str | None:
            status = self.get("job", name)["status"]
            return next((end for end in ("succeeded", "failed") if status.get(end)), None)

        end = wait_until(ended, f"the job {name} to end", seconds=180, every=0.3)
        log = self.kubectl("logs", f"job/{name}")
        assert end == "succeeded", log
        return log

    @contextlib.contextmanager
    def forward(self, target: str, port: int, *, namespace: str = "") -> Iterator[str]:
        """A port-forward, as NOTES.txt tells users."""
        namespace = namespace or self.namespace
        local = free_port()
        process = subprocess.Popen(
            ["kubectl", "--namespace", namespace, "port-forward", target, f"{local}:{port}"],
            env=self.cluster.environment,
            stdout=subprocess.DEVNULL,
        )

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{local}/").status_code > 0
            return False

        try:
            wait_until(answers, f"the port-forward to {target}", every=0.2)
            yield f"http://127.0.0.1:{local}"
        finally:
            process.terminate()
            process.wait()

    def create_user(self, name: str) -> dict[str, Any]:
        answer = self.client.post("/users", json={"name": name})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def wait_until_answering(self, seconds: float = 60) -> None:
        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                # an Ingress that does not know the API yet says 404 in plain text
                answer = self.client.get("/user/1")
                return answer.status_code < 500 and "json" in answer.headers["content-type"]
            return False

        wait_until(
            answers, f"the API at {self.host} through the Ingress", seconds=seconds, every=0.2
        )

    @contextlib.contextmanager
    def load(self, workers: int = 4, rate: float = 40) -> Iterator["Load"]:
        """Creates users through the Ingress, `rate` a second in all, until the block ends."""
        load = Load(self, workers, rate)
        try:
            yield load
        finally:
            load.stop()


class Load:
    LIMIT = 100_000  # requests; a test that forgets to stop ends by itself

    def __init__(self, release: Release, workers: int, rate: float):
        self.acknowledged: dict[int, str] = {}
        self.moments: list[float] = []  # at which each was acknowledged, by the wall clock
        self._failures: list[tuple[float, str]] = []
        self._end = threading.Event()
        self._pause = workers / rate
        self._release = release
        self._pool = ThreadPoolExecutor(workers)
        self._work = [self._pool.submit(self._create, worker, workers) for worker in range(workers)]

    def _create(self, worker: int, workers: int) -> None:
        client = httpx.Client(
            base_url=self._release.cluster.ingress, headers={"Host": self._release.host}, timeout=15
        )
        for number in range(worker, self.LIMIT, workers):
            if self._end.wait(self._pause):
                return
            name, sent = f"load {number}", time.monotonic()
            try:
                answer = client.post("/users", json={"name": name})
            except httpx.TransportError as error:
                self._failures.append((sent, repr(error)))
                continue
            if answer.status_code == 201:
                self.acknowledged[answer.json()["id"]] = name
                self.moments.append(time.time())
            else:
                self._failures.append((sent, f"{answer.status_code} {answer.text[:200]}"))

    @property
    def failures(self) -> list[str]:
        return self.failures_since(0)

    def failures_since(self, moment: float) -> list[str]:
        """Of requests that were sent after `moment`, by the monotonic clock."""
        return [failure for sent, failure in self._failures if sent >= moment]

    def wait_for(self, requests: int, seconds: float = 120) -> None:
        goal = len(self.acknowledged) + requests
        wait_until(
            lambda: len(self.acknowledged) >= goal, f"{requests} more answers", seconds=seconds
        )

    def stop(self) -> None:
        self._end.set()
        for work in self._work:
            work.result(timeout=60)
        self._pool.shutdown()

    def assert_nothing_lost(self) -> None:
        """Every user whose creation was acknowledged is in the database."""
        rows = self._release.sql("select id, name from users")
        stored = {int(row.split("|")[0]): row.split("|")[1] for row in rows.splitlines()}
        lost = {key: name for key, name in self.acknowledged.items() if stored.get(key) != name}
        assert not lost, f"{len(lost)} of {len(self.acknowledged)} lost"


NewRelease = Callable[..., Release]
