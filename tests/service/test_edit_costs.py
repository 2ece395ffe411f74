"""Reads and edits cost the same for posts that were edited often."""

from statistics import median
from typing import Any

import pytest

from support.api import create_post, create_user, timed
from support.databases import Database, Postgres, PostgresDatabase
from support.editing import put, tag
from support.service import StartService


def fill(database: Database, posts: int, revisions: int) -> None:
    """Creates this many posts with this many revisions each."""

    def numbers(count: int, name: str) -> str:
        if database.kind == "postgresql":
            return f"generate_series(1, {count}) AS {name}"
        return (
            f"(WITH RECURSIVE s({name}) AS (SELECT 1 UNION ALL SELECT {name} + 1 FROM s "
            f"WHERE {name} < {count}) SELECT {name} FROM s)"
        )

    database.execute("INSERT INTO users (name, created_time) VALUES ('x', '2024-12-14 10:30:00')")
    database.execute(
        "INSERT INTO posts (post_id, content, user_id, created_time, revision, edited_time) "
        f"SELECT p, 'text of post ' || p, 1, '2024-12-14 10:30:00', {revisions}, "
        f"'2024-12-15 10:30:00' FROM {numbers(posts, 'p')}"
    )
    if revisions > 1:
        database.execute(
            "INSERT INTO post_revisions (post_id, revision, content, created_time) "
            "SELECT p, r, 'former text of post ' || p, '2024-12-14 10:30:00' "
            f"FROM {numbers(posts, 'p')}, {numbers(revisions - 1, 'r')}"
        )


def blocks(database: PostgresDatabase) -> int:
    """The number of blocks that finished sessions have read."""
    sql = (
        "SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::bigint "
        "FROM pg_statio_user_tables WHERE relname IN ('posts', 'post_revisions')"
    )
    return database.execute(sql)[0][0]


def test_reads_and_edits_touch_as_many_blocks(
    own_postgres: Postgres, start_service: StartService
) -> None:
    """An edit writes to the index of all former texts, which may be deeper, and grows."""
    costs: dict[tuple[int, str], int] = {}
    for revisions in (1, 10):
        database = own_postgres.create_database()
        start_service(database).terminate()
        for table in ("posts", "post_revisions"):
            # It reads blocks, too.
            database.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        fill(database, 5000, revisions)
        database.execute("VACUUM (FREEZE, ANALYZE)")
        for what in ("read", "edit"):
            service = start_service(database, EDITING="anyone")
            service.client.get("/posts/1")
            before = blocks(database)
            for number in range(1, 1001, 10):
                path = f"/posts/{number}"
                answer = (
                    service.client.get(path) if what == "read" else put(service.client, path, what)
                )
                assert answer.status_code == 200
            service.terminate()
            costs[revisions, what] = blocks(database) - before
    print(costs)
    assert costs[10, "read"] <= costs[1, "read"] * 1.1
    assert costs[10, "edit"] <= costs[1, "edit"] * 1.25


def test_each_is_one_statement(own_postgres: Postgres, start_service: StartService) -> None:
    database = own_postgres.create_database()
    database.execute(f"ALTER DATABASE {database.name} SET log_statement = 'all'")
    client = start_service(database, EDITING="anyone").client
    path = f"/posts/{create_post(client, create_user(client)['id'])['post_id']}"

    def statements(method: str, target: str, status: int, **arguments: Any) -> list[str]:
        before = len(own_postgres.log)
        assert client.request(method, target, **arguments).status_code == status
        executed = own_postgres.log[before:].split("LOG:  execute ")[1:]
        return [statement for statement in executed if "post_id" in statement]

    for _ in range(2):
        etag = {"If-Match": tag(client, path)}
        edit = {"json": {"content": etag["If-Match"]}, "headers": etag}
        (one,) = statements("PUT", path, 200, **edit)
        assert "UPDATE" in one
        assert len(statements("PUT", path, 412, **edit)) == 2
    (one,) = statements("GET", path, 200)
    assert "post_revisions" not in one
    for query in ("?revision=1", "/revisions", "/diff?from=1&to=2"):
        assert len(statements("GET", f"{path}{query}", 200)) == 1


def test_a_million_posts_of_ten_revisions(
    database: Database, start_service: StartService, long: bool
) -> None:
    if not long:
        pytest.skip("takes minutes: run with --long")
    seconds: dict[tuple[int, str], float] = {}
    start_service(database).terminate()
    for revisions in (1, 10):
        database.execute("DELETE FROM post_revisions")
        database.execute("DELETE FROM posts")
        fill(database, 1_000_000, revisions)
        database.execute("ANALYZE")
        client = start_service(database, EDITING="anyone").client
        newest = client.get("/posts?limit=1").json()[0]["post_id"]
        paths = [f"/posts/{newest - number}" for number in range(0, 900_000, 1000)]
        seconds[revisions, "read"] = median(timed(client, "GET", path).seconds for path in paths)
        edits = [put(client, path, "new").elapsed.total_seconds() for path in paths]
        seconds[revisions, "edit"] = median(edits)
    print(seconds)
    assert seconds[10, "read"] < seconds[1, "read"] * 1.5
    assert seconds[10, "edit"] < seconds[1, "edit"] * 1.5
