"""A database that is replaced while the service runs, like a restore: in one transaction."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support.api import create_post, create_user
from support.databases import PostgresDatabase
from support.service import Service, StartService
from support.wait import wait_until

# What an older dump leaves: one with fewer migrations; the predecessor's has none.
OLDER = """
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
CREATE TABLE users (id SERIAL PRIMARY KEY, name VARCHAR NOT NULL, created_time TIMESTAMP);
CREATE TABLE posts (post_id SERIAL PRIMARY KEY, content VARCHAR NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id), created_time TIMESTAMP);
INSERT INTO users (name, created_time) VALUES ('Ada', '2024-12-14 10:30:00.123456');
INSERT INTO posts (content, user_id, created_time) VALUES ('Old', 1, '2024-12-14 10:35:00.1');
"""


@pytest.fixture
def replaced(postgres_database: PostgresDatabase, start_service: StartService) -> Service:
    """A service whose connections have all prepared its statements, while the data changes."""
    service = start_service(postgres_database, EDITING="anyone")
    create_post(service.client, create_user(service.client, name="New")["id"])
    read = [*["/users/1", "/posts/1"] * 50, "/readyz"]
    with httpx.Client(base_url=service.url) as client, ThreadPoolExecutor(16) as pool:
        assert {answer.status_code for answer in pool.map(client.get, read)} == {200}
    with postgres_database.connect() as connection, connection.transaction():
        connection.execute(OLDER)
    return service


def test_an_older_dump_is_brought_up_to_date_without_anybodys_help(
    replaced: Service, postgres_database: PostgresDatabase
) -> None:
    def settled() -> bool:
        paths = ["/users/1", "/posts/1", "/readyz"] * 10
        with httpx.Client(base_url=replaced.url) as client, ThreadPoolExecutor(16) as pool:
            return {answer.status_code for answer in pool.map(client.get, paths)} == {200}

    wait_until(settled, "every answer to be a 200 again")
    # Statements prepared for the old tables are not the service's mistake.
    assert not [line for line in replaced.text.splitlines() if "ERROR" in line and "plan" in line]
    assert replaced.client.get("/users/1").json()["name"] == "Ada"
    assert create_post(replaced.client, create_user(replaced.client)["id"])["post_id"] == 2
    with_index = lambda: replaced.client.get("/users/1/posts").status_code == 200  # noqa: E731
    wait_until(with_index, "the index to be built anew")
    for text in ("Edited", "again"):
        answer = replaced.client.put("/posts/1", json={"content": text}, headers={"If-Match": "*"})
        assert answer.status_code == 200, answer.text
    revisions = replaced.client.get("/posts/1/revisions").json()
    assert [entry["excerpt"] for entry in revisions] == ["again", "Edited", "Old"]
    types = (
        "SELECT data_type FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name LIKE '%id'"
    )
    assert set(postgres_database.execute(types)) == {("bigint",)}
