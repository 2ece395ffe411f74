"""What the backup's jobs do in the folder of the dumps, by their own scripts on a database here."""

import os
import subprocess
import time
from pathlib import Path

from support.databases import PASSWORD, USER, PostgresDatabase
from support.helm import Helm

HOUR = 3600


def run(
    helm: Helm, kind: str, database: PostgresDatabase, folder: Path, *, before: str = ""
) -> subprocess.CompletedProcess[str]:
    job = helm.objects("--set=backup.enabled=true").of_kind(kind)[0]
    spec = job["spec"].get("jobTemplate", job)["spec"]["template"]["spec"]
    (script,) = spec["containers"][0]["args"]
    assert script.count("cd /backup\n") == 1
    environment = {
        "PGHOST": database.server.host,
        "PGPORT": str(database.server.port),
        "PGUSER": USER,
        "PGPASSWORD": PASSWORD,
        "PGDATABASE": database.name,
        "KEEP": "2",
    }
    return subprocess.run(
        ["sh", "-euc", before + script.replace("cd /backup\n", f"cd {folder}\n")],
        env=os.environ | environment,
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
    # a file of no more than 512 bytes, as if the volume were full
    full = run(helm3, "CronJob", postgres_database, tmp_path, before="ulimit -f 1\n")
    assert full.returncode != 0
    assert names(tmp_path) == []
    later = run(helm3, "CronJob", postgres_database, tmp_path)
    assert later.returncode == 0, later.stderr
    (dump,) = names(tmp_path)
    assert dump in later.stdout


def test_what_a_killed_one_left_is_deleted_when_it_cannot_be_in_use(
    helm3: Helm, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    for name, age in (("wiki-old.dump.part", 2 * HOUR), ("wiki-young.dump.part", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    done = run(helm3, "CronJob", postgres_database, tmp_path)
    assert done.returncode == 0, done.stderr
    dump, part = names(tmp_path)
    assert dump in done.stdout
    assert part == "wiki-young.dump.part"


def test_an_installation_makes_a_first_dump_only_where_there_is_none(
    helm3: Helm, postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    """Else the newest dump, which a restore takes, were one of a database that is still empty."""
    first = run(helm3, "Job", postgres_database, tmp_path)
    assert first.returncode == 0, first.stderr
    (dump,) = names(tmp_path)
    assert dump in first.stdout
    again = run(helm3, "Job", postgres_database, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "there are dumps already" in again.stdout
    assert names(tmp_path) == [dump]
