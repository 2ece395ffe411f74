"""The layers of src/, as in docs/architecture.md, and no cycles there or in cluster/src/."""

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the bottom up: a file uses its own layer and those below it.
FLOORS = (
    {"clock", "config", "digits", "https", "id", "otel", "request"},
    {"telemetry"},
    {"database"},
    {"identity"},
    {"http"},
    {"app"},
    {"operations", "wiki"},
    {"api"},
    {"main"},
)


def uses(source: Path) -> dict[str, set[str]]:
    """Which files each file uses by `crate::`; `http/json.rs` is `http::json`."""
    names = {
        "::".join(path.relative_to(source).with_suffix("").parts).removesuffix("::mod"): path
        for path in source.rglob("*.rs")
    }
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        text = path.read_text()
        assert not re.search(r"super::\w", text), (
            f"{name}: write crate::, so that this test sees it"
        )
        targets = [t for use in re.findall(r"\bcrate::([^;()]+)", text) for t in expand(use)]
        files = (
            max((n for n in names if f"{t}::".startswith(f"{n}::")), default="main")
            for t in targets
        )
        found[name] = set(files) - {name}
    return found


def expand(use: str) -> list[str]:
    """`a::{b,c::{d,e}}` as `a::b`, `a::c::d`, `a::c::e`."""
    use = re.sub(r"\s|\w+ as ", "", use)
    while inner := re.search(r"([\w:]*)\{([^{}]*)\}", use):
        parts = [inner[1] + part for part in inner[2].split(",") if part]
        use = use[: inner.start()] + ",".join(parts) + use[inner.end() :]
    return use.split(",")


@pytest.mark.parametrize("folder", ["src", "cluster/src"])
def test_no_files_use_each_other_in_a_circle(folder: str) -> None:
    TopologicalSorter(uses(ROOT / folder)).prepare()


def test_no_floor_knows_a_higher_one() -> None:
    height = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    for file, targets in uses(ROOT / "src").items():
        for target in targets:
            assert height[target.split("::")[0]] <= height[file.split("::")[0]], f"{file}: {target}"


@pytest.mark.parametrize("folder", ["src", "cluster/src", "migration/src"])
def test_no_file_is_longer_than_300_lines(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.rs"):
        assert len(path.read_text().splitlines()) <= 300, path
