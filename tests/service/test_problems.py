"""Every error other than validation: status, headers, body."""

import contextlib
import gzip
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.api import problem
from support.databases import Database
from support.service import Service, StartService

JSON = {"content-type": "application/json"}
LIMIT = 1024 * 1024


@pytest.mark.parametrize(
    "path", ["/nowhere", "/users/1/comment", "/users/1/posts/2", "/userss", "/docs/nowhere"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path(api: httpx.Client, method: str, path: str) -> None:
    problem(api.request(method, path), 404)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *((path, {"GET", "HEAD", "POST"}) for path in ("/users", "/posts")),
        *(
            (path, {"GET", "HEAD"})
            for path in ("/user/1", "/users/1/posts", "/posts/1/revisions", "/posts/1/diff")
        ),
        ("/users/1", {"GET", "HEAD", "DELETE"}),
        ("/posts/1", {"GET", "HEAD", "PUT", "DELETE"}),
        *((path, {"GET", "HEAD"}) for path in ("/metrics", "/livez", "/readyz", "/healthz", "/")),
        *(
            (path, {"GET", "HEAD"})
            for path in ("/docs", "/redoc", "/openapi.json", "/openapi.yaml")
        ),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_a_wrong_method(api: httpx.Client, method: str, path: str, allowed: set[str]) -> None:
    answer = api.request(method, path)
    if method in allowed:
        problem(answer, 403)
        return
    problem(answer, 405)
    assert {word.strip() for word in answer.headers["allow"].split(",")} == allowed


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/xml", "?"],
)
def test_a_wrong_content_type(api: httpx.Client, content_type: str) -> None:
    headers = {"content-type": content_type}
    for path in ("/users", "/posts"):
        answer = api.post(path, content=b'{"name": "x"}', headers=headers)
        assert answer.headers["accept"] == "application/json"
        body = problem(answer, 415)
        assert "application/json" in body["detail"], "the detail should say what is accepted"


@pytest.mark.parametrize("coding", ["gzip", "br", "x-made-up", "identity, gzip"])
def test_a_compressed_body(api: httpx.Client, coding: str) -> None:
    """RFC 9110, section 12.5.3."""
    headers = JSON | {"content-encoding": coding}
    for path in ("/users", "/posts"):
        answer = api.post(path, content=gzip.compress(b'{"name": "x"}'), headers=headers)
        assert "Content-Encoding" in problem(answer, 415)["detail"]
        assert answer.headers["accept-encoding"] == "identity"
    plain = JSON | {"content-encoding": "Identity"}
    assert api.post("/users", content=b'{"name": "x"}', headers=plain).status_code == 201


def test_no_content_type_is_taken_as_json(api: httpx.Client) -> None:
    """Like FastAPI for years."""
    assert api.post("/users", content=b'{"name": "x"}').status_code == 201


def test_a_content_type_with_a_charset(api: httpx.Client) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    assert api.post("/users", content=b'{"name": "x"}', headers=headers).status_code == 201


def filled(size: int) -> bytes:
    """A user of `size` bytes, all of which have to be read first."""
    return b'{"name":"x"' + b" " * (size - 12) + b"}"


def chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


def test_a_body_at_the_limit(api: httpx.Client) -> None:
    assert api.post("/users", content=filled(LIMIT), headers=JSON).status_code == 201
    assert api.post("/users", content=chunks(filled(LIMIT)), headers=JSON).status_code == 201


@pytest.mark.parametrize("path", ["/users", "/posts"])
def test_a_body_beyond_the_limit(api: httpx.Client, path: str) -> None:
    body = problem(api.post(path, content=filled(LIMIT + 1), headers=JSON), 413)
    assert str(LIMIT) in body["detail"].replace(",", ""), "the detail should say what the limit is"


@pytest.mark.parametrize("megabytes", [2, 12])
def test_curl_hears_that_its_body_is_too_large(
    shared_service: Service, tmp_path: Path, megabytes: int
) -> None:
    """For this the service has to keep reading for a while: curl sends before it listens."""
    body = tmp_path / "body"
    body.write_bytes(filled(megabytes * LIMIT))
    for expect in ("Expect:", "Expect: 100-continue"):
        curl = subprocess.run(
            [
                *("curl", "--silent", "--show-error", "--http1.1", "-H", expect),
                *("-H", "Content-Type: application/json", "--data-binary", f"@{body}"),
                *("--write-out", "\n%{http_code}", f"{shared_service.url}/users"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert curl.stdout.endswith("\n413"), f"{expect}: {curl.stdout} {curl.stderr}"


@pytest.mark.parametrize("path", ["/users", "/posts"])
def test_a_chunked_body_beyond_the_limit(api: httpx.Client, path: str) -> None:
    problem(api.post(path, content=chunks(filled(LIMIT + 1)), headers=JSON), 413)


def test_a_body_that_ends_too_early(shared_service: Service) -> None:
    with socket.create_connection((shared_service.host, shared_service.port), timeout=10) as client:
        client.sendall(
            b"POST /users HTTP/1.1\r\nhost: wiki\r\ncontent-type: application/json\r\n"
            b'content-length: 100\r\n\r\n{"name"'
        )
        client.shutdown(socket.SHUT_WR)
        said = client.recv(65536)
    assert said.startswith(b"HTTP/1.1 400 ") or said == b"", said


def test_the_limit_of_a_body_is_a_variable(
    sqlite_database: Database, start_service: StartService
) -> None:
    client = start_service(sqlite_database, MAX_BODY_BYTES=100).client
    assert client.post("/users", content=filled(100), headers=JSON).status_code == 201
    problem(client.post("/users", content=filled(101), headers=JSON), 413)


def test_an_error_inside_says_nothing_of_its_cause(
    database: Database, start_service: StartService
) -> None:
    service = start_service(database)
    database.execute("ALTER TABLE posts RENAME TO others")
    answer = service.client.get("/posts/1")
    problem(answer, 500)
    assert "retry-after" not in answer.headers
    for word in ("table", "relation", "SELECT", "sql", "posts does not exist"):
        assert word.lower() not in answer.text.lower().replace("/posts/1", "")
    lines = service.lines_of(answer.headers["x-request-id"])
    causes = [line for line in lines if line["level"] == "ERROR"]
    assert any("posts" in str(line).replace("/posts/", "") for line in causes), (
        "the log does not say that the table is missing"
    )


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /users HTTP/1.1\r\ncontent-type: text/plain", b"415"),
        (b"POST /nowhere HTTP/1.1\r\ncontent-type: application/json", b"404"),
        (b"PUT /users HTTP/1.1\r\ncontent-type: application/json", b"405"),
        (b"POST /users/ HTTP/1.1\r\ncontent-type: application/json", b"307"),
        (b"GET /livez HTTP/1.1\r\ncontent-type: application/json", b"200"),
    ],
    ids=["415", "404", "405", "307", "200"],
)
def test_a_connection_lives_on_or_says_that_it_ends(
    shared_service: Service, head: bytes, status: bytes
) -> None:
    """An unneeded body arrives after its header, as most clients and proxies send it. If the
    connection then closed without a word, the next request on it would be lost."""
    body = b'{"name": "x"}'
    with socket.create_connection((shared_service.host, shared_service.port), timeout=10) as client:
        client.sendall(head + b"\r\nhost: wiki\r\ncontent-length: %d\r\n\r\n" % len(body))
        client.settimeout(0.3)
        try:
            first = client.recv(65536)
        except TimeoutError:
            first = b""
        client.settimeout(10)
        with contextlib.suppress(OSError):
            client.sendall(body)
        first = first or client.recv(65536)
        assert first.startswith(b"HTTP/1.1 " + status)
        if b"connection: close" in first.lower():
            return
        second = b""
        with contextlib.suppress(OSError):
            client.sendall(b"GET /livez HTTP/1.1\r\nhost: wiki\r\n\r\n")
            second = client.recv(65536)
        assert second.startswith(b"HTTP/1.1 200"), "the connection ended without a word"
