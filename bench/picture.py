"""A bar chart as SVG, for light and dark pages."""

from html import escape

COLOURS = (("#b7410e", "#f08a5d"), ("#4a6fa5", "#8fb3e0"), ("#8a8a8a", "#9a9a9a"))
TITLE = "Requests per second of the server's CPU time: more is better"
BAR, GAP, LEFT, WIDTH, HEAD = 14, 14, 120, 760, 62


def picture(cpu: dict[str, dict[str, float]], names: tuple[str, ...], note: str) -> str:
    """Requests per second of CPU time, by case and server."""
    most = max(1 / by[name] for by in cpu.values() for name in names)
    scale = (WIDTH - LEFT - 70) / most
    shapes, y = [], HEAD
    for case, by in cpu.items():
        middle = y + BAR * len(names) / 2 + 4
        shapes.append(label(LEFT - 10, middle, case, 'text-anchor="end"'))
        for index, name in enumerate(names):
            length = scale / by[name]
            shapes.append(bar(index, LEFT, y, length, BAR - 2))
            shapes.append(label(LEFT + length + 5, y + 10, f"{1 / by[name]:,.0f}", 'class="value"'))
            y += BAR
        y += GAP
    x = LEFT
    for index, name in enumerate(names):
        shapes += [bar(index, x, 36, 12, 12), label(x + 17, 46, name)]
        x += 40 + 8 * len(name)
    light = "".join(f".c{i}{{fill:{light}}}" for i, (light, _) in enumerate(COLOURS))
    dark = "".join(f".c{i}{{fill:{dark}}}" for i, (_, dark) in enumerate(COLOURS))
    shapes = "\n".join(shapes)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 22}" role="img">
<title>{TITLE}</title>
<style>
text{{font:13px system-ui,sans-serif;fill:#222}}
.head{{font-weight:600}}
.value,.note{{font-size:11px;fill:#666}}
{light}
@media(prefers-color-scheme:dark){{text{{fill:#ddd}}.value,.note{{fill:#aaa}}{dark}}}
</style>
<text class="head" x="{LEFT}" y="20">{TITLE}</text>
{shapes}
<text class="note" x="{LEFT}" y="{y + 10}">{escape(note)}</text>
</svg>
"""


def bar(kind: int, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="c{kind}" x="{x}" y="{y}" width="{width:.1f}" height="{height}"/>'


def label(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{escape(text)}</text>'
