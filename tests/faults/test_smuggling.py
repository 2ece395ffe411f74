"""Requests whose end is ambiguous: a proxy and the service must not read them differently
(RFC 9112, sections 2.2, 3.2, 5, 6 and 7)."""

import contextlib
import re
from dataclasses import dataclass

import pytest

from support.service import Service, requests_seen

# A separate request to whoever ends the first one too early.
INNER = b"GET /smuggled HTTP/1.1\r\nhost: wiki\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
UPGRADE = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n"
END = b"0\r\n\r\n"


def length(bytes_: bytes | int) -> bytes:
    return b"content-length: %d\r\n" % (bytes_ if isinstance(bytes_, int) else len(bytes_))


def post(headers: bytes, body: bytes = b"", start: bytes = b"POST /users HTTP/1.1") -> bytes:
    return start + b"\r\nhost: wiki\r\n" + headers + b"\r\n" + body


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


@dataclass
class Shape:
    name: str
    request: bytes
    # Refused by the parser: 400, the service sees no request, the connection ends.
    refused: bool = False
    # Answered as one request, after which the connection must end.
    closes: bool = False


def refused(name: str, request: bytes) -> Shape:
    return Shape(name, request, refused=True, closes=True)


SHAPES = [
    Shape("a body by its length", post(length(INNER), INNER)),
    Shape("a body in chunks", post(CHUNKED, chunk(INNER) + END)),
    Shape(
        "an inner request in a chunk's extension", post(CHUNKED, b"0;" + b"x" * 90 + b"\r\n\r\n")
    ),
    Shape("chunk extensions", post(CHUNKED, chunk(b"{}", b';a=b;c="d e"') + END)),
    Shape("trailers that look like framing", post(CHUNKED, b"0\r\ncontent-length: 5\r\n\r\n")),
    Shape("the same length twice", post(length(INNER) * 2, INNER)),
    Shape("an empty line before the request", b"\r\n" + post(length(INNER), INNER)),
    Shape("Transfer-Encoding in capitals", post(b"TRANSFER-ENCODING: CHUNKED\r\n", END)),
    Shape("lines that end in LF alone", post(length(INNER)).replace(b"\r", b"") + INNER),
    Shape("a GET with a body", post(length(INNER), INNER, b"GET /livez HTTP/1.1")),
    Shape("a HEAD with a body", post(length(INNER), INNER, b"HEAD /livez HTTP/1.1")),
    Shape("an upgrade to HTTP/2", post(UPGRADE + length(INNER), INNER)),
    Shape("length, then chunked", post(length(4) + CHUNKED, chunk(INNER) + END), closes=True),
    Shape("chunked, then length", post(CHUNKED + length(4), chunk(INNER) + END), closes=True),
    Shape("chunked and a wrong length", post(CHUNKED + b"content-length: x\r\n", END), closes=True),
    refused("two lengths", post(length(0) + length(INNER), INNER)),
    refused("two lengths in one line", post(b"content-length: 0, %d\r\n" % len(INNER), INNER)),
    refused("a negative length", post(b"content-length: -1\r\n", INNER)),
    refused("a length with a sign", post(b"content-length: +%d\r\n" % len(INNER), INNER)),
    refused("a length in hexadecimal", post(b"content-length: 0x10\r\n", INNER)),
    refused("a length with a space in it", post(b"content-length: 1 0\r\n", INNER)),
    refused("a length beyond 64 bits", post(b"content-length: 18446744073709551617\r\n", INNER)),
    refused("no length at all", post(b"content-length: \r\n", INNER)),
    refused("a space before the colon", post(b"content-length : 4\r\n", INNER)),
    refused("a tab before the colon", post(b"transfer-encoding\t: chunked\r\n", END + INNER)),
    refused("a folded header", post(b"x: y\r\n content-length: 4\r\n", INNER)),
    refused("a folded Transfer-Encoding", post(b"transfer-encoding:\r\n chunked\r\n", END + INNER)),
    refused("a space before the first header", post(b" content-length: 4\r\n", INNER)),
    refused("a header without a colon", post(b"content-length\r\n", INNER)),
    refused("a header without a name", post(b": 4\r\n", INNER)),
    refused("NUL in a header", post(b"x: \0\r\n", INNER)),
    refused("CR alone in a header", post(b"x: y\rcontent-length: 4\r\n", INNER)),
    refused("another coding", post(b"transfer-encoding: identity\r\n", INNER)),
    refused("a coding after chunked", post(b"transfer-encoding: chunked, gzip\r\n", END + INNER)),
    refused("a coding like chunked", post(b"transfer-encoding: xchunked\r\n", END + INNER)),
    refused("chunked with a vertical tab", post(b"transfer-encoding: \vchunked\r\n", END + INNER)),
    refused("chunked in quotes", post(b'transfer-encoding: "chunked"\r\n', END + INNER)),
    refused(
        "chunked and identity", post(CHUNKED + b"transfer-encoding: identity\r\n", END + INNER)
    ),
    refused("chunked in HTTP/1.0", post(CHUNKED, END + INNER, b"POST /users HTTP/1.0")),
    refused("two spaces in the first line", post(b"", INNER, b"POST  /users HTTP/1.1")),
    refused("a space in the path", post(b"", INNER, b"POST /users /x HTTP/1.1")),
    refused("HTTP/0.9", b"GET /smuggled\r\n\r\n" + INNER),
    refused("an unknown version", post(b"", INNER, b"POST /users HTTP/3.7")),
    refused("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INNER),
    refused("no host", b"GET /livez HTTP/1.1\r\n\r\n" + INNER),
    refused("two hosts", b"GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n" + INNER),
    refused("a host that is none", b"GET /livez HTTP/1.1\r\nhost: a b/c\r\n\r\n" + INNER),
    *(
        Shape(
            f"a chunk of size {size.decode()!r}", post(CHUNKED, size + b"\r\n" + INNER), closes=True
        )
        for size in (b"x", b"-1", b"+2", b"0x2", b"", b" ", b"1" * 17, b"2 2", b"2\n")
    ),
    Shape("a CONNECT that is refused", post(b"", b"", b"CONNECT wiki:80 HTTP/1.1")),
    Shape("a chunk longer than it says", post(CHUNKED, b"2\r\n{}x\r\n" + END + INNER), closes=True),
    Shape("a chunk that ends in LF", post(CHUNKED, b"2\r\n{}\n" + END + INNER), closes=True),
    Shape("an endless chunk extension", post(CHUNKED, b"2;" + b"x" * 100_000), closes=True),
    Shape("endless trailers", post(CHUNKED, b"0\r\n" + b"x: y\r\n" * 50_000), closes=True),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("shared_service", ["sqlite"], indirect=True)
def test_a_request_is_read_in_one_way(shared_service: Service, shape: Shape) -> None:
    before = requests_seen(shared_service)
    with shared_service.connect() as client:
        client.sendall(shape.request)
        if not shape.closes:
            client.sendall(b"GET /livez HTTP/1.1\r\nhost: wiki\r\nconnection: close\r\n\r\n")
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                received += data
    statuses = re.findall(rb"HTTP/1\.1 (\d{3})", received)
    seen = requests_seen(shared_service) - before
    if shape.refused:
        assert (statuses, seen) in (([b"400"], 0), ([], 0))
    elif shape.closes:
        assert seen == 1
        assert len(statuses) <= 1
    else:
        assert seen == 2
        assert statuses[1:] == [b"200"]
