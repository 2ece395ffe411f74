"""Links in the pages work, and docs/reliability.md claims nothing without a test."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
NAME = re.compile(r"`(\w+/test_\w+\.py)::(test_\w+)[^`]*`")


def test_every_promise_names_its_test() -> None:
    promises = PAGE.partition("|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert promises
    assert [promise for promise in promises if not NAME.search(promise)] == []


def test_the_readme_counts_them() -> None:
    promises = PAGE.partition("|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert f"[{len(promises)} promises](docs/reliability.md)" in (ROOT / "README.md").read_text()


def test_every_test_that_it_names_is_there() -> None:
    named = set(NAME.findall(PAGE))
    assert named
    missing = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if f"\ndef {name}(" not in (ROOT / "tests" / file).read_text()
    ]
    assert missing == []


def test_everything_long_has_its_figures() -> None:
    """Each test that reports figures has had a long run, whose figures are in the page."""
    figures = PAGE.partition("<!-- figures -->")[2]
    for path in sorted((ROOT / "tests/faults").glob("test_*.py")):
        for definition in re.split(r"\n(?=def )", path.read_text()):
            name = re.match(r"def (test_\w+)\(", definition)
            if name and "figures" in definition:
                assert f"faults/{path.name}::{name[1]}" in figures, f"no figures of {name[1]}"


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as on GitHub."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_every_link_of_every_page_leads_somewhere() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pages = [ROOT / name for name in listed.split() if (ROOT / name).exists()]
    assert len(pages) > 10
    lost = []
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                lost.append(f"{page.relative_to(ROOT)}: {link}")
    assert lost == []
