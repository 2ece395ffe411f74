"""A steady load for a long time: memory, descriptors and latency stay constant."""

import contextlib
import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from support import picture, tokens
from support.api import create_user
from support.collector import Collector
from support.databases import PostgresDatabase, SqliteDatabase
from support.figures import Figures
from support.picture import Panel
from support.service import Service, StartService, metrics
from support.tokens import as_
from support.wait import wait_until

PICTURE = Path(__file__).parents[2] / "docs/soak.svg"
CLIENTS = 4
RATE = 40  # requests per second and client
MEBIBYTE = 1 << 20
EVERYTHING = {
    "SEARCH": "true",
    "CACHE_SECONDS": 5,
    "CACHE_BYTES": 1 << 20,
    "AUTH_READ": "token",
    "EDITING": "users",
    "RATE_LIMIT_PER_SECOND": 1000,
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.1",
}


@dataclass
class Course:
    """Measurements of one service over time."""

    service: Service
    # the id of each token's user
    users: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    descriptors: list[float] = field(default_factory=list)
    median: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def load(self, token: str, over: threading.Event) -> None:
        """Mostly reads, with writes, mistakes and new connections."""
        chance = random.Random()
        own: list[int] = []
        connection = HTTPConnection(self.service.host, self.service.port, timeout=30)
        headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
        due = time.monotonic()
        while not over.wait(max(0.0, due - time.monotonic())):
            due += 1 / RATE
            post = f"/posts/{chance.choice(own) if own else 0}"
            text = {"content": f"word{chance.randint(1, 1000)} " * chance.randint(1, 500)}
            method, path, body = chance.choices(
                [
                    ("GET", f"/users/{chance.randint(1, CLIENTS)}", None),
                    ("GET", post, None),
                    ("GET", "/posts?limit=20", None),
                    ("GET", f"/posts?limit=20&q=word{chance.randint(1, 1000)}", None),
                    ("POST", "/posts", text | {"user_id": self.users[token]}),
                    ("PUT", post, text),
                    ("POST", f"{post}/comments", text),
                    ("PUT", f"{post}/reactions/heart", None),
                    ("DELETE", post, None),
                    ("POST", "/posts", {"user_id": "none"}),
                    ("GET", f"/nowhere/{chance.random()}", None),
                ],
                weights=[30, 30, 5, 5, 10, 5, 5, 4, 2, 2, 2],
            )[0]
            if method == "DELETE" and own:
                own.remove(int(path.removeprefix("/posts/")))
            once = (
                {"if-match": "*"} if method == "PUT" else {"idempotency-key": str(chance.random())}
            )
            start = time.monotonic()
            connection.request(method, path, json.dumps(body) if body else None, headers | once)
            answer = connection.getresponse()
            said = answer.read()
            self.latencies.append((time.monotonic() - start) * 1000)
            self.statuses[answer.status] += 1
            if answer.status == 201 and path == "/posts":
                own.append(json.loads(said)["post_id"])
            if chance.random() < 0.01:
                connection.close()

    def wait_for_search(self) -> None:
        client = as_(self.service, next(iter(self.users)))
        wait_until(lambda: client.get("/posts?q=word").is_success, "the search")

    def sample(self) -> None:
        process = psutil.Process(self.service.process.pid)
        self.memory.append(process.memory_info().rss / MEBIBYTE)
        self.descriptors.append(process.num_fds())
        wait_until(lambda: len(self.latencies) > 1, "answers")
        latencies, self.latencies = self.latencies, []
        quantiles = statistics.quantiles(latencies, n=100)
        self.median.append(quantiles[49])
        self.p99.append(quantiles[98])
        metrics(self.service)


def growth(values: list[float]) -> float:
    """Growth over the run, from a straight line through everything after its first third."""
    steady = values[len(values) // 3 :]
    return statistics.linear_regression(range(len(steady)), steady).slope * len(steady)


@pytest.mark.timeout(5000)
def test_soak(
    sqlite_database: SqliteDatabase,
    postgres_database: PostgresDatabase,
    start_service: StartService,
    figures: Figures,
    long: bool,
) -> None:
    """Both databases at the same time, with everything switched on."""
    samples, every = (360, 10) if long else (20, 0.5)
    seconds: list[float] = []
    over = threading.Event()
    with (
        tokens.issuer() as issuer,
        contextlib.closing(Collector()) as collector,
        ThreadPoolExecutor(2 * CLIENTS) as pool,
    ):
        settings = {**EVERYTHING, **issuer.variables, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        databases = (sqlite_database, postgres_database)
        courses = [Course(start_service(one, **settings)) for one in databases]
        for course in courses:
            for name in range(CLIENTS):
                token = issuer.token(f"user-{name}", exp=int(time.time() + samples * every + 600))
                course.users[token] = create_user(as_(course.service, token))["id"]
            course.wait_for_search()
        clients = [
            pool.submit(course.load, token, over) for course in courses for token in course.users
        ]
        try:
            start = time.monotonic()
            while len(seconds) < samples:
                over.wait(start + (len(seconds) + 1) * every - time.monotonic())
                seconds.append(time.monotonic() - start)
                for course in courses:
                    course.sample()
                collector.spans.clear()
                collector.requests.clear()
                if len(seconds) % 30 == 0 and long:
                    figures.progress(
                        f"{len(seconds) * every / 60:g} of {samples * every / 60:g} minutes"
                    )
        finally:
            over.set()
        for client in clients:
            client.result()
        assert not collector.complaints
    if long:
        PICTURE.write_text(draw(seconds, courses))
    for course, name in zip(courses, ("SQLite", "PostgreSQL"), strict=True):
        # A machine that stands still for a second makes a 503.
        requests, refused = sum(course.statuses.values()), course.statuses.pop(503, 0)
        assert set(course.statuses) == {200, 201, 204, 404, 422}
        assert refused <= requests / 10_000
        figures.report(
            f"{seconds[-1]:,.0f} s, {requests:,} requests, {refused} answered with 503, memory "
            f"{course.memory[-1]:.1f} MiB, growing by {growth(course.memory):+.1f}; "
            f"{course.descriptors[-1]:g} descriptors, {growth(course.descriptors):+.1f}; median "
            f"{course.median[-1]:.1f} ms, {growth(course.median):+.1f}",
            part=name,
        )
        assert growth(course.memory) < 8, f"{name}: MiB, of {course.memory}"
        assert growth(course.descriptors) < 8, f"{name}: {course.descriptors}"
        # Within a few seconds, a pause of the machine looks like growth.
        assert growth(course.median) < (5 if long else 100), f"{name}: ms, of {course.median}"


def draw(seconds: list[float], courses: list[Course]) -> str:
    def panel(title: str, values: Callable[[Course], list[float]]) -> Panel:
        return Panel(title, [values(course) for course in courses])

    return picture.lines(
        f"everything switched on, {CLIENTS * RATE} requests per second on each, over minutes",
        ["SQLite", "PostgreSQL"],
        seconds,
        [
            panel("memory (resident), MiB", lambda course: course.memory),
            panel("file descriptors", lambda course: course.descriptors),
            panel("latency as the client sees it, median, ms", lambda course: course.median),
            panel("latency, 99th percentile, ms", lambda course: course.p99),
        ],
    )
