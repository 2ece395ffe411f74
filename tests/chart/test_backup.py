"""What the backup's jobs do in the dumps' folder: their own scripts, run on a local database."""

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from support import page
from support.databases import PASSWORD, USER, Postgres, PostgresDatabase
from support.dumps import NEW, OLD, SCHEMAS, cuts, dump, environment, kubectl
from support.helm import CHART, Helm
from support.wait import wait_until

HOUR = 3600
Run = subprocess.CompletedProcess[str]


@cache
def scripts(helm: Helm) -> dict[str, str]:
    found = {}
    for (kind, name), job in helm.objects("--set=backup.enabled=true").items():
        if kind in ("Job", "CronJob"):
            spec = job["spec"].get("jobTemplate", job)["spec"]["template"]["spec"]
            (script,) = spec["containers"][0]["args"]
            assert script.count("cd /backup\n") == 1
            # the kubelet reads "$$" as an escaped "$"
            key = kind if kind == "Job" else name.removeprefix("wiki-release-")
            found[key] = script.replace("$$", "$")
    return found


def run(
    helm: Helm,
    kind: str,
    database: PostgresDatabase,
    folder: Path,
    *,
    before: str = "",
    user: str = USER,
) -> Run:
    """A job's script: of `Job`, of the CronJob `backup` or of the CronJob `restore`."""
    script = scripts(helm)[kind].replace("cd /backup\n", f"cd {folder}\n")
    return subprocess.run(
        ["sh", "-euc", before + script],
        env=environment(database, user) | {"KEEP": "2"},
        capture_output=True,
        text=True,
        check=False,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_dump_that_fails_leaves_nothing(
    helm3: Helm, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    postgres_database.execute("CREATE TABLE users AS SELECT generate_series(1, 9999) AS id")
    # no file of more than 512 bytes, as if the volume were full
    full = run(helm3, "backup", postgres_database, tmp_path, before="ulimit -f 1\n")
    assert full.returncode != 0
    assert names(tmp_path) == []
    later = run(helm3, "backup", postgres_database, tmp_path)
    assert later.returncode == 0, later.stderr
    (dump,) = names(tmp_path)
    assert dump in later.stdout


def test_what_a_killed_one_left_is_deleted_when_it_cannot_be_in_use(
    helm3: Helm, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    for name, age in (("wiki-old.dump.part", 2 * HOUR), ("wiki-young.dump.part", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    done = run(helm3, "backup", postgres_database, tmp_path)
    assert done.returncode == 0, done.stderr
    dump, part = names(tmp_path)
    assert dump in done.stdout
    assert part == "wiki-young.dump.part"


def test_an_installation_makes_a_first_dump_only_where_there_is_none(
    helm3: Helm, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    """Otherwise the newest dump, which a restore uses, would be that of a still empty database."""
    first = run(helm3, "Job", postgres_database, tmp_path)
    assert first.returncode == 0, first.stderr
    (dump,) = names(tmp_path)
    assert dump in first.stdout
    again = run(helm3, "Job", postgres_database, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "there are dumps already" in again.stdout
    assert names(tmp_path) == [dump]


class Commands:
    """The README's commands, run in a folder that looks like a checkout."""

    def __init__(self, folder: Path):
        self.back_up, self.restore = page.commands("A dump without the CronJob")
        self.folder = folder
        (folder / "chart").symlink_to(CHART)
        self.path = f"{kubectl(folder / 'bin')}:{os.environ['PATH']}"

    def run(self, command: str, database: PostgresDatabase, **variables: str) -> Run:
        return subprocess.run(
            ["sh", "-euc", command],
            cwd=self.folder,
            env=environment(database) | {"PATH": self.path} | variables,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.mark.parametrize("dumped", ["old", "new"])
def test_any_dump_goes_over_any_schema(
    helm3: Helm, postgres: Postgres, tmp_path: Path, dumped: str
) -> None:
    original = postgres.create_database()
    original.execute(SCHEMAS[dumped])
    assert run(helm3, "backup", original, tmp_path).returncode == 0
    commands = Commands(tmp_path)
    taken = commands.run(commands.back_up, original)
    assert taken.returncode == 0, taken.stderr
    for found, schema in SCHEMAS.items():
        for way in ("job", "commands"):
            database = postgres.create_database()
            database.execute(schema)
            if way == "job":
                restored = run(helm3, "restore", database, tmp_path)
                assert f"restored {database.name} from" in restored.stdout, restored.stderr
            else:
                restored = commands.run(commands.restore, database)
                assert restored.stdout.endswith("\nCOMMIT\n"), restored.stderr
            assert restored.returncode == 0, (way, found, restored.stderr)
            assert dump(database) == dump(original), (way, found)


def test_a_stream_that_ends_early_changes_nothing(
    helm3: Helm, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    postgres_database.execute(OLD)
    commands = Commands(tmp_path)
    assert run(helm3, "backup", postgres_database, tmp_path).returncode == 0
    assert commands.run(commands.back_up, postgres_database).returncode == 0
    postgres_database.execute("DELETE FROM posts; INSERT INTO users VALUES (9999, 'new', now())")
    before = dump(postgres_database)

    stream = (tmp_path / "wiki.sql").read_text()
    ahead = len((CHART / "restore.sql").read_bytes())
    for position in cuts(stream):
        cut = commands.run(commands.restore, postgres_database, CUT=str(ahead + position))
        assert cut.returncode != 0
        assert dump(postgres_database) == before, position

    (name,) = tmp_path.glob("wiki-*.dump")
    sql = subprocess.run(
        ["pg_restore", "--file=-", "--schema=public", name], check=True, capture_output=True
    ).stdout.decode()
    for position in cuts(sql):
        # like one that is killed halfway
        killed = (
            'pg_restore() { case "$*" in --file=-*) '
            f'command pg_restore "$@" | head --bytes={position}; return 137 ;; '
            '*) command pg_restore "$@" ;; esac; }\n'
        )
        cut = run(helm3, "restore", postgres_database, tmp_path, before=killed)
        assert cut.returncode != 0, cut.stdout
        assert "nothing is changed" in cut.stderr
        assert dump(postgres_database) == before, position


def test_a_dump_that_is_cut_off_is_not_put_to_use(
    helm3: Helm, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    postgres_database.execute(OLD)
    commands = Commands(tmp_path)
    assert run(helm3, "backup", postgres_database, tmp_path).returncode == 0
    assert commands.run(commands.back_up, postgres_database).returncode == 0
    before = dump(postgres_database)
    (path,) = tmp_path.glob("wiki-*.dump")
    whole = path.read_bytes()
    for length in (len(whole) * 6 // 10, len(whole) - 1):
        path.write_bytes(whole[:length])
        cut = run(helm3, "restore", postgres_database, tmp_path)
        assert cut.returncode != 0
        assert f"nothing is changed: {path.name} is incomplete" in cut.stderr
    assert dump(postgres_database) == before

    # a copy from elsewhere, whose last line may be anything
    text = (tmp_path / "wiki.sql").read_text()
    (tmp_path / "wiki.sql").write_text(text[: text.rindex("-- PostgreSQL database dump complete")])
    check = commands.back_up.splitlines()[-1]
    assert commands.run(check, postgres_database).returncode != 0


def test_a_user_of_few_rights_restores_what_is_his_own(
    helm3: Helm, postgres: Postgres, tmp_path: Path
) -> None:
    """As with CloudNativePG and most external databases: the database's owner, but no superuser."""
    database = postgres.create_database()
    database.execute(
        f"CREATE ROLE few LOGIN PASSWORD '{PASSWORD}'; CREATE EXTENSION pg_trgm;"
        f"ALTER DATABASE {database.name} OWNER TO few; CREATE SCHEMA others; SET ROLE few; {OLD}"
    )
    assert run(helm3, "backup", database, tmp_path, user="few").returncode == 0
    before = dump(database, "--exclude-table=watch")
    database.execute(f"CREATE TABLE watch (n int); SET ROLE few; {NEW.removeprefix(OLD)}")
    restored = run(helm3, "restore", database, tmp_path, user="few")
    assert restored.returncode == 0, restored.stderr
    assert dump(database, "--exclude-table=watch") == before
    assert database.execute("SELECT count(*) FROM watch") == [(0,)]

    database.execute("CREATE VIEW others.names AS SELECT name FROM users")
    refused = run(helm3, "restore", database, tmp_path, user="few")
    assert refused.returncode != 0
    assert "view others.names depends on table users" in refused.stderr
    assert database.execute("SELECT count(*) FROM others.names") == [(5000,)]


def test_a_dump_of_something_else_is_refused(
    helm3: Helm, postgres: Postgres, tmp_path: Path
) -> None:
    database, other = postgres.create_database(), postgres.create_database()
    database.execute(OLD)
    other.execute("CREATE TABLE invoices (id int)")
    before = dump(database)
    assert run(helm3, "backup", other, tmp_path).returncode == 0
    refused = run(helm3, "restore", database, tmp_path)
    assert refused.returncode != 0
    assert "has no table users in the schema public" in refused.stderr
    assert dump(database) == before


def test_a_restore_waits_for_a_transaction_and_holds_up_nobody_meanwhile(
    helm3: Helm, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    postgres_database.execute(OLD)
    assert run(helm3, "backup", postgres_database, tmp_path).returncode == 0
    restores = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE state = 'active' AND application_name IN ('psql', 'pg_restore')"
    )
    with ThreadPoolExecutor() as pool, postgres_database.connect() as reader:
        with reader.transaction():
            reader.execute("SELECT FROM users LIMIT 1")
            restored = pool.submit(run, helm3, "restore", postgres_database, tmp_path)
            wait_until(
                lambda: postgres_database.execute(restores) == [(1,)],
                "the restore",
                seconds=60,
            )
            with postgres_database.connect() as other:
                other.execute("SET statement_timeout = '5s'")
                other.execute("INSERT INTO posts VALUES (77, 'meanwhile', 1, now())")
            assert not restored.done()
        assert restored.result().returncode == 0, restored.result().stderr
    assert postgres_database.execute("SELECT count(*) FROM posts") == [(1,)]


def test_a_restore_under_load_ends_in_no_deadlock(
    helm3: Helm, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    postgres_database.execute(OLD)
    assert run(helm3, "backup", postgres_database, tmp_path).returncode == 0
    over = threading.Event()

    def write() -> int:
        written = 0
        with postgres_database.connect() as connection:
            while not over.is_set():
                connection.execute(
                    "INSERT INTO posts (content, user_id, created_time) VALUES ('', 1, now())"
                )
                connection.execute("SELECT FROM users NATURAL JOIN posts LIMIT 1")
                written += 1
        return written

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write) for _ in range(4)]
        try:
            for _ in range(3):
                restored = run(helm3, "restore", postgres_database, tmp_path)
                assert restored.returncode == 0, restored.stderr
        finally:
            over.set()
        assert all(writer.result() for writer in writers)
