"""Rate limits with RATE_LIMIT_PER_SECOND."""

import ipaddress
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from support import tokens
from support.api import problem
from support.service import Service, StartService, metrics
from support.tokens import ADMIN, Issuer, bearer
from support.wait import wait_until

# So slow that nothing is refilled during a test.
SLOW = {"RATE_LIMIT_PER_SECOND": 0.01, "RATE_LIMIT_BURST": 3}
LOOPBACK = {"TRUSTED_PROXIES": "127.0.0.0/8"}
ADDRESS, SUBJECT = (f'rate_limited_total{{by="{by}"}}' for by in ("address", "subject"))


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


def status(
    service: Service, forwarded: str | None = None, path: str = "/users/1", **headers: str
) -> int:
    headers |= {"x-forwarded-for": forwarded} if forwarded is not None else {}
    return service.client.get(path, headers=headers).status_code


def exhaust(service: Service, forwarded: str | None = None) -> None:
    """Uses up all three of SLOW."""
    assert [status(service, forwarded) for _ in range(4)] == [404, 404, 404, 429]


def test_beyond_the_burst_a_client_waits(start_service: StartService) -> None:
    service = start_service(**SLOW, CORS_ALLOWED_ORIGINS="https://example.org")
    exhaust(service)
    answer = service.client.get("/users/1", headers={"origin": "https://example.org"})
    assert "wait 100 s" in problem(answer, 429)["detail"]
    assert answer.headers["retry-after"] == "100"
    assert "retry-after" in answer.headers["access-control-expose-headers"]
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    refused = service.client.post("/users", json={"name": "x" * 100_000})
    assert problem(refused, 429)["title"] == "Too Many Requests"
    assert "users_created_total 0" in service.client.get("/metrics").text
    found = metrics(service)
    assert (found[ADDRESS], found[SUBJECT]) == (3, 0)


def test_a_body_that_is_refused_counts(start_service: StartService) -> None:
    service = start_service(**SLOW, MAX_BODY_BYTES=10)
    answers = [service.client.post("/users", json={"name": "Ada"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [413, 413, 413, 429]


def test_what_was_taken_comes_back(start_service: StartService) -> None:
    service = start_service(RATE_LIMIT_PER_SECOND=1)
    start = time.monotonic()
    assert status(service) == 404
    answer = service.client.get("/users/1")
    problem(answer, 429)
    assert answer.headers["retry-after"] == "1"
    wait_until(lambda: status(service) == 404, "the bucket to fill", every=0.05)
    assert 0.99 < time.monotonic() - start < 5
    assert status(service) == 429, "no more than one came back"


def test_a_burst_is_one_seconds_worth(start_service: StartService) -> None:
    service = start_service(RATE_LIMIT_PER_SECOND=0.5)
    assert [status(service), status(service)] == [404, 429]


def test_probes_metrics_and_preflights_are_exempt(start_service: StartService) -> None:
    service = start_service(**SLOW, CORS_ALLOWED_ORIGINS="https://example.org")
    exhaust(service)
    for path in ("/livez", "/readyz", "/healthz", "/metrics"):
        assert {status(service, path=path) for _ in range(5)} == {200}
        assert status(service, path=f"{path}/") == 307
        assert service.client.head(path).status_code == 200
    asked = {"origin": "https://example.org", "access-control-request-method": "POST"}
    assert service.client.options("/users", headers=asked).status_code == 204
    for path in ("/docs", "/redoc", "/openapi.json", "/openapi.yaml", "/", "/nowhere", "/users/"):
        assert status(service, path=path) == 429, path
    problem(service.client.options("/users"), 429)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("198.51.100.7", "203.0.113.9, 198.51.100.7", "198.51.100.8"),
        ("198.51.100.7", "nonsense, 198.51.100.7:61598", "198.51.100.7, 198.51.100.8"),
        ("198.51.100.7", "::ffff:198.51.100.7", "::ffff:198.51.100.8"),
        ("198.51.100.7", "203.0.113.9, 198.51.100.7, 127.0.0.9", "203.0.113.9"),
        ("2001:db8::1", "[2001:db8:0:0:ffff::2]:443", "2001:db8:0:1::1"),
        ("nonsense", "198.51.100.7, nonsense", "198.51.100.7"),
        ("", "203.0.113.7:99999", "203.0.113.7"),
    ],
)
def test_whose_address_it_is(start_service: StartService, one: str, same: str, other: str) -> None:
    service = start_service(**SLOW, **LOOPBACK)
    exhaust(service, one)
    assert status(service, same) == 429
    exhaust(service, other)


def test_without_trusted_proxies_a_client_cannot_make_up_addresses(
    start_service: StartService,
) -> None:
    service = start_service(**SLOW)
    assert [status(service, f"198.51.100.{n}") for n in range(5)] == [404, 404, 404, 429, 429]
    assert status(service, forwarded="198.51.100.9", Forwarded="for=198.51.100.9") == 429


def test_a_subject_has_a_bucket_of_its_own(start_service: StartService, issuer: Issuer) -> None:
    service = start_service(**SLOW, **LOOPBACK, **issuer.variables)
    known = bearer(issuer.token("ada"))
    assert status(service, "198.51.100.1", **known) == 404
    for address in ("198.51.100.1", "198.51.100.2"):
        assert status(service, address, **known) == 404, address
    again = bearer(issuer.token("ada", jti="another token"))
    for headers in (known, again):
        answer = service.client.get(
            "/users/1", headers=headers | {"x-forwarded-for": "198.51.100.3"}
        )
        assert "from you" in problem(answer, 429)["detail"]
        assert answer.headers["cache-control"] == "private, no-cache"
    assert status(service, "198.51.100.1", **bearer(issuer.token("bob"))) == 404
    admin = bearer(issuer.token("root", scope=ADMIN))
    assert [status(service, "198.51.100.1", **admin) for _ in range(4)] == [404, 404, 404, 429]
    found = metrics(service)
    assert (found[ADDRESS], found[SUBJECT]) == (0, 3)
    exhaust(service, "198.51.100.3")


def test_a_valid_token_gives_back_what_it_took(start_service: StartService, issuer: Issuer) -> None:
    service = start_service(**SLOW, **issuer.variables)
    for number in range(10):
        assert status(service, **bearer(issuer.token(f"subject {number}"))) == 404
    exhaust(service)


def test_bad_tokens_are_refused_before_they_are_looked_at(
    start_service: StartService, issuer: Issuer
) -> None:
    service = start_service(**SLOW, **issuer.variables, AUTH_READ="token")
    known, unknown = bearer(issuer.token("ada")), bearer(issuer.token("bob"))
    assert status(service, **known) == 404
    bad: list[dict[str, str]] = [bearer("nonsense"), {"authorization": "Bearer"}, {}]
    assert [status(service, **headers) for headers in bad] == [401, 401, 401]
    before = metrics(service)
    assert [status(service, **headers) for headers in (*bad, unknown)] == [429] * 4
    assert status(service, path="/nowhere") == 429
    after = metrics(service)
    assert after[ADDRESS] - before[ADDRESS] == 5
    assert {n: v for n, v in after.items() if n.startswith("auth_refusals")} == {
        n: v for n, v in before.items() if n.startswith("auth_refusals")
    }
    assert status(service, **known) == 404, "a known caller is still served"


@pytest.mark.parametrize("with_tokens", [False, True])
def test_the_document_says_so(
    start_service: StartService, issuer: Issuer, api: httpx.Client, with_tokens: bool
) -> None:
    variables = issuer.variables if with_tokens else {}
    service = start_service(RATE_LIMIT_PER_SECOND=100, **variables)
    paths = service.client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            answers = operation["responses"]
            assert ("429" in answers) == (operation["tags"] != ["Operations"]), path
            assert list(answers) == sorted(answers)
            if "429" in answers:
                assert answers["429"]["headers"]["Retry-After"]["required"]
    assert '"429"' not in api.get("/openapi.json").text


def test_without_a_limit_there_is_none(api: httpx.Client) -> None:
    assert {api.get("/users/9223372036854775807").status_code for _ in range(100)} == {404}
    assert "rate_limited" not in api.get("/metrics").text


@pytest.mark.parametrize(
    "variables",
    [
        {"RATE_LIMIT_BURST": "5"},
        *(
            {"RATE_LIMIT_PER_SECOND": value}
            for value in ("0", "-1", "NaN", "inf", "1e7", "5/s", "0.0001")
        ),
        *(
            {"RATE_LIMIT_PER_SECOND": "5", "RATE_LIMIT_BURST": value}
            for value in ("0", "2.5", "-1", "4294967296")
        ),
    ],
)
def test_what_cannot_be(start_service: StartService, variables: dict[str, str]) -> None:
    service = start_service(until="nothing", **variables)
    assert service.wait_for_end() == 1
    (line,) = service.text.splitlines()
    assert list(variables)[-1] in line
    if len(variables) == 1:
        assert "RATE_LIMIT_PER_SECOND" in line


def flood(service: Service, count: int) -> None:
    """A request from each of `count` addresses, a hundred at a time on one connection."""
    with service.connect() as connection:
        answers = connection.makefile("rb")
        for first in range(0, count, 100):
            last = min(first + 100, count)
            addresses = (ipaddress.ip_address(0x0B00_0000 + n) for n in range(first, last))
            connection.sendall(
                b"".join(
                    b"GET /users/ HTTP/1.1\r\nhost: wiki\r\nx-forwarded-for: %s\r\n\r\n"
                    % str(address).encode()
                    for address in addresses
                )
            )
            for _ in range(first, last):
                assert answers.readline() == b"HTTP/1.1 307 Temporary Redirect\r\n"
                while answers.readline() != b"\r\n":
                    pass


def test_a_flood_of_addresses(start_service: StartService, long: bool) -> None:
    """It takes no memory, and evicts nobody who has used up their limit."""
    count = 1_000_000 if long else 5000
    service = start_service(**SLOW, **LOOPBACK, RUST_LOG="warn")
    process = psutil.Process(service.process.pid)
    flood(service, 1000)
    clients = [f"2001:db8:0:{n:x}::1" for n in range(10)]
    for client in clients:
        exhaust(service, client)
    before = process.memory_info().rss
    flood(service, count)
    assert process.memory_info().rss - before < 8 * 2**20
    assert {status(service, client) for client in clients} == {429}
