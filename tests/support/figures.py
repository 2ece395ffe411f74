"""The figures measured by tests/faults. Those of long runs are kept in the documentation."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
TABLE = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)", re.DOTALL)
HEADER = "| test | figures | date |\n|---|---|---|\n"
ROW = re.compile(r"\| `(?P<test>[^`]+)` \|.*\n")


class Figures:
    """What one test reports while it runs, and at the end."""

    def __init__(self, test: str, write_line: Callable[[str], None], *, keep: bool):
        self._test = test
        self._write_line = write_line
        self._keep = keep

    def progress(self, text: str) -> None:
        self._write_line(f"  {text}")

    def report(self, text: str, *, part: str = "") -> None:
        """The result; for a test with several, of one `part`."""
        name = f"{self._test} {part}".strip()
        self._write_line(f"{name}: {text}")
        if self._keep:
            page = PAGE.read_text()
            PAGE.write_text(TABLE.sub(lambda old: with_row(old[0], name, text), page, count=1))


def with_row(table: str, test: str, text: str) -> str:
    rows = {row["test"]: row[0] for row in ROW.finditer(table)}
    rows[test] = f"| `{test}` | {text} | {datetime.now(UTC):%Y-%m-%d} |\n"
    return HEADER + "".join(rows[name] for name in sorted(rows))
