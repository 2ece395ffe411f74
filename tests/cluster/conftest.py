"""Two ways to boot: in namespaces of this machine with test doubles, and for real."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support import helm
from support.nix import ROOT

DOUBLES = ("docker", "dockerd", "helm", "iptables", "k3d", "kubectl", "zstd")
PAUSE = "docker.io/rancher/mirrored-pause:3.6"
IMAGES = ["wiki-postgresql:a", "wiki-service:b"]
VERSIONS = {"wiki-cluster": "0.2.0", "docker": "29.1.0", "k3s": "1.35.5+k3s1", "postgresql": "16.9"}

UNSHARE = ["unshare", "--mount", "--mount-proc", "--net", "--cgroup", "--pid", "--fork"]


@cache
def packed_chart() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        package = ["package", str(helm.CHART), "--destination", folder]
        subprocess.run([helm.install("helm3"), *package], check=True, stdout=subprocess.DEVNULL)
        (chart,) = Path(folder).glob("wiki-*.tgz")
        return chart.read_bytes()


class Machine:
    """The program's environment in its container: its files, the volume, programs."""

    def __init__(self, directory: Path, program: Path):
        self.directory = directory
        self.program = program
        self.volume = directory / "volume"
        self.share = directory / "share"
        for folder in ("volume", "share/images", "share/node", "share/airgap", "bin"):
            (directory / folder).mkdir(parents=True)
        for image in [*IMAGES, "wiki-k3s:n"]:
            kind = "node" if "k3s" in image else "images"
            (self.share / kind / f"{image.replace(':', '-')}.tar.zst").write_text(image)
        (self.share / "airgap/k3s.tar.zst").write_text(PAUSE)
        (self.share / "airgap/.cache.json").touch()
        (self.share / "values.yaml").write_text("{}")
        self.describe()
        (self.share / "chart.tgz").write_bytes(packed_chart())
        for name in DOUBLES:
            (directory / "bin" / name).symlink_to(Path(__file__).parent / "double")
        # Where the program itself is, it sees a different file system.
        try:
            os.link(helm.path("helm3"), directory / "real-helm")
        except OSError:
            shutil.copy(helm.path("helm3"), directory / "real-helm")

    def describe(
        self, node: str = "wiki-k3s:n", images: list[str] = IMAGES, **versions: str
    ) -> None:
        contents = {
            "versions": VERSIONS
            | {name.replace("_", "-"): value for name, value in versions.items()},
            "node": node,
            "images": images,
            "k3s_options": ["--debug", "--kubelet-arg", "--token"],
        }
        (self.share / "contents.json").write_text(json.dumps(contents))

    def start(self, *, before: str = "", **environment: str) -> subprocess.Popen[str]:
        script = f"""
            set -e
            ip link set lo up
            for folder in /run /root /usr/share /var/lib /var/log /sys/fs/cgroup; do
              mount -t tmpfs tmpfs $folder
            done
            echo cpuset cpu io memory hugetlb pids >/sys/fs/cgroup/cgroup.controllers
            touch /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/cgroup.subtree_control
            mkdir /var/lib/docker /usr/share/wiki-cluster
            mount --bind {self.volume} /var/lib/docker
            mount --bind {self.share} /usr/share/wiki-cluster
            cp {self.directory}/values-of-user.yaml /run/ 2>/dev/null || true
            {before}
            exec $RUN {self.program}
        """
        inherited = {"PATH": f"{self.directory}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "RUN": ""}
        own = {"REAL_HELM": str(self.directory / "real-helm"), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [*UNSHARE, "--kill-child", "sh", "-c", script],
            env=inherited | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def boot(self, **options: str) -> list[str]:
        """Starts, waits until it is ready, stops; what it printed."""
        with self.run(**options) as (process, lines):
            os.kill(self.first_process(process), signal.SIGTERM)
            assert process.stdout
            lines.extend(process.stdout.read().splitlines())
            assert process.wait(timeout=30) == 0, "\n".join(lines)
        return lines

    @contextmanager
    def run(self, **options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
        """Starts and waits until it is ready; stops it, unless the block has."""
        process = self.start(**options)
        assert process.stdout
        lines = []
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if "/grafana/" in line:
                    break
            else:
                pytest.fail("it ended:\n" + "\n".join(lines))
            yield process, lines
        finally:
            process.kill()
            process.wait()

    def first_process(self, process: subprocess.Popen[str]) -> int:
        """The process that is process 1 inside."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(children[0])

    def refuse(self, **options: str) -> str:
        """Starts it where it should exit with an error; returns the last line."""
        process = self.start(**options)
        try:
            text, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 1, text
        self.output = text
        return text.splitlines()[-1]

    @property
    def calls(self) -> list[str]:
        path = self.volume / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def memory(self) -> dict[str, Any]:
        """What the test doubles remember."""
        memory: dict[str, Any] = json.loads((self.volume / "double.json").read_text())
        return memory

    def forget_calls(self) -> None:
        (self.volume / "calls").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def program() -> Path:
    command = ["cargo", "build", "--quiet", "--locked"]
    subprocess.run(command, cwd=ROOT / "cluster", check=True)
    return ROOT / "cluster/target/debug/wiki-cluster"


@pytest.fixture
def machine(tmp_path: Path, program: Path) -> Machine:
    probe = subprocess.run([*UNSHARE, "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("the start program needs its own namespaces, which requires root")
    return Machine(tmp_path, program)
