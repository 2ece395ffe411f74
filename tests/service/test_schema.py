"""Migrations: several replicas at once, the predecessor's tables, and a newer schema."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.api import CREATED_TIME, create_post, create_user, problem
from support.databases import Database, PostgresDatabase, SqliteDatabase
from support.net import free_port
from support.service import StartService, environment
from support.wait import wait_until

# As created by SQLAlchemy 2 from the predecessor's models.
PREDECESSOR = """
CREATE TABLE users (
    id SERIAL NOT NULL,
    name VARCHAR NOT NULL,
    created_time TIMESTAMP WITHOUT TIME ZONE,
    PRIMARY KEY (id)
);
CREATE INDEX ix_users_id ON users (id);
CREATE TABLE posts (
    post_id SERIAL NOT NULL,
    content VARCHAR NOT NULL,
    user_id INTEGER NOT NULL,
    created_time TIMESTAMP WITHOUT TIME ZONE,
    PRIMARY KEY (post_id),
    FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE INDEX ix_posts_post_id ON posts (post_id);
INSERT INTO users (name, created_time) VALUES
    ('Ada', '2024-12-14 10:30:00.123456'),
    ('Grace', '2024-12-14 10:30:01'),
    (repeat('x', 300), now());
INSERT INTO posts (content, user_id, created_time) VALUES
    ('First', 1, '2024-12-14 10:35:00.1'),
    ('Second', 2, '2024-12-14 10:36:00.000001');
"""


def test_ten_replicas_start_at_once_on_an_empty_database(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    replicas = [start_service(postgres_database, until="nothing") for _ in range(10)]
    for replica in replicas:
        replica.wait_until_ready()
    ids = [create_user(replica.client)["id"] for replica in replicas]
    assert len(set(ids)) == 10
    for replica in replicas:
        assert not [line for line in replica.lines() if line["level"] == "ERROR"]
        assert replica.client.get(f"/users/{ids[0]}").status_code == 200


def test_processes_start_at_once_on_one_sqlite_file(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    processes = [start_service(sqlite_database, until="nothing") for _ in range(4)]
    for process in processes:
        process.wait_until_ready()
    assert len({create_user(process.client)["id"] for process in processes}) == 4


@pytest.fixture
def predecessors(postgres_database: PostgresDatabase) -> PostgresDatabase:
    postgres_database.execute(PREDECESSOR)
    return postgres_database


def test_the_predecessors_rows_are_served(
    predecessors: PostgresDatabase, start_service: StartService
) -> None:
    url = predecessors.environment["DATABASE_URL"].replace("postgres:", "postgresql+asyncpg:")
    client = start_service(predecessors, DATABASE_URL=url).client
    expected = {"id": 1, "name": "Ada", "created_time": "2024-12-14T10:30:00.123456"}
    assert client.get("/user/1").json() == expected
    assert client.get("/users/2").json()["created_time"] == "2024-12-14T10:30:01.000000"
    assert client.get("/users/3").json()["name"] == "x" * 300, "longer than what is taken today"
    assert CREATED_TIME.fullmatch(client.get("/users/3").json()["created_time"])
    assert client.get("/posts/1").json() == {
        "post_id": 1,
        "content": "First",
        "user_id": 1,
        "created_time": "2024-12-14T10:35:00.100000",
    }
    assert create_user(client)["id"] == 4
    assert create_post(client, 1)["post_id"] == 3


def test_the_predecessors_ids_grow_beyond_32_bits(
    predecessors: PostgresDatabase, start_service: StartService
) -> None:
    largest = 2**31 - 1
    predecessors.execute(f"SELECT setval('users_id_seq', {largest})")
    predecessors.execute(f"SELECT setval('posts_post_id_seq', {largest})")
    client = start_service(predecessors).client
    user = create_user(client)
    assert user["id"] == largest + 1
    post = create_post(client, user["id"])
    assert (post["post_id"], post["user_id"]) == (largest + 1, largest + 1)
    assert client.get(f"/posts/{largest + 1}").json() == post


def test_a_migrated_database_is_left_as_it_is(
    predecessors: PostgresDatabase, start_service: StartService
) -> None:
    first = start_service(predecessors)
    create_user(first.client)
    assert first.terminate() == 0
    rows = predecessors.execute("SELECT * FROM users ORDER BY id")
    columns = schema(predecessors)
    again = start_service(predecessors)
    assert predecessors.execute("SELECT * FROM users ORDER BY id") == rows
    assert schema(predecessors) == columns
    assert create_user(again.client)["id"] == 5


def test_an_adopted_schema_is_a_fresh_schema(
    predecessors: PostgresDatabase, start_service: StartService
) -> None:
    """The schema that a version works on does not depend on who created it. (A varchar without a
    length is a text.)"""
    fresh = predecessors.server.create_database()
    start_service(predecessors)
    start_service(fresh)
    assert schema(predecessors) == schema(fresh)


def schema(database: PostgresDatabase) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT table_name, column_name, replace(data_type, 'character varying', 'text') "
        "FROM information_schema.columns "
        "WHERE table_schema = 'public' ORDER BY 1, 2"
    )


@pytest.mark.parametrize(
    ("obstacle", "name", "column", "away"),
    [
        ("CREATE VIEW report AS SELECT id FROM users", "view report", "users.id", "VIEW report"),
        (
            "CREATE MATERIALIZED VIEW report AS SELECT user_id FROM posts",
            "view report",
            "posts.user_id",
            "MATERIALIZED VIEW report",
        ),
        (
            "CREATE RULE keep AS ON DELETE TO users WHERE old.id = 1 DO INSTEAD NOTHING",
            "rule keep",
            "users.id",
            "RULE keep ON users",
        ),
        (
            "ALTER TABLE users ADD twice integer GENERATED ALWAYS AS (id * 2) STORED",
            "column twice",
            "users.id",
            "twice",
        ),
        (
            "CREATE TRIGGER keep BEFORE UPDATE OF id ON users "
            "FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "trigger keep",
            "users.id",
            "TRIGGER keep ON users",
        ),
        (
            "CREATE POLICY own ON posts USING (user_id = 1)",
            "policy own",
            "posts.user_id",
            "POLICY own ON posts",
        ),
        (
            "CREATE PUBLICATION few FOR TABLE users WHERE (id > 10)",
            "publication few",
            "users.id",
            "PUBLICATION few",
        ),
        (
            "CREATE FUNCTION most() RETURNS integer BEGIN ATOMIC SELECT max(id) FROM users; END",
            "function most()",
            "users.id",
            "FUNCTION most()",
        ),
        ("CREATE TABLE other (one users)", "column one of table other", "users.id", "TABLE other"),
        ("CREATE TYPE pair AS (few posts[])", "column few", "posts.post_id", "TYPE pair"),
    ],
    ids=[
        "view",
        "materialized",
        "rule",
        "generated",
        "trigger",
        "policy",
        "publication",
        "function",
        "row",
        "rows",
    ],
)
def test_what_is_in_the_way_of_the_adoption_is_named(
    predecessors: PostgresDatabase,
    program: Path,
    obstacle: str,
    name: str,
    column: str,
    away: str,
) -> None:
    predecessors.execute(obstacle)
    before = schema(predecessors)
    run = migrate(program, predecessors)
    assert run.returncode == 1
    assert name in run.stderr
    assert column in run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert schema(predecessors) == before
    predecessors.execute(
        "ALTER TABLE users DROP COLUMN twice" if away == "twice" else f"DROP {away}"
    )
    run = migrate(program, predecessors)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_varchar_is_left_as_it_is(
    predecessors: PostgresDatabase, start_service: StartService
) -> None:
    """It need not be a text; a column too short for what the service accepts becomes one."""
    predecessors.execute("CREATE VIEW names AS SELECT name FROM users")
    predecessors.execute("ALTER TABLE posts ALTER content TYPE varchar(20)")
    client = start_service(predecessors).client
    assert create_user(client, "y" * 200)
    assert create_post(client, 1, "z" * 100_000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE users ALTER created_time TYPE date", ("users.created_time", "date")),
        ("ALTER TABLE posts ALTER created_time TYPE text", ("posts.created_time", "text")),
        ("ALTER TABLE posts ALTER content TYPE char(10)", ("posts.content", "character(10)")),
        ("ALTER TABLE posts ALTER post_id TYPE numeric", ("posts.post_id", "numeric")),
        ("ALTER TABLE users DROP name", ("users", "name")),
    ],
)
def test_columns_that_cannot_be_read_are_named_before_anything_is_written(
    predecessors: PostgresDatabase, program: Path, change: str, said: tuple[str, str]
) -> None:
    predecessors.execute(change)
    before = schema(predecessors)
    run = migrate(program, predecessors)
    assert run.returncode == 1
    for words in said:
        assert words in run.stderr
    assert schema(predecessors) == before


def test_columns_that_were_changed_after_the_adoption_are_named(
    predecessors: PostgresDatabase, program: Path
) -> None:
    assert migrate(program, predecessors).returncode == 0
    predecessors.execute("ALTER TABLE users ALTER created_time TYPE date")
    run = migrate(program, predecessors)
    assert run.returncode == 1
    assert "users.created_time" in run.stderr


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
def test_times_that_python_cannot_hold_are_its_first_and_last(
    predecessors: PostgresDatabase, start_service: StartService, kind: str
) -> None:
    """asyncpg reads the two infinities so. A NULL was a 500, and still is."""
    first, last = "0001-01-01T00:00:00.000000", "9999-12-31T23:59:59.999999"
    expected = {
        "infinity": last,
        "-infinity": first,
        "4713-01-01 00:00:00 BC": first,
        "0001-12-31 00:00:00 BC": first,
        "10000-01-01 00:00:00": last,
        "294276-12-31 23:59:59.999999": last,
        "0001-01-01 00:00:00.000001": "0001-01-01T00:00:00.000001",
        "9999-12-31 23:59:59.999998": "9999-12-31T23:59:59.999998",
        "1969-12-31 23:59:59.5": "1969-12-31T23:59:59.500000",
    }
    predecessors.execute(
        f"SET timezone = 'UTC'; ALTER TABLE users ALTER created_time TYPE {kind}; "
        "TRUNCATE users RESTART IDENTITY CASCADE; "
        "INSERT INTO users (name, created_time) VALUES "
        + ", ".join(f"('x', '{time}')" for time in expected)
        + ", ('x', NULL)"
    )
    client = start_service(predecessors).client
    for number, time in enumerate(expected.values(), start=1):
        assert client.get(f"/users/{number}").json()["created_time"] == time
    problem(client.get(f"/users/{len(expected) + 1}"), 500)


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ("id BIGINT NOT NULL PRIMARY KEY, name TEXT, created_time TEXT", "users.id"),
        ("id INTEGER PRIMARY KEY, name INTEGER, created_time TEXT", "users.name"),
        ("id INTEGER PRIMARY KEY, name TEXT", "created_time"),
    ],
)
def test_columns_of_sqlite_that_cannot_be_read_are_named(
    sqlite_database: SqliteDatabase, program: Path, users: str, said: str
) -> None:
    """Only an INTEGER PRIMARY KEY numbers its rows; 12 in a column of integers is no text."""
    sqlite_database.execute(f"CREATE TABLE users ({users})")
    run = migrate(program, sqlite_database)
    assert run.returncode == 1
    assert said in run.stderr


def test_the_predecessors_tables_on_sqlite_are_served(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    sqlite_database.execute(
        "CREATE TABLE users (id INTEGER NOT NULL, name VARCHAR NOT NULL, created_time DATETIME, "
        "PRIMARY KEY (id))"
    )
    sqlite_database.execute("INSERT INTO users VALUES (1, 'Ada', '2024-12-14 10:30:00.123456')")
    sqlite_database.execute("INSERT INTO users VALUES (2, 'Methuselah', 300000000000)")
    client = start_service(sqlite_database).client
    assert client.get("/users/1").json()["created_time"] == "2024-12-14T10:30:00.123456"
    assert client.get("/users/2").json()["created_time"] == "9999-12-31T23:59:59.999999"
    assert create_user(client, "12")["name"] == "12"


def test_the_previous_version_works_on_what_the_next_one_migrated(
    database: Database, start_service: StartService
) -> None:
    first = start_service(database)
    user = create_user(first.client)
    assert first.terminate() == 0
    database.execute("ALTER TABLE users ADD COLUMN biography text")
    database.execute("CREATE TABLE categories (id bigint primary key)")
    database.execute(
        "INSERT INTO seaql_migrations (version, applied_at) "
        "VALUES ('m99990101_000000_of_the_next_version', 4102444800)"
    )
    second = start_service(database)
    assert second.client.get(f"/users/{user['id']}").json() == user
    assert create_user(second.client)["id"] > user["id"]


def test_a_post_needs_its_user_in_the_database_too(
    database: Database, start_service: StartService
) -> None:
    service = start_service(database)
    user = create_user(service.client)
    create_post(service.client, user["id"])
    with database.connect() as connection:
        if database.kind == "sqlite":
            connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            connection.execute("DELETE FROM users")


def migrate(program: Path, database: Database) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, "migrate"],
        env=environment(**database.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_migrate_migrates_and_ends(
    program: Path, database: Database, start_service: StartService
) -> None:
    for _ in range(2):
        run = migrate(program, database)
        assert run.returncode == 0, run.stdout + run.stderr
        assert database.execute("SELECT count(*) FROM users") == [(0,)]
    assert create_user(start_service(database).client)["id"] == 1


def test_migrate_says_when_it_cannot(program: Path, postgres_database: PostgresDatabase) -> None:
    postgres_database.environment["PGPASSWORD"] = "wr0ng-s3cr3t"
    run = migrate(program, postgres_database)
    assert run.returncode not in (0, 101)
    assert "password" in run.stdout + run.stderr
    assert "wr0ng-s3cr3t" not in run.stdout + run.stderr


def test_migrate_can_be_stopped_while_it_waits(program: Path) -> None:
    """By a signal that it handles: nothing else ends process 1 of a container."""
    url = f"postgres://wiki@127.0.0.1:{free_port()}/wiki"
    process = subprocess.Popen(
        [program, "migrate"],
        env=environment(DATABASE_URL=url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    assert any("waiting for" in line for line in process.stdout)
    process.terminate()
    said, _ = process.communicate(timeout=10)
    assert "stopped by a signal" in said
    assert process.returncode == 1


def test_a_migration_waits_for_its_turn_and_lets_others_pass(
    predecessors: PostgresDatabase, start_service: StartService
) -> None:
    """A dump of the predecessor's database locks its tables; everyone else would queue behind an
    ALTER that waits for them."""
    with predecessors.connect() as dump, dump.transaction():
        dump.execute("SELECT * FROM users")
        service = start_service(predecessors, until="listening", STARTUP_TIMEOUT_SECONDS=30)
        problem(service.client.get("/readyz"), 503)
        wait_until(lambda: "waiting for" in service.text, "a line that says what it waits for")
        with predecessors.connect() as reader:
            reader.execute("SET statement_timeout = '10s'")
            reader.execute("SELECT * FROM users")
    service.wait_until_ready()
    assert service.client.get("/users/1").status_code == 200
