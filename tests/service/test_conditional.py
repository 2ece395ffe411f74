"""Entity tags, and conditional requests (RFC 9110, section 13)."""

import httpx
import pytest

from support.api import create_post, create_user, problem
from support.databases import Database
from support.service import StartService


@pytest.fixture(params=["/users/{user}", "/user/{user}", "/posts/{post}"])
def resource(request: pytest.FixtureRequest, api: httpx.Client) -> str:
    user = create_user(api)["id"]
    return request.param.format(user=user, post=create_post(api, user)["post_id"])


@pytest.fixture(params=["/users", "/posts", "/users/{user}/posts"])
def listing(request: pytest.FixtureRequest, api: httpx.Client) -> str:
    user = create_user(api)["id"]
    create_post(api, user)
    return request.param.format(user=user)


def test_a_resource_has_a_strong_tag_and_is_asked_for_again(
    api: httpx.Client, resource: str
) -> None:
    answer = api.get(resource)
    tag = answer.headers["etag"]
    assert tag.startswith('"')
    assert answer.headers["cache-control"] == "no-cache"
    assert api.get(resource).headers["etag"] == tag


def test_a_list_has_a_weak_tag_that_changes_with_it(api: httpx.Client, listing: str) -> None:
    tag = api.get(listing).headers["etag"]
    assert tag.startswith('W/"')
    assert api.get(listing).headers["etag"] == tag
    user = listing.split("/")[2] if listing.count("/") == 3 else create_user(api)["id"]
    create_post(api, int(user))
    assert api.get(listing).headers["etag"] != tag


@pytest.mark.parametrize(
    "form", ["{tag}", '"other", {tag}', '"a,b",W/{opaque},"c"', "W/{opaque}", "*", "{opaque}"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_the_client_has_is_not_sent_again(
    api: httpx.Client, resource: str, listing: str, form: str, method: str
) -> None:
    for path in (resource, listing):
        fresh = api.get(path)
        tag = fresh.headers["etag"]
        named = form.format(tag=tag, opaque=tag.removeprefix("W/"))
        answer = api.request(method, path, headers={"If-None-Match": named})
        assert (answer.status_code, answer.content) == (304, b"")
        for name in ("etag", "cache-control", "vary"):
            assert answer.headers.get(name) == fresh.headers.get(name), name


def test_tags_may_come_in_several_lines(api: httpx.Client, resource: str) -> None:
    tag = api.get(resource).headers["etag"]
    lines = [("If-None-Match", '"x"'), ("If-None-Match", tag)]
    assert api.get(resource, headers=lines).status_code == 304


@pytest.mark.parametrize("named", ['"other"', "", "no tag", '"', '"x', "W/", "\xe9", ",,"])
def test_what_the_client_does_not_have_is_sent(
    api: httpx.Client, resource: str, named: str
) -> None:
    answer = api.get(resource, headers={"If-None-Match": named.encode("latin-1")})
    assert answer.status_code == 200
    assert answer.json()


def test_a_condition_does_not_hide_that_nothing_is_there(api: httpx.Client) -> None:
    problem(api.get("/users/9223372036854775807", headers={"If-None-Match": "*"}), 404)


def test_what_is_created_is_not_conditional(api: httpx.Client) -> None:
    answer = api.post("/users", json={"name": "Ada"}, headers={"If-None-Match": "*"})
    assert answer.status_code == 201
    assert "etag" not in answer.headers


def test_another_row_of_the_same_id_has_another_tag(api: httpx.Client) -> None:
    """As after a restore, when numbers start again."""
    tags = {api.get(f"/users/{create_user(api)['id']}").headers["etag"] for _ in range(20)}
    assert len(tags) == 20


def test_what_is_changed_by_hand_has_another_tag(
    start_service: StartService, database: Database
) -> None:
    client = start_service(database).client
    user = create_user(client)["id"]
    post = create_post(client, user)["post_id"]
    for path, change in (
        (f"/users/{user}", "UPDATE users SET name = 'Grace'"),
        (f"/posts/{post}", "UPDATE posts SET content = 'Other notes'"),
    ):
        tag = client.get(path).headers["etag"]
        database.execute(change)
        answer = client.get(path, headers={"If-None-Match": tag})
        assert answer.status_code == 200
        assert answer.headers["etag"] != tag
