"""What every command here needs: running programs, and reporting and publishing results."""

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


def others() -> str:
    """How much of the machine other processes use, while nothing of ours runs yet."""
    busy, idle = [], []
    for _ in range(2):
        ticks = [int(field) for field in Path("/proc/stat").read_text().split()[1:9]]
        idle.append(ticks[3] + ticks[4])
        busy.append(sum(ticks) - idle[-1])
        time.sleep(3)
    share = (busy[1] - busy[0]) / (busy[1] - busy[0] + idle[1] - idle[0])
    return f"as it began, other processes took {share:.0%} of the cores"


def need(program: str, package: str) -> Path:
    """The path of `program`, on PATH or among Debian's PostgreSQL programs."""
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
