"""Comments and reactions, with each `EDITING`, on both databases."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from support import tokens
from support.api import CREATED_TIME, create_post, create_user, errors, problem
from support.browser import ELSEWHERE, PrefixProxy
from support.databases import Database, PostgresDatabase, SqliteDatabase
from support.service import Service, StartService, metrics
from support.tokens import ADMIN, Issuer, as_

KINDS = ("like", "dislike", "laugh", "confused", "heart", "hooray", "rocket", "eyes")
NOBODY = 2**62
_numbers = itertools.count()


class Member:
    """A user with a separate client."""

    def __init__(self, client: httpx.Client, *, by_token: bool, joins: bool = True):
        self.client = client
        self.id = create_user(client)["id"] if joins else NOBODY
        self.named = {} if by_token else {"user_id": self.id}

    def comment(self, post: int, content: Any = "Well said", key: str = "") -> httpx.Response:
        body = self.named | {"content": content}
        headers = {"Idempotency-Key": key} if key else {}
        return self.client.post(f"/posts/{post}/comments", json=body, headers=headers)

    def set(self, post: int, kind: str) -> httpx.Response:
        body = self.named or None
        return self.client.put(f"/posts/{post}/reactions/{kind}", json=body)

    def unset(self, post: int, kind: str) -> httpx.Response:
        return self.client.delete(f"/posts/{post}/reactions/{kind}", params=self.named)


class Wiki:
    def __init__(self, service: Service, issuer: Issuer | None):
        self.service = service
        self.client = service.client
        self.issuer = issuer

    def member(self, *, joins: bool = True, **claims: Any) -> Member:
        client = self.client
        if self.issuer:
            client = as_(self.service, self.issuer.token(f"member-{next(_numbers)}", **claims))
        return Member(client, by_token=self.issuer is not None, joins=joins)

    def post(self) -> int:
        author = self.member()
        return create_post(author.client, author.id)["post_id"]


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept_in(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Database:
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").create_database()
    return SqliteDatabase(tmp_path_factory.mktemp("wiki") / "wiki.db")


@pytest.fixture(scope="module", params=["author", "users", "anyone"])
def wiki(
    request: pytest.FixtureRequest,
    kept_in: Database,
    program: Path,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Wiki]:
    known = {} if request.param == "anyone" else issuer.variables
    settings = kept_in.environment | known | {"EDITING": request.param}
    service = Service(program, tmp_path_factory.mktemp("service"), settings).wait_until_ready()
    yield Wiki(service, issuer if known else None)
    service.close()


def test_a_comment_is_read_back(wiki: Wiki) -> None:
    post, member = wiki.post(), wiki.member()
    assert wiki.client.get(f"/posts/{post}/comments").json() == []
    made = member.comment(post, " Well\nsaid ")
    assert made.status_code == 201, made.text
    comment = made.json()
    assert CREATED_TIME.fullmatch(comment.pop("created_time"))
    assert type(comment.pop("comment_id")) is int
    assert comment == {"post_id": post, "user_id": member.id, "content": " Well\nsaid "}
    where = urljoin(str(made.request.url), made.headers["location"])
    read = wiki.client.get(where)
    assert (read.status_code, read.json()) == (200, made.json())
    assert wiki.client.get(f"/posts/{post}/comments").json() == [made.json()]
    etag = {"if-none-match": read.headers["etag"]}
    assert wiki.client.get(where, headers=etag).status_code == 304


def test_a_location_leads_on_under_a_prefix(wiki: Wiki) -> None:
    post, member = wiki.post(), wiki.member()
    proxy = PrefixProxy(wiki.service.port, "/some/wiki")
    base_url = proxy.url.replace(ELSEWHERE, "127.0.0.1")
    member.client = httpx.Client(base_url=base_url, headers=member.client.headers)
    made = member.comment(post)
    where = urljoin(str(made.request.url), made.headers["location"])
    assert where == f"{base_url}/comments/{made.json()['comment_id']}"
    assert httpx.get(where).json() == made.json()
    proxy.close()


def test_comments_are_listed_whole_and_by_pages(wiki: Wiki) -> None:
    post, other, member = wiki.post(), wiki.post(), wiki.member()
    made = [member.comment(post, "x" * 9_999 + str(number)).json() for number in range(5)]
    member.comment(other)
    path, seen = f"/posts/{post}/comments", []
    answer = wiki.client.get(path, params={"limit": 2})
    seen += answer.json()
    while "next" in answer.links:
        answer = wiki.client.get(urljoin(str(answer.request.url), answer.links["next"]["url"]))
        seen += answer.json()
    assert seen == made[::-1]
    oldest = made[0]["comment_id"]
    assert wiki.client.get(path, params={"before": oldest}).json() == []
    assert set(errors(wiki.client.get(path, params={"limit": 101}))) == {"#/query/limit"}


def test_a_comments_content_has_a_posts_rules(wiki: Wiki) -> None:
    post, member = wiki.post(), wiki.member()
    assert member.comment(post, "\U0001f469" * 10_000).status_code == 201
    for content in ("x" * 10_001, "", " \t\u3000", "a\0b", 5, None):
        refused = member.comment(post, content)
        assert set(errors(refused)) == {"#/content"}, content
    nothing = member.client.post(f"/posts/{post}/comments", json={})
    assert set(errors(nothing)) == {"#/content"} | {f"#/{name}" for name in member.named}
    assert len(wiki.client.get(f"/posts/{post}/comments").json()) == 1


def test_what_a_comment_refers_to_has_to_be_there(wiki: Wiki) -> None:
    post, member, stranger = wiki.post(), wiki.member(), wiki.member(joins=False)
    for answer in (
        wiki.client.get(f"/posts/{NOBODY}/comments"),
        member.comment(NOBODY),
        stranger.comment(NOBODY),
        member.comment(NOBODY, key="a-key"),
    ):
        assert problem(answer, 404)["detail"] == f"there is no post {NOBODY}"
    refused = stranger.comment(post)
    if wiki.issuer:
        assert "POST /users" in problem(refused, 403)["detail"]
    else:
        assert problem(refused, 404)["detail"] == f"there is no user {NOBODY}"
    problem(wiki.client.get(f"/comments/{NOBODY}"), 404)
    for path in ("/posts/x/comments", "/comments/x"):
        assert set(errors(wiki.client.get(path))) == {"#/path/id"}
    assert wiki.client.get(f"/posts/{post}/comments").json() == []


def test_a_repeated_comment_is_one(wiki: Wiki) -> None:
    post, other, member = wiki.post(), wiki.post(), wiki.member()
    key = f"key-{member.id}"
    before = metrics(wiki.service)["comments_created_total"]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: member.comment(post, key=key), range(8)))
    assert {answer.status_code for answer in made} == {201}, made[0].text
    assert len({(answer.text, answer.headers["location"]) for answer in made}) == 1
    for refused in (member.comment(post, "Other", key=key), member.comment(other, key=key)):
        assert set(errors(refused)) == {"#/header/Idempotency-Key"}
    assert metrics(wiki.service)["comments_created_total"] == before + 1
    another = wiki.member().comment(post, key=key)
    if wiki.issuer:
        assert another.status_code == 201, "a key is its caller's own"
    else:
        errors(another)


def test_a_comment_is_deleted_by_whoever_wrote_it_or_an_admin(wiki: Wiki) -> None:
    post, member = wiki.post(), wiki.member()
    first, second = (f"/comments/{member.comment(post).json()['comment_id']}" for _ in range(2))
    if not wiki.issuer:
        assert "EDITING is anyone" in problem(member.client.delete(first), 403)["detail"]
        assert wiki.client.get(first).status_code == 200
        return
    before = metrics(wiki.service)
    admin = wiki.member(joins=False, scope=ADMIN)
    for stranger in (wiki.member(), wiki.member(joins=False)):
        assert "not yours" in problem(stranger.client.delete(first), 403)["detail"]
        problem(stranger.client.delete(f"/comments/{NOBODY}"), 404)
    problem(wiki.client.delete(first), 401)
    for path, client in ((first, member.client), (second, admin.client)):
        gone = client.delete(path)
        assert (gone.status_code, gone.content) == (204, b"")
        problem(client.delete(path), 404)
        problem(wiki.client.get(path), 404)
    assert wiki.client.get(f"/posts/{post}/comments").json() == []
    after = metrics(wiki.service)
    assert after["comments_deleted_total"] == before["comments_deleted_total"] + 2
    refusals = 'auth_refusals_total{reason="not_own",status="403"}'
    assert after[refusals] == before.get(refusals, 0) + 2


@pytest.mark.parametrize("wiki", ["author", "users"], indirect=True)
def test_with_a_token_nobody_comments_or_reacts_as_somebody_else(wiki: Wiki) -> None:
    post, member, other = wiki.post(), wiki.member(), wiki.member()
    member.named = {"user_id": other.id}
    assert member.comment(post).json()["user_id"] == member.id
    assert member.set(post, "heart").status_code == 204
    assert other.unset(post, "heart").status_code == 204
    assert wiki.client.get(f"/posts/{post}/reactions").json()["heart"] == 1


def test_reactions_are_counted(wiki: Wiki) -> None:
    post, members = wiki.post(), [wiki.member() for _ in range(2)]
    path = f"/posts/{post}/reactions"
    none = dict.fromkeys(KINDS, 0)
    assert list(wiki.client.get(path).json().items()) == list(none.items())
    for number, kind in enumerate(KINDS):
        for member in members[: 1 + number % 2]:
            answer = member.set(post, kind)
            assert (answer.status_code, answer.content) == (204, b""), kind
    counts = {kind: 1 + number % 2 for number, kind in enumerate(KINDS)}
    read = wiki.client.get(path)
    assert read.json() == counts
    etag = {"if-none-match": read.headers["etag"]}
    assert wiki.client.get(path, headers=etag).status_code == 304
    assert members[0].unset(post, "eyes").status_code == 204
    assert wiki.client.get(path, headers=etag).json() == counts | {"eyes": 1}


def test_a_reaction_is_set_once_and_removed_once(wiki: Wiki) -> None:
    post, member = wiki.post(), wiki.member()
    before = metrics(wiki.service)

    def at_once(change: Any) -> int:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: change(post, "rocket"), range(8)))
        assert {answer.status_code for answer in answers} == {204}, answers[0].text
        return wiki.client.get(f"/posts/{post}/reactions").json()["rocket"]

    assert [at_once(member.set), at_once(member.unset)] == [1, 0]
    after = metrics(wiki.service)
    for counter in ("reactions_set_total", "reactions_unset_total"):
        assert after[counter] == before[counter] + 1


def test_what_a_reaction_refers_to_has_to_be_there(wiki: Wiki) -> None:
    post, member, stranger = wiki.post(), wiki.member(), wiki.member(joins=False)
    problem(wiki.client.get(f"/posts/{NOBODY}/reactions"), 404)
    for one in (member, stranger):
        for change in (one.set, one.unset):
            assert problem(change(NOBODY, "like"), 404)["detail"] == f"there is no post {NOBODY}"
    for change in (stranger.set, stranger.unset):
        if wiki.issuer:
            assert "POST /users" in problem(change(post, "like"), 403)["detail"]
        else:
            assert problem(change(post, "like"), 404)["detail"] == f"there is no user {NOBODY}"
    assert sum(wiki.client.get(f"/posts/{post}/reactions").json().values()) == 0


def test_of_another_kind_there_is_no_reaction(wiki: Wiki) -> None:
    post, member = wiki.post(), wiki.member()
    for kind in ("thumbs", "Like", "like%20", "%00", "\u2764", "like,heart"):
        for change in (member.set, member.unset):
            (wrong,) = errors(change(post, kind)).items()
            assert wrong[0] == "#/path/kind"
            assert all(kind in wrong[1] for kind in KINDS)
    assert set(errors(member.client.put("/posts/x/reactions/like", json=member.named))) == {
        "#/path/id"
    }
    problem(member.client.get(f"/posts/{post}/reactions/like"), 405)


@pytest.mark.parametrize("wiki", ["anyone"], indirect=True)
def test_without_a_token_a_reaction_names_its_user(wiki: Wiki) -> None:
    path = f"/posts/{wiki.post()}/reactions/like"
    assert set(errors(wiki.client.put(path, json={}))) == {"#/user_id"}
    assert set(errors(wiki.client.put(path))) == {"#"}
    problem(wiki.client.put(path, content=b"user_id=1", headers={"content-type": "x/y"}), 415)
    for params in ({}, {"user_id": "x"}, {"user_id": ["1", "2"]}):
        assert set(errors(wiki.client.delete(path, params=params))) == {"#/query/user_id"}


def test_ones_own_reactions_are_told_to_oneself(wiki: Wiki) -> None:
    post, member = wiki.post(), wiki.member()
    path = f"/posts/{post}/reactions"
    for kind in ("rocket", "like"):
        member.set(post, kind)
    counts = dict.fromkeys(KINDS, 0) | {"like": 1, "rocket": 1}
    everybodys = wiki.client.get(path)
    assert everybodys.json() == counts
    if not wiki.issuer:
        assert "vary" not in everybodys.headers
        return
    assert everybodys.headers["vary"] == "authorization"
    for one, mine in (
        (member, ["like", "rocket"]),
        (wiki.member(), []),
        (wiki.member(joins=False), []),
    ):
        answer = one.client.get(path)
        assert answer.json() == counts | {"mine": mine}
        assert answer.headers["vary"] == "authorization"
        assert answer.headers["cache-control"] == "private, no-cache"
        tag = {"if-none-match": everybodys.headers["etag"]}
        assert one.client.get(path, headers=tag).status_code == 200
        assert one.client.get(path, headers={"if-none-match": answer.headers["etag"]}).is_redirect


def test_switched_off_they_are_read_and_nothing_else(api: httpx.Client) -> None:
    """Whatever is sent: this check comes first."""
    user = create_user(api)["id"]
    post = create_post(api, user)["post_id"]
    assert api.get(f"/posts/{post}/comments").json() == []
    assert sum(api.get(f"/posts/{post}/reactions").json().values()) == 0
    problem(api.get("/comments/1"), 404)
    for method, path in (
        ("POST", f"/posts/{post}/comments"),
        ("POST", "/posts/x/comments"),
        ("DELETE", "/comments/1"),
        ("PUT", f"/posts/{post}/reactions/like"),
        ("PUT", f"/posts/{post}/reactions/other"),
        ("DELETE", f"/posts/{post}/reactions/like"),
    ):
        for content in (b"", b"{}", b'{"user_id": %d, "content": "x"}' % user):
            answer = api.request(method, path, content=content)
            assert "EDITING is off" in problem(answer, 403)["detail"]
    problem(api.put(f"/posts/{post}/comments"), 405)


def test_they_go_with_their_post_and_their_user(
    database: Database, start_service: StartService
) -> None:
    wiki = Wiki(start_service(database, EDITING="anyone"), None)
    posts, members = [wiki.post() for _ in range(2)], [wiki.member() for _ in range(2)]
    for post in posts:
        for member in members:
            assert member.comment(post).status_code == 201
            assert member.set(post, "heart").status_code == 204
    wiki.service.terminate()
    foreign_keys = "" if isinstance(database, PostgresDatabase) else "PRAGMA foreign_keys = ON"
    with database.connect() as connection:
        for statement in (
            foreign_keys,
            f"DELETE FROM posts WHERE post_id = {posts[0]}",
            f"DELETE FROM users WHERE id = {members[0].id}",
        ):
            connection.execute(statement)
        left = [(posts[1], members[1].id)]
        for table in ("comments", "reactions"):
            found = connection.execute(f"SELECT post_id, user_id FROM {table}").fetchall()
            assert found == left, table


REFERENCES = {
    # A table's INTEGER PRIMARY KEY has no index: the table itself is one.
    "sqlite": """
        SELECT tables.name, key."from"
        FROM sqlite_schema AS tables, pragma_foreign_key_list(tables.name) AS key,
            pragma_table_info(tables.name) AS info
        WHERE tables.type = 'table' AND info.name = key."from"
            AND NOT (info.pk = 1 AND info.type = 'INTEGER' AND NOT EXISTS (
                SELECT 1 FROM pragma_table_info(tables.name) WHERE pk = 2))
            AND NOT EXISTS (
                SELECT 1 FROM pragma_index_list(tables.name) AS indexes,
                    pragma_index_info(indexes.name) AS columns
                WHERE seqno = 0 AND columns.name = key."from")
    """,
    "postgresql": """
        SELECT conrelid::regclass::text, conname FROM pg_constraint
        WHERE contype = 'f' AND NOT EXISTS (
            SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1])
    """,
}


def test_each_column_that_refers_to_a_table_has_an_index(
    database: Database, start_service: StartService
) -> None:
    """Otherwise a deletion reads the whole table."""
    start_service(database)
    assert database.execute(REFERENCES[database.kind]) == []
