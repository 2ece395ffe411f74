"""With a token issuer: who may write, and as whom."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import tokens
from support.api import at_once, create_post, create_user, errors, problem, timed
from support.databases import Database
from support.service import Service, StartService, metrics
from support.tokens import ADMIN, AUDIENCE, Issuer, as_, bearer


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


@pytest.fixture
def service(database: Database, start_service: StartService, issuer: Issuer) -> Service:
    return start_service(database, **issuer.variables)


def challenge(answer: httpx.Response, status: int) -> str:
    problem(answer, status)
    return answer.headers["www-authenticate"]


def test_a_subject_has_one_user_and_writes_as_that_one(service: Service, issuer: Issuer) -> None:
    ada = as_(service, issuer.token("ada"))
    problem(ada.get("/users/me"), 404)
    user = create_user(ada)
    assert ada.get("/users/me").json() == user
    again = ada.post("/users", json={"name": "Ada again"})
    problem(again, 409)
    assert again.headers["location"] == f"users/{user['id']}"

    post = create_post(ada, user["id"])
    assert service.client.get(f"/posts/{post['post_id']}").json() == post

    bob = as_(service, issuer.token("bob"))
    others = [create_user(bob)["id"], user["id"], 2**62]
    for client, number in ((ada, others[0]), (bob, others[1]), (bob, others[2])):
        problem(client.post("/posts", json={"user_id": number, "content": "x"}), 403)
    found = metrics(service)
    assert found["posts_created_total"] == 1
    assert found["users_created_total"] == 2


def test_the_same_subject_at_once_has_one_user(service: Service, issuer: Issuer) -> None:
    ada = as_(service, issuer.token("ada"))
    answers = at_once(8, lambda _: timed(ada, "POST", "/users", json={"name": "Ada"}))
    assert sorted(answer.status for answer in answers) == [201, *[409] * 7]
    assert len({answer.headers["location"] for answer in answers}) == 1


def test_an_admin_writes_for_all(service: Service, issuer: Issuer) -> None:
    admin = as_(service, issuer.token("root", scope=f"openid {ADMIN}"))
    made = admin.post("/users", json={"name": "Bob", "subject": "bob"})
    assert made.status_code == 201
    bob = as_(service, issuer.token("bob"))
    assert bob.get("/users/me").json() == made.json()
    create_post(admin, made.json()["id"])
    problem(admin.post("/posts", json={"user_id": 2**62, "content": "x"}), 404)
    own = create_user(admin, "Root")
    assert admin.get("/users/me").json() == own

    ada = as_(service, issuer.token("ada", scope="wiki:administrator openid"))
    answer = ada.post("/users", json={"name": "x", "subject": "carol"})
    assert 'error="insufficient_scope"' in challenge(answer, 403)
    assert f'scope="{ADMIN}"' in answer.headers["www-authenticate"]
    assert set(errors(admin.post("/users", json={"name": "x", "subject": 5}))) == {"#/subject"}
    assert set(errors(admin.post("/users", json={"name": "", "subject": ""}))) == {
        "#/name",
        "#/subject",
    }
    assert "bob" not in made.text


def test_users_from_before_are_bound(
    database: Database, start_service: StartService, issuer: Issuer
) -> None:
    before = start_service(database)
    old, other = create_user(before.client), create_user(before.client)
    before.terminate()
    service = start_service(database, **issuer.variables)
    admin = as_(service, issuer.token("root", scope=ADMIN))
    ada = as_(service, issuer.token("ada"))

    def put(number: Any, body: Any, client: httpx.Client = admin) -> httpx.Response:
        return client.put(f"/users/{number}/subject", json=body)

    assert (put(old["id"], {"subject": "ada"}).status_code, put(old["id"], {}).status_code) == (
        204,
        422,
    )
    assert ada.get("/users/me").json() == old
    create_post(ada, old["id"])
    taken = put(other["id"], {"subject": "ada"})
    problem(taken, 409)
    assert taken.headers["location"] == f"../{old['id']}"
    assert put(old["id"], {"subject": "ada"}).status_code == 204, "it is that user's already"
    problem(put(2**62, {"subject": "carol"}), 404)
    problem(put(other["id"], {"subject": "ada"}, ada), 403)
    assert set(errors(put(other["id"], {"subject": ["ada"]}))) == {"#/subject"}
    assert put(old["id"], {"subject": None}).status_code == 204
    problem(ada.get("/users/me"), 404)
    assert put(other["id"], {"subject": "ada"}).status_code == 204
    assert ada.get("/users/me").json() == other


def test_order_of_refusals(service: Service, issuer: Issuer) -> None:
    ada, admin = issuer.token("ada"), issuer.token("root", scope=ADMIN)
    text = {"content-type": "text/plain"}

    def put(number: str, token: str | None, body: bytes = b"{}", **headers: str) -> int:
        sent = {"content-type": "application/json"} | headers | (bearer(token) if token else {})
        path = f"/users/{number}/subject"
        return service.client.put(path, content=body, headers=sent).status_code

    assert put("x", None, b"", **text) == 401
    assert put("x", "nonsense", b"", **text) == 401
    assert put("x", ada, b"", **text) == 403
    assert put("1", admin, b"", **{"content-type": "text/plain"}) == 415
    assert put("x", admin) == 422
    assert put("1", admin) == 422
    assert put("1", admin, b'{"subject": "x"}') == 404
    post = {"content": b'{"user_id": 1, "content": ""}', "headers": bearer(ada)}
    assert service.client.post("/posts", **post).status_code == 422, "before 403 by ownership"
    assert service.client.post("/nowhere", headers=bearer(ada)).status_code == 404
    assert service.client.patch("/users", headers=bearer(ada)).status_code == 405
    assert service.client.patch("/users").status_code == 401
    assert service.client.get("/users/x").status_code == 422


@pytest.mark.parametrize("read", ["public", "token"])
def test_what_takes_a_token(
    database: Database, start_service: StartService, issuer: Issuer, read: str
) -> None:
    service = start_service(
        database, **issuer.variables, AUTH_READ=read, CORS_ALLOWED_ORIGINS="https://example.org"
    )
    ada = as_(service, issuer.token("ada"))
    user = create_user(ada)
    for path in (
        *("/livez", "/readyz", "/healthz", "/metrics", "/docs", "/redoc", "/"),
        *("/openapi.json", "/openapi.yaml", "/docs/", "/livez/"),
    ):
        answer = service.client.get(path, headers=bearer("nonsense"))
        assert answer.status_code in (200, 307), path
        assert "authorization" not in answer.headers.get("vary", ""), path
    own = f"/users/{user['id']}"
    lists = ("/users", "/posts", f"{own}/posts")
    for path in (own, f"/user/{user['id']}", *lists, "/posts/1", "/nowhere", "/users/"):
        mine = ada.get(path)
        assert mine.status_code in (200, 307, 404)
        assert mine.headers["cache-control"] == "private, no-cache"
        assert "authorization" in mine.headers["vary"]
        for method in ("GET", "HEAD"):
            answer = service.client.request(method, path)
            if read == "token":
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "authorization" in answer.headers["vary"]
            else:
                assert answer.status_code == mine.status_code
                assert answer.headers.get("cache-control", "no-cache") == "no-cache"
    assert "authorization" in ada.get("/users/me").headers["vary"]
    assert challenge(service.client.get("/users/me"), 401) == "Bearer"
    asked = {"origin": "https://example.org", "access-control-request-method": "POST"}
    preflight = service.client.options("/users", headers=asked)
    assert preflight.status_code == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    for path in ("/users", "/posts", "/users/1/subject"):
        method = "PUT" if "subject" in path else "POST"
        assert challenge(service.client.request(method, path, json={}), 401) == "Bearer"


def test_a_proxys_own_scheme_is_none_of_ours(service: Service, issuer: Issuer) -> None:
    create_user(as_(service, issuer.token("ada")))
    basic = {"authorization": "Basic YWRhOnNlY3JldA=="}
    assert service.client.get("/users/1", headers=basic).status_code == 200
    answer = service.client.post("/users", json={"name": "x"}, headers=basic)
    assert challenge(answer, 401) == "Bearer"


def test_nothing_of_a_token_is_logged(
    database: Database, start_service: StartService, issuer: Issuer
) -> None:
    service = start_service(database, **issuer.variables, RUST_LOG="trace")
    subject, token = "a-subject-of-its-own", issuer.token("a-subject-of-its-own")
    client = as_(service, token)
    user = create_user(client)
    post = client.post("/posts", json={"user_id": user["id"], "content": "x"})
    me = client.get("/users/me")
    client.post("/posts", json={"user_id": 77, "content": "x"})
    bad = service.client.get("/users/1", headers=bearer(token[:-9] + "AAAAAAAAA"))
    assert bad.status_code == 401
    for answer in (post, me):
        last = service.lines_of(answer.headers["x-request-id"])[-1]
        assert last["user_id"] == user["id"]
    assert "user_id" not in service.lines_of(bad.headers["x-request-id"])[-1]
    service.terminate()
    for secret in (subject, *token.split(".")):
        assert secret not in service.text


def test_refusals_and_the_age_of_keys_are_in_the_metrics(
    database: Database, start_service: StartService, issuer: Issuer
) -> None:
    service = start_service(database, **issuer.variables)
    service.client.post("/users", json={"name": "x"})
    service.client.get("/users/1", headers=bearer(issuer.token(aud="other")))
    service.client.get("/users/1", headers=bearer(issuer.token(exp=1)))
    ada = as_(service, issuer.token("ada"))
    ada.post("/posts", json={"user_id": 9, "content": "x"})
    ada.put("/users/1/subject", json={"subject": "x"})
    found = metrics(service)
    for status, reason in (
        *((401, reason) for reason in ("missing", "audience", "expired")),
        *((403, reason) for reason in ("not_own", "scope")),
    ):
        assert found[f'auth_refusals_total{{reason="{reason}",status="{status}"}}'] == 1
    assert 0 <= found["auth_keys_age_seconds"] < 60


def test_without_an_issuer_nothing_changes(api: httpx.Client) -> None:
    problem(api.get("/users/me"), 422)
    problem(api.put("/users/1/subject", json={"subject": "x"}), 404)
    made = api.post("/users", json={"name": "x", "subject": 5}, headers=bearer("nonsense"))
    assert made.status_code == 201
    assert {"vary", "cache-control", "www-authenticate"}.isdisjoint(made.headers)
    assert "auth_" not in api.get("/metrics").text
    assert "ecurity" not in api.get("/openapi.json").text


def test_variables_that_need_each_other(
    start_service: StartService, issuer: Issuer, tmp_path: Path
) -> None:
    def said(**variables: str) -> str:
        service = start_service(until="nothing", **variables)
        assert service.wait_for_end() == 1
        return service.text.splitlines()[-1]

    for name, value in (
        ("AUTH_AUDIENCE", "a"),
        ("AUTH_READ", "public"),
        ("AUTH_JWKS_FILE", "keys.json"),
        ("AUTH_CA_FILE", "ca.pem"),
        ("AUTH_TOKEN_TYPE", "any"),
    ):
        line = said(**{name: value})
        assert name in line
        assert "AUTH_ISSUER" in line
    assert "AUTH_AUDIENCE" in said(AUTH_ISSUER=issuer.url)
    for url in (
        *("http://example.org", "ftp://example.org", "example.org", "https://ada@example.org"),
        *("https://example.org?a", "https://example.org/#a", "https://"),
    ):
        assert "AUTH_ISSUER" in said(AUTH_ISSUER=url, AUTH_AUDIENCE=AUDIENCE), url
    assert "AUTH_READ" in said(**issuer.variables, AUTH_READ="all")
    assert "AUTH_TOKEN_TYPE" in said(**issuer.variables, AUTH_TOKEN_TYPE="jwt")
    empty = tmp_path / "empty"
    empty.touch()
    for name in ("AUTH_CA_FILE", "AUTH_JWKS_FILE"):
        for path in (empty, tmp_path / "missing"):
            line = said(**issuer.variables, **{name: str(path)})
            assert name in line
            assert str(path) in line


def test_the_document_says_what_holds(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    paths = document["paths"]
    assert set(paths["/users"]) == {"get", "post"}
    assert paths["/users"]["post"]["security"] == [{"bearer": []}]
    assert {"401", "403", "409"} <= set(paths["/users"]["post"]["responses"])
    assert paths["/users/{id}"]["get"]["security"] == [{}, {"bearer": []}]
    assert "subject" in document["components"]["schemas"]["NewUser"]["properties"]
    assert {"/users/me", "/users/{id}/subject"} <= set(paths)
    assert "security" not in paths["/livez"]["get"]
    assert "403" not in paths["/users/me"]["get"]["responses"]
