"""PgBouncer as in Debian: bookworm's, and trixie's."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from support.cache import CACHE
from support.databases import PASSWORD, USER, Postgres, _unprivileged
from support.net import free_port
from support.wait import wait_until

UNPACK = Path(__file__).parent / "unpack-debian"


class UnavailableError(Exception):
    pass


def program(release: str) -> list[str | Path]:
    if release == "bookworm":
        # The machine's own may be a newer one.
        found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if not found:
            raise UnavailableError("no pgbouncer on PATH (Debian: apt-get install pgbouncer)")
        return [found]
    folder = CACHE / f"pgbouncer-{release}"
    if not folder.exists():
        fetched = subprocess.run(
            [UNPACK, release, folder, "pgbouncer"], check=False, stderr=subprocess.PIPE, text=True
        )
        if fetched.returncode:
            raise UnavailableError(fetched.stderr.strip().splitlines()[-1])
    (loader,) = folder.glob("usr/lib/*/ld-linux-*.so.*")
    return [loader, "--library-path", loader.parent, folder / "usr/sbin/pgbouncer"]


class Pooler:
    """A PgBouncer with only a mode configured, in front of a server; any password will do."""

    def __init__(self, program: list[str | Path], server: Postgres, **settings: str | int):
        self.port = free_port()
        self.mode = settings["pool_mode"]
        self.sessions = settings["default_pool_size"]
        self._home = Path(tempfile.mkdtemp(prefix="wiki-test-pgbouncer-"))
        account = _unprivileged()
        if account:
            settings["user"] = "postgres"
        password = PASSWORD.replace("'", "''")
        configuration = self._home / "pgbouncer.ini"
        configuration.write_text(
            "[databases]\n"
            f"* = host={server.host} port={server.port} user={USER} password='{password}'\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\nmax_client_conn = 200\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        if user := account.get("user"):
            shutil.chown(self._home, user)
            shutil.chown(configuration, user)
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*program, configuration], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._listens, f"PgBouncer, whose log is {self._home}/log")

    @property
    def log(self) -> str:
        return (self._home / "log").read_text()

    def _listens(self) -> bool:
        assert self._process.poll() is None, f"PgBouncer ended: {self.log}"
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def remove(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._home)
