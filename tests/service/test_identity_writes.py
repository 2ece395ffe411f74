"""With a token issuer: repeated writes, cached responses, and the index of subjects."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support import tokens
from support.api import create_post, create_user, errors, problem
from support.databases import Database, PostgresDatabase
from support.service import Service, StartService, metrics
from support.tokens import ADMIN, Issuer, as_, bearer
from support.wait import wait_until

KEY = "Idempotency-Key"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


@pytest.fixture
def service(database: Database, start_service: StartService, issuer: Issuer) -> Service:
    return start_service(database, **issuer.variables)


def post(client: httpx.Client, path: str, key: str, **body: Any) -> httpx.Response:
    return client.post(path, json=body, headers={KEY: key})


def as_one(answers: list[httpx.Response]) -> None:
    assert {answer.status_code for answer in answers} == {201}, answers[0].text
    assert len({(answer.text, answer.headers["location"]) for answer in answers}) == 1


def test_a_repeat_makes_ones_user_once(service: Service, issuer: Issuer) -> None:
    ada, admin = as_(service, issuer.token("ada")), as_(service, issuer.token("root", scope=ADMIN))
    made = [post(ada, "/users", "k", name="Ada") for _ in range(2)]
    as_one(made)
    assert set(errors(post(ada, "/users", "k", name="Eve"))) == {f"#/header/{KEY}"}
    again = post(ada, "/users", "another", name="Ada")
    problem(again, 409)
    assert again.headers["location"] == made[0].headers["location"]
    # Refused requests have written nothing under any key.
    assert post(ada, "/users", "another", name="Eve").status_code == 409
    bob = as_(service, issuer.token("bob"))
    assert post(bob, "/users", "k", name="Bob").status_code == 201, "a key is its caller's own"

    carol = [post(admin, "/users", "c", name="Carol", subject="carol") for _ in range(2)]
    as_one(carol)
    for others in ({"name": "Carol", "subject": "dave"}, {"name": "Carol"}):
        assert set(errors(post(admin, "/users", "c", **others))) == {f"#/header/{KEY}"}
    admin.put(f"/users/{made[0].json()['id']}/subject", json={"subject": None})
    as_one([*made, post(ada, "/users", "k", name="Ada")])
    assert metrics(service)["users_created_total"] == 3


def test_a_repeat_writes_ones_post_once(service: Service, issuer: Issuer) -> None:
    ada, bob = as_(service, issuer.token("ada")), as_(service, issuer.token("bob"))
    own, other = create_user(ada)["id"], create_user(bob)["id"]
    made = [post(ada, "/posts", "k", user_id=own, content="x") for _ in range(2)]
    as_one(made)
    used = {f"#/header/{KEY}"}
    assert set(errors(post(ada, "/posts", "k", user_id=own, content="y"))) == used
    assert set(errors(post(ada, "/posts", "k", user_id=other, content="x"))) == used
    problem(post(ada, "/posts", "other", user_id=other, content="x"), 403)
    assert post(ada, "/posts", "other", user_id=own, content="x").status_code == 201
    assert post(bob, "/posts", "k", user_id=other, content="x").status_code == 201
    assert metrics(service)["posts_created_total"] == 3


@pytest.mark.parametrize("path", ["/users", "/posts"])
def test_repeats_at_once_are_one(service: Service, issuer: Issuer, path: str) -> None:
    ada = as_(service, issuer.token("ada"))
    body = {"name": "Ada"} if path == "/users" else {"content": "x"}
    if path == "/posts":
        body["user_id"] = create_user(ada)["id"]
    with ThreadPoolExecutor(16) as pool:
        as_one(list(pool.map(lambda _: post(ada, path, "k", **body), range(16))))
    assert metrics(service)[f"{path[1:]}_created_total"] == 1


def test_authorization_comes_before_the_cache(
    database: Database, start_service: StartService, issuer: Issuer
) -> None:
    service = start_service(database, **issuer.variables, AUTH_READ="token", CACHE_SECONDS="60")
    ada, bob = as_(service, issuer.token("ada")), as_(service, issuer.token("bob"))
    user = create_user(ada)
    number = create_post(ada, user["id"])["post_id"]
    for path in (f"/posts/{number}", f"/users/{user['id']}"):
        first = ada.get(path)
        assert ada.get(path).json() == first.json()
        tag = {"if-none-match": first.headers["etag"]}
        for headers in ({}, tag, bearer("nonsense") | tag):
            problem(service.client.get(path, headers=headers), 401)
        same = bob.get(path, headers=tag)
        assert same.status_code == 304
        for answer in (first, same):
            assert answer.headers["cache-control"] == "private, no-cache"
            assert answer.headers["vary"] == "authorization"
    assert metrics(service)['cache_requests_total{result="hit"}'] > 0

    mine = ada.get("/users/me")
    assert mine.json() == user
    assert ada.get("/users/me", headers={"if-none-match": mine.headers["etag"]}).status_code == 304
    problem(bob.get("/users/me"), 404)
    other = create_user(bob)
    assert bob.get("/users/me", headers={"if-none-match": mine.headers["etag"]}).json() == other


def test_without_the_index_of_subjects_the_rest_goes_on(
    postgres_database: PostgresDatabase, start_service: StartService, issuer: Issuer
) -> None:
    """As right after an upgrade: a long transaction delays it."""
    service = start_service(postgres_database, **issuer.variables)
    ada, bob = as_(service, issuer.token("ada")), as_(service, issuer.token("bob"))
    user = create_user(ada)
    postgres_database.execute("DROP INDEX users_subject")
    with postgres_database.connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT FROM users LIMIT 1")
        first = bob.post("/users", json={"name": "Bob"})
        building = "SELECT 1 FROM pg_stat_progress_create_index WHERE datname = current_database()"
        wait_until(lambda: postgres_database.execute(building), "it to be built again")
        for answer in (first, bob.post("/users", json={"name": "Bob"}), ada.get("/users/me")):
            assert "index" in problem(answer, 503)["detail"]
            assert answer.headers["retry-after"]
        create_post(ada, user["id"])
        assert service.client.get(f"/users/{user['id']}").json() == user
        assert service.client.get("/readyz").status_code == 200
    wait_until(lambda: bob.post("/users", json={"name": "Bob"}).status_code == 201, "the index")
    problem(bob.post("/users", json={"name": "Bob"}), 409)
