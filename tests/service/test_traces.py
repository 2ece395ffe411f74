"""Traces as a collector gets them: what they contain, and that nobody waits for it."""

import os
import re
import secrets
import signal
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from support import jaeger as jaeger_support
from support.api import create_user
from support.collector import Collector
from support.databases import Database, Postgres, SqliteDatabase
from support.jaeger import Jaeger
from support.net import TcpProxy, free_port
from support.service import Service, StartService, metrics
from support.wait import wait_until

CALLER = "00f067aa0ba902b7"


def traceparent(*, sampled: bool = True) -> tuple[str, dict[str, str]]:
    """A trace's id, and the header of a caller in that trace."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{CALLER}-{'01' if sampled else '00'}"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()
    assert collector.complaints == []


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def traced(
    request: pytest.FixtureRequest, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Collector]]:
    """A service on each kind of database, and the collector that it sends to."""
    directory = tmp_path_factory.mktemp(f"traced-{request.param}")
    database: Database = SqliteDatabase(directory / "wiki.db")
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres").create_database()
    collector = Collector()
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **database.environment}
    service = Service(program, directory, variables).wait_until_ready()
    yield service, collector
    service.close()
    collector.close()
    assert collector.complaints == []


def is_postgresql(service: Service) -> bool:
    return "PostgreSQL database" in service.text


def test_a_read_is_two_spans_below_the_callers(traced: tuple[Service, Collector]) -> None:
    service, collector = traced
    user = create_user(service.client)
    trace_id, headers = traceparent()
    headers |= {"tracestate": "vendor=a:b, other@system=1", "user-agent": "curl/8"}
    assert service.client.get(f"/users/{user['id']}?q=secret", headers=headers).status_code == 200
    server, client = collector.spans_of(trace_id)
    assert (server.kind, server.name) == ("server", "GET /users/{id}")
    assert server.parent_id == CALLER
    assert not server.is_error
    assert server.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/users/{id}",
        "url.path": f"/users/{user['id']}",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": service.port,
        "user_agent.original": "curl/8",
    }
    assert (client.kind, client.name) == ("client", "SELECT users")
    assert client.parent_id == server.span_id
    assert not client.is_error
    assert server.start <= client.start <= client.end <= server.end
    text = client.attributes.pop("db.query.text")
    assert re.fullmatch(r'SELECT [^0-9]+ WHERE "users"."id" = (\?|\$1)', text)
    expected = {
        "db.system.name": "sqlite",
        "db.operation.name": "SELECT",
        "db.query.summary": "SELECT users",
    }
    if is_postgresql(service):
        port = client.attributes.pop("server.port")
        assert isinstance(port, int)
        assert f":{port}" in service.text
        expected |= {
            "db.system.name": "postgresql",
            "db.namespace": client.attributes["db.namespace"],
            "server.address": "127.0.0.1",
        }
        assert f"database {client.attributes['db.namespace']} at" in service.text
    assert client.attributes == expected
    # Both pass on the caller's own trace state.
    assert {server.state, client.state} == {"vendor=a:b,other@system=1"}
    assert server.resource["service.name"] == "wiki-service"
    assert server.resource["service.version"]


def test_a_write_is_traced_without_what_is_written(traced: tuple[Service, Collector]) -> None:
    service, collector = traced
    trace_id, headers = traceparent()
    answer = service.client.post("/users", json={"name": "nobody's business"}, headers=headers)
    assert answer.status_code == 201
    server, client = collector.spans_of(trace_id)
    assert (server.name, client.name) == ("POST /users", "INSERT users")
    assert "INSERT INTO" in client.attributes["db.query.text"]
    assert "nobody" not in repr([server, client])


def test_what_goes_wrong(traced: tuple[Service, Collector]) -> None:
    service, collector = traced
    # An error of the statement that the request handles; its message contains a value.
    trace_id, headers = traceparent()
    post = {"user_id": 987654321, "content": "x"}
    assert service.client.post("/posts", json=post, headers=headers).status_code == 404
    server, client = collector.spans_of(trace_id)
    assert client.is_error
    code = "23503" if is_postgresql(service) else "787"
    assert client.attributes["error.type"] == client.attributes["db.response.status_code"] == code
    assert "987654321" not in repr([server, client])
    assert not server.is_error, "the client's mistake is not a server error"
    assert server.attributes["http.response.status_code"] == 404
    assert "error.type" not in server.attributes

    trace_id, headers = traceparent()
    assert service.client.get("/nowhere/at/all", headers=headers).status_code == 404
    (server,) = collector.spans_of(trace_id, 1)
    assert server.name == "GET"
    assert "http.route" not in server.attributes

    trace_id, headers = traceparent()
    service.client.request("BREW", "/users", headers=headers)
    (server,) = collector.spans_of(trace_id, 1)
    assert server.name == "HTTP /users"
    assert server.attributes["http.request.method"] == "_OTHER"
    assert server.attributes["http.request.method_original"] == "BREW"


def test_a_database_that_is_away(
    own_postgres: Postgres, start_service: StartService, collector: Collector
) -> None:
    service = start_service(
        own_postgres.create_database(), OTEL_EXPORTER_OTLP_ENDPOINT=collector.url
    )
    own_postgres.pause()
    trace_id, headers = traceparent()
    assert service.client.get("/users/1", headers=headers).status_code == 503
    own_postgres.resume()
    server, client = collector.spans_of(trace_id)
    assert server.is_error
    assert server.attributes["error.type"] == "503"
    assert client.is_error
    assert client.attributes["error.type"] in ("timeout", "acquire_timeout", "connection")


def test_a_client_that_goes_away(
    database: Database, start_service: StartService, collector: Collector
) -> None:
    """Its insert is completed, and its span is sent when that has ended."""
    service = start_service(
        database,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        DATABASE_ACQUIRE_TIMEOUT_SECONDS=10,
        DATABASE_STATEMENT_TIMEOUT_SECONDS=10,
    )
    trace_id, headers = traceparent()
    with database.writes_blocked():
        with pytest.raises(httpx.ReadTimeout):
            service.client.post("/users", json={"name": "x"}, headers=headers, timeout=0.3)
        wait_until(lambda: '"status":499' in service.text, "the request to be given up")
    server, client = collector.spans_of(trace_id)
    assert server.attributes["http.response.status_code"] == 499
    assert client.parent_id == server.span_id
    assert not client.is_error
    assert client.end > server.end


@pytest.mark.parametrize(
    "malformed",
    [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
        "0A-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-001",
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "",
        "caf\xe9",
    ],
)
def test_a_malformed_traceparent_is_none(traced: tuple[Service, Collector], malformed: str) -> None:
    service, _ = traced
    headers = {b"traceparent": malformed.encode("latin-1"), b"tracestate": b"a=b"}
    trace_id = logged_trace(service, headers)
    assert trace_id
    assert trace_id not in malformed.lower()


def logged_trace(service: Service, headers: Any, path: str = "/users/1") -> str | None:
    answer = service.client.get(path, headers=headers)
    lines = service.lines_of(answer.headers["x-request-id"])
    (trace_id,) = {line.get("trace_id") for line in lines}
    return trace_id


def test_a_later_version_of_traceparent(traced: tuple[Service, Collector]) -> None:
    service, _ = traced
    trace_id = secrets.token_hex(16)
    for version in (f"cc-{trace_id}-{CALLER}-01", f"01-{trace_id}-{CALLER}-09-what-will-come"):
        assert logged_trace(service, {"traceparent": version}) == trace_id


def test_two_traceparents_are_none(traced: tuple[Service, Collector]) -> None:
    service, _ = traced
    (one, first), (two, second) = traceparent(), traceparent()
    assert logged_trace(service, [*first.items(), *second.items()]) not in (one, two)


def test_tracestate(traced: tuple[Service, Collector]) -> None:
    """Lines are one list; what is malformed, or beyond 512 characters, is not passed on."""
    service, collector = traced
    long = [f"key{number}={'x' * 100}" for number in range(8)]
    for lines, expected in (
        (["a=1,b=2", "c=3"], "a=1,b=2,c=3"),
        (["a=1 ,, b=2"], "a=1,b=2"),
        (["A=1"], ""),
        (["a"], ""),
        (["a=1", "caf\xe9=1"], ""),
        ([",".join(long)], ",".join(long[:4])),
        (["a=" + "x" * 60000], ""),
    ):
        trace_id, headers = traceparent()
        all_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        all_headers += [(b"tracestate", line.encode("latin-1")) for line in lines]
        service.client.get("/nowhere", headers=all_headers)
        (span,) = collector.spans_of(trace_id, 1)
        assert span.state == expected, lines


def test_no_span_is_as_large_as_a_client_likes(traced: tuple[Service, Collector]) -> None:
    service, collector = traced
    trace_id, headers = traceparent()
    headers |= {"user-agent": "a" * 30000}
    path = "/" + "%C3%A9" * 4000
    service.client.request("M" * 2000, path, headers=headers)
    (span,) = collector.spans_of(trace_id, 1)
    assert len(repr(span)) < 4000
    assert path.startswith(span.attributes["url.path"])
    assert len(span.attributes["user_agent.original"]) == 512


def test_trace_id_in_the_log(traced: tuple[Service, Collector]) -> None:
    service, collector = traced
    trace_id, headers = traceparent()
    assert logged_trace(service, headers) == trace_id
    # A request without a caller's trace has one, too.
    own = logged_trace(service, {})
    assert own
    server, client = collector.spans_of(own)
    assert (server.parent_id, client.parent_id) == ("", server.span_id)
    # If the caller does not trace, neither do we, and no log line has a trace_id.
    assert logged_trace(service, traceparent(sampled=False)[1]) is None


def test_probes_are_traced_for_those_who_trace_them(traced: tuple[Service, Collector]) -> None:
    service, collector = traced
    for path in ("/livez", "/readyz", "/healthz", "/metrics"):
        assert logged_trace(service, {}, path) is None
    trace_id, headers = traceparent()
    assert logged_trace(service, headers, "/readyz") == trace_id
    server, statement = collector.spans_of(trace_id)
    assert server.name == "GET /readyz"
    assert statement.kind == "client"


def test_trace_id_in_a_log_of_text(
    sqlite_database: SqliteDatabase, start_service: StartService, collector: Collector
) -> None:
    service = start_service(
        sqlite_database, LOG_FORMAT="text", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url
    )
    trace_id, headers = traceparent()
    service.client.get("/users/1", headers=headers)
    wait_until(lambda: f" trace_id={trace_id}" in service.text, "the trace's id")


@pytest.mark.parametrize(
    ("sampler", "argument", "own", "of_sampled", "of_others"),
    [
        ("always_on", "", 40, 40, 40),
        ("always_off", "", 0, 0, 0),
        ("traceidratio", "0.5", None, None, None),
        ("traceidratio", "0", 0, 0, 0),
        ("parentbased_always_on", "", 40, 40, 0),
        ("PARENTBASED_ALWAYS_OFF", "0.5", 0, 40, 0),
        ("parentbased_traceidratio", "0.5", None, 40, 0),
        ("parentbased_traceidratio", "", 40, 40, 0),
    ],
)
def test_samplers(
    sqlite_database: SqliteDatabase,
    start_service: StartService,
    collector: Collector,
    sampler: str,
    argument: str,
    own: int | None,
    of_sampled: int | None,
    of_others: int | None,
) -> None:
    """How many of 40 requests are traced; `None` is some, but not all."""
    service = start_service(
        sqlite_database,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_TRACES_SAMPLER=sampler,
        OTEL_TRACES_SAMPLER_ARG=argument,
    )
    callers: tuple[tuple[Callable[[], dict[str, str]], int | None], ...] = (
        (dict, own),
        (lambda: traceparent()[1], of_sampled),
        (lambda: traceparent(sampled=False)[1], of_others),
    )
    for number, (headers, _) in enumerate(callers):
        for _ in range(40):
            service.client.get(f"/users/{number}", headers=headers())
    assert service.terminate() == 0
    for number, (_, expected) in enumerate(callers):
        path = f"/users/{number}"
        spans = [span for span in collector.spans if span.attributes.get("url.path") == path]
        if expected is None:
            assert 0 < len(spans) < 40
        else:
            assert len(spans) == expected
        below = {span.parent_id for span in collector.spans}
        assert all(span.span_id in below for span in spans), "a trace without its statement"


def test_what_the_service_is_called(
    sqlite_database: SqliteDatabase, start_service: StartService, collector: Collector
) -> None:
    attributes = "service.name=other,deployment.environment.name=a%2Cb%20c, k8s.pod.name = x=y ,"
    for name, expected in (("", "other"), ("wiki", "wiki")):
        service = start_service(
            sqlite_database,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.url}/",
            OTEL_SERVICE_NAME=name,
            OTEL_RESOURCE_ATTRIBUTES=attributes,
        )
        service.client.get("/nowhere")
        service.terminate()
        resource = collector.spans[-1].resource
        assert resource["service.name"] == expected
        assert resource["deployment.environment.name"] == "a,b c"
        assert resource["k8s.pod.name"] == "x=y"


def test_the_variables_of_traces_come_before_those_of_all(
    sqlite_database: SqliteDatabase, start_service: StartService, collector: Collector
) -> None:
    service = start_service(
        sqlite_database,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://nowhere.invalid:4318",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces?token=s3cr3t",
        OTEL_EXPORTER_OTLP_HEADERS="x-wrong=1",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="Authorization=Basic%20czNjcjN0==,x-scope=a%2Cb",
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf",
    )
    service.client.get("/users/1")
    service.terminate()
    (request,) = collector.requests
    assert request[":path"] == "/v1/traces?token=s3cr3t"
    assert request["authorization"] == "Basic czNjcjN0=="
    assert request["x-scope"] == "a,b"
    assert "x-wrong" not in request
    assert request["host"] == f"localhost:{collector.port}"
    assert "czNjcjN0" not in service.text
    assert "s3cr3t" not in service.text
    collector.complaints.clear()  # of the path


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, Path]:
    authority = trustme.CA()
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    return authority, file


def test_tls(
    sqlite_database: SqliteDatabase,
    start_service: StartService,
    authority: tuple[trustme.CA, Path],
    tmp_path: Path,
) -> None:
    ca, file = authority
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    collector = Collector(tls=context)
    service = start_service(
        sqlite_database,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_CERTIFICATE=file,
    )
    service.client.get("/users/1")
    service.terminate()
    assert len(collector.spans) == 2
    # A collector with an untrusted certificate, or another name, gets nothing.
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    by_address = collector.url.replace("localhost", "127.0.0.1")
    for url, certificate in (
        (collector.url, other),
        (collector.url, ""),
        (by_address, file),
    ):
        service = start_service(
            sqlite_database,
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_EXPORTER_OTLP_CERTIFICATE=certificate,
        )
        service.client.get("/users/1")
        assert service.terminate() == 0
        assert "certificate" in next(line for line in service.text.splitlines() if "WARN" in line)
        assert "2 spans were lost" in service.text
    assert len(collector.spans) == 2
    collector.close()
    assert collector.complaints == []


BAD = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http://"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense", "http://"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector", "http://"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:s3cr3t@collector:4318", "HEADERS"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector/?a=s3cr3t", "TRACES_ENDPOINT"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "http://"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "s3cr3t", "NAME=VALUE"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "a b=s3cr3t", "name"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=s3cr3t%0A", "header"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file", "/no/such/file"),
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/etc/hostname", "/etc/hostname"),
    ("OTEL_TRACES_EXPORTER", "zipkin", "otlp"),
    ("OTEL_TRACES_SAMPLER", "sometimes", "always_on"),
    ("OTEL_TRACES_SAMPLER", "jaeger_remote", "always_on"),
    ("OTEL_TRACES_SAMPLER_ARG", "1.5", "0 to 1"),
    ("OTEL_TRACES_SAMPLER_ARG", "NaN", "0 to 1"),
    ("OTEL_RESOURCE_ATTRIBUTES", "staging", "NAME=VALUE"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a=%FF", "UTF-8"),
    ("OTEL_SDK_DISABLED", "yes", "true"),
    ("OTEL_SERVICE_NAME", "caf\udce9", "UTF-8"),
]


@pytest.mark.parametrize(("variable", "value", "word"), BAD)
def test_a_bad_value(program: Path, tmp_path: Path, variable: str, value: str, word: str) -> None:
    """Is named in one line."""
    endpoint = "http://127.0.0.1:1"
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": "traceidratio"}
    service = Service(program, tmp_path, variables | {variable: value, "RUST_LOG": "warn"})
    try:
        assert service.wait_for_end() == 1
        (line,) = service.text.splitlines()
        assert variable in line
        assert word in line
        assert "s3cr3t" not in line
    finally:
        service.close()


def test_without_an_endpoint_no_variable_counts(start_service: StartService) -> None:
    bad = {variable: value for variable, value, _ in BAD if not variable.endswith("ENDPOINT")}
    service = start_service(**bad)
    assert service.terminate() == 0
    assert "trace" not in service.text


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SDK_DISABLED": "TRUE"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
)
def test_off(
    sqlite_database: SqliteDatabase,
    start_service: StartService,
    collector: Collector,
    variables: dict[str, str],
) -> None:
    """Nothing is sent, said, or counted."""
    if variables:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url} | variables
    service = start_service(sqlite_database, **variables)
    assert logged_trace(service, traceparent()[1]) is None
    assert not [name for name in metrics(service) if name.startswith("trace")]
    assert service.terminate() == 0
    assert "trace" not in service.text
    assert collector.requests == []


def lost(service: Service) -> float:
    return metrics(service)["trace_spans_lost_total"]


def exported(service: Service) -> float:
    return metrics(service)["trace_spans_exported_total"]


def test_a_collector_that_comes_late(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    """Nothing is lost while no more than 2048 spans wait."""
    port = free_port()
    service = start_service(sqlite_database, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://localhost:{port}")
    for _ in range(300):
        service.client.get("/users/1")
    wait_until(lambda: "takes no spans" in service.text, "the log to say so")
    assert lost(service) == 0
    collector = Collector(port=port)
    wait_until(lambda: "takes spans again; 0 were lost" in service.text, "it to be found again")
    wait_until(lambda: exported(service) == 600, "all spans")
    assert len(collector.spans) == 600
    assert lost(service) == 0
    collector.close()
    assert collector.complaints == []


def test_a_collector_that_is_slow(
    sqlite_database: SqliteDatabase, start_service: StartService, collector: Collector
) -> None:
    """Requests are not affected; what does not fit into the queue is counted."""
    service = start_service(sqlite_database, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)

    def times(number: int) -> list[float]:
        return [service.client.get("/users/1").elapsed.total_seconds() for _ in range(number)]

    quick = statistics.median(times(100))
    collector.hold()
    assert statistics.median(times(1400)) < 2 * quick + 0.005
    wait_until(lambda: lost(service) > 0, "spans to be lost")
    before = lost(service)
    assert max(times(20)) < 1
    assert lost(service) == before + 40
    collector.release()
    taken = wait_until(
        lambda: exported(service) if exported(service) + lost(service) == 3040 else 0,
        "the queue to be empty",
    )
    # Those that it received but acknowledged too late have come twice.
    assert taken == len({span.span_id for span in collector.spans})
    # And everything is as before.
    trace_id, headers = traceparent()
    service.client.get("/users/1", headers=headers)
    collector.spans_of(trace_id)


@pytest.mark.parametrize(
    ("status", "headers", "again"),
    [
        (503, {}, True),
        (429, {"retry-after": "1"}, True),
        (502, {"retry-after": "nonsense"}, True),
        (400, {}, False),
        (401, {}, False),
        (404, {}, False),
        (500, {}, False),
        (307, {"location": "http://elsewhere.invalid/"}, False),
    ],
)
def test_a_collector_that_refuses(
    sqlite_database: SqliteDatabase,
    start_service: StartService,
    collector: Collector,
    status: int,
    headers: dict[str, str],
    again: bool,
) -> None:
    """Spans are sent again where the protocol says so, and otherwise lost."""
    collector.answer = (status, headers)
    service = start_service(sqlite_database, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    service.client.get("/users/1")
    wait_until(lambda: f"it answers {status}" in service.text, "the log to say so")
    assert lost(service) == (0 if again else 2)
    collector.answer = (200, {})
    if again:
        wait_until(lambda: len(collector.spans) == 2, "the spans to be sent again")
        assert lost(service) == 0
    else:
        assert service.terminate() == 0
        assert collector.spans == []


def test_spans_that_a_collector_does_not_want(
    sqlite_database: SqliteDatabase, start_service: StartService, collector: Collector
) -> None:
    collector.rejects = 1
    service = start_service(sqlite_database, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    service.client.get("/users/1")
    wait_until(lambda: lost(service) == 1, "the lost one")
    assert exported(service) == 1


def test_the_stop_flushes(
    database: Database, start_service: StartService, collector: Collector
) -> None:
    """Spans that are waiting, and those of requests that finish meanwhile."""
    service = start_service(
        database,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        DATABASE_ACQUIRE_TIMEOUT_SECONDS=8,
        DATABASE_STATEMENT_TIMEOUT_SECONDS=8,
    )
    early, headers = traceparent()
    service.client.get("/users/1", headers=headers)
    late, headers = traceparent()
    body = b'{"name": "late"}'
    with socket.create_connection((service.host, service.port)) as client:
        head = f"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}traceparent: {headers['traceparent']}\r\n\r\n".encode())
        wait_until(lambda: metrics(service)["http_requests_in_flight"] == 2, "the request")
        service.process.send_signal(signal.SIGTERM)
        # While connections drain.
        collector.spans_of(early)
        assert service.process.poll() is None
        client.sendall(body)
        assert client.recv(65536).startswith(b"HTTP/1.1 201")
    assert service.wait_for_end() == 0
    assert len([span for span in collector.spans if span.trace_id == late]) == 2


@pytest.mark.parametrize("away", ["refuse", "silence"])
def test_the_stop_does_not_wait_for_a_collector_that_is_away(
    sqlite_database: SqliteDatabase, start_service: StartService, collector: Collector, away: str
) -> None:
    proxy = TcpProxy(collector.port)
    service = start_service(
        sqlite_database, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{proxy.port}"
    )
    getattr(proxy, away)()
    service.client.get("/users/1")
    service.client.close()
    start = time.monotonic()
    assert service.terminate() == 0
    assert time.monotonic() - start < 4.5, "of the grace of 10 s"
    assert "2 spans were lost" in service.text
    proxy.close()


def test_the_grace_is_kept(
    sqlite_database: SqliteDatabase, start_service: StartService, collector: Collector
) -> None:
    collector.hold()
    service = start_service(
        sqlite_database,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        SHUTDOWN_GRACE_SECONDS=1,
    )
    service.client.get("/users/1")
    start = time.monotonic()
    assert service.terminate() == 0
    assert time.monotonic() - start < 1.5


def test_no_task_and_no_descriptor_stays(
    sqlite_database: SqliteDatabase, start_service: StartService, collector: Collector
) -> None:
    """A connection for each of the exporter's requests, and each is closed."""
    service = start_service(sqlite_database, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    service.client.get("/users/1")
    wait_until(lambda: len(collector.spans) == 2, "the first spans")
    files = len(os.listdir(f"/proc/{service.process.pid}/fd"))
    for _ in range(3):
        requests = len(collector.requests)
        service.client.get("/users/1")
        wait_until(lambda before=requests: len(collector.requests) > before, "a further request")
    assert len(os.listdir(f"/proc/{service.process.pid}/fd")) <= files + 1


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    try:
        server = Jaeger(tmp_path_factory.mktemp("jaeger"))
    except jaeger_support.UnavailableError as reason:
        pytest.skip(str(reason))
    yield server
    server.close()


@pytest.mark.timeout(900)  # its first build
def test_a_jaeger_finds_both_spans(
    database: Database, start_service: StartService, jaeger: Jaeger
) -> None:
    """By the service's name and by the trace's, below the span of the caller's."""
    service = start_service(
        database,
        OTEL_EXPORTER_OTLP_ENDPOINT=jaeger.endpoint,
        OTEL_SERVICE_NAME=f"wiki-{free_port()}",
    )
    user = create_user(service.client)
    trace_id, headers = traceparent()
    headers["tracestate"] = "vendor=1"
    service.client.get(f"/users/{user['id']}", headers=headers)
    spans = jaeger.spans(trace_id, 2)
    server, client = spans["GET /users/{id}"], spans["SELECT users"]
    assert server["tags"]["span.kind"] == "server"
    assert client["tags"]["span.kind"] == "client"
    assert server["parents"] in ([], [CALLER]), "the caller's span is missing"
    assert client["parents"] == [server["id"]]
    assert server["tags"]["http.response.status_code"] == 200
    assert client["tags"]["db.system.name"] in ("sqlite", "postgresql")
    assert server["tags"]["w3c.tracestate"] == client["tags"]["w3c.tracestate"] == "vendor=1"
    # A trace that began here, found from the log.
    own = logged_trace(service, {"traceparent": "00-" + "0" * 32 + f"-{CALLER}-01"})
    assert own
    spans = jaeger.spans(own, 2)
    assert spans["GET /users/{id}"]["parents"] == []
    assert "error" not in spans["GET /users/{id}"]["tags"]
    post = service.client.post("/posts", json={"user_id": 0, "content": "x"})
    (failed,) = {line["trace_id"] for line in service.lines_of(post.headers["x-request-id"])}
    assert jaeger.spans(failed, 2)["INSERT posts"]["tags"]["error"] is True
