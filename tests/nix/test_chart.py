"""The flake's chart names the flake's own images, by hash tags."""

import tarfile
from pathlib import Path

import pytest
import yaml

from support.nix import SYSTEM, Nix
from support.version import VERSION

IMAGES = {
    "api": "wiki-image",
    "postgresql": "postgresql-image",
    "prometheus": "prometheus-image",
    "grafana": "grafana-image",
}


@pytest.fixture
def chart(nix: Nix) -> Path:
    (archive,) = nix.build("chart")[0].iterdir()
    return archive


def test_the_archive(chart: Path) -> None:
    with tarfile.open(chart) as archive:
        names = archive.getnames()
        metadata = yaml.safe_load(archive.extractfile("wiki/Chart.yaml"))
    assert chart.name == f"wiki-{VERSION}.tgz"
    assert (metadata["version"], metadata["appVersion"]) == (VERSION, VERSION)
    assert {"wiki/values.yaml", "wiki/templates/api/deployment.yaml"} <= set(names)
    assert not [name for name in names if name.startswith("wiki/ci")]


def test_the_images(nix: Nix, chart: Path) -> None:
    with tarfile.open(chart) as archive:
        values = yaml.safe_load(archive.extractfile("wiki/values.yaml"))
    for component, attribute in IMAGES.items():
        image = values[component]["image"]
        for key, value in (("repository", "imageName"), ("tag", "imageTag")):
            assert image[key] == nix.evaluate(f"packages.{SYSTEM}.{attribute}.{value}")
        assert not image["digest"], "a digest would be taken instead of the tag"
