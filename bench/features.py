"""The optional features, switched on: variables of the service, and headers of a request."""

import base64
import contextlib
import http.server
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common import need, run
from servers import Postgres, Server, patiently, status

ISSUER, SUBJECT = "https://id.example.org", "248289761001"


@dataclass(frozen=True)
class Switch:
    name: str
    headers: str = ""
    """Lines, in which `@` stands for a unique text."""
    variables: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def every_switch(database: Postgres) -> Iterator[list[Switch]]:
    """Each one alone, then all together. With the token, posts are written as user 1 only."""
    with tempfile.TemporaryDirectory() as folder, collector() as endpoint:
        identity, authorization = token(Path(folder))
        database.sql(f"UPDATE users SET issuer = '{ISSUER}', subject = '{SUBJECT}' WHERE id = 1")
        limit = {"RATE_LIMIT_PER_SECOND": "1000000"}
        cache, search = {"CACHE_SECONDS": "60"}, {"SEARCH": "true"}
        traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        traces |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
        key = "Idempotency-Key: @\r\n"
        every = {**identity, **limit, **cache, **search, **traces, "OTEL_TRACES_SAMPLER_ARG": "0.1"}
        yield [
            Switch("`CACHE_SECONDS`", "", cache),
            Switch("`Idempotency-Key`", key),
            Switch("`AUTH_ISSUER`, a token that was sent before", authorization, identity),
            Switch("`RATE_LIMIT_PER_SECOND`", "", limit),
            *(
                Switch(
                    f"traces, {float(share):.0%}", "", {**traces, "OTEL_TRACES_SAMPLER_ARG": share}
                )
                for share in ("0", "0.1", "1")
            ),
            Switch("`SEARCH`", "", search),
            Switch("all of them, traces 10%", authorization + key, every),
        ]


def searchable(server: Server, variables: dict[str, str]) -> None:
    """Waits for the index of a search that `variables` switch on."""
    if variables.get("SEARCH"):
        patiently(lambda: status(server.port, "/posts?q=lorem") == 200)


def token(folder: Path) -> tuple[dict[str, str], str]:
    """Variables with which the service accepts a token, and the header with that token."""
    openssl = need("openssl", "openssl")
    key, signed = folder / "key.pem", folder / "signed"
    run(openssl, "genrsa", "-out", key, 2048)
    modulus = run(openssl, "rsa", "-in", key, "-noout", "-modulus").strip().partition("=")[2]
    jwk = {"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig", "e": "AQAB"}
    keys = {"keys": [{**jwk, "n": encode(bytes.fromhex(modulus))}]}
    (folder / "keys.json").write_text(json.dumps(keys))
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "wiki", "sub": SUBJECT, "exp": now + 3600, "iat": now}
    # As long as a real provider's.
    claims |= {
        "jti": "5f2e6f7c-8a0a-4c1e-9a57-0d2b7d3f2c11",
        "client_id": "wiki",
        "scope": "openid",
    }
    head = {"alg": "RS256", "kid": "1", "typ": "at+jwt"}
    signed.write_text(".".join(encode(json.dumps(part).encode()) for part in (head, claims)))
    run(openssl, "dgst", "-sha256", "-sign", key, "-out", folder / "signature", signed)
    text = f"{signed.read_text()}.{encode((folder / 'signature').read_bytes())}"
    variables = {"AUTH_ISSUER": ISSUER, "AUTH_AUDIENCE": "wiki"}
    variables["AUTH_JWKS_FILE"] = str(folder / "keys.json")
    return variables, f"Authorization: Bearer {text}\r\n"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """Accepts traces, and discards them."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
