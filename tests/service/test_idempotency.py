"""Repeatable writes: `Idempotency-Key`."""

import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.api import create_post, create_user, errors, problem
from support.databases import Database, Postgres, PostgresDatabase, SqliteDatabase
from support.service import Service, StartService, metrics
from support.wait import wait_until

HEADER = "Idempotency-Key"
POINTER = f"#/header/{HEADER}"
_numbers = itertools.count()


def new_key() -> str:
    return f"key-{next(_numbers)}"


def post(client: httpx.Client, path: str, key: str | bytes, **body: Any) -> httpx.Response:
    """With a key. Its index may still be being built: then the client is told to retry."""

    def answer() -> httpx.Response | None:
        answer = client.post(path, json=body, headers={HEADER: key})
        if answer.status_code == 503:
            assert answer.headers["retry-after"], answer.text
            return None
        return answer

    return wait_until(answer, "an answer to a request with a key")


@pytest.fixture(params=["/users", "/posts"])
def path(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def body(api: httpx.Client, path: str) -> dict[str, Any]:
    return body_for(api, path)


def body_for(client: httpx.Client, path: str) -> dict[str, Any]:
    if path == "/users":
        return {"name": "Ada"}
    return {"user_id": create_user(client)["id"], "content": "Notes"}


def as_one(answers: list[httpx.Response]) -> httpx.Response:
    """All of them get the same 201."""
    for answer in answers:
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"] == answers[0].headers["location"]
        assert answer.content == answers[0].content
    return answers[0]


def test_a_repeat_is_answered_as_the_first_and_adds_nothing(
    shared_service: Service, api: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    counter = f"{path[1:]}_created_total"
    before = metrics(shared_service)[counter]
    key = new_key()
    first = as_one([post(api, path, key, **body) for _ in range(3)])
    assert metrics(shared_service)[counter] == before + 1
    second = post(api, path, new_key(), **body)
    newest = [next(iter(entry.values())) for entry in api.get(path, params={"limit": 2}).json()]
    assert newest == [next(iter(answer.json().values())) for answer in (second, first)]


def test_only_the_fields_count(api: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """Neither the fields' order nor their spelling matters, nor those that are ignored."""
    key = new_key()
    first = post(api, path, key, **body)
    other = json.dumps({"ignored": 1} | dict(reversed(body.items())), indent=4)
    headers = {HEADER: key, "content-type": "application/json"}
    as_one([first, api.post(path, content=other, headers=headers)])


@pytest.mark.parametrize("changed", ["name", "user_id", "content"])
def test_other_fields_by_the_same_key_are_refused(api: httpx.Client, changed: str) -> None:
    path = "/users" if changed == "name" else "/posts"
    body = body_for(api, path)
    key = new_key()
    first = post(api, path, key, **body)
    other = body | {changed: create_user(api)["id"] if changed == "user_id" else "Notes "}
    assert POINTER in errors(post(api, path, key, **other))
    as_one([first, post(api, path, key, **body)])


def test_two_operations_do_not_share_keys(api: httpx.Client) -> None:
    key = new_key()
    user = post(api, "/users", key, name="Ada").json()["id"]
    answer = post(api, "/posts", key, user_id=user, content="Notes")
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("key", "same"),
    [
        ('"{}"', "{}"),
        ('"{}\\"\\\\"', '{}"\\'),
        ('{}"', '"{}\\""'),
        ("{},;=", '"{},;="'),
        ("{}" + "x" * (255 - 8), '"{}' + "x" * (255 - 8) + '"'),
    ],
)
def test_quotes_are_no_part_of_a_key(api: httpx.Client, key: str, same: str) -> None:
    """It is a structured string (RFC 9651, section 3.3.3), which many send without the quotes."""
    unique = f"{next(_numbers):08}"
    first, second = (post(api, "/users", k.replace("{}", unique), name="x") for k in (key, same))
    as_one([first, second])


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b'""',
        b"x" * 256,
        b'"' + b"x" * 256 + b'"',
        b"a b",
        b'"a b"',
        b"a\tb",
        b'"a',
        b'"',
        b'"a"b',
        b'"a";p=1',
        b'"a", "b"',
        b'"a\\b"',
        b'"a\\"',
        "k-é".encode(),
        b"k-\xe9",
    ],
)
def test_what_is_no_key_is_refused(api: httpx.Client, path: str, key: bytes) -> None:
    newest = api.get(path).json()[:1]
    answer = api.post(
        path, json={"name": "Ada", "user_id": 1, "content": "x"}, headers={HEADER: key}
    )
    assert errors(answer).keys() == {POINTER}
    assert api.get(path).json()[:1] == newest


def test_two_keys_are_refused(api: httpx.Client, path: str, body: dict[str, Any]) -> None:
    for second in ("b", "a"):
        headers = [(HEADER, "a"), (HEADER.lower(), second)]
        assert errors(api.post(path, json=body, headers=headers)).keys() == {POINTER}


def test_a_key_whose_request_failed_is_free(api: httpx.Client) -> None:
    key = new_key()
    newest = create_user(api)["id"]
    problem(post(api, "/posts", key, user_id=newest + 1, content="Notes"), 404)
    errors(post(api, "/posts", key, user_id=newest))
    assert create_user(api)["id"] == newest + 1
    assert post(api, "/posts", key, user_id=newest + 1, content="Notes").status_code == 201


def test_sixteen_at_once_write_one_row(api: httpx.Client, path: str, body: dict[str, Any]) -> None:
    post(api, path, new_key(), **body)
    newest = api.get(path).json()[0]
    for key in (new_key() for _ in range(10)):
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _, k=key: post(api, path, k, **body), range(16)))
        as_one(answers)
    entries = api.get(path, params={"limit": 11}).json()
    assert entries[10] == newest


def test_a_repeat_is_answered_as_at_the_creation(
    database: Database, start_service: StartService, path: str
) -> None:
    """Whatever has happened to the row since."""
    service = start_service(database)
    body = body_for(service.client, path)
    first = post(service.client, path, "k", **body)
    if path == "/posts":
        database.execute("UPDATE posts SET content = 'changed'")
    else:
        database.execute("UPDATE users SET name = 'changed'")
    as_one([first, post(service.client, path, "k", **body)])


def test_keys_outlive_the_process_and_the_version(
    database: Database, start_service: StartService, previous: Path
) -> None:
    """The previous version serves and writes in between."""
    new = start_service(database)
    body = body_for(new.client, "/posts")
    first = post(new.client, "/posts", "k", **body)
    new.terminate()
    old = start_service(database, version=previous)
    between = create_post(old.client, body["user_id"])
    assert old.client.get("/" + first.headers["location"]).json() == first.json()
    old.terminate()
    new = start_service(database)
    as_one([first, post(new.client, "/posts", "k", **body)])
    assert len(database.execute("SELECT post_id FROM posts")) == 2
    assert new.client.get(f"/posts/{between['post_id']}").json() == between


def test_keys_of_another_replica_are_known(
    database: Database, start_service: StartService, path: str
) -> None:
    replicas = [start_service(database) for _ in range(2)]
    body = body_for(replicas[0].client, path)
    as_one([post(replica.client, path, "k", **body) for replica in replicas])


def test_a_new_key_is_one_statement(
    own_postgres: Postgres, start_service: StartService, path: str
) -> None:
    """And a request without one runs the same statement as always."""
    database = own_postgres.create_database()
    database.execute(f"ALTER DATABASE {database.name} SET log_statement = 'all'")
    service = start_service(database)
    body = body_for(service.client, path)
    post(service.client, path, "warm", **body)

    def statements(send: Callable[[], httpx.Response]) -> list[str]:
        before = len(own_postgres.log)
        assert send().status_code == 201
        lines = own_postgres.log[before:].splitlines()
        return [line for line in lines if "INSERT INTO" in line or "WITH found" in line]

    (insert,) = statements(lambda: service.client.post(path, json=body))
    assert "idempotency" not in insert
    for _ in range(2):
        (insert,) = statements(lambda: post(service.client, path, new_key(), **body))
        assert "ON CONFLICT" in insert
    assert len(statements(lambda: post(service.client, path, "warm", **body))) == 2


def test_without_the_index_only_requests_with_a_key_wait(
    postgres_database: PostgresDatabase, start_service: StartService, path: str
) -> None:
    """As right after an upgrade, or the restore of an older dump: a transaction delays it."""
    service = start_service(postgres_database)
    body = body_for(service.client, path)
    first = post(service.client, path, "k", **body)
    postgres_database.execute(f"DROP INDEX {path[1:]}_idempotency_key")
    with postgres_database.connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute(f"SELECT FROM {path[1:]} LIMIT 1")
        building = "SELECT 1 FROM pg_stat_progress_create_index WHERE datname = current_database()"
        refused = service.client.post(path, json=body, headers={HEADER: "k"})
        wait_until(lambda: postgres_database.execute(building), "it to be built again")
        for answer in (refused, service.client.post(path, json=body, headers={HEADER: "k"})):
            assert "index" in problem(answer, 503)["detail"]
            assert answer.headers["retry-after"]
        assert service.client.post(path, json=body).status_code == 201
    as_one([first, post(service.client, path, "k", **body)])


def test_an_interrupted_migration_is_finished(
    sqlite_database: SqliteDatabase, start_service: StartService, previous: Path
) -> None:
    """SQLite's are no transactions: the process may have ended in the middle."""
    start_service(sqlite_database, version=previous).terminate()
    sqlite_database.execute("ALTER TABLE posts ADD COLUMN idempotency_key BLOB")
    service = start_service(sqlite_database)
    as_one([post(service.client, "/users", "k", name="Ada") for _ in range(2)])


def test_a_page_of_another_origin_may_send_a_key(
    database: Database, start_service: StartService, path: str
) -> None:
    service = start_service(database, CORS_ALLOWED_ORIGINS="https://example.org")
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    answer = service.client.options(path, headers=asked)
    assert HEADER.lower() in answer.headers["access-control-allow-headers"].split(", ")
