"""cargo-deny, built once and kept."""

import subprocess
from pathlib import Path

from support.cache import CACHE

VERSION = "0.20.2"

ROOT = CACHE / f"cargo-deny-{VERSION}"
PROGRAM = ROOT / "bin/cargo-deny"


def install() -> None:
    if not PROGRAM.exists():
        command = ["cargo", "install", "--locked", f"--root={ROOT}", f"cargo-deny@{VERSION}"]
        # Elsewhere than in the project: its toolchain file is not for others' programs.
        subprocess.run(["nice", *command], cwd=Path.home(), check=True)
