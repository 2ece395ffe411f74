"""Clients that are slow, many, or greedy."""

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from support.api import create_post, create_user, problem
from support.databases import Database, SqliteDatabase
from support.service import Service, StartService, environment, metrics
from support.wait import wait_until

GET = b"GET /livez HTTP/1.1\r\nhost: wiki\r\n\r\n"
SLOW_HEADER = b"GET /livez HTTP/1.1\r\nhost: wiki\r\n"
SLOW_BODY = (
    b"POST /users HTTP/1.1\r\nhost: wiki\r\ncontent-type: application/json\r\n"
    b"content-length: 100000\r\n\r\n"
)


def drip(client: socket.socket, piece: bytes) -> bytes:
    """Sends a piece now and then, which defeats a mere idle timeout, until the other side has
    closed; returns what it received."""
    received = b""
    client.settimeout(0.1)

    def gone() -> bool:
        nonlocal received
        try:
            client.sendall(piece)
            data = client.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            return True
        received += data
        return not data

    wait_until(gone, "the service to close the connection", seconds=10)
    return received


def test_slow_headers(sqlite_database: SqliteDatabase, start_service: StartService) -> None:
    service = start_service(sqlite_database, HEADER_TIMEOUT_SECONDS=0.5)
    client = service.connect()
    client.sendall(SLOW_HEADER)
    start = time.monotonic()
    drip(client, b"a: b\r\n")
    assert 0.3 < time.monotonic() - start < 3


def test_slow_headers_of_a_later_request(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, HEADER_TIMEOUT_SECONDS=0.5)
    client = service.connect()
    client.sendall(GET)
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    client.sendall(SLOW_HEADER)
    start = time.monotonic()
    drip(client, b"a: b\r\n")
    assert 0.3 < time.monotonic() - start < 3


def test_no_header_at_all(sqlite_database: SqliteDatabase, start_service: StartService) -> None:
    service = start_service(sqlite_database, HEADER_TIMEOUT_SECONDS=0.5)
    client = service.connect()
    start = time.monotonic()
    assert closed(client)
    assert 0.3 < time.monotonic() - start < 3


def test_an_idle_connection_is_closed(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, IDLE_TIMEOUT_SECONDS=0.5)
    client = service.connect()
    client.sendall(GET)
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    start = time.monotonic()
    assert closed(client)
    assert 0.3 < time.monotonic() - start < 3


def test_a_busy_connection_is_not_idle(database: Database, start_service: StartService) -> None:
    service = start_service(
        database, IDLE_TIMEOUT_SECONDS=0.2, DATABASE_STATEMENT_TIMEOUT_SECONDS=10
    )
    with ThreadPoolExecutor(1) as pool:
        with database.writes_blocked():
            pending = pool.submit(create_user, service.client)
            with pytest.raises(TimeoutError):
                pending.result(timeout=0.6)
        assert pending.result()


def test_a_client_that_never_reads_is_cut_off(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, REQUEST_TIMEOUT_SECONDS=0.5)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((service.host, service.port))
        client.sendall(GET.replace(b"livez", b"redoc") * 50)
        port = client.getsockname()[1]
        process = psutil.Process(service.process.pid)

        def served() -> bool:
            connections = process.net_connections("tcp")
            return any(one.raddr and one.raddr.port == port for one in connections)

        wait_until(served, "the connection to be accepted")
        wait_until(lambda: not served(), "the service to give up on it", seconds=10)


def test_answers_that_nobody_takes_do_not_fill_the_memory(
    database: Database, start_service: StartService
) -> None:
    """A post and a list of posts, requested by a thousand clients that never read."""
    service = start_service(database, REQUEST_TIMEOUT_SECONDS=3)
    user = create_user(service.client)["id"]
    post = create_post(service.client, user, "😀" * 100_000)
    for _ in range(99):
        create_post(service.client, user, "😀" * 200)
    process = psutil.Process(service.process.pid)
    with contextlib.ExitStack() as clients:
        for number in range(1000):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((service.host, service.port))
            path = b"posts?limit=100" if number % 2 else b"posts/%d" % post["post_id"]
            client.sendall(GET.replace(b"livez", path))
        answered = 'http_requests_total{method="GET",route="/posts%s",status="%s"}'

        def statuses() -> dict[str, float]:
            found = metrics(service.client)
            kinds = [(route, status) for route in ("", "/{id}") for status in ("200", "503")]
            return {f"{r} {s}": found.get(answered % (r, s), 0) for r, s in kinds}

        wait_until(lambda: sum(statuses().values()) == 1000, "all to be answered", seconds=60)
        assert process.memory_info().rss < 160 << 20
        assert statuses()["/{id} 503"] > 0, "400 kB each: there is no room for all of them"
    wait_until(
        lambda: service.client.get(f"/posts/{post['post_id']}").status_code == 200,
        "the room to be free again",
    )


def test_no_room_for_an_answer_is_said_and_may_be_tried_again(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, REQUEST_TIMEOUT_SECONDS=60)
    user = create_user(service.client)["id"]
    path = f"/posts/{create_post(service.client, user)['post_id']}"
    # As an adopted post may be: larger than the kernel's buffers for a client.
    sqlite_database.execute("UPDATE posts SET content = printf('%.*c', 20000000, 'x')")
    with contextlib.ExitStack() as clients:
        for _ in range(3):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((service.host, service.port))
            client.sendall(GET.replace(b"/livez", path.encode()))
            assert client.recv(12) == b"HTTP/1.1 200"
        # A request body, even an empty one, does not change that.
        for body in (None, b"", b"x"):
            headers = {} if body is None else {"content-length": str(len(body))}
            refused = service.client.request("GET", path, content=body, headers=headers)
            assert "answers" in problem(refused, 503)["detail"]
            assert refused.headers["retry-after"] == "1"
        assert service.client.get(f"/users/{user}").status_code == 200
        # The response to a write is still sent.
        content = "x" * 100_000
        assert create_post(service.client, user, content)["content"] == content


def closed(client: socket.socket) -> bool:
    try:
        return client.recv(65536) == b""
    except ConnectionResetError:
        return True


def test_a_slow_body(sqlite_database: SqliteDatabase, start_service: StartService) -> None:
    service = start_service(sqlite_database, REQUEST_TIMEOUT_SECONDS=0.5)
    client = service.connect()
    client.sendall(SLOW_BODY)
    start = time.monotonic()
    said = drip(client, b" ")
    assert 0.3 < time.monotonic() - start < 3
    assert said.startswith(b"HTTP/1.1 408 "), said[:500]
    assert b"the body took longer than 0.5 s to arrive" in said


def test_a_request_past_its_time_is_a_503(database: Database, start_service: StartService) -> None:
    service = start_service(
        database, REQUEST_TIMEOUT_SECONDS=0.3, DATABASE_STATEMENT_TIMEOUT_SECONDS=5
    )
    with database.writes_blocked():
        start = time.monotonic()
        answer = service.client.post("/users", json={"name": "x"})
        assert answer.status_code == 503
        assert "retry-after" not in answer.headers
        assert time.monotonic() - start < 1.5
    wait_until(
        lambda: service.client.post("/users", json={"name": "x"}).status_code == 201,
        "the next write to succeed",
    )


HALF_CLOSED = (
    b"GET /users/1 HTTP/1.1\r\nhost: wiki\r\n\r\n",
    b"POST /users HTTP/1.1\r\nhost: wiki\r\ncontent-length: 13\r\n\r\n" + b'{"name": "x"}',
    GET + GET,
)


@pytest.mark.parametrize("request_", HALF_CLOSED, ids=["GET", "POST", "two at once"])
def test_a_client_that_ends_its_side_gets_its_answer(
    shared_service: Service, request_: bytes
) -> None:
    """Like `nc -N`."""
    create_user(shared_service.client)
    client = shared_service.connect()
    client.sendall(request_)
    client.shutdown(socket.SHUT_WR)
    answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 20") == request_.count(b"HTTP/1.1"), answer


def test_a_client_that_ends_its_side_is_not_waited_for_for_ever(
    database: Database, start_service: StartService
) -> None:
    """It may be gone."""
    patience = {"DATABASE_STATEMENT_TIMEOUT_SECONDS": 60, "REQUEST_TIMEOUT_SECONDS": 60}
    service = start_service(database, **patience)
    with database.writes_blocked():
        client = service.connect()
        client.sendall(HALF_CLOSED[1])
        start = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        assert closed(client)
        assert 1.5 < time.monotonic() - start < 10
        reset = service.connect()
        reset.sendall(HALF_CLOSED[1])
        wait_until(lambda: requests_in_flight(service) == 1, "the request")
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        start = time.monotonic()
        reset.close()
        wait_until(lambda: requests_in_flight(service) == 0, "it to be given up")
        assert time.monotonic() - start < 1.5, "a reset leaves no doubt"


def requests_in_flight(service: Service) -> float:
    """Without the current one."""
    return metrics(service)["http_requests_in_flight"] - 1


def test_http_2_is_turned_away_in_its_own_words(shared_service: Service) -> None:
    """SETTINGS, then a GOAWAY with HTTP_1_1_REQUIRED (RFC 9113, sections 3.4, 6.8 and 7)."""
    client = shared_service.connect()
    client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    frames = []
    while answer:
        length = int.from_bytes(answer[:3])
        frames.append((answer[3], answer[9 : 9 + length]))
        answer = answer[9 + length :]
    assert [kind for kind, _ in frames] == [4, 7]
    assert frames[1][1] == bytes(7) + b"\x0dHTTP/1.1 only"


def test_every_address_is_ipv4_too_whatever_the_system_says(
    sqlite_database: SqliteDatabase, program: Path
) -> None:
    """net.ipv6.bindv6only, in a network of its own."""
    script = (
        "ip link set lo up && echo 1 > /proc/sys/net/ipv6/bindv6only || exit 77; "
        '"$0" & for _ in $(seq 100); do sleep 0.1; "$0" healthcheck && break; done; code=$?; '
        "kill $! && wait $!; exit $code"
    )
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, program],
        env=environment(LISTEN_ADDRESS="::", PORT="8000", **sqlite_database.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no network namespace: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_connections_beyond_the_limit_wait_their_turn(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, until="nothing", MAX_CONNECTIONS=3)
    wait_until(lambda: answers(service), "the first answer")
    taken = [service.connect() for _ in range(3)]
    for client in taken:
        client.sendall(GET)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    assert not answers(service), "a fourth connection is served"
    taken.pop().close()
    wait_until(lambda: answers(service), "a place to be free again")
    for client in taken:
        client.close()


def answers(service: Service) -> bool:
    """Whether a new connection gets an answer within half a second."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{service.url}/livez", timeout=0.5).status_code == 200
    return False


def test_tcp_nodelay(shared_service: Service) -> None:
    """Asks the kernel about the service's own end of a connection."""
    client = shared_service.connect()
    client.sendall(GET)
    assert client.recv(65536)
    process = psutil.Process(shared_service.process.pid)
    peer = next(
        one
        for one in process.net_connections("tcp")
        if one.raddr and one.raddr.port == client.getsockname()[1]
    )
    pidfd_getfd = 438  # the same on every architecture
    pidfd = os.pidfd_open(process.pid)
    duplicate = ctypes.CDLL(None, use_errno=True).syscall(pidfd_getfd, pidfd, peer.fd, 0)
    os.close(pidfd)
    if duplicate < 0:
        pytest.skip(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    with socket.socket(fileno=duplicate) as server:
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.close()


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: wiki\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n", b"431"),
    ],
    ids=["no HTTP", "a huge header"],
)
def test_malformed_http_is_refused(
    shared_service: Service, request_head: bytes, status: bytes
) -> None:
    client = shared_service.connect()
    with contextlib.suppress(OSError):
        client.sendall(request_head)
    assert client.recv(65536).startswith(b"HTTP/1.1 " + status)
    client.close()


def test_pipelined_requests_are_answered_in_order(shared_service: Service) -> None:
    client = shared_service.connect()
    client.sendall(GET + GET.replace(b"livez", b"nowhere") + GET)
    received = b""
    while received.count(b"HTTP/1.1") < 3:
        data = client.recv(65536)
        assert data, received
        received += data
    statuses = [part[1:4] for part in received.split(b"HTTP/1.1")[1:]]
    assert statuses == [b"200", b"404", b"200"]
    client.close()
