"""What clients were told about their writes, compared with the rows found afterwards."""

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from support.databases import Database
from support.service import Service
from support.wait import wait_until

HEADERS = {"content-type": "application/json"}


class Ledger:
    """Users created by many concurrent clients. No two have the same name."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, str] = {}
        # Got an error that says that nothing was written, or not sent at all.
        self.refused: set[str] = set()
        # No response, or one that leaves open what the database has done.
        self.open: set[str] = set()
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0
        self._numbers = itertools.count(1)

    def new_name(self) -> str:
        return f"user {next(self._numbers)}"

    @contextlib.contextmanager
    def writers(self, *services: Service, clients: int = 8) -> Iterator[None]:
        """During the block, this many clients write to each service, whatever happens to it."""
        over = threading.Event()
        targets = [service for service in services for _ in range(clients)]
        with ThreadPoolExecutor(len(targets)) as pool:
            running = [pool.submit(self._write, target, over) for target in targets]
            try:
                yield
            finally:
                over.set()
        for client in running:
            client.result()

    def _write(self, service: Service, over: threading.Event) -> None:
        connection = http.client.HTTPConnection(service.host, service.port, timeout=30)
        while not over.is_set():
            name = self.new_name()
            try:
                connection.connect() if connection.sock is None else None
            except OSError:
                self.refused.add(name)
                over.wait(0.01)
                continue
            start = time.monotonic()
            try:
                connection.request("POST", "/users", json.dumps({"name": name}), HEADERS)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self.open.add(name)
                continue
            self.slowest = max(self.slowest, time.monotonic() - start)
            self._note(name, answer, body)
        connection.close()

    def _note(self, name: str, answer: http.client.HTTPResponse, body: bytes) -> None:
        if answer.status == 201:
            user = json.loads(body)
            assert user["name"] == name, f"{name} was sent, {user} came back"
            assert user["id"] not in self.acknowledged, f"{user} has another's id"
            self.acknowledged[user["id"]] = name
        elif answer.status == 503 and not answer.getheader("retry-after"):
            self.open.add(name)
        else:
            self.refused.add(name)
        self.statuses[answer.status] += 1

    def wait_for_more(self, count: int) -> None:
        goal = len(self.acknowledged) + count
        what = f"{count} more writes to be acknowledged"
        wait_until(lambda: len(self.acknowledged) >= goal, what, seconds=120, every=0.001)

    def settle(self, database: Database) -> str:
        """Fails unless every acknowledged user is there as acknowledged, and otherwise only users
        whose fate is open. Returns how many there are of each."""
        rows: dict[int, str] = dict(database.execute("SELECT id, name FROM users"))
        lost = self.acknowledged.items() - rows.items()
        assert not lost, f"{len(lost)} acknowledged users are lost, {sorted(lost)[:5]} among them"
        more = [name for id_, name in rows.items() if id_ not in self.acknowledged]
        refused = self.refused.intersection(more)
        assert not refused, f"{len(refused)} were refused, and written: {sorted(refused)[:5]}"
        assert set(more) <= self.open, f"nobody sent {sorted(set(more) - self.open)[:5]}"
        assert len(more) == len(set(more)), "one request wrote twice"
        count = len(self.acknowledged)
        assert count, "nothing was acknowledged, so nothing is shown"
        return f"{count:,} acknowledged, {count:,} found, {len(more):,} more rows than acknowledged"
