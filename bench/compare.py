"""What changed between two runs, and what of it is beyond noise.

    bench/compare OLD.json NEW.json               our side of both; Kafka's change is the control
    bench/compare FILE.json --sides old zkafka    two builds of one run

A change is beyond noise when the rounds of the two do not overlap, with two of each at least.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs
from rich.console import Console
from rich.table import Table

from bench.report import with_spread
from bench.results import OURS, THEIRS, Results, Row, figure

Verdict = Literal["better", "worse", ""]
_SHOWN = {"better": "[green]better[/green]", "worse": "[red]worse[/red]", "": ""}


@attrs.frozen
class Change:
    """One figure, before and after."""

    old: Row
    new: Row
    old_side: str = OURS
    new_side: str = OURS

    @property
    def factor(self) -> float | None:
        """The new median over the old."""
        return _factor(self.old.median(self.old_side), self.new.median(self.new_side))

    @property
    def control(self) -> float | None:
        """The same of Kafka, which has not changed: what the machine did between two runs."""
        return _factor(self.old.median(THEIRS), self.new.median(THEIRS))

    @property
    def verdict(self) -> Verdict:
        """Whether the rounds stand apart, and which way; empty within noise."""
        old = self.old.rounds.get(self.old_side, [])
        new = self.new.rounds.get(self.new_side, [])
        if not apart(old, new):
            return ""
        return "better" if (min(new) > max(old)) == (self.new.better == "higher") else "worse"


def apart(old: Sequence[float], new: Sequence[float]) -> bool:
    """Whether two sets of rounds, of two at least, do not overlap."""
    if len(old) < 2 or len(new) < 2:
        return False
    return max(old) < min(new) or max(new) < min(old)


def changes(old: Results, new: Results, old_side: str = OURS, new_side: str = OURS) -> list[Change]:
    """Every figure that both have measured."""
    return [
        Change(old.rows[name], row, old_side, new_side)
        for name, row in new.rows.items()
        if name in old.rows and old.rows[name].rounds.get(old_side) and row.rounds.get(new_side)
    ]


def print_changes(console: Console, found: Sequence[Change], *, control: bool) -> None:
    """One line a figure, and below the table what is beyond noise."""
    table = Table()
    columns = ["figure", "unit", "old", "new", "new/old", *(["kafka"] if control else []), ""]
    for column in columns:
        table.add_column(column, justify="left" if column in ("figure", "unit", "") else "right")
    for change in found:
        table.add_row(
            change.new.name,
            change.new.unit,
            with_spread(change.old, change.old_side),
            with_spread(change.new, change.new_side),
            figure(change.factor),
            *([figure(change.control)] if control else []),
            {"better": "[green]better[/green]", "worse": "[red]worse[/red]"}.get(
                change.verdict, ""
            ),
        )
    console.print(table)
    counts = {word: sum(change.verdict == word for change in found) for word in ("better", "worse")}
    console.print(f"beyond noise: {counts['better']} better, {counts['worse']} worse")


def main(arguments: list[str]) -> int:
    """Print the changes."""
    parser = argparse.ArgumentParser(
        prog="bench/compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--sides", nargs=2, default=[OURS, OURS], metavar=("OLD", "NEW"))
    options = parser.parse_args(arguments)
    one_run = len(options.files) == 1
    if len(options.files) > 2 or (one_run and options.sides[0] == options.sides[1]):
        parser.error("two files, or one and two different --sides")
    old, new = Results.load(options.files[0]), Results.load(options.files[-1])
    print_changes(Console(), changes(old, new, *options.sides), control=not one_run)
    return 0


def _factor(old: float | None, new: float | None) -> float | None:
    return None if new is None or not old else new / old


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
