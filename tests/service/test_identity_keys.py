"""The issuer's keys: where they come from, and what happens if they change or are unavailable."""

import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
import trustme

from support import provider as real
from support import tokens
from support.api import create_post, create_user, problem
from support.service import Service, StartService, metrics
from support.tokens import ADMIN, AUDIENCE, Issuer, Key, answer, bearer, write_keys
from support.wait import wait_until


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[real.Provider]:
    if not real.is_possible():
        pytest.skip("no Node.js with npm, for a real provider")
    one = real.Provider(tmp_path / "provider.log")
    yield one
    one.stop()


def ask(service: Service, token: str) -> httpx.Response:
    return service.client.get("/users/me", headers=bearer(token))


def fetches(issuer: Issuer) -> int:
    return issuer.asked.count("/realm/keys")


def has_keys(service: Service) -> bool:
    return "keys that can be used" in service.text


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_a_real_provider(
    provider: real.Provider, start_service: StartService, algorithm: str
) -> None:
    """Discovery, rotation, outage and recovery."""
    first, second = Key(algorithm, "first"), Key(algorithm, "second")
    provider.start(first)
    service = start_service(AUTH_ISSUER=provider.url, AUTH_AUDIENCE=AUDIENCE, AUTH_READ="token")
    ada, root = provider.token("ada"), provider.token("root", ADMIN)
    with httpx.Client(base_url=service.url, headers=bearer(ada)) as client:
        user = create_user(client)
        create_post(client, user["id"])
        problem(client.put(f"/users/{user['id']}/subject", json={"subject": "eve"}), 403)
    bound = service.client.put(
        f"/users/{user['id']}/subject", json={"subject": "ada"}, headers=bearer(root)
    )
    assert bound.status_code == 204

    provider.stop()
    assert ask(service, ada).status_code == 200, "known keys stay valid"
    provider.start(second, first)
    assert ask(service, provider.token("ada")).status_code == 200, "a key that is new"
    assert ask(service, ada).status_code == 200
    provider.stop()
    provider.start(second)
    third = Key(algorithm, "third")
    provider.stop()
    provider.start(third)
    assert ask(service, provider.token("ada")).status_code == 200
    problem(ask(service, ada), 401)


def test_a_start_does_not_wait_for_the_issuer(issuer: Issuer, start_service: StartService) -> None:
    issuer.leave()
    service = start_service(**issuer.variables)
    token = issuer.token()
    refused = ask(service, token)
    problem(refused, 503)
    assert refused.headers["retry-after"]
    assert service.client.get("/users/1").status_code == 404
    problem(ask(service, "nonsense"), 401)
    issuer.come_back()
    wait_until(lambda: ask(service, token).status_code == 404, "the token to be taken")
    issuer.leave()
    problem(ask(service, token), 404)
    other = Key(kid="other")
    problem(ask(service, issuer.token(key=other)), 503)
    issuer.keys.append(other)
    issuer.come_back()
    wait_until(
        lambda: ask(service, issuer.token(key=other)).status_code == 404, "a key that is new"
    )
    problem(ask(service, issuer.token(key=Key(kid="nobody's"))), 401)


def test_a_flood_of_unknown_keys(issuer: Issuer, start_service: StartService) -> None:
    """It causes at most ten calls a minute, and hides no rotation for longer than that."""
    service = start_service(**issuer.variables)
    wait_until(lambda: has_keys(service), "the keys")
    before = fetches(issuer)
    key = issuer.keys[0]
    claims = issuer.claims()

    def send(number: int) -> int:
        return ask(service, key.sign(key.header(kid=f"unknown-{number}"), claims)).status_code

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(send, range(500))) == {401}
    spent = fetches(issuer) - before
    assert 1 <= spent <= 10
    new = Key(kid="new")
    issuer.keys.append(new)
    token = issuer.token(key=new)
    # Others continue.
    wait_until(
        lambda: send(0) == 401 and ask(service, token).status_code == 404,
        "the new key to be found",
        seconds=60,
        every=0.5,
    )
    minutes = 1 + (time.monotonic() - began) / 60
    assert fetches(issuer) - before <= 10 * minutes


def test_one_call_for_all_who_wait(issuer: Issuer, start_service: StartService) -> None:
    service = start_service(**issuer.variables)
    wait_until(lambda: has_keys(service), "the keys")
    new = Key(kid="new")
    issuer.keys.append(new)

    def slow(_: BaseHTTPRequestHandler) -> bool:
        time.sleep(0.3)
        return False

    issuer.instead = slow
    before = fetches(issuer)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda n: ask(service, issuer.token(f"s{n}", key=new)), range(16)))
    assert {each.status_code for each in found} == {404}
    assert fetches(issuer) - before <= 2


def test_a_key_that_is_gone_ends_what_it_verified(
    tmp_path: Path, issuer: Issuer, start_service: StartService
) -> None:
    """A file is checked every ten seconds, and nothing is called."""
    old, new = Key(kid="old"), Key(kid="new")
    keys = write_keys(tmp_path / "keys.json", old)
    service = start_service(**issuer.variables, AUTH_JWKS_FILE=keys)
    token = issuer.token(key=old)
    problem(ask(service, token), 404)
    keys.write_text('{"keys": [')
    wait_until(lambda: "keys.json" in service.text.partition("WARN")[2], "the warning", seconds=15)
    problem(ask(service, token), 404)
    write_keys(tmp_path / "next.json", new).rename(keys)
    wait_until(lambda: ask(service, token).status_code == 401, "the key to go", seconds=15)
    problem(ask(service, issuer.token(key=new)), 404)
    assert issuer.asked == []
    assert metrics(service)["auth_keys_age_seconds"] < 15


def redirect(handler: BaseHTTPRequestHandler) -> bool:
    if handler.path.endswith("/keys"):
        answer(handler, 302, b"", location="/realm/others")
        return True
    return False


def huge(handler: BaseHTTPRequestHandler) -> bool:
    answer(handler, 200, b" " * (1 << 20) + json.dumps({"keys": []}).encode())
    return True


def failing(handler: BaseHTTPRequestHandler) -> bool:
    answer(handler, 500, json.dumps({"keys": [Key().jwk]}).encode())
    return True


def hanging(_: BaseHTTPRequestHandler) -> bool:
    time.sleep(7)
    return True


@pytest.mark.parametrize(
    ("changed", "instead", "said"),
    [
        ({"issuer": "http://127.0.0.1/realm"}, None, "AUTH_ISSUER"),
        ({"issuer": None}, None, "discovery document"),
        ({"jwks_uri": "http://example.org/keys"}, None, "https only"),
        ({"jwks_uri": "file:///etc/passwd"}, None, "no URL"),
        ({"jwks_uri": "keys"}, None, "absolute"),
        ({"jwks_uri": None}, None, "discovery document"),
        ({}, redirect, "302"),
        ({}, huge, "limit"),
        ({}, failing, "500"),
        ({}, hanging, "5 s"),
    ],
)
def test_what_is_not_believed(
    issuer: Issuer,
    start_service: StartService,
    changed: dict[str, str],
    instead: object,
    said: str,
) -> None:
    issuer.changed, issuer.instead = changed, instead
    service = start_service(**issuer.variables)
    wait_until(lambda: '"WARN"' in service.text, "a warning", seconds=10)
    (warning, *_) = [line for line in service.lines() if line["level"] == "WARN"]
    assert said in warning["message"]
    assert "\n" not in warning["message"]
    problem(ask(service, issuer.token()), 503)
    allowed = {"/realm/.well-known/openid-configuration", "/realm/keys"}
    assert set(issuer.asked) <= allowed


def test_https_and_its_authority(
    issuer: Issuer, start_service: StartService, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    issuer.leave()
    issuer.url = f"https://localhost:{issuer.port}/realm"
    issuer.come_back(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)

    service = start_service(**issuer.variables, AUTH_CA_FILE=trusted)
    wait_until(lambda: ask(service, issuer.token()).status_code == 404, "the token to be taken")
    for variables in ({}, {"AUTH_CA_FILE": stranger}):
        service = start_service(**issuer.variables, **variables)
        wait_until(lambda one=service: "certificate" in one.text, "a complaint")
        problem(ask(service, issuer.token()), 503)
