"""What commands say: tables for people, `--json` for programs, one clear sentence on failure."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click
import rich.box
import rich.console
import rich.table

# Into a file or a pipe nothing is folded: whoever reads that looks for whole lines.
console = rich.console.Console(highlight=False, width=None if sys.stdout.isatty() else 1000)


def say(line: str = "") -> None:
    """Print one line, which only the terminal itself may break."""
    console.print(line, soft_wrap=True)


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; a column whose cells are all numbers is right-aligned."""
    drawn = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for position, column in enumerate(columns):
        numbers = rows and all(isinstance(row[position], int | float) for row in rows)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*("-" if cell is None else str(cell) for cell in row))
    console.print(drawn)


def as_json(value: Any) -> None:
    """Print one JSON document: what a program reads, without colour or folding."""
    click.echo(json.dumps(value, indent=2, default=str))


def show(
    json_output: bool,
    title: str | None,
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Print `rows` as a table under `columns` (key to heading), or as JSON whole."""
    if json_output:
        as_json(list(rows))
    elif not rows:
        console.print(f"[dim]{title or 'nothing'}: none[/dim]")
    else:
        table(title, list(columns.values()), [[row[key] for key in columns] for row in rows])


def fail(message: str) -> NoReturn:
    """End the command with one sentence on standard error and exit code 1."""
    raise click.ClickException(message)
