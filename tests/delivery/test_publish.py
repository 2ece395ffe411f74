"""A release is pushed to a registry, and a stranger finds there what the source gives."""

import json
import ssl
import subprocess
import tarfile
from pathlib import Path

import httpx
import pytest
import yaml

from support.helm import KUBE_VERSION, install
from support.nix import SYSTEM, Nix
from support.registry import PASSWORD, USER, Registry
from support.version import VERSION

COMPONENTS = {
    "api": "wiki-image",
    "postgresql": "postgresql-image",
    "prometheus": "prometheus-image",
    "grafana": "grafana-image",
}
pytestmark = pytest.mark.timeout(1200)


class Release:
    """What the release workflow does, line by line."""

    def __init__(self, nix: Nix, registry: Registry):
        self.nix = nix
        self.registry = registry
        self.repository = f"{registry.host}/owner/wiki"
        self.images = {
            component: nix.evaluate(f"packages.{SYSTEM}.{attribute}.imageName")
            for component, attribute in COMPONENTS.items()
        }

    def run(self, app: str) -> subprocess.CompletedProcess[str]:
        arguments = ("run", f".#{app}", "--", self.repository)
        return self.nix.run(*arguments, environment=self.registry.environment)

    def references(self, app: str) -> dict[str, str]:
        """What it printed, as digests by names."""
        done = self.run(app)
        assert done.returncode == 0, done.stderr
        lines = [line.removeprefix(f"{self.repository}/") for line in done.stdout.splitlines()]
        return dict(line.split("@", 1) for line in lines)

    def regctl(self, *arguments: str) -> str:
        return self.registry.run(install("regctl"), *arguments).stdout.strip()

    def get(self, kind: str, name: str, reference: str, accept: str) -> httpx.Response:
        """As any client of a registry asks for it."""
        return httpx.get(
            f"https://{self.registry.host}/v2/owner/wiki/{name}/{kind}/{reference}",
            headers={"Accept": accept},
            auth=(USER, PASSWORD),
            verify=ssl.create_default_context(cafile=self.registry.environment["SSL_CERT_FILE"]),
        )

    def index(self, name: str) -> httpx.Response:
        return self.get("manifests", name, VERSION, "application/vnd.oci.image.index.v1+json")

    def stand_in_for_arm(self) -> None:
        """Nothing can be built for arm64 here: this machine's images take its place, and say so."""
        for attribute in COMPONENTS.values():
            name, here, there = (
                self.nix.evaluate(f"packages.{system}.{attribute}.{what}")
                for system, what in (
                    (SYSTEM, "imageName"),
                    (SYSTEM, "imageTag"),
                    ("aarch64-linux", "imageTag"),
                )
            )
            image = f"{self.repository}/{name}"
            self.regctl(
                *("image", "mod", f"{image}:{here}", "--create", f"{image}:{there}"),
                *("--config-platform", "linux/arm64"),
            )


@pytest.fixture(scope="module")
def release(nix: Nix, registry: Registry) -> Release:
    if SYSTEM != "x86_64-linux":
        pytest.skip("the other architecture's images are stood in for on x86_64 alone")
    return Release(nix, registry)


@pytest.fixture(scope="module")
def pushed(release: Release) -> dict[str, str]:
    return release.references("push-images")


@pytest.fixture(scope="module")
def published(release: Release, pushed: dict[str, str]) -> dict[str, str]:
    assert pushed
    release.stand_in_for_arm()
    return release.references("publish")


def test_without_a_repository_it_says_what_to_give(nix: Nix) -> None:
    for app in ("push-images", "attest-images", "publish", "verify"):
        done = nix.run("run", f".#{app}")
        assert done.returncode
        assert "such as ghcr.io/OWNER/NAME" in done.stderr.splitlines()[-1]


def test_the_digests_are_known_before_the_push(nix: Nix, pushed: dict[str, str]) -> None:
    (folder,) = nix.build("release-images")
    assert pushed == {
        image.name: (image / "digest").read_text().strip() for image in folder.iterdir()
    }


def test_each_image_is_an_index_of_two_architectures(
    release: Release, pushed: dict[str, str], published: dict[str, str]
) -> None:
    for name in release.images.values():
        served = release.index(name)
        assert served.headers["Docker-Content-Digest"] == published[name]
        manifests = {
            f"{each['platform']['os']}/{each['platform']['architecture']}": each["digest"]
            for each in served.json()["manifests"]
        }
        assert manifests.keys() == {"linux/amd64", "linux/arm64"}
        assert manifests["linux/amd64"] == pushed[name]


def test_what_is_pulled_back_is_what_was_built(
    nix: Nix, release: Release, published: dict[str, str], tmp_path: Path
) -> None:
    (built,) = nix.build("release-images")
    for name in release.images.values():
        reference = f"{release.repository}/{name}@{published[name]}"
        folder = tmp_path / name
        release.registry.run(
            *("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"),
            *(f"docker://{reference}", f"oci:{folder}:pulled"),
        )
        blobs = "oci/blobs/sha256"
        original = {path.name for path in (built / name / blobs).iterdir()}
        assert {path.name for path in (folder / "blobs/sha256").iterdir()} == original


def test_the_chart_names_the_images_by_digest(
    release: Release, published: dict[str, str], tmp_path: Path
) -> None:
    helm = install("helm3")
    url = f"oci://{release.repository}/wiki"
    release.registry.run(helm, "pull", url, "--version", VERSION, "--destination", tmp_path)
    with tarfile.open(tmp_path / f"wiki-{VERSION}.tgz") as archive:
        chart = yaml.safe_load(archive.extractfile("wiki/Chart.yaml"))  # type: ignore[arg-type]
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    rendered = release.registry.run(
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
        f"{release.repository}/{name}@{published[name]}" for name in release.images.values()
    }


def test_a_second_run_changes_nothing(release: Release, published: dict[str, str]) -> None:
    assert release.references("publish") == published


def test_a_stranger_compares_the_registry_with_the_source(
    release: Release, published: dict[str, str]
) -> None:
    assert published
    done = release.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(line.split(":")[0].split()[1] for line in done.stdout.splitlines()) == sorted(
        ["chart", *release.images.values()]
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"same"}


def test_the_bill_of_materials(nix: Nix) -> None:
    (folder,) = nix.build("release-images")
    for image in folder.iterdir():
        document = json.loads((image / "sbom.cdx.json").read_text())
        names = {component["name"] for component in document["components"]}
        product = image.name.removeprefix("wiki-")
        assert names & {product, image.name}, f"{image.name} is not in its own list"
    crates = json.loads((folder / "wiki-service/sbom.cdx.json").read_text())["components"]
    assert {"sea-orm", "poem-openapi", "rustls"} <= {component["name"] for component in crates}
    assert "wiki-service" in {component["name"] for component in crates}


def test_each_bill_of_materials_is_signed_for_its_image(
    release: Release, pushed: dict[str, str]
) -> None:
    """By a double of cosign: the real one needs an identity and a service on the internet."""
    done = release.run("attest-images")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {words[-1] for words in lines} == {
        f"{release.repository}/{name}@{digest}" for name, digest in pushed.items()
    }
    for words in lines:
        document = json.loads(Path(words[words.index("--predicate") + 1]).read_text())
        assert document["metadata"]["component"]["name"] in words[-1]


def test_what_others_put_there_is_found_and_never_overwritten(
    release: Release, pushed: dict[str, str], published: dict[str, str]
) -> None:
    """The last of this module's tests, for it spoils what is published."""
    name = release.images["api"]
    image = f"{release.repository}/{name}:{VERSION}"
    forged = f"{release.repository}/{name}:forged"
    amd64 = f"{release.repository}/{name}@{pushed[name]}"
    release.regctl("image", "mod", amd64, "--create", forged, "--label", "forged=yes")
    release.regctl("index", "create", image, "--ref", forged)
    found = release.regctl("manifest", "head", "--platform=linux/amd64", image)

    done = release.run("verify")
    assert done.returncode == 1
    assert (
        f"differs  {name}:{VERSION} for linux/amd64: "
        f"the source gives {pushed[name]}, the registry serves {found}\n"
    ) in done.stdout
    assert f"differs  chart wiki {VERSION}" in done.stdout, "it names what was published"

    done = release.run("publish")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        f"and this would be {published[name]}: "
        "a version is published once, so give it another number in Cargo.toml"
    )
