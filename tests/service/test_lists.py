"""Lists: newest first, a page at a time."""

import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.api import create_post, create_user, errors, problem
from support.databases import Database
from support.service import StartService

LISTS = ["/users", "/posts", "/users/1/posts"]


def follow(client: httpx.Client, path: str) -> Iterator[list[dict[str, Any]]]:
    """The pages of a list, following the links."""
    while True:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        yield answer.json()
        if "link" not in answer.headers:
            return
        link = re.fullmatch(r'<(\?[^>]*)>; rel="next"', answer.headers["link"])
        assert link, answer.headers["link"]
        path = str(httpx.URL(path).join(link[1]))


@pytest.fixture
def filled(start_service: StartService, database: Database) -> httpx.Client:
    """Seven users; the first has written seven posts, the last none."""
    client = start_service(database).client
    for number in range(7):
        create_user(client, f"user {number}")
    for number in range(7):
        create_post(client, 1, f"post {number}")
    return client


def test_lists_are_empty_at_first(start_service: StartService, database: Database) -> None:
    client = start_service(database).client
    for path in ("/users", "/posts"):
        answer = client.get(path)
        assert answer.json() == []
        assert "link" not in answer.headers


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 100])
def test_pages_hold_everything_once_newest_first(filled: httpx.Client, limit: int) -> None:
    for path, key in zip(LISTS, ("id", "post_id", "post_id"), strict=True):
        pages = list(follow(filled, f"{path}?limit={limit}"))
        assert [entry[key] for page in pages for entry in page] == [7, 6, 5, 4, 3, 2, 1]
        assert all(len(page) == limit for page in pages[:-1])
        assert pages[-1] or len(pages) == 1, "the last link leads to an empty page"


def test_entries_are_what_a_read_gives_but_posts_have_an_excerpt(filled: httpx.Client) -> None:
    long = "é€😀" + "x" * 300
    create_post(filled, 2, long)
    assert filled.get("/users").json()[0] == filled.get("/users/7").json()
    entry = filled.get("/posts").json()[0]
    post = filled.get("/posts/8").json()
    assert entry == {
        "post_id": 8,
        "excerpt": long[:200],
        "user_id": 2,
        "created_time": post["created_time"],
    }
    assert filled.get("/users/2/posts").json() == [entry]


def test_a_page_has_30_entries_where_nobody_says_it(
    start_service: StartService, database: Database
) -> None:
    client = start_service(database).client
    for number in range(31):
        create_user(client, f"user {number}")
    answer = client.get("/users")
    assert len(answer.json()) == 30
    assert answer.headers["link"] == '<?before=2&limit=30>; rel="next"'


def test_before_may_be_any_id(filled: httpx.Client) -> None:
    for path in LISTS:
        assert filled.get(f"{path}?before=0").json() == []
        assert filled.get(f"{path}?before=1").json() == []
        assert len(filled.get(f"{path}?before={2**63 - 1}").json()) == 7


def test_the_posts_of_a_user(filled: httpx.Client) -> None:
    assert filled.get("/users/7/posts").json() == []
    assert "there is no user 8" in problem(filled.get("/users/8/posts"), 404)["detail"]
    assert list(errors(filled.get("/users/x/posts"))) == ["#/path/id"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=", "limit"),
        ("limit", "limit"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=%2B1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=1e1", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1%00", "limit"),
        ("limit=%00", "limit"),
        ("limit=" + "9" * 400, "limit"),
        ("limit=1&limit=1", "limit"),
        ("li%6Dit=1&limit=2", "limit"),
        ("before=", "before"),
        ("before=-1", "before"),
        (f"before={2**63}", "before"),
        ("before=1%00", "before"),
        ("before=1&before=", "before"),
        ("before=%FF", "before"),
    ],
)
def test_a_bad_parameter_is_named(api: httpx.Client, query: str, name: str) -> None:
    for path in LISTS:
        found = errors(api.get(f"{path}?{query}"))
        assert list(found) == [f"#/query/{name}"]
        assert found[f"#/query/{name}"].startswith(f"{name} is ")
        assert len(found[f"#/query/{name}"]) < 250


@pytest.mark.parametrize("path", ["/users", "/posts"])
def test_unknown_parameters_are_ignored(api: httpx.Client, path: str) -> None:
    assert api.get(f"{path}?offset=5&limit=1&x=%00&Limit=0").status_code == 200


def test_old_operations_have_no_parameters(api: httpx.Client) -> None:
    user = create_user(api)["id"]
    assert api.get(f"/users/{user}?limit=x&before=").status_code == 200
    assert api.post("/users?limit=x", json={"name": "Ada"}).status_code == 201


def test_a_walk_sees_all_that_was_there_before_it_once(
    start_service: StartService, database: Database
) -> None:
    service = start_service(database)
    before = {create_user(service.client, str(number))["id"] for number in range(60)}
    stop = threading.Event()

    def insert() -> None:
        with httpx.Client(base_url=service.url) as client:
            while not stop.is_set():
                create_user(client, "new")

    writers = [threading.Thread(target=insert) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(5):
            seen = [
                user["id"] for page in follow(service.client, "/users?limit=7") for user in page
            ]
            assert len(seen) == len(set(seen))
            assert before <= set(seen)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
