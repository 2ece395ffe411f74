"""Post history: revisions, and diffs between two of them."""

import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import tokens
from support.api import CREATED_TIME, create_post, create_user, errors, problem, timed
from support.databases import Database
from support.editing import KINDS, history, put, shared, tag
from support.service import Service, StartService
from support.tokens import ADMIN, Issuer, as_

LARGEST_ID = 2**63 - 1


@pytest.fixture(scope="module", params=KINDS)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp(request.param)
    with shared(request, request.param, directory, EDITING="anyone") as one:
        yield one


@pytest.fixture
def client(service: Service) -> httpx.Client:
    return service.client


def new_post(client: httpx.Client, *texts: str) -> str:
    """The path of a post with these revisions."""
    first, *others = texts
    path = f"/posts/{create_post(client, create_user(client)['id'], first)['post_id']}"
    for text in others:
        assert put(client, path, text).status_code == 200
    return path


def test_each_text_is_a_revision(client: httpx.Client) -> None:
    texts = ["first", "é€😀" + "x" * 300, "third", "first"]
    path = new_post(client, *texts)
    post = client.get(path).json()
    revisions = client.get(f"{path}/revisions").json()
    assert [entry["revision"] for entry in revisions] == [4, 3, 2, 1]
    assert [entry["excerpt"] for entry in revisions] == [text[:200] for text in reversed(texts)]
    assert {entry["editor_id"] for entry in revisions} == {None}
    times = [entry["created_time"] for entry in revisions]
    assert times == sorted(times, reverse=True)
    assert times[-1] == post["created_time"]
    assert all(CREATED_TIME.fullmatch(time) for time in times)
    for number, text in enumerate(texts, 1):
        answer = client.get(path, params={"revision": number})
        assert answer.json() == post | {"content": text}
        known = {"If-None-Match": answer.headers["etag"]}
        assert client.get(f"{path}?revision={number}", headers=known).status_code == 304


def test_an_old_text_is_put_back_by_an_edit(client: httpx.Client) -> None:
    path = new_post(client, "first", "second")
    old = client.get(path, params={"revision": 1})
    problem(put(client, path, old.json()["content"], old.headers["etag"]), 412)
    assert put(client, path, old.json()["content"], tag(client, path)).status_code == 200
    assert history(client, path) == [(3, "first"), (2, "second"), (1, "first")]


@pytest.mark.parametrize("revision", [0, 3, LARGEST_ID])
def test_an_unknown_revision_is_not_found(client: httpx.Client, revision: int) -> None:
    path = new_post(client, "first", "second")
    queries = (
        f"?revision={revision}",
        f"/diff?from={revision}&to=1",
        f"/diff?from=1&to={revision}",
    )
    for query in queries:
        assert f"no revision {revision}" in problem(client.get(f"{path}{query}"), 404)["detail"]


def test_an_unknown_post_has_no_revisions(client: httpx.Client) -> None:
    for query in ("?revision=1", "/revisions", "/revisions?before=1", "/diff?from=1&to=1"):
        assert "no post" in problem(client.get(f"/posts/{LARGEST_ID}{query}"), 404)["detail"]


@pytest.mark.parametrize("value", ["", "x", "-1", "+1", "1.0", "9223372036854775808", "1&{}=1"])
def test_what_is_no_number_is_refused(client: httpx.Client, value: str) -> None:
    path = new_post(client, "first")
    for query, name in (
        ("?revision={}", "revision"),
        ("/revisions?before={}", "before"),
        ("/diff?from={}&to=1", "from"),
        ("/diff?from=1&to={}", "to"),
    ):
        given = query.format(value.format(name))
        assert set(errors(client.get(f"{path}{given}"))) == {f"#/query/{name}"}


def test_a_diff_takes_two_revisions(client: httpx.Client) -> None:
    path = new_post(client, "first")
    assert set(errors(client.get(f"{path}/diff?to=1"))) == {"#/query/from"}
    assert set(errors(client.get(f"{path}/diff?from=1"))) == {"#/query/to"}


@pytest.mark.parametrize("limit", [1, 2, 6, 7, 8])
def test_pages_hold_everything_once(client: httpx.Client, limit: int) -> None:
    path = new_post(client, *map(str, range(1, 8)))
    assert history(client, path, limit) == [(number, str(number)) for number in range(7, 0, -1)]
    assert client.get(f"{path}/revisions?before=1").json() == []
    assert [
        entry["revision"] for entry in client.get(f"{path}/revisions?before=4&limit=2").json()
    ] == [3, 2]


def test_a_list_has_a_tag(client: httpx.Client) -> None:
    path = new_post(client, "first")
    etag = tag(client, f"{path}/revisions")
    known = {"If-None-Match": etag}
    assert client.get(f"{path}/revisions", headers=known).status_code == 304
    put(client, path, "second")
    assert client.get(f"{path}/revisions", headers=known).status_code == 200


def diff(client: httpx.Client, path: str, one: int, other: int) -> str:
    answer = client.get(f"{path}/diff", params={"from": one, "to": other})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return answer.text


def test_a_diff_is_unified_text(client: httpx.Client) -> None:
    path = new_post(client, "one\ntwo\nthree\n", "one\n2\nthree")
    assert diff(client, path, 1, 2) == (
        "--- revision 1\n+++ revision 2\n@@ -1,3 +1,3 @@\n one\n-two\n-three\n+2\n+three\n"
        "\\ No newline at end of file\n"
    )
    assert diff(client, path, 2, 1).startswith("--- revision 2\n+++ revision 1\n")
    assert diff(client, path, 1, 1) == ""


def patch(folder: Path, text: str, changes: str) -> str:
    """The result of `patch` on a text."""
    (folder / "text").write_bytes(text.encode())
    command = ["patch", "--binary", "--unified", "--silent", "--force", "text"]
    subprocess.run(command, input=changes.encode(), cwd=folder, check=True)
    return (folder / "text").read_bytes().decode()


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_patch_makes_one_text_of_the_other(client: httpx.Client, tmp_path: Path) -> None:
    chance = random.Random(21)
    pieces = ["a", "b", "é", "\n", "\n", "\n", "\r\n", "\r", "\u2028", "-", "+", " ", "\\", "@@"]
    texts = ["x" + "".join(chance.choices(pieces, k=chance.randint(0, 60))) for _ in range(12)]
    # the pieces that differ are in the order of the revisions
    texts = [text for text, before in zip(texts, [None, *texts], strict=False) if text != before]
    path = new_post(client, *texts)
    numbers = range(1, len(texts) + 1)
    for one, other in ((one, other) for one in numbers for other in numbers if one != other):
        if changes := diff(client, path, one, other):
            assert patch(tmp_path, texts[one - 1], changes) == texts[other - 1]
        else:
            assert texts[one - 1] == texts[other - 1]


@pytest.fixture(scope="module")
def hard(service: Service) -> tuple[str, list[str]]:
    """Posts of 50,000 different lines, of few words and in no order."""
    chance = random.Random(21)
    texts = [
        "\n".join(chance.choice("abcdefghij") for _ in range(50_000)),
        "\n".join(chance.choice("abcdefghij") for _ in range(50_000)),
        "\n".join(chance.choice("klmnopqrst") for _ in range(50_000)),
    ]
    return new_post(service.client, *texts), texts


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("one", "other"), [(1, 2), (1, 3)])
def test_a_hard_diff_is_right_and_in_time(
    client: httpx.Client, hard: tuple[str, list[str]], tmp_path: Path, one: int, other: int
) -> None:
    path, texts = hard
    answer = client.get(f"{path}/diff", params={"from": one, "to": other})
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 5
    assert patch(tmp_path, texts[one - 1], answer.text) == texts[other - 1]


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_hard_diffs_stop_nobody(
    service: Service, client: httpx.Client, hard: tuple[str, list[str]]
) -> None:
    """Two run at a time, and other requests are served meanwhile."""
    path, _ = hard

    def compare(_: int) -> httpx.Response:
        return httpx.get(f"{service.url}{path}/diff?from=1&to=2", timeout=30)

    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(compare, number) for number in range(24)]
        reads = []
        while not all(one.done() for one in running):
            reads.append(timed(client, "GET", "/livez"))
        answers = [one.result() for one in running]
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
    assert {read.status for read in reads} == {200}
    assert compare(0).status_code == 200


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


@pytest.fixture(scope="module", params=[(k, e) for k in KINDS for e in ("author", "users")])
def known(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, issuer: Issuer
) -> Iterator[tuple[str, Service]]:
    """A service where all writers are known, and its `EDITING`."""
    kind, editing = request.param
    directory = tmp_path_factory.mktemp(f"{kind}-{editing}")
    with shared(request, kind, directory, EDITING=editing, **issuer.variables) as one:
        yield editing, one


def test_who_edits_a_post(known: tuple[str, Service], issuer: Issuer) -> None:
    editing, service = known
    ada, bob, eve = (as_(service, issuer.token(name)) for name in ("ada", "bob", "eve"))
    admin = as_(service, issuer.token("root", scope=ADMIN))
    author, editor = create_user(ada)["id"], create_user(bob)["id"]
    path = f"/posts/{create_post(ada, author, 'first')['post_id']}"
    stale = tag(ada, path)
    problem(put(service.client, path, "second"), 401)
    assert put(ada, path, "second").status_code == 200
    for nobody in (eve, admin):
        assert "no user yet" in problem(put(nobody, path, "third"), 403)["detail"]
        problem(put(nobody, f"/posts/{LARGEST_ID}", "third"), 404)
    if editing == "author":
        for condition in ("*", stale, tag(bob, path), None):
            assert "not yours" in problem(put(bob, path, "third", condition), 403)["detail"]
            problem(put(bob, path, "second", condition), 403)
        editors: list[Any] = [author, None]
    else:
        problem(put(bob, path, "third", stale), 412)
        problem(put(bob, path, "third", None), 428)
        assert put(bob, path, "third").status_code == 200
        editors = [editor, author, None]
    revisions = service.client.get(f"{path}/revisions").json()
    assert [entry["editor_id"] for entry in revisions] == editors
    assert service.client.get(path).json()["user_id"] == author
    answer = put(ada, path, "last")
    (line,) = [one for one in service.lines_of(answer.headers["x-request-id"]) if "status" in one]
    assert line["user_id"] == author


def test_nothing_is_edited_where_editing_is_off(
    database: Database, start_service: StartService, issuer: Issuer
) -> None:
    for variables in ({}, issuer.variables):
        service = start_service(database, **variables)
        admin = as_(service, issuer.token("root", scope=ADMIN))
        if not variables:
            create_post(service.client, create_user(service.client)["id"])
        for path in ("/posts/1", "/posts/x", f"/posts/{LARGEST_ID}"):
            for body in ("{", '{"content": "second"}'):
                answer = admin.put(path, content=body, headers={"content-type": "text/css"})
                assert "EDITING is off" in problem(answer, 403)["detail"]
        assert history(service.client, "/posts/1") == [(1, "Notes")]
        assert service.client.get("/posts/1?revision=1").json()["content"] == "Notes"
