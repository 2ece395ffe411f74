"""A trace collector: OTLP over HTTP, strict, and as uncooperative as it is told to be."""

import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from support.net import free_port
from support.wait import wait_until

KINDS = {Span.SPAN_KIND_SERVER: "server", Span.SPAN_KIND_CLIENT: "client"}


@dataclass
class Received:
    """A span as received, with its attributes and those of its resource as dictionaries."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start: int
    end: int
    is_error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any] = field(repr=False)


def values(attributes: Any) -> dict[str, Any]:
    found = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
    assert len(found) == len(attributes), f"a key twice: {attributes}"
    return found


class Collector:
    """Accepts spans until it is closed. `answer` is a status and headers; `hold` makes requests
    wait. Violations of the protocol are in `complaints`."""

    def __init__(self, *, port: int | None = None, tls: ssl.SSLContext | None = None):
        self.port = port or free_port()
        self.spans: list[Received] = []
        self.requests: list[dict[str, str]] = []
        self.complaints: list[str] = []
        self.answer: tuple[int, dict[str, str]] = (200, {})
        self.rejects = 0
        self._open = threading.Event()
        self._open.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector._take(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = request.rfile.read(int(headers["content-length"]))
        self.requests.append(headers | {":path": request.path})
        self._open.wait()
        status, further = self.answer
        answer = ExportTraceServiceResponse()
        if status == 200:
            answer.partial_success.rejected_spans = self.rejects
            try:
                self._keep(request.path, headers, body)
            except Exception as error:  # noqa: BLE001  # the test is to see it
                self.complaints.append(repr(error))
                status = 400
        payload = answer.SerializeToString()
        request.send_response(status)
        for name, value in {"content-type": "application/x-protobuf", **further}.items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(payload)))
        request.end_headers()
        request.wfile.write(payload)

    def _keep(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces", path
        assert headers["content-type"] == "application/x-protobuf"
        message = ExportTraceServiceRequest.FromString(body)
        assert message.resource_spans, "an empty request"
        for group in message.resource_spans:
            resource = values(group.resource.attributes)
            assert resource["service.name"]
            assert resource["telemetry.sdk.language"] == "rust"
            for scope in group.scope_spans:
                assert scope.scope.name == "wiki-service"
                self.spans += [self._read(span, resource) for span in scope.spans]

    @staticmethod
    def _read(span: Any, resource: dict[str, Any]) -> Received:
        assert len(span.trace_id) == 16, span
        assert any(span.trace_id), span
        assert len(span.span_id) == 8, span
        assert any(span.span_id), span
        assert len(span.parent_span_id) in (0, 8), span
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
        assert span.dropped_attributes_count == 0, span
        assert span.flags & 1, "not sampled"
        return Received(
            name=span.name,
            kind=KINDS[span.kind],
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            state=span.trace_state,
            start=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            is_error=span.status.code == Status.STATUS_CODE_ERROR,
            attributes=values(span.attributes),
            resource=resource,
        )

    def spans_of(self, trace_id: str, number: int = 2) -> list[Received]:
        """The spans of a trace, the server's first, once there are this many."""

        def found() -> list[Received] | None:
            spans = [span for span in self.spans if span.trace_id == trace_id]
            return (
                sorted(spans, key=lambda s: s.kind, reverse=True) if len(spans) >= number else None
            )

        return wait_until(found, f"{number} spans of {trace_id}; {self.complaints}")
