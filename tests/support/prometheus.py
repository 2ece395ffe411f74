"""A Prometheus 3 server, and what promtool says."""

import subprocess
from pathlib import Path
from typing import Any

import httpx

from support import helm
from support.net import free_port
from support.wait import wait_until


class Prometheus:
    """A server that scrapes `target` (host:port) once a second."""

    def __init__(self, directory: Path, target: str):
        self._port = free_port()
        config = directory / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: wiki, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        self.log = directory / "prometheus.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    helm.install("prometheus3"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{self._port}/api/v1")
        wait_until(self._ready, f"Prometheus, whose log is {self.log}", seconds=60)

    def _ready(self) -> bool:
        assert self._process.poll() is None, f"Prometheus ended: {self.log.read_text()}"
        try:
            return self._api.get("/status/buildinfo").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self._api.get("/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def value(self, expression: str) -> float | None:
        """The value of the one series that `expression` yields, or None without any."""
        result = self.query(expression)
        assert len(result) < 2, f"{expression} yields more than one series: {result}"
        return float(result[0]["value"][1]) if result else None

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)


def check_metrics(exposition: str) -> str:
    """What promtool finds wrong with an exposition: nothing, if it is valid."""
    check = subprocess.run(
        [helm.install("promtool"), "check", "metrics"],
        input=exposition,
        text=True,
        capture_output=True,
        check=False,
    )
    return check.stdout + check.stderr if check.returncode else ""
