import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import nix, previous
from support.helm import Helm, install
from support.kube import Cluster, NewNamespace, NewRelease, Release
from support.nix import Nix


@pytest.fixture(params=["helm3", "helm4"], scope="session")
def helm(request: pytest.FixtureRequest) -> Helm:
    """Each supported version of Helm."""
    return Helm(install(request.param))


@pytest.fixture(scope="session")
def helm3() -> Helm:
    """The Helm of the cluster image."""
    return Helm(install("helm3"))


@pytest.fixture(scope="session")
def flake(cluster: Cluster) -> Nix:  # noqa: ARG001 nothing is built where there is no cluster
    try:
        return nix.find()
    except nix.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def images(flake: Nix) -> list[Path]:
    """Archives of the images that the flake's chart names."""
    return flake.build("wiki-image", "postgresql-image", "prometheus-image", "grafana-image")


@pytest.fixture(scope="session")
def chart(cluster: Cluster, flake: Nix, images: list[Path]) -> Path:
    """The flake's chart, whose images the cluster has."""
    cluster.load(*images)
    (package,) = flake.build("chart")[0].glob("wiki-*.tgz")
    return package


@pytest.fixture(scope="session")
def first_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of 0.1.0."""
    try:
        return previous.chart(tmp_path_factory.mktemp("first"))
    except previous.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def new_namespace(cluster: Cluster) -> Iterator[NewNamespace]:
    """Creates a namespace for the length of a `with`. Deletions are awaited only at the end, all at
    once."""
    deleted: list[str] = []

    @contextlib.contextmanager
    def new(name: str) -> Iterator[str]:
        cluster.kubectl("create", "namespace", name)
        yield name
        cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)
        deleted.append(f"namespace/{name}")

    yield new
    if deleted:
        cluster.kubectl("wait", "--for=delete", "--timeout=120s", *deleted, check=False)


def releases(
    cluster: Cluster, chart: Path, helm3: Helm, new_namespace: NewNamespace
) -> Iterator[NewRelease]:
    with contextlib.ExitStack() as stack:

        def new(namespace: str, *, host: str = "") -> Release:
            stack.enter_context(new_namespace(namespace))
            levels = ("enforce", "warn")
            labels = [f"pod-security.kubernetes.io/{level}=restricted" for level in levels]
            cluster.kubectl("label", "namespace", namespace, *labels)
            release = Release(cluster, helm3.program, namespace, chart, host=host)
            stack.callback(release.helm, "uninstall", check=False)
            return release

        yield new


# Create releases, each in its own namespace, removed after the test, or after the module:
# many at a time would request more than a node with two CPUs has.
new_release = pytest.fixture(releases, name="new_release")
new_module_release = pytest.fixture(releases, name="new_module_release", scope="module")
