"""Rounds, medians, ratios and goals; kept as JSON after every measurement.

A file is `{"header": {...}, "rows": [...]}`; a row has the raw rounds of every side.
"""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

OURS, THEIRS = "zkafka", "kafka"
Better = Literal["higher", "lower"]


def figure(value: float | None) -> str:
    """Three digits, thousands separated: `1,360`, `45.7`, `0.42`."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of a sorted sequence does not exceed."""
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@attrs.frozen
class Goal:
    """What our median must reach: a multiple of Kafka's, or a bound of its own."""

    bound: float
    of: Literal["ratio", "absolute"] = "ratio"

    def text(self, better: Better, unit: str) -> str:
        """As in tables: `>= 1.3x`, `<= 1 s`."""
        sign = ">=" if better == "higher" else "<="
        return f"{sign} {self.bound:g}" + ("x" if self.of == "ratio" else f" {unit}")

    def met(self, better: Better, ours: float | None, ratio: float | None) -> bool | None:
        """Whether it is reached; None when it cannot be told."""
        value = ratio if self.of == "ratio" else ours
        if value is None:
            return None
        return value >= self.bound if better == "higher" else value <= self.bound


@attrs.define
class Row:
    """One figure: what each side measured in each round."""

    name: str
    unit: str
    better: Better
    part: str
    goal: Goal | None = None
    headline: bool = False
    """Whether the README and the chart show it."""
    rounds: dict[str, list[float]] = attrs.field(factory=dict)
    """By side, in the order of the rounds."""
    cpu_s: dict[str, list[float]] = attrs.field(factory=dict)
    """CPU seconds of all brokers of the side in each round."""
    peak_mb: dict[str, list[float]] = attrs.field(factory=dict)
    """The most memory they had resident in each round."""

    def median(self, side: str) -> float | None:
        """None before the first round."""
        values = self.rounds.get(side)
        return statistics.median(values) if values else None

    @property
    def ratio(self) -> float | None:
        """Our median over Kafka's; None if one is missing, or Kafka's is nothing."""
        ours, theirs = self.median(OURS), self.median(THEIRS)
        return None if ours is None or not theirs else ours / theirs

    @property
    def advantage(self) -> float | None:
        """How many times better than Kafka: the ratio, turned so that above 1 is good."""
        if not self.ratio:
            return None
        return self.ratio if self.better == "higher" else 1 / self.ratio

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one, or when it cannot be told."""
        if self.goal is None:
            return None
        return self.goal.met(self.better, self.median(OURS), self.ratio)

    def as_json(self) -> dict[str, Any]:
        """The row with what follows from it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "part": self.part,
            OURS: self.median(OURS),
            THEIRS: self.median(THEIRS),
            "ratio": self.ratio,
            "better": self.better,
            "goal": None if self.goal is None else attrs.asdict(self.goal),
            "met": self.met,
            "headline": self.headline,
            "rounds": self.rounds,
            "cpu_s": self.cpu_s,
            "peak_mb": self.peak_mb,
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Row":
        """The row as it was measured; medians are not read but computed again."""
        goal = None if found["goal"] is None else Goal(**found["goal"])
        kept = {field.name: found[field.name] for field in attrs.fields(cls)}
        return cls(**{**kept, "goal": goal})


@attrs.define
class Results:
    """Everything one run measured."""

    header: dict[str, Any] = attrs.field(factory=dict)
    rows: dict[str, Row] = attrs.field(factory=dict)
    """By name, in the order of the table."""

    def save(self, path: Path) -> None:
        """Replace the file in one step: an interrupted run leaves a whole one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        whole = {"header": self.header, "rows": [row.as_json() for row in self.rows.values()]}
        beside.write_text(json.dumps(whole, indent=1) + "\n")
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """What `save` kept."""
        found = json.loads(path.read_text())
        rows = [Row.from_json(row) for row in found["rows"]]
        return cls(found["header"], {row.name: row for row in rows})

    def arrange(self, order: Sequence[str]) -> None:
        """Put rows in the order of these names; others, which nobody measures any more, last."""
        place = {name: number for number, name in enumerate(order)}
        names = sorted(self.rows, key=lambda name: place.get(name, len(place)))
        self.rows = {name: self.rows[name] for name in names}

    @property
    def sides(self) -> list[str]:
        """Those that were measured, ours and Kafka first."""
        found = dict.fromkeys(side for row in self.rows.values() for side in row.rounds)
        return sorted(found, key=lambda side: (side != OURS, side != THEIRS))

    @property
    def missed(self) -> list[Row]:
        """Rows that do not reach their goal."""
        return [row for row in self.rows.values() if row.met is False]
