import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import docker as docker_support
from support import nix as nix_support
from support.docker import Docker
from support.nix import ROOT, Nix


@pytest.fixture(scope="session")
def nix() -> Nix:
    try:
        return nix_support.find()
    except nix_support.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    try:
        with docker_support.dockerd() as docker:
            yield docker
    except docker_support.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def load(nix: Nix, docker: Docker) -> Callable[[str], str]:
    """Builds an image and loads it; its name and tag."""
    return lambda attribute: docker.load(nix.build(attribute)[0])


@pytest.fixture
def checkout(nix: Nix, tmp_path: Path) -> Nix:  # noqa: ARG001 skips where there is no Nix
    """The project in another folder, committed, for a test to change."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    folder = tmp_path / "checkout"
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(
        folder,
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.com",
        "commit",
        "--quiet",
        "-m",
        "All",
    )
    return Nix(folder)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)
