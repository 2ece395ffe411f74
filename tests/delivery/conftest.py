from collections.abc import Iterator

import pytest

from support import nix as nix_support
from support import registry as registry_support
from support.nix import Nix
from support.registry import Registry


@pytest.fixture(scope="session")
def nix() -> Nix:
    try:
        return nix_support.find()
    except nix_support.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_support.registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry
