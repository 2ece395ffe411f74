"""The predecessor, from bench/predecessor."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from support.databases import PASSWORD, USER, PostgresDatabase
from support.generators import kept, run
from support.net import free_port
from support.service import ROOT
from support.wait import wait_until

HOME = ROOT / "bench/predecessor"
REQUIREMENTS = HOME / "requirements.txt"


def packages() -> Path:
    """The folder of its packages, installed once and kept."""
    install = ("pip", "install", "--quiet", "--no-deps", "-r", REQUIREMENTS, "--target")
    name = f"predecessor-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    return kept(name, lambda folder: run(sys.executable, "-m", *install, folder))


class Predecessor:
    """On the existing tables of `database`."""

    def __init__(self, directory: Path, database: PostgresDatabase):
        self.port = free_port()
        self.log = directory / "predecessor.log"
        server = database.server
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(packages()),
            "DATABASE_URL": f"postgresql+asyncpg://{server.host}:{server.port}/{database.name}",
            "PGUSER": USER,
            "PGPASSWORD": PASSWORD,
            "DATABASE_POOL_SIZE": "2",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "uvicorn",
                    "main:app",
                    "--app-dir",
                    HOME,
                    "--port",
                    str(self.port),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._listens, f"the predecessor, whose log is {self.log}", seconds=60)

    def _listens(self) -> bool:
        text = self.log.read_text()
        assert self._process.poll() is None, f"the predecessor ended: {text}"
        return "running on" in text

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
