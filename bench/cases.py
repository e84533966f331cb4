"""What a measurement is: its quantities and goals, how long it takes, and where it stands.

A `Part` is what `--only` names. Its cases are measured in a `Stage` (clusters that stay up for many
cases) or, without one, in clusters that the case starts for itself.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import attrs

from bench.results import Better, Goal
from bench.sides import Cluster, Side


@attrs.frozen
class Scale:
    """How much is measured; the presets are in `runner`."""

    rounds: int
    seconds: float
    """Of load, for each side in each round."""
    kills: int
    """Of our brokers, of each kind."""
    their_kills: int
    """Of Apache Kafka's, which take 20 s and more each."""
    read_mb: int
    """Of records that are there to be read."""
    quick: bool = False
    """Only the cases that are marked so."""


@attrs.frozen
class Quantity:
    """One figure of a case: the key under which `measure` returns it, and how it is told."""

    key: str
    unit: str
    better: Better
    name: str = ""
    """What follows the case's name; for the only or the main figure nothing."""
    goal: Goal | None = None
    headline: bool = False
    """Whether the README and the chart show it."""


@attrs.define
class Context:
    """What a measurement is given: the side, and the cluster in which to measure it."""

    side: Side
    scale: Scale
    fresh: Callable[[int], AbstractContextManager[Cluster]]
    """A new cluster of so many brokers of this side, for the time of a block; not yet started."""
    staged: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        """The stage's cluster."""
        assert self.staged is not None, "this case has no stage"
        return self.staged


@attrs.frozen
class Case:
    """One measurement, repeated in rounds: `measure` gives each quantity, `cpu_s` and `peak_mb`."""

    name: str
    quantities: tuple[Quantity, ...]
    measure: Callable[[Context], Mapping[str, float]]
    seconds: float
    """About how long one round of one side takes."""
    quick: bool = False
    rounds: int | None = None
    """At most so many, where each takes long; one if the scale is quick."""
    of_kills: bool = False
    """Rounds are kills, as many as `Scale` says and the runner's patience allows."""


@attrs.frozen
class Stage:
    """Clusters of both sides that stay up, warmed up alike, for all parts that share it."""

    name: str
    brokers: int
    prepare: Callable[[Context], None]
    seconds: float
    """About how long it takes to start and to prepare both."""


@attrs.frozen
class Part:
    """What `--only` names."""

    name: str
    cases: tuple[Case, ...]
    stage: Stage | None = None


def row_name(case: Case, quantity: Quantity) -> str:
    """What a quantity is called in tables and JSON."""
    return f"{case.name}: {quantity.name}" if quantity.name else case.name


def wanted(part: Part, scale: Scale) -> list[Case]:
    """The cases of a part that this scale measures."""
    return [case for case in part.cases if case.quick or not scale.quick]


def rounds_of(case: Case, scale: Scale, *, ours: bool) -> int:
    """How often a case is measured."""
    if case.of_kills:
        return scale.kills if ours else scale.their_kills
    if case.rounds is None:
        return scale.rounds
    return 1 if scale.quick else min(scale.rounds, case.rounds)
