"""Acknowledged edits and deletions persist, and nothing is half done."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support import tokens
from support.api import create_post, create_user
from support.databases import Database, SqliteDatabase
from support.editing import history, put, tag
from support.figures import Figures
from support.net import NO_CAS, free_port
from support.service import Service, StartService
from support.tokens import Issuer, bearer
from support.wait import wait_until

WRITERS = 6
# Each row is a text that was not saved, or was saved without a post.
HOLES = """
    SELECT posts.post_id, revision FROM posts WHERE revision <> 1 + (
        SELECT count(*) FROM post_revisions AS old
        WHERE old.post_id = posts.post_id AND old.revision BETWEEN 1 AND posts.revision - 1)
    UNION ALL SELECT post_id, revision FROM post_revisions AS old WHERE NOT EXISTS (
        SELECT 1 FROM posts WHERE posts.post_id = old.post_id AND old.revision < posts.revision)
"""


def still_starting(answer: httpx.Response) -> None:
    """Counts as unreachable: nothing was done."""
    if answer.status_code == 503 and "retry-after" in answer.headers:
        raise httpx.ConnectError("the service is starting")


class Author:
    """Keeps editing a post, deletes it, and writes another one."""

    def __init__(self, service: Service, token: str, chance: random.Random):
        self.url = service.url
        self.token = token
        self.chance = chance
        self.client = self.connect()
        self.user = create_user(self.client)["id"]
        self.post: str | None = None
        self.texts: list[str] = []
        self.done: Counter[str] = Counter()

    def connect(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers=bearer(self.token),
            timeout=30,
            verify=NO_CAS,
            event_hooks={"response": [still_starting]},
        )

    def write(self, over: threading.Event) -> None:
        while not over.is_set():
            try:
                self.step()
            except httpx.TransportError:
                self.client.close()
                self.client = self.connect()
                wait_until(self.ready, "the service to be back", seconds=60)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", verify=NO_CAS).status_code == 200
        except httpx.TransportError:
            return False

    def step(self) -> None:
        if self.post is None:
            number = create_post(self.client, self.user, "0")["post_id"]
            self.post, self.texts = f"/posts/{number}", ["0"]
        elif len(self.texts) > 3 and self.chance.random() < 0.2:
            self.delete(self.post)
        else:
            self.edit(self.post)

    def edit(self, post: str) -> None:
        new = str(len(self.texts))
        try:
            answer = put(self.client, post, new, tag(self.client, post))
        except httpx.TransportError:
            # `history` checks what has become of it, as soon as the service answers.
            found = self.found(post)
            assert found in (self.texts, [*self.texts, new]), f"{found} of {self.texts}"
            self.done["edits in the open"] += 1
            self.texts = found
            return
        assert answer.status_code == 200, answer.text
        self.texts.append(new)
        self.done["edits"] += 1

    def delete(self, post: str) -> None:
        try:
            answer = self.client.delete(post)
        except httpx.TransportError:
            self.done["deletions in the open"] += 1
            if (found := self.found(post)) is not None:
                assert found == self.texts, f"half deleted: {found} of {self.texts}"
                return
        else:
            assert answer.status_code == 204, answer.text
            self.done["deletions"] += 1
            assert self.found(post) is None, "an acknowledged deletion was undone"
        self.post = None

    def found(self, post: str) -> list[str] | None:
        """The texts of a post so far, oldest first."""

        def look() -> list[list[str] | None] | None:
            try:
                with self.connect() as client:
                    content = client.get(post)
                    if content.status_code == 404:
                        return [None]
                    assert content.status_code == 200, content.text
                    texts = history(client, post)
            except httpx.TransportError:
                return None
            assert [number for number, _ in texts] == list(range(len(texts), 0, -1))
            assert content.json()["content"] == texts[0][1]
            return [[text for _, text in reversed(texts)]]

        return wait_until(look, f"{post} to be answered for", seconds=60)[0]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


def test_kill_9_in_the_middle_of_edits_and_deletions(
    database: Database,
    start_service: StartService,
    issuer: Issuer,
    figures: Figures,
    chance: random.Random,
    long: bool,
) -> None:
    kills = 100 if long else 3
    settings = {"PORT": free_port(), "RUST_LOG": "warn", "EDITING": "author", **issuer.variables}
    # So that only responses of a killed service are missing.
    settings |= {f"DATABASE_{what}_TIMEOUT_SECONDS": 20 for what in ("ACQUIRE", "STATEMENT")}
    service = start_service(database, **settings)
    late = int(time.time()) + 3600
    authors = [Author(service, issuer.token(f"{n}", exp=late), chance) for n in range(WRITERS)]

    def acknowledged() -> int:
        return sum(author.done["edits"] + author.done["deletions"] for author in authors)

    def wait_for(number: int) -> None:
        enough = lambda: acknowledged() >= number or any(one.done() for one in running)  # noqa: E731
        wait_until(enough, "more writes", seconds=60)

    over = threading.Event()
    with ThreadPoolExecutor(WRITERS) as pool:
        running = [pool.submit(author.write, over) for author in authors]
        try:
            for kill in range(kills):
                enough = acknowledged() + chance.randint(1, 100)
                wait_for(enough)
                service.kill()
                assert database.execute(HOLES) == []
                if kill % 10 == 9:
                    figures.progress(f"{kill + 1} of {kills} kills")
                service = start_service(database, **settings)
            wait_for(acknowledged() + 50)
        finally:
            over.set()
    for one in running:
        one.result()
    done = sum((author.done for author in authors), Counter())
    for author in authors:
        if author.post:
            assert author.found(author.post) == author.texts
    assert database.execute(HOLES) == []
    figures.report(f"{kills} kills, " + ", ".join(f"{n:,} {what}" for what, n in done.items()))
    if isinstance(database, SqliteDatabase):
        assert database.execute("PRAGMA integrity_check") == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check") == []
