"""A release on a real cluster, from its installation to its removal."""

import contextlib
import json
import re
import shutil
import ssl
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml

from support import page
from support.browser import ELSEWHERE, Visit, chromium
from support.databases import PASSWORD, USER, Postgres, initdb
from support.helm import CHART, Helm, install, values_files
from support.kube import SMALL, Cluster, NewRelease, Release
from support.version import VERSION
from support.wait import wait_until

pytestmark = pytest.mark.timeout(900, func_only=True)  # the first one waits for images to be built
PARTS = ("api", "postgresql", "prometheus", "grafana")


@pytest.fixture(scope="module")
def notes() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def release(new_module_release: NewRelease, notes: dict[str, str]) -> Release:
    release = new_module_release("wiki-release-test", host=ELSEWHERE)
    done = release.install("--set=backup.enabled=true")
    notes["install"] = done.stdout
    assert "would violate PodSecurity" not in done.stderr
    return release


@pytest.mark.parametrize("values", values_files(), ids=lambda path: path.stem)
def test_the_api_server_accepts_every_kind_of_release(
    release: Release, helm3: Helm, values: Path
) -> None:
    """A dry run on the server: schema, admission, and warnings of Pod Security."""
    objects = helm3.objects(f"--values={values}", release="dry").values()
    own = [each for each in objects if each["apiVersion"].split("/")[0] not in OPERATORS]
    done = release.cluster.run(
        *("kubectl", "--namespace", release.namespace, "create", "--dry-run=server"),
        *("--validate=strict", "--filename=-"),
        stdin=yaml.safe_dump_all(own),
    )
    assert "would violate" not in done.stderr
    assert len(done.stdout.splitlines()) == len(own)


OPERATORS = ("postgresql.cnpg.io", "monitoring.coreos.com")


def test_notes_give_the_next_commands(release: Release, notes: dict[str, str]) -> None:
    text = notes["install"].partition("NOTES:")[2]
    for command in (
        "helm test wiki-release --namespace wiki-release-test",
        "port-forward service/wiki-release-api 8000",
        f"http://{release.host}/grafana/d/creation-dashboard-678/creation",
    ):
        assert command in text
    wait = re.search(r"^ +(kubectl .* rollout status .*)$", text, re.MULTILINE)
    assert wait
    assert "successfully rolled out" in release.cluster.run(*wait[1].split()).stdout
    assert "WARNING: Grafana's first login is admin / admin" in text
    assert "keeps the volumes" in text


@pytest.mark.parametrize("name", ["helm3", "helm4"])
def test_helm_test_creates_a_user_and_reads_it_back(release: Release, name: str) -> None:
    done = release.cluster.run(
        *(install(name), "test", release.name, "--namespace", release.namespace, "--timeout=3m")
    )
    assert re.search(r"Phase: +Succeeded", done.stdout)
    names = {pod["metadata"]["name"] for pod in release.get("pods")["items"]}
    assert "wiki-release-test" not in names, "a pod that has ended is never ready"


def test_helm_test_fails_when_the_api_does(release: Release) -> None:
    service = '{"spec": {"selector": {"app.kubernetes.io/component": "%s"}}}'
    patch = ("patch", "service", "wiki-release-api", "--patch")
    release.kubectl(*patch, service % "prometheus")
    try:
        done = release.helm("test", "--timeout=1m", check=False)
    finally:
        release.kubectl(*patch, service % "api")
        release.wait_until_answering()
    assert done.returncode != 0


def test_the_api_answers_through_the_ingress(release: Release) -> None:
    user = release.create_user("Ada")
    assert release.client.get(f"/user/{user['id']}").json() == user
    assert release.client.get(f"/users/{user['id']}").json() == user
    answer = release.client.post("/posts", json={"user_id": user["id"], "content": "Hello"})
    assert answer.status_code == 201
    post = answer.json()
    assert release.client.get(f"/posts/{post['post_id']}").json() == post
    assert release.client.get("/openapi.json").json()["paths"]
    assert release.client.get("/openapi.yaml").text.startswith("openapi")
    assert release.client.get("/").is_redirect
    assert release.client.get("/grafana/api/health").status_code == 200


def test_the_ingress_publishes_nothing_else(release: Release) -> None:
    """The controller itself answers for unknown paths, without the API's JSON."""
    for path in ("/metrics", "/readyz", "/livez", "/nothing"):
        answer = release.client.get(path)
        assert answer.status_code == 404
        assert "json" not in answer.headers["content-type"], f"{path} reaches the API"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_works_in_a_browser(release: Release, path: str) -> None:
    with chromium() as browser:
        visit = Visit(browser.new_page())
        visit.page.goto(f"http://{ELSEWHERE}:{httpx.URL(release.cluster.ingress).port}{path}")
        visit.page.get_by_text("/users").first.wait_for()
        assert not visit.complaints


@pytest.fixture
def prometheus(release: Release) -> Iterator[httpx.Client]:
    with (
        release.forward("service/wiki-release-prometheus", 9090) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


def query(prometheus: httpx.Client, expression: str) -> list[Any]:
    answer = prometheus.get("/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", f"{expression}: {answer}"
    return list(answer["data"]["result"])


def targets(prometheus: httpx.Client) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for target in prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]:
        found.setdefault(target["labels"]["job"], []).append(target["health"])
    return found


def test_prometheus_reads_every_replica_and_the_kubelets(
    release: Release, prometheus: httpx.Client
) -> None:
    release.kubectl("scale", "deployment/wiki-release-api", "--replicas=2")
    release.rollout("deployment/api")
    nodes = len(release.get("nodes")["items"])
    counts = {"api": 2, "prometheus": 1, "kubelet-volumes": nodes, "kubelet-resources": nodes}
    expected = {
        f"{release.namespace}/wiki-release-{job}": ["up"] * count for job, count in counts.items()
    }
    wait_until(lambda: targets(prometheus) == expected, "all targets to be up", seconds=150)
    release.kubectl("scale", "deployment/wiki-release-api", "--replicas=1")


def test_the_creation_rates_are_seen(release: Release, prometheus: httpx.Client) -> None:
    def both() -> bool:
        user = release.create_user("Grace")
        release.client.post("/posts", json={"user_id": user["id"], "content": "rate"})
        return all(
            result and float(result[0]["value"][1]) > 0
            for name in ("users", "posts")
            if (result := query(prometheus, f"sum(rate({name}_created_total[1m]))")) is not None
        )

    wait_until(both, "rates above zero", seconds=120, every=2)


DASHBOARDS = {file.stem: file.name for file in sorted((CHART / "dashboards").glob("*.json"))}


@pytest.mark.parametrize("file", DASHBOARDS.values(), ids=DASHBOARDS)
def test_every_panel_has_data(release: Release, prometheus: httpx.Client, file: str) -> None:
    data = release.get("configmap", "wiki-release-grafana-dashboards")["data"]
    release.client.get("/user/0")
    for panel in json.loads(data[file])["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in (("$__rate_interval", "1m"), ("$__range", "1h")):
                expression = expression.replace(variable, value)

            def has_data(expression: str = expression) -> bool:
                release.client.get("/user/0")
                found = query(prometheus, expression)
                return bool(found) and all(each["value"][1] != "NaN" for each in found)

            what = f"data in {panel['title']}: {expression}"
            wait_until(has_data, what, seconds=200, every=2)


def test_the_alerts_are_loaded_and_none_fires(prometheus: httpx.Client) -> None:
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    expected = yaml.safe_load((CHART / "prometheus-rules.yml").read_text())["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in expected)
    for rule in rules:
        assert rule["health"] == "ok", rule
        assert rule.get("state", "inactive") in ("inactive", "pending"), rule


def test_no_secret_is_seen(release: Release) -> None:
    password = release.secret("postgresql", "password")
    assert len(password) == 32
    seen = [
        release.cluster.run(
            release.helm_program, "get", "values", release.name, "--namespace", release.namespace
        ).stdout,
        release.kubectl(
            "get", "configmaps,pods,deployments,statefulsets,cronjobs", "--output=yaml"
        ),
        *(
            release.kubectl("logs", "--tail=-1", f"--selector=app.kubernetes.io/component={part}")
            for part in PARTS
        ),
    ]
    assert password not in "".join(seen)


def test_no_pod_was_restarted_and_none_may_write_its_root(release: Release) -> None:
    for part in PARTS:
        for pod in release.pods(part):
            for status in pod["status"]["containerStatuses"]:
                assert status["restartCount"] == 0, release.explain()
            assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_the_service_account_of_prometheus_can_do_no_more_than_it_must(release: Release) -> None:
    account = f"--as=system:serviceaccount:{release.namespace}:wiki-release-prometheus"

    def may(*arguments: str) -> bool:
        return release.kubectl("auth", "can-i", *arguments, account, check=False).strip() == "yes"

    assert may("list", "pods")
    assert may("get", "nodes", "--subresource=metrics")
    for verb, what in (("get", "secrets"), ("list", "services"), ("create", "pods")):
        assert not may(verb, what)
    assert not may("list", "pods", "--namespace=kube-system")
    assert not may("get", "nodes", "--subresource=proxy")


def test_the_footprint_at_rest(release: Release, record_testsuite_property: Any) -> None:
    """The API's memory as reported by itself: a tenth of what the predecessor requested."""
    with release.forward("service/wiki-release-api", 8000) as url:
        metrics = httpx.get(f"{url}/metrics").text
    (line,) = (
        each for each in metrics.splitlines() if each.startswith("process_resident_memory_bytes ")
    )
    memory = float(line.split()[1])
    record_testsuite_property("api_memory_bytes", memory)
    assert memory < 64 * 1024**2


def test_a_dump_restored_into_an_empty_release_equals_the_original(
    release: Release, new_release: NewRelease
) -> None:
    ada = release.create_user("Ada ünïcødé '; --")
    before = dump(release)
    log = release.run_job("backup")
    assert "dumped wikidb to wiki-" in log
    name = log.split(" to ")[1].split()[0]
    later = release.create_user("after the dump")

    # restored into the same release: anything newer is gone
    assert f"restored wikidb from {name}" in release.run_job("restore")
    assert dump(release) == before
    assert release.client.get(f"/user/{later['id']}").status_code == 404
    assert release.client.get(f"/user/{ada['id']}").json() == ada

    # through a local file, into a release that never had the data
    other = new_release("wiki-restore-test")
    other.install(*SMALL)
    database = "statefulset/wiki-release-postgresql"
    credentials = ["--username=wikiuser", "--dbname=wikidb"]
    sql = release.kubectl("exec", database, "--", "pg_dump", *credentials, "--clean", "--if-exists")
    other.kubectl(
        *("exec", "-i", database, "--", "psql", *credentials),
        *("--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"),
        stdin=sql,
    )
    assert dump(other) == before
    other.wait_until_answering()
    assert other.client.get(f"/user/{ada['id']}").json() == ada
    assert other.create_user("next")["id"] > ada["id"]


def dump(release: Release) -> str:
    """All data, as text, without pg_dump's random guard words."""
    text = release.kubectl(
        *("exec", "statefulset/wiki-release-postgresql", "--", "pg_dump", "--username=wikiuser"),
        *("--dbname=wikidb", "--data-only", "--inserts"),
    )
    return "\n".join(line for line in text.splitlines() if not line.startswith("\\"))


def test_old_dumps_are_deleted(release: Release) -> None:
    release.upgrade("--set=backup.keep=2")
    logs = []
    for _ in range(3):
        logs.append(release.run_job("backup"))
        made = int(time.time())
        wait_until(lambda made=made: time.time() >= made + 1, "the second that names the next dump")
    assert "deleted wiki-" in logs[-1]
    first = logs[1].split(" to ")[1].split()[0]
    # an older one by its name
    restored = release.run_job("restore", environment=f"DUMP={first}")
    assert f"from {first}" in restored


def test_the_pages_commands_for_dumps_and_the_password(release: Release, tmp_path: Path) -> None:
    now, _, named, show, out, into, *_ = page.commands("Backup and restore")
    before = dump(release)
    assert "\nComplete\n" in release.paste(now, tmp_path)
    shown = release.paste(show, tmp_path)
    name = re.findall(r"wiki-\w+\.dump$", shown, re.MULTILINE)[-1]

    # copied out of the volume, and in again under another name, by which it is restored
    def of(block: str, dump: str) -> str:
        changed, times = re.subn(r"wiki-\d\w+\.dump", dump, block)
        assert times
        return changed

    release.paste(of(out, name), tmp_path)
    other = "wiki-20200101T000000Z.dump"
    (tmp_path / name).rename(tmp_path / other)
    release.paste(of(into, other), tmp_path)
    release.create_user("after the dump")
    release.paste(of(named, other), tmp_path)
    assert dump(release) == before
    assert f"from {other}" in release.kubectl("logs", "job/wiki-release-restore-now")
    jobs = (f"job/wiki-release-{each}" for each in ("backup-now", "restore-now", "dumps"))
    release.kubectl("delete", "--wait=false", *jobs)

    old = release.secret("postgresql", "password")
    see, change = page.commands("Passwords")
    assert release.paste(see, tmp_path).endswith(old)
    release.paste(change, tmp_path)
    assert (new := release.secret("postgresql", "password")) != old
    release.rollout("deployment/api")
    release.create_user("by the new password")
    # a later upgrade keeps it
    release.upgrade("--set=backup.keep=3")
    assert release.secret("postgresql", "password") == new


@pytest.fixture
def next_version(release: Release, tmp_path: Path) -> Path:
    """The chart as a later version might be: with another default value, and another template."""
    with tarfile.open(release.chart) as archive:
        archive.extractall(tmp_path, filter="data")
    for name, old, new in (
        ("values.yaml", "databasePoolSize: 8", "databasePoolSize: 6"),
        ("templates/api/deployment.yaml", "value: json", "value: text"),
    ):
        path = tmp_path / "wiki" / name
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
    release.cluster.run(
        *(release.helm_program, "package", tmp_path / "wiki"),
        *("--version=99.0.0", f"--destination={tmp_path}"),
    )
    return tmp_path / "wiki-99.0.0.tgz"


def test_upgrade_rollback_and_reinstallation_keep_data_and_password(
    release: Release, next_version: Path
) -> None:
    ada = release.create_user("kept")
    password = release.secret("postgresql", "password")

    def still_there(chart_version: str, pool: str, log_format: str) -> None:
        release.wait_until_answering()
        assert release.client.get(f"/user/{ada['id']}").json() == ada
        assert release.secret("postgresql", "password") == password
        deployment = release.get("deployment", "wiki-release-api")
        assert deployment["metadata"]["labels"]["helm.sh/chart"] == f"wiki-{chart_version}"
        environment = {
            each["name"]: each.get("value")
            for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        assert environment["DATABASE_POOL_SIZE"] == pool
        assert environment["LOG_FORMAT"] == log_format

    this = (VERSION, "8", "json")
    still_there(*this)
    database = release.pods("postgresql")[0]["metadata"]["uid"]
    release.upgrade(chart=next_version)
    still_there("99.0.0", "6", "text")
    grace = release.create_user("by the newer version")
    assert release.pods("postgresql")[0]["metadata"]["uid"] == database
    # what a newer service would have left: a migration that this one does not know
    release.sql("insert into seaql_migrations values ('m99991231_000001_future', 0)")
    release.rollback()
    still_there(*this)
    assert release.client.get(f"/user/{grace['id']}").json() == grace
    release.create_user("by the older service")

    refused = release.helm(
        "upgrade",
        release.chart,
        "--reuse-values",
        "--set=postgresql.auth.password=another",
        check=False,
    )
    assert refused.returncode != 0
    assert "postgresql.auth.password is not the password in the Secret" in refused.stderr

    done = release.helm("uninstall", "--wait")
    assert "kept due to the resource policy" in done.stdout
    claims = {claim["metadata"]["name"] for claim in release.get("pvc")["items"]}
    assert claims == {f"wiki-release-{part}" for part in (*PARTS[1:], "backup")}

    def running() -> list[str]:
        pods = release.get("pods")["items"]
        return [
            pod["metadata"]["name"]
            for pod in pods
            if pod["status"]["phase"] not in ("Succeeded", "Failed")
        ]

    wait_until(lambda: not running(), "all pods to be gone", seconds=90, every=0.5)

    # the other Helm reuses what the first one kept
    again = Release(
        release.cluster, install("helm4"), release.namespace, release.chart, host=release.host
    )
    again.install("--set=backup.enabled=true")
    still_there(*this)


def test_a_database_of_ones_own_over_tls(new_release: NewRelease, cluster: Cluster) -> None:
    release = new_release("wiki-external")
    node = release.get("nodes")["items"][0]["status"]["addresses"][0]["address"]
    if not cluster.provider:
        pytest.skip("the node is not this machine, where the database is")
    authority = trustme.CA()
    template = initdb()
    server = Postgres(template, host=node)
    try:
        server.use_tls(authority.issue_cert(node))
        database = server.start().create_database()
        certificate = authority.cert_pem.bytes().decode()
        for name, key, value in (("ca", "ca.crt", certificate), ("login", "secret", PASSWORD)):
            release.kubectl("create", "secret", "generic", name, f"--from-literal={key}={value}")
        release.install(
            *(
                f"--set=externalDatabase.{key}={value}"
                for key, value in {
                    "host": node,
                    "port": server.port,
                    "username": USER,
                    "database": database.name,
                    "existingSecret": "login",
                    "existingSecretKey": "secret",
                    "sslmode": "verify-full",
                    "caSecret": "ca",
                }.items()
            ),
            "--set=backup.enabled=true",
            *SMALL,
        )
        assert not release.pods("postgresql")
        ada = release.create_user("Ada")
        assert release.client.get(f"/user/{ada['id']}").json() == ada
        assert database.execute("SELECT name FROM users") == [("Ada",)]
        assert database.execute("SELECT bool_and(ssl) FROM pg_stat_ssl") == [(True,)]

        assert f"dumped {database.name} to wiki-" in release.run_job("backup")
        database.execute("DELETE FROM users")
        assert f"restored {database.name} from" in release.run_job("restore")
        assert release.client.get(f"/user/{ada['id']}").json() == ada
    finally:
        server.remove()
        shutil.rmtree(template.parent)


def test_the_ingress_with_a_certificate(
    new_release: NewRelease, cluster: Cluster, tmp_path: Path
) -> None:
    release = new_release("wiki-tls")
    authority = trustme.CA()
    certificate = authority.issue_cert(release.host)
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    certificate.private_key_pem.write_to_path(key)
    release.kubectl("create", "secret", "tls", "wiki-tls", f"--cert={chain}", f"--key={key}")
    tls = f"--set=ingress.tls[0].secretName=wiki-tls,ingress.tls[0].hosts[0]={release.host}"
    done = release.install(tls, *SMALL)
    assert f"https://{release.host}/docs" in done.stdout
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with https_entry(release, cluster) as address, httpx.Client(verify=trust) as client:

        def answer() -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                found = client.post(
                    f"{address}/users",
                    json={"name": "Ada"},
                    headers={"Host": release.host},
                    extensions={"sni_hostname": release.host},
                )
                return found if found.status_code == 201 else None
            return None

        assert wait_until(answer, "an answer by HTTPS", seconds=60, every=0.5).json()["id"] == 1


@contextlib.contextmanager
def https_entry(release: Release, cluster: Cluster) -> Iterator[str]:
    """Where Traefik accepts HTTPS. In k3s it does by default; elsewhere another one is started."""
    system, traefik = ("--namespace", "kube-system"), "deployment/traefik"
    if cluster.provider:
        found = json.loads(cluster.kubectl(*system, "get", traefik, "--output=json"))
        spec = found["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        del container["ports"]
        container["args"] += [
            "--entrypoints.websecure.address=:8443",
            "--entrypoints.websecure.http.tls=true",
        ]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wiki-test"}, "spec": spec}
        container["readinessProbe"]["httpGet"]["port"] = 8080
        cluster.kubectl(*system, "create", "--filename=-", stdin=json.dumps(pod))
        traefik = "pod/wiki-test"
        cluster.kubectl(*system, "wait", traefik, "--for=condition=Ready", "--timeout=90s")
    try:
        with release.forward(traefik, 8443, namespace="kube-system") as address:
            yield address.replace("http:", "https:")
    finally:
        if cluster.provider:
            cluster.kubectl(*system, "delete", traefik, "--now", check=False)
