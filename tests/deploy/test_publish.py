"""A release is pushed to a registry, and anyone can verify it there against the source."""

import json
import re
import tarfile
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from support.helm import KUBE_VERSION, install
from support.nix import REAL, Nix
from support.publication import Publication
from support.version import VERSION

pytestmark = pytest.mark.timeout(1200)


def test_without_a_repository_it_says_what_to_give(nix: Nix) -> None:
    for app in ("push-images", "attest-images", "publish", "verify"):
        done = nix.run("run", f".#{app}")
        assert done.returncode
        assert "such as ghcr.io/OWNER/NAME" in done.stderr.splitlines()[-1]


def test_the_digests_are_known_before_the_push(nix: Nix, publication: Publication) -> None:
    (folder,) = nix.build("release-images")
    assert publication.pushed == {
        image.name: (image / "digest").read_text().strip() for image in folder.iterdir()
    }


def test_each_image_is_an_index_of_two_architectures(publication: Publication) -> None:
    for name in publication.pushed:
        served = publication.index(name)
        assert served.headers["Docker-Content-Digest"] == publication.digests[name]
        manifests = {
            f"{each['platform']['os']}/{each['platform']['architecture']}": each["digest"]
            for each in served.json()["manifests"]
        }
        assert manifests.keys() == {"linux/amd64", "linux/arm64"}
        assert manifests["linux/amd64"] == publication.pushed[name]


def test_what_is_pulled_back_is_what_was_built(
    nix: Nix, publication: Publication, tmp_path: Path
) -> None:
    (built,) = nix.build("release-images")
    for name in publication.pushed:
        reference = f"{publication.repository}/{name}@{publication.digests[name]}"
        folder = tmp_path / name
        publication.registry.run(
            *("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"),
            *(f"docker://{reference}", f"oci:{folder}:pulled"),
        )
        blobs = "oci/blobs/sha256"
        original = {path.name for path in (built / name / blobs).iterdir()}
        assert {path.name for path in (folder / "blobs/sha256").iterdir()} == original


def test_the_chart_names_the_images_by_digest(publication: Publication, tmp_path: Path) -> None:
    helm = install("helm3")
    url = f"oci://{publication.repository}/wiki"
    publication.registry.run(helm, "pull", url, "--version", VERSION, "--destination", tmp_path)
    with tarfile.open(tmp_path / f"wiki-{VERSION}.tgz") as archive:
        chart = yaml.safe_load(archive.extractfile("wiki/Chart.yaml"))  # type: ignore[arg-type]
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    rendered = publication.registry.run(
        *(helm, "template", "wiki-release", url, "--version", VERSION),
        *("--kube-version", KUBE_VERSION),
    )
    images = {
        container["image"]
        for document in yaml.safe_load_all(rendered.stdout)
        if document and document["kind"] in ("Deployment", "StatefulSet")
        for container in document["spec"]["template"]["spec"]["containers"]
    }
    assert images == {
        f"{publication.repository}/{name}@{publication.digests[name]}"
        for name in publication.images.values()
    }


def test_a_second_run_changes_nothing(publication: Publication) -> None:
    assert publication.references("publish") == publication.digests


def test_a_stranger_compares_the_registry_with_the_source(publication: Publication) -> None:
    done = publication.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(line.split(":")[0].split()[1] for line in done.stdout.splitlines()) == sorted(
        ["chart", *publication.pushed]
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"same"}


def test_the_bills_of_materials(nix: Nix) -> None:
    (folder,) = nix.build("release-images")
    names: dict[str, set[str]] = {}
    for image in folder.iterdir():
        document = (image / "sbom.cdx.json").read_text()
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(document)
        assert error is None, error
        components = json.loads(document)["components"]
        names[image.name] = {component["name"] for component in components}
    assert {"wiki-service", "sea-orm", "poem-openapi", "rustls"} <= names["wiki-service"]
    assert {"wiki-cluster", "serde_json", "k3d"} <= names["wiki-cluster"]
    assert "postgresql" in names["wiki-postgresql"]
    assert "sea-orm" not in names["wiki-postgresql"]
    assert "prometheus" in names["wiki-prometheus"]
    assert "grafana" in names["wiki-grafana"]


def test_a_second_build_gives_the_same(nix: Nix) -> None:
    """With the README's command, down to the pushed digests. The service, whose build takes
    minutes, is built a second time in the tests of Nix."""
    nix.build("wiki-image")
    nix.build("wiki-image", options=("--rebuild",))
    # Nix 2.33 prints it in a different format.
    shown = nix.output("derivation", "show", ".#release-images")
    releases = set(re.findall(r"[0-9a-z]{32}-[\w.-]+-release\.drv", shown))
    assert len(releases) >= 4
    nix.output("build", "--no-link", "--rebuild", *(f"/nix/store/{name}^*" for name in releases))


def test_each_bill_of_materials_is_signed_for_its_image(publication: Publication) -> None:
    """With a test double of cosign: the real one needs an identity and an internet service."""
    if REAL:
        pytest.skip("cosign is the real one, and has no identity to sign with")
    done = publication.run("attest-images")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {words[-1] for words in lines} == {
        f"{publication.repository}/{name}@{digest}" for name, digest in publication.pushed.items()
    }
    for words in lines:
        document = json.loads(Path(words[words.index("--predicate") + 1]).read_text())
        assert document["metadata"]["component"]["name"] in words[-1]


def test_what_others_put_there_is_found_and_never_overwritten(publication: Publication) -> None:
    """The last of this module's tests, since it tampers with what is published."""
    name = publication.images["api"]
    image = f"{publication.repository}/{name}:{VERSION}"
    forged = f"{publication.repository}/{name}:forged"
    amd64 = f"{publication.repository}/{name}@{publication.pushed[name]}"
    publication.regctl("image", "mod", amd64, "--create", forged, "--label", "forged=yes")
    publication.regctl("index", "create", image, "--ref", forged)
    found = publication.regctl("manifest", "head", "--platform=linux/amd64", image)

    done = publication.run("verify")
    assert done.returncode == 1
    assert (
        f"differs  {name}:{VERSION} for linux/amd64: "
        f"the source builds {publication.pushed[name]}, the registry serves {found}\n"
    ) in done.stdout
    assert f"differs  chart wiki {VERSION}" in done.stdout, "it has the published image names"

    done = publication.run("publish")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        f"but this would be {publication.digests[name]}: "
        "a version is published only once, so change the version in Cargo.toml"
    )
