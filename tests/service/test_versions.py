"""This version and the previous one on the same database, at once and after each other."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from support import databases
from support.api import create_post, create_user
from support.databases import PASSWORD, USER, Database, PostgresDatabase, SqliteDatabase
from support.service import ROOT, Service, StartService

PAGE = ROOT / "docs/configuration.md"


@pytest.fixture
def other(tmp_path: Path, database: Database) -> Database:
    """A second, empty database of the same kind."""
    if isinstance(database, SqliteDatabase):
        return SqliteDatabase(tmp_path / "other.db")
    return database.server.create_database()


def fill(service: Service) -> dict[str, str]:
    """Writes a user and a post. Their paths, and what is read there."""
    user = create_user(service.client, name="Ada")["id"]
    post = create_post(service.client, user, content="Notes")["post_id"]
    return read(service, [f"/users/{user}", f"/posts/{post}"])


def read(service: Service, paths: list[str]) -> dict[str, str]:
    return {path: service.client.get(path).raise_for_status().text for path in paths}


def test_both_versions_serve_one_database_at_once(
    database: Database, start_service: StartService, previous: Path
) -> None:
    old = start_service(database, version=previous)
    before = fill(old)
    new = start_service(database)
    assert read(new, [*before]) == before
    written = {**fill(old), **fill(new)}
    assert read(old, [*written]) == read(new, [*written]) == written


def test_the_previous_version_comes_back_after_a_rollback(
    database: Database, start_service: StartService, previous: Path
) -> None:
    new = start_service(database)
    written = fill(new)
    new.terminate()
    old = start_service(database, version=previous)
    assert read(old, [*written]) == written
    fill(old)


@pytest.mark.parametrize("direction", ["from the previous version", "to the previous version"])
def test_a_backup_is_served_by_the_other_version(
    database: Database,
    other: Database,
    start_service: StartService,
    program: Path,
    previous: Path,
    direction: str,
) -> None:
    versions = [previous, program]
    if direction.startswith("to"):
        versions.reverse()
    first = start_service(database, version=versions[0])
    written = fill(first)
    copy(database, other)
    second = start_service(other, version=versions[1])
    assert read(second, [*written]) == written
    fill(second)


def copy(source: Database, target: Database) -> None:
    """A backup of a database in use, as on the page, restored into an empty database."""
    if isinstance(source, SqliteDatabase):
        assert isinstance(target, SqliteDatabase)
        documented = re.search(r'^sqlite3 -readonly wiki.db "(.*)"$', PAGE.read_text(), re.M)
        assert documented
        source.execute(documented[1].replace("backup.db", str(target.path)))
        return
    assert isinstance(target, PostgresDatabase)
    connection = ["--host", source.server.host, "--port", str(source.server.port), "-U", USER]
    environment = os.environ | {"PGPASSWORD": PASSWORD}
    dump = subprocess.run(
        [databases.program("pg_dump"), *connection, source.name],
        check=True,
        capture_output=True,
        env=environment,
    ).stdout
    subprocess.run(
        [databases.program("psql"), *connection, "--set=ON_ERROR_STOP=1", "--quiet", target.name],
        check=True,
        input=dump,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
