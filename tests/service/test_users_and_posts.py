"""The contract that the predecessor's clients rely on."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from urllib.parse import urljoin

import httpx
import pytest

from support.api import CREATED_TIME, create_post, create_user, problem
from support.browser import ELSEWHERE, PrefixProxy
from support.service import Service, metrics

LARGEST_ID = 2**63 - 1


def curl(*arguments: str) -> tuple[int, str]:
    output = subprocess.run(
        ["curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    body, status = output.rsplit("\n", 1)
    return int(status), body


def test_the_predecessors_curl_lines(shared_service: Service) -> None:
    base_url = shared_service.url
    json_type = ("-H", "Content-Type: application/json")

    status, body = curl("-X", "POST", f"{base_url}/users", *json_type, "-d", '{"name": "Alice"}')
    user = json.loads(body)
    assert (status, user["name"], set(user)) == (201, "Alice", {"id", "name", "created_time"})

    data = f'{{"user_id": {user["id"]}, "content": "Hello World!"}}'
    status, body = curl("-X", "POST", f"{base_url}/posts", *json_type, "-d", data)
    post = json.loads(body)
    assert (status, set(post)) == (201, {"post_id", "content", "user_id", "created_time"})
    assert (post["content"], post["user_id"]) == ("Hello World!", user["id"])

    assert curl(f"{base_url}/user/{user['id']}") == (200, json.dumps(user, separators=(",", ":")))
    assert json.loads(curl(f"{base_url}/posts/{post['post_id']}")[1]) == post

    status, body = curl(f"{base_url}/metrics")
    assert status == 200
    for counter in ("users_created_total", "posts_created_total"):
        assert f"\n{counter} " in body


def test_a_user_is_read_back_at_both_paths(api: httpx.Client) -> None:
    user = create_user(api)
    for path in (f"/user/{user['id']}", f"/users/{user['id']}"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()) == (200, user)
        assert answer.headers["content-type"].split(";")[0] == "application/json"


def test_a_post_is_read_back(api: httpx.Client) -> None:
    post = create_post(api, create_user(api)["id"], "A first post")
    answer = api.get(f"/posts/{post['post_id']}")
    assert (answer.status_code, answer.json()) == (200, post)


def test_ids_are_integers_that_rise(api: httpx.Client) -> None:
    first, second = create_user(api), create_user(api)
    assert type(first["id"]) is int
    assert second["id"] > first["id"]


def test_location_leads_to_what_was_created(api: httpx.Client) -> None:
    user = create_user(api)
    for path, body in (
        ("/users", {"name": "Grace"}),
        ("/posts", {"user_id": user["id"], "content": "Found by its Location"}),
    ):
        created = api.post(path, json=body)
        location = urljoin(str(created.request.url), created.headers["location"])
        assert api.get(location).json() == created.json()


def test_location_behind_a_prefix(shared_service: Service) -> None:
    """Behind a proxy that strips a prefix: RFC 9110, section 10.2.2."""
    proxy = PrefixProxy(shared_service.port, "/wiki")
    base_url = proxy.url.replace(ELSEWHERE, "127.0.0.1")
    created = httpx.post(f"{base_url}/users", json={"name": "Grace"})
    location = urljoin(str(created.request.url), created.headers["location"])
    assert location == f"{base_url}/users/{created.json()['id']}"
    assert httpx.get(location).json() == created.json()
    proxy.close()


def test_created_time_is_now_in_utc_with_six_digits(api: httpx.Client) -> None:
    # A value whose last digits happen to be zeros would be cut short by a careless formatter.
    for _ in range(30):
        user = create_user(api)
        assert CREATED_TIME.fullmatch(user["created_time"]), user
        created = datetime.fromisoformat(user["created_time"]).replace(tzinfo=UTC)
        assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
        assert api.get(f"/users/{user['id']}").json() == user


@pytest.mark.parametrize("path", ["/user/{}", "/users/{}", "/posts/{}"])
def test_an_unknown_id_is_not_found(api: httpx.Client, path: str) -> None:
    body = problem(api.get(path.format(LARGEST_ID)), 404)
    assert str(LARGEST_ID) in body["detail"], "the detail should say which id is not there"


def test_a_post_of_an_unknown_user_is_not_found(api: httpx.Client) -> None:
    answer = api.post("/posts", json={"user_id": LARGEST_ID, "content": "From nobody"})
    assert str(LARGEST_ID) in problem(answer, 404)["detail"]


@pytest.mark.parametrize(
    "text",
    [
        "  kept as sent  ",
        "Zoë",
        "Zoe\u0308",
        "👩\u200d👩\u200d👧",
        "\u202eright to left",
        "\u200b",
        "lines\r\nand\ttabs",
        "\x01\x1f\x7f",
        '"quotes" and \\',
        "'); DROP TABLE users; --",
        "\uffff\U0010ffff",
        "\ufeffbyte order mark",
        "%00 %s {} $1",
        "<script>alert(1)</script>",
    ],
)
def test_text_comes_back_as_sent(api: httpx.Client, text: str) -> None:
    user = create_user(api, text)
    assert user["name"] == text
    assert api.get(f"/users/{user['id']}").json()["name"] == text
    post = create_post(api, user["id"], text)
    assert post["content"] == text
    assert api.get(f"/posts/{post['post_id']}").json()["content"] == text


def test_unknown_fields_are_ignored(api: httpx.Client) -> None:
    extra = {"id": 7, "created_time": "1999-01-01", "nickname": ["x"]}
    answer = api.post("/users", json={"name": "Alan"} | extra)
    assert answer.status_code == 201
    assert set(answer.json()) == {"id", "name", "created_time"}
    assert not answer.json()["created_time"].startswith("1999")


def test_same_names_are_allowed(api: httpx.Client) -> None:
    assert create_user(api, "Twin")["id"] != create_user(api, "Twin")["id"]


def test_a_keep_alive_connection_survives_an_error(api: httpx.Client) -> None:
    for _ in range(2):
        assert api.post("/users", content=b"{", headers=JSON).status_code == 422
    assert create_user(api)["id"] > 0


def test_only_what_was_created_is_counted(api: httpx.Client) -> None:
    before = metrics(api)
    user = create_user(api)
    create_post(api, user["id"])
    create_post(api, user["id"])
    api.post("/users", json={"name": ""})
    api.post("/posts", json={"user_id": LARGEST_ID, "content": "From nobody"})
    after = metrics(api)
    assert after["users_created_total"] - before["users_created_total"] == 1
    assert after["posts_created_total"] - before["posts_created_total"] == 2


JSON = {"content-type": "application/json"}


def test_head_is_get_without_its_body(api: httpx.Client) -> None:
    user = create_user(api)
    for path in (
        f"/users/{user['id']}",
        "/users/9223372036854775807",
        "/livez",
        "/metrics",
        "/docs",
    ):
        head, get = api.head(path), api.get(path)
        assert head.status_code == get.status_code, path
        assert head.headers["content-type"] == get.headers["content-type"]
        assert head.content == b""
        if path != "/metrics":  # which differ from one time to the next
            assert head.headers["content-length"] == get.headers["content-length"], path


def test_a_trailing_slash_leads_to_the_same(api: httpx.Client) -> None:
    """As in the predecessor's framework, for a client that follows redirects."""
    answer = api.post("/users/", json={"name": "With a slash"}, follow_redirects=True)
    assert answer.status_code == 201
    user = answer.json()
    assert api.get(f"/user/{user['id']}/", follow_redirects=True).json() == user
