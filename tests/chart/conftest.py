import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import kube
from support.helm import CHART, Helm, install
from support.kube import Cluster, NewRelease, Release


@pytest.fixture(params=["helm3", "helm4"], scope="session")
def helm(request: pytest.FixtureRequest) -> Helm:
    """Each Helm that users have."""
    return Helm(install(request.param))


@pytest.fixture(scope="session")
def helm3() -> Helm:
    """The Helm of the cluster image."""
    return Helm(install("helm3"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with kube.cluster(tmp_path_factory.mktemp("cluster")) as found:
        if not found:
            pytest.skip("no Kubernetes: no WIKI_TEST_KUBE, and no k3d with a running Docker")
        yield found


@pytest.fixture(scope="session")
def images() -> list[Path]:
    """Archives of the images that the chart names."""
    return sorted(Path(os.environ["WIKI_TEST_IMAGES"]).glob("*.tar"))


@pytest.fixture(scope="session")
def chart(cluster: Cluster, images: list[Path]) -> Path:
    """The chart under test, whose images the cluster has."""
    cluster.load(*images)
    return CHART


@pytest.fixture(scope="module")
def new_release(cluster: Cluster, chart: Path, helm3: Helm) -> Iterator[NewRelease]:
    """Makes releases, each in a namespace of its own; they are gone after the module."""
    namespaces: list[str] = []

    def new(namespace: str, *, host: str = "") -> Release:
        cluster.kubectl("create", "namespace", namespace)
        namespaces.append(namespace)
        levels = ("enforce", "warn")
        labels = [f"pod-security.kubernetes.io/{level}=restricted" for level in levels]
        cluster.kubectl("label", "namespace", namespace, *labels)
        return Release(cluster, helm3.program, namespace, chart, host=host)

    yield new
    for namespace in namespaces:
        Release(cluster, helm3.program, namespace, chart).helm("uninstall", check=False)
        cluster.kubectl("delete", "namespace", namespace, "--timeout=120s", check=False)
