"""The PostgreSQL image: its first start, whatever interrupts it and as any user, and later ones."""

import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from support.docker import HARDENED, Container, Docker
from support.wait import wait_until

PASSWORD = "s3cr3t '\"&"
VOLUME = "/var/lib/postgresql/data"
FOLDER = f"{VOLUME}/pgdata"
POSTGRESQL = {
    "POSTGRES_USER": "wikiuser",
    "POSTGRES_PASSWORD": PASSWORD,
    "POSTGRES_DB": "wiki",
    "PGDATA": FOLDER,
}
WRITABLE = (*HARDENED, "--tmpfs=/tmp", "--tmpfs=/var/run/postgresql")
OPTIONS = (*WRITABLE, f"--volume=data:{VOLUME}")

Load = Callable[[str], str]
pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("leave_nothing")]


@pytest.fixture
def image(load: Load) -> str:
    return load("postgresql-image")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A folder that every user may write to, like a volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    folder.chmod(0o777)
    tmp_path.chmod(0o755)
    return folder


def sql(database: Container, statement: str) -> str:
    return database.execute("psql", "-U", "wikiuser", "-d", "wiki", "-XAtqc", statement)


def listing(database: Container, folder: str) -> set[str]:
    return set(database.execute("ls", "-A", folder).split())


def end(database: Container) -> int:
    """Waits until it exits by itself; returns its exit code."""
    wait_until(lambda: not database.state["Running"], "PostgreSQL to end", seconds=180)
    return database.wait()


def wait_until_ready(database: Container) -> None:
    def ready() -> bool:
        assert database.state["Running"], database.log
        try:
            return "accepting" in database.execute("pg_isready", "-h", "127.0.0.1", "-U", "x")
        except AssertionError:
            return False

    wait_until(ready, "PostgreSQL to accept connections", seconds=180, every=0.1)


def test_it_starts_stops_and_is_killed(docker: Docker, image: str) -> None:
    database = docker.start(image, options=OPTIONS, **POSTGRESQL)
    wait_until_ready(database)
    locale = "SELECT datcollate FROM pg_database WHERE datname = current_database()"
    assert sql(database, locale) == "en_US.utf8"
    assert sql(database, "SELECT 'a' < 'B'") == "t", "text does not sort as in the official image"
    assert sql(database, "SHOW server_version").startswith("16")
    assert sql(database, "SHOW unix_socket_directories") == "/run/postgresql"
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


def test_it_asks_for_the_password(docker: Docker, image: str) -> None:
    database = docker.start(image, options=OPTIONS, **POSTGRESQL)
    wait_until_ready(database)
    url = "host=127.0.0.1 user=wikiuser dbname=wiki"
    with pytest.raises(AssertionError, match="password authentication failed"):
        docker.run("exec", "--env=PGPASSWORD=wrong", database.id, "psql", url, "-c", "SELECT 1")
    docker.run("exec", f"--env=PGPASSWORD={PASSWORD}", database.id, "psql", url, "-c", "SELECT 1")


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({}, "set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE"),
        (
            {"POSTGRES_PASSWORD": PASSWORD, "POSTGRES_PASSWORD_FILE": "/etc/passwd"},
            "POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are both set: set one of them",
        ),
    ],
)
def test_a_password_in_no_place_or_in_two(
    docker: Docker, image: str, environment: dict[str, str], complaint: str
) -> None:
    database = docker.start(image, **environment)
    assert end(database) == 1
    assert database.log.endswith(complaint)


def test_a_question_to_the_server_needs_no_database(docker: Docker, image: str) -> None:
    for arguments in (["--version"], ["postgres", "-V"]):
        assert docker.run("run", "--rm", *HARDENED, image, *arguments).startswith("postgres (Post")


def test_the_volume_itself_and_a_password_file(docker: Docker, image: str, volume: Path) -> None:
    (volume / "lost+found").mkdir(mode=0o700)
    volume.chmod(0o755)
    os.chown(volume, 999, 999)
    (volume.parent / "password").write_text(f"{PASSWORD}\n")
    options = (*WRITABLE, f"--volume={volume}:{VOLUME}", f"--volume={volume.parent}:/secrets:ro")
    database = docker.start(
        image,
        "-c",
        "max_connections=42",
        options=options,
        POSTGRES_PASSWORD_FILE="/secrets/password",
        POSTGRES_DB="template1",  # it exists, so there is nothing to create
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
    database.stop()
    volume.chmod(0o2770)  # as the kubelet does for a pod's fsGroup
    database.start()
    wait_until_ready(database)


def test_any_user(docker: Docker, image: str, volume: Path) -> None:
    options = (*WRITABLE, f"--volume={volume}:{VOLUME}", "--user=12345:0")
    database = docker.start(image, options=options, **POSTGRESQL)
    wait_until_ready(database)
    assert sql(database, "SELECT 1") == "1"
    environment = database.execute("cat", "/proc/1/environ")
    assert "LD_PRELOAD" not in environment
    assert not listing(database, "/tmp")
    database.kill()
    database.start()
    wait_until_ready(database)


def test_a_folder_of_somebody_else(docker: Docker, image: str, volume: Path) -> None:
    options = (*WRITABLE, f"--volume={volume}:{VOLUME}", "--user=12345:0")
    database = docker.start(image, options=options, **POSTGRESQL | {"PGDATA": VOLUME})
    assert end(database) == 1
    assert database.log.splitlines()[-1] == (
        f"{VOLUME} belongs to user 0, and PostgreSQL, as user 12345, accepts only a folder that "
        "it owns: set PGDATA to a folder in it"
    )
    assert not list(volume.iterdir())


def test_files_of_somebody_else_stay(docker: Docker, image: str, volume: Path) -> None:
    folder = volume / "pgdata"
    folder.mkdir()
    (folder / "notes").write_text("mine")
    os.chown(folder, 999, 999)
    options = (*WRITABLE, f"--volume={volume}:{VOLUME}")
    database = docker.start(image, options=options, **POSTGRESQL)
    assert end(database) == 1
    assert database.log.endswith("set PGDATA to an empty folder, or move them: notes")
    assert [path.name for path in folder.iterdir()] == ["notes"]


def test_a_database_that_cannot_be_created(docker: Docker, image: str) -> None:
    wrong = POSTGRESQL | {"POSTGRES_DB": "wi\nki"}
    database = docker.start(image, options=OPTIONS, **wrong)
    assert end(database) == 1
    assert "unterminated quoted identifier" in database.log
    database = docker.start(image, options=OPTIONS, **POSTGRESQL)
    wait_until_ready(database)
    assert sql(database, "SELECT 1") == "1"


@pytest.mark.parametrize("folder", [VOLUME, FOLDER])
def test_a_kill_inside_initdb(docker: Docker, image: str, folder: str) -> None:
    environment = POSTGRESQL | {"PGDATA": folder}
    database = docker.start(image, options=OPTIONS, **environment)
    wait_until(lambda: "running bootstrap script" in database.log, "initdb", seconds=180)
    database.kill()
    database.start()
    wait_until_ready(database)
    assert sql(database, "SELECT 1") == "1"


# Replaces each program with which the entrypoint changes the volume. Call number STOP never
# returns; if it moves several files at once, it has moved the first.
STEP = """\
#!/bin/sh
name=${0##*/}
number=$(($(cat /tmp/steps) + 1))
echo $number >/tmp/steps
real=$(PATH=${PATH#/steps:} && command -v "$name")
if [ $number = "$STOP" ]; then
  case "$name $1" in "mv --target-directory"*) "$real" "$1" "$2" ;; esac
  echo "stopped before $name" >/proc/1/fd/2 # its own may lead to /dev/null
  exec sleep 600
fi
exec "$real" "$@"
"""
PROGRAMS = ("initdb", "mv", "postgres", "rmdir", "sync")


def stopped_before(database: Container) -> str | None:
    """The program whose call never returns; None if it reaches its end."""
    either = re.compile("stopped before (.+)|database system is ready to accept connections")
    return wait_until(lambda: either.search(database.log), "a step", seconds=180, every=0.1)[1]


def test_a_kill_at_each_step(docker: Docker, image: str, tmp_path: Path) -> None:
    """A first start with PGDATA as the volume itself: the next one creates a complete database."""
    for program in PROGRAMS:
        (tmp_path / program).write_text(STEP)
        (tmp_path / program).chmod(0o755)
    tmp_path.chmod(0o755)
    path = docker.run("inspect", "--format={{range .Config.Env}}{{println .}}{{end}}", image)
    (path,) = (line for line in path.splitlines() if line.startswith("PATH="))
    environment = POSTGRESQL | {"PGDATA": VOLUME}
    stepwise = environment | {"PATH": path.replace("=", "=/steps:").removeprefix("PATH=")}
    steps = []
    for number in count(1):
        options = (*OPTIONS, f"--volume={tmp_path}:/steps:ro")
        database = docker.start(image, options=options, STOP=str(number), **stepwise)
        if not (program := stopped_before(database)):
            break
        steps.append(program)
        database.kill()
        database = docker.start(image, options=OPTIONS, **environment)
        wait_until_ready(database)
        assert sql(database, "SELECT 1") == "1", steps
        assert not {name for name in listing(database, VOLUME) if "initdb" in name}, steps
        docker.clean()
    assert set(steps) == set(PROGRAMS)


def test_the_service_across_restarts(docker: Docker, image: str, load: Load) -> None:
    database = docker.start(image, options=OPTIONS, **POSTGRESQL)
    network = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    host = docker.run("inspect", f"--format={network}", database.id)
    service = docker.start(
        load("wiki-image"),
        options=(*HARDENED, "--user=12345:12345"),
        DATABASE_URL=f"postgres://wikiuser@{host}/wiki",
        PGPASSWORD=PASSWORD,
        SEARCH="true",  # which needs ICU
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
