"""SIGTERM and SIGINT: a replica stops without a client noticing."""

import itertools
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import httpx
import pytest

from support.api import create_user
from support.databases import Database, Postgres, SqliteDatabase
from support.net import NO_CAS
from support.service import Service, StartService, metrics
from support.wait import wait_until

SIGNALS = [signal.SIGTERM, signal.SIGINT]


def probe(service: Service, path: str = "/readyz") -> int | None:
    """The response on a new connection, as a probe makes one, or None without a listener."""
    try:
        return httpx.get(f"{service.url}{path}", verify=NO_CAS).status_code
    except httpx.TransportError:
        return None


def connection(service: Service, request: bytes = b"") -> socket.socket:
    client = socket.create_connection((service.host, service.port), timeout=30)
    client.sendall(request)
    return client


@pytest.mark.parametrize("number", SIGNALS)
def test_it_ends_at_once_when_idle(
    database: Database, start_service: StartService, number: signal.Signals
) -> None:
    service = start_service(database)
    create_user(service.client)
    start = time.monotonic()
    assert service.terminate(number) == 0
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("number", SIGNALS)
def test_requests_in_flight_finish(
    database: Database, start_service: StartService, number: signal.Signals
) -> None:
    patience = {
        "DATABASE_STATEMENT_TIMEOUT_SECONDS": 20,
        "DATABASE_ACQUIRE_TIMEOUT_SECONDS": 20,
        "REQUEST_TIMEOUT_SECONDS": 20,
    }
    service = start_service(database, **patience)
    create_user(service.client)
    resting = metrics(service)["http_requests_in_flight"]
    with ThreadPoolExecutor(3) as pool:
        with database.writes_blocked():
            pending = [pool.submit(create_user, service.client, f"{n}") for n in range(3)]
            wait_until(
                lambda: metrics(service)["http_requests_in_flight"] == resting + 3,
                "requests in flight",
                every=0.005,
            )
            service.process.send_signal(number)
            wait_until(lambda: probe(service) == 503, "readiness to fail", every=0.005)
            assert probe(service, "/users/1") == 200, "whoever has not heard yet is turned away"
            wait_until(lambda: probe(service) is None, "the listener to close")
            assert service.process.poll() is None
        users = [one.result() for one in pending]
    assert service.wait_for_end() == 0
    stored = {row[0] for row in database.execute("SELECT id FROM users")}
    assert {user["id"] for user in users} <= stored


GET = b"GET /livez HTTP/1.1\r\nhost: wiki\r\n\r\n"


def test_idle_connections_are_closed(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, SHUTDOWN_GRACE_SECONDS=20)
    used, unused, half = connection(service, GET), connection(service), connection(service, GET[:9])
    assert used.recv(65536).startswith(b"HTTP/1.1 200")
    start = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    assert used.recv(65536) == b""
    assert unused.recv(65536) == b""
    assert half.recv(65536) == b""
    assert service.wait_for_end() == 0
    assert 2 <= time.monotonic() - start < 5
    assert "cut off" not in service.text


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_request_on_an_idle_connection_is_answered_and_is_the_last(
    sqlite_database: SqliteDatabase, start_service: StartService, version: bytes
) -> None:
    """RFC 9112, section 9.6."""
    service = start_service(sqlite_database)
    request = GET.replace(b"1.1", version).replace(
        b"\r\n\r\n", b"\r\nconnection: keep-alive\r\n\r\n"
    )
    clients = [connection(service, request) for _ in range(3)]
    for client in clients:
        assert b"connection: close" not in client.recv(65536)
    clients.append(connection(service))
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: probe(service) == 503, "readiness to fail", every=0.005)
    listening, *later = clients
    for client in (listening, *later):
        client.sendall(request)
        answer = client.recv(65536).lower()
        assert answer.startswith(b"http/" + version + b" 200"), answer
        assert b"\r\nconnection: close\r\n" in answer
        assert b"keep-alive" not in answer
        assert client.recv(65536) == b""
        wait_until(lambda: probe(service) is None, "the listener to close", every=0.005)
    assert service.wait_for_end() == 0


def test_no_client_that_keeps_its_connection_loses_a_request(
    database: Database, start_service: StartService
) -> None:
    service = start_service(database)
    host, body, headers = service.host, b'{"name": "x"}', {"content-type": "application/json"}
    begun = threading.Barrier(25)

    def post_until_sent_away(_: int) -> int:
        """How many got a response; any unannounced close is an exception."""
        client = HTTPConnection(host, service.port, timeout=30)
        for answered in itertools.count(1):
            client.request("POST", "/users", body, headers)
            answer = client.getresponse()
            answer.read()
            assert answer.status == 201
            if answer.will_close:
                return answered
            if answered == 1:
                begun.wait()
            time.sleep(0.02)  # which is when its connection is idle
        raise AssertionError

    with ThreadPoolExecutor(24) as pool:
        clients = [pool.submit(post_until_sent_away, number) for number in range(24)]
        begun.wait()
        service.process.send_signal(signal.SIGTERM)
        answered = sum(client.result() for client in clients)
    assert service.wait_for_end() == 0
    assert database.execute("SELECT count(*) FROM users") == [(answered,)]


def test_an_answer_on_its_way_to_a_slow_client_is_whole(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    """Even beyond the idle timeout."""
    service = start_service(sqlite_database, SHUTDOWN_GRACE_SECONDS=20, IDLE_TIMEOUT_SECONDS=0.2)
    whole = service.client.get("/redoc").content
    client = socket.socket()
    # so that the client's kernel buffer is smaller than the response
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((service.host, service.port))
    client.sendall(b"GET /redoc HTTP/1.1\r\nhost: wiki\r\n\r\n")
    start = time.monotonic()
    wait_until(lambda: time.monotonic() > start + 1, "five times the limit to pass")
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: probe(service) is None, "the listener to close")
    received = b"".join(iter(lambda: client.recv(1 << 20), b""))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"\r\n\r\n" + whole), f"{len(received)} of {len(whole)} bytes"
    assert service.wait_for_end() == 0


@pytest.mark.parametrize(
    "stuck",
    [
        b"POST /users HT",
        b"POST /users HTTP/1.1\r\nhost: wiki\r\n",
        b"POST /users HTTP/1.1\r\nhost: wiki\r\ncontent-type: application/json\r\n"
        b'content-length: 100\r\n\r\n{"na',
        b"GET /redoc HTTP/1.1\r\nhost: wiki\r\n\r\n" * 20,
    ],
    ids=["no request", "half a header", "half a body", "never reads"],
)
def test_a_stuck_client_does_not_hold_it_beyond_the_grace(
    sqlite_database: SqliteDatabase, start_service: StartService, stuck: bytes
) -> None:
    service = start_service(
        sqlite_database,
        SHUTDOWN_GRACE_SECONDS=1,
        REQUEST_TIMEOUT_SECONDS=60,
        HEADER_TIMEOUT_SECONDS=60,
    )
    client = connection(service, stuck)
    assert service.client.get("/livez").status_code == 200
    start = time.monotonic()
    assert service.terminate() == 0
    assert time.monotonic() - start < 3
    client.close()


def test_a_database_that_hangs_does_not_hold_it_beyond_the_grace(
    own_postgres: Postgres, start_service: StartService
) -> None:
    service = start_service(
        own_postgres.create_database(), SHUTDOWN_GRACE_SECONDS=1, REQUEST_TIMEOUT_SECONDS=60
    )
    create_user(service.client)
    own_postgres.pause()
    start = time.monotonic()
    assert service.terminate() == 0
    assert time.monotonic() - start < 3.5


def test_it_ends_while_it_waits_for_the_database(
    own_postgres: Postgres, start_service: StartService
) -> None:
    database = own_postgres.create_database()
    own_postgres.stop()
    service = start_service(database, until="listening")
    start = time.monotonic()
    assert service.terminate() == 0
    assert time.monotonic() - start < 3


def test_a_second_signal_ends_it_at_once(database: Database, start_service: StartService) -> None:
    service = start_service(
        database, DATABASE_STATEMENT_TIMEOUT_SECONDS=60, REQUEST_TIMEOUT_SECONDS=60
    )
    create_user(service.client)
    with ThreadPoolExecutor(1) as pool, database.writes_blocked():
        resting = metrics(service)["http_requests_in_flight"]
        pending = pool.submit(httpx.post, f"{service.url}/users", json={"name": "x"}, timeout=60)
        wait_until(lambda: metrics(service)["http_requests_in_flight"] > resting, "the request")
        start = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        wait_until(lambda: "stopping" in service.text, "the first to be heard")
        service.process.send_signal(signal.SIGINT)
        assert service.wait_for_end() != 0
        assert time.monotonic() - start < 5
        assert isinstance(pending.exception(), httpx.TransportError)
