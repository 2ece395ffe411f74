"""What every command here needs: to run programs, and to say and publish what came of it."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


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


def table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def publish(file: str, command: str, text: str) -> None:
    """Puts `text` between the markers of `command` in `file`."""
    path = ROOT / file
    between = re.compile(rf"(?<=<!-- {command} -->\n).*?(?=<!-- end -->)", re.S)
    path.write_text(between.sub(lambda _: f"\n{text}\n\n", path.read_text(), count=1))
