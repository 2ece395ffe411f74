"""Deleting posts and users, with what belongs to them and nothing else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support import tokens
from support.api import create_post, create_user, problem
from support.databases import Database, PostgresDatabase, SqliteDatabase
from support.editing import KINDS, history, put, shared, tag
from support.service import Service, StartService, metrics
from support.tokens import ADMIN, Issuer, as_
from support.wait import wait_until

LARGEST_ID = 2**63 - 1


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


@pytest.fixture(scope="module", params=KINDS)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, issuer: Issuer
) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp(request.param)
    variables = issuer.variables | {"EDITING": "users", "SEARCH": "true"}
    with shared(request, request.param, directory, **variables) as one:
        as_(one, issuer.token("first")).post("/users", json={"name": "x"})
        for path in ("/users/1/posts", "/posts?q=x"):
            wait_until(lambda p=path: one.client.get(p).status_code == 200, "the indexes")
        yield one


@pytest.fixture
def ada(service: Service, issuer: Issuer, request: pytest.FixtureRequest) -> httpx.Client:
    return as_(service, issuer.token(f"ada of {request.node.name}"))


@pytest.fixture
def bob(service: Service, issuer: Issuer, request: pytest.FixtureRequest) -> httpx.Client:
    client = as_(service, issuer.token(f"bob of {request.node.name}"))
    create_user(client, "Bob")
    return client


@pytest.fixture
def admin(service: Service, issuer: Issuer) -> httpx.Client:
    """Who has no user."""
    return as_(service, issuer.token("root", scope=ADMIN))


@pytest.fixture
def user(ada: httpx.Client) -> str:
    """Ada's."""
    return f"/users/{create_user(ada)['id']}"


@pytest.fixture
def post(ada: httpx.Client, user: str) -> str:
    """By Ada, with two revisions."""
    path = f"/posts/{create_post(ada, int(user.split('/')[2]), 'first')['post_id']}"
    assert put(ada, path, "second").status_code == 200
    return path


def test_what_is_deleted_is_gone(ada: httpx.Client, post: str) -> None:
    answer = ada.delete(post)
    assert (answer.status_code, answer.content) == (204, b"")
    for path in (post, f"{post}?revision=1", f"{post}/revisions", f"{post}/diff?from=1&to=2"):
        problem(ada.get(path), 404)
    problem(ada.delete(post), 404)
    problem(put(ada, post, "third"), 404)
    number = int(post.split("/")[2])
    assert number not in [entry["post_id"] for entry in ada.get("/posts").json()]


@pytest.mark.parametrize("who", ["ada", "admin"])
def test_who_may_delete_a_post(request: pytest.FixtureRequest, post: str, who: str) -> None:
    assert request.getfixturevalue(who).delete(post).status_code == 204


def test_who_may_not_delete_a_post(
    service: Service, issuer: Issuer, bob: httpx.Client, post: str
) -> None:
    stranger = as_(service, issuer.token("stranger"))
    for client in (bob, stranger):
        assert "not yours" in problem(client.delete(post), 403)["detail"]
        problem(client.delete(f"/posts/{LARGEST_ID}"), 404)
    problem(service.client.delete(post), 401)
    assert service.client.get(post).json()["content"] == "second"


def test_a_deletion_may_be_conditional(ada: httpx.Client, bob: httpx.Client, post: str) -> None:
    stale = tag(ada, post)
    current = put(bob, post, "third", stale).headers["etag"]
    answer = ada.delete(post, headers={"If-Match": stale})
    problem(answer, 412)
    assert answer.headers["etag"] == current
    problem(bob.delete(post, headers={"If-Match": stale}), 403)
    problem(ada.delete(post, headers={"If-Match": "x"}), 422)
    assert ada.delete(post, headers={"If-Match": current}).status_code == 204


def test_who_may_delete_a_user(
    ada: httpx.Client, bob: httpx.Client, admin: httpx.Client, user: str
) -> None:
    assert "not yours" in problem(bob.delete(user), 403)["detail"]
    assert bob.get(user).status_code == 200
    assert ada.delete(user).status_code == 204
    problem(ada.get(user), 404)
    problem(ada.get("/users/me"), 404)
    problem(ada.delete(user), 404)
    problem(admin.delete(user), 404)
    again = create_user(ada)["id"]
    assert again != int(user.split("/")[2])
    assert admin.delete(f"/users/{again}").status_code == 204


def test_a_user_with_posts_is_not_deleted(
    ada: httpx.Client, bob: httpx.Client, admin: httpx.Client, user: str, post: str
) -> None:
    number = int(user.split("/")[2])
    posts = [post, *(f"/posts/{create_post(ada, number)['post_id']}" for _ in range(4))]
    problem(bob.delete(user), 403)
    for client in (ada, admin):
        answer = client.delete(user)
        detail = problem(answer, 409)["detail"]
        assert f"DELETE {posts[-1]}" in detail
        listed = str(httpx.URL(user).join(answer.headers["location"]))
        assert len(client.get(listed).json()) == 5
    for path in posts:
        assert ada.delete(path).status_code == 204
    assert ada.delete(user).status_code == 204


def test_what_a_user_has_edited_stays(ada: httpx.Client, bob: httpx.Client, post: str) -> None:
    editor = bob.get("/users/me").json()["id"]
    for content in ("by bob", "by bob again"):
        assert put(bob, post, content).status_code == 200
    editors = [entry["editor_id"] for entry in ada.get(f"{post}/revisions").json()]
    assert editors[:2] == [editor, editor]
    texts, etag = history(ada, post), tag(ada, post)
    assert bob.delete(f"/users/{editor}").status_code == 204
    editors = [entry["editor_id"] for entry in ada.get(f"{post}/revisions").json()]
    assert editors[:2] == [None, None]
    assert history(ada, post) == texts
    assert tag(ada, post) == etag


def test_deletions_are_counted(
    service: Service, ada: httpx.Client, bob: httpx.Client, user: str, post: str
) -> None:
    names = ("posts_deleted_total", "users_deleted_total", "edit_conflicts_total")
    before = [metrics(service)[name] for name in names]
    bob.delete(post)
    ada.delete(user)
    ada.delete(post, headers={"If-Match": '"x"'})
    ada.delete(post)
    ada.delete(post)
    ada.delete(user)
    ada.delete(user)
    assert [metrics(service)[name] for name in names] == [number + 1 for number in before]


def test_a_search_finds_what_there_is(ada: httpx.Client, user: str) -> None:
    def found(word: str) -> list[str]:
        return [entry["excerpt"] for entry in ada.get("/posts", params={"q": word}).json()]

    number = int(user.split("/")[2])
    path = f"/posts/{create_post(ada, number, 'old words')['post_id']}"
    assert put(ada, path, "new words").status_code == 200
    assert found("old words") == []
    assert found("new words") == ["new words"]
    assert ada.delete(path).status_code == 204
    assert found("new words") == []


def test_what_was_kept_in_memory_is_forgotten(
    database: Database, start_service: StartService, issuer: Issuer
) -> None:
    service = start_service(database, CACHE_SECONDS=3600, EDITING="author", **issuer.variables)
    ada = as_(service, issuer.token("ada"))
    create_post(ada, create_user(ada)["id"], "first")
    served = lambda: ada.get("/users/1/posts").status_code == 200  # noqa: E731
    wait_until(served, "the index")
    for path in ("/posts/1", "/users/1"):
        kept = [ada.get(path) for _ in range(2)]
        assert kept[0].headers["etag"] == kept[1].headers["etag"]
    second = put(ada, "/posts/1", "second", kept_tag := tag(ada, "/posts/1"))
    assert second.status_code == 200
    assert ada.get("/posts/1").content == second.content
    assert tag(ada, "/posts/1") == second.headers["etag"] != kept_tag
    for path in ("/posts/1", "/users/1"):
        assert ada.delete(path).status_code == 204
        problem(ada.get(path), 404)


def revise(database: Database, post: int, count: int) -> None:
    """As if the post had been edited this often."""
    numbers = (
        "generate_series(1, {0}) AS n"
        if database.kind == "postgresql"
        else "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {0}) "
        "SELECT n FROM s)"
    ).format(count)
    database.execute(
        "INSERT INTO post_revisions (post_id, revision, content, created_time) "
        f"SELECT {post}, n, 'text ' || n, '2024-12-14 10:30:00' FROM {numbers}"
    )
    database.execute(f"UPDATE posts SET revision = {count + 1} WHERE post_id = {post}")


@pytest.fixture
def filled(
    database: Database, start_service: StartService, issuer: Issuer
) -> tuple[Service, httpx.Client]:
    """Two posts of many revisions each, and their author."""
    service = start_service(database, EDITING="author", **issuer.variables)
    ada = as_(service, issuer.token("ada"))
    create_user(ada)
    for number in (1, 2):
        create_post(ada, 1)
        revise(database, number, 10_000)
    return service, ada


def count(database: Database, table: str = "post_revisions") -> list[tuple[int, int]]:
    """How many rows each post has."""
    sql = f"SELECT post_id, count(*) FROM {table} GROUP BY post_id ORDER BY post_id"
    return [tuple(row) for row in database.execute(sql)]


def test_a_post_takes_ten_thousand_revisions_with_it(
    database: Database, filled: tuple[Service, httpx.Client]
) -> None:
    _, ada = filled
    assert ada.delete("/posts/1").status_code == 204
    assert count(database) == [(2, 10_000)]


def test_a_post_takes_ten_thousand_comments_with_it(
    database: Database, filled: tuple[Service, httpx.Client]
) -> None:
    _, ada = filled
    try:
        database.execute("SELECT 1 FROM comments")
    except Exception:  # noqa: BLE001 - each driver has its own
        pytest.skip("this version has no comments")
    for number in (1, 2):
        database.execute(
            "INSERT INTO comments (post_id, user_id, content, created_time) "
            f"SELECT {number}, 1, content, created_time FROM post_revisions WHERE post_id = 1"
        )
    assert ada.delete("/posts/1").status_code == 204
    assert count(database, "comments") == [(2, 10_000)]


def test_what_takes_too_long_to_delete_is_all_there(
    postgres_database: PostgresDatabase, start_service: StartService, issuer: Issuer
) -> None:
    """One of its revisions is locked for longer than a statement may take."""
    service = start_service(postgres_database, EDITING="author", **issuer.variables)
    ada = as_(service, issuer.token("ada"))
    create_user(ada)
    create_post(ada, 1)
    revise(postgres_database, 1, 100)
    with postgres_database.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM post_revisions WHERE revision = 50 FOR UPDATE")
        problem(ada.delete("/posts/1"), 503)
        assert len(history(ada, "/posts/1")) == 101
        connection.execute("ROLLBACK")
    assert ada.delete("/posts/1").status_code == 204
    assert count(postgres_database) == []
    assert metrics(service)["posts_deleted_total"] == 1


def test_what_takes_too_long_to_delete_is_all_there_on_sqlite(
    sqlite_database: SqliteDatabase, start_service: StartService, issuer: Issuer
) -> None:
    """The work ends with the response: it is not done after all."""
    settings = {"EDITING": "author", **issuer.variables}
    service = start_service(sqlite_database, DATABASE_STATEMENT_TIMEOUT_SECONDS=0.05, **settings)
    ada = as_(service, issuer.token("ada"))
    create_user(ada)
    create_post(ada, 1)
    revise(sqlite_database, 1, 200_000)
    problem(ada.delete("/posts/1"), 503)
    with sqlite_database.writes_blocked():
        assert count(sqlite_database) == [(1, 200_000)]
    assert ada.get("/posts/1").status_code == 200
    assert metrics(service)["posts_deleted_total"] == 0
    service.terminate()
    patient = start_service(sqlite_database, DATABASE_STATEMENT_TIMEOUT_SECONDS=20, **settings)
    assert as_(patient, issuer.token("ada")).delete("/posts/1").status_code == 204
    assert count(sqlite_database) == []


def test_a_post_that_is_written_meanwhile_keeps_its_user(
    postgres_database: PostgresDatabase, start_service: StartService, issuer: Issuer
) -> None:
    service = start_service(
        postgres_database,
        EDITING="author",
        DATABASE_STATEMENT_TIMEOUT_SECONDS=20,
        **issuer.variables,
    )
    ada = as_(service, issuer.token("ada"))
    create_user(ada)
    served = lambda: ada.get("/users/1/posts").status_code == 200  # noqa: E731
    wait_until(served, "the index")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = "
    with postgres_database.connect() as connection, ThreadPoolExecutor(1) as pool:
        connection.execute("BEGIN")
        connection.execute(
            "INSERT INTO posts (content, user_id, created_time) VALUES ('x', 1, now())"
        )
        deleting = pool.submit(ada.delete, "/users/1")
        here = f"{waiting} '{postgres_database.name}'"
        wait_until(lambda: postgres_database.execute(here), "the deletion to wait")
        connection.execute("COMMIT")
        assert "DELETE /posts/1" in problem(deleting.result(), 409)["detail"]


def test_a_user_with_posts_stays_where_no_key_keeps_him(
    sqlite_database: SqliteDatabase, start_service: StartService, issuer: Issuer
) -> None:
    """Tables created by others may lack the foreign key."""
    sqlite_database.execute(
        "CREATE TABLE posts (post_id INTEGER PRIMARY KEY, content TEXT NOT NULL, "
        "user_id INTEGER NOT NULL, created_time TEXT NOT NULL)"
    )
    service = start_service(sqlite_database, EDITING="author", **issuer.variables)
    ada = as_(service, issuer.token("ada"))
    create_user(ada)
    create_post(ada, 1)
    problem(ada.delete("/users/1"), 409)
    assert put(ada, "/posts/1", "second").status_code == 200
    assert ada.delete("/posts/1").status_code == 204
    assert ada.delete("/users/1").status_code == 204


@pytest.mark.parametrize("editing", ["off", "anyone"])
def test_nobody_deletes_what_nobody_is_known_to_have_made(
    database: Database, start_service: StartService, editing: str
) -> None:
    service = start_service(database, EDITING=editing)
    create_post(service.client, create_user(service.client)["id"])
    for path in ("/posts/1", "/users/1", "/posts/x", f"/users/{LARGEST_ID}"):
        assert f"EDITING is {editing}" in problem(service.client.delete(path), 403)["detail"]
    assert service.client.get("/posts/1").status_code == 200
