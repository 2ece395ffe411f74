import random
from collections.abc import Iterator

import pytest

from support.figures import Figures
from support.ledger import Ledger


@pytest.fixture
def figures(request: pytest.FixtureRequest, long: bool) -> Figures:
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def write_line(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(line)

    return Figures(f"faults/{request.path.name}::{request.node.name}", write_line, keep=long)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def chance() -> Iterator[random.Random]:
    """A random generator, whose seed is shown on failure."""
    seed = random.randrange(2**32)
    print(f"random.Random({seed})")
    return random.Random(seed)
