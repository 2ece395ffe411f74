from collections.abc import Iterator

import pytest

from support import kube
from support import nix as nix_support
from support import registry as registry_support
from support.kube import Cluster
from support.nix import SYSTEM, Nix
from support.publication import Publication
from support.registry import Registry


@pytest.fixture(scope="session")
def nix() -> Nix:
    try:
        return nix_support.find()
    except nix_support.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_support.registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def publication(nix: Nix, registry: Registry) -> Publication:
    if SYSTEM != "x86_64-linux":
        pytest.skip("the other architecture's images are stood in for on x86_64 alone")
    return Publication(nix, registry)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with kube.cluster(tmp_path_factory.mktemp("cluster")) as found:
        if not found:
            pytest.skip("no Kubernetes: no WIKI_TEST_KUBE, and no k3d with a running Docker")
        yield found
