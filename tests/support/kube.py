"""A release of the chart in Kubernetes."""

import base64
import contextlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from support.cluster import Cluster, Result
from support.load import Load
from support.net import NO_CAS, free_port
from support.wait import wait_until

# For tests of faults: longer limits for a hung database, which a slow machine alone would reach.
PATIENT = tuple(
    f"--set-string=api.extraEnv[{index}].{key}={value}"
    for index, (name, seconds) in enumerate(
        {"DATABASE_ACQUIRE_TIMEOUT_SECONDS": 3, "DATABASE_STATEMENT_TIMEOUT_SECONDS": 5}.items()
    )
    for key, value in (("name", name), ("value", seconds))
)
# So little that a node with two CPUs has room for some beside a release with the defaults.
SMALL = (
    *("--set=prometheus.enabled=false", "--set=grafana.enabled=false"),
    *(f"--set={part}.resources.requests.cpu=50m" for part in ("api", "postgresql")),
)


class Release:
    """A release in its own namespace, which enforces Pod Security "restricted"."""

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
        self.fullname = (name if "wiki" in name else f"{name}-wiki")[:40].rstrip("-")
        self.host = host or f"{namespace}.example.com"
        self.client = httpx.Client(
            base_url=cluster.ingress, headers={"Host": self.host}, timeout=30, verify=NO_CAS
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
        """Waits until every pod is ready, and nothing older answers."""
        options = ["--wait", "--timeout=5m", f"--set=ingress.host={self.host}", *arguments]
        done = self.helm(command, chart or self.chart, *options, seconds=330, check=False)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.explain()}"
        self.wait_until_replaced()
        return done

    def upgrade(self, *arguments: str, chart: Path | None = None) -> Result:
        return self.install("--reset-then-reuse-values", *arguments, chart=chart, command="upgrade")

    def rollback(self) -> None:
        """Waits as `install` does."""
        self.helm("rollback", "--wait", "--timeout=5m", seconds=330)
        self.wait_until_replaced()

    def wait_until_replaced(self) -> None:
        """Helm does not wait for the pods of before, which answer for some seconds more."""
        self.rollout("deployment/api")

        old = [
            f"pod/{pod['metadata']['name']}"
            for pod in self.pods("api")
            if "deletionTimestamp" in pod["metadata"]
        ]
        if old:
            self.kubectl("wait", "--for=delete", "--timeout=60s", *old)
        self.wait_until_answering()

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
        """What psql prints: one row per line, columns separated by `|`."""
        return self.kubectl(
            *("exec", f"statefulset/{self.fullname}-postgresql", "--", "psql"),
            *("--username=wikiuser", "--dbname=wikidb", "--tuples-only", "--no-align"),
            *("--quiet", f"--command={statement}"),
        )

    def paste(self, script: str, folder: Path) -> str:
        """Runs the chart page's commands in a folder, with this namespace as the current one."""
        config = yaml.safe_load(Path(self.cluster.kubeconfig).read_text())
        for context in config["contexts"]:
            context["context"]["namespace"] = self.namespace
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        program = folder / "helm"
        program.unlink(missing_ok=True)
        program.symlink_to(self.helm_program)
        done = subprocess.run(
            ["bash", "-euxc", script],
            cwd=folder,
            env=self.cluster.environment
            | {"KUBECONFIG": str(kubeconfig), "PATH": f"{folder}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{self.explain()}"
        return done.stdout

    def explain(self) -> str:
        """What one would look at when a pod does not become ready."""
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
        """The hosts and ports to which a pod with these labels can connect; needs bash."""
        name = f"probe-{uuid.uuid4().hex[:8]}"
        # policies take some seconds to know a new pod; packets that they drop get no response
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
        """Waits until the pod has finished; returns how."""

        def phase() -> str | None:
            found = self.get("pod", name)["status"]["phase"]
            return found if found in ("Succeeded", "Failed") else None

        return str(wait_until(phase, f"the pod {name} to end", seconds=seconds, every=0.3))

    def run_job(self, cronjob: str, *, environment: str = "") -> str:
        """Runs a CronJob's job now, as in the README, and returns its log."""
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
        """A port-forward, as in NOTES.txt."""
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
                # an Ingress that does not know the API yet answers 404 in plain text
                answer = self.client.get("/user/1")
                return answer.status_code < 500 and "json" in answer.headers["content-type"]
            return False

        wait_until(
            answers, f"the API at {self.host} through the Ingress", seconds=seconds, every=0.2
        )

    @contextlib.contextmanager
    def load(self, workers: int = 4, rate: float = 40) -> Iterator[Load]:
        """Creates users through the Ingress, `rate` a second in all, until the block ends."""
        load = Load(self.cluster.ingress, self.host, self.sql, workers, rate)
        try:
            yield load
        finally:
            load.stop()


NewNamespace = Callable[[str], contextlib.AbstractContextManager[str]]
NewRelease = Callable[..., Release]
