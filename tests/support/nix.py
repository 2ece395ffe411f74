"""The flake, built with the stand-in for nixpkgs (nix/stand-in), or with WIKI_TEST_NIX."""

import contextlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support import helm
from support import service as by_cargo
from support.cache import turn

ROOT = Path(__file__).parents[2]
SYSTEM = f"{platform.machine()}-linux"


ARTEFACTS = (
    "wiki-image",
    "postgresql-image",
    "prometheus-image",
    "grafana-image",
    "k3s-image",
    "cluster-image",
    "chart",
)


class UnavailableError(Exception):
    """Why there is no Nix here, in one line."""


# A Nix that can fetch nixpkgs builds what users get.
REAL = os.environ.get("WIKI_TEST_NIX")

# The service's program as the image has it.
SERVICE = ROOT / "target/image/bin/wiki-service"


class Nix:
    """`nix` on the flake of a folder."""

    def __init__(self, flake: Path = ROOT):
        self.flake = flake

    def run(
        self, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        program = REAL or self.flake / "nix/stand-in/nix"
        return subprocess.run(
            [program, *arguments],
            cwd=self.flake,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"NO_COLOR": "1"} | (environment or {}),
        )

    def output(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        result = self.run(*arguments, environment=environment)
        assert result.returncode == 0, f"nix {' '.join(arguments)}:\n{result.stderr}"
        return result.stdout

    def build(self, *attributes: str, options: tuple[str, ...] = ()) -> list[Path]:
        """Builds outputs such as `wiki-image`; their store paths."""
        flags = ("--no-link", "--print-out-paths", "--print-build-logs", *options)
        paths = self.output("build", *(f".#{name}" for name in attributes), *flags)
        return [Path(path) for path in paths.split()]

    def evaluate(self, attribute: str, apply: str | None = None) -> Any:
        flags = ("--apply", apply) if apply else ()
        return json.loads(self.output("eval", "--json", f".#{attribute}", *flags))

    def check_out(self, folder: Path) -> "Nix":
        """The project in another folder, committed, for a test to change."""

        def git(*arguments: str, cwd: Path = folder) -> str:
            command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments]
            done = subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)
            return done.stdout

        listing = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in filter(None, git(*listing, cwd=self.flake).split("\0")):
            if (self.flake / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.flake / name, folder / name)
        git("init", "--quiet")
        git("add", "--all")
        git("commit", "--quiet", "-m", "All")
        return Nix(folder)


def prepare() -> None:
    """Installs Nix and what the stand-in is made from. If that is impossible, the tests say so."""
    if not REAL:
        for name in ("regctl", "yq", "helm3", "prometheus3"):
            helm.install(name)
        with turn("stand-in"):
            command = [ROOT / "nix/stand-in/nix", "eval", "--expr", "1"]
            subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)


def build_artefacts() -> None:
    """Builds what most tests start from, for as long as it takes. If it fails, they say so."""
    with turn("artefacts"), contextlib.suppress(UnavailableError, AssertionError):
        prepared().build(*ARTEFACTS)


def gives_the_service() -> bool:
    """Whether the tests run the program that the image has, and not one by cargo."""
    return os.environ.get("WIKI_SERVICE") == str(SERVICE)


def service() -> None:
    """Builds that program; if there is no Nix, cargo does, and it is not the image's any more."""
    link = SERVICE.parents[1]
    # Not that the tests run an older one if this fails.
    link.unlink(missing_ok=True)
    try:
        flags = ("--print-build-logs", "--out-link", str(link))
        prepared().output("build", ".#wiki-service", *flags)
    except UnavailableError:
        del os.environ["WIKI_SERVICE"]
        by_cargo.build()


def lint() -> None:
    try:
        prepared().build(f"checks.{SYSTEM}.clippy")
    except UnavailableError:
        by_cargo.lint()


def crates() -> Path:
    """The target folder with the crates that are compiled for that program."""
    return prepared().build("wiki-service.cargoDeps")[0]


def prepared() -> Nix:
    prepare()
    return find()


def find() -> Nix:
    if platform.system() != "Linux" and not REAL:
        raise UnavailableError(
            f"the stand-in for nixpkgs is made from Linux programs, and this is {platform.system()}"
        )
    nix = Nix()
    probe = nix.run("eval", "--expr", "1")
    if probe.returncode:
        raise UnavailableError("no Nix: " + (probe.stderr.strip() or "it failed").splitlines()[-1])
    return nix
