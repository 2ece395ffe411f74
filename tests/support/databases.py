"""The two kinds of database behind one interface, for tests that are the same on both."""

import base64
import contextlib
import hashlib
import hmac
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import trustme

from support.net import free_port
from support.wait import wait_until

USER = "wiki"
# Like a generated one: it needs escaping in a URL, and must never appear in a log.
PASSWORD = "s3cr3t&p@ss/w?rd%41"


class SqliteDatabase:
    kind = "sqlite"

    def __init__(self, path: Path):
        self.path = path
        self.environment = {"DATABASE_URL": f"sqlite://{path}"}

    @contextlib.contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(sql).fetchall()

    @contextlib.contextmanager
    def writes_blocked(self) -> Iterator[None]:
        with self.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


class PostgresDatabase:
    kind = "postgresql"

    def __init__(self, server: "Postgres", name: str):
        self.server = server
        self.name = name
        self.environment = self.environment_at(server.port)

    def environment_at(self, port: int, host: str = "127.0.0.1") -> dict[str, str]:
        url = f"postgres://{USER}@{host}:{port}/{self.name}"
        return {"DATABASE_URL": url, "PGPASSWORD": PASSWORD}

    def connect(self) -> psycopg.Connection[Any]:
        return self.server.connect(self.name)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def writes_blocked(self) -> Iterator[None]:
        """Once no index is being built, since the two would wait for each other."""

        def locked() -> bool:
            try:
                connection.execute("LOCK TABLE users, posts IN SHARE MODE NOWAIT")
            except psycopg.errors.LockNotAvailable:
                connection.execute("ROLLBACK; BEGIN")
                return False
            return True

        with self.connect() as connection:
            connection.execute("BEGIN")
            wait_until(locked, "the lock on the tables")
            yield
            connection.execute("ROLLBACK")


Database = SqliteDatabase | PostgresDatabase


class Postgres:
    """A separate PostgreSQL server: loopback and a socket, scram passwords, fsync on."""

    def __init__(self, template: Path, *, host: str = "127.0.0.1"):
        self.host = host
        self.port = free_port()
        self._home = _home()
        self.socket_folder = self._home
        self.data = self._home / "data"
        subprocess.run(["cp", "-a", template, self.data], check=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process, "this PostgreSQL is not running"
        return self._process

    def start(self) -> "Postgres":
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program("postgres"),
                    *("-D", self.data),
                    *("-p", str(self.port)),
                    *("-c", f"listen_addresses={self.host}"),
                    *("-c", f"unix_socket_directories={self.socket_folder}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **_unprivileged(),
            )
        wait_until(self._answers, f"PostgreSQL, whose log is {self._home}/log")
        return self

    @property
    def log(self) -> str:
        return (self._home / "log").read_text()

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"PostgreSQL ended: {self.log}"
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=USER,
            password=PASSWORD,
            dbname=database,
            autocommit=True,
            connect_timeout=30,
        )

    def create_database(self) -> PostgresDatabase:
        self._databases += 1
        database = PostgresDatabase(self, f"wiki{self._databases}")
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {database.name}")
        return database

    def use_tls(self, certificate: trustme.LeafCert) -> None:
        """From the next start on, only TLS is allowed."""
        chain, key = self.data / "server.crt", self.data / "server.key"
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(chain, append=True)
        certificate.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        (self.data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write("ssl = on\n")
        owner = self.data.stat()
        for path in (chain, key):
            os.chown(path, owner.st_uid, owner.st_gid)

    def pause(self) -> None:
        """Stops all of its processes, as a hung disk or a frozen machine would."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        postmaster = psutil.Process(self.process.pid)
        # Before its children are listed: once it is stopped, it forks no other.
        postmaster.send_signal(number)
        for process in postmaster.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def stop(self) -> None:
        """A fast shutdown: ends sessions. `start` brings it back with its data."""
        if self._process:
            self.resume()
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=60)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to all of its processes, none of which may survive: it would hold the memory that
        they share, without which no other server starts."""
        self.pause()
        postmaster = psutil.Process(self.process.pid)
        everyone = [postmaster, *postmaster.children(recursive=True)]
        for process in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everyone, timeout=60)
        self._process = None

    def remove(self) -> None:
        if self._process:
            self.resume()
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                # Before version 16 its signal handlers do so much that they may hang.
                self.kill()
        shutil.rmtree(self._home)


def initdb() -> Path:
    """An initialised data directory, which is copied for each server."""
    home = _home()
    password = home / "password"
    password.write_text(scram_secret(PASSWORD))
    subprocess.run(
        [
            program("initdb"),
            *("-D", home / "template"),
            *("-U", USER),
            *("-A", "scram-sha-256"),
            f"--pwfile={password}",
            *("-E", "UTF8"),
            "--no-locale",
            "--no-sync",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=home,
        **_unprivileged(),
    )
    return home / "template"


def scram_secret(password: str) -> str:
    """What PostgreSQL stores for a password, here with one round of hashing instead of 4096: the
    client has to repeat them, and a service built without optimisation needs 50 ms for that."""
    salt = b"of no importance"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    salt_64, stored_64, server_64 = (
        base64.b64encode(part).decode() for part in (salt, stored_key, server_key)
    )
    return f"SCRAM-SHA-256$1:{salt_64}${stored_64}:{server_64}"


def _home() -> Path:
    """A directory that PostgreSQL's user owns, outside pytest's, which is the test user's alone."""
    home = Path(tempfile.mkdtemp(prefix="wiki-test-postgresql-"))
    if user := _unprivileged().get("user"):
        shutil.chown(home, user)
    return home


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def program(name: str) -> Path:
    if found := shutil.which(name):
        return Path(found)
    candidates = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"),
        key=lambda path: float(path.parent.parent.name),
        reverse=True,
    )
    assert candidates, (
        f"no PostgreSQL: {name} is neither on PATH nor in /usr/lib/postgresql/*/bin. "
        "The tests need a real one (Debian: apt-get install postgresql)."
    )
    return candidates[0]
