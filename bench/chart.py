"""A chart of the headline figures: bars on a logarithmic scale, right of 1x where we are better."""

import math
from html import escape

from bench.results import OURS, THEIRS, Results, Row, figure

WIDTH = 1120
LABELS = 430
"""Where the bars' area begins; names stand left of it."""
BARS = 380
"""Width of the bars' area; the figures stand right of it."""
ROW = 24
HEADING = 34
TOP = 92
_STYLE = """\
text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px }
text { fill: #1f2328 }
.title { font-size: 19px; font-weight: 600 }
.part { font-weight: 600 }
.dim, .axis { fill: #59636e }
.axis { font-size: 11px }
.page { fill: #ffffff }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.one { stroke: #1f2328; stroke-width: 1.5 }
.better { fill: #1a7f64 }
.worse { fill: #c4622d }
.goal { stroke: #1f2328; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .dim, .axis { fill: #9198a1 }
  .page { fill: #0d1117 }
  .grid { stroke: #30363d }
  .one, .goal { stroke: #e6edf3 }
  .better { fill: #3fb68b }
  .worse { fill: #e5894f }
}
"""


class Scale:
    """Where a factor lies: powers of two, 1x always inside, ends rounded outwards."""

    def __init__(self, factors: list[float]) -> None:
        logs = [math.log2(factor) for factor in factors]
        self.low = min(-1, math.floor(min(logs, default=0)))
        self.high = max(1, math.ceil(max(logs, default=0)))

    def x(self, factor: float) -> float:
        """The position of a factor across the picture."""
        return LABELS + BARS * (math.log2(factor) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """At most nine powers of two, 1x among them."""
        step = math.ceil((self.high - self.low) / 8)
        first = -(-self.low // step) * step
        return [2.0**power for power in range(first, self.high + 1, step)]


def draw(results: Results) -> str:
    """The SVG of every headline that both sides have measured."""
    rows = [row for row in results.rows.values() if row.headline and row.advantage is not None]
    advantages = [row.advantage for row in rows if row.advantage is not None]
    scale = Scale(advantages + [goal for row in rows if (goal := _goal(row)) is not None])
    lines: list[str] = []
    y = TOP
    part = None
    for row in rows:
        if row.part != part:
            part = row.part
            y += HEADING
            lines.append(_text(24, y - 10, part.replace("-", " ").capitalize(), "part"))
        lines += _bar(row, scale, y)
        y += ROW
    height = y + 62
    grid = []
    for factor in scale.ticks():
        x = scale.x(factor)
        style = "one" if factor == 1 else "grid"
        grid.append(f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y + 6}"/>')
        grid.append(_text(x, TOP - 8, _tick(factor), "axis", "middle"))
        grid.append(_text(x, y + 22, _tick(factor), "axis", "middle"))
    header = results.header
    machine = f"{header['machine']}; {header['date'][:10]}; medians, same clients, both untuned"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' width="{WIDTH}" height="{height}" aria-label="zkafka beside Apache Kafka 3.9">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
        _text(24, 36, "zkafka beside Apache Kafka 3.9: how many times better", "title"),
        _text(24, 58, machine, "dim"),
    ]
    foot = _text(
        LABELS, y + 44, "left of 1x Kafka is better; a short upright line is our goal", "dim"
    )
    return "\n".join([*head, *grid, *lines, foot, "</svg>", ""])


def _bar(row: Row, scale: Scale, y: int) -> list[str]:
    assert row.advantage is not None
    one, end = scale.x(1), scale.x(row.advantage)
    style = "better" if row.advantage >= 1 else "worse"
    ours, theirs = figure(row.median(OURS)), figure(row.median(THEIRS))
    lines = [
        _text(24, y + 14, row.name),
        f'<rect class="{style}" x="{min(one, end):.1f}" y="{y + 3}" rx="2"'
        f' width="{max(1.5, abs(end - one)):.1f}" height="{ROW - 9}"/>',
        _text(LABELS + BARS + 16, y + 14, f"{ours} : {theirs} {row.unit}"),
        _text(WIDTH - 20, y + 14, _factor(row.advantage), "dim", "end"),
    ]
    goal = _goal(row)
    if goal is not None:
        x = scale.x(goal)
        lines.append(f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + ROW - 3}"/>')
    return lines


def _goal(row: Row) -> float | None:
    """The goal as an advantage; one that is absolute, beside what Kafka takes."""
    if row.goal is None:
        return None
    if row.goal.of == "ratio":
        return row.goal.bound if row.better == "higher" else 1 / row.goal.bound
    theirs = row.median(THEIRS)
    if not theirs:
        return None
    return row.goal.bound / theirs if row.better == "higher" else theirs / row.goal.bound


def _factor(value: float) -> str:
    return f"{figure(value)}x"


def _tick(power: float) -> str:
    """A power of two: `4x`, `1/4x`."""
    return f"{power:g}x" if power >= 1 else f"1/{1 / power:g}x"


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
    styled = f' class="{style}"' if style else ""
    return f'<text{styled} x="{x:.0f}" y="{y}"{anchored}>{escape(text)}</text>'
