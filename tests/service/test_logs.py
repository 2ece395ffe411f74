"""The log: one line per request, and nothing secret."""

import json
import os
import pty
import re
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.api import create_post, create_user, problem
from support.databases import PASSWORD, Database, PostgresDatabase, SqliteDatabase
from support.service import Service, StartService
from support.wait import wait_until


def request_line(service: Service, request_id: str) -> dict[str, Any]:
    lines = [line for line in service.lines_of(request_id) if "status" in line]
    assert len(lines) == 1, f"not one line per request, but {lines}"
    return lines[0]


def test_one_json_line_per_request(database: Database, start_service: StartService) -> None:
    service = start_service(database)
    user = create_user(service.client)
    for method, path, route, status in (
        ("GET", f"/users/{user['id']}", "/users/{id}", 200),
        ("GET", f"/user/{user['id']}", "/user/{id}", 200),
        ("GET", "/posts/999", "/posts/{id}", 404),
        ("POST", "/users", "/users", 422),
    ):
        answer = service.client.request(method, path)
        line = request_line(service, answer.headers["x-request-id"])
        assert line["method"] == method
        assert line["route"] == route
        assert int(line["status"]) == status
        assert line["client"] == "127.0.0.1"
        duration = next(value for name, value in line.items() if name.startswith("duration"))
        assert 0 <= float(duration) < 5000
        assert {"time", "level"} <= set(line)
    assert all(line[:1] == "{" for line in service.text.splitlines()), "a line is not JSON"


def test_an_unknown_path_is_logged_too(shared_service: Service) -> None:
    answer = shared_service.client.get("/nowhere")
    assert int(request_line(shared_service, answer.headers["x-request-id"])["status"]) == 404


def test_a_sane_request_id_is_kept(shared_service: Service) -> None:
    for number, one in enumerate(("a", "4f1c-9D_e.7", "x" * 64)):
        request_id = f"{one}{os.getpid()}-{number}"[:64]
        answer = shared_service.client.get("/users/1", headers={"x-request-id": request_id})
        assert answer.headers["x-request-id"] == request_id
        assert request_line(shared_service, request_id)["route"] == "/users/{id}"


@pytest.mark.parametrize(
    "sent", ["", "two words", "x" * 1000, 'quo"te', "{}", "caf\xe9", "a\tb", "<b>", "a,b;c"]
)
def test_any_other_request_id_is_replaced(shared_service: Service, sent: str) -> None:
    headers = {b"x-request-id": sent.encode("latin-1")}
    answer = shared_service.client.get("/livez", headers=headers)
    assert answer.headers["x-request-id"] not in ("", sent)


def test_made_request_ids_differ(shared_service: Service) -> None:
    made = {shared_service.client.get("/livez").headers["x-request-id"] for _ in range(50)}
    assert len(made) == 50


def test_every_line_of_a_request_carries_its_id(
    database: Database, start_service: StartService
) -> None:
    service = start_service(database)
    database.execute("ALTER TABLE posts RENAME TO others")
    request_id = "the-one-that-failed"
    answer = service.client.get("/posts/1", headers={"x-request-id": request_id})
    assert problem(answer, 500)["request_id"] == request_id
    assert request_line(service, request_id)["status"] == 500
    assert "ERROR" in [line["level"] for line in service.lines_of(request_id)]


def test_no_sql_and_no_content_at_info(database: Database, start_service: StartService) -> None:
    service = start_service(database)
    user = create_user(service.client, "A name that is nobody's business")
    create_post(service.client, user["id"], "Content that is nobody's business")
    answer = service.client.get(f"/users/{user['id']}")
    assert service.lines_of(answer.headers["x-request-id"])
    for word in ("SELECT", "INSERT", "CREATE TABLE", "nobody's business"):
        assert word.lower() not in service.text.lower()


def test_rust_log_chooses(sqlite_database: SqliteDatabase, start_service: StartService) -> None:
    quiet = start_service(sqlite_database, RUST_LOG="error")
    create_user(quiet.client)
    assert quiet.text == ""
    chatty = start_service(sqlite_database, RUST_LOG="wiki_service=debug")
    with socket.create_connection((chatty.host, chatty.port)) as client:
        client.sendall(b"nonsense\r\n\r\n")
        wait_until(
            lambda: any(line["level"] == "DEBUG" for line in chatty.lines()), "a line of debugging"
        )


@pytest.mark.parametrize(
    ("filter_", "culprit"),
    [
        ("warning", "warning"),
        ("inf", "inf"),
        ("wiki-service", "wiki-service"),
        ("info,verbose", "verbose"),
        ("wiki", "wiki"),
        ("wiki-service=debug", "wiki-service"),
        ("wiki_service=warning", "wiki_service=warning"),
        ("info,sqlx=loud", "sqlx=loud"),
    ],
)
def test_a_word_that_rust_log_does_not_know(
    program: Path, tmp_path: Path, filter_: str, culprit: str
) -> None:
    """It would silence the log, errors included."""
    service = Service(program, tmp_path, {"RUST_LOG": filter_})
    try:
        assert service.wait_for_end() == 1
        assert len(service.text.splitlines()) == 1
        assert f'RUST_LOG="{filter_}"' in service.text
        assert f" {culprit} " in service.text
        assert "info" in service.text, "the line does not say what there is"
    finally:
        service.close()


@pytest.mark.parametrize(
    "filter_",
    [
        "INFO",
        "3",
        "wiki_service",
        " warn , wiki_service=info ",
        "error,wiki_service::telemetry=debug,wiki_service",
        "info,hyper=debug,sqlx::query=off,sea_orm=warn",
        "info,another_program=debug",
        "off,[span{field=1}]=debug,wiki_service=trace",
    ],
)
def test_what_rust_log_knows(
    sqlite_database: SqliteDatabase, start_service: StartService, filter_: str
) -> None:
    service = start_service(sqlite_database, RUST_LOG=filter_, until="nothing")
    wait_until(lambda: "http://" in service.text, "the first line")


def test_the_password_is_in_no_line(
    postgres_database: PostgresDatabase, start_service: StartService
) -> None:
    service = start_service(postgres_database, RUST_LOG="debug")
    answer = service.client.get("/users/1")
    assert service.lines_of(answer.headers["x-request-id"])
    assert PASSWORD not in service.text
    assert "SCRAM" not in service.text


def test_log_format_chooses(sqlite_database: SqliteDatabase, start_service: StartService) -> None:
    service = start_service(sqlite_database, LOG_FORMAT="text")
    create_user(service.client)
    line = wait_until(
        lambda: next((line for line in service.text.splitlines() if "status=201" in line), ""),
        "the request's line",
    )
    assert not line.startswith("{")
    assert "\x1b" not in service.text, "colours belong on a terminal"
    for word in ("POST", "/users", "127.0.0.1"):
        assert word in line


class Terminal:
    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.text = ""

    def read_until(self, words: str) -> str:
        """All lines, up to the first complete one with these words."""
        while not re.search(rf"{words}.*\n", self.text):
            self.text += os.read(self.master, 65536).decode()
        return self.text[: self.text.rindex("\n")]


@pytest.mark.parametrize("chosen", [{}, {"LOG_FORMAT": ""}, {"LOG_FORMAT": "json"}])
def test_a_terminal_gets_text_unless_told_otherwise(
    program: Path, tmp_path: Path, chosen: dict[str, str]
) -> None:
    """With nothing set at all, as with `cargo run`: the first lines say where everything is."""
    terminal = Terminal()
    service = Service(program, tmp_path, chosen, stdout=terminal.slave, stderr=terminal.slave)
    try:
        service.wait_until_ready()
        service.client.get("/users/424242")
        text = terminal.read_until("/users/.*404")
    finally:
        service.close()
    assert (tmp_path / "wiki.db").exists()
    first = "\n".join(text.splitlines()[:10])
    for word in (f":{service.port}", "/docs", "/metrics", "wiki.db"):
        assert word in first, f"the first lines do not show {word}"
    json_lines = [line for line in text.splitlines() if line.startswith("{")]
    if chosen.get("LOG_FORMAT") == "json":
        assert all(json.loads(line) for line in text.splitlines())
    else:
        assert json_lines == []


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        ("", "198.51.100.7", "127.0.0.1"),
        ("10.0.0.0/8", "198.51.100.7", "127.0.0.1"),
        ("127.0.0.0/8", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1/32", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.0/8, 127.0.0.0/8", "203.0.113.9, 198.51.100.7, 10.1.2.3", "198.51.100.7"),
        ("127.0.0.0/8", "203.0.113.9,198.51.100.7", "198.51.100.7"),
        ("127.0.0.0/8", "2001:db8::7", "2001:db8::7"),
        ("127.0.0.0/8", "203.0.113.7:61598", "203.0.113.7"),
        ("127.0.0.0/8", "198.51.100.7, 203.0.113.7:61598", "203.0.113.7"),
        ("127.0.0.0/8", "[2001:db8::7]", "2001:db8::7"),
        ("127.0.0.0/8", "[2001:db8::7]:61598", "2001:db8::7"),
        ("127.0.0.0/8, 10.0.0.0/8", "198.51.100.7:1, 10.1.2.3:2", "198.51.100.7"),
        ("127.0.0.0/8", "not an address", "127.0.0.1"),
        ("127.0.0.0/8", "203.0.113.7:99999", "127.0.0.1"),
        ("127.0.0.0/8", None, "127.0.0.1"),
    ],
)
def test_the_clients_address(
    sqlite_database: SqliteDatabase,
    start_service: StartService,
    trusted: str,
    forwarded: str | None,
    client: str,
) -> None:
    service = start_service(sqlite_database, TRUSTED_PROXIES=trusted)
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    answer = service.client.get("/users/1", headers=headers)
    assert request_line(service, answer.headers["x-request-id"])["client"] == client


def test_two_forwarded_headers_are_one_list(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, TRUSTED_PROXIES="127.0.0.0/8")
    headers = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "198.51.100.7")]
    answer = service.client.get("/users/1", headers=headers)
    assert request_line(service, answer.headers["x-request-id"])["client"] == "198.51.100.7"


def test_a_line_stays_one_line_whatever_the_path(shared_service: Service) -> None:
    for path in (
        b'/a"b\\c',
        b"/%0a%0d%22%5c",
        b"/\xc3\xa9",
        b"/" + b"x" * 5000,
        b"/{}?{%22a%22:1}",
    ):
        with socket.create_connection((shared_service.host, shared_service.port)) as client:
            client.sendall(b"GET " + path + b" HTTP/1.1\r\nhost: wiki\r\nconnection: close\r\n\r\n")
            assert client.recv(65536).split()[1] in (b"404", b"400")
    answer = shared_service.client.get("/users/1")
    assert shared_service.lines_of(answer.headers["x-request-id"])
    assert all(json.loads(line) for line in shared_service.text.splitlines())


def test_a_query_is_not_logged(shared_service: Service) -> None:
    """It is where clients put what they should not."""
    answer = shared_service.client.get("/users/1?token=t0p-s3cr3t")
    assert shared_service.lines_of(answer.headers["x-request-id"])
    assert "t0p-s3cr3t" not in shared_service.text


def test_a_proxys_word_stands_whatever_the_client_wrote_before_it(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, TRUSTED_PROXIES="127.0.0.0/8")
    headers = [(b"x-forwarded-for", b"\xff, 198.51.100.7")]
    answer = service.client.get("/users/1", headers=headers)
    assert request_line(service, answer.headers["x-request-id"])["client"] == "198.51.100.7"


def test_nothing_in_a_path_commands_the_terminal(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(sqlite_database, LOG_FORMAT="text")
    with socket.create_connection((service.host, service.port)) as client:
        client.sendall(b"GET /red\xc2\x9b31m HTTP/1.1\r\nhost: wiki\r\nconnection: close\r\n\r\n")
        assert client.recv(65536)
    line = wait_until(
        lambda: next((line for line in service.text.splitlines() if "/red" in line), ""),
        "the request's line",
    )
    assert line.isprintable(), line


def test_it_serves_on_when_nobody_reads_its_log(program: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    service = Service(program, tmp_path, {}, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        service.wait_until_ready()
        os.close(reader)
        for _ in range(3):
            assert service.client.get("/livez").status_code == 200
    finally:
        service.close()


def test_it_serves_on_while_its_log_is_stuck(program: Path, tmp_path: Path) -> None:
    """As when a container's log driver hangs: the pipe is open and full."""
    reader, writer = os.pipe()
    service = Service(program, tmp_path, {"LOG_FORMAT": "json"}, stdout=writer, stderr=writer)
    os.close(writer)
    sent = 400
    try:
        service.wait_until_ready()
        for number in range(sent):
            # with 64 KiB in the pipe and a mebibyte in memory, some lines have to be lost
            answer = service.client.get(f"/{number}/{'long' * 1000}")
            assert answer.status_code == 404
        log = b""
        while b" were lost here" not in log:
            log += os.read(reader, 65536)
        service.client.get("/afterwards")
        while b'"/afterwards"' not in log:
            log += os.read(reader, 65536)
    finally:
        os.close(reader)
        service.close()
    messages = [json.loads(line)["message"] for line in log.splitlines()]
    kept = sum(message.endswith("long") for message in messages)
    lost = next(int(message.split()[0]) for message in messages if "were lost" in message)
    assert kept + lost == sent


def test_help_may_be_cut_short(program: Path) -> None:
    command = f"{shlex.quote(str(program))} --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wiki-service ")
    assert done.stderr == ""
