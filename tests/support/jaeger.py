"""Jaeger, built once from its Go module and kept: a server that holds traces in memory."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import httpx

from support import helm
from support.generators import kept
from support.net import free_port
from support.wait import wait_until

VERSION = "v1.76.0"  # the module's number for Jaeger 2.13
MODULE = f"github.com/jaegertracing/jaeger@{VERSION}"
# What the tests use. The others take long to compile, above all the clients of databases.
COMPONENTS = {
    "jaegerquery",
    "jaegerstorage",
    "otelconftelemetry",
    "otlpreceiver",
    "storageexporter",
}
STORAGE = Path(__file__).with_name("jaeger.go")
# What is left of the storage of its first version, which only types name.
FIRST_STORAGE = """package storage

import "github.com/jaegertracing/jaeger/internal/storage/v1/api/spanstore"

type ArchiveStorage struct {
	Reader spanstore.Reader
	Writer spanstore.Writer
}
"""


class UnavailableError(Exception):
    """Jaeger is unavailable, and why."""


def install() -> Path | None:
    """Says why if it cannot be built: the tests that need it are then skipped."""
    try:
        return program()
    except UnavailableError as reason:
        print(reason)
        return None


def program() -> Path:
    try:
        return kept(f"jaeger-{VERSION}", build) / "jaeger"
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"Jaeger cannot be built: {error}") from error


def build(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "jaeger"
        helm.writable_copy(helm.download(MODULE), source)
        command = source / "cmd/jaeger"
        without(command / "main.go", {"mappings"})
        components = command / "internal/components.go"
        found = re.findall(r"(\w+)\.NewFactory\(", components.read_text())
        without(components, set(found) - COMPONENTS)
        replace(command / "internal/extension/jaegerstorage", STORAGE.read_text())
        replace(source / "internal/storage/v1/factory", FIRST_STORAGE)
        helm.compile_with_go(
            *("build", "-v", "-mod=mod", *helm.QUICK, "-o", folder / "jaeger", "./cmd/jaeger"),
            cwd=source,
        )


def without(file: Path, packages: set[str]) -> None:
    """Removes the lines that name these."""
    lines = file.read_text().splitlines()
    name = re.compile(rf"\b({'|'.join(packages)})\b")
    file.write_text("\n".join(line for line in lines if not name.search(line)))


def replace(package: Path, text: str) -> None:
    shutil.rmtree(package)
    package.mkdir()
    (package / "package.go").write_text(text)


class Jaeger:
    def __init__(self, directory: Path):
        query, grpc, otlp = free_port(), free_port(), free_port()
        address = "127.0.0.1"
        config = {
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query"],
                "pipelines": {
                    "traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}
                },
                "telemetry": {"metrics": {"level": "none"}},
            },
            "extensions": {
                "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 10000}}}},
                "jaeger_query": {
                    "storage": {"traces": "memory"},
                    "http": {"endpoint": f"{address}:{query}"},
                    "grpc": {"endpoint": f"{address}:{grpc}"},
                },
            },
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"{address}:{otlp}"}}}},
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
        }
        # YAML, too.
        file = directory / "jaeger.yaml"
        file.write_text(json.dumps(config))
        self.log = directory / "jaeger.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [program(), f"--config={file}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.endpoint = f"http://{address}:{otlp}"
        self._api = httpx.Client(base_url=f"http://{address}:{query}/api", timeout=30)
        wait_until(self._ready, f"Jaeger, whose log is {self.log}", seconds=60)

    def _ready(self) -> bool:
        assert self._process.poll() is None, f"Jaeger ended: {self.log.read_text()}"
        try:
            return self._api.get("/services").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        answer = self._api.get(path, params=parameters)
        return answer.json()["data"] if answer.status_code == 200 else None

    def spans(self, trace_id: str, number: int) -> dict[str, dict[str, Any]]:
        """The spans of a trace by name, once there are this many."""

        def found() -> list[dict[str, Any]] | None:
            traces = self.get(f"/traces/{trace_id}") or [{"spans": []}]
            spans = traces[0]["spans"]
            return spans if len(spans) >= number else None

        spans = wait_until(found, f"{number} spans of {trace_id}")
        return {
            span["operationName"]: {
                "id": span["spanID"],
                "parents": [reference["spanID"] for reference in span["references"]],
                "tags": {tag["key"]: tag["value"] for tag in span["tags"]},
                "warnings": span["warnings"],
            }
            for span in spans
        }

    def close(self) -> None:
        self._api.close()
        # Asked to end, it takes 20 seconds.
        self._process.kill()
        self._process.wait()
