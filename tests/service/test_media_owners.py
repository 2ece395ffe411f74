"""Who may set, add and delete pictures and attachments, by `EDITING`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from support import tokens
from support.api import create_post, create_user, errors, problem
from support.databases import Database, SqliteDatabase
from support.media import JPEG, PNG, attach, put_picture
from support.service import Service, metrics
from support.tokens import ADMIN, Issuer, as_, bearer

UNKNOWN = 2**63 - 1


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


@dataclass
class Wiki:
    """Ada and Bob are users, Eve is not one yet; the post is Ada's."""

    database: Database
    service: Service
    issuer: Issuer
    editing: str

    def __post_init__(self) -> None:
        self.ada, self.bob, self.eve = (self.as_(name) for name in ("ada", "bob", "eve"))
        self.admin = as_(self.service, self.issuer.token("root", scope=ADMIN))
        self.ada_id, self.bob_id = (create_user(one)["id"] for one in (self.ada, self.bob))

    def as_(self, name: str) -> httpx.Client:
        return as_(self.service, self.issuer.token(name))

    def post(self) -> int:
        return create_post(self.ada, self.ada_id)["post_id"]


KINDS = [(kind, editing) for kind in ("sqlite", "postgresql") for editing in ("author", "users")]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def wiki(
    request: pytest.FixtureRequest,
    program: Path,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Wiki]:
    kind, editing = request.param
    database: Database = SqliteDatabase(tmp_path_factory.mktemp("owners") / "wiki.db")
    if kind == "postgresql":
        database = request.getfixturevalue("postgres").create_database()
    variables = database.environment | issuer.variables | {"EDITING": editing}
    service = Service(program, tmp_path_factory.mktemp(editing), variables).wait_until_ready()
    yield Wiki(database, service, issuer, editing)
    service.close()


def test_a_picture_is_ones_own(wiki: Wiki) -> None:
    path = f"/users/{wiki.ada_id}/picture"
    assert put_picture(wiki.ada, wiki.ada_id).status_code == 201
    refused = put_picture(wiki.bob, wiki.ada_id, JPEG)
    assert "not yours" in problem(refused, 403)["detail"]
    assert "POST /users" in problem(put_picture(wiki.eve, wiki.ada_id, JPEG), 403)["detail"]
    problem(put_picture(wiki.service.client, wiki.ada_id, JPEG), 401)
    for nobody in (wiki.ada, wiki.eve, wiki.admin):
        problem(put_picture(nobody, UNKNOWN), 404)
    assert wiki.service.client.get(path).content == PNG, "reading takes no token"
    assert put_picture(wiki.admin, wiki.ada_id, JPEG).status_code == 204
    assert wiki.bob.get(path).content == JPEG

    problem(wiki.service.client.delete(path), 401)
    for other in (wiki.bob, wiki.eve):
        problem(other.delete(path), 403)
    before = metrics(wiki.service)["pictures_deleted_total"]
    assert wiki.ada.delete(path).status_code == 204
    for nobody in (wiki.ada, wiki.admin):
        problem(nobody.delete(path), 404)
        problem(nobody.delete(f"/users/{UNKNOWN}/picture"), 404)
    problem(wiki.bob.delete(path), 403)
    problem(wiki.ada.get(path), 404)
    assert put_picture(wiki.ada, wiki.ada_id).status_code == 201
    assert wiki.admin.delete(path).status_code == 204
    assert metrics(wiki.service)["pictures_deleted_total"] == before + 2


def test_who_adds_an_attachment(wiki: Wiki) -> None:
    post = wiki.post()
    mine = attach(wiki.ada, post)
    assert mine.json()["owner_id"] == wiki.ada_id
    his = attach(wiki.bob, post)
    if wiki.editing == "author":
        assert "not yours" in problem(his, 403)["detail"]
    else:
        assert his.json()["owner_id"] == wiki.bob_id
    for unknown in (wiki.eve, wiki.admin):
        assert "POST /users" in problem(attach(unknown, post), 403)["detail"]
    problem(attach(wiki.service.client, post), 401)
    for nobody in (wiki.ada, wiki.bob, wiki.eve, wiki.admin):
        problem(attach(nobody, UNKNOWN), 404)
    listed = wiki.service.client.get(f"/posts/{post}/attachments").json()
    assert len(listed) == (1 if wiki.editing == "author" else 2)


def test_an_admin_adds_anywhere(wiki: Wiki) -> None:
    chief = as_(wiki.service, wiki.issuer.token("chief", scope=ADMIN))
    own = create_user(chief)["id"]
    assert attach(chief, wiki.post()).json()["owner_id"] == own
    chief.put(f"/users/{own}/subject", json={"subject": None})


def test_who_deletes_an_attachment(wiki: Wiki) -> None:
    post = wiki.post()
    adder = wiki.ada if wiki.editing == "author" else wiki.bob
    other = wiki.bob if wiki.editing == "author" else wiki.ada
    before = metrics(wiki.service)["attachments_deleted_total"]
    paths = [f"/attachments/{attach(adder, post).json()['attachment_id']}" for _ in range(2)]
    problem(wiki.service.client.delete(paths[0]), 401)
    # An author has no right to what others have added.
    for one in (other, wiki.eve):
        problem(one.delete(paths[0]), 403)
        problem(one.delete(f"/attachments/{UNKNOWN}"), 404)
    assert wiki.ada.get(paths[0]).content == b"notes"
    for one, path in ((adder, paths[0]), (wiki.admin, paths[1])):
        assert one.delete(path).status_code == 204
        problem(one.delete(path), 404)
        problem(wiki.ada.get(path), 404)
    assert wiki.ada.get(f"/posts/{post}/attachments").json() == []
    assert metrics(wiki.service)["attachments_deleted_total"] == before + 2


def test_the_last_slot_is_not_ones_own_until_there_is_room(wiki: Wiki) -> None:
    post = wiki.post()
    for _ in range(10):
        last = attach(wiki.ada, post).json()["attachment_id"]
    problem(attach(wiki.ada, post), 409)
    for stranger in (wiki.eve, *([wiki.bob] if wiki.editing == "author" else [])):
        problem(attach(stranger, post), 403)
    assert wiki.ada.delete(f"/attachments/{last}").status_code == 204
    assert attach(wiki.ada, post).status_code == 201


def test_what_hangs_on_rows_goes_with_them(wiki: Wiki) -> None:
    zoe = wiki.as_("zoe")
    user = create_user(zoe)["id"]
    post = create_post(zoe, user)["post_id"]
    path = f"/attachments/{attach(zoe, post).json()['attachment_id']}"
    put_picture(zoe, user)
    mark = "PRAGMA foreign_keys = ON; " if wiki.database.kind == "sqlite" else ""
    with wiki.database.connect() as connection:
        if mark:
            connection.execute(mark)
        connection.execute(f"UPDATE posts SET user_id = {wiki.ada_id} WHERE post_id = {post}")
        connection.execute(f"DELETE FROM users WHERE id = {user}")
        problem(wiki.ada.get(f"/users/{user}/picture"), 404)
        (left,) = wiki.ada.get(f"/posts/{post}/attachments").json()
        assert left["owner_id"] is None
        problem(zoe.delete(path), 403)
        connection.execute(f"DELETE FROM posts WHERE post_id = {post}")
    problem(wiki.ada.get(path), 404)


WRITES = [
    ("PUT", "/users/{id}/picture"),
    ("DELETE", "/users/{id}/picture"),
    ("POST", "/posts/{id}/attachments"),
    ("DELETE", "/attachments/{id}"),
]


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_off_is_off_whatever_was_sent(api: httpx.Client, method: str, path: str) -> None:
    user = create_user(api)["id"]
    for number in (user, UNKNOWN, "nonsense"):
        for content in (PNG, b"", b"x"):
            answer = api.request(method, path.format(id=number), content=content)
            assert "EDITING" in problem(answer, 403)["detail"]
    for read in (f"/users/{user}/picture", "/attachments/1", f"/posts/{UNKNOWN}/attachments"):
        problem(api.get(read), 404)


def test_anyone_deletes_nothing(
    request: pytest.FixtureRequest, program: Path, tmp_path: Path
) -> None:
    database = SqliteDatabase(tmp_path / "wiki.db")
    service = Service(program, tmp_path, database.environment | {"EDITING": "anyone"})
    request.addfinalizer(service.close)
    client = service.wait_until_ready().client
    user = create_user(client)["id"]
    put_picture(client, user)
    attach(client, create_post(client, user)["post_id"])
    for path in (f"/users/{user}/picture", "/attachments/1", f"/attachments/{UNKNOWN}"):
        assert "EDITING" in problem(client.delete(path), 403)["detail"]
    assert client.get(f"/users/{user}/picture").content == PNG
    assert client.get("/attachments/1").content == b"notes"


def test_what_is_refused_first(wiki: Wiki) -> None:
    """The token, the media type, the content, the id, and then the owner."""
    other = f"/users/{wiki.ada_id}/picture"
    problem(wiki.service.client.put("/users/x/picture", content=b"x", headers=bearer("x")), 401)
    problem(wiki.bob.put(other, content=b"x", headers={"content-type": "text/plain"}), 415)
    assert errors(wiki.bob.put(other))
    problem(put_picture(wiki.bob, UNKNOWN), 404)
    problem(put_picture(wiki.bob, wiki.ada_id), 403)
