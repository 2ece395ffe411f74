"""Calls for editing posts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.databases import Database, SqliteDatabase
from support.service import Service

KINDS = ("sqlite", "postgresql")


@contextmanager
def shared(
    request: pytest.FixtureRequest, kind: str, directory: Path, **variables: Any
) -> Iterator[Service]:
    """A service for a module's tests, on a database of this kind."""
    database: Database = SqliteDatabase(directory / "wiki.db")
    if kind == "postgresql":
        database = request.getfixturevalue("postgres").create_database()
    program = request.getfixturevalue("program")
    one = Service(program, directory, database.environment | variables)
    try:
        yield one.wait_until_ready()
    finally:
        one.close()


def tag(client: httpx.Client, path: str) -> str:
    return client.get(path).headers["etag"]


def put(
    client: httpx.Client, path: str, content: str, if_match: str | bytes | None = "*"
) -> httpx.Response:
    headers = {} if if_match is None else {"If-Match": if_match}
    return client.put(path, json={"content": content}, headers=headers)


def history(client: httpx.Client, path: str, limit: int = 100) -> list[tuple[int, str]]:
    """Number and excerpt of each text, newest first."""
    found: list[tuple[int, str]] = []
    page: dict[str, Any] = {"limit": limit}
    while True:
        answer = client.get(f"{path}/revisions", params=page)
        assert answer.status_code == 200, answer.text
        found += [(entry["revision"], entry["excerpt"]) for entry in answer.json()]
        if "link" not in answer.headers:
            return found
        page["before"] = found[-1][0]
