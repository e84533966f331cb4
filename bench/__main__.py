"""zkafka beside Apache Kafka 3.9 on this machine: one run, one table.

bench/run --quick                    the main figures, in under five minutes
bench/run                            all of them, in about half an hour
bench/run --only produce,lone        some parts; --list names them
bench/run --resume                   go on where an interrupted run ended
bench/run --build old=../checkout    another build of ours beside the two
bench/run --no-kafka --build ...     builds of ours alone
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console

from bench import cases, report, runner
from bench.loads import ROOT
from bench.parts import PARTS
from bench.results import OURS, THEIRS, Results
from bench.sides import ApacheKafka, Side, Zkafka

LATEST = ROOT / "bench" / "results" / "latest.json"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bench/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer cases, rounds and kills")
    add("--only", metavar="PART,...", help="these parts")
    add("--cases", metavar="TEXT", help="only cases whose name contains this")
    add("--list", action="store_true", help="name the parts and cases, and do nothing")
    add("--rounds", type=int, help="of each side")
    add("--seconds", type=float, help="of load in each round")
    add("--kills", type=int, help="of our brokers, of each kind")
    add("--minutes", type=float, help="begin no measurement later; --resume goes on")
    add("--resume", action="store_true", help="keep the results so far, measure what is missing")
    add(
        "--build", action="append", default=[], metavar="NAME=PATH", help="another checkout of ours"
    )
    add("--no-kafka", action="store_true", help="leave Apache Kafka out")
    add(
        "--dir",
        type=Path,
        help="where the brokers keep their data (default: the temporary directory)",
    )
    add("--output", type=Path, default=LATEST, help="the JSON file (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Measure, print, and answer 1 if something could not be measured."""
    options = parse(arguments)
    console = Console()
    preset = "quick" if options.quick else "full"
    changes: dict[str, Any] = {
        key: value
        for key in ("rounds", "seconds", "kills")
        if (value := getattr(options, key)) is not None
    }
    scale = attrs.evolve(runner.PRESETS[preset], **changes)
    parts = _parts(options)
    if options.list:
        for part in parts:
            for case in part.cases:
                console.print(
                    f"{part.name:12} {case.name}{'  (quick)' if case.quick else ''}",
                    highlight=False,
                )
        return 0
    sides: list[Side] = [Zkafka(OURS, ROOT)]
    if not options.no_kafka:
        sides.append(ApacheKafka(THEIRS))
    for pair in options.build:
        name, _, path = pair.partition("=")
        sides.append(Zkafka(name, Path(path).resolve()))
    results = Results()
    if options.resume and options.output.exists():
        results = Results.load(options.output)
    results.header = {**runner.header(scale, preset), "began": results.header.get("date")}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: all is stopped
    with runner.workspace(options.dir) as directory:
        run = runner.Run(sides, scale, parts, results, options.output, console, directory)
        run.order = [
            cases.row_name(case, quantity)
            for part in PARTS
            for case in part.cases
            for quantity in case.quantities
        ]
        if options.minutes is not None:
            run.deadline = time.monotonic() + 60 * options.minutes
        console.print(
            f"about {run.estimate_seconds() / 60:.0f} minutes; results go to {options.output}"
        )
        try:
            run.go()
        except KeyboardInterrupt:
            run.failures.append("the rest: interrupted; bench/run --resume goes on")
    report.print_table(console, results)
    report.print_missed(console, results)
    for failure in run.failures:
        console.print(f"not measured: {failure}", style="red", markup=False, highlight=False)
    return 1 if run.failures else 0


def _parts(options: argparse.Namespace) -> list[cases.Part]:
    names = options.only.split(",") if options.only else [part.name for part in PARTS]
    unknown = set(names) - {part.name for part in PARTS}
    if unknown:
        sys.exit(
            f"no such part: {', '.join(sorted(unknown))}; "
            f"there are {', '.join(part.name for part in PARTS)}"
        )
    text = options.cases or ""
    chosen = [
        attrs.evolve(part, cases=tuple(case for case in part.cases if text in case.name))
        for part in PARTS
        if part.name in names
    ]
    return [part for part in chosen if any(case.quick or not options.quick for case in part.cases)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
