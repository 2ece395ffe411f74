"""Clients whose connections break, and too many clients."""

import contextlib
import itertools
import json
import random
import resource
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from support.api import create_user
from support.databases import Database, SqliteDatabase
from support.figures import Figures
from support.ledger import Ledger
from support.service import StartService, metrics
from support.wait import wait_until


def test_connections_cut_in_mid_request(
    database: Database,
    start_service: StartService,
    ledger: Ledger,
    figures: Figures,
    chance: random.Random,
    long: bool,
) -> None:
    """With a FIN or an RST, anywhere in the request or right after it."""
    cuts = 20_000 if long else 500
    service = start_service(database, RUST_LOG="warn")
    process = psutil.Process(service.process.pid)
    with ledger.writers(service, clients=2):
        ledger.wait_for_more(20)
        for cut in range(cuts):
            name = ledger.new_name()
            body = json.dumps({"name": name}).encode()
            head = f"POST /users HTTP/1.1\r\nhost: wiki\r\ncontent-length: {len(body)}\r\n\r\n"
            request = head.encode() + body
            kept = chance.choice([len(request), chance.randrange(len(request))])
            # Recorded first: its row may exist before the next line runs.
            (ledger.open if kept == len(request) else ledger.refused).add(name)
            with service.connect() as client:
                client.sendall(request[:kept])
                if chance.random() < 0.5:
                    reset = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            if cut % 10 == 9:
                # At the database's pace: what it cannot keep up with is refused.
                ledger.wait_for_more(1)
            if cut % 5000 == 4999:
                figures.progress(f"{cut + 1:,} of {cuts:,} cuts")
    assert set(ledger.statuses) == {201}
    wait_until(lambda: metrics(service)["http_requests_in_flight"] == 1, "every request to end")

    def clients() -> int:
        connections = process.net_connections("tcp")
        return sum(bool(one.raddr) and one.laddr.port == service.port for one in connections)

    # The remaining one reads the metrics.
    wait_until(lambda: clients() == 1, "every connection to be closed")
    figures.report(f"{cuts:,} cuts, {ledger.settle(database)}")
    rows = database.execute("SELECT count(*) FROM users")[0][0]
    assert metrics(service)["users_created_total"] == rows, "what is committed is counted"


def test_running_out_of_file_descriptors(
    database: Database, start_service: StartService, ledger: Ledger, figures: Figures
) -> None:
    limit = 100
    service = start_service(
        database,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        HEADER_TIMEOUT_SECONDS=60,
        RUST_LOG="warn",
    )
    with ledger.writers(service):
        ledger.wait_for_more(100)
    process = psutil.Process(service.process.pid)
    greedy = [service.connect() for _ in range(2 * limit)]
    wait_until(lambda: process.num_fds() >= limit - 1, "every descriptor to be taken")
    seconds, cpu_seconds = time.monotonic(), sum(process.cpu_times()[:2])
    wait_until(lambda: time.monotonic() > seconds + 2, "two seconds to pass")
    spent = sum(process.cpu_times()[:2]) - cpu_seconds
    assert spent < 0.5, f"{spent:.2f} s of CPU time in two seconds: it spins"
    assert process.is_running()
    assert len(service.text.splitlines()) < 100, "it floods its log"
    for client in greedy:
        client.close()
    with httpx.Client(base_url=service.url, timeout=30) as client:
        assert client.get("/livez").status_code == 200
    with ledger.writers(service):
        ledger.wait_for_more(100)
    assert set(ledger.statuses) == {201}
    figures.report(f"{ledger.settle(database)}, {spent:.2f} s of CPU time in 2 s without any left")
    assert create_user(service.client)


def test_answers_that_are_cut_off_are_asked_for_again(
    database: Database,
    start_service: StartService,
    figures: Figures,
    chance: random.Random,
    long: bool,
) -> None:
    """With the same Idempotency-Key, until there is a response: as many rows as intents."""
    intents, clients = 10_000 if long else 200, 8
    service = start_service(database, RUST_LOG="warn")
    cuts = itertools.count()

    def write(number: int) -> dict[str, object]:
        name, rounds = f"user {number}", chance.randrange(1, 4)
        body = json.dumps({"name": name}).encode()
        head = (
            f"POST /users HTTP/1.1\r\nhost: wiki\r\nidempotency-key: {number}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        for _ in range(rounds):
            with service.connect() as client:
                client.sendall(head.encode() + body)
                if chance.random() < 0.5:
                    client.recv(chance.randrange(1, 40))
                if chance.random() < 0.5:
                    reset = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            if (cut := next(cuts)) % 5000 == 4999:
                figures.progress(f"{cut + 1:,} cuts")

        def answer() -> httpx.Response | None:
            headers = {"Idempotency-Key": f'"{number}"'}
            answer = service.client.post("/users", json={"name": name}, headers=headers)
            assert answer.status_code == 201 or answer.headers["retry-after"], answer.text
            return answer if answer.status_code == 201 else None

        return wait_until(answer, f"an answer for {name}", seconds=60).json()

    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(write, range(intents)))
    wait_until(lambda: metrics(service)["http_requests_in_flight"] == 1, "every request to end")
    rows = dict(database.execute("SELECT id, name FROM users"))
    assert rows == {answer["id"]: answer["name"] for answer in answers}
    assert metrics(service)["users_created_total"] == len(rows) == intents
    figures.report(f"{next(cuts):,} answers cut off, {intents:,} intents, {len(rows):,} rows")


def test_memory_for_connections_at_their_worst(
    sqlite_database: SqliteDatabase, start_service: StartService, figures: Figures, long: bool
) -> None:
    """Headers of nearly 64 KiB on each, an endless body, again and again: the chart's memory limit
    has to be enough for this with its MAX_CONNECTIONS."""
    connections, waves = (4000, 16) if long else (500, 4)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    service = start_service(sqlite_database, REQUEST_TIMEOUT_SECONDS=300)
    process = psutil.Process(service.process.pid)
    memory = resting = process.memory_info().rss
    head = b"POST /users HTTP/1.1\r\nhost: wiki\r\nx-much: %s\r\ncontent-length: 20000\r\n\r\n"
    request = head % (b"a" * 62_000)
    for wave in range(waves):
        body = b"{" * (1 if wave % 2 else 12_000)
        with contextlib.ExitStack() as clients:
            for _ in range(connections):
                clients.enter_context(service.connect()).sendall(request + body)
            wait_until(
                lambda: metrics(service)["http_requests_in_flight"] == connections + 1,
                "every request to have begun",
                seconds=60,
            )
            memory = max(memory, process.memory_info().rss)
        wait_until(
            lambda: metrics(service)["http_requests_in_flight"] == 1,
            "every request to end",
            seconds=60,
        )
        figures.progress(f"{wave + 1} of {waves} waves, {memory / 1e6:.0f} MB")
    each = (memory - resting) / connections
    assert each < 250e3, f"{each:,.0f} bytes"
    size = f"{memory / 1e6:.0f} MB, {each / 1e3:.0f} kB each"
    figures.report(f"{connections:,} connections, {waves} times: {size}")
