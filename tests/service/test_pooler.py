"""A connection pooler between the service and PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from support import pooler as poolers
from support.api import create_post, create_user
from support.databases import PASSWORD, USER, PostgresDatabase
from support.net import NO_CAS
from support.pooler import Pooler
from support.service import Service, StartService
from support.wait import wait_until

# Server sessions shared by many clients, in transaction mode.
SHARED = 3


@pytest.fixture(
    params=[
        ("bookworm", {"pool_mode": "transaction", "default_pool_size": SHARED}),
        ("bookworm", {"pool_mode": "session", "default_pool_size": 20}),
        (
            "trixie",
            {
                "pool_mode": "transaction",
                "default_pool_size": SHARED,
                "max_prepared_statements": 0,
            },
        ),
        (
            "trixie",
            {
                "pool_mode": "transaction",
                "default_pool_size": SHARED,
                "max_prepared_statements": 200,
            },
        ),
        (
            "trixie",
            # As operators configure it: session parameters are silently ignored.
            {
                "pool_mode": "transaction",
                "default_pool_size": SHARED,
                "ignore_startup_parameters": "extra_float_digits,options",
            },
        ),
        ("trixie", {"pool_mode": "session", "default_pool_size": 20}),
    ],
    ids=lambda value: "-".join(map(str, [value[0], *value[1].values()])),
)
def pooler(request: pytest.FixtureRequest, postgres_database: PostgresDatabase) -> Iterator[Pooler]:
    release, settings = request.param
    try:
        program = poolers.program(release)
    except poolers.UnavailableError as reason:
        pytest.skip(str(reason))
    one = Pooler(program, postgres_database.server, **settings)
    yield one
    one.remove()


def connect(pooler: Pooler, database: PostgresDatabase) -> psycopg.Connection:
    """Like another client of the same pooler: one that sets nothing and prepares nothing."""
    return psycopg.connect(
        host="127.0.0.1",
        port=pooler.port,
        user=USER,
        password=PASSWORD,
        dbname=database.name,
        autocommit=True,
        prepare_threshold=None,
    )


def test_a_failed_start_ends_with_what_the_pooler_says(
    pooler: Pooler, start_service: StartService
) -> None:
    """Bookworm's refuses once, and then lets its clients wait."""
    url = f"postgres://{USER}@127.0.0.1:{pooler.port}/nowhere"
    service = start_service(until="nothing", DATABASE_URL=url, STARTUP_TIMEOUT_SECONDS=3)
    assert service.wait_for_end() == 1
    assert '"nowhere" does not exist' in service.text.splitlines()[-1]


def test_a_start_waits_for_a_session_of_the_pooler(
    pooler: Pooler, postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    """A pooler lets clients in whose statements then have to wait."""
    settings = postgres_database.environment_at(pooler.port)
    with ExitStack() as stack:
        for _ in range(pooler.sessions):
            client = stack.enter_context(connect(pooler, postgres_database))
            stack.enter_context(client.transaction())
        ended = start_service(until="nothing", STARTUP_TIMEOUT_SECONDS=3, **settings)
        service = start_service(until="nothing", **settings)
        assert ended.wait_for_end() == 1
        assert "gave up after 3s: no answer" in ended.text.splitlines()[-1]
        assert service.process.poll() is None
    service.wait_until_ready()


def use(service: Service, number: int) -> None:
    """What a client does, and whether each response belongs to its own request."""
    with httpx.Client(base_url=service.url, timeout=30, verify=NO_CAS) as client:
        for turn in range(4):
            user = create_user(client, f"user {number}-{turn}")
            assert user["name"] == f"user {number}-{turn}"
            post = create_post(client, user["id"], f"post {number}-{turn}")
            assert (post["user_id"], post["content"]) == (user["id"], f"post {number}-{turn}")
            assert client.get(f"/users/{user['id']}").json() == user
            assert client.get(f"/posts/{post['post_id']}").json() == post
            assert client.post("/posts", json={"user_id": 10**9, "content": "x"}).status_code == 404


def test_requests_do_not_meet_each_others_sessions(
    pooler: Pooler, postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    settings = postgres_database.environment_at(pooler.port)
    with connect(pooler, postgres_database) as other, ThreadPoolExecutor(10) as clients:
        show = "SHOW statement_timeout"
        before = other.execute(show).fetchone()
        # Together, so that they also take turns at creating the schema.
        replicas = [start_service(until="nothing", **settings) for _ in range(2)]
        for replica in replicas:
            replica.wait_until_ready()
        work = [clients.submit(use, replicas[n % 2], n) for n in range(10)]
        while not all(one.done() for one in work):
            assert other.execute(show).fetchone() == before
        for one in work:
            one.result()
    for replica in replicas:
        assert not [line for line in replica.lines() if line["level"] in ("WARN", "ERROR")]
    if pooler.mode == "transaction":
        assert_nothing_is_left(pooler, postgres_database)
    assert postgres_database.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []


def assert_nothing_is_left(pooler: Pooler, database: PostgresDatabase) -> None:
    """In each of the server's sessions: concurrent transactions use all of them."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(connect(pooler, database)) for _ in range(SHARED)]
        for session in sessions:
            stack.enter_context(session.transaction())
            session.execute("SELECT 1")
        for session in sessions:
            prepared = session.execute("SELECT name, statement FROM pg_prepared_statements")
            assert prepared.fetchall() == []
            assert session.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_a_statement_has_its_limit_behind_a_pooler_too(
    pooler: Pooler, postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    service = start_service(**postgres_database.environment_at(pooler.port))
    user = create_user(service.client)
    with postgres_database.writes_blocked():
        answer = service.client.post("/users", json={"name": "x"})
        assert answer.status_code == 503
        assert "retry-after" not in answer.headers
        wait_until(lambda: "statement timeout" in service.text, "the server to end it")
        assert service.client.get(f"/users/{user['id']}").json() == user
    assert create_user(service.client)


def test_an_index_is_built_behind_a_pooler_too(
    pooler: Pooler,
    postgres_database: PostgresDatabase,
    start_service: StartService,
    previous: Path,
) -> None:
    """Two replicas take turns with a lock that no session of the pooler holds."""
    old = start_service(postgres_database, version=previous)
    create_post(old.client, create_user(old.client)["id"])
    settings = postgres_database.environment_at(pooler.port)
    replicas = [start_service(until="nothing", **settings) for _ in range(2)]
    for replica in replicas:
        replica.wait_until_ready()
        create_user(replica.client)
    for replica in replicas:
        served = lambda one=replica: one.client.get("/users/1/posts").status_code == 200  # noqa: E731
        wait_until(served, "what needs the index")
    # There are others, which are built after it.
    locks = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
    wait_until(lambda: postgres_database.execute(locks) == [], "the lock to be given back")
    text = "".join(replica.text for replica in replicas)
    assert text.count("posts_user_id_post_id is being built") == 1
    if pooler.mode == "transaction":
        assert_nothing_is_left(pooler, postgres_database)
