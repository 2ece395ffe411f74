"""The database fails, in every way that it can, and comes back."""

import contextlib
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from support.api import Answer, at_once, create_post, create_user, problem, timed
from support.databases import Database, Postgres, PostgresDatabase
from support.figures import Figures
from support.ledger import Ledger
from support.net import TcpProxy, free_port
from support.service import Service, StartService, metrics
from support.wait import wait_until

# Two seconds are promised; the rest is a margin for measuring on a busy machine.
LIMIT = 2.5
POOL = 8
BODY = b'{"name": "gone before the answer"}'
GONE_BEFORE_THE_ANSWER = (
    b"POST /users HTTP/1.1\r\nhost: wiki\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


@dataclass
class Outage:
    database: PostgresDatabase
    environment: dict[str, str]
    begin: Callable[[], object]
    end: Callable[[], object]


@pytest.fixture(params=["refused", "silent", "stopped", "restarted"])
def outage(request: pytest.FixtureRequest, own_postgres: Postgres) -> Iterator[Outage]:
    """refused: no listener. silent: packets are dropped. stopped: SIGSTOP. restarted: shut down."""
    database = own_postgres.create_database()
    proxy = TcpProxy(own_postgres.port)
    begin, end = {
        "refused": (proxy.refuse, proxy.restore),
        "silent": (proxy.silence, proxy.restore),
        "stopped": (own_postgres.pause, own_postgres.resume),
        "restarted": (own_postgres.stop, own_postgres.start),
    }[request.param]
    yield Outage(database, database.environment_at(proxy.port), begin, end)
    proxy.close()


def calls(service: Service, user_id: int, count: int) -> list[Answer]:
    """Alternating reads and writes, all at once."""

    def call(number: int) -> Answer:
        if number % 2:
            return timed(service.client, "GET", f"/users/{user_id}")
        body = {"user_id": user_id, "content": f"number {number}"}
        return timed(service.client, "POST", "/posts", json=body)

    return at_once(count, call)


def assert_all_succeed(answers: list[Answer]) -> None:
    assert {answer.status for answer in answers} == {200, 201}


def assert_prompt_503s(answers: list[Answer]) -> None:
    assert {answer.status for answer in answers} == {503}
    slowest = max(answer.seconds for answer in answers)
    assert slowest < LIMIT, f"a request was held for {slowest:.1f} s"


def assert_the_pool_is_whole(service: Service, user_id: int) -> None:
    for _ in range(3):
        assert_all_succeed(calls(service, user_id, 3 * POOL))

    def at_rest() -> bool:
        found = metrics(service)
        connections = found["database_pool_connections"]
        return found["database_pool_idle_connections"] == connections <= POOL

    wait_until(at_rest, "every connection to be back in the pool")


def test_requests_fail_promptly_and_all_is_well_again(
    outage: Outage, start_service: StartService
) -> None:
    service = start_service(**outage.environment)
    user_id = create_user(service.client)["id"]
    assert_all_succeed(calls(service, user_id, 3 * POOL))
    outage.begin()
    for _ in range(3):
        assert_prompt_503s(calls(service, user_id, 2 * POOL))
        ready = timed(service.client, "GET", "/readyz")
        assert (ready.status, ready.seconds < LIMIT) == (503, True)
        alive = timed(service.client, "GET", "/livez")
        assert (alive.status, alive.seconds < 0.5) == (200, True)
        assert service.client.get("/metrics").status_code == 200
    problem(service.client.get(f"/users/{user_id}"), 503)
    outage.end()
    service.wait_until_ready()
    assert_the_pool_is_whole(service, user_id)


def test_under_load_nothing_hangs_and_nothing_acknowledged_is_lost(
    outage: Outage, start_service: StartService, ledger: Ledger, figures: Figures
) -> None:
    service = start_service(**outage.environment)
    with ledger.writers(service, clients=2 * POOL):
        ledger.wait_for_more(50)
        outage.begin()
        wait_until(lambda: ledger.statuses[503] > 4 * POOL, "requests to fail")
        outage.end()
        service.wait_until_ready()
        ledger.wait_for_more(50)
    assert set(ledger.statuses) == {201, 503}
    assert ledger.slowest < LIMIT, f"a request was held for {ledger.slowest:.1f} s"
    figures.report(f"{ledger.settle(outage.database)}, slowest answer {ledger.slowest:.1f} s")
    assert_the_pool_is_whole(service, min(ledger.acknowledged))


def test_kill_9_of_postgresql(
    own_postgres: Postgres,
    start_service: StartService,
    ledger: Ledger,
    figures: Figures,
    chance: random.Random,
    long: bool,
) -> None:
    kills = 20 if long else 2
    database = own_postgres.create_database()
    service = start_service(database, RUST_LOG="warn")
    with ledger.writers(service):
        for kill in range(kills):
            ledger.wait_for_more(chance.randint(1, 1000 if long else 200))
            failures = ledger.statuses[503]
            own_postgres.kill()
            wait_until(lambda: ledger.statuses[503] > failures, "requests to fail")  # noqa: B023
            own_postgres.start()
            if kill % 5 == 4:
                figures.progress(f"{kill + 1} of {kills} kills")
        ledger.wait_for_more(100)
    assert set(ledger.statuses) == {201, 503}
    assert ledger.slowest < LIMIT
    figures.report(
        f"{kills} kills, {ledger.settle(database)}, slowest answer {ledger.slowest:.1f} s"
    )
    assert_the_pool_is_whole(service, min(ledger.acknowledged))


def test_a_pool_starved_by_slow_queries(
    postgres_database: PostgresDatabase,
    start_service: StartService,
    ledger: Ledger,
    figures: Figures,
) -> None:
    """Others get a 503 at once, and may retry: nothing of theirs was sent."""
    service = start_service(postgres_database, DATABASE_STATEMENT_TIMEOUT_SECONDS=60)
    writers = 4
    with (
        ledger.writers(service, clients=writers),
        ThreadPoolExecutor(POOL) as readers,
        postgres_database.connect() as other,
    ):
        ledger.wait_for_more(100)
        post = create_post(service.client, min(ledger.acknowledged))
        with other.transaction(force_rollback=True):
            other.execute("LOCK TABLE posts IN ACCESS EXCLUSIVE MODE")
            url = f"{service.url}/posts/{post['post_id']}"
            slow = [readers.submit(httpx.get, url, timeout=30) for _ in range(POOL)]
            opened = "database_pool_connections"
            wait_until(lambda: metrics(service)[opened] == POOL, "the pool to be full")
            # Who waits already may do so for a connection to be opened, and not for a free one.
            before = len(ledger.refused)
            wait_until(lambda: len(ledger.refused) >= before + writers, "all these to be sent away")
            earlier = len(ledger.refused)
            wait_until(lambda: len(ledger.refused) > earlier + 16, "writers to be sent away")
            assert timed(service.client, "GET", "/livez").seconds < 0.5
            assert not any(answer.done() for answer in slow)
        assert {answer.result().json()["content"] for answer in slow} == {post["content"]}
        ledger.wait_for_more(100)
    assert set(ledger.statuses) == {201, 503}
    assert ledger.slowest < LIMIT
    timeouts = metrics(service)["database_pool_acquire_timeouts_total"]
    assert timeouts >= len(ledger.refused) - earlier
    figures.report(
        f"{len(ledger.refused)} sent away, {ledger.settle(postgres_database)}, "
        f"slowest answer {ledger.slowest:.1f} s"
    )


def test_retry_after_where_nothing_was_sent(
    own_postgres: Postgres, start_service: StartService
) -> None:
    service = start_service(own_postgres.create_database())
    own_postgres.stop()
    wait_until(
        lambda: service.client.post("/users", json={"name": "x"}).status_code == 503, "the outage"
    )
    answer = service.client.post("/users", json={"name": "x"})
    assert int(answer.headers["retry-after"]) >= 1


def test_no_retry_after_where_an_insert_was_sent(
    database: Database, start_service: StartService
) -> None:
    """The statement was cancelled, or its answer was lost: a retry might write twice."""
    service = start_service(database)
    with database.writes_blocked():
        answer = timed(service.client, "POST", "/users", json={"name": "x"})
    assert answer.status == 503
    assert answer.seconds < LIMIT
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("path", ["/users", "/posts"])
def test_retry_after_wherever_the_request_has_a_key(
    database: Database, start_service: StartService, path: str
) -> None:
    """However far it got: the retry writes what the first try has not, and no more."""
    service = start_service(database, DATABASE_POOL_SIZE=1, REQUEST_TIMEOUT_SECONDS=1.5)
    body = {"user_id": create_user(service.client)["id"], "content": "x", "name": "x"}
    keys = ["warm", "a", "b"]

    def send(key: str) -> httpx.Response:
        return service.client.post(path, json=body, headers={"Idempotency-Key": key})

    wait_until(lambda: send("warm").status_code == 201, "the index that keys take")
    with database.writes_blocked(), ThreadPoolExecutor(2) as pool:
        for answer in pool.map(send, keys[1:]):
            problem(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
    for key in keys:
        wait_until(lambda k=key: send(k).status_code == 201, "the retry")
    rows = database.execute(f"SELECT count(*), count(idempotency_key) FROM {path[1:]}")
    assert rows == [(4 if path == "/users" else 3, 3)]


def test_no_retry_after_where_an_insert_may_still_be_sent(
    database: Database, start_service: StartService
) -> None:
    """One of two is waiting for the only connection, or for SQLite's lock, when it is abandoned."""
    service = start_service(
        database,
        DATABASE_POOL_SIZE=1,
        REQUEST_TIMEOUT_SECONDS=0.5,
        DATABASE_ACQUIRE_TIMEOUT_SECONDS=9,
        DATABASE_STATEMENT_TIMEOUT_SECONDS=9,
    )
    with database.writes_blocked(), ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda name: service.client.post("/users", json={"name": name}), "ab")
        )
    for answer in answers:
        problem(answer, 503)
        assert "retry-after" not in answer.headers
    wait_until(
        lambda: database.execute("SELECT count(*) FROM users") == [(2,)], "both to be written"
    )


def test_no_retry_after_where_the_answer_was_lost(
    own_postgres: Postgres, start_service: StartService
) -> None:
    database = own_postgres.create_database()
    proxy = TcpProxy(own_postgres.port)
    service = start_service(DATABASE_POOL_SIZE=1, **database.environment_at(proxy.port))
    create_user(service.client)
    with database.writes_blocked(), ThreadPoolExecutor(1) as pool:
        pending = pool.submit(service.client.post, "/users", json={"name": "x"})
        wait_until(lambda: waiting_for_a_lock(database), "the insert to arrive", every=0.005)
        proxy.silence()
        answer = pending.result()
    problem(answer, 503)
    assert "retry-after" not in answer.headers
    proxy.close()


def waiting_for_a_lock(database: Database) -> bool:
    return bool(
        database.execute(
            "SELECT 1 FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    )


def test_statements_are_cut_at_their_limit(database: Database, start_service: StartService) -> None:
    service = start_service(database)
    user = create_user(service.client)
    with database.writes_blocked():
        for answer in at_once(
            POOL, lambda _: timed(service.client, "POST", "/users", json={"name": "x"})
        ):
            assert (answer.status, answer.seconds < LIMIT) == (503, True), answer
    assert_the_pool_is_whole(service, user["id"])


def test_a_postgresql_that_is_full_is_no_error_of_the_service(
    own_postgres: Postgres, start_service: StartService
) -> None:
    database = own_postgres.create_database()
    service = start_service(database)
    user_id = create_user(service.client)["id"]
    with contextlib.ExitStack() as others:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                others.enter_context(own_postgres.connect("postgres"))
        answers = calls(service, user_id, 3 * POOL)
        assert {answer.status for answer in answers} <= {200, 201, 503}
        assert max(answer.seconds for answer in answers) < LIMIT
    service.wait_until_ready()
    assert_the_pool_is_whole(service, user_id)


def test_the_database_moves_to_a_new_address(
    own_postgres: Postgres, start_service: StartService, tmp_path: Path
) -> None:
    """Its name has a new address; the old one is silent: no packet says that it is gone."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.1 database.example\n")
    own_hosts = ("unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$0"')
    if os.geteuid() or subprocess.run([*own_hosts, "true"], check=False).returncode:
        pytest.skip("a process with its own /etc/hosts needs root, and permission to mount")
    database = own_postgres.create_database()
    port = free_port()
    old = TcpProxy(own_postgres.port, host="127.0.0.1", port=port)
    new = TcpProxy(own_postgres.port, host="127.0.0.2", port=port)
    settings = database.environment_at(port, host="database.example")
    service = start_service(wrapper=own_hosts, **settings)
    user_id = create_user(service.client)["id"]
    assert_all_succeed(calls(service, user_id, 2 * POOL))
    old.silence()
    hosts.write_text("127.0.0.1 localhost\n127.0.0.2 database.example\n")
    assert max(answer.seconds for answer in calls(service, user_id, 2 * POOL)) < LIMIT
    service.wait_until_ready()
    assert_the_pool_is_whole(service, user_id)
    old.close()
    new.close()


def test_clients_that_hang_up_leave_no_connection_behind(
    database: Database, start_service: StartService
) -> None:
    service = start_service(database)
    user = create_user(service.client)
    resting = metrics(service)["http_requests_in_flight"]
    with database.writes_blocked():
        clients = [socket.create_connection((service.host, service.port)) for _ in range(POOL)]
        for client in clients:
            client.sendall(GONE_BEFORE_THE_ANSWER)
        wait_until(
            lambda: metrics(service)["http_requests_in_flight"] > resting,
            "requests in flight",
            every=0.005,
        )
        for client in clients:
            client.close()
        wait_until(
            lambda: metrics(service)["http_requests_in_flight"] == resting, "them to be given up"
        )
        path = f"/users/{user['id']}"
        wait_until(
            lambda: {timed(service.client, "GET", path).status for _ in range(POOL)} == {200},
            "their statements to reach the limit",
        )
    assert_the_pool_is_whole(service, user["id"])


def test_clients_that_hang_up_have_the_database_open_no_more_than_the_pool(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    """Their statements keep running, and keep their connections."""
    service = start_service(
        postgres_database, DATABASE_POOL_SIZE=4, DATABASE_STATEMENT_TIMEOUT_SECONDS=60
    )
    user = create_user(service.client)
    ours = (
        "FROM pg_stat_activity "
        "WHERE application_name = 'wiki-service' AND datname = current_database()"
    )
    resting = metrics(service)["http_requests_in_flight"]
    with postgres_database.connect() as other, other.transaction(force_rollback=True):
        other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        for number in range(1, 17):
            client = socket.create_connection((service.host, service.port))
            client.sendall(f"GET /users/{user['id']} HTTP/1.1\r\nhost: wiki\r\n\r\n".encode())
            wait_until(lambda: metrics(service)["http_requests_in_flight"] > resting, "it to begin")
            waiting = f"SELECT count(*) {ours} AND wait_event_type = 'Lock'"
            wait_until(
                lambda: postgres_database.execute(waiting)[0][0] >= min(number, 4),  # noqa: B023
                "its statement",
            )
            client.close()
            wait_until(
                lambda: metrics(service)["http_requests_in_flight"] == resting, "it to be given up"
            )
            assert postgres_database.execute(f"SELECT count(*) {ours}")[0][0] <= 4
    wait_until(
        lambda: timed(service.client, "GET", f"/users/{user['id']}").status == 200, "all to be well"
    )
    assert postgres_database.execute(f"SELECT count(*) {ours}")[0][0] <= 4


def test_what_a_client_that_hung_up_has_written_is_counted(
    database: Database, start_service: StartService
) -> None:
    service = start_service(database, DATABASE_STATEMENT_TIMEOUT_SECONDS=10)
    resting = metrics(service)["http_requests_in_flight"]
    with database.writes_blocked():
        client = socket.create_connection((service.host, service.port))
        client.sendall(GONE_BEFORE_THE_ANSWER)
        wait_until(lambda: metrics(service)["http_requests_in_flight"] > resting, "it to begin")
        client.close()
        wait_until(lambda: "499" in service.text, "it to be given up")
    wait_until(lambda: database.execute("SELECT count(*) FROM users")[0][0] == 1, "the row")
    wait_until(lambda: metrics(service)["users_created_total"] == 1, "the row to be counted")


def test_connections_that_were_lost_while_idle_cost_no_request(
    own_postgres: Postgres, start_service: StartService
) -> None:
    """As when a firewall has forgotten them: the database is fine, the connections are not."""
    database = own_postgres.create_database()
    proxy = TcpProxy(own_postgres.port)
    service = start_service(None, **database.environment_at(proxy.port))
    user = create_user(service.client)
    assert_the_pool_is_whole(service, user["id"])
    proxy.forget()
    wait_until(lambda: metrics(service)["database_pool_idle_connections"] > 1, "idle connections")
    start = time.monotonic()
    wait_until(lambda: time.monotonic() - start > 1.2, "them to be idle for so long as to be asked")
    answers = [timed(service.client, "GET", f"/users/{user['id']}") for _ in range(POOL)]
    assert {answer.status for answer in answers} == {200}
    proxy.close()


def test_a_connection_to_a_server_that_took_no_writes_is_not_kept(
    own_postgres: Postgres, start_service: StartService
) -> None:
    """As after a failover: the former primary is a standby, then another primary answers."""
    database = own_postgres.create_database()
    proxy = TcpProxy(own_postgres.port)
    service = start_service(None, **database.environment_at(proxy.port))
    user = create_user(service.client)
    with database.connect() as writer:
        writer.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    proxy.refuse()
    proxy.restore()
    wait_until(
        lambda: (
            timed(service.client, "POST", "/users", json={"name": "x"}).status == 503
            and "read-only" in service.text
        ),
        "a session that takes no writes",
    )
    with database.connect() as writer:
        writer.execute("SET default_transaction_read_only = off")
        writer.execute(f"ALTER DATABASE {database.name} RESET default_transaction_read_only")
    wait_until(
        lambda: timed(service.client, "POST", "/users", json={"name": "x"}).status == 201,
        "writes to work again",
    )
    assert_the_pool_is_whole(service, user["id"])
    proxy.close()
