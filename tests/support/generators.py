"""Generators of clients and servers from an OpenAPI document, each installed once and kept."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.cache import CACHE, turn

TYPESCRIPT = ("openapi-typescript@7.13.0", "typescript@5.9.3")
PYTHON = "openapi-python-client==0.29.1"
JAVA = "org.openapitools:openapi-generator-cli:7.25.0"


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def kept(name: str, install: Callable[[Path], None]) -> Path:
    """The folder that `install` fills, unless it is already filled."""
    folder = CACHE / re.sub("[:=@]+", "-", name)
    with turn(folder.name):
        if not folder.exists():
            # All or nothing.
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            install(unfinished)
            unfinished.rename(folder)
    return folder


def typescript() -> Path:
    """The folder of openapi-typescript's and TypeScript's commands."""
    install = ("npm", "install", "--no-audit", "--no-fund", *TYPESCRIPT, "--prefix")
    return kept(TYPESCRIPT[0], lambda folder: run(*install, folder)) / "node_modules/.bin"


def python() -> Path:
    """The folder of openapi-python-client's packages, and of those that its clients need."""
    install = (sys.executable, "-m", "pip", "install", "--quiet", PYTHON, "--target")
    return kept(PYTHON, lambda folder: run(*install, folder))


def java() -> Path:
    """OpenAPI Generator's archive."""
    copy = ("mvn", "--batch-mode", "dependency:copy", f"-Dartifact={JAVA}")
    folder = kept(JAVA, lambda folder: run(*copy, f"-DoutputDirectory={folder}"))
    return next(folder.glob("*.jar"))
