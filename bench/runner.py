"""The run: stages are set up, cases measured A B A B, and every measurement kept at once."""

import math
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import confluent_kafka
from rich.console import Console

from bench import cases
from bench.cases import Case, Context, Part, Scale, Stage
from bench.loads import ROOT
from bench.results import OURS, THEIRS, Results, Row
from bench.sides import BenchError, Cluster, Side, Zkafka
from zkafka import __version__
from zkafka.testing.zookeeper import ZooKeeper

PRESETS = {
    "quick": Scale(rounds=2, seconds=2.0, kills=5, their_kills=1, read_mb=500, quick=True),
    "full": Scale(rounds=3, seconds=2.0, kills=20, their_kills=2, read_mb=1000),
}
THEIR_SESSION_SECONDS = 20.0
"""How much longer each kill of Apache Kafka takes: its session's 18 s, and a start."""
KILL_BUDGET_SECONDS = 75.0
"""For the kills of one case beyond those that both sides have; one at least of ours is measured."""


@attrs.define
class Run:
    """One run over some sides; `results` grows, and is kept in `path` after each measurement."""

    sides: Sequence[Side]
    scale: Scale
    parts: Sequence[Part]
    results: Results
    path: Path
    console: Console
    directory: Path
    order: Sequence[str] = ()
    """Names of rows as tables have them, however they were measured."""
    deadline: float = math.inf
    """On the monotonic clock: no measurement begins later."""
    failures: list[str] = attrs.field(factory=list)
    _zookeeper: ZooKeeper | None = None
    _made: int = 0

    def estimate_seconds(self) -> float:
        """About how long what is missing will take."""
        total = 0.0
        stages = set()
        for part in self.parts:
            todo = sum(
                self._seconds(case, side)
                * max(0, self._rounds(case, side) - self._done(part, case, side))
                for case in cases.wanted(part, self.scale)
                for side in self.sides
            )
            total += todo
            if todo and part.stage and part.stage.name not in stages:
                stages.add(part.stage.name)
                total += part.stage.seconds * len(self.sides) / 2
        return total

    def go(self) -> None:
        """Measure what is missing."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (limit, limit)
        )  # 10,000 partitions are open files
        with ZooKeeper.create(self.directory / "zookeeper") as self._zookeeper:
            parts = [part for part in self.parts if self.missing(part)]
            while parts:
                stage = parts[0].stage
                together = [part for part in parts if part.stage is stage] if stage else parts[:1]
                parts = [part for part in parts if part not in together]
                if time.monotonic() > self.deadline:
                    names = ", ".join(part.name for part in together)
                    self.failures.append(f"{names}: the time was over")
                    continue
                try:
                    with self._staged(stage) as contexts:
                        for part in together:
                            self.measure(part, contexts)
                except Exception as error:  # noqa: BLE001 - the other stages may stand
                    self._failed(", ".join(part.name for part in together), error)

    def measure(self, part: Part, contexts: Mapping[str, Context]) -> None:
        """Measure what is missing of one part, A B A B, round by round."""
        todo = cases.wanted(part, self.scale)
        self.console.rule(f"[bold]{part.name}[/bold]", align="left")
        last = max(self._rounds(case, side) for case in todo for side in self.sides)
        started: dict[str, float] = {}
        for number in range(last):
            for case in todo:
                begun = started.setdefault(case.name, time.monotonic())
                for side in self.sides:
                    if not self._done(part, case, side) <= number < self._rounds(case, side):
                        continue
                    extra = case.of_kills and number >= self.scale.their_kills
                    if extra and time.monotonic() - begun > KILL_BUDGET_SECONDS:
                        continue
                    self._measure(part, case, contexts[side.name])

    def _measure(self, part: Part, case: Case, context: Context) -> None:
        side = context.side.name
        started = time.monotonic()
        if started > self.deadline:
            self.failures.append(f"{case.name}, {side}: the time was over")
            return
        try:
            if context.staged is not None:
                context.staged.start()  # what an earlier case left dead
            values = case.measure(context)
        except Exception as error:  # noqa: BLE001 - one case that fails must not end the others
            self._failed(f"{case.name}, {side}", error)
            return
        for row, key in self._rows(part, case):
            row.rounds.setdefault(side, []).append(values[key])
            row.cpu_s.setdefault(side, []).append(values["cpu_s"])
            row.peak_mb.setdefault(side, []).append(values["peak_mb"])
        self.results.save(self.path)
        told = ", ".join(
            f"{q.name or ''} {values[q.key]:.4g} {q.unit}".strip() for q in case.quantities
        )
        self.console.print(
            f"[dim]{case.name}, {side}: {told} ({time.monotonic() - started:.1f} s)[/dim]",
            highlight=False,
        )

    def _failed(self, what: str, error: Exception) -> None:
        self.failures.append(f"{what}: {type(error).__name__}: {error}")
        if isinstance(error, BenchError):
            self.console.print(self.failures[-1], style="red", markup=False, highlight=False)
        else:
            self.console.print_exception(extra_lines=0)

    def _rows(self, part: Part, case: Case) -> list[tuple[Row, str]]:
        """The row of each quantity of a case, made if it is not there, and its key.

        One from an earlier run keeps its rounds; what is said of them is what the case says now.
        """
        found = []
        for quantity in case.quantities:
            name = cases.row_name(case, quantity)
            kept = self.results.rows.get(name) or Row(name, "", "higher", "")
            kept.unit, kept.better, kept.part = quantity.unit, quantity.better, part.name
            kept.goal, kept.headline = quantity.goal, quantity.headline
            self.results.rows[name] = kept
            found.append((kept, quantity.key))
        self.results.arrange(self.order)
        return found

    def _rounds(self, case: Case, side: Side) -> int:
        return cases.rounds_of(case, self.scale, ours=isinstance(side, Zkafka))

    def _seconds(self, case: Case, side: Side) -> float:
        waits = case.of_kills and not isinstance(side, Zkafka)
        return case.seconds + (THEIR_SESSION_SECONDS if waits else 0)

    def _done(self, part: Part, case: Case, side: Side) -> int:
        row = self.results.rows.get(cases.row_name(case, case.quantities[0]))
        return len(row.rounds.get(side.name, ())) if row else 0

    def missing(self, part: Part) -> bool:
        """Whether some side has fewer rounds of a part than it should."""
        return any(
            self._done(part, case, side) < self._rounds(case, side)
            for case in cases.wanted(part, self.scale)
            for side in self.sides
        )

    @contextmanager
    def _staged(self, stage: Stage | None) -> Iterator[Mapping[str, Context]]:
        contexts = {side.name: self._context(side) for side in self.sides}
        if stage is None:
            yield contexts
            return
        with ExitStack() as stack:
            for context in contexts.values():
                self.console.print(f"[dim]{stage.name}: starting {context.side.name}[/dim]")
                context.staged = stack.enter_context(context.fresh(stage.brokers)).start()
                stage.prepare(context)
            yield contexts

    def _context(self, side: Side) -> Context:
        @contextmanager
        def fresh(brokers: int) -> Iterator[Cluster]:
            assert self._zookeeper is not None
            self._made += 1
            directory = self.directory / f"{side.name}-{self._made}"
            cluster = Cluster.create(side, directory, self._zookeeper.connect, brokers)
            try:
                yield cluster
            finally:
                cluster.stop()
                shutil.rmtree(directory)

        return Context(side, self.scale, fresh)


_MOST_WRITTEN = 5 << 30
"""Bytes that a round leaves in the page cache at most: three replicas, for two seconds."""


@contextmanager
def workspace(under: Path | None) -> Iterator[Path]:
    """A directory for everything the run writes, gone afterwards.

    As much as a round may write is written once, and forgotten: a virtual machine has to get memory
    from its host the first time it uses it, which whoever came first would pay for the others.
    """
    directory = Path(tempfile.mkdtemp(prefix="zkafka-bench-", dir=under))
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        piece = bytes(1 << 20)
        with (directory / "memory").open("wb") as file:
            for _ in range(min(_MOST_WRITTEN, free // 2) // len(piece)):
                file.write(piece)
        (directory / "memory").unlink()
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def header(scale: Scale, preset: str) -> dict[str, Any]:
    """Where, when and with what a run is made."""
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )  # fmt: skip
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores, {memory / 1e9:.0f} GB",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(ROOT),
        "load": os.getloadavg()[0],
        "preset": preset,
        "scale": attrs.asdict(scale),
        "versions": {
            OURS: __version__,
            THEIRS: "3.9.1",
            "linux": platform.release(),
            "python": platform.python_version(),
            "java": java.splitlines()[0],
            "librdkafka": confluent_kafka.libversion()[0],
        },
    }


def commit(checkout: Path) -> str:
    """The commit of a checkout, with `+` if it has changes beside; empty where there is no git."""
    git = ["git", "-C", str(checkout)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changes = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name.stdout.strip() + ("+" if changes.stdout.strip() else "")
