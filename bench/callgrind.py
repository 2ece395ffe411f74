"""Callgrind's output, by the part of the service whose source lines were executed."""

import re
from collections import defaultdict
from pathlib import Path

# Each part with its source paths; the first match counts.
PARTS = {
    "log line": r"src/telemetry/log\.rs|/tracing-",
    "metrics": r"src/telemetry/metrics\.rs|/prometheus-",
    "JSON, times": r"src/(http/(json|text)|clock|digits)\.rs|/serde|/itoa-|/zmij-|/chrono-",
    "HTTP: hyper, tokio, the listener": r"src/http/(server|impatient)\.rs"
    r"|/(hyper|tokio|mio|http|httparse|httpdate|bytes|slab|socket2)-",
    "routing and extraction: poem, poem-openapi": r"src/(id|api|app)\.rs|src/wiki/"
    r"|src/http/(routes|parameter|operation|conditional|cache|idempotency|problem)\.rs"
    r"|/(poem|mime|headers|percent-encoding)",
    "identity": r"src/identity/|src/http/authorization\.rs|/(ring|jsonwebtoken)-",
    "middleware": r"src/http/|src/request\.rs|src/telemetry/|/(opentelemetry|fastrand)",
    "ORM: sea-orm, sea-query": r"/sea-|src/database/(insert|texts)\.rs",
    "driver: sqlx": r"/(sqlx|foldhash)-|src/database/statement\.rs",
    "pool, limits": r"src/database/|/deadpool",
}


def part_of(file: str) -> str | None:
    return next((part for part, own in PARTS.items() if re.search(own, file)), None)


def total(dump: Path) -> int:
    return int(re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.M)[1])


def read(dump: Path) -> tuple[dict, dict]:
    """Instructions by function and file, and those of calls by caller, its file and callee.
    (Valgrind's manual, "Callgrind Format Specification".)"""
    names: dict[tuple[str, str], str] = {}

    def name(kind: str, text: str) -> str:
        number, _, given = text.partition(" ")
        return names.setdefault((kind, number), given)

    own, calls = defaultdict(int), defaultdict(int)
    file = function = callee = ""
    is_call = False
    for line in dump.read_text().splitlines():
        if match := re.match(r"(fl|fi|fe|fn|cfn|cfi|cfl|ob|cob)=(.*)", line):
            key, text = match.groups()
            named = name({"n": "function", "b": "object"}.get(key[-1], "file"), text)
            if key == "fn":
                function = named
            elif key == "cfn":
                callee = named
            elif key in ("fl", "fi", "fe"):
                file = named
        elif line.startswith("calls="):
            is_call = True
        elif match := re.match(r"[+*\d-]\S* (\d+)$", line):
            if is_call:
                calls[function, file, callee] += int(match[1])
            else:
                own[function, file] += int(match[1])
            is_call = False
    return own, calls


def by_part(dump: Path) -> dict[str, float]:
    """What belongs to no part, such as `malloc` and the standard library, counts for callers."""
    own, calls = read(dump)
    shares, waiting = defaultdict(float), defaultdict(float)
    parts_of = defaultdict(lambda: defaultdict(int))
    for (function, file), count in own.items():
        parts_of[function][part_of(file)] += count
    for parts in parts_of.values():
        parts.pop(None, None)
    most = {function: max(parts, key=parts.get) for function, parts in parts_of.items() if parts}
    callers = defaultdict(dict)
    for (function, file, callee), count in calls.items():
        if function != callee:
            callers[callee][function, file] = count

    def give(function: str, file: str, count: float) -> None:
        if part := part_of(file) or most.get(function):
            shares[part] += count
        else:
            waiting[function] += count

    for (function, file), count in own.items():
        give(function, file, count)
    for _ in range(50):
        given = dict(waiting)
        waiting.clear()
        for function, count in given.items():
            whole = sum(callers[function].values())
            for (caller, file), weight in callers[function].items():
                give(caller, file, count * weight / whole)
    return shares
