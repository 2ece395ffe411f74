"""What breaks, and what users notice of it."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from support.kube import Cluster, NewRelease, Release
from support.wait import wait_until

pytestmark = pytest.mark.timeout(900)
SMALL = ("--set=prometheus.enabled=false", "--set=grafana.enabled=false")


@pytest.fixture(scope="module")
def release(new_release: NewRelease) -> Release:
    release = new_release("wiki-faults")
    release.install("--set=api.replicas=2", *SMALL)
    release.wait_until_answering()
    return release


def test_a_roll_out_under_load_loses_no_request(release: Release) -> None:
    before = {pod["metadata"]["name"] for pod in release.pods("api")}
    with release.load() as load:
        load.wait_for(40)
        release.kubectl("rollout", "restart", "deployment/wiki-release-api")
        release.rollout("deployment/api")
        wait_until(
            lambda: not before & {pod["metadata"]["name"] for pod in release.pods("api")},
            "the old pods to be gone",
            seconds=90,
            every=0.5,
        )
        load.wait_for(40)
    assert load.failures == []
    load.assert_nothing_lost()


def test_a_deleted_api_pod_under_load_loses_no_request(release: Release) -> None:
    victim = release.pods("api")[0]["metadata"]["name"]
    with release.load() as load:
        load.wait_for(40)
        release.kubectl("delete", "pod", victim)
        release.rollout("deployment/api")
        load.wait_for(40)
    assert load.failures == []
    load.assert_nothing_lost()


def test_a_deleted_database_is_a_503_until_it_is_back(release: Release) -> None:
    ada = release.create_user("Ada")
    restarts = restart_counts(release)
    with release.load() as load:
        load.wait_for(40)
        release.kubectl("delete", "pod", "wiki-release-postgresql-0")
        release.rollout("statefulset/postgresql")
        release.wait_until_answering()
        load.wait_for(40)
    assert load.failures, "the database was away, and nobody noticed"
    for failure in load.failures:
        # no pod was ready for a while: then the Ingress answers
        assert failure.startswith("503"), failure
    load.assert_nothing_lost()
    assert release.client.get(f"/user/{ada['id']}").json() == ada
    assert restart_counts(release) == restarts, "the API is not to be restarted for its database"


def restart_counts(release: Release) -> dict[str, int]:
    return {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"]
        for pod in release.pods("api")
    }


def test_a_killed_database_recovers_by_itself(release: Release) -> None:
    with release.load() as load:
        load.wait_for(40)
        release.kubectl("delete", "pod", "wiki-release-postgresql-0", "--grace-period=0", "--force")
        release.rollout("statefulset/postgresql")
        release.wait_until_answering()
        load.wait_for(40)
    load.assert_nothing_lost()


@pytest.mark.parametrize("part", ["kubelet", "containerd"])
def test_a_restart_of_the_nodes_own_parts_goes_unnoticed(
    release: Release, cluster: Cluster, part: str
) -> None:
    if not cluster.provider:
        pytest.skip("this cluster cannot restart a node's parts")
    with release.load() as load:
        load.wait_for(20)
        cluster.run(*cluster.provider, "restart", part)
        load.wait_for(80)
    assert load.failures == []
    release.rollout("deployment/api", "statefulset/postgresql")
    release.wait_until_answering()


@contextlib.contextmanager
def small_volume(cluster: Cluster, mount: Path, megabytes: int) -> Iterator[str]:
    """A storage class with one volume on a small file system of its own."""
    image, name = mount.with_suffix(".img"), "wiki-small"
    mount.mkdir()
    subprocess.run(["truncate", f"--size={megabytes}M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-m0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    node = json.loads(cluster.kubectl("get", "nodes", "--output=json"))["items"][0]
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": name,
            "local": {"path": str(mount)},
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {
                                    "key": "kubernetes.io/hostname",
                                    "operator": "In",
                                    "values": [
                                        node["metadata"]["labels"]["kubernetes.io/hostname"]
                                    ],
                                }
                            ]
                        }
                    ]
                }
            },
        },
    }
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    cluster.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all([volume, storage_class]))
    try:
        yield name
    finally:
        cluster.kubectl("delete", "pv,storageclass", name, "--wait=false", check=False)
        subprocess.run(["umount", "--lazy", mount], check=False)


def test_a_roll_back_of_a_broken_upgrade_heals_it(release: Release) -> None:
    ada = release.create_user("before")
    broken = [f"--set={part}.image.tag=not-there" for part in ("api", "postgresql")]
    done = release.helm(
        *("upgrade", release.chart, "--reuse-values", "--wait", "--timeout=10s", *broken),
        check=False,
    )
    assert done.returncode != 0
    release.helm("rollback", "--wait", "--timeout=2m")
    release.wait_until_answering()
    assert release.client.get(f"/user/{ada['id']}").json() == ada


def test_a_full_volume_is_an_alert_and_no_corruption(
    new_release: NewRelease, cluster: Cluster, tmp_path: Path
) -> None:
    if not cluster.provider:
        pytest.skip("the node's disk is not this machine's")
    volume = tmp_path / "volume"
    with small_volume(cluster, volume, 200) as storage_class:
        release = new_release("wiki-full")
        release.install(
            f"--set=postgresql.primary.persistence.storageClass={storage_class}",
            "--set=grafana.enabled=false",
        )
        release.wait_until_answering()
        ada = release.create_user("Ada")
        ballast = volume / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024**2))

        def refused() -> bool:
            answer = release.client.post(
                "/posts", json={"user_id": ada["id"], "content": "x" * 9000}
            )
            assert answer.status_code in (201, 500, 503), answer.text
            return answer.status_code != 201

        wait_until(refused, "the full disk to be noticed", seconds=120)
        with release.forward("service/wiki-release-prometheus", 9090) as url:

            def alert() -> bool:
                alerts = httpx.get(f"{url}/api/v1/alerts").json()["data"]["alerts"]
                return any(
                    each["labels"]["alertname"] == "WikiVolumeFull"
                    and each["labels"]["persistentvolumeclaim"] == "wiki-release-postgresql"
                    and each["state"] == "firing"
                    for each in alerts
                )

            wait_until(alert, "the alert WikiVolumeFull", seconds=300, every=2)

        ballast.unlink()
        release.rollout("statefulset/postgresql")
        release.wait_until_answering()
        assert release.client.get(f"/user/{ada['id']}").json() == ada
        release.create_user("after")
        # reads every row
        assert int(release.sql("select count(*) from users where name <> ''")) == 2
        assert int(release.sql("select sum(length(content)) from posts")) > 0
        release.helm("uninstall", "--wait")
        release.kubectl("delete", "pvc", "--all", "--wait=false")
