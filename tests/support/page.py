"""The commands and values from pages, for tests that use them."""

import re
import textwrap

from support.helm import CHART

ONE_CONTAINER = CHART.parent / "docs/one-container.md"


def documented_values() -> str:
    """The example of values for one container."""
    (values,) = re.findall(r"^```yaml\n(.*?)^```", ONE_CONTAINER.read_text(), re.M | re.S)
    assert "read: token" in values
    return values


def commands(heading: str) -> list[str]:
    """The code blocks of a section of the chart's page and its subsections, in order."""
    (_, section), *others = re.findall(
        rf"^(#+) {re.escape(heading)}\n(.*?)(?=^(?!\1#)#+ |\Z)",
        (CHART / "README.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert not others
    blocks = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]
