"""What was acknowledged is there, whatever happened after."""

import os
import sqlite3
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from support.api import at_once, create_user, timed
from support.databases import Database, SqliteDatabase
from support.service import StartService
from support.wait import wait_until


def test_kill_9_under_load(database: Database, start_service: StartService) -> None:
    service = start_service(database)
    acknowledged: dict[int, str] = {}
    killed = threading.Event()

    def client(number: int) -> None:
        with httpx.Client(base_url=service.url, timeout=30) as http:
            count = 0
            while not killed.is_set():
                count += 1
                name = f"{number} {count}"
                try:
                    answer = http.post("/users", json={"name": name})
                except httpx.TransportError:
                    return
                if answer.status_code == 201:
                    acknowledged[answer.json()["id"]] = name

    with ThreadPoolExecutor(4) as pool:
        clients = pool.map(client, range(4))
        wait_until(lambda: len(acknowledged) > 200, "two hundred users", seconds=60)
        service.kill()
        killed.set()
        list(clients)
    again = start_service(database)
    for user_id, name in acknowledged.items():
        assert again.client.get(f"/users/{user_id}").json()["name"] == name
    assert create_user(again.client)["id"] > max(acknowledged)
    if isinstance(database, SqliteDatabase):
        assert database.execute("PRAGMA integrity_check") == [("ok",)]


def test_sqlite_writes_ahead(sqlite_database: SqliteDatabase, start_service: StartService) -> None:
    create_user(start_service(sqlite_database).client)
    assert sqlite_database.execute("PRAGMA journal_mode") == [("wal",)]


def test_sqlite_syncs_every_commit(
    sqlite_database: SqliteDatabase, start_service: StartService, tmp_path: Path
) -> None:
    """synchronous=FULL, as the kernel sees it: what survives a power cut is what was synced."""
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
    """busy_timeout: a backup or a shell on the file delays a write, it does not fail it."""
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_under_sqlite(start_service: StartService, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small], check=True)
    try:
        database = SqliteDatabase(small / "wiki.db")
        service = start_service(database)
        user = create_user(service.client)
        body = {"user_id": user["id"], "content": "x" * 9000}
        answers = [service.client.post("/posts", json=body) for _ in range(60)]
        acknowledged = [answer.json()["post_id"] for answer in answers if answer.status_code == 201]
        assert {answer.status_code for answer in answers} == {201, 503}
        assert database.execute("SELECT post_id FROM posts") == [(id_,) for id_ in acknowledged]
        assert service.client.get(f"/posts/{acknowledged[-1]}").status_code == 200
        assert service.terminate() == 0
    finally:
        # by now, or a failed test's service still has files open
        subprocess.run(["umount", "--lazy", small], check=True)
