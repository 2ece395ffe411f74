"""Failures, and what users notice of them."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from support.kube import PATIENT, SMALL, Cluster, NewRelease, Release
from support.wait import wait_until

pytestmark = pytest.mark.timeout(900, func_only=True)  # the first one waits for images to be built


@pytest.fixture(scope="module")
def release(new_module_release: NewRelease) -> Release:
    release = new_module_release("wiki-faults")
    release.install("--set=api.replicas=2", *PATIENT, *SMALL)
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


# The Ingress' own response while the API has no ready pod. A 404 would mean "no such user".
FROM_THE_INGRESS = "503 no available server"


def test_a_database_that_is_away_is_a_503_until_it_is_back(release: Release) -> None:
    ada = release.create_user("Ada")
    restarts = restart_counts(release, "api")
    with release.load() as load:
        load.wait_for(40)
        release.kubectl("scale", "statefulset/wiki-release-postgresql", "--replicas=0")
        wait_until(lambda: load.failures, "a request that fails", seconds=120)
        release.kubectl("scale", "statefulset/wiki-release-postgresql", "--replicas=1")
        release.rollout("statefulset/postgresql")
        release.wait_until_answering()
        load.wait_for(40)
    assert load.failures[0].startswith('503 {"type"'), "the API tells it, not the Ingress"
    assert_unavailable(load.failures)
    load.assert_nothing_lost()
    assert release.client.get(f"/user/{ada['id']}").json() == ada
    assert restart_counts(release, "api") == restarts, "nor is the API restarted for its database"


def assert_unavailable(failures: list[str]) -> None:
    for failure in failures:
        assert failure.startswith("503"), failure


def restart_counts(release: Release, *components: str) -> dict[str, int]:
    return {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"]
        for component in components
        for pod in release.pods(component)
    }


@pytest.mark.parametrize("how", [(), ("--grace-period=0", "--force")], ids=["deleted", "killed"])
def test_a_database_whose_pod_goes_recovers_by_itself(
    release: Release, how: tuple[str, ...]
) -> None:
    restarts = restart_counts(release, "api")
    with release.load() as load:
        load.wait_for(40)
        release.kubectl("delete", "pod", "wiki-release-postgresql-0", *how)
        release.rollout("statefulset/postgresql")
        release.wait_until_answering()
        load.wait_for(40)
    assert_unavailable(load.failures)
    load.assert_nothing_lost()
    assert restart_counts(release, "api") == restarts


@pytest.mark.alone
@pytest.mark.parametrize("part", ["containerd", "kubelet"])
def test_a_restart_of_the_nodes_own_parts_goes_unnoticed(
    release: Release, cluster: Cluster, part: str
) -> None:
    if not cluster.provider:
        pytest.skip("this cluster cannot restart a node's components")
    wait_until_probed(release)
    restarts = restart_counts(release, "api", "postgresql")
    with endpoints_seen(release) as seen, release.load() as load:
        load.wait_for(20)
        cluster.run(*cluster.provider, "restart", part)
        load.wait_for(80)
        wait_until_probed(release)
        load.wait_for(80)
    load.assert_nothing_lost()
    assert restart_counts(release, "api", "postgresql") == restarts
    # Before Kubernetes 1.35, a kubelet that starts takes each pod for not ready until it has
    # probed it (KEP 4781, kubernetes/kubernetes#100277). Without any, the Ingress cannot ask.
    always_ready = all("true" in each for each in seen)
    assert always_ready or part == "kubelet", seen
    told = () if always_ready else (FROM_THE_INGRESS,)
    assert [failure for failure in load.failures if not failure.startswith(told)] == []


def wait_until_probed(release: Release) -> None:
    """Waits until each pod is ready by a probe of the current kubelet, not of an earlier one."""
    node = release.pods("api")[0]["spec"]["nodeName"]
    successful = re.compile(r'prober_probe_total{.*pod="(.+?)".*"Readiness",result="successful"}')

    def probed() -> bool:
        metrics = release.kubectl(
            "get", f"--raw=/api/v1/nodes/{node}/proxy/metrics/probes", check=False
        )
        return restart_counts(release, "api", "postgresql").keys() <= set(
            successful.findall(metrics)
        )

    wait_until(probed, "the kubelet to have probed every pod", seconds=120, every=0.5)
    release.rollout("deployment/api", "statefulset/postgresql")


@contextlib.contextmanager
def endpoints_seen(release: Release) -> Iterator[list[str]]:
    """Yields what an Ingress controller was told: which endpoints are ready, one line each."""
    watch = subprocess.Popen(
        [
            *("kubectl", "--namespace", release.namespace, "get", "endpointslices", "--watch"),
            "--selector=kubernetes.io/service-name=wiki-release-api",
            '--output=jsonpath={.endpoints[*].conditions.ready}{"\\n"}',
        ],
        env=release.cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watch.stdout
    seen = [watch.stdout.readline()]
    try:
        yield seen
    finally:
        watch.terminate()
        seen += watch.stdout
        watch.wait()


@contextlib.contextmanager
def small_volume(cluster: Cluster, mount: Path, megabytes: int) -> Iterator[str]:
    """A storage class with one volume on its own small file system."""
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
    release.rollback()
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

        wait_until(refused, "the full disk to be noticed", seconds=300)
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
