"""A bar chart as SVG, for light and dark pages."""

from html import escape

COLOURS = (("#b7410e", "#f08a5d"), ("#4a6fa5", "#8fb3e0"), ("#8a8a8a", "#9a9a9a"))
BAR, GAP, LEFT, WIDTH, HEAD = 14, 14, 120, 760, 62


def picture(cpu: dict[str, dict[str, float]], names: tuple[str, ...], note: str) -> str:
    """Requests per second of CPU time, by case and server."""
    most = max(1 / by[name] for by in cpu.values() for name in names)
    scale = (WIDTH - LEFT - 70) / most
    shapes, y = [], HEAD
    for case, by in cpu.items():
        middle = y + BAR * len(names) / 2 + 4
        shapes.append(f'<text x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(case)}</text>')
        for index, name in enumerate(names):
            length = scale / by[name]
            shapes.append(
                f'<rect class="c{index}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}"/>'
                f'<text class="value" x="{LEFT + length + 5:.1f}" y="{y + 10}">{1 / by[name]:,.0f}</text>'
            )
            y += BAR
        y += GAP
    x = LEFT
    for index, name in enumerate(names):
        shapes.append(
            f'<rect class="c{index}" x="{x}" y="36" width="12" height="12"/>'
            f'<text x="{x + 17}" y="46">{escape(name)}</text>'
        )
        x += 40 + 8 * len(name)
    light = "".join(f".c{i}{{fill:{light}}}" for i, (light, _) in enumerate(COLOURS))
    dark = "".join(f".c{i}{{fill:{dark}}}" for i, (_, dark) in enumerate(COLOURS))
    shapes = "\n".join(shapes)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 22}" role="img" aria-label="Requests per second of the server's CPU time">
<style>
text{{font:13px system-ui,sans-serif;fill:#222}}.title{{font-weight:600}}.value,.note{{font-size:11px;fill:#666}}{light}
@media(prefers-color-scheme:dark){{text{{fill:#ddd}}.value,.note{{fill:#aaa}}{dark}}}
</style>
<text class="title" x="{LEFT}" y="20">Requests per second of the server's CPU time (more is better)</text>
{shapes}
<text class="note" x="{LEFT}" y="{y + 10}">{escape(note)}</text>
</svg>
"""
