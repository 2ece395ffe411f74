"""cargo-deny, built once and kept."""

import subprocess
from pathlib import Path

from support.cache import CACHE, turn

VERSION = "0.20.2"

ROOT = CACHE / f"cargo-deny-{VERSION}"
PROGRAM = ROOT / "bin/cargo-deny"


def install() -> None:
    with turn("cargo-deny"):
        if not PROGRAM.exists():
            # What its optimisation takes is a minute more than all its runs together.
            options = ["--locked", "--debug", f"--root={ROOT}", f"cargo-deny@{VERSION}"]
            # Elsewhere than in the project: its toolchain file is not for others' programs.
            command = ["nice", "cargo", "install", *options]
            subprocess.run(command, cwd=Path.home(), check=True)
