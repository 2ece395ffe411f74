"""Lines over time, as an SVG that reads well on light and dark pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 760, 130, 60, 44, 46
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #1f2328 }
.grid { stroke: #8c959f55 }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.s0 { stroke: #0969da } .s1 { stroke: #bc4c00 }
text.s0 { fill: #0969da; stroke: none } text.s1 { fill: #bc4c00; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc }
  .s0 { stroke: #58a6ff } .s1 { stroke: #f0883e }
  text.s0 { fill: #58a6ff } text.s1 { fill: #f0883e }
}
"""


@dataclass
class Panel:
    title: str
    # Of each series, in order.
    lines: Sequence[Sequence[float]]


def svg(title: str, series: Sequence[str], seconds: Sequence[float], panels: list[Panel]) -> str:
    """`panels` one below the other, each from zero up, over the same `seconds`."""
    height = TOP + len(panels) * (HEIGHT + GAP) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" '
        f'role="img" aria-label="{escape(title)}"><style>{STYLE}</style>',
        f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>',
    ]
    right = LEFT + WIDTH
    for number, name in enumerate(series):
        x = right - 90 * (len(series) - 1 - number)
        parts.append(f'<text class="s{number}" x="{x}" y="18" text-anchor="end">{name}</text>')
    for number, panel in enumerate(panels):
        parts += _panel(panel, seconds, TOP + number * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, seconds: Sequence[float], top: float) -> list[str]:
    highest = _round_up(max(map(max, panel.lines)))
    bottom = top + 20 + HEIGHT
    parts = [f'<text class="title" x="{LEFT}" y="{top + 10}">{escape(panel.title)}</text>']
    for step in range(3):
        y = bottom - HEIGHT * step / 2
        parts += [
            f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:g}" y2="{y:g}"/>',
            f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{highest * step / 2:g}</text>',
        ]
    end = seconds[-1]
    for series, values in enumerate(panel.lines):
        points = " ".join(
            f"{LEFT + WIDTH * x / end:.1f},{bottom - HEIGHT * y / highest:.1f}"
            for x, y in zip(seconds, values, strict=True)
        )
        parts.append(f'<polyline class="s{series}" points="{points}"/>')
    for step in range(6):
        x, minutes = LEFT + WIDTH * step / 5, end * step / 300
        parts.append(f'<text x="{x:g}" y="{bottom + 16}" text-anchor="middle">{minutes:.3g}</text>')
    return parts


def _round_up(value: float) -> float:
    """To the next of 1, 2, 5, 10, 20, 50 and so on."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value > 0:
        power /= 10
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= value)
