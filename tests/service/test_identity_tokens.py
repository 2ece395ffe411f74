"""Tokens: those that are accepted, and those that nobody should accept."""

import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support import tokens
from support.api import problem
from support.net import free_port
from support.service import Service, StartService, metrics
from support.tokens import ADMIN, AUDIENCE, Issuer, Key, b64, bearer, encode, write_keys

RSA, PSS, EC, ED = Key("RS256", "rsa"), Key("PS256", "pss"), Key("ES256", "ec"), Key("EdDSA", "ed")
ANY_RSA = Key("RS256", "any-rsa")
STRANGER = Key("RS256", "rsa")
SMALL = Key("RS256", "small", bits=1024)
ENCRYPTION, BARE = Key("RS256", "encryption"), Key("RS256", "bare")
CURVE = Key("ES384", "p-384")
SECRET = b"a secret that is 32 bytes long..."


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        any_rsa = ANY_RSA.jwk
        del any_rsa["alg"], any_rsa["use"]
        one.keys = [
            *(RSA, PSS, EC, ED, any_rsa, SMALL, CURVE, ENCRYPTION.jwk | {"use": "enc"}),
            BARE.jwk | {"key_ops": ["encrypt"]},
            {"kty": "oct", "kid": "secret", "k": b64(SECRET), "alg": "HS256"},
            *({"kty": "RSA", "kid": "cut"}, {"kty": "new"}, {"kid": 5}, 7, None, []),
            RSA.jwk | {"kid": "broken", "n": "%%%"},
        ]
        one.keys = [key.jwk if isinstance(key, Key) else key for key in one.keys]
        yield one


@pytest.fixture(scope="module")
def trap() -> Iterator[tuple[int, list[bytes]]]:
    """A port that tokens point to, and its listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server.getsockname()[1], server


@pytest.fixture(scope="module")
def service(
    program: Path, tmp_path_factory: pytest.TempPathFactory, issuer: Issuer
) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("tokens")
    one = Service(program, home, issuer.variables).wait_until_ready()
    yield one
    one.close()


def ask(service: Service, token: str) -> httpx.Response:
    return service.client.get("/users/me", headers=bearer(token))


@pytest.mark.parametrize("key", [RSA, PSS, EC, ED, ANY_RSA], ids=lambda key: key.kid)
def test_each_algorithm_is_taken(service: Service, issuer: Issuer, key: Key) -> None:
    now = int(time.time())
    for changes in (
        {},
        {"aud": ["other", AUDIENCE]},
        {"exp": now - 50, "nbf": now + 50},
        {"exp": now + 5.5},
        {"nbf": now, "iat": ..., "client_id": "c", "jti": "1", "scope": ""},
        {"sub": "ä" * 255},
        {"unknown": {"deep": [1, {}]}, "sub": "x" * 255},
    ):
        problem(ask(service, issuer.token(key=key, **changes)), 404)
    for typ in ("at+jwt", "application/at+jwt", "AT+JWT"):
        problem(ask(service, key.sign(key.header(typ=typ), issuer.claims())), 404)
    if key is ANY_RSA:
        token = key.sign(key.header(alg="PS256"), issuer.claims(), "PS256")
        problem(ask(service, token), 404)


def hostile(issuer: Issuer, port: int) -> dict[str, str]:
    """Tokens by what is wrong with them."""
    now = int(time.time())
    good = issuer.token(key=RSA)
    header, payload, signature = good.split(".")
    elsewhere = f"http://127.0.0.1:{port}/keys"

    def with_header(key: Key = RSA, by: Key | None = None, **changes: object) -> str:
        return (by or key).sign(key.header(**changes), issuer.claims())

    def with_claims(**changes: object) -> str:
        return issuer.token(key=RSA, **changes)

    def raw(claims: str, head: str | None = None) -> str:
        return RSA.sign(head.encode() if head else RSA.header(), claims.encode())

    def mac(secret: bytes, head: dict[str, object]) -> str:
        message = f"{encode(head)}.{payload}"
        return f"{message}.{b64(hmac.digest(secret, message.encode(), 'sha256'))}"

    claims = json.dumps(issuer.claims(exp=now + 600))
    public = RSA.private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    unsigned = f"{encode({'typ': 'at+jwt', 'alg': 'none'})}.{payload}."
    return {
        "nothing": "",
        "a word": "nonsense",
        "two parts": f"{header}.{payload}",
        "four parts": f"{good}.{signature}",
        "five parts, as if encrypted": f"{good}.a.b",
        "dots": "...",
        "no header": f".{payload}.{signature}",
        "no payload": f"{header}..{signature}",
        "no signature": f"{header}.{payload}.",
        "a cut signature": good[:-4],
        "a longer signature": good + "AAAA",
        "another signature": f"{header}.{payload}.{b64(bytes(256))}",
        "an empty RSA signature of zeros": f"{header}.{payload}.AA",
        "padding": good + "==",
        "not the URL's alphabet": f"{header}.{payload}.{signature[:-4]}+/+/",
        "another payload": f"{header}.{encode(issuer.claims('eve'))}.{signature}",
        "another header": f"{encode(RSA.header(x=1))}.{payload}.{signature}",
        "alg none": unsigned,
        "alg None": unsigned.replace(header, ""),
        "alg nOnE with a signature": with_header(alg="nOnE"),
        "no alg": with_header(alg=...),
        "alg null": with_header(alg=None),
        "alg as a list": with_header(alg=["RS256"]),
        "HS256 with the PEM": mac(pem, RSA.header(alg="HS256")),
        "HS256 with the DER": mac(der, RSA.header(alg="HS256")),
        "HS256 with the modulus": mac(
            base64.urlsafe_b64decode(RSA.jwk["n"] + "=="), RSA.header(alg="HS256")
        ),
        "HS256 with nothing": mac(b"", RSA.header(alg="HS256")),
        "HS256 with a key of the set": mac(SECRET, RSA.header(alg="HS256", kid="secret")),
        "RS256 by a key for PS256": PSS.sign(PSS.header(alg="RS256"), issuer.claims(), "RS256"),
        "PS256 by a key for RS256": RSA.sign(RSA.header(alg="PS256"), issuer.claims(), "PS256"),
        "ES256 under an RSA key's id": EC.sign(EC.header(kid="rsa"), issuer.claims()),
        "EdDSA under an EC key's id": ED.sign(ED.header(kid="ec"), issuer.claims()),
        "RS256 that is PS256": RSA.sign(RSA.header(), issuer.claims(), "PS256"),
        "RS512": with_header(alg="RS512"),
        "ES384": CURVE.sign(CURVE.header(), issuer.claims()),
        "ES256 on P-384": CURVE.sign(CURVE.header(alg="ES256"), issuer.claims()),
        "ES256 of zeros": f"{encode(EC.header())}.{payload}.{b64(bytes(64))}",
        "ES256 in DER": f"{encode(EC.header())}.{payload}.{b64(bytes.fromhex('3006020101020101'))}",
        "a key of 1024 bits": SMALL.sign(SMALL.header(), issuer.claims()),
        "a key for encryption": with_header(ENCRYPTION),
        "a key that only encrypts": with_header(BARE),
        "a stranger's key": with_header(by=STRANGER),
        "a stranger's key by jwk": with_header(by=STRANGER, jwk=STRANGER.jwk),
        "a stranger's key by jwk without kid": with_header(by=STRANGER, jwk=STRANGER.jwk, kid=...),
        "a stranger's key by jku": with_header(by=STRANGER, jku=elsewhere, kid="theirs"),
        "a stranger's key by x5u": with_header(by=STRANGER, x5u=elsewhere, kid="theirs"),
        "a stranger's key by x5c": with_header(by=STRANGER, x5c=[b64(der)]),
        "kid as a path": with_header(kid="../../../../etc/passwd"),
        "kid as /dev/null": with_header(kid="/dev/null"),
        "kid as a URL": with_header(by=STRANGER, kid=elsewhere),
        "kid as SQL": with_header(kid="' OR 1=1 --"),
        "kid with NUL": with_header(kid="rsa\0"),
        "kid of 10 kB": with_header(kid="k" * 10_000),
        "kid of 1 MB": with_header(kid="k" * 1_000_000),
        "kid as a number": with_header(kid=1),
        "kid empty": with_header(kid=""),
        "no kid among several keys": with_header(kid=...),
        "typ JWT, an ID token": with_header(typ="JWT"),
        "no typ": with_header(typ=...),
        "typ of something else": with_header(typ="logout+jwt"),
        "typ null": with_header(typ=None),
        "crit": with_header(crit=["exp"], exp=now),
        "crit of b64": with_header(crit=["b64"], b64=False),
        "crit empty": with_header(crit=[]),
        "crit as a text": with_header(crit="exp"),
        "alg twice": raw(claims, '{"typ":"at+jwt","alg":"RS256","alg":"RS256","kid":"rsa"}'),
        "kid twice": raw(claims, '{"typ":"at+jwt","alg":"RS256","kid":"x","kid":"rsa"}'),
        "header no object": raw(claims, '["RS256"]'),
        "header no JSON": raw(claims, "{"),
        "header not UTF-8": RSA.sign(b'{"alg":"RS256\xff"}', issuer.claims()),
        "aud of another": with_claims(aud="https://other.example"),
        "aud with a slash more": with_claims(aud=AUDIENCE + "/"),
        "aud in capitals": with_claims(aud=AUDIENCE.upper()),
        "aud as a list of others": with_claims(aud=["a", "b"]),
        "aud empty": with_claims(aud=[]),
        "aud as a number": with_claims(aud=5),
        "aud null": with_claims(aud=None),
        "no aud": with_claims(aud=...),
        "iss of another": with_claims(iss="https://evil.example"),
        "iss with a slash more": with_claims(iss=issuer.url + "/"),
        "iss as a list": with_claims(iss=[issuer.url]),
        "no iss": with_claims(iss=...),
        "expired": with_claims(exp=now - 90),
        "expired long ago": with_claims(exp=0),
        "no exp": with_claims(exp=...),
        "exp null": with_claims(exp=None),
        "exp as a text": with_claims(exp=str(now + 600)),
        "exp negative": with_claims(exp=-1),
        "exp beyond 64 bits": raw(claims.replace(f'"exp": {now + 600}', '"exp": 1e20')),
        "exp in milliseconds": with_claims(exp=now * 1000),
        "exp beyond a float": raw(claims.replace(f"{now + 600}", "1e999")),
        "exp as NaN": raw(claims.replace(f"{now + 600}", "NaN")),
        "exp twice": raw(claims[:-1] + f', "exp": {now + 900}}}'),
        "future": with_claims(nbf=now + 90),
        "nbf as a text": with_claims(nbf=str(now)),
        "nbf beyond 64 bits": with_claims(nbf=10**30),
        "no sub": with_claims(sub=...),
        "sub empty": with_claims(sub=""),
        "sub null": with_claims(sub=None),
        "sub as a number": with_claims(sub=1),
        "sub as an object": with_claims(sub={"$ne": ""}),
        "sub with NUL": with_claims(sub="ada\0"),
        "sub of 256 characters": with_claims(sub="x" * 256),
        "sub twice": raw(claims[:-1] + ', "sub": "eve"}'),
        "half of a surrogate pair": raw(claims.replace('"ada"', '"\\ud800"')),
        "scope as a list": with_claims(scope=[ADMIN]),
        "claims no object": raw("[]"),
        "claims no JSON": raw("{"),
        "claims deep": raw("[" * 5000 + "]" * 5000),
        "longer than 16 KiB": with_claims(filler="x" * 17_000),
        "longer than the head's limit": with_claims(filler="x" * 70_000),
        "two in one": f"{good} {good}",
        "with a comma": f"{good},{good}",
        "in quotes": f'"{good}"',
        "a hash of it": hashlib.sha256(good.encode()).hexdigest(),
        "not ASCII": "ä.ö.ü",
    }


def test_no_hostile_token_is_taken(service: Service, issuer: Issuer, trap: tuple) -> None:
    port, listener = trap
    problem(ask(service, issuer.token(key=RSA)), 404)
    table = hostile(issuer, port)
    assert len(table) > 100
    for name, token in table.items():
        value = f"Bearer {token}".strip().encode()
        for method, path in (("GET", "/users/me"), ("GET", "/users/1"), ("POST", "/users")):
            answer = service.client.request(
                method, path, headers={"authorization": value}, json={"name": "Eve"}
            )
            if answer.status_code == 431 and len(token) > 64 * 1024:
                continue
            problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer"), name
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert {path.rsplit("/", 1)[1] for path in issuer.asked} == {"openid-configuration", "keys"}
    assert metrics(service)["users_created_total"] == 0
    problem(ask(service, issuer.token(key=RSA)), 404)


def test_two_headers_are_refused(service: Service, issuer: Issuer) -> None:
    good = f"Bearer {issuer.token(key=RSA)}"
    for values in ((good, good), (good, "Basic eA=="), ("Basic eA==", good)):
        answer = service.client.get(
            "/users/me", headers=[("authorization", value) for value in values]
        )
        problem(answer, 401)
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"authorization": f"{scheme} {issuer.token(key=RSA)}"}
        problem(service.client.get("/users/me", headers=headers), 404)


def test_type_any_takes_what_says_nothing(
    issuer: Issuer, start_service: StartService, tmp_path: Path
) -> None:
    """And a set with a single key needs no kid."""
    keys = write_keys(tmp_path / "keys.json", Key("ES256", None))
    key = Key("ES256", None)
    write_keys(keys, key)
    service = start_service(
        AUTH_ISSUER="urn:any",
        AUTH_AUDIENCE=AUDIENCE,
        AUTH_JWKS_FILE=keys,
        AUTH_TOKEN_TYPE="any",
        PORT=free_port(),
    )
    claims = issuer.claims(iss="urn:any")
    for typ in ("JWT", "jwt", ..., "at+jwt"):
        problem(ask(service, key.sign(key.header(typ=typ, kid=...), claims)), 404)
    for typ in ("logout+jwt", "dpop+jwt", ""):
        problem(ask(service, key.sign(key.header(typ=typ, kid=...), claims)), 401)


def test_a_verified_token_ends(service: Service, issuer: Issuer) -> None:
    """At its exp, although it is cached."""
    token = issuer.token(key=RSA, exp=int(time.time()) - 57)
    problem(ask(service, token), 404)
    deadline = time.monotonic() + 10
    while ask(service, token).status_code != 401:
        assert time.monotonic() < deadline
