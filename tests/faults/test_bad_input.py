"""Whatever is sent, no response is a 5xx, and no memory leaks."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from support import tokens
from support.api import create_user
from support.databases import Database, SqliteDatabase
from support.figures import Figures
from support.service import ROOT, Service, StartService, requests_seen
from support.tokens import ADMIN, Issuer, write_keys

JSON = {"content-type": "application/json"}
# Of many writes, on a busy machine one or the other takes as long as the default.
PATIENT = {"DATABASE_STATEMENT_TIMEOUT_SECONDS": 5}
# Allocators keep less than this; a leak of 300 bytes per request is more.
MEMORY_MARGIN = 24 << 20


@contextlib.contextmanager
def unharmed(
    service: Service, figures: Figures, *, sent: int | None = None
) -> Iterator[Callable[[], None]]:
    """Fails if a request of the block got a 5xx, or if memory has grown since the yielded function
    was called, which should be done when the service has warmed up."""
    process = psutil.Process(service.process.pid)
    memory, requests, failures = (
        process.memory_info().rss,
        requests_seen(service),
        requests_seen(service, "5"),
    )

    def warm() -> None:
        nonlocal memory
        memory = process.memory_info().rss

    yield warm
    assert requests_seen(service, "5") == failures, service.text[-3000:]
    grown = process.memory_info().rss - memory
    assert grown < MEMORY_MARGIN, f"{grown >> 20} MiB more than before"
    seen = f"{requests_seen(service) - requests:,.0f} requests"
    if sent:
        seen = f"{sent:,} requests sent, {seen} that the service could read"
    figures.report(f"{seen}, none answered with 5xx, {grown / 2**20:+.1f} MiB of memory")


# Random bytes as HTTP

BODY = b'{"name": "Ada", "user_id": 1, "content": "Notes"}'
SEEDS = [
    b"GET /users/1 HTTP/1.1\r\nhost: wiki\r\naccept: */*\r\n\r\n",
    b"GET /posts/1?a=b&c=%20d HTTP/1.1\r\nhost: wiki\r\nx-request-id: 1\r\n\r\n",
    b"HEAD http://wiki/openapi.json HTTP/1.1\r\nhost: wiki\r\nx-forwarded-for: ::1, x\r\n\r\n",
    b"OPTIONS /users HTTP/1.1\r\nhost: wiki\r\norigin: http://a\r\n"
    b"access-control-request-method: POST\r\n\r\n",
    b"DELETE /user/1 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    *(
        b"POST /%s HTTP/1.1\r\nhost: wiki\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (path, len(BODY), BODY)
        for path in (b"users", b"posts")
    ),
    b"POST /users HTTP/1.1\r\nhost: wiki\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n"
    b'\r\n10;a=b\r\n{"name": "Grace"\r\n1\r\n}\r\n0\r\nx: y\r\n\r\n',
]
PIECES = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"/",
        b"%",
        b"%00",
        b"..",
        b"?",
    ),
    *(
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"-1",
        b"9" * 30,
        b"0x",
        b"x" * 9000,
        b"a: b\r\n" * 90,
    ),
    *(b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"0\r\n\r\n", b"host: x\r\n"),
    *(b"connection: close\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n", b"content-type: x\r\n"),
    *(b"HTTP/1.1", b"HTTP/2.0", b"GET ", b"CONNECT ", b"TRACE ", b"QUERY ", b"/docs", b"/metrics"),
]


def almost_http(chance: random.Random, seeds: list[bytes]) -> bytes:
    if chance.random() < 0.02:
        return chance.randbytes(chance.randint(1, 2000))
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(0, 4)):
        at = chance.randint(0, len(data))
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = chance.randbytes(1)
            case 1:
                data[at:at] = chance.choice(PIECES)
            case 2:
                del data[at : at + chance.randint(1, 30)]
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 60)]
            case 4:
                data += chance.choice(SEEDS)
    return bytes(data)


def send(service: Service, data: bytes) -> None:
    """Sends everything, closes its side, and reads whatever comes."""
    with service.connect() as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except TimeoutError:
            pytest.fail(f"no answer, and no end, to {data!r}")
        except OSError:
            pass  # refused before everything was sent


@contextlib.contextmanager
def slow_clients(service: Service) -> Iterator[None]:
    """During the block, one client sends requests byte by byte, another reads responses so."""
    over = threading.Event()
    body = b'{"name": "slow"}'
    request = b"POST /users HTTP/1.1\r\nhost: wiki\r\ncontent-length: %d\r\n\r\n" % len(body)

    def write() -> None:
        while not over.is_set():
            with service.connect() as client:
                for byte in request + body:
                    client.sendall(bytes([byte]))
                    over.wait(0.01)
                assert client.recv(100).startswith(b"HTTP/1.1 201")

    def read() -> None:
        while not over.is_set():
            with service.connect() as client:
                client.sendall(b"GET /redoc HTTP/1.1\r\nhost: wiki\r\nconnection: close\r\n\r\n")
                while client.recv(4096) and not over.is_set():
                    over.wait(0.001)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(write), pool.submit(read)]
        try:
            yield
        finally:
            over.set()
    for client in running:
        client.result()


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    """It is never called: its keys are in the file keys.json."""
    with tokens.issuer() as one:
        write_keys(tmp_path / "keys.json", *one.keys)
        yield one


@pytest.mark.parametrize("callers", ["anybody", "known"])
def test_random_bytes_as_http(
    sqlite_database: SqliteDatabase,
    start_service: StartService,
    figures: Figures,
    chance: random.Random,
    long: bool,
    callers: str,
    issuer: Issuer,
) -> None:
    requests = 100_000 if long else 4000
    seeds, variables = SEEDS, {}
    if callers == "anybody who edits":
        variables = {"EDITING": "anyone"}
    if callers.startswith("known"):
        token = issuer.token(scope=ADMIN)
        line = b"host: wiki\r\nauthorization: Bearer %s\r\n" % token.encode()
        seeds = [*SEEDS, *(seed.replace(b"host: wiki\r\n", line) for seed in SEEDS)]
        variables = issuer.variables | {"AUTH_READ": "token", "AUTH_JWKS_FILE": "keys.json"}
    service = start_service(sqlite_database, RUST_LOG="warn", **variables)
    if callers == "anybody":
        create_user(service.client)
    with (
        unharmed(service, figures, sent=requests) as warm,
        slow_clients(service) if callers == "anybody" else contextlib.nullcontext(),
        ThreadPoolExecutor(4) as clients,
    ):
        for sent in range(0, requests, 1000):
            some = [almost_http(chance, seeds) for _ in range(1000)]
            list(clients.map(lambda data: send(service, data), some))
            if sent == requests // 4:
                warm()
            if sent % 10_000 == 9000:
                figures.progress(f"{sent + 1000:,} of {requests:,} requests sent")


def test_endless_bodies(
    sqlite_database: SqliteDatabase, start_service: StartService, figures: Figures
) -> None:
    service = start_service(sqlite_database)
    chunk = b"10000\r\n%s\r\n" % (b"x" * 0x10000)
    endless = {
        b"transfer-encoding: chunked": chunk,
        b"content-length: 9000000000000000000": chunk,
        # A chunk larger than any counter.
        b"transfer-encoding: chunked\r\n\r\nffffffffffffffff": chunk,
    }

    def run(framing: bytes) -> bytes:
        with service.connect() as client, contextlib.suppress(ConnectionError):
            client.sendall(b"POST /users HTTP/1.1\r\nhost: wiki\r\n" + framing + b"\r\n")
            if b"\r\n\r\n" not in framing:
                client.sendall(b"\r\n")
            for _ in range(2000):
                client.sendall(endless[framing])
            pytest.fail("125 MiB were taken")
        return client.recv(100) if client.fileno() >= 0 else b""

    with unharmed(service, figures), ThreadPoolExecutor(6) as clients:
        list(clients.map(run, [*endless] * 2))
    assert requests_seen(service, "413") == 6


# Random JSON

NUMBERS = (
    "0 -0 1 -1 0.0 -0.0 1.0 1e0 1E+2 1e-400 1e400 -1e400 0.1 1.5 9007199254740993 2147483648 "
    "9223372036854775807 9223372036854775808 -9223372036854775808 18446744073709551616 1e18 1e19 "
    f"9223372036854775807.0 {'9' * 400} 0.{'0' * 400}1 01 +1 .5 5. 1e 0x1 NaN Infinity --1"
).split()
ODD_TEXT = [
    "",
    " ",
    "\0",
    "\u200b",
    "\u202e",
    "\ufeff",
    "\ufffe",
    "\uffff",
    "\U0010ffff",
    "e\u0301",
    "\u00e9",
    "\U0001f469\u200d\U0001f4bb",
    "\U0001f1e9\U0001f1ea",
    "\u0378",
    "\ue000",
    "\x7f\x80\x9f",
    "\u2028\u2029",
    "ﬁ",
    "\u0130i\u0307\u0131I",
    "\u0e33",
    "ৌ" * 20,
    "a" + "\u0300" * 100,
]
NESTED = [
    *("[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "[" * 10_000),
    '{"name":' + "[" * 10_000 + "]" * 10_000 + "}",
    '{"name": "Ada", "x": ' + '{"a":' * 10_000 + "1" + "}" * 10_000 + "}",
    '{"name": "Ada", "x": [' + "[]," * 10_000 + "[]]}",
]


def text(chance: random.Random, length: int) -> str:
    """Any characters but NUL; surrogates are not characters."""
    planes = [(1, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return "".join(
        chr(chance.randint(*chance.choice(planes)))
        if chance.random() < 0.9
        else chance.choice(ODD_TEXT).replace("\0", "0")
        for _ in range(length)
    )


def almost_json(chance: random.Random, depth: int = 0) -> str:
    kinds = [almost_scalar] * 6 + [almost_array, almost_object] * (depth < 4)
    return chance.choice(kinds)(chance, depth + 1)


def almost_scalar(chance: random.Random, _: int) -> str:
    any_text = json.dumps(text(chance, chance.randint(0, 300)), ensure_ascii=chance.random() < 0.5)
    escapes = ["\\ud800", "\\udc00x", "\\u12", "\\x", "\t", "\\/"]
    return chance.choice(
        [
            chance.choice(["null", "true", "false", "nul", "True", "{", "]", '"', ","]),
            chance.choice(NUMBERS),
            json.dumps(chance.choice(ODD_TEXT)),
            f'"{chance.choice(escapes)}"',
            any_text,
        ]
    )


def almost_array(chance: random.Random, depth: int) -> str:
    return f"[{','.join(almost_json(chance, depth) for _ in range(chance.randint(0, 4)))}]"


def almost_object(chance: random.Random, depth: int) -> str:
    names = ["name", "name", "user_id", "content", "id", "", "\\u006eame"]
    fields = (
        f'"{chance.choice(names)}":{almost_json(chance, depth)}'
        for _ in range(chance.randint(0, 5))
    )
    return "{" + ",".join(fields) + "}"


def test_random_json(
    database: Database,
    start_service: StartService,
    figures: Figures,
    chance: random.Random,
    long: bool,
) -> None:
    bodies = 20_000 if long else 1000
    service = start_service(database, RUST_LOG="warn", **PATIENT)
    create_user(service.client)
    connection = HTTPConnection(service.host, service.port, timeout=30)
    with unharmed(service, figures) as warm:
        for number in range(bodies):
            body = chance.choice(NESTED) if number % 50 == 0 else almost_object(chance, 0)
            path = chance.choice(["/users", "/posts"])
            connection.request("POST", path, body.encode(), JSON)
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status in (201, 404, 422), (body[:500], answer.status, said)
            if number == bodies // 4:
                warm()
            if number % 5000 == 4999:
                figures.progress(f"{number + 1:,} of {bodies:,} bodies sent")


def test_any_text_comes_back_as_sent(
    database: Database,
    start_service: StartService,
    figures: Figures,
    chance: random.Random,
    long: bool,
) -> None:
    names = 10_000 if long else 500
    service = start_service(database, RUST_LOG="warn", **PATIENT)
    connection = HTTPConnection(service.host, service.port, timeout=30)

    def call(method: str, path: str, body: str | None = None) -> dict[str, str]:
        connection.request(method, path, body.encode() if body else None, JSON)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        assert answer.status in (200, 201), (body, said)
        return said

    with unharmed(service, figures):
        for number in range(names):
            # A single character that is not white space, anywhere, makes any text a name.
            letters = [*text(chance, chance.randint(0, 199))[:199], "x"]
            chance.shuffle(letters)
            name = "".join(letters)
            user = call("POST", "/users", json.dumps({"name": name}, ensure_ascii=number % 2 == 0))
            assert user["name"] == name
            assert call("GET", f"/users/{user['id']}") == user
            if number % 5000 == 4999:
                figures.progress(f"{number + 1:,} of {names:,} names")


@pytest.mark.parametrize(
    ("phases", "editing"),
    [
        ("examples,coverage", "off"),
        ("fuzzing,stateful", "anyone"),
        ("examples,coverage,fuzzing", "users"),
    ],
)
def test_schemathesis_finds_nothing(
    database: Database,
    start_service: StartService,
    figures: Figures,
    phases: str,
    editing: str,
    long: bool,
    tmp_path: Path,
    issuer: Issuer,
) -> None:
    variables = {"EDITING": editing}
    # What is switched off is always a 403, so there is nothing to read.
    more = ("--warnings", "off")
    if editing == "users":
        variables |= issuer.variables | {"AUTH_READ": "token", "AUTH_JWKS_FILE": "keys.json"}
        more = ("--header", f"Authorization: Bearer {issuer.token(scope=ADMIN)}")
    service = start_service(database, RUST_LOG="warn", SEARCH="true", **PATIENT, **variables)
    # by itself it expects no 428, and no 413 for a text whose escapes make the body too large
    missing = '["400", "401", "403", "406", "415", "422", "428"]'
    invalid = '["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428"]'
    (tmp_path / "schemathesis.toml").write_text(
        f"[checks.missing_required_header]\nexpected-statuses = {missing}\n"
        f"[checks.negative_data_rejection]\nexpected-statuses = {invalid}\n"
    )
    schemathesis = Path(sys.executable).parent / "schemathesis"
    with unharmed(service, figures):
        run = subprocess.run(
            [
                *(schemathesis, "run", f"{service.url}/openapi.json"),
                *more,
                *("--checks", "all"),
                *("--phases", phases),
                *("--max-examples", "500" if long else "60"),
                *("--seed", "1"),
                "--generation-deterministic",
                "--no-color",
            ],
            cwd=tmp_path,
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT / "tests"),
                "SCHEMATHESIS_HOOKS": "support.schemathesis_hooks",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        print(run.stdout, run.stderr)
        assert run.returncode == 0, "schemathesis found faults: see its report above"
        assert "No issues found" in run.stdout
