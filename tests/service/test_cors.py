"""Pages of other origins: refused, unless a variable allows them."""

import pytest

from support.databases import SqliteDatabase
from support.service import Service, StartService

ORIGIN = "https://app.example"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type",
}


def test_it_is_off(shared_service: Service) -> None:
    client = shared_service.client
    for answer in (
        client.post("/users", json={"name": "x"}, headers={"origin": ORIGIN}),
        client.options("/users", headers=PREFLIGHT),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.fixture
def service(sqlite_database: SqliteDatabase, start_service: StartService) -> Service:
    return start_service(sqlite_database, CORS_ALLOWED_ORIGINS=f"https://other.example,{ORIGIN}")


def test_an_allowed_origin_gets_in(service: Service) -> None:
    preflight = service.client.options("/users", headers=PREFLIGHT)
    assert preflight.status_code in (200, 204)
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "content-type" in preflight.headers["access-control-allow-headers"].lower()
    answer = service.client.post("/users", json={"name": "x"}, headers={"origin": ORIGIN})
    assert answer.status_code == 201
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "origin" in answer.headers["vary"].lower()


def test_a_page_may_read_its_errors(service: Service) -> None:
    for answer in (
        service.client.post("/users", json={}, headers={"origin": ORIGIN}),
        service.client.get("/users/999", headers={"origin": ORIGIN}),
        service.client.get("/nowhere", headers={"origin": ORIGIN}),
    ):
        assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_another_origin_stays_out(service: Service) -> None:
    headers = PREFLIGHT | {"origin": "https://evil.example"}
    assert (
        "access-control-allow-origin"
        not in service.client.options("/users", headers=headers).headers
    )
    headers = {"origin": "https://evil.example"}
    answer = service.client.get("/users/1", headers=headers)
    assert "access-control-allow-origin" not in answer.headers


def test_a_client_without_an_origin_notices_nothing(service: Service) -> None:
    assert service.client.post("/users", json={"name": "curl"}).status_code == 201


def test_a_star_lets_every_origin_in(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    client = start_service(sqlite_database, CORS_ALLOWED_ORIGINS="*").client
    assert client.options("/users", headers=PREFLIGHT).status_code in (200, 204)
    answer = client.get("/users/1", headers={"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] in ("*", ORIGIN)


def test_a_preflight_lists_the_headers_that_the_document_has(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    for path, item in document["paths"].items():
        parameters = [p for o in item.values() for p in o.get("parameters", [])]
        names = {p["name"].lower() for p in parameters if p["in"] == "header"} | {"x-request-id"}
        names |= {"content-type"} if any("requestBody" in o for o in item.values()) else set()
        answer = service.client.options(path.replace("{id}", "1"), headers=PREFLIGHT)
        assert set(answer.headers["access-control-allow-headers"].split(", ")) == names, path


def test_a_page_may_read_the_headers_of_an_answer(service: Service) -> None:
    answer = service.client.get("/users", headers={"origin": ORIGIN})
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert set(exposed) >= {"etag", "link", "location", "retry-after", "x-request-id"}
