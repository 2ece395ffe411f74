"""The programs under test, started and stopped."""

import contextlib
import http.client
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from common import ROOT, need, run, say

TARGET = ROOT / "target" / "bench"
OHA = "1.16.0"
CORES = len(os.sched_getaffinity(0))
POOL = 20
ROWS = 10_000

TICK = os.sysconf("SC_CLK_TCK")


def build(*, everything: bool = True) -> None:
    """Builds everything, or only what wrk needs; minutes the first time, seconds later."""
    say("building wiki-service")
    cargo = ("cargo", "build", "--release", "--locked")
    run(*cargo, cwd=ROOT, capture_output=False)
    say("building bench/axum")
    run(*cargo, "--target-dir", TARGET, cwd=ROOT / "bench/axum", capture_output=False)
    if not everything:
        return
    say(f"building oha {OHA}")
    if not (TARGET / "oha/bin/oha").exists() or OHA not in run(TARGET / "oha/bin/oha", "--version"):
        install = ("cargo", "install", "oha", "--version", OHA, "--locked", "--root")
        run(*install, TARGET / "oha", capture_output=False)
    say("installing the predecessor")
    venv, wanted = TARGET / "predecessor", ROOT / "bench/predecessor/requirements.txt"
    installed = venv / "requirements.txt"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        # Python 3.13 is what it ran on.
        python = next(filter(None, map(runs, ("python3.13", sys.executable))))
        run(python, "-m", "venv", "--clear", venv)
        run(venv / "bin/pip", "install", "--quiet", "--no-deps", "-r", wanted, capture_output=False)
        shutil.copy(wanted, installed)


def runs(program: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([program, "--version"], check=True, capture_output=True)
        return program
    return None


def filled(rows: int) -> str:
    """SQL that creates `rows` users, and a post by each."""
    return f"""
        TRUNCATE posts, users RESTART IDENTITY CASCADE;
        SET session_replication_role = replica; -- no look for the user of each post
        INSERT INTO users (name, created_time)
            SELECT 'User number ' || i, now() FROM generate_series(1, {rows}) i;
        INSERT INTO posts (content, user_id, created_time)
            SELECT 'This is post number ' || i || '. ' || repeat('Lorem ipsum. ', 15), i, now()
            FROM generate_series(1, {rows}) i;
        """


class Postgres:
    """Our own PostgreSQL with its defaults, including fsync; no password, loopback only."""

    def __init__(self) -> None:
        self.port = free_port()
        self.home = Path(tempfile.mkdtemp(prefix="wiki-bench-postgresql-"))
        user = {}
        if os.geteuid() == 0:  # as which PostgreSQL refuses to run
            names = {entry.pw_name for entry in pwd.getpwall()}
            entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.home, entry.pw_uid, entry.pw_gid)
        data = self.home / "data"
        initdb = need("initdb", "postgresql")
        run(initdb, "-D", data, "-U", "wiki", "-A", "trust", "-E", "UTF8", "--no-locale",
            cwd=self.home, **user)  # fmt: skip
        with (self.home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [need("postgres", "postgresql"), "-D", data, "-p", str(self.port),
                 "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.home}",
                 "-c", "max_connections=300"],
                cwd=self.home, stdout=log, stderr=log, **user,
            )  # fmt: skip
        self.libpq = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "wiki"}
        ready = need("pg_isready", "postgresql-client")
        patiently(
            lambda: subprocess.run([ready, "-q"], env=self.libpq, check=False).returncode == 0
        )
        self.sql("CREATE DATABASE wiki", "postgres")
        self.version = self.sql("SHOW server_version").split()[0]

    def sql(self, text: str, database: str = "wiki") -> str:
        psql = need("psql", "postgresql-client")
        return run(psql, "-qtAX", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text,
                   env=self.libpq).strip()  # fmt: skip

    def url(self, scheme: str = "postgres") -> str:
        return f"{scheme}://wiki@127.0.0.1:{self.port}/wiki"

    def fill(self, rows: int) -> None:
        self.sql(filled(rows))
        self.sql("VACUUM ANALYZE")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        shutil.rmtree(self.home)


PROGRAMS = {
    "wiki-service": ROOT / "target/release/wiki-service",
    "axum + sqlx": TARGET / "release/wiki-axum",
    "predecessor": TARGET / "predecessor/bin/uvicorn",
}


def on_disk(name: str) -> int:
    """Bytes of a program; for the predecessor, of its packages, without Python and pip."""
    if name == "predecessor":
        paths = (TARGET / "predecessor/lib").rglob("*")
        return sum(one.stat().st_size for one in paths if one.is_file() and "pip" not in one.parts)
    return PROGRAMS[name].stat().st_size


class Server:
    """One of the services, as a process with its children."""

    def __init__(
        self, name: str, database: Postgres, *, under: Iterable[object] = (), **variables: str
    ) -> None:
        self.name = name
        self.port = free_port()
        scheme = "postgresql+asyncpg" if name == "predecessor" else "postgres"
        # One worker per core, with as many connections in total as the others have.
        workers = CORES if name == "predecessor" else 1
        environment = {
            "PATH": os.environ["PATH"],
            "PORT": str(self.port),
            "DATABASE_URL": database.url(scheme),
            "DATABASE_POOL_SIZE": str(POOL // workers),
            **variables,
        }
        command = [*under, PROGRAMS[name]]
        if name == "predecessor":
            command += ["main:app", "--app-dir", "bench/predecessor", "--port", str(self.port)]
            command += ["--workers", str(workers), "--loop", "uvloop", "--http", "httptools"]
            command += ["--no-access-log"]
        # Its log goes into a pipe that is read, as in a container.
        self.reader = subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        started = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self.reader.stdin,
            stderr=self.reader.stdin, start_new_session=True,
        )  # fmt: skip
        self.reader.stdin.close()
        patiently(lambda: status(self.port, "/users/1") == 200, every=0.0005)
        self.first_answer = time.monotonic() - started

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    def memory(self) -> float:
        """Bytes: the proportional set size, so that memory shared by workers counts once."""
        return sum(pss(pid) for pid in tree(self.process.pid))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def patiently(condition, *, every: float = 0.05, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"a program was not ready within {seconds:.0f} s")
        time.sleep(every)


def status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A database with this version's schema and `ROWS` users and posts."""
    database = Postgres()
    try:
        migrate = {"PATH": os.environ["PATH"], "DATABASE_URL": database.url()}
        run(ROOT / "target/release/wiki-service", "migrate", env=migrate)
        database.fill(ROWS)
        yield database
    finally:
        database.stop()


# What the kernel knows about a process


def tree(pid: int) -> list[int]:
    children = []
    with contextlib.suppress(FileNotFoundError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += (thread / "children").read_text().split()
    return [pid] + [one for child in children for one in tree(int(child))]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children."""
    ticks = 0
    for one in tree(pid):
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15] if one == pid else fields[11:13]))
    return ticks / TICK


def pss(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) * 1024
    return 0
