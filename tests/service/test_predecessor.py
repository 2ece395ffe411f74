"""Ours beside the predecessor on one table of odd requests: what differs is what the README says."""

import gzip
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from support import predecessor
from support.databases import PostgresDatabase
from support.predecessor import Predecessor
from support.service import Service, StartService

JSON = {"content-type": "application/json"}
Request = tuple[str, str, dict[str, str], bytes | None]


def get(path: str, method: str = "GET") -> Request:
    return method, path, {}, None


def user(body: bytes | str, headers: dict[str, str] = JSON) -> Request:
    return "POST", "/users", headers, body.encode() if isinstance(body, str) else body


def typed(content_type: str) -> Request:
    return user('{"name": "x"}', {"content-type": content_type})


def coded(coding: str, body: bytes) -> Request:
    return user(body, JSON | {"content-encoding": coding})


def post(user_id: str, content: str = '"x"') -> Request:
    return "POST", "/posts", JSON, f'{{"user_id": {user_id}, "content": {content}}}'.encode()


NAMED = b'{"name": "x"}'
# By what is in them; the number after each is the status of both, or of the predecessor and of ours.
TABLE: dict[str, tuple[Request, int, int]] = {}


def both(name: str, request: Request, status: int) -> None:
    TABLE[name] = (request, status, status)


def differs(name: str, request: Request, theirs: int, ours: int) -> None:
    TABLE[name] = (request, theirs, ours)


# PLACEHOLDER


def answer(port: int, request: Request) -> tuple[int, str, Any]:
    """Status, media type and shape."""
    method, path, headers, body = request
    client = HTTPConnection("127.0.0.1", port, timeout=30)
    client.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        client.putheader(name, value)
    if body is not None:
        client.putheader("content-length", str(len(body)))
    client.endheaders(body)
    got = client.getresponse()
    said = got.read()
    client.close()
    media_type = got.headers.get_content_type() if said else ""
    return got.status, media_type, shape(json.loads(said) if media_type.endswith("json") else None)


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: type(inner).__name__ for name, inner in sorted(value.items())}
    return type(value).__name__
