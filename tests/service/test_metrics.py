"""/metrics, checked by promtool and scraped by a Prometheus."""

import random
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from support.api import create_post, create_user
from support.databases import Database, Postgres, SqliteDatabase
from support.prometheus import Prometheus, check_metrics
from support.service import Service, StartService, metrics
from support.wait import wait_until


def requests_total(method: str, route: str, status: int) -> str:
    return f'http_requests_total{{method="{method}",route="{route}",status="{status}"}}'


def test_all_are_there_from_the_start(database: Database, start_service: StartService) -> None:
    service = start_service(database, DATABASE_POOL_SIZE=3)
    answer = service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = metrics(service)
    assert found["users_created_total"] == 0
    assert found["posts_created_total"] == 0
    assert found["database_pool_max_connections"] == 3
    assert 0 <= found["database_pool_idle_connections"] <= found["database_pool_connections"] <= 3
    assert found["database_pool_acquire_timeouts_total"] == 0
    assert found["http_requests_in_flight"] >= 0
    assert found["process_resident_memory_bytes"] > 1_000_000
    assert found["process_open_fds"] > 3
    assert found["process_cpu_seconds_total"] >= 0
    assert found["process_start_time_seconds"] > 1_600_000_000
    assert any(name.startswith('build_info{version="') for name in found)


def test_cpu_time_moves_in_fractions_of_a_second(api: httpx.Client) -> None:
    """Otherwise `rate()` is zero with spikes."""

    def seconds() -> float:
        return metrics(api)["process_cpu_seconds_total"]

    start = seconds()
    wait_until(lambda: seconds() > start, "some CPU time to be spent", every=0)
    assert seconds() - start < 0.9


def test_the_process_is_as_the_system_sees_it(shared_service: Service) -> None:
    process = psutil.Process(shared_service.process.pid)
    found = metrics(shared_service)
    memory, times = process.memory_info(), process.cpu_times()
    assert found["process_resident_memory_bytes"] == pytest.approx(memory.rss, rel=0.1)
    assert found["process_virtual_memory_bytes"] == pytest.approx(memory.vms, rel=0.1)
    assert found["process_cpu_seconds_total"] == pytest.approx(times.user + times.system, abs=0.5)
    assert found["process_start_time_seconds"] == pytest.approx(process.create_time(), abs=2)
    assert found["process_threads"] == pytest.approx(process.num_threads(), abs=4)
    assert found["process_open_fds"] == pytest.approx(process.num_fds(), abs=3)
    assert found["process_max_fds"] == process.rlimit(psutil.RLIMIT_NOFILE)[0]


def test_promtool_has_no_complaint(shared_service: Service) -> None:
    user = create_user(shared_service.client)
    create_post(shared_service.client, user["id"])
    assert check_metrics(shared_service.client.get("/metrics").text) == ""


def test_every_metric_has_help_and_type(api: httpx.Client) -> None:
    text = api.get("/metrics").text
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    helped = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    assert {"users_created_total", "posts_created_total"} <= families
    assert families == helped


def test_requests_are_counted_by_method_route_and_status(api: httpx.Client) -> None:
    before = metrics(api)
    user = create_user(api)
    for _ in range(3):
        api.get(f"/users/{user['id']}")
    api.get(f"/user/{user['id']}")
    api.get("/posts/9223372036854775807")
    api.post("/users", json={})
    after = metrics(api)
    for series, count in (
        (requests_total("POST", "/users", 201), 1),
        (requests_total("GET", "/users/{id}", 200), 3),
        (requests_total("GET", "/user/{id}", 200), 1),
        (requests_total("GET", "/posts/{id}", 404), 1),
        (requests_total("POST", "/users", 422), 1),
    ):
        assert after.get(series, 0) - before.get(series, 0) == count, series
        histogram = series.replace("requests_total", "request_duration_seconds_count")
        assert after.get(histogram, 0) - before.get(histogram, 0) == count, histogram


def test_the_histogram_resolves_what_a_fast_api_does(api: httpx.Client) -> None:
    user = create_user(api)
    api.get(f"/users/{user['id']}")
    labels = 'method="GET",route="/users/{id}",status="200"'
    bounds = [
        float(name.split('le="')[1].rstrip('"}'))
        for name in metrics(api)
        if name.startswith(f"http_request_duration_seconds_bucket{{{labels}")
    ]
    assert min(bounds) <= 0.005
    assert sorted(bounds)[-2] >= 5
    assert bounds == sorted(bounds)


def test_labels_stay_bounded_whatever_a_client_sends(api: httpx.Client) -> None:
    randomness = random.Random(4)

    def word() -> str:
        return "".join(randomness.choices(string.ascii_uppercase, k=9))

    words = [word() for _ in range(200)]
    methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"]

    def send_all(words: list[str]) -> None:
        for number, text in enumerate(words):
            method = methods[number % len(methods)]
            api.request(text, f"/{text}")
            api.request(text, "/users")
            api.request(method, f"/{text}/{text}?{text}={text}")
            api.request(method, f"/users/{text}", headers={"host": text})
            api.request(method, f"/posts/{10**12 + number}")

    send_all(words[: len(methods)])
    metrics(api)  # a series of its own
    before = metrics(api)
    send_all(words[len(methods) :])
    after = metrics(api)
    assert not [name for name in after if any(text in name for text in words)]
    assert len(set(after) - set(before)) == 0, "series grow with what clients send"


def test_a_write_that_failed_is_not_counted(
    database: Database, start_service: StartService
) -> None:
    service = start_service(database)
    user = create_user(service.client)
    with database.writes_blocked():
        assert service.client.post("/users", json={"name": "late"}).status_code == 503
        post = {"user_id": user["id"], "content": "late"}
        assert service.client.post("/posts", json=post).status_code == 503
    found = metrics(service)
    assert found["users_created_total"] == len(database.execute("SELECT id FROM users")) == 1
    assert found["posts_created_total"] == 0


def test_requests_in_flight(database: Database, start_service: StartService) -> None:
    service = start_service(database)
    resting = metrics(service)["http_requests_in_flight"]
    with ThreadPoolExecutor(3) as pool:
        with database.writes_blocked():
            pending = [pool.submit(create_user, service.client) for _ in range(3)]
            wait_until(
                lambda: metrics(service)["http_requests_in_flight"] == resting + 3,
                "three requests in flight",
                seconds=5,
                every=0.005,
            )
        for one in pending:
            one.result()
    assert metrics(service)["http_requests_in_flight"] == resting


def test_acquire_timeouts_are_counted(database: Database, start_service: StartService) -> None:
    service = start_service(
        database,
        DATABASE_POOL_SIZE=1,
        DATABASE_ACQUIRE_TIMEOUT_SECONDS=0.2,
        DATABASE_STATEMENT_TIMEOUT_SECONDS=5,
    )

    def keyed() -> bool:
        headers = {"Idempotency-Key": "a"}
        posted = service.client.post("/users", json={"name": "x"}, headers=headers)
        return posted.status_code == 201

    # What builds it waits for the only connection, too.
    wait_until(keyed, "the index that keys take")
    before = metrics(service)["database_pool_acquire_timeouts_total"]
    with database.writes_blocked(), ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: service.client.post("/users", json={"name": "x"}), range(4))
        )
    timeouts = [answer for answer in answers if "retry-after" in answer.headers]
    assert {answer.status_code for answer in timeouts} == {503}
    assert len(timeouts) >= 3
    after = metrics(service)["database_pool_acquire_timeouts_total"]
    assert after - before == len(timeouts)


def test_waiting_for_sqlites_one_writer_is_an_acquire_timeout(
    sqlite_database: SqliteDatabase, start_service: StartService
) -> None:
    service = start_service(
        sqlite_database,
        DATABASE_ACQUIRE_TIMEOUT_SECONDS=0.2,
        DATABASE_STATEMENT_TIMEOUT_SECONDS=5,
    )
    with sqlite_database.writes_blocked(), ThreadPoolExecutor(2) as pool:
        post = pool.map(lambda name: service.client.post("/users", json={"name": name}), "ab")
        assert sorted("retry-after" in answer.headers for answer in post) == [False, True]
    assert metrics(service)["database_pool_acquire_timeouts_total"] == 1


def test_a_silent_database_is_no_acquire_timeout(
    own_postgres: Postgres, start_service: StartService
) -> None:
    """Otherwise the alert would suggest a larger pool."""
    service = start_service(own_postgres.create_database())
    own_postgres.pause()
    for _ in range(3):
        assert service.client.get("/user/1").status_code == 503
    assert metrics(service)["database_pool_acquire_timeouts_total"] == 0
    own_postgres.resume()


@pytest.fixture
def prometheus(shared_service: Service, tmp_path: Path) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path, f"127.0.0.1:{shared_service.port}")
    yield server
    server.close()


@pytest.mark.parametrize("shared_service", ["sqlite"], indirect=True)
def test_a_prometheus_sees_the_rate_of_what_was_posted(
    shared_service: Service, prometheus: Prometheus
) -> None:
    def samples() -> float:
        return prometheus.value("count_over_time(users_created_total[1m])") or 0

    wait_until(lambda: samples() >= 2, "two scrapes before the posts", seconds=30)
    before = prometheus.value("users_created_total")
    assert before is not None
    for _ in range(12):
        create_user(shared_service.client)
    wait_until(
        lambda: prometheus.value("users_created_total") == before + 12, "the posts to be scraped"
    )
    scraped = samples()
    wait_until(lambda: samples() >= scraped + 2, "two scrapes after the posts")
    rate = prometheus.value("rate(users_created_total[1m])")
    assert rate == pytest.approx(12 / 60, rel=0.5), "rate() extrapolates, by half at most here"
    assert prometheus.value("up") == 1
    buckets = 'rate(http_request_duration_seconds_bucket{route="/users"}[1m])'
    p99 = prometheus.value(f"histogram_quantile(0.99, sum by (le) ({buckets}))")
    assert p99 is not None
    assert 0 < p99 < 5
