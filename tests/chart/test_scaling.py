"""More replicas, and more nodes."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kube import PATIENT, SMALL, Cluster, NewRelease, Release
from support.wait import wait_until

pytestmark = pytest.mark.timeout(1200, func_only=True)


@pytest.fixture
def metrics(cluster: Cluster) -> None:
    if cluster.provider:
        cluster.run(*cluster.provider, "metrics", seconds=900)
    elif cluster.run("kubectl", "top", "nodes", check=False).returncode:
        pytest.skip("this cluster has no metrics-server")


@pytest.mark.usefixtures("metrics")
def test_load_adds_a_replica_and_its_end_takes_it_away(new_release: NewRelease) -> None:
    release = new_release("wiki-hpa")
    release.install(
        "--set=api.autoscaling.enabled=true",
        "--set=api.autoscaling.minReplicas=1",
        "--set=api.autoscaling.maxReplicas=2",
        *PATIENT,
        *SMALL,
        # for a service this small, 1 % of a core is a high load
        "--set=api.resources.requests.cpu=20m",
        "--set=api.autoscaling.targetCPUUtilizationPercentage=50",
    )
    # the default waits five minutes before it takes a replica away
    patch = {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}
    release.kubectl("patch", "hpa", "wiki-release-api", f"--patch={json.dumps(patch)}")
    with release.load(workers=8, rate=150) as load:
        wait_until(lambda: ready(release) == 2, "a second replica", seconds=240, every=1)
        load.wait_for(100)
    assert load.failures == []
    with release.load(workers=1, rate=1) as load:
        wait_until(lambda: len(release.pods("api")) == 1, "one replica", seconds=300, every=1)
    assert load.failures == []


def ready(release: Release) -> int:
    status = release.get("deployment", "wiki-release-api")["status"]
    return int(status.get("readyReplicas", 0))


@pytest.fixture
def second_node(cluster: Cluster, images: list[Path]) -> Iterator[str]:
    """A node that stays, cordoned, after the test: the cluster cannot remove one. Where nodes share
    a disk, its kubelet deletes the logs of the others' pods."""
    if not cluster.provider:
        pytest.skip("this cluster cannot add a node")
    if cluster.run("kubectl", "get", "node", "second", check=False).returncode:
        cluster.run(*cluster.provider, "node", "second")
    cluster.load(*images)
    cluster.kubectl("uncordon", "second")
    yield "second"
    cluster.run(*cluster.provider, "mend", "second", check=False)
    cluster.kubectl("cordon", "second")


@pytest.mark.alone
def test_replicas_on_two_nodes_outlive_one_of_them(
    new_release: NewRelease, cluster: Cluster, second_node: str
) -> None:
    release = new_release("wiki-nodes")
    # the database stays where the test can read it
    first = next(
        node["metadata"]["name"]
        for node in release.get("nodes")["items"]
        if node["metadata"]["name"] != second_node
    )
    release.install(
        "--set=api.replicas=2",
        f"--set=postgresql.nodeSelector.kubernetes\\.io/hostname={first}",
        "--set=api.nodeLossSeconds=5",
        *PATIENT,
        *SMALL,
    )
    assert {pod["spec"]["nodeName"] for pod in release.pods("api")} == {first, second_node}

    with release.load(workers=4, rate=20) as load:
        load.wait_for(20)
        cluster.run(*cluster.provider, "cut", second_node)
        wait_until(
            lambda: (
                sum(
                    pod["spec"].get("nodeName") == first and is_ready(pod)
                    for pod in release.pods("api")
                )
                == 2
            ),
            "both replicas on the node that is left",
            seconds=240,
            every=1,
        )
        known = time.monotonic()
        load.wait_for(100)
        assert load.failures_since(known) == [], "once the lost node is known, no request fails"
        cluster.run(*cluster.provider, "mend", second_node)
        wait_until(
            lambda: len(release.pods("api")) == 2,
            "the cut off pod to be gone",
            seconds=120,
            every=1,
        )
        load.wait_for(40)
    load.assert_nothing_lost()


def is_ready(pod: dict[str, dict[str, list[dict[str, str]]]]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
