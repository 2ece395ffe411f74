from collections.abc import Iterator

import pytest

from support import registry as registry_support
from support.nix import SYSTEM, Nix
from support.publication import Publication
from support.registry import Registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_support.registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def publication(nix: Nix, registry: Registry) -> Publication:
    if SYSTEM != "x86_64-linux":
        pytest.skip("the other architecture's images are only simulated on x86_64")
    return Publication(nix, registry)
