"""What `helm test` runs in its pod, run locally, on a service at the port that it calls."""

import os
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support import tokens
from support.api import create_post, create_user
from support.databases import SqliteDatabase
from support.helm import Helm
from support.service import Service, StartService, metrics
from support.tokens import Issuer, as_

TABLES = ("users", "posts", "post_revisions", "comments", "reactions", "attachments", "pictures")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


class Probe:
    def __init__(self, start: StartService, database: SqliteDatabase, script: str):
        self.start = start
        self.database = database
        self.script = script

    def serve(self, **variables: Any) -> Service:
        # The pod calls port 8000, which other tests may use on other addresses.
        host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
        return self.start(self.database, host=host, LISTEN_ADDRESS=host, PORT=8000, **variables)

    def run(self, service: Service, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.script],
            env={"PATH": os.environ["PATH"], "API": service.host} | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def rows(self) -> dict[str, int]:
        counts = {t: self.database.execute(f"SELECT count(*) FROM {t}")[0][0] for t in TABLES}
        return {table: count for table, count in counts.items() if count}


@pytest.fixture
def probe(start_service: StartService, sqlite_database: SqliteDatabase, helm3: Helm) -> Probe:
    (pod,) = [
        each
        for each in helm3.objects().of_kind("Pod")
        if each["metadata"]["annotations"]["helm.sh/hook"] == "test"
    ]
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["bash", "-euo", "pipefail", "-c"]
    return Probe(start_service, sqlite_database, *container["args"])


def test_without_identity_it_writes_what_nobody_deletes(probe: Probe) -> None:
    service = probe.serve()
    done = probe.run(service)
    assert done.returncode == 0, done.stderr
    assert "EDITING is off" in done.stdout
    assert probe.rows() == {"users": 1, "posts": 1}


def test_it_walks_all_that_is_switched_on(probe: Probe) -> None:
    service = probe.serve(EDITING="anyone", SEARCH="true", CACHE_SECONDS="60")
    done = probe.run(service)
    assert done.returncode == 0, done.stderr
    left = {"users": 1, "posts": 1, "comments": 1, "attachments": 1, "pictures": 1}
    assert left.items() <= probe.rows().items()
    document = service.client.get("/openapi.json").json()
    operations = {
        f'method="{method.upper()}",route="{path}"'
        for path, item in document["paths"].items()
        for method in item
        if path not in ("/livez", "/readyz", "/healthz", "/metrics")
    }
    seen = [line for line in metrics(service) if line.startswith("http_requests_total")]
    assert not {operation for operation in operations if operation not in str(seen)}


@pytest.mark.parametrize("read", ["public", "token"])
def test_with_identity_and_no_token_it_only_reads(probe: Probe, issuer: Issuer, read: str) -> None:
    service = probe.serve(EDITING="users", AUTH_READ=read, **issuer.variables)
    create_post(as_(service, issuer.token()), create_user(as_(service, issuer.token()))["id"])
    done = probe.run(service)
    assert done.returncode == 0, done.stderr
    assert "requires a token" in done.stdout
    assert ("/posts/1/comments: 200" in done.stdout) == (read == "public")
    assert {"users": 1, "posts": 1}.items() <= probe.rows().items()
    assert metrics(service)["posts_created_total"] == 1


@pytest.mark.parametrize("editing", ["author", "users"])
def test_with_a_token_it_leaves_nothing_behind(probe: Probe, issuer: Issuer, editing: str) -> None:
    service = probe.serve(EDITING=editing, AUTH_READ="token", **issuer.variables)
    done = probe.run(service, TOKEN=issuer.token())
    assert done.returncode == 0, done.stderr
    assert probe.rows() == {}
    assert metrics(service)["comments_deleted_total"] == 1


def test_a_user_who_was_there_stays_as_he_was(probe: Probe, issuer: Issuer) -> None:
    service = probe.serve(EDITING="users", **issuer.variables)
    ada = as_(service, issuer.token("ada"))
    user = create_user(ada)["id"]
    gif = {"content-type": "image/gif"}
    assert ada.put(f"/users/{user}/picture", content=b"GIF87a", headers=gif).is_success
    done = probe.run(service, TOKEN=issuer.token("ada"))
    assert done.returncode == 0, done.stderr
    assert probe.rows() == {"users": 1, "pictures": 1}
    assert ada.get(f"/users/{user}/picture").content == b"GIF87a"


def test_a_token_that_is_not_taken_is_a_failure(probe: Probe, issuer: Issuer) -> None:
    service = probe.serve(EDITING="users", **issuer.variables)
    done = probe.run(service, TOKEN=issuer.token(exp=1))
    assert done.returncode
    assert "POST /users: 401" in done.stdout or "401" in done.stderr
    assert probe.rows() == {}


def test_what_fails_half_way_is_told_and_deleted(probe: Probe, issuer: Issuer) -> None:
    service = probe.serve(EDITING="users", **issuer.variables)
    probe.database.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON comments BEGIN SELECT raise(abort, 'x'); END"
    )
    done = probe.run(service, TOKEN=issuer.token())
    assert done.returncode
    assert "/comments: 500" in done.stdout
    assert "expected 201, got: HTTP/1.1 500" in done.stderr
    assert probe.rows() == {}
