"""The images in a container runtime: as they are, hardened, stopped, killed and started again."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.docker import HARDENED, Docker
from support.nix import REAL, SYSTEM, Nix
from support.wait import wait_until

IMAGES = ["wiki-image", "postgresql-image", "prometheus-image", "grafana-image"]
Load = Callable[[str], str]
pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("leave_nothing")]


@pytest.mark.parametrize("image", IMAGES)
def test_the_tag_and_the_stream(nix: Nix, docker: Docker, load: Load, image: str) -> None:
    name = nix.evaluate(f"packages.{SYSTEM}.{image}.imageName")
    tag = nix.evaluate(f"packages.{SYSTEM}.{image}.imageTag")
    assert load(image) == f"{name}:{tag}"
    identifier = docker.run("inspect", "--format={{.Id}}", f"{name}:{tag}")
    docker.run("rmi", "--force", identifier)
    assert docker.load(nix.build(f"{image}.stream")[0]) == f"{name}:{tag}"
    assert docker.run("inspect", "--format={{.Id}}", f"{name}:{tag}") == identifier


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


# Prometheus and Grafana


def test_prometheus_keeps_its_data(docker: Docker, load: Load) -> None:
    options = (*HARDENED, "--volume=data:/prometheus")
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
    for options in ((*HARDENED, "--volume=data:/var/lib/grafana"), HARDENED):
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


@pytest.mark.skipif(bool(REAL), reason="Grafana is not the stand-in's test double")
def test_the_double_of_grafana_is_strict(docker: Docker, load: Load, tmp_path: Path) -> None:
    image = load("grafana-image")
    unknown = docker.start(image, options=provision(tmp_path, "loki"))
    assert unknown.wait() == 1
    assert "no plugin loki" in unknown.log
    online = docker.start(image, GF_ANALYTICS_REPORTING_ENABLED="true")
    assert online.wait() == 1
    misspelt = docker.start(image, GF_SECURITY_ADMIN_PASWORD="x")
    assert "no such setting: GF_SECURITY_ADMIN_PASWORD" in (misspelt.wait() and misspelt.log)
