"""The predecessor of bench/predecessor, installed once and kept, and a server of it."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.cache import CACHE
from support.databases import PASSWORD, USER, PostgresDatabase
from support.net import free_port
from support.service import ROOT
from support.wait import wait_until

HOME = ROOT / "bench/predecessor"
REQUIREMENTS = HOME / "requirements.txt"
VENV = CACHE / f"predecessor-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
UVICORN = VENV / "bin/uvicorn"


def install() -> None:
    if UVICORN.exists():
        return
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip = [VENV / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    try:
        subprocess.run([*pip, "-r", REQUIREMENTS], check=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(VENV)
        raise


class Predecessor:
    """On the tables of `database`, which are there already."""

    def __init__(self, directory: Path, database: PostgresDatabase):
        self.port = free_port()
        self.log = directory / "predecessor.log"
        server = database.server
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": f"postgresql+asyncpg://{server.host}:{server.port}/{database.name}",
            "PGUSER": USER,
            "PGPASSWORD": PASSWORD,
            "DATABASE_POOL_SIZE": "2",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [UVICORN, "main:app", f"--app-dir={HOME}", f"--port={self.port}"],
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
