"""What can reach what with network policies on, tested by connecting."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support.kube import NewRelease, Release
from support.wait import wait_until

pytestmark = pytest.mark.timeout(600, func_only=True)

TARGETS = {
    "wiki-release-api": 8000,
    "wiki-release-postgresql": 5432,
    "wiki-release-prometheus": 9090,
    "wiki-release-grafana": 3000,
}
# What can reach what, tested from a pod with a component's labels, which are all that policies look
# at. Not with the API's or Prometheus', whose Services would send it requests: these two are tested
# by what they do.
REACHED = {
    "stranger": set(),
    "test": {"wiki-release-api"},
    "backup": {"wiki-release-postgresql"},
    "grafana": {"wiki-release-prometheus"},
}


@pytest.fixture(scope="module")
def release(new_module_release: NewRelease) -> Release:
    release = new_module_release("wiki-policies")
    release.install("--set=networkPolicy.enabled=true", "--set=backup.enabled=true")
    return release


def labels(component: str) -> str:
    if component == "stranger":
        return "app=stranger"
    return (
        "app.kubernetes.io/name=wiki,app.kubernetes.io/instance=wiki-release,"
        f"app.kubernetes.io/component={component}"
    )


def test_a_pod_reaches_only_whom_it_must(release: Release) -> None:
    """And a pod in another namespace reaches nothing, though it has the right labels."""
    image = release.pods("postgresql")[0]["spec"]["containers"][0]["image"]
    other = Release(release.cluster, release.helm_program, "default", release.chart)
    elsewhere = {f"{host}.{release.namespace}": port for host, port in TARGETS.items()}
    with ThreadPoolExecutor() as pool:
        reached = {
            source: pool.submit(release.reached_from, labels(source), TARGETS, image)
            for source in REACHED
        }
        outside = pool.submit(other.reached_from, labels("backup"), elsewhere, image)
    assert {source: result.result() for source, result in reached.items()} == REACHED
    assert outside.result() == set()


def test_the_ingress_controller_reaches_the_api_and_grafana(release: Release) -> None:
    release.wait_until_answering()
    # the API reaches its database
    release.create_user("Ada")
    assert release.client.get("/grafana/api/health").status_code == 200


def test_prometheus_reaches_the_api_and_the_kubelets(release: Release) -> None:
    with release.forward("service/wiki-release-prometheus", 9090) as url:

        def healthy() -> bool:
            found = httpx.get(f"{url}/api/v1/targets").json()["data"]["activeTargets"]
            return len(found) >= 4 and all(target["health"] == "up" for target in found)

        wait_until(healthy, "every target to be up", seconds=150, every=1)


def test_the_jobs_and_the_helm_test_do_their_work(release: Release) -> None:
    assert "dumped" in release.run_job("backup")
    assert "restored" in release.run_job("restore")
    done = release.helm("test", "--timeout=3m", check=False)
    assert done.returncode == 0, release.kubectl("logs", "wiki-release-test", check=False)
