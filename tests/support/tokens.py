"""Access tokens and their issuer, broken where a test says so."""

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from support.net import NO_CAS
from support.service import Service

AUDIENCE = "https://wiki.example"
ADMIN = "wiki:admin"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int | None = None) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def encode(part: Any) -> str:
    return b64(part if isinstance(part, bytes) else json.dumps(part).encode())


class Key:
    """A signing key, and its public half as a JWK."""

    def __init__(self, algorithm: str = "RS256", kid: str | None = "key-1", bits: int = 2048):
        self.algorithm = algorithm
        self.kid = kid
        self.private: Any
        match algorithm[:2]:
            case "RS" | "PS":
                self.private = rsa.generate_private_key(65537, bits)
            case "ES":
                curve = ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1()
                self.private = ec.generate_private_key(curve)
            case _:
                self.private = ed25519.Ed25519PrivateKey.generate()

    @property
    def jwk(self) -> dict[str, Any]:
        public = self.private.public_key()
        match self.algorithm[:2]:
            case "RS" | "PS":
                numbers = public.public_numbers()
                key = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
            case "ES":
                numbers = public.public_numbers()
                size = (public.curve.key_size + 7) // 8
                key = {"kty": "EC", "crv": f"P-{public.curve.key_size}"}
                key |= {"x": number(numbers.x, size), "y": number(numbers.y, size)}
            case _:
                key = {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw())}
        return key | {"use": "sig", "alg": self.algorithm} | ({"kid": self.kid} if self.kid else {})

    def signature(self, message: bytes, algorithm: str) -> bytes:
        match algorithm[:2]:
            case "RS":
                return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())
            case "PS":
                pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
                return self.private.sign(message, pss, hashes.SHA256())
            case "ES":
                size = (self.private.curve.key_size + 7) // 8
                r, s = utils.decode_dss_signature(
                    self.private.sign(message, ec.ECDSA(hashes.SHA256()))
                )
                return r.to_bytes(size, "big") + s.to_bytes(size, "big")
            case _:
                return self.private.sign(message)

    def header(self, **changes: Any) -> dict[str, Any]:
        """A value of `...` removes the field."""
        header = {"typ": "at+jwt", "alg": self.algorithm, "kid": self.kid} | changes
        return {name: value for name, value in header.items() if value is not ...}

    def sign(self, header: Any, claims: Any, algorithm: str | None = None) -> str:
        """With this key, whatever the header says. Bytes are used as they are."""
        message = f"{encode(header)}.{encode(claims)}"
        return f"{message}.{b64(self.signature(message.encode(), algorithm or self.algorithm))}"


class Issuer:
    """An OpenID Connect provider on loopback, with its current `keys`, and the requests it got."""

    def __init__(self) -> None:
        self.keys = [Key()]
        self.asked: list[str] = []
        self.changed: dict[str, Any] = {}
        # Responses to send instead of the usual: for one path, or for all.
        self.instead: Callable[[BaseHTTPRequestHandler], bool] | None = None
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                if issuer.instead and issuer.instead(self):
                    return
                body = issuer.answers().get(self.path)
                answer(self, 200 if body else 404, json.dumps(body).encode())

            def log_message(self, *_: Any) -> None: ...

        self._handler = Handler
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/realm"
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answers(self) -> dict[str, Any]:
        discovery = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.changed
        keys = {"keys": [key.jwk if isinstance(key, Key) else key for key in self.keys]}
        return {"/realm/.well-known/openid-configuration": discovery, "/realm/keys": keys}

    @property
    def variables(self) -> dict[str, str]:
        return {"AUTH_ISSUER": self.url, "AUTH_AUDIENCE": AUDIENCE}

    def claims(self, subject: Any = "ada", **changes: Any) -> dict[str, Any]:
        """A value of `...` removes the field."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 600}
        return {n: v for n, v in (claims | changes).items() if v is not ...}

    def token(self, subject: Any = "ada", *, key: Key | None = None, **changes: Any) -> str:
        key = key or self.keys[0]
        return key.sign(key.header(), self.claims(subject, **changes))

    def leave(self) -> None:
        """From now on nothing is listening."""
        self._server.shutdown()
        self._server.server_close()

    def come_back(self, context: ssl.SSLContext | None = None) -> None:
        """With TLS, if there is a `context`."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._serve()


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def issuer() -> Iterator[Issuer]:
    one = Issuer()
    yield one
    one.leave()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def as_(service: Service, token: str) -> httpx.Client:
    """A client that sends this token."""
    return httpx.Client(base_url=service.url, headers=bearer(token), timeout=30, verify=NO_CAS)


def write_keys(path: Path, *keys: Key) -> Path:
    path.write_text(json.dumps({"keys": [key.jwk for key in keys]}))
    return path
