"""Upgrades: what the cluster and Helm do with existing objects."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import previous
from support.cluster import Cluster
from support.helm import CHART, Helm
from support.kube import SMALL, NewNamespace, NewRelease, Release, Result
from support.wait import wait_until

NUMBERS = itertools.count()
LONG = "a-release-by-a-name-of-forty-five-letters-one"


@pytest.fixture
def namespace(new_namespace: NewNamespace) -> Iterator[str]:
    with new_namespace(f"wiki-upgrades-{next(NUMBERS)}") as name:
        yield name


def made(release: Release) -> dict[str, Any]:
    """Claims and Secrets by name, each with what identifies it."""
    return {
        f"{each['kind']} {each['metadata']['name']}": each["metadata"]["uid"]
        for each in release.get("pvc,secrets")["items"]
        if each["metadata"]["name"].startswith(release.fullname)
    }


def test_a_release_of_0_1_0_keeps_its_objects_and_nobody_else_gets_them(
    cluster: Cluster, helm: Helm, namespace: str, first_chart: Path
) -> None:
    def release(name: str) -> Release:
        return Release(cluster, helm.program, namespace, CHART, name=name)

    assert len(LONG) == 45
    old = release(LONG)
    old.helm("install", first_chart, "--set=backup.enabled=true")
    before = made(old)
    assert f"Secret {LONG[:40]}-postgresql" in before
    password = old.secret("postgresql", "password")
    old.helm("upgrade", CHART, "--reset-then-reuse-values")
    assert made(old) == before
    assert old.secret("postgresql", "password") == password
    assert len(cluster_roles(old)) == 1

    # others whose names are cut to the same, or come out the same
    other = release(LONG[:40] + "-two")

    def refused(done: Result) -> str:
        assert done.returncode != 0
        (line,) = done.stderr.strip().splitlines()
        assert LONG in line
        return line

    assert "Set fullnameOverride" in refused(other.helm("install", CHART, check=False))
    other.helm("install", CHART, "--set=fullnameOverride=two", *SMALL)
    other.helm("uninstall")

    old.helm("uninstall")
    # what it has kept still belongs to it
    assert "fullnameOverride" in refused(other.helm("install", CHART, check=False))
    old.helm("install", CHART, "--set=backup.enabled=true")
    grafana = f"Secret {old.fullname}-grafana"
    assert made(old) | {grafana: ""} == before | {grafana: ""}
    assert old.secret("postgresql", "password") == password
    old.helm("uninstall")

    selector = f"app.kubernetes.io/instance={LONG},app.kubernetes.io/name=wiki"
    old.kubectl("delete", "pvc,secret", f"--selector={selector}", "--wait=false")
    wait_until(
        lambda: list(made(old)) == [f"PersistentVolumeClaim {old.fullname}-backup"],
        "all but the backups to be gone",
        seconds=60,
    )


def cluster_roles(release: Release) -> list[str]:
    """The release's, in the whole cluster."""
    selector = f"app.kubernetes.io/instance={release.name}"
    items = release.get("clusterroles", f"--selector={selector}")["items"]
    return [each["metadata"]["name"] for each in items]


def replicas(release: Release) -> int:
    return int(release.get("deployment", "wiki-release-api")["spec"]["replicas"])


def scalings(release: Release) -> list[str]:
    """The numbers of pods to which the Deployment was scaled, in any order."""
    events = release.get("events", "--field-selector=reason=ScalingReplicaSet")["items"]
    return [each["message"] for each in events]


def test_autoscaling_starts_from_what_there_is_and_is_switched_off_again(
    cluster: Cluster, helm: Helm, namespace: str
) -> None:
    release = Release(cluster, helm.program, namespace, CHART)
    on = "--set=api.autoscaling.enabled=true"

    def upgrade(*settings: str, check: bool = True) -> Result:
        return release.helm("upgrade", CHART, "--reset-then-reuse-values", *settings, check=check)

    release.helm("install", CHART, "--set=api.replicas=3", *SMALL)
    wait_until(lambda: scalings(release), "the first pods")
    upgrade(on, "--set=api.autoscaling.minReplicas=2")
    assert replicas(release) == 3
    # the autoscaler, which has no metrics here, still respects its bounds
    upgrade("--set=api.autoscaling.minReplicas=4")
    wait_until(lambda: replicas(release) == 4, "the autoscaler to act", seconds=60)
    upgrade("--set=api.autoscaling.maxReplicas=6")
    assert replicas(release) == 4
    assert not [each for each in scalings(release) if "down" in each.lower()]

    # as in the README: Helm 4 takes the field back only if told to
    (command,) = (
        line.split()[3:]
        for line in (CHART / "README.md").read_text().splitlines()
        if "--force-conflicts" in line and line.startswith("    helm upgrade")
    )
    assert command[0] == "./chart"
    if "helm4" in str(helm.program):
        refused = upgrade("--set=api.autoscaling.enabled=false", check=False)
        assert "conflict" in refused.stderr
    else:
        command.remove("--force-conflicts")
    release.helm("upgrade", CHART, *command[1:])
    assert replicas(release) == 3
    assert not release.get("hpa")["items"]
    upgrade("--set=api.replicas=2")
    assert replicas(release) == 2
    release.helm("uninstall")


def test_a_new_installation_with_an_autoscaler_leaves_the_number_to_it(
    cluster: Cluster, helm: Helm, namespace: str
) -> None:
    """Then a rollback has no old number to restore."""
    release = Release(cluster, helm.program, namespace, CHART)
    release.helm("install", CHART, "--set=api.autoscaling.enabled=true", *SMALL)
    wait_until(lambda: replicas(release) == 2, "the autoscaler to act", seconds=60)
    release.helm(
        "upgrade", CHART, "--reset-then-reuse-values", "--set=api.autoscaling.minReplicas=4"
    )
    wait_until(lambda: replicas(release) == 4, "the autoscaler to act", seconds=60)
    release.helm("rollback")
    assert replicas(release) == 4
    release.helm("uninstall")


def test_from_0_1_0_and_back_with_its_data(
    new_release: NewRelease, first_chart: Path, tmp_path: Path
) -> None:
    """As in docs/upgrade.md: the rollback runs on this version's schema."""
    release = new_release("wiki-from-0-1-0")
    release.cluster.load(previous.image(tmp_path))
    shown = release.cluster.run(release.helm_program, "show", "values", release.chart).stdout
    image = yaml.safe_load(shown)["postgresql"]["image"]
    same = [f"--set-string=postgresql.image.{key}={value}" for key, value in image.items() if value]
    release.install(*same, *SMALL, chart=first_chart)

    def read(*paths: str) -> list[Any]:
        release.wait_until_answering()
        return [release.client.get(path).raise_for_status().json() for path in paths]

    ada = release.create_user("Ada")
    post = {"user_id": ada["id"], "content": "of 0.1.0"}
    first = release.client.post("/posts", json=post).raise_for_status().json()
    kept = (f"/users/{ada['id']}", f"/posts/{first['post_id']}")
    volume = made(release)

    release.upgrade()
    assert read(*kept) == [ada, first]
    assert read("/users") == [[ada]]
    grace = release.create_user("Grace")

    release.rollback()
    assert read(*kept, f"/users/{grace['id']}") == [ada, first, grace]
    assert release.client.get("/users").status_code == 405
    alan = release.create_user("Alan")

    release.upgrade()
    assert read(*kept) == [ada, first]
    assert read("/users") == [[alan, grace, ada]]
    assert made(release).items() >= volume.items()
