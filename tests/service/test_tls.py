"""PostgreSQL over TLS, with a private CA."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from support.api import create_user
from support.databases import Postgres, PostgresDatabase
from support.service import StartService


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def database(postgres_template: Path, authority: trustme.CA) -> Iterator[PostgresDatabase]:
    """On a server that refuses plaintext, and whose certificate names only localhost."""
    server = Postgres(postgres_template)
    server.use_tls(authority.issue_cert("localhost"))
    server.start()
    yield server.create_database()
    server.remove()


def with_tls(database: PostgresDatabase, host: str, certificate: Path, mode: str) -> dict[str, str]:
    settings = database.environment_at(database.server.port, host)
    settings["DATABASE_URL"] += f"?sslmode={mode}&sslrootcert={certificate}"
    return settings


def test_verify_full(
    database: PostgresDatabase, certificate: Path, start_service: StartService
) -> None:
    service = start_service(**with_tls(database, "localhost", certificate, "verify-full"))
    create_user(service.client)
    encrypted = database.execute(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert encrypted
    assert set(encrypted) == {(True,)}


def refused(start_service: StartService, settings: dict[str, str]) -> str:
    start = time.monotonic()
    service = start_service(until="nothing", **settings)
    assert service.wait_for_end() not in (0, 101)
    assert time.monotonic() - start < 5, "it did not fail at once"
    *before, last = service.text.splitlines()
    assert all('"level":"INFO"' in line for line in before), "it is not reported in one line"
    return last


def test_another_authority_is_not_trusted(
    database: PostgresDatabase, tmp_path: Path, start_service: StartService
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    said = refused(start_service, with_tls(database, "localhost", other, "verify-full"))
    assert "certificate" in said.lower()


def test_another_host_name_is_not_trusted(
    database: PostgresDatabase, certificate: Path, start_service: StartService
) -> None:
    said = refused(start_service, with_tls(database, "127.0.0.1", certificate, "verify-full"))
    assert "certificate" in said.lower()


def test_a_missing_authority_is_named(
    database: PostgresDatabase, tmp_path: Path, start_service: StartService
) -> None:
    missing = tmp_path / "missing.pem"
    said = refused(start_service, with_tls(database, "localhost", missing, "verify-full"))
    assert "missing.pem" in said


def test_an_authority_that_is_named_is_asked(
    database: PostgresDatabase, certificate: Path, tmp_path: Path, start_service: StartService
) -> None:
    """`require` with a CA is `verify-ca`, as in libpq, and `system` is `verify-full`."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    start_service(**with_tls(database, "127.0.0.1", certificate, "require"))
    said = refused(start_service, with_tls(database, "127.0.0.1", other, "require"))
    assert "certificate" in said.lower()
    by_variables = database.environment | {"PGSSLMODE": "require", "PGSSLROOTCERT": str(other)}
    assert "certificate" in refused(start_service, by_variables).lower()

    system = {"PGSSLROOTCERT": "system", "SSL_CERT_FILE": str(certificate)}
    by_name = database.environment_at(database.server.port, "localhost")
    start_service(**by_name, **system)
    assert "certificate" in refused(start_service, database.environment | system).lower()
    by_name["DATABASE_URL"] += "?sslrootcert=system"
    assert "certificate" in refused(start_service, by_name).lower(), "ours is not the system's"
    missing = by_name | {"SSL_CERT_FILE": "/no/store.pem"}
    assert "/no/store.pem" in refused(start_service, missing)


def test_a_server_without_tls_is_not_spoken_to(
    postgres_database: PostgresDatabase, certificate: Path, start_service: StartService
) -> None:
    said = refused(
        start_service, with_tls(postgres_database, "localhost", certificate, "verify-full")
    )
    assert "tls" in said.lower()
