"""Full-text search: the same answers from both databases, whatever the locale of PostgreSQL."""

import re
import sqlite3
import time
import unicodedata
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.api import create_post, create_user, errors, problem
from support.corpus import POSTS, QUERIES
from support.databases import Database, Postgres, PostgresDatabase, SqliteDatabase
from support.service import Service, StartService
from support.wait import wait_until


def words(text: str) -> set[str]:
    """The rule: runs of letters and decimal digits, in lowercase."""
    kinds = ((c, unicodedata.category(c)) for c in text)
    separated = "".join(c if kind[0] == "L" or kind == "Nd" else " " for c, kind in kinds)
    return set(separated.lower().split())


def search(client: httpx.Client, query: str, **parameters: Any) -> list[int]:
    answer = client.get("/posts", params={"q": query, "limit": 100, **parameters})
    assert answer.status_code == 200, f"{query!r}: {answer.text}"
    return [post["post_id"] for post in answer.json()]


def wait_until_searched(service: Service, seconds: float = 30) -> None:
    searched = lambda: service.client.get("/posts?q=x").status_code == 200  # noqa: E731
    wait_until(searched, "the index", seconds=seconds)


LOCALES = {
    "C": "LC_COLLATE 'C' LC_CTYPE 'C'",
    "libc": "LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'",
    "icu": "LOCALE_PROVIDER icu ICU_LOCALE 'tr' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'",
}


@pytest.fixture(params=["sqlite", *LOCALES])
def any_locale(
    request: pytest.FixtureRequest, postgres: Postgres, sqlite_database: SqliteDatabase
) -> Database:
    if request.param == "sqlite":
        return sqlite_database
    database = PostgresDatabase(postgres, f"locale_{request.param.lower()}")
    with postgres.connect("postgres") as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE)")
        locale = LOCALES[request.param]
        connection.execute(f"CREATE DATABASE {database.name} TEMPLATE template0 {locale}")
    return database


def test_a_post_is_found_by_all_of_its_words(
    any_locale: Database, start_service: StartService
) -> None:
    """Half of the posts exist before the index."""
    service = start_service(any_locale)
    user = create_user(service.client)["id"]
    half = len(POSTS) // 2
    ids = [create_post(service.client, user, text)["post_id"] for text in POSTS[:half]]
    service.kill()
    service = start_service(any_locale, SEARCH="true")
    ids += [create_post(service.client, user, text)["post_id"] for text in POSTS[half:]]
    wait_until_searched(service)
    found = [words(text) for text in POSTS]
    wrong = {}
    for query in QUERIES:
        wanted = words(query)
        if not wanted:
            assert "#/query/q" in errors(service.client.get("/posts", params={"q": query}))
            continue
        expected = [one for one, has in zip(ids, found, strict=True) if wanted <= has]
        answer = search(service.client, query)
        if answer != expected[::-1]:
            wrong[query] = (answer, expected[::-1])
    assert not wrong


def test_pages_of_a_search(database: Database, start_service: StartService) -> None:
    client = (service := start_service(database, SEARCH="true")).client
    user = create_user(client)["id"]
    wait_until_searched(service)
    for number in range(25):
        create_post(client, user, f"Café & crème {'odd' if number % 2 else 'even'} {number}")
    path, pages = "/posts?q=caf%C3%A9+%26+ODD&limit=5", []
    while path:
        answer = client.get(path)
        pages.append([post["post_id"] for post in answer.json()])
        assert all(set(post) >= {"excerpt", "user_id"} for post in answer.json())
        link = answer.headers.get("link")
        assert not link or 'rel="next"' in link
        path = f"/posts{re.search('<(.*)>', link)[1]}" if link else ""
    assert pages == [[24, 22, 20, 18, 16], [14, 12, 10, 8, 6], [4, 2]]
    assert search(client, "odd", before=3) == [2]
    assert search(client, "odd", before=0) == []
    assert search(client, "odd", before=2**63 - 1, limit=1) == [24]
    answer = client.get("/posts?q=odd")
    again = client.get("/posts?q=odd", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    create_post(client, user, "odd")
    again = client.get("/posts?q=odd", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 200


def test_what_can_be_asked(database: Database, start_service: StartService) -> None:
    client = (service := start_service(database, SEARCH="true")).client
    wait_until_searched(service)
    for query in ["", " ", "%00", "a%00b", "!?", "a" * 1001, "%CC%81", "q=x&q=y"]:
        answer = client.get(f"/posts?{query if '=' in query else 'q=' + query}")
        assert "#/query/q" in errors(answer), query
    for query in [
        "a" * 1000,
        "語" * 1000,
        "€" * 999 + "x",
        " ".join("ab" for _ in range(333)),
        " ".join(chr(97 + n % 26) + str(n) for n in range(200)),
    ]:
        assert search(client, query) == []


def test_without_the_variable_q_is_refused_and_named(
    database: Database, start_service: StartService
) -> None:
    client = start_service(database).client
    assert "SEARCH" in errors(client.get("/posts?q=x"))["#/query/q"]


def test_what_the_previous_version_writes_is_found(
    database: Database, start_service: StartService, previous: Path
) -> None:
    old = start_service(database, version=previous)
    user = create_user(old.client)["id"]
    before = create_post(old.client, user, "written before")["post_id"]
    new = start_service(database, SEARCH="true")
    wait_until_searched(new)
    after = create_post(old.client, user, "written after")["post_id"]
    assert search(new.client, "written") == [after, before]


def test_the_index_follows_what_becomes_of_posts(
    database: Database, start_service: StartService
) -> None:
    """No version of the service changes or deletes posts yet; people and later versions do."""
    client = (service := start_service(database, SEARCH="true")).client
    user = create_user(client)["id"]
    ids = [create_post(client, user, f"apple number{n}")["post_id"] for n in range(3)]
    wait_until_searched(service)
    database.execute(f"UPDATE posts SET content = 'pear' WHERE post_id = {ids[0]}")
    database.execute(f"DELETE FROM posts WHERE post_id = {ids[1]}")
    assert search(client, "apple") == [ids[2]]
    assert search(client, "pear") == [ids[0]]


def names(database: Database) -> list[str]:
    catalog = "sqlite_schema" if database.kind == "sqlite" else "pg_class"
    column = "name" if database.kind == "sqlite" else "relname"
    found = database.execute(f"SELECT {column} FROM {catalog} WHERE {column} LIKE 'posts_search%'")
    return [name for (name,) in found]


def test_a_search_is_switched_on_and_off(database: Database, start_service: StartService) -> None:
    first = start_service(database)
    user = create_user(first.client)["id"]
    create_post(first.client, user, "Notes")
    assert not names(database)
    first.kill()
    second = start_service(database, SEARCH="true")
    wait_until_searched(second)
    made = names(database)
    second.kill()
    # Another replica may be using it.
    third = start_service(database)
    assert names(database) == made
    create_post(third.client, user, "more notes")
    third.kill()
    again = start_service(database, SEARCH="true")
    wait_until_searched(again)
    assert search(again.client, "notes") == [2, 1]
    again.kill()
    last = start_service(database, SEARCH="drop")
    wait_until(lambda: not names(database), "the index to be dropped")
    assert "SEARCH" in errors(last.client.get("/posts?q=x"))["#/query/q"]
    create_post(last.client, user, "Notes")


def test_posts_of_a_sqlite_file_are_indexed_while_others_write(
    sqlite_database: SqliteDatabase, start_service: StartService, previous: Path
) -> None:
    """After a kill, the rest is continued; ids may have gaps of any size."""
    first = start_service(sqlite_database, version=previous)
    user = create_user(first.client)["id"]
    with sqlite_database.connect() as connection, connection:
        connection.execute("BEGIN")
        post = (
            "INSERT INTO posts VALUES (?, 'number ' || ? || ' of many', 1, '2024-12-14 10:30:00')"
        )
        rows = ((number * 10**6, number) for number in range(1, 5001))
        connection.executemany(post, rows)
    service = start_service(sqlite_database, SEARCH="true")
    answer = problem(service.client.get("/posts?q=many"), 503) if is_filling(service) else None
    if answer:
        assert "index" in answer["detail"]
    create_post(first.client, user, "meanwhile")
    service.kill()
    service = start_service(sqlite_database, SEARCH="true")
    slowest = 0.0
    while service.client.get("/posts?q=many").status_code == 503:
        start = time.monotonic()
        create_post(first.client, user, "meanwhile")
        create_post(service.client, user, "meanwhile")
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < 1
    walked, before = [], 2**63 - 1
    while page := search(service.client, "number many", before=before):
        walked += page
        before = page[-1]
    assert walked == [n * 10**6 for n in range(5000, 0, -1)]


def is_filling(service: Service) -> bool:
    return service.client.get("/posts?q=many").status_code == 503


def test_any_sqlite_opens_the_file(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    """A backup is made with the system's own program, which is older than the service's SQLite."""
    service = start_service(sqlite_database, SEARCH="true")
    user = create_user(service.client)["id"]
    create_post(service.client, user, "cafe\u0301")
    with sqlite_database.connect() as connection:
        connection.execute("INSERT INTO posts_search (posts_search) VALUES ('integrity-check')")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert sqlite3.sqlite_version_info >= (3, 34)


def test_a_server_that_cannot_tell_words_apart_is_refused_in_a_line(
    postgres: Postgres, start_service: StartService
) -> None:
    database = PostgresDatabase(postgres, "ascii")
    with postgres.connect("postgres") as connection:
        connection.execute(
            "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' "
            "LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    service = start_service(database, until="nothing", SEARCH="true")
    assert service.wait_for_end() == 1
    (line,) = [line for line in service.text.splitlines() if line.startswith("wiki-service:")]
    assert "SEARCH=true" in line
    assert "ICU" in line


def test_a_search_beyond_its_time_says_so(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    service = start_service(
        postgres_database, SEARCH="true", DATABASE_STATEMENT_TIMEOUT_SECONDS=0.5
    )

    def search() -> httpx.Response:
        return service.client.get("/posts?q=common")

    wait_until(lambda: search().status_code == 200, "the index")
    with postgres_database.connect() as connection:
        connection.execute("BEGIN; LOCK TABLE posts")
        answer = search()
    problem(answer, 503)
    assert "rarer" in answer.text
    assert "retry-after" not in answer.headers
