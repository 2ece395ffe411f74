"""Our service and the predecessor on unusual requests: they differ as docs/predecessor.md says."""

import gzip
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest

from support.databases import Postgres
from support.predecessor import Predecessor
from support.service import Service

JSON = {"content-type": "application/json"}
Request = tuple[str, str, dict[str, str], bytes | None]


def get(path: str, method: str = "GET") -> Request:
    return method, path, {}, None


def user(body: bytes | str, headers: dict[str, str] = JSON) -> Request:
    return "POST", "/users", headers, body.encode() if isinstance(body, str) else body


def typed(content_type: str) -> Request:
    return user('{"name": "x"}', {"content-type": content_type})


def coded(coding: str, body: bytes) -> Request:
    return user(body, JSON | {"content-encoding": coding})


def post(user_id: str, content: str = '"x"') -> Request:
    return "POST", "/posts", JSON, f'{{"user_id": {user_id}, "content": {content}}}'.encode()


def named(name: str) -> Request:
    return user(f'{{"name": {name}}}')


def with_other(value: str) -> Request:
    """In a field that is ignored."""
    return user(f'{{"name": "x", "other": {value}}}')


NAMED = b'{"name": "x"}'
# The request, and the status of both, or the predecessor's and ours.
TABLE: list[tuple[Request, int] | tuple[Request, int, int]] = [
    # Paths
    *(
        (get(path), 200)
        for path in ("/users/1", "/user/1", "/posts/1", "/users/1?x=1", "/users/01")
    ),
    *((get(path), 200) for path in ("/users/%31", "/docs", "/redoc", "/metrics")),
    *((get(path), 307) for path in ("/users/1/", "/users/", "/metrics/", "/users/1/?a=%20b&c")),
    *((get(path), 307, 404) for path in ("/users//", "/users/1//")),
    (get("/users%2F1"), 200, 404),
    (get("/users?limit=x"), 405, 422),
    (("GET", "/users/1", {"if-none-match": "*"}, None), 200, 304),
    *((get(path), 404) for path in ("/users/0", "/users/999999", "/users/9223372036854775807")),
    *((get(path), 404) for path in ("/users//1", "/USERS/1", "/favicon.ico")),
    (get("/users/1/posts"), 404, 200),
    *((get(path), 405, 200) for path in ("/users", "/posts")),
    *((get(f"/users/{value}"), 422) for value in ("abc", "1.5", "1e0", "0x1", "true", "%D9%A1")),
    *((get(f"/users/{value}"), 200, 422) for value in ("+1", "%201", "1%20", "1.0")),
    *((get(f"/users/{value}"), 404, 422) for value in ("-1", "-0", "1_000")),
    (get("/users/9223372036854775808"), 500, 422),
    (get("/"), 404, 307),
    *((get(path), 404, 200) for path in ("/openapi.yaml", "/livez", "/readyz", "/healthz")),
    (get("/docs/oauth2-redirect"), 200, 404),
    # Methods
    (get("/docs", "HEAD"), 200),
    (get("/users", "HEAD"), 405, 200),
    (get("/users/1", "HEAD"), 405, 200),
    *((get("/users", method), 405) for method in ("OPTIONS", "PUT", "PATCH", "DELETE")),
    (get("/users/1", "POST"), 405),
    *((get(path, "DELETE"), 405, 403) for path in ("/users/1", "/posts/1")),
    (("PUT", "/posts/1", JSON, b'{"content": "x"}'), 405, 403),
    (get("/users/", "POST"), 307),
    (get("/users", "BREW"), 400, 405),
    # Content types and codings
    *((typed(f"application/{one}"), 201) for one in ("json; charset=utf-8", "problem+json")),
    *((typed(one), 201) for one in ("APPLICATION/JSON", "application/json;charset=utf-16")),
    *((typed(one), 422, 415) for one in ("text/json", "text/plain", "application/xml", "?", "")),
    *((typed(one), 422, 415) for one in ("application/x-www-form-urlencoded", "application/jsonp")),
    (user(NAMED, {}), 422, 201),
    (typed("application/json;;"), 201, 415),
    (user(NAMED, JSON | {"idempotency-key": "two words"}), 201, 422),
    (coded("identity", NAMED), 201),
    (coded("gzip", gzip.compress(NAMED)), 400, 415),
    (coded("gzip", NAMED), 201, 415),
    # Bodies that are not an object, or not JSON
    *((user(body), 422) for body in ("", "{}", "null", "[]", '"x"', "5", "{", '{"name": "x",}')),
    *((user(body), 422) for body in ("{'name': 'x'}", '{"name": "x"} x', '{"name": "x"}{}')),
    *((with_other(value), 422) for value in ("01", "+1", "1.", '"\\x"', '"a\tb"', "x")),
    (user('\u00a0{"name": "x"}'), 422),
    (user(' \r\n\t{"name": "x"}\n'), 201),
    (user('\ufeff{"name": "x"}'), 201),
    *((with_other(value), 201) for value in ("1e999", "1" * 400, "[" * 500 + "]" * 500)),
    *((with_other(value), 400, 201) for value in ("1" * 5000, "[" * 100_000 + "]" * 100_000)),
    *((with_other(value), 201, 422) for value in ("NaN", "-Infinity")),
    *((user('{"name": "x"}'.encode(one)), 201, 422) for one in ("utf-16", "utf-16-le", "utf-32")),
    (user('{"name": "\xe9"}'.encode("latin-1")), 400, 422),
    (user(b'{"name": "x"' + b" " * (2 << 20) + b"}"), 201, 413),
    # Fields
    (user('{"name": 5, "name": "x"}'), 201),
    (user('{"name": "x", "name": 5}'), 422),
    (user('{"name": "x", "id": 7}'), 201),
    (user('{"n\\u0061me": "x"}'), 201),
    (user('{"Name": "x"}'), 422),
    (with_other('"\\ud800"'), 201),
    *((named(value), 422) for value in ("5", "null", "true", '["x"]', "{}")),
    *((named(value), 201) for value in ('"\\ud83d\\ude00"', '"a\\nb"', f'"{"x" * 200}"')),
    *((named(value), 201, 422) for value in ('""', '" "', '"\u00a0"', f'"{"x" * 201}"')),
    *((named(value), 500, 422) for value in ('"\\ud800"', '"a\\u0000b"')),
    *((post("1", value), 422) for value in ("5", "null")),
    (post("1", f'"{"x" * 100_000}"'), 201),
    *((post("1", value), 201, 422) for value in ('""', '" "', f'"{"x" * 100_001}"')),
    (post("1", '"\\u0000"'), 500, 422),
    *((post(value), 201) for value in ("1", "1.0", "1e0", "10e-1")),
    *((post(value), 404) for value in ("0", "-0", "-0.0", "999999", "9223372036854775807")),
    *((post(value), 404) for value in ("9007199254740991.0",)),
    *((post(value), 422) for value in ("1.5", "1e19", "9223372036854775808.0", '"x"', '""')),
    *((post(value), 422) for value in ("null", "[1]", "{}")),
    *((post(value), 404, 422) for value in ("-1", "false", "9007199254740993.0")),
    *((post(value), 201, 422) for value in ("true", '"1"', '" 1 "', '"+1"', '"1.0"')),
    (post("1.00000000000000000001"), 201, 422),
    *((post(value), 500, 422) for value in ("9223372036854775808", "1e999", "1" * 400, "NaN")),
]


def answer(port: int, request: Request) -> tuple[int, str, Any]:
    """Status, media type and shape."""
    method, path, headers, body = request
    client = HTTPConnection("127.0.0.1", port, timeout=30)
    client.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        client.putheader(name, value)
    if body is not None:
        client.putheader("content-length", str(len(body)))
    client.endheaders(body)
    got = client.getresponse()
    said = got.read()
    client.close()
    if target := got.headers["location"] if got.status == 307 else None:
        return got.status, "", urlsplit(urljoin(f"http://w{path}", target))[2:]
    media_type = got.headers.get_content_type() if said else ""
    return got.status, media_type, shape(json.loads(said) if media_type.endswith("json") else None)


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: type(inner).__name__ for name, inner in sorted(value.items())}
    return type(value).__name__


@pytest.fixture(scope="module")
def servers(
    program: Path, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int]]:
    """The ports of both, which run on the same tables."""
    directory, database = tmp_path_factory.mktemp("predecessor"), postgres.create_database()
    ours = Service(program, directory, database.environment).wait_until_ready()
    theirs = Predecessor(directory, database)
    assert ours.client.post("/users", json={"name": "x"}).json()["id"] == 1
    assert ours.client.post("/posts", json={"user_id": 1, "content": "x"}).json()["post_id"] == 1
    yield theirs.port, ours.port
    theirs.close()
    ours.close()


def test_statuses_and_shapes(servers: tuple[int, int]) -> None:
    assert len(TABLE) >= 60
    wrong = []
    for request, *statuses in TABLE:
        theirs, ours = (answer(port, request) for port in servers)
        shown = f"{request[0]} {request[1]} {request[2]} {(request[3] or b'')[:60]!r}: "
        if [theirs[0], ours[0]] != [statuses[0], statuses[-1]]:
            wrong.append(f"{shown}{theirs[0]} {ours[0]}")
        if theirs[0] == ours[0] < 400 and theirs[1:] != ours[1:]:
            wrong.append(f"{shown}{theirs[1:]} {ours[1:]}")
        if ours[0] >= 400 and request[0] != "HEAD" and ours[1] != "application/problem+json":
            wrong.append(f"{shown}{ours[1]}")
    assert wrong == [], "\n".join(["docs/predecessor.md does not list all differences:", *wrong])
