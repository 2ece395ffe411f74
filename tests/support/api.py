"""Calls that most tests start with, and the form of every error."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

CREATED_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")


def create_user(client: httpx.Client, name: str = "Ada Lovelace") -> dict[str, Any]:
    answer = client.post("/users", json={"name": name})
    assert answer.status_code == 201, answer.text
    return answer.json()


def create_post(client: httpx.Client, user_id: int, content: str = "Notes") -> dict[str, Any]:
    answer = client.post("/posts", json={"user_id": user_id, "content": content})
    assert answer.status_code == 201, answer.text
    return answer.json()


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body of an error, after checking everything that RFC 9457 and the contract require."""
    assert answer.status_code == status, f"{answer.request.method} {answer.request.url}: " + (
        f"{status} expected, got {answer.status_code} {answer.text[:500]}"
    )
    assert answer.headers["content-type"].split(";")[0] == "application/problem+json", answer.text
    body = answer.json()
    assert body["status"] == status
    for member in ("type", "title", "detail", "instance"):
        assert isinstance(body[member], str), f"{member} is missing or not text: {body}"
        assert body[member].strip(), f"{member} is blank: {body}"
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def errors(answer: httpx.Response) -> dict[str, str]:
    """The details of a validation error by pointer."""
    listed = problem(answer, 422)["errors"]
    assert all(set(error) == {"pointer", "detail"} for error in listed), listed
    return {error["pointer"]: error["detail"] for error in listed}


@dataclass
class Answer:
    status: int
    seconds: float
    headers: httpx.Headers


def timed(client: httpx.Client, method: str, path: str, **arguments: Any) -> Answer:
    start = time.monotonic()
    answer = client.request(method, path, **arguments)
    return Answer(answer.status_code, time.monotonic() - start, answer.headers)


def at_once(count: int, call: Callable[[int], Answer]) -> list[Answer]:
    """Calls with 0 to `count` - 1, all at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))
