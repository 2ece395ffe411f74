"""deploy/ fits the chart, and Kubernetes with the CRDs of the tools it is for."""

import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import crds
from support.helm import CHART, Helm, install
from support.kube import Cluster, Release
from support.publication import Publication
from support.service import ROOT
from support.version import VERSION
from support.wait import wait_until

DEPLOY = ROOT / "deploy"
OBJECTS = sorted(DEPLOY.glob("*/*.yaml"))
RATE_LIMIT = DEPLOY / "traefik/rate-limit.yaml"
ENVIRONMENTS = {path.stem: path for path in DEPLOY.glob("*.yaml")}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture(scope="module")
def definitions(cluster: Cluster) -> Iterator[None]:
    """CRDs without their controllers, and the namespaces of the examples."""
    there = cluster.kubectl("get", "crds", "--output=name")  # k3s has Traefik's CRDs
    files = [
        f"--filename={path}" for name, path in crds.files().items() if f"/{name}\n" not in there
    ]
    namespaces = ("argocd", "wiki")
    cluster.kubectl("apply", "--server-side", *files)
    # kubectl fails at once if a CRD has no status yet
    established = ("kubectl", "wait", "--for=condition=Established", "--timeout=60s", *files)
    wait_until(
        lambda: cluster.run(*established, check=False).returncode == 0,
        "the definitions to be established",
        seconds=120,
        every=0.5,
    )
    for name in namespaces:
        cluster.kubectl("create", "namespace", name)
    yield
    cluster.kubectl("delete", "namespace", *namespaces)
    cluster.kubectl("delete", *files)


def dry_run(cluster: Cluster, text: str) -> str:
    options = ("--dry-run=server", "--validate=strict", "--filename=-")
    done = cluster.run("kubectl", "apply", *options, stdin=text, check=False)
    return done.stderr if done.returncode else ""


def test_it_installs_this_version() -> None:
    """The values next to it may contain keys that no other file has."""
    minor = VERSION.rpartition(".")[0]
    texts = {path.name: path.read_text() for path in DEPLOY.glob("*/*.yaml")}
    assert f"targetRevision: {VERSION}\n" in texts["application.yaml"]
    assert texts["applicationset.yaml"].count(f"version: {VERSION}\n") == 2
    assert f"semver: {minor}.x\n" in texts["wiki.yaml"]


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_kubernetes_accepts_it(cluster: Cluster, path: Path) -> None:
    assert not dry_run(cluster, path.read_text())


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_kubernetes_would_refuse_a_misspelt_field(cluster: Cluster, path: Path) -> None:
    for each in documents(path):
        each["spec"]["misspelt"] = True
        assert "misspelt" in dry_run(cluster, json.dumps(each))


def values_of(each: dict[str, Any]) -> list[dict[str, Any]]:
    """The values with which an object of Argo CD or Flux installs the chart."""
    spec = each.get("spec", {})
    match each["kind"]:
        case "Application":
            return [spec["source"]["helm"]["valuesObject"]]
        case "ApplicationSet":
            (generator,) = spec["generators"]
            chart, git = spec["template"]["spec"]["sources"]
            assert git["ref"] == "values"
            (file,) = chart["helm"]["valueFiles"]
            return [
                yaml.safe_load(
                    Path(
                        file.replace("$values", str(ROOT)).replace(
                            "{{ .environment }}", element["environment"]
                        )
                    ).read_text()
                )
                for element in generator["list"]["elements"]
            ]
        case "HelmRelease":
            return [spec["values"]]
    return []


def rendered(tmp_path: Path, values: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    helm = Helm(install("helm3"))
    assert not (lint := helm.lint(f"--values={file}")).returncode, lint.stdout
    text = helm.template(f"--values={file}", release="wiki").stdout
    return text, [each for each in yaml.safe_load_all(text) if each]


@pytest.mark.parametrize(
    "path", [path for path in OBJECTS if path != RATE_LIMIT], ids=lambda path: path.stem
)
def test_the_chart_accepts_the_values(tmp_path: Path, path: Path) -> None:
    values = [each for document in documents(path) for each in values_of(document)]
    assert len(values) == (len(ENVIRONMENTS) if path.stem == "applicationset" else 1)
    for each in values:
        assert rendered(tmp_path, each)[1]


def test_the_ingress_takes_traefiks_limit(tmp_path: Path) -> None:
    """By the values in its comment."""
    text = RATE_LIMIT.read_text()
    values = "\n".join(re.findall(r"^#  (.*)$", text, re.MULTILINE))
    objects = rendered(tmp_path, yaml.safe_load(values))[1]
    (ingress,) = (each for each in objects if each["kind"] == "Ingress")
    key = "traefik.ingress.kubernetes.io/router.middlewares"
    name = yaml.safe_load(text)["metadata"]["name"]
    assert ingress["metadata"]["annotations"][key] == f"<namespace>-{name}@kubernetescrd"


def test_the_secrets_are_those_that_the_page_creates_and_none_is_the_charts_own(
    tmp_path: Path,
) -> None:
    """Helm refuses to install over an existing Secret of the same name."""
    page = (DEPLOY / "README.md").read_text()
    created = set(re.findall(r"create secret generic (\S+)", page))
    own = {e["metadata"]["name"] for e in rendered(tmp_path, {})[1] if e["kind"] == "Secret"}
    assert own == {"wiki-postgresql", "wiki-grafana"}
    installed = [
        each for path in OBJECTS for document in documents(path) for each in values_of(document)
    ]
    assert len(installed) == len(ENVIRONMENTS) + 2
    for values in installed:
        objects = rendered(tmp_path, values)[1]
        assert not [each for each in objects if each["kind"] == "Secret"]
        used = {values["postgresql"]["auth"]["existingSecret"], values["grafana"]["existingSecret"]}
        assert used == created
    assert not own & created


def test_every_namespace_is_one_that_the_page_creates() -> None:
    page = (DEPLOY / "README.md").read_text()
    (names,) = re.findall(r"for namespace in (.*); do", page)
    named = {
        *(f"wiki-{environment}" for environment in ENVIRONMENTS),
        *re.findall(r"namespace: ([a-z]+)$", " ".join(p.read_text() for p in OBJECTS), re.M),
    }
    assert set(names.split()) == named - {"argocd"}


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_to_delete_what_was_applied_deletes_no_namespace(path: Path) -> None:
    """That would delete the volumes, too, and the backups."""
    assert "Namespace" not in [each["kind"] for each in documents(path)]


def test_what_is_to_be_replaced_is_found() -> None:
    """With the page's own command: whatever is specific, such as a host or a repository."""
    page = (DEPLOY / "README.md").read_text()
    (command,) = re.findall(r"^ +(grep -rn .*)$", page, re.MULTILINE)
    found = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    hosts = re.compile(r"(?:host|endpoint|alertmanagers|repoURL|url|subject): .*")
    lines = [
        line
        for path in DEPLOY.rglob("*.yaml")
        for line in path.read_text().splitlines()
        if hosts.search(line)
    ]
    assert len(lines) >= 8
    assert [line for line in lines if line not in found] == []


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("argocd/*.yaml")), ids=lambda path: path.stem)
def test_argo_cd_renders_the_same_each_time(tmp_path: Path, path: Path) -> None:
    """It compares what it renders with what is deployed: a generated password always differs."""
    for document in documents(path):
        for values in values_of(document):
            assert rendered(tmp_path, values)[0] == rendered(tmp_path, values)[0]
    generated = {"postgresql": {"auth": {}}}
    assert rendered(tmp_path, generated)[0] != rendered(tmp_path, generated)[0]


WAVE = "argocd.argoproj.io/sync-wave"


def wave(each: dict[str, Any]) -> int:
    return int(each["metadata"].get("annotations", {}).get(WAVE, 0))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_database_comes_before_what_uses_it(tmp_path: Path, environment: str) -> None:
    values = yaml.safe_load(ENVIRONMENTS[environment].read_text())
    objects = {
        (each["kind"], each["metadata"]["name"]): each for each in rendered(tmp_path, values)[1]
    }
    assert wave(objects["StatefulSet", "wiki-postgresql"]) < wave(objects["Deployment", "wiki-api"])
    mounted = 0
    for each in objects.values():
        pod = each.get("spec", {}).get("template", {}).get("spec", {})
        for volume in pod.get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                mounted += 1
                bound = objects["PersistentVolumeClaim", claim["claimName"]]
                assert wave(bound) == wave(each), "a wave waits until its claims are bound"
    assert mounted >= 3


@pytest.mark.timeout(900)
def test_the_chart_is_installed_from_the_registry(
    cluster: Cluster,
    publication: Publication,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The node cannot pull from a registry on loopback with our certificate: it is given what the
    registry serves, under the references in the chart."""
    for name, digest in publication.digests.items():
        if name != "wiki":
            cluster.load(pulled(publication, tmp_path, f"{publication.repository}/{name}@{digest}"))
    for name, value in publication.registry.environment.items():
        monkeypatch.setenv(name, value)
    namespace = "wiki-registry"
    cluster.kubectl("create", "namespace", namespace)
    release = Release(cluster, install("helm3"), namespace, CHART)
    try:
        url = f"oci://{publication.repository}/wiki"
        release.install(f"--version={VERSION}", chart=url)
        running = {
            container["image"]
            for component in publication.images
            for pod in release.pods(component)
            for container in pod["spec"]["containers"]
        }
        assert running == {
            f"{publication.repository}/{name}@{publication.digests[name]}"
            for name in publication.images.values()
        }
        release.wait_until_answering()
        assert release.create_user("from the registry")["id"] == 1
    finally:
        release.helm("uninstall", check=False)
        cluster.kubectl("delete", "namespace", namespace, "--timeout=120s")


def pulled(publication: Publication, tmp_path: Path, reference: str) -> Path:
    """An archive with an image as the registry serves it, named by its reference."""
    folder = tmp_path / reference.rpartition(":")[2]
    publication.registry.run(
        *("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"),
        *(f"docker://{reference}", f"oci:{folder}"),
    )
    index = json.loads((folder / "index.json").read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": reference}
    (folder / "index.json").write_text(json.dumps(index))
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=".")
    return archive
