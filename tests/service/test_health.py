"""Probes, and the order of startup."""

import contextlib
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from support.api import create_user, problem
from support.databases import PASSWORD, Database, Postgres, PostgresDatabase, SqliteDatabase
from support.net import NO_CAS, TcpProxy, free_port
from support.service import Service, StartService, environment
from support.wait import wait_until


def test_all_is_well(api: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/healthz"):
        assert api.get(path).status_code == 200


def test_the_socket_is_there_before_the_database(
    own_postgres: Postgres, start_service: StartService
) -> None:
    database = own_postgres.create_database()
    own_postgres.stop()
    service = start_service(database, until="listening")
    assert service.client.get("/healthz").status_code == 200
    problem(service.client.get("/readyz"), 503)
    answer = service.client.post("/users", json={"name": "early"})
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1, "nothing was sent: a retry is safe"
    problem(service.client.get("/users/1"), 503)
    assert service.client.get("/metrics").status_code == 200
    wait_until(lambda: "database" in service.text, "a line that says what it waits for")
    assert str(own_postgres.port) in service.text
    assert PASSWORD not in service.text
    own_postgres.start()
    service.wait_until_ready()
    assert create_user(service.client)["id"] == 1


@pytest.mark.parametrize("fault", ["refused", "silent", "stopped"])
def test_it_waits_for_the_database_for_a_bounded_time(
    own_postgres: Postgres, start_service: StartService, fault: str
) -> None:
    database = own_postgres.create_database()
    proxy = TcpProxy(own_postgres.port)
    {"refused": proxy.refuse, "silent": proxy.silence, "stopped": own_postgres.pause}[fault]()
    settings = database.environment_at(proxy.port)
    start = time.monotonic()
    service = start_service(until="listening", STARTUP_TIMEOUT_SECONDS=2, **settings)
    assert service.wait_for_end() != 0
    assert 1.5 < time.monotonic() - start < 10
    last = service.text.splitlines()[-1]
    assert str(proxy.port) in last, "the last line should say which database"
    assert "2s" in last, "the last line should say how long it has waited"
    assert PASSWORD not in service.text
    waiting = len(service.text.splitlines())
    assert waiting < 20, f"{waiting} lines in two seconds: it does not back off"
    proxy.close()


def test_a_start_outlives_a_silence_in_its_middle(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    """A statement has been sent, whose answer never comes."""
    assert start_service(postgres_database).terminate() == 0
    proxy = TcpProxy(postgres_database.server.port)
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with postgres_database.connect() as other, other.transaction():
        other.execute("LOCK TABLE seaql_migrations")
        settings = postgres_database.environment_at(proxy.port)
        service = start_service(until="nothing", DATABASE_STATEMENT_TIMEOUT_SECONDS=3, **settings)
        wait_until(lambda: postgres_database.execute(waits), "a statement of the start")
        proxy.silence()
    wait_until(lambda: "no answer within 3.1s" in service.text, "the end of its time")
    proxy.restore()
    service.wait_until_ready()
    proxy.close()


def test_it_waits_for_another_replicas_migration_for_a_bounded_time(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    """Or for one that hangs, simulated by a lock on the table of migrations."""
    assert start_service(postgres_database).terminate() == 0
    with postgres_database.connect() as other, other.transaction():
        other.execute("LOCK TABLE seaql_migrations")
        start = time.monotonic()
        service = start_service(postgres_database, until="listening", STARTUP_TIMEOUT_SECONDS=2)
        problem(service.client.get("/readyz"), 503)
        assert service.wait_for_end() != 0
        assert time.monotonic() - start < 10
    again = start_service(postgres_database)
    assert create_user(again.client)


def test_a_start_that_waits_for_anothers_migration_in_vain_says_so(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    with postgres_database.connect() as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(x'77696b69'::int)")
        service = start_service(postgres_database, until="nothing", STARTUP_TIMEOUT_SECONDS=2)
        assert service.wait_for_end() == 1
    last = service.text.splitlines()[-1]
    assert "gave up after 2s: another process is changing the schema" in last


@pytest.fixture
def slow_schema(own_postgres: Postgres) -> PostgresDatabase:
    """Where creating the tables takes some seconds, as rewriting large ones does."""
    database = own_postgres.create_database()
    database.execute(
        "CREATE FUNCTION sleep() RETURNS event_trigger LANGUAGE plpgsql "
        "AS 'BEGIN PERFORM pg_sleep(1.5); END'"
    )
    database.execute(
        "CREATE EVENT TRIGGER sleep ON ddl_command_start WHEN TAG IN ('CREATE TABLE') "
        "EXECUTE FUNCTION sleep()"
    )
    return database


def is_in_the_middle(database: PostgresDatabase) -> bool:
    return bool(database.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))


def test_a_long_migration_is_not_cut(
    slow_schema: PostgresDatabase, start_service: StartService
) -> None:
    service = start_service(slow_schema, STARTUP_TIMEOUT_SECONDS=2)
    assert create_user(service.client)["id"] == 1


@pytest.mark.parametrize("fault", ["frozen", "cut off"])
def test_a_migration_ends_when_the_database_falls_silent(
    slow_schema: PostgresDatabase, start_service: StartService, fault: str
) -> None:
    proxy = TcpProxy(slow_schema.server.port)
    settings = slow_schema.environment_at(proxy.port)
    service = start_service(until="nothing", STARTUP_TIMEOUT_SECONDS=2, **settings)
    wait_until(lambda: is_in_the_middle(slow_schema), "the migration to begin")
    {"frozen": slow_schema.server.pause, "cut off": proxy.silence}[fault]()
    assert service.wait_for_end(20) == 1
    assert "2s" in service.text.splitlines()[-1]
    proxy.close()


def test_a_busy_database_is_there(own_postgres: Postgres, start_service: StartService) -> None:
    """But a silent one is not, however busy it was."""
    database = own_postgres.create_database()
    service = start_service(database, DATABASE_POOL_SIZE=2, DATABASE_STATEMENT_TIMEOUT_SECONDS=60)
    user = create_user(service.client)
    database.execute(
        "ALTER TABLE users RENAME TO fast; CREATE VIEW users AS "
        "SELECT fast.* FROM fast, LATERAL (SELECT pg_sleep(0.3) WHERE fast.id > 0) AS slow"
    )
    over = threading.Event()
    statuses: set[int] = set()

    def read() -> None:
        while not over.is_set():
            with contextlib.suppress(httpx.TransportError):
                url = f"{service.url}/users/{user['id']}"
                statuses.add(httpx.get(url, timeout=90, verify=NO_CAS).status_code)

    def is_ready() -> bool:
        return service.client.get("/readyz").status_code == 200

    def backends() -> int:
        return len(
            database.execute("SELECT 1 FROM pg_stat_activity WHERE application_name ~ 'wiki'")
        )

    with ThreadPoolExecutor(16) as clients:
        try:
            for _ in range(16):
                clients.submit(read)
            wait_until(lambda: 503 in statuses, "the pool to be too small")
            for _ in range(20):
                assert is_ready()
                assert backends() <= 2
            own_postgres.pause()
            wait_until(lambda: not is_ready(), "the silence to be noticed")
        finally:
            over.set()
            own_postgres.resume()
    assert statuses == {200, 503}
    service.wait_until_ready()


def probe(program: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, "healthcheck"],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "::1"])
def test_healthcheck_of_a_healthy_service(
    program: Path, sqlite_database: SqliteDatabase, start_service: StartService, address: str
) -> None:
    host = "::1" if address == "::1" else "127.0.0.1"
    service = start_service(sqlite_database, host=host, LISTEN_ADDRESS=address)
    check = probe(program, LISTEN_ADDRESS=address, PORT=str(service.port))
    assert check.returncode == 0, check.stderr


def test_healthcheck_where_nothing_listens(program: Path) -> None:
    check = probe(program, PORT=str(free_port()))
    assert check.returncode == 1
    assert check.stdout + check.stderr


def test_healthcheck_of_a_service_without_its_database(
    program: Path, own_postgres: Postgres, start_service: StartService
) -> None:
    service = start_service(own_postgres.create_database())
    assert probe(program, PORT=str(service.port)).returncode == 0
    own_postgres.stop()
    wait_until(
        lambda: probe(program, PORT=str(service.port)).returncode == 1, "healthcheck to exit 1"
    )


def test_healthcheck_does_not_wait_for_ever(program: Path) -> None:
    """Like a service stopped by SIGSTOP, which accepts connections but never answers."""
    proxy = TcpProxy(free_port())
    proxy.silence()
    start = time.monotonic()
    assert probe(program, PORT=str(proxy.port)).returncode == 1
    assert time.monotonic() - start < 15
    proxy.close()


def test_readiness_needs_no_write(database: Database, start_service: StartService) -> None:
    service: Service = start_service(database)
    with database.writes_blocked():
        assert service.client.get("/readyz").status_code == 200
