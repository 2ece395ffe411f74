"""What is refused with 422, and with which message."""

from typing import Any

import httpx
import pytest

from support.api import create_post, create_user, errors, problem

BLANK = ["", " ", "\t\r\n", "\u00a0", "\u2003\u3000", "\u2028"]
NOT_TEXT = [None, 5, 1.5, True, [], {}, ["text"]]
NOT_AN_ID = [None, "1", "x", 1.5, True, [], {}, -1, 2**63, -(2**63) - 1, 2**64]
JSON = {"content-type": "application/json"}


def test_lengths_are_counted_in_characters_and_the_limits_are_allowed(api: httpx.Client) -> None:
    user = create_user(api, "x")
    assert create_user(api, "👩" * 200)["name"] == "👩" * 200
    assert create_post(api, user["id"], "x")["content"] == "x"
    assert create_post(api, user["id"], "👩" * 100_000)["content"] == "👩" * 100_000


@pytest.mark.parametrize("name", ["x" * 201, "👩" * 201])
def test_a_name_beyond_the_limit(api: httpx.Client, name: str) -> None:
    detail = errors(api.post("/users", json={"name": name}))["#/name"]
    assert "name" in detail
    assert "200" in detail


def test_content_beyond_the_limit(api: httpx.Client) -> None:
    user = create_user(api)
    answer = api.post("/posts", json={"user_id": user["id"], "content": "x" * 100_001})
    detail = errors(answer)["#/content"]
    assert "content" in detail
    assert "100000" in detail.replace(",", "")


@pytest.mark.parametrize("text", BLANK)
def test_blank_text(api: httpx.Client, text: str) -> None:
    assert "name" in errors(api.post("/users", json={"name": text}))["#/name"]
    answer = api.post("/posts", json={"user_id": 1, "content": text})
    assert "content" in errors(answer)["#/content"]


@pytest.mark.parametrize("text", ["\0", "a\0b", "ends with\0"])
def test_nul_is_refused_on_every_database(api: httpx.Client, text: str) -> None:
    assert "name" in errors(api.post("/users", json={"name": text}))["#/name"]
    answer = api.post("/posts", json={"user_id": 1, "content": text})
    assert "content" in errors(answer)["#/content"]


@pytest.mark.parametrize("value", NOT_TEXT)
def test_what_is_not_text_is_not_taken_for_it(api: httpx.Client, value: Any) -> None:
    detail = errors(api.post("/users", json={"name": value}))["#/name"]
    assert "name" in detail
    assert "text" in detail
    answer = api.post("/posts", json={"user_id": 1, "content": value})
    assert "content" in errors(answer)["#/content"]


@pytest.mark.parametrize("value", NOT_AN_ID)
def test_what_is_not_an_id_is_not_taken_for_it(api: httpx.Client, value: Any) -> None:
    answer = api.post("/posts", json={"user_id": value, "content": "x"})
    detail = errors(answer)["#/user_id"]
    assert "user_id" in detail
    assert "number" in detail
    if type(value) in (int, float):
        assert str(2**63 - 1) in detail


def test_a_missing_field_is_named(api: httpx.Client) -> None:
    assert "name" in errors(api.post("/users", json={}))["#/name"]
    missing = errors(api.post("/posts", json={}))
    assert set(missing) == {"#/user_id", "#/content"}
    assert all(pointer.removeprefix("#/") in detail for pointer, detail in missing.items())


def test_all_errors_are_told_at_once(api: httpx.Client) -> None:
    answer = api.post("/posts", json={"user_id": "x", "content": " "})
    assert set(errors(answer)) == {"#/user_id", "#/content"}


def test_the_detail_alone_says_what_is_wrong(api: httpx.Client) -> None:
    assert "name" in problem(api.post("/users", json={"name": ""}), 422)["detail"]


@pytest.mark.parametrize("path", ["/user", "/users", "/posts"])
@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "9223372036854775808", "1e3", "%00", "%20"])
def test_an_id_in_the_path_that_is_none(api: httpx.Client, path: str, value: str) -> None:
    body = problem(api.get(f"{path}/{value}"), 422)
    assert "id" in body["detail"]
    assert "param0" not in body["detail"], "the parameter should be called by its name"
    assert all("id" in error["detail"] for error in body["errors"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"name": "x"',
        b'{"name": "x"} trailing',
        b"{'name': 'x'}",
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"name": NaN}',
        b'{"name": "x", "other": 01, "user_id": 1, "content": "x"}',
        b'{"name": "x", "other": "\xff", "user_id": 1, "content": "x"}',
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        '{"name": "x", "user_id": 1, "content": "x"}'.encode("utf-16"),
        b"[" * 50_000,
        b'{"name":' * 50_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_malformed_json(api: httpx.Client, body: bytes) -> None:
    for path in ("/users", "/posts"):
        problem(api.post(path, content=body, headers=JSON), 422)


@pytest.mark.parametrize("body", [[], [{"name": "x"}], "text", 5, None, True])
def test_a_body_that_is_no_object(api: httpx.Client, body: Any) -> None:
    for path in ("/users", "/posts"):
        problem(api.post(path, json=body), 422)


def test_nothing_is_stored_of_what_was_refused(api: httpx.Client) -> None:
    before = create_user(api)["id"]
    api.post("/users", json={"name": "x" * 201})
    after = create_user(api)["id"]
    assert all(
        api.get(f"/users/{number}").status_code == 404 for number in range(before + 1, after)
    )


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"name": "x"}',
        b'{"name": "x", "other": 1e999, "another": [-1E+999]}',
        b'{"name": "x", "other": 1' + b"0" * 400 + b"}",
        b'{"other": {"deep": ' + b"[" * 1000 + b"]" * 1000 + b'}, "name": "x"}',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_json_that_a_parser_may_take(api: httpx.Client, body: bytes) -> None:
    """RFC 8259, sections 6, 8.1 and 9; the predecessor accepts them, too."""
    answer = api.post("/users", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["name"]) == (201, "x")


@pytest.mark.parametrize("body", [b"1e999", b"[1e999]", b'"\\ud800"'])
def test_json_that_is_no_object_is_called_so(api: httpx.Client, body: bytes) -> None:
    detail = errors(api.post("/users", content=body, headers=JSON))["#"]
    assert "must be a JSON object" in detail


def test_a_name_of_a_field_that_is_no_text_is_called_so(api: httpx.Client) -> None:
    body = b'{"\\ud800": 1, "name": "x"}'
    detail = errors(api.post("/users", content=body, headers=JSON))["#"]
    assert "half of a surrogate pair" in detail


def post_with_id(api: httpx.Client, number: str) -> httpx.Response:
    body = f'{{"content": "x", "user_id": {number}}}'
    return api.post("/posts", content=body, headers=JSON)


def test_an_id_as_a_float(api: httpx.Client) -> None:
    user = create_user(api)["id"]
    for number in (f"{user}.0", f"{user}.000e0", f"{user}0e-1", f"{user / 1000:.3f}E+3"):
        answer = post_with_id(api, number)
        assert answer.status_code == 201, (number, answer.text)
        assert answer.json()["user_id"] == user


@pytest.mark.parametrize(
    "number",
    [
        "9007199254740993.0",
        "9007199254740992.0",
        "9.007199254740993e15",
        "4503599627370496.5",
        "1.00000000000000000001",
        "1e-400",
        "1e999",
        "-1e999",
        "9" * 400,
        "1e99999999999999999999",
    ],
)
def test_an_id_that_would_be_rounded(api: httpx.Client, number: str) -> None:
    """Otherwise the post would go to another user."""
    detail = errors(post_with_id(api, number))["#/user_id"]
    assert number[:40] in detail
    assert len(detail) < 200
