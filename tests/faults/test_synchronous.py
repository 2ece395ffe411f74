"""A synchronous standby that is down: commits wait for it, whatever `statement_timeout` says."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support import tokens
from support.api import Answer, create_post, create_user, problem, timed
from support.databases import Postgres, PostgresDatabase
from support.editing import history, put, tag
from support.ledger import Ledger
from support.service import StartService
from support.tokens import Issuer, as_
from support.wait import wait_until

LIMIT = 2.5
POOL = 8
OURS = "FROM pg_stat_activity WHERE application_name = 'wiki-service'"
WAITING = f"{OURS} AND wait_event = 'SyncRep'"


@contextlib.contextmanager
def no_standby(server: Postgres) -> Iterator[None]:
    """Until the block ends, commits wait for a standby that does not exist."""
    set_standbys(server, "ANY 1 (absent)")
    yield
    set_standbys(server, "")


def set_standbys(server: Postgres, names: str) -> None:
    with server.connect("postgres") as connection:
        connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        connection.execute("SELECT pg_reload_conf()")

    def known() -> bool:
        with server.connect("postgres") as connection:
            return connection.execute("SHOW synchronous_standby_names").fetchone() == (names,)

    wait_until(known, "the setting to be read")
    with server.connect("postgres") as connection:
        # its process tells the others before it does this
        connection.execute("CHECKPOINT")


@pytest.fixture
def database(own_postgres: Postgres) -> PostgresDatabase:
    return own_postgres.create_database()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


def test_writes_that_wait_in_vain_take_no_more_than_the_pool(
    database: PostgresDatabase, start_service: StartService, ledger: Ledger
) -> None:
    """Meanwhile reads are served, writes get a 503; all is well as soon as there is a standby."""
    service = start_service(database)
    backends: list[int] = []
    reads: list[Answer] = []
    with database.connect() as watcher, ledger.writers(service, clients=2 * POOL):
        ledger.wait_for_more(20)
        reading = (f"/users/{min(ledger.acknowledged)}", "/readyz")
        with no_standby(database.server):
            before = ledger.statuses[503]

            def long_enough() -> bool:
                found = watcher.execute(f"SELECT count(*) {OURS}").fetchone()
                backends.extend(found or ())
                reads.extend(timed(service.client, "GET", path) for path in reading)
                return ledger.statuses[503] - before > 6 * POOL

            wait_until(long_enough, "many writes to fail", seconds=60)
        service.wait_until_ready()
        ledger.wait_for_more(20)
    assert max(backends) <= POOL, f"{max(backends)} backends of one replica"
    assert {read.status for read in reads} == {200}
    assert max(read.seconds for read in reads) < LIMIT
    assert set(ledger.statuses) == {201, 503}
    assert ledger.slowest < LIMIT, f"a request was held for {ledger.slowest:.1f} s"
    assert ledger.open, "no write was sent, so nothing is shown"
    ledger.settle(database)


@pytest.mark.parametrize(
    ("path", "log", "end"),
    [("/users", "info", "cancel"), ("/posts", "error", "cancel"), ("/posts", "info", "terminate")],
)
def test_a_write_whose_wait_was_ended_is_not_acknowledged(
    database: PostgresDatabase, start_service: StartService, path: str, log: str, end: str
) -> None:
    """To the server it is a success, with a warning: committed here, and maybe nowhere else."""
    # a session that gets no warnings, and a row too long for the server's buffer
    database.execute("ALTER ROLE wiki SET client_min_messages = error")
    service = start_service(database, RUST_LOG=log, DATABASE_STATEMENT_TIMEOUT_SECONDS=20)
    user = create_user(service.client)
    bodies = {
        "/users": {"name": "Grace"},
        "/posts": {"user_id": user["id"], "content": "x" * 100_000},
    }
    with no_standby(database.server), ThreadPoolExecutor(1) as pool:
        pending = pool.submit(service.client.post, path, json=bodies[path])
        wait_until(lambda: database.execute(f"SELECT 1 {WAITING}"), "the commit to wait")
        database.execute(f"SELECT pg_{end}_backend(pid) {WAITING}")
        answer = pending.result()
    problem(answer, 503)
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("path", ["/users", "/posts"])
def test_a_repeat_waits_for_the_standby_that_the_first_try_did_not_wait_for(
    database: PostgresDatabase, start_service: StartService, path: str
) -> None:
    """Its row is visible, and may still be lost: reporting it would acknowledge it."""
    service = start_service(database)
    body = {"user_id": create_user(service.client)["id"], "content": "Notes", "name": "Grace"}

    def send(key: str) -> httpx.Response:
        return service.client.post(path, json=body, headers={"Idempotency-Key": key})

    wait_until(lambda: send("warm").status_code == 201, "the index that keys take")
    with no_standby(database.server):
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(send, "k")
            wait_until(lambda: database.execute(f"SELECT 1 {WAITING}"), "the commit to wait")
            database.execute(f"SELECT pg_cancel_backend(pid) {WAITING}")
            refused = pending.result()
        assert int(refused.headers["retry-after"]) >= 1, refused.text
        newest = service.client.get(path).json()[0]
        for key in ("k", "warm"):
            answer = send(key)
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
    answer = wait_until(lambda: (a := send("k")).status_code == 201 and a, "a standby").json()
    assert newest.items() & answer.items(), (newest, answer)
    assert service.client.get(path).json()[0] == newest


def test_a_text_that_is_there_already_waits_for_the_standby_that_its_edit_did_not_wait_for(
    database: PostgresDatabase, start_service: StartService
) -> None:
    """Like a repeat. What is refused is refused at once."""
    service = start_service(database, EDITING="anyone")
    client = service.client
    path = f"/posts/{create_post(client, create_user(client)['id'], 'first')['post_id']}"
    stale = tag(client, path)
    with no_standby(database.server):
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(put, client, path, "second", stale)
            wait_until(lambda: database.execute(f"SELECT 1 {WAITING}"), "the commit to wait")
            database.execute(f"SELECT pg_cancel_backend(pid) {WAITING}")
            problem(pending.result(), 503)
        current = client.get(path)
        assert current.json()["content"] == "second"
        for condition in ("*", current.headers["etag"]):
            problem(put(client, path, "second", condition), 503)
        problem(put(client, path, "second", stale), 412)
        problem(put(client, path, "second", None), 428)
        problem(put(client, "/posts/1000", "second"), 404)
    answer = put(client, path, "second")
    assert (answer.status_code, answer.headers["etag"]) == (200, current.headers["etag"])
    assert history(client, path) == [(2, "second"), (1, "first")]


def test_a_deletion_is_told_of_when_a_standby_has_it(
    database: PostgresDatabase, start_service: StartService
) -> None:
    """To whoever asks again, a 404 acknowledges the deletion."""
    with tokens.issuer() as issuer:
        service = start_service(database, EDITING="author", **issuer.variables)
        client = as_(service, issuer.token("ada"))
        paths = [f"/users/{create_user(client)['id']}"]
        wait_until(lambda: client.get(f"{paths[0]}/posts").status_code == 200, "the index")
        paths.insert(0, f"/posts/{create_post(client, int(paths[0][7:]))['post_id']}")
        for path in paths:
            with no_standby(database.server):
                with ThreadPoolExecutor(1) as pool:
                    pending = pool.submit(client.delete, path)
                    wait_until(lambda: database.execute(f"SELECT 1 {WAITING}"), "the commit")
                    database.execute(f"SELECT pg_cancel_backend(pid) {WAITING}")
                    problem(pending.result(), 503)
                problem(client.get(path), 404)
                problem(client.delete(path), 503)
            problem(client.delete(path), 404)


@pytest.mark.parametrize("write", ["set", "unset", "comment", "attachment", "picture"])
def test_what_was_done_before_is_acknowledged_when_a_standby_has_it(
    database: PostgresDatabase, start_service: StartService, issuer: Issuer, write: str
) -> None:
    """Like a repeat of a try that did not wait to the end: nothing is left for it to write."""
    service = start_service(database, EDITING="users", **issuer.variables)
    ada = as_(service, issuer.token("ada"))
    user = create_user(ada)["id"]
    post = create_post(ada, user)["post_id"]
    picture, reaction = f"/users/{user}/picture", f"/posts/{post}/reactions/heart"
    comment = ada.post(f"/posts/{post}/comments", json={"content": "Notes"}).json()
    attachment = ada.post(f"/posts/{post}/attachments", content=b"Notes").json()
    assert ada.put(picture, content=b"GIF89a").status_code == 201
    assert write == "set" or ada.put(reaction).status_code == 204
    method, path = {
        "set": ("PUT", reaction),
        "unset": ("DELETE", reaction),
        "comment": ("DELETE", f"/comments/{comment['comment_id']}"),
        "attachment": ("DELETE", f"/attachments/{attachment['attachment_id']}"),
        "picture": ("DELETE", picture),
    }[write]

    def send() -> httpx.Response:
        return ada.request(method, path)

    with no_standby(database.server):
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(send)
            wait_until(lambda: database.execute(f"SELECT 1 {WAITING}"), "the commit to wait")
            database.execute(f"SELECT pg_cancel_backend(pid) {WAITING}")
            problem(pending.result(), 503)
        problem(send(), 503)
        assert ada.get(f"/posts/{post}").status_code == 200
    answer = wait_until(lambda: (a := send()).status_code != 503 and a, "a standby")
    assert answer.status_code == (204 if path == reaction else 404)


def test_a_start_that_waits_for_a_standby_ends_at_its_limit(
    database: PostgresDatabase, start_service: StartService
) -> None:
    """The schema is committed, too."""
    with no_standby(database.server):
        service = start_service(database, until="", STARTUP_TIMEOUT_SECONDS=2)
        assert service.wait_for_end(20) == 1
        assert "gave up" in service.text


def test_a_stop_does_not_wait_for_a_standby(
    database: PostgresDatabase, start_service: StartService
) -> None:
    service = start_service(
        database, SHUTDOWN_GRACE_SECONDS=2, DATABASE_STATEMENT_TIMEOUT_SECONDS=60
    )
    with no_standby(database.server), ThreadPoolExecutor(1) as pool:
        pool.submit(service.client.post, "/users", json={"name": "Grace"})
        wait_until(lambda: database.execute(f"SELECT 1 {WAITING}"), "the commit to wait")
        service.terminate(seconds=10)
