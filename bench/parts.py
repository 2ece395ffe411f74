"""What is measured, and what it is measured with: real programs, started and stopped."""

import contextlib
import http.client
import json
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "target" / "bench"
OHA = "1.16.0"
CORES = len(os.sched_getaffinity(0))
POOL = 20
ROWS = 10_000

TICK = os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def run(*command: object, **options: object) -> str:
    """Runs a command to its end; its output, or an exit that shows it."""
    options = {"capture_output": True, **options}
    done = subprocess.run([str(word) for word in command], check=False, text=True, **options)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def need(program: str, package: str) -> Path:
    """`program`, on PATH or where Debian has PostgreSQL's."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{program}"),
        key=lambda path: float(path.parents[1].name),
    )
    found = shutil.which(program) or (debian[-1] if debian else None)
    return Path(found or sys.exit(f"{program} is missing (Debian: apt-get install {package})"))


# What is written


def table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def publish(file: str, command: str, text: str) -> None:
    """Puts `text` between the markers of `command` in `file`."""
    path = ROOT / file
    between = re.compile(rf"(?<=<!-- {command} -->\n).*?(?=<!-- end -->)", re.S)
    path.write_text(between.sub(lambda _: f"\n{text}\n\n", path.read_text(), count=1))


# The programs


def build() -> None:
    """Builds all that is built; minutes the first time, seconds later."""
    say("building wiki-service")
    cargo = ("cargo", "build", "--release", "--locked")
    run(*cargo, cwd=ROOT, capture_output=False)
    say("building bench/axum")
    run(*cargo, "--target-dir", TARGET, cwd=ROOT / "bench/axum", capture_output=False)
    say(f"building oha {OHA}")
    if not (TARGET / "oha/bin/oha").exists() or OHA not in run(TARGET / "oha/bin/oha", "--version"):
        install = ("cargo", "install", "oha", "--version", OHA, "--locked", "--root")
        run(*install, TARGET / "oha", capture_output=False)
    say("installing the predecessor")
    venv, wanted = TARGET / "predecessor", ROOT / "bench/predecessor/requirements.txt"
    installed = venv / "requirements.txt"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        # Python 3.13 is what it ran on.
        python = next(filter(None, map(runs, ("python3.13", sys.executable))))
        run(python, "-m", "venv", "--clear", venv)
        run(venv / "bin/pip", "install", "--quiet", "--no-deps", "-r", wanted, capture_output=False)
        shutil.copy(wanted, installed)


def runs(program: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([program, "--version"], check=True, capture_output=True)
        return program
    return None


def filled(rows: int) -> str:
    """SQL that makes `rows` users, and a post by each."""
    return f"""
        TRUNCATE posts, users RESTART IDENTITY;
        SET session_replication_role = replica; -- no look for the user of each post
        INSERT INTO users (name, created_time)
            SELECT 'User number ' || i, now() FROM generate_series(1, {rows}) i;
        INSERT INTO posts (content, user_id, created_time)
            SELECT 'This is post number ' || i || '. ' || repeat('Lorem ipsum. ', 15), i, now()
            FROM generate_series(1, {rows}) i;
        """


class Postgres:
    """A PostgreSQL of our own with its defaults, fsync among them; no password, loopback only."""

    def __init__(self) -> None:
        self.port = free_port()
        self.home = Path(tempfile.mkdtemp(prefix="wiki-bench-postgresql-"))
        user = {}
        if os.geteuid() == 0:  # as which PostgreSQL refuses to run
            names = {entry.pw_name for entry in pwd.getpwall()}
            entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.home, entry.pw_uid, entry.pw_gid)
        data = self.home / "data"
        initdb = need("initdb", "postgresql")
        run(initdb, "-D", data, "-U", "wiki", "-A", "trust", "-E", "UTF8", "--no-locale",
            cwd=self.home, **user)  # fmt: skip
        with (self.home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [need("postgres", "postgresql"), "-D", data, "-p", str(self.port),
                 "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.home}",
                 "-c", "max_connections=150"],
                cwd=self.home, stdout=log, stderr=log, **user,
            )  # fmt: skip
        self.libpq = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "wiki"}
        ready = need("pg_isready", "postgresql-client")
        patiently(
            lambda: subprocess.run([ready, "-q"], env=self.libpq, check=False).returncode == 0
        )
        self.sql("CREATE DATABASE wiki", "postgres")
        self.version = self.sql("SHOW server_version").split()[0]

    def sql(self, text: str, database: str = "wiki") -> str:
        psql = need("psql", "postgresql-client")
        return run(psql, "-qtAX", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text,
                   env=self.libpq).strip()  # fmt: skip

    def url(self, scheme: str = "postgres") -> str:
        return f"{scheme}://wiki@127.0.0.1:{self.port}/wiki"

    def fill(self, rows: int) -> None:
        self.sql(filled(rows))
        self.sql("VACUUM ANALYZE")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        shutil.rmtree(self.home)


PROGRAMS = {
    "wiki-service": ROOT / "target/release/wiki-service",
    "axum + sqlx": TARGET / "release/wiki-axum",
    "predecessor": TARGET / "predecessor/bin/uvicorn",
}


def on_disk(name: str) -> int:
    """Bytes of a program; of the predecessor's packages, without Python and its pip."""
    if name == "predecessor":
        paths = (TARGET / "predecessor/lib").rglob("*")
        return sum(one.stat().st_size for one in paths if one.is_file() and "pip" not in one.parts)
    return PROGRAMS[name].stat().st_size


class Server:
    """One of the services, as a process with its children."""

    def __init__(self, name: str, database: Postgres) -> None:
        self.name = name
        self.port = free_port()
        scheme = "postgresql+asyncpg" if name == "predecessor" else "postgres"
        # A worker per core, and as many connections in all as the others have.
        workers = CORES if name == "predecessor" else 1
        environment = {
            "PATH": os.environ["PATH"],
            "PORT": str(self.port),
            "DATABASE_URL": database.url(scheme),
            "DATABASE_POOL_SIZE": str(POOL // workers),
        }
        command = [PROGRAMS[name]]
        if name == "predecessor":
            command += ["main:app", "--app-dir", "bench/predecessor", "--port", str(self.port)]
            command += ["--workers", str(workers), "--loop", "uvloop", "--http", "httptools"]
            command += ["--no-access-log"]
        # Its log goes through a pipe to somebody who reads it, as in a container.
        self.reader = subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        started = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self.reader.stdin,
            stderr=self.reader.stdin, start_new_session=True,
        )  # fmt: skip
        self.reader.stdin.close()
        patiently(lambda: status(self.port, "/users/1") == 200, every=0.0005)
        self.first_answer = time.monotonic() - started

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    def memory(self) -> float:
        """Bytes: the proportional set size, so that what workers share counts once."""
        return sum(pss(pid) for pid in tree(self.process.pid))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def patiently(condition, *, every: float = 0.05) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("a program did not start within a minute")
        time.sleep(every)


def status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


# What the kernel knows of a process


def tree(pid: int) -> list[int]:
    children = []
    with contextlib.suppress(FileNotFoundError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += (thread / "children").read_text().split()
    return [pid] + [one for child in children for one in tree(int(child))]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children."""
    ticks = 0
    for one in tree(pid):
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15] if one == pid else fields[11:13]))
    return ticks / TICK


def pss(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) * 1024
    return 0


# Load


@dataclass
class Load:
    """One run against one server."""

    rate: float
    """Requests per second."""
    cpu: float = 0.0
    """Seconds of the server per request."""
    memory: float = 0.0
    """Bytes of the server, the most seen."""
    client: float = 0.0
    """Seconds of the load generator per request."""
    p50: float = 0.0
    p99: float = 0.0
    """Seconds to an answer, with as many requests at a time as there are connections."""
    refused: float = 0.0
    """Share of the requests that were answered with a 503."""


# Each case as (share of requests, method, path, body); `#` is a random id.
READ_USER = ("GET", "/users/#", "")
READ_POST = ("GET", "/posts/#", "")
CREATE_USER = ("POST", "/users", '{"name": "Ada Lovelace"}')
CREATE_POST = ("POST", "/posts", '{"user_id": #, "content": "%s"}' % ("Lorem ipsum. " * 15))
CASES = {
    "read a user": {READ_USER: 100},
    "read a post": {READ_POST: 100},
    "create a user": {CREATE_USER: 100},
    "create a post": {CREATE_POST: 100},
    "90 % reads": {READ_USER: 45, READ_POST: 45, CREATE_USER: 5, CREATE_POST: 5},
}
SQL = {
    READ_USER: "SELECT id, name, created_time FROM users WHERE id = :id",
    READ_POST: "SELECT post_id, content, user_id, created_time FROM posts WHERE post_id = :id",
    CREATE_USER: "INSERT INTO users (name, created_time) VALUES ('Ada Lovelace', now()) "
    "RETURNING id, name, created_time",
    CREATE_POST: "INSERT INTO posts (content, user_id, created_time) "
    f"VALUES ('{'Lorem ipsum. ' * 15}', :id, now()) "
    "RETURNING post_id, content, user_id, created_time",
}


def lua(case: str, rows: int) -> str:
    """What wrk sends: whole requests, put together with as little work as can be."""
    choices = []
    # All ids have as many digits as the largest, so that the length of a body is known.
    last = rows - 1
    for (method, path, body), share in CASES[case].items():
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
        if body:
            length = len(body.replace("#", str(last)))
            head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
        text = json.dumps(f"{head}\r\n{body}").replace("\\/", "/")
        parts = text.replace("#", '" .. id() .. "')
        choices.append((share, parts))
    lines, below = [], 0
    for share, parts in choices:
        below += share
        lines.append(f"  if n <= {below} then return {parts} end")
    lines = "\n".join(lines)
    return f"""
local function id() return math.random({10 ** (len(str(last)) - 1)}, {last}) end
function init() math.randomseed({os.getpid()}) end
function request()
  local n = math.random(100)
{lines}
end
"""


class Target(Protocol):
    """What load is sent to."""

    name: str

    @property
    def url(self) -> str: ...

    def cpu_seconds(self) -> float: ...

    def memory(self) -> float: ...


def wrk(
    server: Target,
    case: str,
    seconds: float,
    *,
    connections: int = 64,
    rows: int = ROWS,
    refusals: bool = False,
) -> Load:
    """Closed loop: as many requests at a time as there are connections. Ends it all unless every
    answer is a success, or may be one of the `refusals` of a service that has too much to do."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(lua(case, rows))
        script.flush()
        before, used = server.cpu_seconds(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            [need("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s",
             "--latency", "-s", script.name, server.url],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        memory = 0.0
        while process.poll() is None:
            memory = max(memory, server.memory())
            time.sleep(0.3)
        text = process.stdout.read()
        cpu = server.cpu_seconds() - before
    done = resource.getrusage(resource.RUSAGE_CHILDREN)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if process.returncode or "Socket errors" in text or (failed and not refusals):
        sys.exit(f"{server.name}, {case}: not every answer is a success:\n{text}")
    count, length = re.search(r"(\d+) requests in ([\d.]+)s", text).groups()
    client = done.ru_utime + done.ru_stime - used.ru_utime - used.ru_stime
    count = max(int(count), 1)
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    p50, p99 = (
        float(number) * units[unit]
        for number, unit in re.findall(r"^ +(?:50|99)% +([\d.]+)([a-z]+) *$", text, re.M)
    )
    refused = int(failed[1]) / count if failed else 0.0
    rate = count / float(length)
    return Load(rate, cpu / count, memory, client / count, p50, p99, refused)


def oha(server: Server, case: str, seconds: float, rate: float) -> dict[str, float]:
    """Open loop: `rate` requests per second are due, whether or not the server keeps up; a late
    answer counts from when its request was due. Seconds by percentile."""
    ((method, path, body),) = CASES[case]
    command = [TARGET / "oha/bin/oha", "-z", f"{seconds:.0f}s", "-q", f"{rate:.0f}", "-c64",
               "--latency-correction", "--no-tui", "--output-format", "json"]  # fmt: skip
    if body:
        command += ["-m", method, "-T", "application/json", "-d", body.replace("#", "1")]
        command += [server.url + path]
    else:
        ids = path.replace("#", "[1-9][0-9]{0,3}")
        command += ["--rand-regex-url", server.url + ids]
    # Without a proxy that the environment may name.
    result = json.loads(run(*command, env={"PATH": os.environ["PATH"]}))
    statuses = result["statusCodeDistribution"]
    if not statuses or any(not status.startswith("2") for status in statuses):
        sys.exit(f"{server.name}, {case}: not every answer is a success: {statuses}")
    latencies = result["latencyPercentiles"]
    return {name: latencies[name] for name in ("p50", "p99", "p99.9")}


def pgbench(database: Postgres, case: str, seconds: float) -> Load:
    """The same statements, prepared, on as many connections, with nothing before them."""
    with tempfile.TemporaryDirectory() as directory:
        files = []
        for index, (request, share) in enumerate(CASES[case].items()):
            file = Path(directory) / str(index)
            file.write_text(f"\\set id random(1, {ROWS})\n{SQL[request]};\n")
            files += ["-f", f"{file}@{share}"]
        program = need("pgbench", "postgresql-contrib")
        text = run(program, "-n", "-M", "prepared", "-c", POOL, "-j", 1, "-T", f"{seconds:.0f}",
                   *files, "wiki", env=database.libpq)  # fmt: skip
    return Load(float(re.search(r"tps = ([\d.]+)", text)[1]))


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A database with this version's schema and `ROWS` users and posts."""
    database = Postgres()
    try:
        migrate = {"PATH": os.environ["PATH"], "DATABASE_URL": database.url()}
        run(ROOT / "target/release/wiki-service", "migrate", env=migrate)
        database.fill(ROWS)
        yield database
    finally:
        database.stop()
