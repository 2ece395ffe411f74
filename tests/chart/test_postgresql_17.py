"""The upgrade from PostgreSQL 16 to 17 with the commands from the chart's README."""

import re
import subprocess
from pathlib import Path

import pytest

from support import page
from support.cache import CACHE
from support.helm import install
from support.kube import SMALL, Cluster, NewRelease, Release
from support.nix import REAL, Nix
from support.wait import wait_until

pytestmark = pytest.mark.timeout(900, func_only=True)  # the first one waits for images to be built
UNPACK = Path(__file__).parents[1] / "support" / "unpack-debian"


@pytest.fixture(scope="module")
def chart_17(cluster: Cluster, flake: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of a version of this project that ships PostgreSQL 17."""
    server = CACHE / "postgresql-17"
    if not REAL and not server.exists():
        command = [UNPACK, "trixie", server, "postgresql-17"]
        fetched = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        if fetched.returncode:
            pytest.skip(f"no PostgreSQL 17: {fetched.stderr.strip().splitlines()[-1]}")
    newer = flake.check_out(tmp_path_factory.mktemp("newer") / "checkout")
    image = newer.flake / "nix" / "images" / "postgresql-image.nix"
    image.write_text(image.read_text().replace("postgresql_16", "postgresql_17"))
    cluster.load(*newer.build("postgresql-image"))
    (package,) = newer.build("chart")[0].glob("wiki-*.tgz")
    return package


@pytest.fixture(scope="module", params=["helm3", "helm4"])
def release(request: pytest.FixtureRequest, new_module_release: NewRelease) -> Release:
    """Installed by each Helm: Helm 4 tracks who has set which field."""
    release = new_module_release(f"wiki-postgresql-17-{request.param}")
    release.helm_program = install(request.param)
    release.install(*SMALL)
    ada = release.create_user("Ada ünïcødé '; --")
    post = {"user_id": ada["id"], "content": "two\nlines\tand \\. more"}
    assert release.client.post("/posts", json=post).status_code == 201
    return release


def rows(release: Release) -> dict[str, str]:
    return {
        table: release.sql(f"select * from {table} order by 1")
        for table in ("users", "posts", "seaql_migrations")
    }


def version(release: Release) -> int:
    return int(release.sql("show server_version_num")) // 10000


def test_on_the_old_files_it_does_not_start_and_a_rollback_brings_the_old_one_back(
    release: Release, chart_17: Path
) -> None:
    old, before = version(release), rows(release)
    release.helm("upgrade", chart_17, "--reset-then-reuse-values")

    def refused() -> bool:
        log = release.kubectl("logs", "wiki-release-postgresql-0", check=False)
        return "database files are incompatible with server" in log

    wait_until(refused, "PostgreSQL 17 to refuse the files", seconds=120, every=0.5)
    release.rollback()
    assert version(release) == old
    assert rows(release) == before


def test_the_documented_commands_move_all_data_and_back(
    release: Release, chart_17: Path, tmp_path: Path
) -> None:
    before = rows(release)
    assert version(release) < 17

    def paste(documented: str, chart: Path) -> None:
        # the charts name their images themselves, as the README says
        script, named = re.subn(r"--set postgresql\.image\.tag=\S+", "", documented)
        assert named == script.count("helm upgrade")
        release.paste(script.replace("./chart", str(chart)), tmp_path)

    *there, back = page.commands("From PostgreSQL 16 to 17")
    paste("".join(there), chart_17)

    assert version(release) == 17
    assert rows(release) == before
    release.wait_until_answering()
    assert release.client.get("/user/1").json()["name"] == "Ada ünïcødé '; --"
    assert release.create_user("next")["id"] == 2
    # the new claim is like the old one, and is found by what deletes a release's data
    claims = {claim["metadata"]["name"]: claim for claim in release.get("pvc")["items"]}
    old, new = (claims.pop(f"wiki-release-postgresql{each}") for each in ("", "-17"))
    assert not claims
    for field in ("storageClassName", "accessModes", "resources"):
        assert new["spec"][field] == old["spec"][field]
    assert new["metadata"]["labels"].items() <= old["metadata"]["labels"].items()
    selector = "app.kubernetes.io/instance=wiki-release,app.kubernetes.io/name=wiki"
    assert len(release.get("pvc", f"--selector={selector}")["items"]) == 2

    paste(back, release.chart)
    assert version(release) < 17
    assert rows(release) == before
    release.wait_until_answering()
