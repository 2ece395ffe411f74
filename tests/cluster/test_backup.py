"""`wiki-cluster backup` and `restore`, with a real database where its pod would be."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.databases import Postgres, PostgresDatabase
from support.dumps import OLD, SCHEMAS, cuts, dump, environment, kubectl
from support.helm import CHART
from support.wait import wait_until

Run = subprocess.CompletedProcess[bytes]


class Program:
    """In a mount namespace with the container's folders."""

    def __init__(self, program: Path, folder: Path):
        self.volume = folder / "wiki-cluster"
        self.volume.mkdir()
        share = folder / "share"
        share.mkdir()
        shutil.copy(CHART / "restore.sql", share)
        # not through Debian's wrappers, which are in /usr/share
        servers = ":".join(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
        self.path = f"{kubectl(folder / 'bin')}:{servers}:{os.environ['PATH']}"
        self.script = f"""
            mount -t tmpfs tmpfs /var/lib
            mount -t tmpfs tmpfs /usr/share
            mkdir -p /var/lib/docker/wiki-cluster /usr/share/wiki-cluster
            mount --bind {self.volume} /var/lib/docker/wiki-cluster
            mount --bind {share} /usr/share/wiki-cluster
            exec {program} "$0"
        """

    def start(
        self, command: str, database: PostgresDatabase, **variables: str
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-euc", self.script, command],
            env=environment(database) | {"PATH": self.path} | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(
        self, command: str, database: PostgresDatabase, text: bytes = b"", **variables: str
    ) -> Run:
        process = self.start(command, database, **variables)
        output, errors = process.communicate(text, timeout=60)
        return Run(process.args, process.returncode, output, errors)


@pytest.fixture
def wiki_cluster(program: Path, tmp_path: Path) -> Program:
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("the program needs its own namespaces, which requires root")
    return Program(program, tmp_path)


def back_up(wiki_cluster: Program, database: PostgresDatabase) -> bytes:
    made = wiki_cluster.run("backup", database)
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.mark.parametrize("dumped", ["old", "new"])
def test_any_dump_goes_over_any_schema(
    wiki_cluster: Program, postgres: Postgres, dumped: str
) -> None:
    original = postgres.create_database()
    original.execute(SCHEMAS[dumped])
    text = back_up(wiki_cluster, original)
    for found, schema in SCHEMAS.items():
        database = postgres.create_database()
        database.execute(schema)
        # as after a copy through an editor or a shell variable
        restored = wiki_cluster.run("restore", database, text.strip())
        assert restored.returncode == 0, (found, restored.stderr)
        assert dump(database) == dump(original), found


def test_a_stream_that_ends_early_changes_nothing(
    wiki_cluster: Program, postgres_database: PostgresDatabase
) -> None:
    postgres_database.execute(OLD)
    text = back_up(wiki_cluster, postgres_database)
    postgres_database.execute("DELETE FROM posts; INSERT INTO users VALUES (9999, 'new', now())")
    before = dump(postgres_database)
    ahead = len((CHART / "restore.sql").read_bytes())
    for position in cuts(text.decode()):
        # on the way from the client, and on the way to the database
        short = wiki_cluster.run("restore", postgres_database, text[:position])
        assert short.returncode == 1
        assert b"nothing is changed: stdin was not a complete backup" in short.stderr
        broken = wiki_cluster.run("restore", postgres_database, text, CUT=str(ahead + position))
        assert dump(postgres_database) == before, position
        assert broken.returncode == 1
        assert b"either everything was restored or nothing" in broken.stderr
    failing = text.replace(b"CREATE TABLE public.posts", b"CREATE TABLE nowhere.posts")
    failed = wiki_cluster.run("restore", postgres_database, failing)
    assert failed.returncode == 1
    assert b'not restored, nothing is changed: ERROR:  schema "nowhere"' in failed.stderr
    assert dump(postgres_database) == before


def test_a_backup_that_was_cut_short_fails(
    wiki_cluster: Program, postgres_database: PostgresDatabase
) -> None:
    postgres_database.execute(OLD)
    text = back_up(wiki_cluster, postgres_database)
    for position in cuts(text.decode()):
        short = wiki_cluster.run("backup", postgres_database, CUT_OUTPUT=str(position))
        assert short.returncode == 1
        assert b"no backup: its end is missing" in short.stderr


@pytest.fixture
def half_fed(
    wiki_cluster: Program, postgres_database: PostgresDatabase
) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    """A restore that has received half of its dump, and the other half."""
    postgres_database.execute(OLD)
    text = back_up(wiki_cluster, postgres_database)
    half = len(text) // 2
    process = wiki_cluster.start("restore", postgres_database)
    assert process.stdin
    process.stdin.write(text[:half])
    process.stdin.flush()

    def received() -> bool:
        files = Path(f"/proc/{process.pid}/fd").iterdir()
        return any(fd.stat().st_size >= half for fd in files if fd.is_file())

    wait_until(received, "half of the dump to be received")
    yield process, text[half:]
    process.kill()
    process.communicate()


def test_two_restores_do_not_meet(
    wiki_cluster: Program,
    postgres_database: PostgresDatabase,
    half_fed: tuple[subprocess.Popen[bytes], bytes],
) -> None:
    before = dump(postgres_database)
    postgres_database.execute("DELETE FROM posts")
    second = wiki_cluster.run(
        "restore", postgres_database, back_up(wiki_cluster, postgres_database)
    )
    assert second.returncode == 0, second.stderr
    assert postgres_database.execute("SELECT count(*) FROM posts") == [(0,)]
    first, rest = half_fed
    _, errors = first.communicate(rest, timeout=60)
    assert first.returncode == 0, errors
    assert dump(postgres_database) == before


def test_a_kill_leaves_no_dump_behind(
    wiki_cluster: Program, half_fed: tuple[subprocess.Popen[bytes], bytes]
) -> None:
    process, _ = half_fed
    process.kill()
    process.wait()
    assert list(wiki_cluster.volume.iterdir()) == []
