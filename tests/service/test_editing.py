"""Editing posts: `PUT /posts/{id}` with `If-Match`, if `EDITING` allows it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from support.api import create_post, create_user, errors, problem
from support.databases import Database, PostgresDatabase, SqliteDatabase
from support.editing import KINDS, history, put, shared, tag
from support.service import Service, StartService, metrics

LARGEST_ID = 2**63 - 1


@pytest.fixture(scope="module", params=KINDS)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service where anyone may edit, on each kind of database."""
    directory = tmp_path_factory.mktemp(request.param)
    with shared(request, request.param, directory, EDITING="anyone") as one:
        yield one


@pytest.fixture
def client(service: Service) -> httpx.Client:
    return service.client


@pytest.fixture
def post(client: httpx.Client) -> str:
    """The path of a new post."""
    return f"/posts/{create_post(client, create_user(client)['id'], 'first')['post_id']}"


def test_an_edit_is_answered_with_the_post_as_it_is_then(client: httpx.Client, post: str) -> None:
    before = client.get(post)
    answer = put(client, post, "second", before.headers["etag"])
    assert answer.status_code == 200
    assert answer.json() == before.json() | {"content": "second"}
    assert list(answer.json()) == ["post_id", "content", "user_id", "created_time"]
    after = client.get(post)
    assert after.content == answer.content
    for name in ("etag", "cache-control", "content-type"):
        assert after.headers[name] == answer.headers[name]
    assert answer.headers["etag"] != before.headers["etag"]
    assert client.get("/posts", params={"limit": 1}).json()[0]["excerpt"] == "second"


def test_a_stale_tag_is_refused_with_the_current_one(client: httpx.Client, post: str) -> None:
    stale = tag(client, post)
    current = put(client, post, "second", stale).headers["etag"]
    for content in ("third", "second"):
        answer = put(client, post, content, stale)
        problem(answer, 412)
        assert answer.headers["etag"] == current
    assert history(client, post) == [(2, "second"), (1, "first")]
    assert put(client, post, "third", current).status_code == 200


def test_without_a_condition_nothing_is_edited(client: httpx.Client, post: str) -> None:
    assert "If-Match" in problem(put(client, post, "second", None), 428)["detail"]
    problem(put(client, f"/posts/{LARGEST_ID}", "second", None), 404)
    problem(put(client, f"/posts/{LARGEST_ID}", "second", '"x"'), 404)
    problem(put(client, f"/posts/{LARGEST_ID}", "second", "*"), 404)
    assert client.get(post).json()["content"] == "first"


@pytest.mark.parametrize(
    "form",
    [
        "{tag}",
        "*",
        '"other" , {tag}',
        '"a,b",{tag},"c"',
        ",,{tag},",
        'W/"x", {tag}',
        '"x"\t,\t{tag}',
    ],
)
def test_what_matches(client: httpx.Client, post: str, form: str) -> None:
    named = form.format(tag=tag(client, post))
    assert put(client, post, "second", named).status_code == 200


@pytest.mark.parametrize(
    "form",
    ["W/{tag}", '"other"', '""', 'W/"x","y"', '"0{opaque}"', '"+{opaque}"', '"{opaque}.1"'],
)
def test_what_does_not_match(client: httpx.Client, post: str, form: str) -> None:
    current = tag(client, post)
    named = form.format(tag=current, opaque=current.strip('"'))
    problem(put(client, post, "second", named), 412)


@pytest.mark.parametrize(
    "named", ["", "x", "{opaque}", '"', '"x', "W/x", '*, "x"', '"x" "y"', "w/{tag}", ","]
)
def test_what_is_no_list_of_tags_is_refused(client: httpx.Client, post: str, named: str) -> None:
    current = tag(client, post)
    named = named.format(tag=current, opaque=current.strip('"'))
    assert set(errors(put(client, post, "second", named))) == {"#/header/If-Match"}
    assert client.get(post).json()["content"] == "first"


def test_tags_may_come_in_lines_and_be_many(client: httpx.Client, post: str) -> None:
    current = tag(client, post)
    lines = [("If-Match", '"x"'), ("If-Match", current)]
    assert client.put(post, json={"content": "second"}, headers=lines).status_code == 200
    current = tag(client, post)
    number = int(current.strip('"').split(".")[2])
    others = [f'"2.1.{number + n}"' for n in range(1, 100)]
    assert put(client, post, "third", ",".join([*others, current])).status_code == 200
    assert set(errors(put(client, post, "4", ",".join([*others, '"a"', '"b"'])))) == {
        "#/header/If-Match"
    }


def test_a_tag_of_another_post_does_not_match(client: httpx.Client, post: str) -> None:
    other = f"/posts/{create_post(client, create_user(client)['id'])['post_id']}"
    problem(put(client, post, "second", tag(client, other)), 412)


def test_the_same_text_changes_nothing(service: Service, client: httpx.Client, post: str) -> None:
    counted = metrics(service)["posts_edited_total"]
    for content, form in (("first", "{tag}"), ("first", "*"), ("second", "*"), ("second", "{tag}")):
        before = client.get(post)
        answer = put(client, post, content, form.format(tag=before.headers["etag"]))
        assert answer.status_code == 200
        if content == before.json()["content"]:
            assert answer.headers["etag"] == before.headers["etag"]
            assert answer.content == before.content
    assert history(client, post) == [(2, "second"), (1, "first")]
    assert metrics(service)["posts_edited_total"] == counted + 1


def test_a_text_is_another_by_its_bytes(client: httpx.Client, post: str) -> None:
    texts = ["Zoë", "Zoe\u0308", "zoë", "ZOË", "zoë ", "zoë\n"]
    for text in texts:
        assert put(client, post, text, tag(client, post)).json()["content"] == text
    assert [content for _, content in history(client, post)] == [*reversed(texts), "first"]


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"content": 5}', '{"content": " "}', '{"content": "\\u0000"}']
)
def test_a_text_that_no_post_may_have_is_refused(
    client: httpx.Client, post: str, body: str
) -> None:
    headers = {"content-type": "application/json", "If-Match": "*"}
    assert errors(client.put(post, content=body, headers=headers))
    long = put(client, post, "x" * 100_001, "*")
    assert set(errors(long)) == {"#/content"}
    assert history(client, post) == [(1, "first")]
    assert put(client, post, "x" * 100_000, "*").status_code == 200


def test_what_is_counted(service: Service, client: httpx.Client, post: str) -> None:
    names = ("posts_edited_total", "edit_conflicts_total")
    before = [metrics(service)[name] for name in names]
    stale = tag(client, post)
    put(client, post, "second", stale)
    put(client, post, "third", stale)
    put(client, post, "third", None)
    put(client, post, " ", "*")
    assert [metrics(service)[name] for name in names] == [number + 1 for number in before]


def test_an_edit_by_hand_is_seen_and_kept(database: Database, start_service: StartService) -> None:
    client = start_service(database, EDITING="anyone").client
    post = f"/posts/{create_post(client, create_user(client)['id'], 'first')['post_id']}"
    stale = tag(client, post)
    database.execute("UPDATE posts SET content = 'by hand'")
    answer = client.get(post, headers={"If-None-Match": stale})
    assert answer.json()["content"] == "by hand"
    problem(put(client, post, "third", stale), 412)
    assert put(client, post, "third", answer.headers["etag"]).status_code == 200
    assert history(client, post) == [(3, "third"), (2, "by hand"), (1, "first")]
    database.execute("UPDATE posts SET content = content, created_time = created_time")
    assert len(history(client, post)) == 3


def test_a_post_that_is_given_to_another_user_has_another_tag(
    database: Database, start_service: StartService
) -> None:
    client = start_service(database, EDITING="anyone").client
    post = f"/posts/{create_post(client, create_user(client)['id'])['post_id']}"
    stale = tag(client, post)
    database.execute(f"UPDATE posts SET user_id = {create_user(client)['id']}")
    assert client.get(post, headers={"If-None-Match": stale}).status_code == 200
    problem(put(client, post, "second", stale), 412)


def start_again(database: Database) -> None:
    """Resets the numbers of posts, like a restore."""
    database.execute("DELETE FROM posts")
    if isinstance(database, SqliteDatabase):
        database.execute("DELETE FROM sqlite_sequence WHERE name = 'posts'")
    else:
        database.execute("SELECT setval(pg_get_serial_sequence('posts', 'post_id'), 1, false)")


def test_tags_do_not_come_again_after_a_restore(
    database: Database, start_service: StartService
) -> None:
    client = start_service(database, EDITING="anyone").client
    user = create_user(client)["id"]
    seen = set()
    for _ in range(5):
        post = f"/posts/{create_post(client, user, 'first')['post_id']}"
        assert post == "/posts/1"
        seen |= {tag(client, post), put(client, post, "second", "*").headers["etag"]}
        for old in seen - {tag(client, post)}:
            problem(put(client, post, "third", old), 412)
        database.execute("DELETE FROM post_revisions")
        start_again(database)
    assert len(seen) == 10


# Times as written by sqlx, SQLAlchemy and others, some of them unintentionally.
TIMES = [
    "2024-12-14 10:30:00.123456",
    "2024-12-14 10:30:00.123000",
    "2024-12-14 10:30:00.000000",
    "2024-12-14 10:30:00",
    "2024-12-14T10:30:00.123456",
    "2024-12-14T10:30:00Z",
    "2024-12-14 10:30:00.123456+02:00",
    "2024-12-14 10:30",
    "2024-12-14 10:30:00.123456789",
    "1734172200",
    "0001-01-01 00:00:00",
    "9999-12-31 23:59:59.999999",
]


def test_posts_of_others_are_edited_whatever_form_their_times_have(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    """SQLite stores a time as text, or as whatever was written."""
    for sql in (
        "CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, "
        "created_time DATETIME NOT NULL)",
        "CREATE TABLE posts (post_id INTEGER NOT NULL PRIMARY KEY, content VARCHAR NOT NULL, "
        "user_id INTEGER NOT NULL REFERENCES users (id), created_time DATETIME NOT NULL)",
        f"INSERT INTO users (name, created_time) VALUES ('Ada', '{TIMES[0]}')",
        *(
            f"INSERT INTO posts (content, user_id, created_time) VALUES ('first', 1, '{time}')"
            for time in TIMES
        ),
    ):
        sqlite_database.execute(sql)
    client = start_service(sqlite_database, EDITING="anyone").client
    for number in range(1, len(TIMES) + 1):
        edit_twice(client, f"/posts/{number}")


def test_posts_of_others_are_edited_however_far_their_times_are(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    client = start_service(postgres_database, EDITING="anyone").client
    user = create_user(client)["id"]
    for time in ("infinity", "-infinity", "4713-01-01 BC", "294276-12-31"):
        number = create_post(client, user, "first")["post_id"]
        postgres_database.execute(
            f"UPDATE posts SET created_time = '{time}' WHERE post_id = {number}"
        )
        edit_twice(client, f"/posts/{number}")


def edit_twice(client: httpx.Client, path: str) -> None:
    stale = tag(client, path)
    assert put(client, path, "second", stale).status_code == 200
    problem(put(client, path, "x", stale), 412)
    assert put(client, path, "third", tag(client, path)).status_code == 200
    assert history(client, path) == [(3, "third"), (2, "second"), (1, "first")]
    first = client.get(f"{path}/revisions").json()[-1]
    assert first["created_time"] == client.get(path).json()["created_time"]


def test_the_previous_version_reads_and_writes_meanwhile(
    database: Database, start_service: StartService, previous: Path
) -> None:
    """What it has written, before and after, can be edited as well."""
    old = start_service(database, version=previous)
    user = create_user(old.client)["id"]
    paths = [f"/posts/{create_post(old.client, user, 'first')['post_id']}"]
    rows = "SELECT pg_relation_filenode('posts')"
    files = database.execute(rows) if database.kind == "postgresql" else None
    new = start_service(database, EDITING="anyone")
    if files:
        assert database.execute(rows) == files, "all posts were written anew"
    paths.append(f"/posts/{create_post(old.client, user, 'first')['post_id']}")
    for path in paths:
        assert put(new.client, path, "second", tag(new.client, path)).status_code == 200
        assert old.client.get(path).json() == new.client.get(path).json()
        assert history(new.client, path) == [(2, "second"), (1, "first")]
    assert create_post(old.client, user)["content"] == "Notes"


def test_an_interrupted_migration_is_finished(
    sqlite_database: SqliteDatabase, start_service: StartService, previous: Path
) -> None:
    """On SQLite they are not in a transaction: the process may have died halfway."""
    old = start_service(sqlite_database, version=previous)
    create_post(old.client, create_user(old.client)["id"], "first")
    old.terminate()
    sqlite_database.execute("ALTER TABLE posts ADD COLUMN revision INTEGER NOT NULL DEFAULT 1")
    edit_twice(start_service(sqlite_database, EDITING="anyone").client, "/posts/1")


def test_two_writers_race(service: Service, client: httpx.Client, post: str, long: bool) -> None:
    """Each time one is first and the other gets a 412, and no text is lost."""
    races = 1000 if long else 200
    start, done = threading.Barrier(2), threading.Barrier(2)
    answers: list[list[httpx.Response]] = [[], []]
    tags = [tag(client, post)]

    def write(writer: int) -> None:
        with httpx.Client(base_url=service.url, timeout=30) as own:
            for race in range(races):
                start.wait(30)
                answers[writer].append(put(own, post, f"{race} by {writer}", tags[-1]))
                if done.wait(30) == 0:
                    first = [one[-1] for one in answers if one[-1].status_code == 200]
                    tags.append(first[0].headers["etag"] if first else "none")
                done.wait(30)

    with ThreadPoolExecutor(2) as pool:
        for writer in [pool.submit(write, number) for number in range(2)]:
            writer.result()
    texts = ["first"]
    for one, other in zip(*answers, strict=True):
        assert sorted([one.status_code, other.status_code]) == [200, 412]
        winner, loser = (one, other) if one.status_code == 200 else (other, one)
        assert loser.headers["etag"] == winner.headers["etag"]
        texts.append(winner.json()["content"])
    assert history(client, post) == list(enumerate(texts, 1))[::-1]
