"""A steady load for a long time: memory, descriptors and latency stay constant."""

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

from support import picture
from support.api import create_user
from support.databases import PostgresDatabase, SqliteDatabase
from support.figures import Figures
from support.picture import Panel
from support.service import Service, StartService, metrics
from support.wait import wait_until

PICTURE = Path(__file__).parents[2] / "docs/soak.svg"
CLIENTS = 4
RATE = 40  # requests per second and client
MEBIBYTE = 1 << 20
JSON = {"content-type": "application/json"}


@dataclass
class Course:
    """Measurements of one service over time."""

    service: Service
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    descriptors: list[float] = field(default_factory=list)
    median: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def load(self, over: threading.Event) -> None:
        """Mostly reads, with writes, mistakes and new connections."""
        chance = random.Random()
        users = posts = 1
        connection = HTTPConnection(self.service.host, self.service.port, timeout=30)
        due = time.monotonic()
        while not over.wait(max(0.0, due - time.monotonic())):
            due += 1 / RATE
            method, path, body = chance.choices(
                [
                    ("GET", f"/users/{chance.randint(1, users)}", None),
                    ("GET", f"/posts/{chance.randint(1, posts)}", None),
                    ("POST", "/users", {"name": "x" * chance.randint(1, 200)}),
                    ("POST", "/posts", {"user_id": 1, "content": "x" * chance.randint(1, 5000)}),
                    ("POST", "/posts", {"user_id": -1}),
                    ("GET", f"/nowhere/{chance.random()}", None),
                ],
                weights=[40, 40, 8, 8, 2, 2],
            )[0]
            start = time.monotonic()
            connection.request(method, path, json.dumps(body) if body else None, JSON)
            answer = connection.getresponse()
            said = answer.read()
            self.latencies.append((time.monotonic() - start) * 1000)
            self.statuses[answer.status] += 1
            if answer.status == 201:
                created = json.loads(said)
                users, posts = created.get("id", users), created.get("post_id", posts)
            if chance.random() < 0.01:
                connection.close()

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


def test_soak(
    sqlite_database: SqliteDatabase,
    postgres_database: PostgresDatabase,
    start_service: StartService,
    figures: Figures,
    long: bool,
) -> None:
    """Both databases at the same time."""
    samples, every = (60, 10) if long else (20, 0.5)
    courses = [Course(start_service(one)) for one in (sqlite_database, postgres_database)]
    for course in courses:
        user = create_user(course.service.client)
        course.service.client.post("/posts", json={"user_id": user["id"], "content": "x"})
    seconds: list[float] = []
    over = threading.Event()
    with ThreadPoolExecutor(CLIENTS * len(courses)) as pool:
        clients = [pool.submit(course.load, over) for course in courses for _ in range(CLIENTS)]
        try:
            start = time.monotonic()
            while len(seconds) < samples:
                over.wait(start + (len(seconds) + 1) * every - time.monotonic())
                seconds.append(time.monotonic() - start)
                for course in courses:
                    course.sample()
                if len(seconds) % 6 == 0 and long:
                    figures.progress(f"{len(seconds) * every / 60:g} of 10 minutes")
        finally:
            over.set()
    for client in clients:
        client.result()
    if long:
        PICTURE.write_text(draw(seconds, courses))
    for course, name in zip(courses, ("SQLite", "PostgreSQL"), strict=True):
        assert set(course.statuses) == {200, 201, 404, 422}
        figures.report(
            f"{seconds[-1]:,.0f} s, {sum(course.statuses.values()):,} requests, memory "
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
        f"{CLIENTS * RATE} requests per second on each, over minutes",
        ["SQLite", "PostgreSQL"],
        seconds,
        [
            panel("memory (resident), MiB", lambda course: course.memory),
            panel("file descriptors", lambda course: course.descriptors),
            panel("latency as the client sees it, median, ms", lambda course: course.median),
            panel("latency, 99th percentile, ms", lambda course: course.p99),
        ],
    )
