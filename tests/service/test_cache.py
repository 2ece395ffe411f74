"""Responses cached in memory: `CACHE_SECONDS`."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support.api import create_post, create_user, problem
from support.databases import Database, PostgresDatabase, SqliteDatabase
from support.service import Service, StartService, metrics
from support.wait import wait_until

LONG = 3600
PATHS = ["/users/{user}", "/user/{user}", "/posts/{post}"]
CHANGE = (
    "UPDATE users SET name = 'changed', created_time = '2001-02-03 04:05:06.000007'; "
    "UPDATE posts SET content = 'changed', created_time = '2001-02-03 04:05:06.000007'"
)


@pytest.fixture(params=PATHS)
def template(request: pytest.FixtureRequest) -> str:
    return request.param


def resource(service: Service, template: str) -> str:
    user = create_user(service.client)["id"]
    return template.format(user=user, post=create_post(service.client, user)["post_id"])


def change(database: Database) -> None:
    """Like another replica."""
    for statement in CHANGE.split("; "):
        database.execute(statement)


def results(service: Service) -> tuple[float, float]:
    """Hits and misses."""
    figures = metrics(service)
    hits, misses = (figures[f'cache_requests_total{{result="{r}"}}'] for r in ("hit", "miss"))
    return hits, misses


def test_a_read_is_answered_from_memory(
    database: Database, start_service: StartService, template: str
) -> None:
    service = start_service(database, CACHE_SECONDS=LONG)
    path = resource(service, template)
    first = service.client.get(path)
    change(database)
    again = service.client.get(path)
    for name in ("content-type", "etag", "cache-control"):
        assert again.headers[name] == first.headers[name]
    assert again.content == first.content
    assert service.client.head(path).headers["etag"] == first.headers["etag"]
    known = {"If-None-Match": first.headers["etag"]}
    assert service.client.get(path, headers=known).status_code == 304
    assert results(service) == (3, 1)
    assert metrics(service)["cache_bytes"] > len(first.content)


@pytest.mark.parametrize(
    "headers",
    [
        {"Cache-Control": "no-cache"},
        {"Cache-Control": "max-stale, No-Cache"},
        {"Cache-Control": "max-age=0"},
        {"If-Match": '"x"'},
        {"If-Match": "*", "Cache-Control": "max-age=99"},
    ],
)
def test_who_asks_for_it_gets_it_from_the_database(
    database: Database, start_service: StartService, template: str, headers: dict[str, str]
) -> None:
    service = start_service(database, CACHE_SECONDS=LONG)
    path = resource(service, template)
    first = service.client.get(path)
    change(database)
    fresh = service.client.get(path, headers=headers)
    assert fresh.json() != first.json()
    assert fresh.headers["etag"] != first.headers["etag"]
    assert service.client.get(path).content == fresh.content, "the older answer came back"
    assert results(service) == (1, 2)


def test_an_answer_is_kept_for_so_long_and_no_longer(
    database: Database, start_service: StartService
) -> None:
    service = start_service(database, CACHE_SECONDS=0.5)
    path = resource(service, "/posts/{post}")
    first = service.client.get(path)
    change(database)
    wait_until(lambda: service.client.get(path).content != first.content, "the new answer")
    assert service.client.get(path, headers={"Cache-Control": "max-age=99"}).status_code == 200


def test_nothing_unknown_is_remembered(database: Database, start_service: StartService) -> None:
    service = start_service(database, CACHE_SECONDS=LONG)
    user = create_user(service.client)
    for _ in range(2):
        problem(service.client.get(f"/users/{user['id'] + 1}"), 404)
    assert metrics(service)["cache_bytes"] == 0
    assert service.client.get(f"/users/{create_user(service.client)['id']}").status_code == 200


def test_what_is_gone_is_gone_for_all_once_it_is_seen(
    database: Database, start_service: StartService
) -> None:
    service = start_service(database, CACHE_SECONDS=LONG)
    path = resource(service, "/posts/{post}")
    service.client.get(path)
    database.execute("DELETE FROM posts")
    assert service.client.get(path).status_code == 200
    problem(service.client.get(path, headers={"Cache-Control": "no-cache"}), 404)
    problem(service.client.get(path), 404)


def start_again(database: Database) -> None:
    """Resets the numbers of rows, like a restore."""
    database.execute("DELETE FROM posts")
    database.execute("DELETE FROM users")
    if isinstance(database, SqliteDatabase):
        database.execute("DELETE FROM sqlite_sequence")
    else:
        for column in ("'users', 'id'", "'posts', 'post_id'"):
            database.execute(f"SELECT setval(pg_get_serial_sequence({column}), 1, false)")


def test_what_the_replica_writes_is_seen_at_once(
    database: Database, start_service: StartService, template: str
) -> None:
    """A new row may have an old number, since a restore has removed the old one."""
    service = start_service(database, CACHE_SECONDS=LONG)
    path = resource(service, template)
    old = service.client.get(path)
    start_again(database)
    assert service.client.get(path).content == old.content
    assert resource(service, template) == path
    assert service.client.get(path).headers["etag"] != old.headers["etag"]


def test_a_read_that_began_before_a_write_is_not_kept(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    """Its SELECT has seen the old row, and is paused there until the new one is written."""
    service = start_service(
        postgres_database, CACHE_SECONDS=LONG, DATABASE_STATEMENT_TIMEOUT_SECONDS=20
    )
    user = create_user(service.client, name="old")
    path = f"/users/{user['id']}"
    last = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('posts_idempotency_key')"
    wait_until(lambda: postgres_database.execute(last) == [(True,)], "the last index to be built")
    postgres_database.execute(
        "CREATE FUNCTION pause() RETURNS bool LANGUAGE sql VOLATILE AS "
        "'SELECT pg_advisory_xact_lock_shared(1); SELECT true'; "
        "ALTER TABLE users RENAME TO real_users; "
        "CREATE VIEW users AS SELECT id, name, created_time FROM real_users WHERE pause()"
    )

    def paused() -> list[tuple[int]]:
        return postgres_database.execute(
            "SELECT 1 FROM pg_stat_activity "
            "WHERE wait_event = 'advisory' AND datname = current_database()"
        )

    with postgres_database.connect() as connection, ThreadPoolExecutor(1) as pool:
        connection.execute("SELECT pg_advisory_lock(1)")
        reading = pool.submit(service.client.get, path)
        wait_until(paused, "the read to be paused")
        connection.execute("DELETE FROM real_users")
        connection.execute("SELECT setval(pg_get_serial_sequence('real_users', 'id'), 1, false)")
        assert create_user(service.client, name="new")["id"] == user["id"]
        connection.execute("SELECT pg_advisory_unlock(1)")
        assert reading.result().json()["name"] == "old"
    assert service.client.get(path).json()["name"] == "new"
    assert results(service) == (0, 2)
    assert service.client.get(path).json()["name"] == "new"
    assert results(service) == (1, 2)


def test_a_repeated_write_is_none(database: Database, start_service: StartService) -> None:
    service = start_service(database, CACHE_SECONDS=LONG)

    def write() -> httpx.Response:
        headers = {"Idempotency-Key": "k"}
        return service.client.post("/users", json={"name": "x"}, headers=headers)

    path = wait_until(lambda: write().headers.get("location"), "the index that keys take")
    for _ in range(2):
        service.client.get(f"/{path}")
        assert write().status_code == 201
    assert results(service) == (1, 1)


def test_memory_has_a_bound(database: Database, start_service: StartService) -> None:
    limit = 300_000
    service = start_service(database, CACHE_SECONDS=LONG, CACHE_BYTES=limit)
    user = create_user(service.client)["id"]
    seen = []
    for size in (10, 10_000, 60_000, 100_000):
        for _ in range(20):
            post = create_post(service.client, user, content="x" * size)
            assert service.client.get(f"/posts/{post['post_id']}").json() == post
            seen.append(metrics(service)["cache_bytes"])
    assert limit / 2 < max(seen) <= limit
    assert seen[-1] == seen[-20], "what is above 64 KiB was kept"


def test_without_a_cache_there_is_no_figure(api: httpx.Client) -> None:
    assert not [name for name in metrics(api) if name.startswith("cache_")]


def test_lists_are_always_read(database: Database, start_service: StartService) -> None:
    service = start_service(database, CACHE_SECONDS=LONG)
    user = create_user(service.client)["id"]
    for path in ("/users", "/posts", f"/users/{user}/posts"):
        wait_until(lambda p=path: service.client.get(p).status_code == 200, "the index")
    change(database)
    assert service.client.get("/users").json()[0]["name"] == "changed"
