"""The commands from the chart's page, for tests that run them."""

import re
import textwrap

from support.helm import CHART


def commands(heading: str) -> list[str]:
    """The code blocks of a section and its subsections, in order."""
    (_, section), *others = re.findall(
        rf"^(#+) {re.escape(heading)}\n(.*?)(?=^(?!\1#)#+ |\Z)",
        (CHART / "README.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert not others
    blocks = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]
