from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import docker as docker_support
from support.docker import Docker
from support.nix import Nix


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
def checkout(nix: Nix, tmp_path: Path) -> Nix:
    """The project in another folder, committed, for a test to change."""
    return nix.check_out(tmp_path / "checkout")


@pytest.fixture
def leave_nothing(docker: Docker) -> Iterator[None]:
    yield
    docker.clean()
