"""Indexes on large tables: built while requests are served."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

from support import databases, dumps
from support.api import create_post, create_user, problem
from support.databases import PASSWORD, USER, Postgres, PostgresDatabase, SqliteDatabase
from support.net import TcpProxy
from support.service import Service, StartService, environment
from support.wait import wait_until

INDEX = "posts_user_id_post_id"
SEARCH = "posts_search"
BUILDING = "SELECT phase FROM pg_stat_progress_create_index WHERE datname = current_database()"


def is_valid(database: PostgresDatabase, index: str = INDEX) -> bool:
    sql = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{index}')"
    return database.execute(sql) == [(True,)]


def wait_until_valid(database: PostgresDatabase, *indexes: str, seconds: float = 30) -> None:
    for index in indexes or [INDEX]:
        wait_until(lambda name=index: is_valid(database, name), index, seconds=seconds)


def wait_until_served(service: Service) -> None:
    served = lambda: service.client.get("/users/1/posts").status_code == 200  # noqa: E731
    wait_until(served, "what needs the index")


def migrate(program: Path, database: PostgresDatabase, **variables: str) -> None:
    settings = environment(**database.environment, **variables)
    subprocess.run([program, "migrate"], env=settings, check=True, stdout=subprocess.DEVNULL)


def fill(database: PostgresDatabase, posts: int) -> None:
    """Creates ten users, and this many posts by them."""
    database.execute(
        "INSERT INTO users (name, created_time) SELECT 'x', now() FROM generate_series(1, 10); "
        "INSERT INTO posts (content, user_id, created_time) "
        f"SELECT 'post ' || n || ' ' || md5(n::text), n % 10 + 1, now() "
        f"FROM generate_series(1, {posts}) AS n"
    )


@pytest.fixture
def before(postgres_database: PostgresDatabase, previous: Path) -> PostgresDatabase:
    """As the previous version leaves it."""
    settings = environment(**postgres_database.environment)
    subprocess.run([previous, "migrate"], env=settings, check=True, stdout=subprocess.DEVNULL)
    fill(postgres_database, 10)
    return postgres_database


@pytest.fixture
def unindexed(postgres_database: PostgresDatabase, program: Path) -> PostgresDatabase:
    """As the previous version leaves it, except the schema: migrations wait for table locks."""
    migrate(program, postgres_database)
    postgres_database.execute(f"DROP INDEX {INDEX}")
    return postgres_database


@contextlib.contextmanager
def held(database: PostgresDatabase) -> Iterator[psycopg.Connection]:
    """Keeps a transaction open that has seen the posts, like a dump: no build can finish."""
    with database.connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT FROM posts LIMIT 1")
        yield connection


def wait_until_held(database: PostgresDatabase) -> None:
    def waits() -> bool:
        return any("waiting" in phase for (phase,) in database.execute(BUILDING))

    wait_until(waits, "a build that waits for the transaction")


@contextlib.contextmanager
def writing(service: Service) -> Iterator[list[int]]:
    """A client that writes constantly, and the statuses of its responses."""
    statuses: list[int] = []
    done = threading.Event()

    def write() -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            while not done.is_set():
                post = {"user_id": 1, "content": "meanwhile"}
                statuses.append(client.post("/posts", json=post).status_code)

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(write)
        try:
            yield statuses
        finally:
            done.set()
        task.result()


def test_the_previous_version_writes_while_this_one_builds(
    before: PostgresDatabase, start_service: StartService, previous: Path, long: bool
) -> None:
    fill(before, 1_000_000 if long else 20_000)
    old = start_service(before, version=previous)
    with writing(old) as statuses:
        new = start_service(before, SEARCH="true", DATABASE_STATEMENT_TIMEOUT_SECONDS=0.9)
        wait_until_valid(before, INDEX, SEARCH, seconds=900)
        wait_until(lambda: statuses.count(201) > 20, "some writes")
        create_post(new.client, 1)
    assert set(statuses) == {201}
    wait_until(lambda: f"{SEARCH} is built" in new.text, "the log to say so")


def dumping(database: PostgresDatabase) -> subprocess.Popen[bytes]:
    """A dump that writes more than its pipe holds, and continues when that is read."""
    command = [databases.program("pg_dump")]
    dump = subprocess.Popen(command, env=dumps.environment(database), stdout=subprocess.PIPE)
    copying = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^COPY'"
    )
    wait_until(lambda: database.execute(copying), "the dump to copy")
    return dump


def test_a_schema_waits_for_a_dump_and_nobody_for_the_schema(
    before: PostgresDatabase, start_service: StartService, previous: Path, long: bool
) -> None:
    """A dump locks every table until it ends. The previous version writes meanwhile."""
    fill(before, 100_000 if long else 20_000)
    old = start_service(before, version=previous)
    with writing(old) as statuses:
        dump = dumping(before)
        replicas = [start_service(before, until="nothing") for _ in range(4)]
        for replica in replicas:
            wait_until(lambda r=replica: r.text.count("lock timeout") > 1, "tries", seconds=60)
        assert dump.communicate(timeout=60)[0]
        assert dump.returncode == 0
        for replica in replicas:
            replica.wait_until_ready()
        wait_until_valid(before)
    assert set(statuses) == {201}
    assert "deadlock" not in "".join(replica.text for replica in replicas)


def test_replicas_that_start_during_a_dump_build_once_and_nobody_waits(
    unindexed: PostgresDatabase, start_service: StartService, long: bool
) -> None:
    fill(unindexed, 100_000 if long else 20_000)
    dump = dumping(unindexed)
    # So that on a busy machine no start warns that connecting takes long.
    patient = {"until": "nothing", "DATABASE_ACQUIRE_TIMEOUT_SECONDS": 5}
    replicas = [start_service(unindexed, **patient) for _ in range(4)]
    for replica in replicas:
        replica.wait_until_ready()
    wait_until_held(unindexed)
    for replica in replicas:
        create_post(replica.client, 1)
        answer = replica.client.get("/users/1/posts")
        assert INDEX in problem(answer, 503)["detail"]
        assert answer.headers["retry-after"] == "1"
        assert replica.client.get("/posts").status_code == 200
    assert not is_valid(unindexed)
    assert dump.communicate(timeout=60)[0]
    assert dump.returncode == 0
    wait_until_valid(unindexed)
    for replica in replicas:
        wait_until_served(replica)
    text = "".join(replica.text for replica in replicas)
    assert text.count(f"{INDEX} is being built") == 1
    assert "deadlock" not in text
    for replica in replicas:
        assert not [line for line in replica.lines() if line["level"] in ("WARN", "ERROR")]


def test_what_a_cancelled_build_has_left_is_built_anew(
    before: PostgresDatabase, start_service: StartService
) -> None:
    with held(before), before.connect() as other:
        other.execute("SET statement_timeout = '200ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON posts (user_id, post_id)")
    assert before.execute(f"SELECT 1 FROM pg_class WHERE relname = '{INDEX}'")
    assert not is_valid(before)
    start_service(before)
    wait_until_valid(before)


def test_a_build_that_is_ended_by_somebody_is_begun_again(
    unindexed: PostgresDatabase, start_service: StartService
) -> None:
    with held(unindexed):
        service = start_service(unindexed)
        wait_until_held(unindexed)
        unindexed.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
        wait_until(lambda: "an index is not there yet" in service.text, "a warning")
    wait_until_valid(unindexed)


def test_a_stop_does_not_wait_for_a_build_and_its_successor_takes_over(
    unindexed: PostgresDatabase, start_service: StartService
) -> None:
    with held(unindexed):
        first = start_service(unindexed)
        wait_until_held(unindexed)
        assert first.terminate(seconds=5) == 0
        second = start_service(unindexed)
        create_user(second.client)
        wait_until_held(unindexed)
        second.kill()
        third = start_service(unindexed)
        create_user(third.client)
    wait_until_valid(unindexed)
    assert "deadlock" not in third.text


def test_a_user_who_may_not_build_says_once_what_to_run(
    unindexed: PostgresDatabase, start_service: StartService, program: Path
) -> None:
    role = f"{unindexed.name}_api"
    unindexed.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'; "
        f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {role}"
    )
    url = unindexed.environment["DATABASE_URL"].replace(f"//{USER}@", f"//{role}@")
    service = start_service(unindexed, DATABASE_URL=url)
    wait_until(lambda: "wiki-service migrate" in service.text, "a line that says what to run")
    create_user(service.client)
    problem(service.client.get("/users/1/posts"), 503)
    migrate(program, unindexed)
    assert is_valid(unindexed)
    wait_until_served(service)
    assert service.text.count("wiki-service migrate") == 1


@pytest.mark.parametrize("search", ["true", "drop"])
def test_migrate_builds_before_it_ends(
    before: PostgresDatabase, program: Path, search: str
) -> None:
    migrate(program, before, SEARCH="true")
    assert is_valid(before)
    assert is_valid(before, SEARCH)
    migrate(program, before, SEARCH=search)
    assert is_valid(before)
    assert is_valid(before, SEARCH) == (search == "true")


@pytest.mark.parametrize("fault", ["frozen", "cut off"])
def test_migrate_ends_when_the_database_falls_silent_during_a_build(
    own_postgres: Postgres, program: Path, fault: str
) -> None:
    database = own_postgres.create_database()
    migrate(program, database)
    database.execute(f"DROP INDEX {INDEX}")
    fill(database, 10)
    proxy = TcpProxy(own_postgres.port)
    settings = environment(**database.environment_at(proxy.port), STARTUP_TIMEOUT_SECONDS="2")
    with held(database):
        command = subprocess.Popen(
            [program, "migrate"], env=settings, stderr=subprocess.PIPE, text=True
        )
        wait_until_held(database)
        {"frozen": own_postgres.pause, "cut off": proxy.silence}[fault]()
        try:
            _, said = command.communicate(timeout=30)
        finally:
            own_postgres.resume()
            proxy.close()
    assert command.returncode == 1
    assert "no sign of life within 2s while an index was built" in said.splitlines()[-1]


def test_a_build_whose_connections_are_lost_is_looked_for(
    unindexed: PostgresDatabase, start_service: StartService
) -> None:
    """A firewall has lost them; the server goes on, and one of them still holds the lock."""
    fill(unindexed, 10)
    proxy = TcpProxy(unindexed.server.port)
    settings = unindexed.environment_at(proxy.port)
    with held(unindexed):
        service = start_service(STARTUP_TIMEOUT_SECONDS=2, **settings)
        wait_until_held(unindexed)
        proxy.forget()
    wait_until_valid(unindexed)
    wait_until_served(service)
    proxy.close()


def test_a_build_is_begun_again_on_a_server_that_comes_back(
    own_postgres: Postgres, program: Path, start_service: StartService
) -> None:
    database = own_postgres.create_database()
    migrate(program, database)
    database.execute(f"DROP INDEX {INDEX}")
    fill(database, 10)
    with contextlib.suppress(psycopg.OperationalError), held(database):
        service = start_service(database)
        wait_until_held(database)
        own_postgres.kill()
        own_postgres.start()
    create_user(service.client)
    wait_until_served(service)


def test_an_index_that_is_gone_is_built_anew(
    before: PostgresDatabase, start_service: StartService, program: Path
) -> None:
    """As after restoring a dump without it."""
    migrate(program, before)  # all of them, or the DROP may deadlock with the next one's build
    service = start_service(before)
    create_user(service.client)
    wait_until_served(service)
    before.execute(f"DROP INDEX {INDEX}")
    with held(before):
        second = start_service(before)
        problem(second.client.get("/users/1/posts"), 503)
    wait_until_served(second)


def test_a_sqlite_file_has_its_indexes_from_the_start(
    sqlite_database: SqliteDatabase, start_service: StartService, previous: Path
) -> None:
    start_service(sqlite_database, version=previous)
    create_user(start_service(sqlite_database).client)
    found = "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'posts'"
    assert (INDEX,) in sqlite_database.execute(found)
