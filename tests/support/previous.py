"""The version before this one, as a program, for what must hold between two versions."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from support import service
from support.cache import CACHE, turn
from support.service import ROOT

VERSION = "0.1.0"
COMMIT = "ecc2113"

PROGRAM = CACHE / f"wiki-service-{VERSION}" / "wiki-service"


class UnavailableError(Exception):
    """Why there is none."""


def build() -> Path:
    """Builds it from its commit, once. What this version has compiled already serves as it is."""
    with turn("previous"):
        if not PROGRAM.exists():
            with tempfile.TemporaryDirectory() as directory:
                build_in(Path(directory))
    return PROGRAM


def build_in(directory: Path) -> None:
    archive = ["git", "archive", COMMIT, "Cargo.*", "rust-toolchain.toml", "src", "migration"]
    found = subprocess.run(archive, cwd=ROOT, check=False, capture_output=True)
    if found.returncode:
        reason = f"no {VERSION}: commit {COMMIT} is not in this clone (git fetch --unshallow)"
        raise UnavailableError(reason)
    service.build()
    source, target = directory / "source", directory / "target"
    source.mkdir()
    target.mkdir()
    subprocess.run(["tar", "--extract"], cwd=source, input=found.stdout, check=True)
    subprocess.run(["cp", "-a", "--link", ROOT / "target/debug", target], check=False)
    command = ["cargo", "build", "--locked", "--quiet", f"--target-dir={target}"]
    subprocess.run(command, cwd=source, check=True)
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(target / "debug/wiki-service", PROGRAM)
