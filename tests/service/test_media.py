"""Pictures and attachments: what is accepted, and how it is served."""

import contextlib
import itertools
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from support import dumps
from support.api import CREATED_TIME, create_post, create_user, errors, problem
from support.databases import Database, Postgres, SqliteDatabase
from support.media import GIF, HTML, IMAGES, JPEG, MAX_PICTURE, PNG, SVG, attach, put_picture
from support.service import Service, StartService, metrics
from support.wait import wait_until

ACCEPT = "image/gif, image/jpeg, image/png, image/webp"
UNKNOWN = 2**63 - 1


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Database:
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").create_database()
    return SqliteDatabase(tmp_path_factory.mktemp("media") / "wiki.db")


@pytest.fixture(scope="module")
def service(
    database: Database, program: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    variables = {"EDITING": "anyone", "REQUEST_TIMEOUT_SECONDS": "2", "RUST_LOG": "trace"}
    one = Service(
        program, tmp_path_factory.mktemp("anyone"), database.environment | variables
    ).wait_until_ready()
    yield one
    one.close()


@pytest.fixture(scope="module")
def client(service: Service) -> httpx.Client:
    return service.client


@pytest.fixture
def user(client: httpx.Client) -> int:
    return create_user(client)["id"]


@pytest.fixture
def post(client: httpx.Client, user: int) -> int:
    return create_post(client, user)["post_id"]


def attachment(client: httpx.Client, post: int, content: bytes = b"notes", **headers: Any) -> str:
    answer = attach(client, post, content, **headers)
    assert answer.status_code == 201, answer.text
    return str(httpx.URL(str(answer.url)).join(answer.headers["location"]))


@pytest.fixture(scope="module")
def posts(client: httpx.Client) -> Iterator[int]:
    """Yields each post as often as it has room for an attachment."""
    user = create_user(client)["id"]
    return (post for _ in itertools.count() for post in [create_post(client, user)["post_id"]] * 10)


@pytest.fixture(scope="module", params=["picture", "attachment"])
def blob(request: pytest.FixtureRequest, client: httpx.Client) -> str:
    """The path of a PNG."""
    user = create_user(client)["id"]
    post = create_post(client, user)["post_id"]
    if request.param == "attachment":
        return attachment(client, post, PNG)
    put_picture(client, user)
    return f"/users/{user}/picture"


@pytest.mark.parametrize("type_", IMAGES)
def test_a_picture_is_served_as_what_it_is(client: httpx.Client, user: int, type_: str) -> None:
    for declared in (type_, type_.upper(), f"{type_}; q=1", None):
        assert put_picture(client, user, IMAGES[type_], declared).status_code in (201, 204)
        answer = client.get(f"/users/{user}/picture")
        assert answer.content == IMAGES[type_]
        assert answer.headers["content-type"] == type_


def test_gif_of_1987(client: httpx.Client, user: int) -> None:
    put_picture(client, user, b"GIF87a" + bytes(9))
    assert client.get(f"/users/{user}/picture").headers["content-type"] == "image/gif"


def test_setting_a_picture(client: httpx.Client, user: int) -> None:
    path = f"/users/{user}/picture"
    problem(client.get(path), 404)
    before = metrics(client)
    first = put_picture(client, user)
    assert (first.status_code, first.content) == (201, b"")
    tag = client.get(path).headers["etag"]
    assert first.headers["etag"] == tag
    again = put_picture(client, user)
    assert (again.status_code, again.headers["etag"]) == (204, tag)
    other = put_picture(client, user, JPEG)
    assert other.status_code == 204
    assert other.headers["etag"] == client.get(path).headers["etag"] != tag
    assert client.get(path).content == JPEG
    problem(put_picture(client, UNKNOWN), 404)
    after = metrics(client)
    assert after["pictures_set_total"] - before["pictures_set_total"] == 3
    stored = after["media_bytes_total"] - before["media_bytes_total"]
    assert stored == 2 * len(PNG) + len(JPEG)


NO_PICTURES = [
    (PNG, "image/jpeg"),
    (PNG, "image/jpg"),
    (PNG, "image/svg+xml"),
    (PNG, "text/html"),
    (PNG, "application/octet-stream"),
    (PNG, "application/x-www-form-urlencoded"),
    (PNG, "multipart/form-data; boundary=x"),
    (PNG, "image/*"),
    (PNG, "image"),
    (SVG, "image/svg+xml"),
    (SVG, "image/png"),
    (SVG, None),
    (HTML, "image/jpeg"),
    (HTML, "text/html"),
    (HTML + PNG, "image/png"),
    (b"\n" + PNG, "image/png"),
    (PNG[:7], "image/png"),
    (PNG.replace(b"\r\n", b"\n"), "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF88a" + GIF, "image/gif"),
    (b"RIFF\x40\x00\x00\x00WAVEfmt ", "image/webp"),
    (b"RIFF", "image/webp"),
    (b"\x00" * 100, "image/png"),
    (b"BM" + bytes(60), "image/bmp"),
    (b"", "text/plain"),
]


def test_what_is_no_picture(client: httpx.Client, user: int) -> None:
    for content, type_ in NO_PICTURES:
        refused = put_picture(client, user, content, type_)
        assert refused.status_code == 415, (content, type_)
        assert refused.headers["accept"] == ACCEPT
        assert "image" in problem(refused, 415)["detail"]
    problem(client.get(f"/users/{user}/picture"), 404)


def test_nothing_is_unpacked(client: httpx.Client, user: int, post: int) -> None:
    for coding in ("gzip", "br", "identity, gzip"):
        header = {"content-encoding": coding}
        for refused in (
            client.put(f"/users/{user}/picture", content=PNG, headers=header),
            attach(client, post, PNG, content_encoding=coding),
        ):
            problem(refused, 415)
            assert refused.headers["accept-encoding"] == "identity"


def test_nothing_at_all(client: httpx.Client, user: int, post: int) -> None:
    for refused in (
        put_picture(client, user, b""),
        put_picture(client, user, b"", "image/png"),
        client.put(f"/users/{user}/picture"),
        attach(client, post, b""),
        client.post(f"/posts/{post}/attachments"),
    ):
        assert "empty" in errors(refused)["#"]


def test_how_large(client: httpx.Client, user: int, post: int) -> None:
    largest = PNG.ljust(MAX_PICTURE, b"\0")
    assert put_picture(client, user, largest).status_code == 201
    assert client.get(f"/users/{user}/picture").content == largest
    for size in (MAX_PICTURE + 1, (1 << 20) + 1):
        problem(put_picture(client, user, PNG.ljust(size, b"\0")), 413)
    assert client.get(f"/users/{user}/picture").content == largest
    path = attachment(client, post, b"\0" * (1 << 20))
    assert client.get(path).content == b"\0" * (1 << 20)
    problem(attach(client, post, b"\0" * ((1 << 20) + 1)), 413)


def test_polyglots_are_what_they_begin_as(client: httpx.Client, user: int, post: int) -> None:
    """And never as anything that a browser would run."""
    for content in (GIF + HTML, b"GIF89a/*" + b"=1;*/=alert(1)", JPEG + HTML, PNG + SVG):
        put_picture(client, user, content)
        paths = (f"/users/{user}/picture", attachment(client, post, content))
        for answer in map(client.get, paths):
            assert answer.headers["content-type"].startswith("image/")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_all_other_attachments_are_downloads(client: httpx.Client, posts: Iterator[int]) -> None:
    """Whatever their declared type."""
    for content in (HTML, SVG, b"%PDF-1.7", b"PK\x03\x04", b"\0", b"\xef\xbb\xbf"):
        for type_ in ("", "text/html", "image/svg+xml", "image/png", "nonsense"):
            headers = {"content_type": type_} if type_ else {}
            answer = client.get(attachment(client, next(posts), content, **headers))
            assert answer.content == content
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["content-disposition"] == 'attachment; filename="attachment"'
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_a_form_is_no_file(client: httpx.Client, post: int) -> None:
    path = f"/posts/{post}/attachments"
    for type_ in ({}, {"content-type": "Multipart/Form-Data; boundary=x"}):
        refused = client.post(path, files={"file": ("a.txt", b"notes")}, headers=type_)
        assert "itself" in problem(refused, 415)["detail"]
        assert refused.headers["accept"] == "application/octet-stream"
    assert client.get(path).json() == []


def test_an_upload_that_is_cut_off_or_slow_leaves_nothing(
    service: Service, client: httpx.Client, user: int, post: int
) -> None:
    slow = []
    for target in (f"PUT /users/{user}/picture", f"POST /posts/{post}/attachments"):
        head = f"{target} HTTP/1.1\r\nhost: wiki\r\ncontent-length: 1000\r\n\r\n".encode()
        cut = service.connect()
        cut.sendall(head + PNG)
        cut.shutdown(socket.SHUT_WR)
        assert cut.recv(65536)[:12] in (b"HTTP/1.1 400", b"")
        slow.append(service.connect())
        slow[-1].sendall(head + PNG)
    for one in slow:
        assert one.recv(65536).startswith(b"HTTP/1.1 408")
    problem(client.get(f"/users/{user}/picture"), 404)
    assert client.get(f"/posts/{post}/attachments").json() == []


RANGES = [
    ("bytes=0-3", 0, 4),
    ("bytes=4-4", 4, 5),
    ("bytes=5-", 5, len(PNG)),
    ("bytes=-7", len(PNG) - 7, len(PNG)),
    ("bytes=-10000", 0, len(PNG)),
    ("bytes=0-10000", 0, len(PNG)),
    (f"bytes={len(PNG) - 1}-", len(PNG) - 1, len(PNG)),
    ("bytes=2-99999999999999999999999", 2, len(PNG)),
    (f"bytes=2-{2**64 - 1}", 2, len(PNG)),
    ("bytes=-99999999999999999999999", 0, len(PNG)),
    ("BYTES=0-3", 0, 4),
    ("bytes= 0-3", 0, 4),
    ("bytes=,0-3,", 0, 4),
]


NOTHING = [f"bytes={len(PNG)}-", "bytes=10000-20000", "bytes=-0", f"bytes={2**64}-", "bytes=-00"]
ALL = [
    *("bytes=0-1,3-4", "bytes=5-4", "bytes=+1-2", "bytes=a-b", "bytes=-", "bytes", "bytes="),
    *("0-3", "items=0-3", "bytes=0--3", "bytes=1-2-3", "", "bytes=0x1-2", "bytes=\xe9-1"),
]


def test_a_range(client: httpx.Client, blob: str) -> None:
    whole = client.get(blob)
    assert whole.headers["accept-ranges"] == "bytes"
    for asked, start, end in RANGES:
        answer = client.get(blob, headers={"range": asked})
        assert (answer.status_code, answer.content) == (206, PNG[start:end]), asked
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(PNG)}"
        for name in ("etag", "content-type", "accept-ranges", "content-security-policy"):
            assert answer.headers[name] == whole.headers[name]
        head = client.head(blob, headers={"range": asked})
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(PNG)))
        assert "content-range" not in head.headers
    for asked in NOTHING:
        refused = client.get(blob, headers={"range": asked})
        problem(refused, 416)
        assert refused.headers["content-range"] == f"bytes */{len(PNG)}"
    for asked in ALL:
        answer = client.get(blob, headers={"range": asked.encode("latin-1")})
        assert (answer.status_code, answer.content) == (200, PNG), asked


def test_conditions_and_ranges(client: httpx.Client, blob: str) -> None:
    tag = client.get(blob).headers["etag"]
    assert tag.startswith('"')
    part = {"range": "bytes=0-3"}
    for named in (tag, "*", f'"x", W/{tag}'):
        none = {"range": "bytes=9999-"}
        for more in ({}, part, none, part | {"if-range": tag}, part | {"if-range": '"x"'}):
            for method in ("GET", "HEAD"):
                same = client.request(method, blob, headers={"if-none-match": named} | more)
                assert (same.status_code, same.content) == (304, b"")
                assert same.headers["etag"] == tag
                assert same.headers["cache-control"] == "no-cache"
                for name in ("content-type", "content-length", "content-disposition"):
                    assert name not in same.headers
    other = {"if-none-match": '"x"'}
    assert client.get(blob, headers=other).content == PNG
    assert client.get(blob, headers=other | part).content == PNG[:4]
    assert client.get(blob, headers=part | {"if-range": tag}).content == PNG[:4]
    for named in ('"x"', f"W/{tag}", tag.strip('"'), "Tue, 15 Nov 2044 12:45:26 GMT", "\xe9", ""):
        if_range = {"if-range": named.encode("latin-1")}
        answer = client.get(blob, headers=part | if_range)
        assert (answer.status_code, answer.content) == (200, PNG), named
        # Then an unsatisfiable range is no reason to refuse it.
        assert client.get(blob, headers={"range": "bytes=9999-"} | if_range).content == PNG


def test_no_hand_changes_bytes_without_their_hash(
    client: httpx.Client, database: Database, blob: str
) -> None:
    table = "pictures" if "picture" in blob else "attachments"
    new = "x'00'" if database.kind == "sqlite" else "'\\x00'"
    with pytest.raises(Exception, match="sha256"):
        database.execute(f"UPDATE {table} SET bytes = {new}")
    assert client.get(blob).content == PNG


def test_an_attachment(client: httpx.Client, post: int) -> None:
    before = metrics(client)
    path = f"/posts/{post}/attachments"
    assert client.get(path).json() == []
    made = attach(client, post, PNG, content_disposition='attachment; filename="chart.png"')
    assert made.status_code == 201
    body = made.json()
    assert CREATED_TIME.fullmatch(body.pop("created_time"))
    number = body["attachment_id"]
    assert body == {
        "attachment_id": number,
        "post_id": post,
        "filename": "chart.png",
        "media_type": "image/png",
        "size": len(PNG),
        "owner_id": None,
    }
    assert made.headers["location"] == f"../../attachments/{number}"
    answer = client.get(f"/attachments/{number}")
    assert answer.content == PNG
    assert answer.headers["content-disposition"] == 'inline; filename="chart.png"'
    assert client.get(path).json() == [made.json()]
    others = [attach(client, post, b"x").json() for _ in range(4)]
    listed = [made.json(), *others][::-1]
    assert client.get(path).json() == listed
    page = client.get(f"{path}?limit=2&before={others[-1]['attachment_id']}")
    assert page.json() == listed[1:3]
    assert page.headers["link"] == f'<?before={listed[2]["attachment_id"]}&limit=2>; rel="next"'
    after = metrics(client)
    created = "attachments_created_total"
    assert after[created] - before[created] == 5
    assert after["media_bytes_total"] - before["media_bytes_total"] == len(PNG) + 4
    for path in (f"/posts/{UNKNOWN}/attachments", f"/attachments/{UNKNOWN}"):
        problem(client.get(path), 404)
    problem(attach(client, UNKNOWN), 404)


def test_a_post_has_ten_attachments(client: httpx.Client, database: Database, user: int) -> None:
    """Even of twenty at once, and again once there is room."""
    post, other = (create_post(client, user)["post_id"] for _ in range(2))
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: attach(client, post, b"%d" % n), range(20)))
    statuses = [answer.status_code for answer in answers]
    # A machine may be too busy for some.
    assert set(statuses) <= {201, 409, 503}
    assert 10 - statuses.count(503) <= statuses.count(201) <= 10
    while (refused := attach(client, post)).status_code == 201:
        pass
    assert "10" in problem(refused, 409)["detail"]
    assert len(client.get(f"/posts/{post}/attachments").json()) == 10
    assert attach(client, other).status_code == 201
    database.execute(f"DELETE FROM attachments WHERE post_id = {post} AND slot = 4")
    assert attach(client, post).status_code == 201
    problem(attach(client, post), 409)


NAMES = [
    ("attachment", "attachment"),
    ("inline", "attachment"),
    ("attachment; filename=plain.txt", "plain.txt"),
    ('attachment; filename="with blank.txt"', "with blank.txt"),
    ('ATTACHMENT ;FileName = "x.txt" ;', "x.txt"),
    ('attachment; size=7; filename="x.txt"; creation-date="a;b=c"', "x.txt"),
    ('attachment; filename="a\\"b;c.txt"', 'a"b;c.txt'),
    ("attachment; filename*=UTF-8''%e2%82%ac%20rates.txt", "€ rates.txt"),
    ("attachment; filename*=utf-8'en'x.txt; filename=y.txt", "x.txt"),
    ("attachment; filename=y.txt; filename*=UTF-8''x.txt", "x.txt"),
    ('attachment; filename="Übersicht €.txt"', "Übersicht €.txt"),
    ('attachment; filename="100%25.txt"', "100%25.txt"),
    ('attachment; filename="/etc/passwd"', "passwd"),
    ('attachment; filename="../../../etc/passwd"', "passwd"),
    ('attachment; filename="C:\\\\dir\\\\file.txt"', "file.txt"),
    ("attachment; filename*=UTF-8''..%2F..%2Fx%5Cy.txt", "y.txt"),
    ('attachment; filename="  x.txt "', "x.txt"),
    ('attachment; filename=".profile"', ".profile"),
    (f'attachment; filename="{"€" * 255}"', "€" * 255),
    (f'attachment; filename="{"d" * 400}/x.txt"', "x.txt"),
    ('attachment; filename="<script>.html"', "<script>.html"),
    ("attachment; filename*=UTF-8''%F0%9F%91%A9%E2%80%8D%F0%9F%92%BB.txt", "👩\u200d💻.txt"),
    ("form-data; name=file; filename=x.txt", "x.txt"),
]


def test_what_a_file_is_called(client: httpx.Client, posts: Iterator[int]) -> None:
    for header, name in NAMES:
        made = attach(client, next(posts), content_disposition=header)
        assert made.status_code == 201, made.text
        assert made.json()["filename"] == name
        served = client.get(f"/attachments/{made.json()['attachment_id']}")
        assert filename(served.headers["content-disposition"]) == name


def filename(header: str) -> str:
    """By RFC 6266 and 8187 only."""
    kind, _, rest = header.partition('; filename="')
    plain, _, extended = rest.partition("; filename*=UTF-8''")
    assert (kind, plain[-1]) == ("attachment", '"')
    plain = plain[:-1]
    assert plain.isascii()
    assert plain.isprintable()
    assert not set(plain) & set('"\\')
    assert all(c.isalnum() or c in "!#$&+-.^_`|~%" for c in extended)
    return unquote(extended, errors="strict") if extended else plain


NO_NAMES = [
    "",
    ";",
    "; filename=x",
    "attachment filename=x",
    "attachment; filename",
    "attachment; x; filename=y",
    "attachment; =y",
    'attachment; filename="x',
    'attachment; filename="x" y',
    'attachment; filename="x\\',
    "attachment; filename=x; filename=y",
    "attachment; filename*=ISO-8859-1''%a3.txt",
    "attachment; filename*=UTF-8''%a3.txt",
    "attachment; filename*=x.txt",
    "attachment; filename*=UTF-8'x.txt",
    "attachment; filename=",
    'attachment; filename=""',
    'attachment; filename="  "',
    'attachment; filename="dir/"',
    'attachment; filename=".."',
    'attachment; filename="a/."',
    'attachment; filename="a\tb"',
    "attachment; filename*=UTF-8''a%0d%0aSet-Cookie:%20x",
    "attachment; filename*=UTF-8''a%00b",
    "attachment; filename*=UTF-8''a%7fb",
    "attachment; filename*=UTF-8''a%c2%85b",
    "attachment; filename*=UTF-8''exe.%e2%80%aegpj",
    f'attachment; filename="{"x" * 256}"',
    b'attachment; filename="\xa3.txt"',
]


def test_what_no_file_is_called(client: httpx.Client, post: int) -> None:
    for header in NO_NAMES:
        refused = attach(client, post, content_disposition=header)
        assert refused.status_code == 422, header
        details = errors(refused)
        assert set(details) == {"#/header/Content-Disposition"}
        (detail,) = details.values()
        assert detail.startswith("Content-Disposition ")
        assert len(detail) < 400
    assert client.get(f"/posts/{post}/attachments").json() == []


def test_bytes_are_in_no_log(service: Service, client: httpx.Client, user: int, post: int) -> None:
    """At whatever level."""
    secret = b"s3cr3t-bytes"
    assert put_picture(client, user, PNG + secret).status_code == 201
    path = attachment(client, post, secret)
    assert client.get(path).content == secret
    problem(put_picture(client, user, secret), 415)
    last = problem(attach(client, post, secret, content_encoding="gzip"), 415)["request_id"]
    wait_until(lambda: last in service.text, "the last line")
    assert "s3cr3t" not in service.text


def test_a_backup_has_them(
    client: httpx.Client,
    database: Database,
    postgres: Postgres,
    start_service: StartService,
    tmp_path: Path,
    user: int,
    post: int,
) -> None:
    largest = bytes(range(256)) * 4096
    paths = {f"/users/{user}/picture": PNG, attachment(client, post, largest): largest}
    put_picture(client, user, PNG)
    copy: Database
    if isinstance(database, SqliteDatabase):
        copy = SqliteDatabase(tmp_path / "backup.db")
        database.execute(f"VACUUM INTO '{copy.path}'")
    else:
        copy = postgres.create_database()
        dumped = dumps.dump(database)
        restore = ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        environment = dumps.environment(copy)
        subprocess.run(restore, input=dumped, text=True, env=environment, check=True)
    restored = start_service(copy, EDITING="anyone").client
    for path, content in paths.items():
        assert restored.get(path).content == content
        assert restored.get(path).headers["etag"] == client.get(path).headers["etag"]
    assert attach(restored, post).json()["attachment_id"] > 1


@contextlib.contextmanager
def blocked(database: Database) -> Iterator[None]:
    if isinstance(database, SqliteDatabase):
        with database.writes_blocked():
            yield
        return
    with database.connect() as connection:
        connection.execute("BEGIN; LOCK TABLE attachments, pictures IN EXCLUSIVE MODE")
        yield
        connection.execute("ROLLBACK")


def test_to_set_a_picture_may_be_tried_again(
    client: httpx.Client, database: Database, user: int, post: int
) -> None:
    """Retrying sets the same picture. Adding an attachment again may add another."""
    with blocked(database):
        again = put_picture(client, user)
        once = attach(client, post)
        problem(client.get(f"/users/{user}/picture"), 404)
    problem(again, 503)
    assert again.headers["retry-after"] == "1"
    problem(once, 503)
    assert "retry-after" not in once.headers
    wait_until(lambda: put_picture(client, user).is_success, "the next write")
