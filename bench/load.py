"""The load: requests by the thousand, in a closed and an open loop."""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common import need, run
from servers import POOL, ROWS, TARGET, Postgres, Server


@dataclass
class Load:
    """One run against one server."""

    rate: float
    """Requests per second."""
    cpu: float = 0.0
    """Seconds of the server per request."""
    memory: float = 0.0
    """Bytes of the server, at most."""
    client: float = 0.0
    """Seconds of the load generator per request."""
    p50: float = 0.0
    p99: float = 0.0
    """Seconds to a response, with as many concurrent requests as connections."""
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


def lua(case: str, rows: int, headers: str) -> str:
    """What wrk sends: whole requests, built with as little work as possible."""
    choices = []
    # All ids have as many digits as the largest, so that the length of a body is known.
    last = rows - 1
    for (method, path, body), share in CASES[case].items():
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}"
        if body:
            length = len(body.replace("#", str(last)))
            head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
        text = json.dumps(f"{head}\r\n{body}").replace("\\/", "/")
        parts = text.replace("#", '" .. id() .. "').replace("@", '" .. unique() .. "')
        choices.append((share, parts))
    lines, below = [], 0
    for share, parts in choices:
        below += share
        lines.append(f"  if n <= {below} then return {parts} end")
    lines = "\n".join(lines)
    return f"""
local function id() return math.random({10 ** (len(str(last)) - 1)}, {last}) end
local count = 0
local function unique() count = count + 1 return "{time.time_ns()}-" .. count end
function init() math.randomseed({os.getpid()}) end
function request()
  local n = math.random(100)
{lines}
end
"""


class Target(Protocol):
    """The target of the load."""

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
    headers: str = "",
    refusals: bool = False,
) -> Load:
    """Closed loop: as many requests at a time as there are connections. Ends it all unless every
    answer is a success, or may be one of the `refusals` of a service that has too much to do.
    `headers` are lines, in which `@` is replaced by a unique text."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(lua(case, rows, headers))
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
        sys.exit(f"{server.name}, {case}: not every response is a success:\n{text}")
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
    # Without a proxy from the environment.
    result = json.loads(run(*command, env={"PATH": os.environ["PATH"]}))
    statuses = result["statusCodeDistribution"]
    if not statuses or any(not status.startswith("2") for status in statuses):
        sys.exit(f"{server.name}, {case}: not every response is a success: {statuses}")
    latencies = result["latencyPercentiles"]
    return {name: latencies[name] for name in ("p50", "p99", "p99.9")}


def pgbench(database: Postgres, case: str, seconds: float) -> Load:
    """The same statements, prepared, on as many connections, directly on the database."""
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
