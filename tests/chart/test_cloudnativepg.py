"""A database on several nodes, run by the real CloudNativePG operator."""

import contextlib
import itertools
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import previous
from support.kube import PATIENT, SMALL, Cluster, Load, NewRelease, Release
from support.wait import wait_until

# operator.yaml, the operator's manifest; operator.tar and postgresql.tar, the two images
GIVEN = os.environ.get("WIKI_TEST_CNPG", "")
pytestmark = [
    pytest.mark.skipif(not GIVEN, reason="no CloudNativePG operator: WIKI_TEST_CNPG is not set"),
    pytest.mark.timeout(1800),
]

CLUSTER = "wiki-release-database"
INSTANCES = [f"{CLUSTER}-{number}" for number in (1, 2, 3)]
OURS = {"app.kubernetes.io/name": "wiki", "app.kubernetes.io/instance": "wiki-release"}
COMPONENT = "app.kubernetes.io/component"
# The operator reconciles every ten seconds: slow machines need minutes to be healthy again.
PATIENCE = 400


@pytest.fixture(scope="module")
def operand(cluster: Cluster) -> Iterator[str]:
    """Installs the operator; returns the name of its PostgreSQL image."""
    given = Path(GIVEN)
    cluster.load(given / "operator.tar", given / "postgresql.tar")
    manifest = given / "operator.yaml"
    cluster.kubectl("apply", "--server-side", f"--filename={manifest}")
    deployment = "deployment/cnpg-controller-manager"
    wait = ("--namespace=cnpg-system", "rollout", "status", deployment, "--timeout=180s")
    cluster.kubectl(*wait)
    with tarfile.open(given / "postgresql.tar") as archive:
        index = archive.extractfile("manifest.json")
        assert index
        yield json.load(index)[0]["RepoTags"][0]
    cluster.kubectl("delete", f"--filename={manifest}", "--timeout=180s", check=False)


@pytest.fixture(scope="module")
def release(operand: str, new_module_release: NewRelease) -> Iterator[Release]:
    release = new_module_release("wiki-cloudnativepg")
    with installed(release, operand, "--set=backup.enabled=true") as said:
        assert "Warning" not in said, "the operator's webhook warns"
        yield release


@contextlib.contextmanager
def installed(
    release: Release, operand: str, *options: str, chart: Path | None = None
) -> Iterator[str]:
    """And healthy; what was said on stderr."""
    common = (
        "--set=cloudnativepg.enabled=true",
        f"--set=cloudnativepg.imageName={operand}",
        "--set=cloudnativepg.storage.size=256Mi",
        "--set=networkPolicy.enabled=true",
        "--set=api.replicas=2",
        "--set=api.resources.requests.cpu=50m",
    )
    said = release.install(*common, *PATIENT, *SMALL, *options, chart=chart).stderr
    wait_until_healthy(release)
    release.wait_until_answering()
    try:
        yield said
    finally:
        # its pods would be recreated while the namespace is being deleted
        release.kubectl("delete", "cluster", CLUSTER, "--timeout=120s", check=False)


def wait_until_healthy(release: Release, instances: int = 3) -> None:
    def healthy() -> bool:
        status = release.get("cluster", CLUSTER).get("status", {})
        ready = status.get("readyInstances", 0)
        return ready == instances and status["phase"] == "Cluster in healthy state"

    wait_until(healthy, "the cluster to be healthy", seconds=PATIENCE, every=1)


def primary(release: Release) -> str:
    return str(release.get("cluster", CLUSTER)["status"]["currentPrimary"])


def sql(release: Release, statement: str, *, check: bool = True) -> str:
    psql = ["psql", "--dbname=wikidb", "--tuples-only", "--no-align", f"--command={statement}"]
    pod = ("exec", primary(release), "--container=postgres", "--")
    return release.kubectl(*pod, *psql, check=check).strip()


def assert_nothing_lost(release: Release, load: Load) -> None:
    rows = sql(release, "SELECT id, name FROM users").splitlines()
    stored = {int(row.split("|")[0]): row.split("|")[1] for row in rows}
    lost = {key: name for key, name in load.acknowledged.items() if stored.get(key) != name}
    assert load.acknowledged, "nothing was acknowledged, so nothing is shown"
    assert not lost, f"{len(lost)} of {len(load.acknowledged)} lost"
    assert not load.refused & {*stored.values()}, "a 503 with Retry-After had written"


def assert_told_by_the_api(load: Load) -> None:
    """Each failure is the API's own 503, never the Ingress' because there is no pod."""
    assert [failure for failure in load.failures if not failure.startswith('503 {"type"')] == []


@contextlib.contextmanager
def direct_writes(release: Release, image: str) -> Iterator[list[float]]:
    """Yields the moments at which a separate pod, with psql, has written to the primary."""
    keys = {"HOST": "host", "USER": "username", "DATABASE": "dbname", "PASSWORD": "password"}
    secret = {
        f"PG{name}": {"valueFrom": {"secretKeyRef": {"name": f"{CLUSTER}-app", "key": key}}}
        for name, key in keys.items()
    }
    variables = {"PGCONNECT_TIMEOUT": {"value": "2"}, "PGSSLMODE": {"value": "disable"}}
    # with the API's own role: a restore does not replace what belongs to another one
    table = "CREATE TABLE IF NOT EXISTS direct (); INSERT INTO direct DEFAULT VALUES"
    write = f"timeout 20 psql --quiet --command='{table}'"
    script = f"while :; do {write} && date +%s.%N >> /tmp/moments; sleep 0.1; done"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "direct", "labels": dict(OURS, **{COMPONENT: "backup"})},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 26,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "psql",
                    "image": image,
                    "command": ["bash", "-c", script],
                    "env": [{"name": name} | value for name, value in (secret | variables).items()],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
    release.kubectl("create", "--filename=-", stdin=json.dumps(pod))
    moments: list[float] = []

    def read() -> list[float]:
        written = release.kubectl("exec", "direct", "--", "cat", "/tmp/moments", check=False)
        return [float(each) for each in written.split()]

    try:
        wait_until(read, "it to write", seconds=60, every=0.5)
        yield moments
        moments += read()
    finally:
        release.kubectl("delete", "pod", "direct", "--now")


def longest_pause(moments: list[float]) -> tuple[float, float]:
    """Its start and its end."""
    return max(itertools.pairwise(sorted(moments)), key=lambda pause: pause[1] - pause[0])


def test_from_0_1_0_and_back(
    operand: str, new_release: NewRelease, first_chart: Path, tmp_path: Path
) -> None:
    """Upgrade and rollback under load, without losing an acknowledged write."""
    release = new_release("wiki-cloudnativepg-0-1-0")
    release.cluster.load(previous.image(tmp_path))

    def moved(how: Callable[[], object]) -> None:
        started = sql(release, "SELECT pg_postmaster_start_time()")
        with release.load(workers=8, rate=40) as load:
            load.wait_for(40)
            how()
            wait_until_healthy(release)
            load.wait_for(40)
        start, end = longest_pause(load.moments)
        print(
            f"no write for {end - start:.1f} s; {len(load.acknowledged)} acknowledged, "
            f"{len(load.failures)} failed"
        )
        assert_told_by_the_api(load)
        assert_nothing_lost(release, load)
        assert sql(release, "SELECT pg_postmaster_start_time()") == started

    with installed(release, operand, chart=first_chart):
        ada = release.create_user("Ada")
        post = {"user_id": ada["id"], "content": "of 0.1.0"}
        first = release.client.post("/posts", json=post).raise_for_status().json()
        schema = "SELECT count(*) FROM seaql_migrations"
        old = sql(release, schema)

        moved(release.upgrade)
        new = sql(release, schema)
        assert int(new) > int(old)
        assert release.client.get("/posts").raise_for_status().json()[0]["user_id"] == ada["id"]
        assert sql(release, "SHOW synchronous_standby_names").startswith("ANY 1")

        moved(release.rollback)
        assert sql(release, schema) == new
        assert release.client.get(f"/posts/{first['post_id']}").json() == first
        assert release.client.get(f"/users/{ada['id']}").json() == ada
        assert release.client.get("/posts").status_code == 405


def test_every_write_is_on_two_instances(release: Release) -> None:
    names = sql(release, "SHOW synchronous_standby_names")
    assert re.fullmatch(r'ANY 1 \((".+"),(".+"),(".+")\)', names), names
    quorum = release.get("failoverquorum", CLUSTER)["status"]
    assert (quorum["method"], quorum["standbyNumber"]) == ("ANY", 1)
    assert set(quorum["standbyNames"]) == {*INSTANCES} - {primary(release)}


def test_a_pod_reaches_only_whom_it_must(release: Release, operand: str) -> None:
    """A healthy cluster shows that the operator and the instances reach each other."""
    manager, metrics = (
        release.get("pod", name)["status"]["podIP"] for name in (INSTANCES[0], INSTANCES[1])
    )
    targets = {f"{CLUSTER}-rw.{release.namespace}": 5432, manager: 8000, metrics: 9187}
    database, *_ = targets
    ours = ",".join(f"{name}={value}" for name, value in OURS.items())
    reached = {
        "app=stranger": set(),
        f"{ours},{COMPONENT}=backup": {database},
        f"{ours},{COMPONENT}=prometheus": {metrics},
        f"cnpg.io/cluster={CLUSTER}": {database, manager},
    }
    other = Release(release.cluster, release.helm_program, "default", release.chart)
    with ThreadPoolExecutor() as pool:
        found = {
            labels: pool.submit(release.reached_from, labels, targets, operand)
            for labels in reached
        }
        outside = pool.submit(other.reached_from, f"cnpg.io/cluster={CLUSTER}", targets, operand)
    assert {labels: result.result() for labels, result in found.items()} == reached
    assert outside.result() == set()


def test_a_killed_primary_under_load(release: Release, operand: str) -> None:
    """No acknowledged write is lost, and the API writes again as soon as the database does."""
    old = primary(release)
    with direct_writes(release, operand) as written, release.load(workers=8, rate=80) as load:
        load.wait_for(80)
        killed = time.time()
        release.kubectl("delete", "pod", old, "--grace-period=0", "--force")
        wait_until(lambda: primary(release) != old, "a new primary", seconds=180, every=0.5)
        load.wait_for(200, seconds=300)
    assert_told_by_the_api(load)
    assert_nothing_lost(release, load)
    start, end = longest_pause(load.moments)
    first = longest_pause(written)[1]
    print(
        f"no write for {end - start:.1f} s, the new primary's first by psql {first - killed:.1f} s "
        f"after the kill; {len(load.acknowledged)} acknowledged"
    )
    assert end - start < first - killed + 2
    wait_until_healthy(release)


def test_without_a_replica_nothing_is_acknowledged_and_reads_go_on(
    release: Release, long: bool
) -> None:
    user = release.create_user("Ada")
    pods = len(release.pods("api"))
    ours = "pg_stat_activity WHERE application_name = 'wiki-service'"
    backends: list[int] = []
    reads: list[int] = []
    with release.load(workers=32, rate=200) as load:
        load.wait_for(40)
        with no_replica(release):
            before = len(load.acknowledged)
            failures = len(load.failures)
            over = time.monotonic() + (300 if long else 0)

            def long_enough() -> bool:
                backends.append(int(sql(release, f"SELECT count(*) FROM {ours}")))
                reads.append(release.client.get(f"/users/{user['id']}").status_code)
                return time.monotonic() > over and len(load.failures) > failures + 200

            wait_until(long_enough, "writes to fail", seconds=420, every=0.5)
            after = len(load.acknowledged)
        load.wait_for(40)
    refused, sent = len(load.refused), len(load.failures) - len(load.refused)
    print(f"{len(reads)} reads; {refused} refused, {sent} sent; {max(backends)} backends at most")
    assert {*reads} == {200}
    assert before == after
    assert sent, "no write was sent, so nothing is shown"
    assert max(backends) <= pods * 8
    assert_told_by_the_api(load)
    assert_nothing_lost(release, load)
    wait_until_healthy(release)


@contextlib.contextmanager
def no_replica(release: Release) -> Iterator[None]:
    """PostgreSQL is stopped in the replicas, whose pods stay."""
    fence = ("annotate", "cluster", CLUSTER)
    names = sorted({*INSTANCES} - {primary(release)})
    release.kubectl(*fence, f"cnpg.io/fencedInstances={json.dumps(names)}")
    try:
        wait_until(
            lambda: sql(release, "SELECT count(*) FROM pg_stat_replication") == "0",
            "the replicas to be away",
            seconds=120,
            every=0.5,
        )
        yield
    finally:
        release.kubectl(*fence, "cnpg.io/fencedInstances-")


def test_dump_and_restore(release: Release) -> None:
    ada = release.create_user("Ada")
    assert "dumped" in release.run_job("backup")
    grace = release.create_user("Grace")
    assert "restored" in release.run_job("restore")
    release.wait_until_answering()
    assert release.client.get(f"/users/{ada['id']}").json() == ada
    assert release.client.get(f"/users/{grace['id']}").status_code == 404


def test_an_upgrade_that_restarts_every_instance(release: Release) -> None:
    """The replicas first, then the primary."""

    def restarted(value: str) -> bool:
        show = ("psql", "--tuples-only", "--no-align", "--command=SHOW max_connections")
        shown = (
            release.kubectl("exec", name, "--container=postgres", "--", *show, check=False)
            for name in INSTANCES
        )
        return all(answer.strip() == value for answer in shown)

    with release.load(workers=8, rate=40) as load:
        load.wait_for(40)
        release.upgrade("--set=postgresql.maxConnections=110")
        wait_until(lambda: restarted("110"), "the new value", seconds=PATIENCE, every=1)
        wait_until_healthy(release)
        load.wait_for(40)
    start, end = longest_pause(load.moments)
    print(f"no write for {end - start:.1f} s; {len(load.acknowledged)} acknowledged")
    assert_told_by_the_api(load)
    assert_nothing_lost(release, load)


def test_back_to_one_instance(release: Release) -> None:
    ada = release.create_user("Ada")
    release.upgrade("--set=cloudnativepg.instances=1")
    wait_until_healthy(release, instances=1)
    wait_until(
        lambda: sql(release, "SHOW synchronous_standby_names") == "",
        "it to wait for none",
        seconds=60,
    )
    assert release.client.get(f"/users/{ada['id']}").json() == ada
    release.create_user("Grace")
    release.upgrade("--set=cloudnativepg.instances=3")
    wait_until_healthy(release)
