"""Writes through an Ingress, and the result of each."""

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from support.net import NO_CAS
from support.wait import wait_until


class Load:
    LIMIT = 100_000  # requests; a test that forgets to stop ends by itself

    def __init__(self, url: str, host: str, sql: Callable[[str], str], workers: int, rate: float):
        self.acknowledged: dict[int, str] = {}
        self.moments: list[float] = []  # when each was acknowledged, by the wall clock
        self.refused: set[str] = set()  # with Retry-After, which says that nothing was written
        self._failures: list[tuple[float, str]] = []
        self._name = uuid.uuid4().hex[:8]
        self._end = threading.Event()
        self._pause = workers / rate
        self._url, self._host, self._sql = url, host, sql
        self._pool = ThreadPoolExecutor(workers)
        self._work = [self._pool.submit(self._create, worker, workers) for worker in range(workers)]

    def _create(self, worker: int, workers: int) -> None:
        client = httpx.Client(
            base_url=self._url, headers={"Host": self._host}, timeout=15, verify=NO_CAS
        )
        for number in range(worker, self.LIMIT, workers):
            if self._end.wait(self._pause):
                return
            name, sent = f"load {self._name} {number}", time.monotonic()
            try:
                answer = client.post("/users", json={"name": name})
            except httpx.TransportError as error:
                self._failures.append((sent, repr(error)))
                continue
            if answer.status_code == 201:
                self.acknowledged[answer.json()["id"]] = name
                self.moments.append(time.time())
            else:
                if "retry-after" in answer.headers:
                    self.refused.add(name)
                self._failures.append((sent, f"{answer.status_code} {answer.text[:200]}"))

    @property
    def failures(self) -> list[str]:
        return self.failures_since(0)

    def failures_since(self, moment: float) -> list[str]:
        """Of requests that were sent after `moment`, by the monotonic clock."""
        return [failure for sent, failure in self._failures if sent >= moment]

    def wait_for(self, requests: int, seconds: float = 120) -> None:
        goal = len(self.acknowledged) + requests
        wait_until(
            lambda: len(self.acknowledged) >= goal, f"{requests} more answers", seconds=seconds
        )

    def stop(self) -> None:
        self._end.set()
        for work in self._work:
            work.result(timeout=60)
        self._pool.shutdown()

    def assert_nothing_lost(self) -> None:
        """Every user whose creation was acknowledged is in the database."""
        rows = self._sql("select id, name from users")
        stored = {int(row.split("|")[0]): row.split("|")[1] for row in rows.splitlines()}
        lost = {key: name for key, name in self.acknowledged.items() if stored.get(key) != name}
        assert not lost, f"{len(lost)} of {len(self.acknowledged)} lost"
