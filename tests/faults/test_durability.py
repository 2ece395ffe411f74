"""What was acknowledged is there, whatever happened afterwards."""

import os
import random
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.api import at_once, create_user, timed
from support.databases import Database, Postgres, SqliteDatabase
from support.disk import small_disk
from support.figures import Figures
from support.ledger import Ledger
from support.net import free_port
from support.service import StartService
from support.wait import wait_until


@dataclass
class Disk:
    database: Database
    make_room: Callable[[], object]


def test_kill_9_of_the_service(
    database: Database,
    start_service: StartService,
    ledger: Ledger,
    figures: Figures,
    chance: random.Random,
    long: bool,
) -> None:
    kills = 100 if long else 3
    settings = {"PORT": free_port(), "RUST_LOG": "warn"}
    service = start_service(database, **settings)
    with ledger.writers(service):
        for kill in range(kills):
            ledger.wait_for_more(chance.randint(1, 500 if long else 100))
            service.kill()
            if kill % 10 == 9:
                figures.progress(f"{kill + 1} of {kills} kills")
            service = start_service(database, **settings)
        ledger.wait_for_more(100)
    figures.report(f"{kills} kills, {ledger.settle(database)}")
    for user_id, name in list(ledger.acknowledged.items())[:: kills * 2]:
        assert service.client.get(f"/users/{user_id}").json()["name"] == name
    assert create_user(service.client)["id"] > max(ledger.acknowledged)
    if isinstance(database, SqliteDatabase):
        assert database.execute("PRAGMA integrity_check") == [("ok",)]


def test_two_processes_on_one_sqlite_file(
    sqlite_database: SqliteDatabase,
    start_service: StartService,
    ledger: Ledger,
    figures: Figures,
    long: bool,
) -> None:
    """One of them is killed halfway. SQLite lets writers of two processes in by chance: some wait
    too long, but nothing is lost."""
    writes = 20_000 if long else 500
    settings = {"RUST_LOG": "warn"}
    first, second = (start_service(sqlite_database, **settings) for _ in range(2))
    with ledger.writers(first, second, clients=4):
        ledger.wait_for_more(writes)
        first.kill()
        ledger.wait_for_more(writes // 10)
    assert set(ledger.statuses) <= {201, 503}
    delayed = ledger.statuses[503]
    figures.report(f"{ledger.settle(sqlite_database)}, {delayed} answered with 503")
    assert delayed < len(ledger.acknowledged) / 4
    assert sqlite_database.execute("PRAGMA integrity_check") == [("ok",)]


def test_a_sqlite_file_locked_by_another_process(
    sqlite_database: SqliteDatabase, start_service: StartService, ledger: Ledger, figures: Figures
) -> None:
    service = start_service(sqlite_database)
    with ledger.writers(service):
        ledger.wait_for_more(100)
        user_id = min(ledger.acknowledged)
        with sqlite_database.writes_blocked():
            failures = ledger.statuses[503]
            wait_until(lambda: ledger.statuses[503] > failures + 16, "writes to be given up")
            assert service.client.get(f"/users/{user_id}").status_code == 200, "reads continue"
        ledger.wait_for_more(100)
    assert set(ledger.statuses) == {201, 503}
    assert ledger.slowest < 2.5
    figures.report(f"{ledger.settle(sqlite_database)}, slowest answer {ledger.slowest:.1f} s")


def test_a_clock_set_back(
    database: Database,
    start_service: StartService,
    ledger: Ledger,
    figures: Figures,
    tmp_path: Path,
) -> None:
    """libfaketime sits between the service and the wall clock. Time limits use the monotonic clock,
    which nobody can set back."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    assert library, "no libfaketime (Debian: apt-get install faketime)"
    clock = tmp_path / "clock"
    clock.write_text("+0")
    service = start_service(
        database,
        LD_PRELOAD=library,
        FAKETIME_TIMESTAMP_FILE=clock,
        FAKETIME_NO_CACHE=1,
        FAKETIME_DONT_FAKE_MONOTONIC=1,
    )
    last_id, off = 0, timedelta(0)
    with ledger.writers(service):
        for days in (0, -1, 1, -3650, 3650, 0):
            clock.write_text(f"{days:+d}d")
            ledger.wait_for_more(50)
            user = create_user(service.client, ledger.new_name())
            ledger.acknowledged[user["id"]] = user["name"]
            off = datetime.fromisoformat(user["created_time"]).replace(tzinfo=UTC) - datetime.now(
                UTC
            )
            assert abs(off - timedelta(days=days)) < timedelta(minutes=1), "not the clock's time"
            assert user["id"] > last_id
            assert service.client.get(f"/users/{user['id']}").json() == user
            last_id = user["id"]
    assert set(ledger.statuses) == {201}
    assert ledger.slowest < 2.5
    figures.report(f"10 years back and forth, {ledger.settle(database)}")


def test_sqlite_writes_ahead(sqlite_database: SqliteDatabase, start_service: StartService) -> None:
    create_user(start_service(sqlite_database).client)
    assert sqlite_database.execute("PRAGMA journal_mode") == [("wal",)]


def test_sqlite_syncs_every_commit(
    sqlite_database: SqliteDatabase, start_service: StartService, tmp_path: Path
) -> None:
    """synchronous=FULL, as seen by the kernel: only what was synced survives a power cut."""
    calls = tmp_path / "syncs"
    strace = ("strace", "-D", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(calls))
    service = start_service(sqlite_database, wrapper=strace)

    def syncs() -> int:
        return calls.read_text().count("sync(") if calls.exists() else 0

    before = syncs()
    for _ in range(20):
        create_user(service.client)
    assert service.terminate() == 0
    assert syncs() - before >= 20


def test_sqlite_readers_and_writers_do_not_fail_each_other(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database)
    user = create_user(service.client)
    for _ in range(5):
        answers = at_once(
            16,
            lambda number: (
                timed(service.client, "POST", "/users", json={"name": "x"})
                if number % 2
                else timed(service.client, "GET", f"/users/{user['id']}")
            ),
        )
        assert {answer.status for answer in answers} == {200, 201}


def test_sqlite_waits_for_another_program(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    """busy_timeout: a backup or a shell on the file delays a write, but does not make it fail."""
    service = start_service(sqlite_database)
    create_user(service.client)
    with ThreadPoolExecutor(1) as pool:
        with sqlite_database.writes_blocked():
            pending = pool.submit(create_user, service.client)
            with pytest.raises(TimeoutError):
                pending.result(timeout=0.2)
        assert pending.result()["id"] == 2


def test_a_file_that_is_no_database_is_refused(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    sqlite_database.path.write_bytes(b"not a database, but a letter" * 100)
    service = start_service(sqlite_database, until="nothing")
    assert service.wait_for_end() not in (0, 101)
    assert str(sqlite_database.path) in service.text
    with pytest.raises(sqlite3.DatabaseError):
        sqlite_database.execute("SELECT 1 FROM users")


@pytest.fixture(params=["sqlite", "postgresql"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    if request.param == "sqlite":
        path = tmp_path / "small"
        path.mkdir()
        with small_disk(path, "1m") as enlarge:
            yield Disk(SqliteDatabase(path / "wiki.db"), lambda: enlarge("64m"))
    else:
        server: Postgres = request.getfixturevalue("own_postgres")
        database = server.create_database()
        server.stop()

        def room() -> None:
            enlarge("512m")
            # It exits when there is no room for its WAL: its supervisor restarts it.
            if server.process.poll() is not None:
                server.start()

        with small_disk(server.data, "80m") as enlarge:
            server.start()
            yield Disk(database, room)
            server.stop()


def test_a_full_disk(
    disk: Disk, start_service: StartService, ledger: Ledger, figures: Figures
) -> None:
    service = start_service(disk.database)
    with ledger.writers(service, clients=4):
        ledger.wait_for_more(10)
        while not ledger.statuses[503]:
            # Incompressible for any database.
            content = secrets.token_hex(40_000)
            body = {"user_id": min(ledger.acknowledged), "content": content}
            assert service.client.post("/posts", json=body).status_code in (201, 503)
        wait_until(lambda: ledger.statuses[503] > 20, "more of the same")
        assert service.client.get("/livez").status_code == 200
        disk.make_room()
        ledger.wait_for_more(100)
    assert set(ledger.statuses) == {201, 503}
    figures.report(f"{ledger.statuses[503]:,} answered with 503, {ledger.settle(disk.database)}")
    assert service.terminate() == 0
