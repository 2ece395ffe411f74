"""SVG charts that are readable on light and dark pages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

LEFT, WIDTH = 120, 820
HEIGHT, TOP, GAP = 130, 56, 46  # of a panel of lines
BAR, ROOM = 14, 14
# Of each series, on light and on dark pages.
COLOURS = (("#0969da", "#58a6ff"), ("#bc4c00", "#f0883e"), ("#8a8a8a", "#9a9a9a"))
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #1f2328 }
.grid { stroke: #8c959f55 }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round }
"""
DARK = "text { fill: #9198a1 } .title { fill: #f0f6fc }"


def _document(title: str, height: float, shapes: Iterable[str]) -> str:
    def series(kind: int) -> str:
        return "".join(
            f".s{number} {{ fill: {pair[kind]} }} .l{number} {{ stroke: {pair[kind]} }}\n"
            for number, pair in enumerate(COLOURS)
        )

    dark = f"@media (prefers-color-scheme: dark) {{\n{DARK}\n{series(1)}}}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
            f'role="img" aria-label="{escape(title)}"><style>{STYLE}{series(0)}{dark}</style>',
            _text(LEFT, 18, title, 'class="title"'),
            *shapes,
            "</svg>",
            "",
        ]
    )


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(text)}</text>'


def _bar(series: int, x: float, y: float, width: float) -> str:
    size = f'width="{width:.1f}" height="{BAR - 2}"'
    return f'<rect class="s{series}" x="{x:g}" y="{y:g}" {size}/>'


def _legend(names: Sequence[str]) -> Iterable[str]:
    x = LEFT
    for series, name in enumerate(names):
        yield _bar(series, x, 28, BAR - 2)
        yield _text(x + 17, 38, name)
        x += 40 + 8 * len(name)


def bars(title: str, series: Sequence[str], groups: dict[str, Sequence[float]], note: str) -> str:
    """A bar for each of the `series` in each of the named groups."""
    scale = (WIDTH - LEFT - 70) / max(map(max, groups.values()))
    shapes, y = [*_legend(series)], 62
    for name, values in groups.items():
        middle = y + BAR * len(values) / 2 + 4
        shapes.append(_text(LEFT - 10, middle, name, 'text-anchor="end"'))
        for number, value in enumerate(values):
            shapes.append(_bar(number, LEFT, y, value * scale))
            shapes.append(_text(LEFT + value * scale + 5, y + 10, f"{value:,.0f}"))
            y += BAR
        y += ROOM
    return _document(title, y + 22, [*shapes, _text(LEFT, y + 10, note)])


@dataclass
class Panel:
    title: str
    # Of each series, in order.
    lines: Sequence[Sequence[float]]


def lines(title: str, series: Sequence[str], seconds: Sequence[float], panels: list[Panel]) -> str:
    """`panels` one below the other, each from zero up, over the same `seconds`."""
    shapes = [*_legend(series)]
    for number, panel in enumerate(panels):
        shapes += _panel(panel, seconds, TOP + number * (HEIGHT + GAP))
    return _document(title, TOP + len(panels) * (HEIGHT + GAP) + 10, shapes)


def _panel(panel: Panel, seconds: Sequence[float], top: float) -> list[str]:
    highest = _round_up(max(map(max, panel.lines)))
    right, bottom = WIDTH - 20, top + 20 + HEIGHT
    shapes = [_text(LEFT, top + 10, panel.title, 'class="title"')]
    for step in range(3):
        y = bottom - HEIGHT * step / 2
        shapes += [
            f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:g}" y2="{y:g}"/>',
            _text(LEFT - 8, y + 4, f"{highest * step / 2:g}", 'text-anchor="end"'),
        ]
    end = seconds[-1]
    for number, values in enumerate(panel.lines):
        points = " ".join(
            f"{LEFT + (right - LEFT) * x / end:.1f},{bottom - HEIGHT * y / highest:.1f}"
            for x, y in zip(seconds, values, strict=True)
        )
        shapes.append(f'<polyline class="l{number}" points="{points}"/>')
    for step in range(6):
        x, minutes = LEFT + (right - LEFT) * step / 5, end * step / 300
        shapes.append(_text(x, bottom + 16, f"{minutes:.3g}", 'text-anchor="middle"'))
    return shapes


def _round_up(value: float) -> float:
    """To the next of 1, 2, 5, 10, 20, 50 and so on."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value > 0:
        power /= 10
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= value)
