"""The table of one run: in the terminal, and between the README's markers.

bench/report                     the last run as a table
bench/report FILE --all          every row, of another file
bench/report --readme            publish it: docs/bench.json, docs/bench.svg, README.md
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import chart
from bench.results import OURS, THEIRS, Results, Row, figure

ROOT = Path(__file__).resolve().parent.parent
LATEST = ROOT / "bench" / "results" / "latest.json"
PUBLISHED = ROOT / "docs" / "bench.json"
CHART = ROOT / "docs" / "bench.svg"
README = ROOT / "README.md"
_MARKED = re.compile(r"(<!-- bench[^\n]* -->\n)(.*?)(<!-- /bench -->)", re.DOTALL)
LEVEL = 0.95
"""Below this many times Kafka's figure, a row without a goal is said to be behind."""


def with_spread(row: Row, side: str) -> str:
    """`557 (326-777)`: the median and the extremes."""
    values = row.rounds.get(side)
    if not values:
        return "-"
    if len(values) == 1:
        return figure(values[0])
    return f"{figure(row.median(side))} ({figure(min(values))}-{figure(max(values))})"


def goal_text(row: Row) -> str:
    """`>= 1.3x`, or nothing."""
    return "" if row.goal is None else row.goal.text(row.better, row.unit)


def print_table(console: Console, results: Results) -> None:
    """Every row, with the sides that were measured."""
    sides = results.sides
    header = results.header
    table = Table(title=f"{header['machine']}, {header['date']}, {header['commit']}")
    table.add_column("figure")
    table.add_column("unit")
    for side in sides:
        table.add_column(side, justify="right")
    for column in (f"{OURS}/{THEIRS}", "goal", "met"):
        table.add_column(column, justify="right")
    part = None
    for row in results.rows.values():
        if row.part != part:
            table.add_section()
            part = row.part
        table.add_row(
            row.name,
            row.unit,
            *(with_spread(row, side) for side in sides),
            figure(row.ratio),
            goal_text(row),
            {None: "", True: "[green]yes[/green]", False: "[red]no[/red]"}[row.met],
        )
    console.print(table)


def print_missed(console: Console, results: Results) -> None:
    """What did not reach its goal."""
    missed = results.missed
    if not missed:
        console.print("[green]Every goal that was measured is met.[/green]")
        return
    console.print(f"[red]{len(missed)} goals are missed:[/red]")
    for row in missed:
        console.print(
            f"  {row.name}: {figure(row.median(OURS))} {row.unit} beside"
            f" {figure(row.median(THEIRS))} (x {figure(row.ratio)}), goal {goal_text(row)}",
            highlight=False,
        )


def markdown(results: Results) -> str:
    """What stands between the README's markers: machine, chart, headlines, and what is behind."""
    header = results.header
    versions = header["versions"]
    lines = [
        f"On {header['machine']} shared by ZooKeeper, brokers and clients;"
        f" Apache Kafka {versions[THEIRS]}, {versions['java']}; Python {versions['python']};"
        f" librdkafka {versions['librdkafka']}; {header['date'][:10]}, commit {header['commit']}."
        " Median, and in brackets the extremes, of the rounds"
        " ([all rows and rounds](docs/bench.json))." + _caution(header),
        "",
        "![How many times better than Apache Kafka](docs/bench.svg)",
        "",
        "| Figure | zkafka | Apache Kafka | ratio | goal | met |",
        "|---|---|---|---|---|---|",
    ]
    for row in results.rows.values():
        if row.headline:
            met = {None: "", True: "yes", False: "**no**"}[row.met]
            cells = [row.name, f"{with_spread(row, OURS)} {row.unit}", with_spread(row, THEIRS)]
            cells += [figure(row.ratio), goal_text(row), met]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(["", *lines, "", *_behind(results), ""])


def _caution(header: dict[str, Any]) -> str:
    """A sentence if others were at work on the machine; loads below a quarter of a core are not."""
    if header["load"] < 0.25:
        return ""
    return (
        f" Provisional: the machine was shared with others, its load average {header['load']:.1f}"
        " when the run began."
    )


def _behind(results: Results) -> list[str]:
    """Sentences on what is not as good as it should be."""
    missed = [
        f"{row.name} ({figure(row.median(OURS))} {row.unit} beside {figure(row.median(THEIRS))},"
        f" goal {goal_text(row)})"
        for row in results.missed
    ]
    slower = [
        f"{row.name} ({figure(row.median(OURS))} {row.unit} beside {figure(row.median(THEIRS))})"
        for row in results.rows.values()
        if row.met is not False and row.advantage is not None and row.advantage < LEVEL
    ]
    sentences = []
    if missed:
        sentences.append(f"Goals that are missed: {'; '.join(missed)}.")
    if slower:
        sentences.append(f"Where Apache Kafka is better: {'; '.join(slower)}.")
    return sentences or ["Every goal is met, and Apache Kafka is better at nothing of the above."]


def with_table(text: str, table: str) -> str:
    """The README with `table` between its markers. Errors: ValueError if it has none."""
    if not _MARKED.search(text):
        raise ValueError("no <!-- bench --> markers")
    return _MARKED.sub(lambda found: found[1] + table + found[3], text)


def main(arguments: list[str]) -> int:
    """Print a run, or publish it."""
    parser = argparse.ArgumentParser(
        prog="bench/report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, nargs="?", default=LATEST)
    parser.add_argument("--readme", action="store_true", help="write the README's part and chart")
    parser.add_argument("--all", action="store_true", help="not only the headlines")
    options = parser.parse_args(arguments)
    results = Results.load(options.file)
    console = Console()
    if options.readme:
        results.save(PUBLISHED)
        CHART.write_text(chart.draw(results))
        README.write_text(with_table(README.read_text(), markdown(results)))
        console.print(f"written: {PUBLISHED}, {CHART}, {README}")
        return 0
    if not options.all:
        results.rows = {name: row for name, row in results.rows.items() if row.headline}
    print_table(console, results)
    print_missed(console, results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
