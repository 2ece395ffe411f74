"""The service is killed while pictures and attachments are being sent."""

import hashlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from support.api import create_post, create_user
from support.databases import Database
from support.media import PNG, attach, put_picture
from support.net import free_port
from support.service import StartService
from support.wait import wait_until


def test_kill_9_between_uploads(
    database: Database, start_service: StartService, chance: random.Random, long: bool
) -> None:
    """What was acknowledged is there, and what is there is complete."""
    kills = 50 if long else 3
    settings = {"PORT": free_port(), "RUST_LOG": "warn", "EDITING": "anyone"}
    service = start_service(database, **settings)
    user = create_user(service.client)["id"]
    posts = [create_post(service.client, user)["post_id"] for _ in range(20 * kills)]
    attached: dict[int, bytes] = {}
    # The picture that is there, or those that may be.
    pictures: list[bytes] = []
    over = threading.Event()

    def send(own: Iterator[int]) -> None:
        post = next(own)
        with httpx.Client(base_url=service.url, timeout=5) as client:
            while not over.is_set():
                content = PNG + random.randbytes(random.randint(1, 100_000))
                try:
                    made = attach(client, post, content)
                    if made.status_code == 409:
                        post = next(own)
                    elif made.status_code == 201:
                        attached[made.json()["attachment_id"]] = content
                    if post in posts[::4]:
                        # Only by this client, so that the last one is known.
                        pictures.append(content)
                        if put_picture(client, user, content).is_success:
                            pictures[:] = [content]
                except httpx.TransportError:
                    over.wait(0.01)

    with ThreadPoolExecutor(4) as pool:
        senders = [pool.submit(send, iter(posts[first::4])) for first in range(4)]
        try:
            for _ in range(kills):
                enough = len(attached) + chance.randint(4, 20)
                wait_until(lambda: len(attached) >= enough, "uploads")  # noqa: B023
                service.kill()
                service = start_service(database, **settings)
        finally:
            over.set()
    for sender in senders:
        sender.result()
    rows = database.execute("SELECT attachment_id, sha256, bytes FROM attachments")
    stored = {number: (sha256, bytes(content)) for number, sha256, content in rows}
    assert {number: stored[number][1] for number in attached} == attached
    for sha256, content in stored.values():
        assert hashlib.sha256(content).hexdigest() == sha256
    assert service.client.get(f"/users/{user}/picture").content in pictures
