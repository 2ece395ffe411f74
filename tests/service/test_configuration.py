"""Variables: their defaults, where they are documented, and what happens to bad ones."""

import fcntl
import os
import pwd
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from support.api import create_user, problem
from support.databases import PASSWORD, USER, Postgres, PostgresDatabase, SqliteDatabase
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
    "CACHE_SECONDS",
    "CACHE_BYTES",
    "SEARCH",
    "EDITING",
    "SHUTDOWN_GRACE_SECONDS",
    "TRUSTED_PROXIES",
    "CORS_ALLOWED_ORIGINS",
    "AUTH_ISSUER",
    "AUTH_AUDIENCE",
    "AUTH_JWKS_FILE",
    "AUTH_CA_FILE",
    "AUTH_READ",
    "AUTH_TOKEN_TYPE",
    "RATE_LIMIT_PER_SECOND",
    "RATE_LIMIT_BURST",
    "LOG_FORMAT",
    "RUST_LOG",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
}


def run(
    program: Path, *arguments: str, cwd: Path | None = None, user: str = "", **variables: str
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
        user=user or None,
        extra_groups=[] if user else None,
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


def test_the_page_lists_the_same(program: Path) -> None:
    page = ROOT.joinpath("docs/configuration.md").read_text()
    rows = dict(re.findall(r"^\| *`([A-Z_]+)` *\| *`?([^`|]*?)`? *\|", page, re.MULTILINE))
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
        ("CACHE_SECONDS", "-1"),
        ("CACHE_SECONDS", "86401"),
        ("CACHE_SECONDS", "on"),
        ("EDITING", "Off"),
        ("EDITING", "everybody"),
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


def test_a_cache_of_bad_size_is_refused(program: Path, tmp_path: Path) -> None:
    for size in ("0", "16MiB", "-1"):
        refused = run(program, cwd=tmp_path, PORT="0", CACHE_SECONDS="1", CACHE_BYTES=size)
        assert refused.returncode == 1
        assert f'CACHE_BYTES="{size}"' in refused.stderr


def test_a_variable_without_the_one_it_belongs_to_is_refused(program: Path, tmp_path: Path) -> None:
    refused = run(program, cwd=tmp_path, PORT="0", CACHE_BYTES="1000000")
    assert refused.returncode == 1
    (line,) = (refused.stdout + refused.stderr).splitlines()
    assert "CACHE_BYTES" in line
    assert "CACHE_SECONDS" in line


@pytest.mark.parametrize(
    "variables",
    [
        {"EDITING": "author"},
        {"EDITING": "users"},
        {"EDITING": "anyone", "AUTH_ISSUER": "https://id.example", "AUTH_AUDIENCE": "wiki"},
    ],
)
def test_who_may_edit_fits_whether_anybody_is_known(
    program: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    refused = run(program, cwd=tmp_path, PORT="0", **variables)
    assert refused.returncode == 1
    (line,) = (refused.stdout + refused.stderr).splitlines()
    assert f"EDITING={variables['EDITING']}" in line
    assert "AUTH_ISSUER" in line


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
    """The predecessor's driver calls `sslmode` `ssl`."""
    environment = dict(postgres_database.environment)
    environment["DATABASE_URL"] += f"?{parameters}"
    refused = run(program, **environment)
    assert refused.returncode != 0
    assert word in refused.stderr
    assert "hunter2" not in refused.stderr + refused.stdout


@pytest.fixture(scope="module")
def migrated(postgres: Postgres, program: Path) -> PostgresDatabase:
    """A database to connect to in other ways."""
    database = postgres.create_database()
    assert run(program, "migrate", **database.environment).returncode == 0
    return database


def test_an_address_is_what_psql_takes(
    program: Path, migrated: PostgresDatabase, tmp_path: Path
) -> None:
    """And the variables that psql reads, one of them empty each time: it counts as not set."""
    folder, port, name = migrated.server.socket_folder, migrated.server.port, migrated.name
    passwords = tmp_path / ".pgpass"
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    passwords.write_text(
        f"# comment\nother:*:*:*:wrong\n127.0.0.1:*:*:{USER}:{escaped}\nlocalhost:*:*:*:{escaped}\n"
    )
    passwords.chmod(0o600)
    migrated.execute("CREATE ROLE blank SUPERUSER LOGIN PASSWORD ' s3cr3t '")
    with_password = {"PGPASSWORD": PASSWORD, "PGOPTIONS": "", "PGSSLROOTCERT": ""}
    here, to = f"{USER}@127.0.0.1:{port}", f"host=127.0.0.1&port={port}"
    cases: list[tuple[str, dict[str, str]]] = [
        (f"postgres://{USER}@/{name}?host={folder}&port={port}", {"PGHOST": "", "PGHOSTADDR": ""}),
        (f"postgres://{USER}@/{name}", {"PGHOST": str(folder), "PGPORT": f"{port}\r"}),
        (f"postgres://{USER}@{quote(str(folder), safe='')}:{port}/{name}", {"PGPORT": ""}),
        (f"postgres:///{name}?user={USER}&{to}", {"PGUSER": ""}),
        (f"postgres://?{to}", {"PGUSER": USER, "PGDATABASE": name, "PGSSLMODE": ""}),
        (f"postgresql+psycopg://{here}?database={name}", {"PGAPPNAME": ""}),
        (f"postgres://{USER}@nowhere.invalid:{port}/{name}?hostaddr=127.0.0.1", {}),
        (f"postgres://{here}/{name}", {"PGHOST": "nowhere.invalid", "PGHOSTADDR": "192.0.2.1"}),
        (f"postgres://{here}/{name}?sslmode=allow", {"PGSSLMODE": "verify-ful"}),
        (f"postgres://{here}/{name}?options=-c%20geqo%3Doff&application_name=a+b", {}),
        (f"postgres://{here}/{name} \r", {"PGSSLMODE": " prefer\r"}),
        (f"postgres://{here}/{name}", {"PGSSLCRL": "", "PGREQUIREAUTH": ""}),
        (f"postgres://blank@127.0.0.1:{port}/{name}", {"PGPASSWORD": " s3cr3t "}),
        (f"postgres://{here}/{name}?passfile={passwords}", {"PGPASSWORD": ""}),
        (f"postgres://{here}/{name}", {"PGPASSWORD": "", "PGPASSFILE": str(passwords)}),
        (f"postgres://{USER}@/{name}?host={folder}&port={port}",
         {"PGPASSWORD": "", "HOME": str(tmp_path)}),
    ]  # fmt: skip
    for url, variables in cases:
        done = run(program, "migrate", DATABASE_URL=url, **(with_password | variables))
        assert done.returncode == 0, (url, variables, done.stdout, done.stderr)
        assert "WARN" not in done.stdout, (url, done.stdout)
        assert PASSWORD not in done.stdout


def test_a_file_of_passwords_that_others_may_read_is_passed_over(
    program: Path, migrated: PostgresDatabase, tmp_path: Path
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"*:*:*:*:{PASSWORD}\n")
    passwords.chmod(0o640)
    variables = migrated.environment | {"PGPASSWORD": "", "PGPASSFILE": str(passwords)}
    refused = run(program, "migrate", **variables)
    assert refused.returncode == 1
    assert str(passwords) in refused.stdout
    assert PASSWORD not in refused.stdout + refused.stderr


def test_an_address_may_be_ipv6(program: Path, postgres_template: Path) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback address")
    server = Postgres(postgres_template, host="::1").start()
    try:
        database = server.create_database()
        for url, host in (
            (f"postgres://{USER}@[::1]:{server.port}/{database.name}", ""),
            (f"postgres://{USER}@:{server.port}/{database.name}", "::1"),
        ):
            done = run(program, "migrate", DATABASE_URL=url, PGHOST=host, PGPASSWORD=PASSWORD)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"[::1]:{server.port}" in done.stdout
    finally:
        server.remove()


def test_what_means_nothing_here_is_passed_over_with_a_line(
    program: Path, migrated: PostgresDatabase
) -> None:
    environment = migrated.environment | {"PGCONNECT_TIMEOUT": "5"}
    environment["DATABASE_URL"] += (
        "?prepared_statement_cache_size=0&channel_binding=prefer&keepalives=1&gssencmode=disable"
        "&ssl_min_protocol_version=TLSv1.2&target_session_attrs=any"
    )
    done = run(program, "migrate", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "WARN" in line)
    for name in ("prepared_statement_cache_size", "channel_binding", "PGCONNECT_TIMEOUT"):
        assert name in line
    assert "ssl_min_protocol_version" not in line, "it is obeyed"


@pytest.mark.parametrize(
    ("url", "variables", "words"),
    [
        ("//u:s3cr3t@h1:5432,h2:5432/db", {}, "several hosts"),
        ("//u:s3cr3t@h1/db?host=h1&host=h2", {}, "one server"),
        ("//u:s3cr3t@/db", {"PGHOST": "h1,h2"}, 'PGHOST="h1,h2" several hosts'),
        ("//u:s3cr3t@::1/db", {}, "[::1]"),
        ("//u:s3cr3t@h:70000/db", {}, "65535"),
        ("//u:s3cr3t@/db", {"PGHOST": "tcp://10.0.0.1:5432"}, 'PGHOST="tcp://10.0.0.1:5432"'),
        ("//u:s3cr3t@h/db", {"PGPORT": "tcp://10.0.0.1:5432"}, 'PGPORT="tcp://10.0.0.1:5432"'),
        ("//u:s3cr3t@h/db", {"PGPORT": "0"}, "PGPORT"),
        ("//u:s3cr3t@/db", {"PGHOSTADDR": "db"}, "PGHOSTADDR"),
        ("//h/db", {"PGUSER": ""}, "user"),
        ("//u:s3cr3t@h/db", {"PGSSLMODE": "verify-ful"}, 'PGSSLMODE="verify-ful" verify-full'),
        ("//u:s3cr3t@h/db?sslmode=verify-ful", {}, "sslmode verify-full"),
        ("//u:s3cr3t@h/db?channel_binding=require", {}, "channel_binding"),
        ("//u:s3cr3t@h/db", {"PGCHANNELBINDING": "require"}, "PGCHANNELBINDING"),
        ("//u:s3cr3t@h/db?require_auth=scram-sha-256", {}, "require_auth"),
        ("//u:s3cr3t@h/db", {"PGREQUIREAUTH": "scram-sha-256"}, "PGREQUIREAUTH"),
        ("//u:s3cr3t@h/db?gssencmode=require", {}, "gssencmode"),
        ("//u:s3cr3t@h/db?sslcrl=/etc/crl.pem", {}, "sslcrl"),
        ("//u:s3cr3t@h/db", {"PGSSLCRLDIR": "/etc"}, "PGSSLCRLDIR"),
        ("//u:s3cr3t@h/db?ssl_min_protocol_version=TLSv1.3", {}, "ssl_min_protocol_version"),
        ("//u:s3cr3t@h/db?sslnegotiation=direct", {}, "sslnegotiation"),
        ("//u:s3cr3t@h/db?target_session_attrs=read-write", {}, "target_session_attrs"),
        ("//u:s3cr3t@h/db", {"PGTARGETSESSIONATTRS": "primary"}, "PGTARGETSESSIONATTRS"),
        ("//u:s3cr3t@h/db?requirepeer=postgres", {}, "requirepeer"),
        ("//u:s3cr3t@h/db?sslpassword=s3cr3t", {}, "sslpassword"),
        ("//u:s3cr3t@h/db?service=wiki", {}, "service"),
        ("//u:s3cr3t@h/db?sslcert=/dev/null", {}, "sslkey"),
        ("//u@h/db?sslrootcert=system&sslmode=require", {}, "sslrootcert=system verify-full"),
        ("//u:s3cr3t@h/db?sslrootcert=system", {"PGSSLMODE": "prefer"}, "PGSSLMODE verify-full"),
        ("//u:s3cr3t@h/db?sslmode=verify-ca", {"PGSSLROOTCERT": "system"}, "PGSSLROOTCERT sslmode"),
        ("//u@h/db?sslrootcert=/dev/null", {"PGSSLMODE": "disable"}, "PGSSLMODE sslrootcert"),
        ("//u:s3cr3t@h/db", {"PGREQUIRESSL": "1", "PGSSLMODE": "prefer"}, "PGSSLMODE PGREQUIRESSL"),
        ("//u:s3cr3t@h/db?sslmode=verify-full&hostaddr=::1", {}, "hostaddr"),
        ("//u:s3cr3t@/db?host=/tmp&sslmode=require", {}, "socket"),
        ("//u@h/db", {"PGSSLMODE": "require", "PGSSLROOTCERT": "/no/ca.pem"}, "PGSSLROOTCERT"),
        ("//u:s3cr3t@h/db?sslmode=verify-full&sslrootcert=/dev/null", {}, "/dev/null certificate"),
        ("//u@h/db", {"PGSSLKEY": "-----BEGIN KEY\ns3cr3t", "PGSSLCERT": ""}, "PGSSLKEY sslcert"),
        ("//u:s3cr3t@h/db?search_path=wiki", {}, "search_path"),
        ("//u:s3cr3t@h/db?statement-cache-capacity=0", {}, "statement-cache-capacity"),
        ("//u@h/db", {"PGPASSWORD": "s3cr3t\r"}, "PGPASSWORD"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_obeyed_is_refused_in_one_line(
    program: Path, url: str, variables: dict[str, str], words: str
) -> None:
    variables = {"DATABASE_URL": f"postgres:{url}", "STARTUP_TIMEOUT_SECONDS": "1"} | variables
    refused = run(program, "migrate", **variables)
    assert refused.returncode not in (0, 101)
    said = refused.stdout + refused.stderr
    assert len(said.splitlines()) == 1, said
    for word in words.split(" "):
        assert word in said
    assert "s3cr3t" not in said


@pytest.mark.parametrize(
    "url",
    [
        "postgres://user:PART/s3cr3t@127.0.0.1:1/db",
        "postgres://user:PART@s3cr3t/s3cr3t@127.0.0.1:1/db",
        "postgres://user:s3cr3t@PART/s3cr3t@127.0.0.1:1/db",
        "postgres://user:s3cr3t?PART=s3cr3t@127.0.0.1:1/db",
        "postgres://user:s3cr3t@s3cr3t?PART&PART=s3cr3t@127.0.0.1:1/db",
        "postgres://user:1234/s3cr3t@127.0.0.1:1/db",
        "host=127.0.0.1 user=user password=s3cr3t:PART",
        "postgres://user:s3cr3t@h:PART/db",
        "postgres://user:s3cr3t@[PART/db",
        "postgres://user:s3cr3t@127.0.0.1/db?sslmode=PART",
    ],
)
def test_no_part_of_a_password_is_shown(program: Path, url: str) -> None:
    refused = run(program, "migrate", STARTUP_TIMEOUT_SECONDS="1", DATABASE_URL=url)
    said = refused.stdout + refused.stderr
    assert refused.returncode not in (0, 101)
    assert "DATABASE_URL" in said
    assert "s3cr3t" not in said
    assert "PART" not in said


def test_libpqs_variables_do_not_matter_to_sqlite(program: Path, tmp_path: Path) -> None:
    bad = {"PGPORT": "tcp://", "PGSSLMODE": "x", "PGHOST": "a,b", "PGREQUIREAUTH": "none"}
    bad["PGPASSWORD"] = "s3cr3t\r"
    done = run(program, "migrate", cwd=tmp_path, **bad)
    assert done.returncode == 0, done.stdout + done.stderr


def failed_start(program: Path, **variables: str) -> str:
    """The last message of a start that has timed out waiting."""
    failed = run(
        program,
        cwd=Path("/"),
        PORT=str(free_port()),
        STARTUP_TIMEOUT_SECONDS="2",
        **variables,
    )
    assert failed.returncode not in (0, 101)
    last = failed.stderr.splitlines()[-1]
    assert "gave up after 2s" in last
    return last


def test_a_failed_start_ends_with_the_cause(program: Path, tmp_path: Path) -> None:
    port = free_port()
    refused = failed_start(program, DATABASE_URL=f"postgres://u@127.0.0.1:{port}/db")
    assert "refused" in refused
    missing = failed_start(program, DATABASE_URL=f"postgres://u@/db?host={tmp_path}")
    assert "No such file" in missing
    assert f"{tmp_path}/.s.PGSQL.5432" in missing
    no_folder = run(program, DATABASE_URL="postgres://u@/db?host=/dev/null", PORT=str(port))
    assert "Not a directory" in no_folder.stderr, "it waits for what waiting does not cure"
    unknown = failed_start(program, DATABASE_URL="postgres://u@nowhere.invalid/db")
    assert re.search(r"name|resol|lookup", unknown.split("gave up")[1]), unknown
    url = f"sqlite://{tmp_path}/wiki.db"
    assert run(program, "migrate", DATABASE_URL=url).returncode == 0
    with sqlite3.connect(tmp_path / "wiki.db", isolation_level=None) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        locked = failed_start(program, DATABASE_URL=url)
    other.close()
    assert "locked" in locked


def test_what_postgresql_adds_to_an_error_is_logged(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    service = start_service(postgres_database)
    postgres_database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
        "'closed' USING DETAIL = 'It is Sunday.', HINT = E'Come back\non Monday.'; END $$; "
        "CREATE TRIGGER refuse BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    answer = service.client.post("/users", json={"name": "Ada"})
    problem(answer, 500)
    assert "Sunday" not in answer.text
    wait_until(
        lambda: "closed DETAIL: It is Sunday. HINT: Come back on Monday." in service.text,
        "the error with its detail and hint",
    )


@pytest.fixture
def folder_of_nobody() -> Iterator[tuple[Path, str]]:
    """A folder for files that a user without privileges may read, and that user, for `run`."""
    folder = Path(tempfile.mkdtemp(prefix="wiki-test-"))
    user = ""
    if os.geteuid() == 0:
        user = "nobody"
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    yield folder, user
    folder.chmod(0o700)
    shutil.rmtree(folder)


def refused_by_sqlite(program: Path, user: str, file: Path) -> str:
    start = time.monotonic()
    refused = run(program, user=user, DATABASE_URL=f"sqlite://{file}", PORT=str(free_port()))
    assert refused.returncode not in (0, 101)
    assert time.monotonic() - start < 5, "it waits for what waiting does not cure"
    return refused.stderr


def test_a_folder_that_cannot_be_written_is_refused_at_once(
    program: Path, folder_of_nobody: tuple[Path, str]
) -> None:
    folder, user = folder_of_nobody
    file = folder / "wiki.db"
    assert run(program, "migrate", user=user, DATABASE_URL=f"sqlite://{file}").returncode == 0
    folder.chmod(0o500)
    assert str(file) in refused_by_sqlite(program, user, file)
    folder.chmod(0o700)
    (folder / "wiki.db-lock").unlink(missing_ok=True)
    folder.chmod(0o500)
    assert str(file) in refused_by_sqlite(program, user, file)


@pytest.mark.parametrize("command", [(), ("migrate",)])
def test_a_start_that_fails_leaves_nothing_beside_the_file(
    program: Path, sqlite_database: SqliteDatabase, command: tuple[str, ...]
) -> None:
    """Like a file of root's: later processes could not write to what it has left."""
    sqlite_database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, nam TEXT)")
    port = str(free_port())
    for _ in range(8):
        failed = run(program, *command, **sqlite_database.environment, PORT=port)
        assert failed.returncode == 1
        assert "no column name" in failed.stderr
        found = {path.name for path in sqlite_database.path.parent.iterdir()}
        assert not found & {"wiki.db-wal", "wiki.db-shm"}


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-lock"])
def test_a_sqlite_file_that_cannot_be_written_is_named(
    program: Path, folder_of_nobody: tuple[Path, str], suffix: str
) -> None:
    """As when root has created the files next to it."""
    folder, user = folder_of_nobody
    file = folder / "wiki.db"
    assert run(program, "migrate", user=user, DATABASE_URL=f"sqlite://{file}").returncode == 0
    with sqlite3.connect(file, isolation_level=None) as visitor:
        visitor.execute("PRAGMA journal_mode = WAL")
        visitor.execute("CREATE TABLE IF NOT EXISTS visits (at text)")
        foreign = file.with_name(file.name + suffix)
        os.chown(foreign, os.geteuid(), -1)
        foreign.chmod(0o444)
        assert f"{foreign}: " in refused_by_sqlite(program, user, file)
    visitor.close()


def test_the_lock_of_a_start_is_not_on_the_database(
    program: Path, sqlite_database: SqliteDatabase
) -> None:
    """Where SQLite's locks and `flock` interact (macOS, NFS), it would lock SQLite out."""
    assert run(program, "migrate", **sqlite_database.environment).returncode == 0
    with sqlite_database.path.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run(program, "migrate", STARTUP_TIMEOUT_SECONDS="2", **sqlite_database.environment)
    assert done.returncode == 0, done.stderr
    with sqlite_database.path.with_name("wiki.db-lock").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waits = run(program, "migrate", STARTUP_TIMEOUT_SECONDS="1", **sqlite_database.environment)
    assert "another process" in waits.stderr


def test_blanks_and_a_carriage_return_are_no_part_of_a_value(program: Path, tmp_path: Path) -> None:
    """As in an env file from Windows."""
    done = run(program, "migrate", cwd=tmp_path, DATABASE_URL=" sqlite://wiki.db \r", RUST_LOG="\r")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "wiki.db").exists()
    assert run(program, cwd=tmp_path, PORT="http\r").stderr.startswith('wiki-service: PORT="http"')
