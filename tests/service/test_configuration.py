"""Variables: their defaults, where they are told, and what happens to bad ones."""

import re
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from support.api import create_user
from support.databases import PASSWORD, PostgresDatabase, SqliteDatabase
from support.net import free_port
from support.service import ROOT, StartService, environment
from support.wait import wait_until

VARIABLES = {
    "LISTEN_ADDRESS",
    "PORT",
    "DATABASE_URL",
    "PGPASSWORD",
    "DATABASE_POOL_SIZE",
    "DATABASE_ACQUIRE_TIMEOUT_SECONDS",
    "DATABASE_STATEMENT_TIMEOUT_SECONDS",
    "STARTUP_TIMEOUT_SECONDS",
    "REQUEST_TIMEOUT_SECONDS",
    "HEADER_TIMEOUT_SECONDS",
    "IDLE_TIMEOUT_SECONDS",
    "MAX_CONNECTIONS",
    "MAX_BODY_BYTES",
    "SHUTDOWN_GRACE_SECONDS",
    "TRUSTED_PROXIES",
    "CORS_ALLOWED_ORIGINS",
    "LOG_FORMAT",
    "RUST_LOG",
}


def run(
    program: Path, *arguments: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def defaults_by_help(program: Path) -> dict[str, str]:
    shown = run(program, "--help")
    assert shown.returncode == 0
    return dict(re.findall(r"^ +([A-Z_]+)=(.+)$", shown.stdout, re.MULTILINE))


def test_help_lists_every_variable_with_its_default(program: Path) -> None:
    defaults = defaults_by_help(program)
    assert set(defaults) == VARIABLES
    assert defaults["PORT"] == "8000"
    assert defaults["DATABASE_URL"] == "sqlite://wiki.db"


def test_help_names_the_commands(program: Path) -> None:
    shown = run(program, "--help").stdout
    assert all(f"wiki-service {command}" in shown for command in ("healthcheck", "migrate"))


def test_the_readme_lists_the_same(program: Path) -> None:
    readme = ROOT.joinpath("README.md").read_text()
    rows = dict(re.findall(r"^\| *`([A-Z_]+)` *\| *`?([^`|]*?)`? *\|", readme, re.MULTILINE))
    no_default = {"": "(none)"}
    assert {name: no_default.get(row, row) for name, row in rows.items()} == defaults_by_help(
        program
    )


def test_a_name_for_the_servers_list_of_connections(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    query = (
        "SELECT DISTINCT application_name FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    create_user(start_service(postgres_database).client)
    assert postgres_database.execute(query) == [("wiki-service",)]
    postgres_database.environment["DATABASE_URL"] += "?application_name=another"
    create_user(start_service(postgres_database).client)
    assert ("another",) in postgres_database.execute(query)


def test_version(program: Path) -> None:
    version = re.search(r'^version = "(.+)"', ROOT.joinpath("Cargo.toml").read_text(), re.M)
    assert version
    assert run(program, "--version").stdout.strip() == f"wiki-service {version[1]}"


def test_an_unknown_argument_is_refused(program: Path) -> None:
    refused = run(program, "frobnicate")
    assert refused.returncode not in (0, 101)
    assert "frobnicate" in refused.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "tcp://10.0.0.1:8000"),
        ("LISTEN_ADDRESS", "nonsense"),
        ("DATABASE_POOL_SIZE", "many"),
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_POOL_SIZE", "9223372036854775807"),
        ("DATABASE_ACQUIRE_TIMEOUT_SECONDS", "-1"),
        ("REQUEST_TIMEOUT_SECONDS", "10s"),
        ("REQUEST_TIMEOUT_SECONDS", "NaN"),
        ("SHUTDOWN_GRACE_SECONDS", "1e400"),
        ("MAX_BODY_BYTES", "1MiB"),
        ("MAX_BODY_BYTES", "9223372036854775807"),
        ("TRUSTED_PROXIES", "127.0.0.1/33"),
        ("CORS_ALLOWED_ORIGINS", "app.example"),
        ("LOG_FORMAT", "xml"),
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "mysql://user:s3cr3t@host/db"),
        ("DATABASE_URL", "postgres://user:s3cr3t@host:port/db"),
        ("DATABASE_URL", "postgres://user:s3cr3t@[::1/db"),
    ],
)
def test_a_bad_value_is_named_in_one_line(
    program: Path, tmp_path: Path, variable: str, value: str
) -> None:
    variables = {"PORT": str(free_port()), variable: value}
    start = time.monotonic()
    refused = run(program, cwd=tmp_path, **variables)
    assert refused.returncode not in (0, 101), refused
    assert time.monotonic() - start < 5
    said = refused.stdout + refused.stderr
    assert len(said.splitlines()) == 1, said
    assert variable in said
    assert "s3cr3t" not in said


def test_a_wrong_password_fails_at_once(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    wrong = postgres_database.environment | {"PGPASSWORD": "wr0ng-s3cr3t"}
    start = time.monotonic()
    service = start_service(until="nothing", **wrong)
    assert service.wait_for_end() not in (0, 101)
    assert time.monotonic() - start < 5
    assert "wr0ng-s3cr3t" not in service.text
    *before, last = service.text.splitlines()
    assert "password" in last
    assert all('"level":"INFO"' in line for line in before), "it is not said in one line"


def test_a_password_may_be_in_the_url(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    escaped = "".join(f"%{byte:02X}" for byte in PASSWORD.encode())
    url = postgres_database.environment["DATABASE_URL"].replace("@", f":{escaped}@")
    service = start_service(DATABASE_URL=url)
    create_user(service.client)
    assert escaped not in service.text
    assert PASSWORD not in service.text


def test_an_empty_variable_is_an_unset_one(start_service: StartService) -> None:
    variables = {name: "" for name in VARIABLES if name != "PORT"}
    create_user(start_service(**variables).client)


def test_sqlite_is_the_default(start_service: StartService, tmp_path: Path) -> None:
    create_user(start_service().client)
    assert SqliteDatabase(tmp_path / "wiki.db").execute("SELECT name FROM users")


@pytest.mark.parametrize("url", ["sqlite://other.db", "sqlite:other.db", "sqlite://{}/other.db"])
def test_a_sqlite_file_may_be_elsewhere(
    start_service: StartService, tmp_path: Path, url: str
) -> None:
    create_user(start_service(DATABASE_URL=url.format(tmp_path)).client)
    assert (tmp_path / "other.db").exists()


def test_a_sqlite_file_that_cannot_be_fails_at_once(program: Path, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/no/such/folder/wiki.db"
    refused = run(program, cwd=tmp_path, PORT=str(free_port()), DATABASE_URL=url)
    assert refused.returncode not in (0, 101)
    assert "/no/such/folder" in refused.stdout + refused.stderr


def test_a_taken_port_fails_with_a_line_that_says_so(
    program: Path, tmp_path: Path, sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database)
    refused = run(program, cwd=tmp_path, PORT=str(service.port))
    assert refused.returncode not in (0, 101)
    assert str(service.port) in refused.stdout + refused.stderr


def test_it_listens_on_ipv6(sqlite_database: SqliteDatabase, start_service: StartService) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback address")
    service = start_service(sqlite_database, host="::1", LISTEN_ADDRESS="::1")
    assert create_user(service.client)


def test_both_protocols_at_once(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, LISTEN_ADDRESS="::")
    create_user(service.client)
    line = wait_until(
        lambda: next((line for line in service.lines() if line.get("status") == 201), None),
        "the request's line",
    )
    assert line["client"] == "127.0.0.1", "an IPv4 client is not to look like IPv6"
    if not has_ipv6():
        pytest.skip("IPv4 works; this machine has no IPv6 loopback address")
    assert httpx.get(f"http://[::1]:{service.port}/livez").status_code == 200


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("parameters", "word"),
    [("ssl=verify-full", "TLS"), ("sslmode=verify-full", "TLS"), ("pasword=hunter2", "pasword")],
)
def test_no_parameter_of_the_url_is_ignored(
    program: Path, postgres_database: PostgresDatabase, parameters: str, word: str
) -> None:
    """`ssl` is what the predecessor's driver calls `sslmode`."""
    environment = dict(postgres_database.environment)
    environment["DATABASE_URL"] += f"?{parameters}"
    refused = run(program, **environment)
    assert refused.returncode != 0
    assert word in refused.stderr
    assert "hunter2" not in refused.stderr + refused.stdout
