"""The table: in the terminal, and between the README's markers."""

from bench.results import OURS, THEIRS, Results, Row
from rich.console import Console
from rich.table import Table


def figure(value: float | None) -> str:
    """Three digits, thousands separated: `1,360`, `45.7`, `0.42`."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_spread(row: Row, side: str) -> str:
    """`557 (326-777)`: the median and the extremes."""
    values = row.rounds.get(side)
    if not values:
        return "-"
    if len(values) == 1:
        return figure(values[0])
    return f"{figure(row.median(side))} ({figure(min(values))}-{figure(max(values))})"


def print_table(console: Console, results: Results) -> None:
    """Every row, with the sides that were measured."""
    sides = list(dict.fromkeys(side for row in results.rows.values() for side in row.rounds))
    header = results.header
    table = Table(title=f"{header['machine']}, {header['date']}, {header['commit']}", show_lines=False)
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
            "" if row.goal is None else row.goal.text(row.better, row.unit),
            {None: "", True: "[green]yes[/green]", False: "[red]no[/red]"}[row.met],
        )
    console.print(table)


def print_missed(console: Console, results: Results) -> None:
    """What did not reach its goal, farthest first."""
    missed = results.missed
    if not missed:
        console.print("[green]Every goal that was measured is met.[/green]")
        return
    console.print(f"[red]{len(missed)} goals are missed:[/red]")
    for row in missed:
        assert row.goal is not None
        console.print(
            f"  {row.name}: {figure(row.median(OURS))} {row.unit} beside {figure(row.median(THEIRS))}"
            f" (x {figure(row.ratio)}), goal {row.goal.text(row.better, row.unit)}",
            highlight=False,
        )
