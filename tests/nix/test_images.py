"""The images in a container runtime: as they are, hardened, stopped, killed and started again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.docker import HARDENED, Container, Docker
from support.nix import REAL, SYSTEM, Nix
from support.wait import wait_until

IMAGES = ["wiki-image", "postgresql-image", "prometheus-image", "grafana-image"]
PASSWORD = "s3cr3t '\"&"
POSTGRESQL = {
    "POSTGRES_USER": "wikiuser",
    "POSTGRES_PASSWORD": PASSWORD,
    "POSTGRES_DB": "wiki",
    "PGDATA": "/var/lib/postgresql/data/pgdata",
}

Load = Callable[[str], str]
pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize("image", IMAGES)
def test_the_tag_and_the_stream(nix: Nix, docker: Docker, load: Load, image: str) -> None:
    name = nix.evaluate(f"packages.{SYSTEM}.{image}.imageName")
    tag = nix.evaluate(f"packages.{SYSTEM}.{image}.imageTag")
    assert load(image) == f"{name}:{tag}"
    identifier = docker.run("inspect", "--format={{.Id}}", f"{name}:{tag}")
    docker.run("rmi", "--force", identifier)
    assert docker.load(nix.build(f"{image}.stream")[0]) == f"{name}:{tag}"
    assert docker.run("inspect", "--format={{.Id}}", f"{name}:{tag}") == identifier


@pytest.fixture(autouse=True)
def leave_nothing(docker: Docker) -> Iterator[None]:
    yield
    docker.clean()


def with_volume(path: str) -> tuple[str, ...]:
    return (*HARDENED, f"--volume=data:{path}")


# The service


def test_the_service_on_sqlite(docker: Docker, load: Load) -> None:
    service = docker.start(load("wiki-image"))
    service.wait_until_answers(8000, "/readyz")
    with service.client(8000) as client:
        user = client.post("/users", json={"name": "Alice"})
        assert user.status_code == 201
        assert client.get(f"/users/{user.json()['id']}").json() == user.json()
        assert "swagger" in client.get("/docs").text
    wait_until(
        lambda: service.state["Health"]["Status"] == "healthy", "its health check", seconds=90
    )
    assert service.stop() == 0


def test_the_service_has_no_shell(docker: Docker, load: Load) -> None:
    image = load("wiki-image")
    for program in ("sh", "/bin/sh", "/bin/bash", "/bin/busybox"):
        with pytest.raises(AssertionError, match=r"no such file|not found"):
            docker.run("run", "--rm", f"--entrypoint={program}", image)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [("mysql://host/wiki", "mysql"), ("postgres://host:port/wiki", "port")],
)
def test_a_wrong_database_url(docker: Docker, load: Load, url: str, complaint: str) -> None:
    service = docker.start(load("wiki-image"), DATABASE_URL=url)
    assert service.wait() not in (0, 137)
    assert complaint in service.log.splitlines()[-1]


# PostgreSQL


DATABASE_OPTIONS = (
    *with_volume("/var/lib/postgresql/data"),
    "--tmpfs=/tmp",
    "--tmpfs=/var/run/postgresql",
)


def sql(database: Container, statement: str) -> str:
    return database.execute("psql", "-U", "wikiuser", "-d", "wiki", "-XAtqc", statement)


def wait_until_ready(database: Container) -> None:
    def ready() -> bool:
        assert database.state["Running"], database.log
        try:
            return "accepting" in database.execute("pg_isready", "-h", "127.0.0.1")
        except AssertionError:
            return False

    wait_until(ready, "PostgreSQL to accept connections", seconds=60)


def test_postgresql_starts_stops_and_is_killed(docker: Docker, load: Load) -> None:
    database = docker.start(load("postgresql-image"), options=DATABASE_OPTIONS, **POSTGRESQL)
    wait_until_ready(database)
    assert sql(database, "SHOW lc_collate") == "en_US.utf8"
    assert sql(database, "SELECT 'a' < 'B'") == "t", "text does not sort as in the official image"
    sql(database, "CREATE TABLE kept (n int)")

    sql(database, "INSERT INTO kept VALUES (1)")
    held = "psql 'host=127.0.0.1 user=wikiuser dbname=wiki' -c 'SELECT pg_sleep(600)'"
    docker.run("exec", "--detach", f"--env=PGPASSWORD={PASSWORD}", database.id, "sh", "-c", held)
    wait_until(
        lambda: (
            sql(database, "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'")
            == "1"
        ),
        "a session",
    )
    assert database.stop() == 0, "the stop was not fast: a session held it up"
    assert "received fast shutdown request" in database.log

    database.start()
    wait_until_ready(database)
    sql(database, "INSERT INTO kept VALUES (2)")
    database.kill()
    database.start()
    wait_until_ready(database)
    assert "automatic recovery in progress" in database.log
    assert sql(database, "SELECT string_agg(n::text, ',') FROM kept") == "1,2"


def test_postgresql_asks_for_the_password(docker: Docker, load: Load) -> None:
    database = docker.start(load("postgresql-image"), options=DATABASE_OPTIONS, **POSTGRESQL)
    wait_until_ready(database)
    url = "host=127.0.0.1 user=wikiuser dbname=wiki"
    with pytest.raises(AssertionError, match="password authentication failed"):
        docker.run("exec", "--env=PGPASSWORD=wrong", database.id, "psql", url, "-c", "SELECT 1")
    docker.run("exec", f"--env=PGPASSWORD={PASSWORD}", database.id, "psql", url, "-c", "SELECT 1")


def test_postgresql_without_a_password(docker: Docker, load: Load) -> None:
    database = docker.start(load("postgresql-image"))
    assert database.wait() == 1
    assert database.log.endswith("set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE")


def test_postgresql_takes_the_volume_itself_and_a_password_file(
    docker: Docker, load: Load, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    options = (*DATABASE_OPTIONS, f"--volume={tmp_path}:/secrets:ro")
    database = docker.start(
        load("postgresql-image"),
        "-c",
        "max_connections=42",
        options=options,
        POSTGRES_PASSWORD_FILE="/secrets/password",
    )
    wait_until_ready(database)
    password = f"--env=PGPASSWORD={PASSWORD}"
    show = (
        "psql",
        "host=127.0.0.1 user=postgres dbname=postgres",
        "-XAtqc",
        "SHOW max_connections",
    )
    assert docker.run("exec", password, database.id, *show) == "42"


def test_a_start_that_was_killed_halfway_is_begun_anew(docker: Docker, load: Load) -> None:
    database = docker.start(load("postgresql-image"), options=DATABASE_OPTIONS, **POSTGRESQL)
    wait_until(lambda: "running bootstrap script" in database.log, "initdb", seconds=60)
    database.kill()
    database.start()
    wait_until_ready(database)
    assert sql(database, "SELECT 1") == "1"


# Both


def test_the_service_on_postgresql_across_restarts(docker: Docker, load: Load) -> None:
    database = docker.start(load("postgresql-image"), options=DATABASE_OPTIONS, **POSTGRESQL)
    network = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    host = docker.run("inspect", f"--format={network}", database.id)
    service = docker.start(
        load("wiki-image"),
        options=(*HARDENED, "--user=12345:12345"),
        DATABASE_URL=f"postgres://wikiuser@{host}/wiki",
        PGPASSWORD=PASSWORD,
    )
    service.wait_until_answers(8000, "/readyz")

    written = []
    for disturb in (None, service.stop, service.kill, database.stop, database.kill):
        if disturb:
            disturb()
            (service if disturb.__self__ is service else database).start()
        service.wait_until_answers(8000, "/readyz")
        with service.client(8000) as client:
            answer = client.post("/users", json={"name": f"after {disturb}"})
            assert answer.status_code == 201, answer.text
            written.append(answer.json())
            for user in written:
                assert client.get(f"/users/{user['id']}").json() == user


# Prometheus and Grafana


def test_prometheus_keeps_its_data(docker: Docker, load: Load) -> None:
    options = with_volume("/prometheus")
    prometheus = docker.start(load("prometheus-image"), options=options)
    prometheus.wait_until_answers(9090, "/-/ready")

    def scrapes() -> int:
        with prometheus.client(9090) as client:
            query = {"query": "count_over_time(up[1h])"}
            result = client.get("/api/v1/query", params=query).json()["data"]["result"]
        return int(result[0]["value"][1]) if result else 0

    before = wait_until(scrapes, "it to scrape itself", seconds=90)
    assert prometheus.stop() == 0
    prometheus.start()
    prometheus.wait_until_answers(9090, "/-/ready")
    assert scrapes() >= before


def test_grafana_with_and_without_a_volume(docker: Docker, load: Load) -> None:
    image = load("grafana-image")
    for options in (with_volume("/var/lib/grafana"), HARDENED):
        grafana = docker.start(image, options=options)
        assert grafana.wait_until_answers(3000, "/api/health").json()["database"] == "ok"
        assert grafana.stop() == 0


PROVISIONED = """\
apiVersion: 1
datasources:
  - {{name: Prometheus, uid: prometheus, type: {type}, access: proxy, url: "http://prometheus:9090"}}
"""


def provision(tmp_path: Path, kind: str) -> tuple[str, ...]:
    (tmp_path / "datasources.yaml").write_text(PROVISIONED.format(type=kind))
    tmp_path.chmod(0o755)
    return (*HARDENED, f"--volume={tmp_path}:/etc/grafana/provisioning/datasources:ro")


def test_grafana_has_the_prometheus_datasource(docker: Docker, load: Load, tmp_path: Path) -> None:
    grafana = docker.start(load("grafana-image"), options=provision(tmp_path, "prometheus"))
    grafana.wait_until_answers(3000, "/api/health")
    with grafana.client(3000) as client:
        sources = client.get("/api/datasources", auth=httpx.BasicAuth("admin", "admin")).json()
    assert [source["uid"] for source in sources] == ["prometheus"]


@pytest.mark.skipif(bool(REAL), reason="Grafana is not the stand-in's double")
def test_the_double_of_grafana_is_strict(docker: Docker, load: Load, tmp_path: Path) -> None:
    image = load("grafana-image")
    unknown = docker.start(image, options=provision(tmp_path, "loki"))
    assert unknown.wait() == 1
    assert "no plugin loki" in unknown.log
    online = docker.start(image, GF_ANALYTICS_REPORTING_ENABLED="true")
    assert online.wait() == 1
    misspelt = docker.start(image, GF_SECURITY_ADMIN_PASWORD="x")
    assert "no such setting: GF_SECURITY_ADMIN_PASWORD" in (misspelt.wait() and misspelt.log)
