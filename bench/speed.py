"""How fast broker builds are, with librdkafka as the client, in one run on one machine.

    bench/run                                  this checkout
    bench/run --build old=../other-checkout    another beside it, rounds interleaved A B A B
    bench/run --only produce,consume --rounds 5

Each figure is the median of its rounds, with the spread beside it. Brokers and ZooKeeper are real
processes on loopback, fresh for each round; the client runs on the same cores and is part of what
is measured. Results are also written to bench/results/latest.json.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from zkafka.testing.processes import free_ports
from zkafka.testing.zookeeper import ZooKeeper

ROOT = Path(__file__).resolve().parent.parent
QUIET = {"logger": type("Quiet", (), {"log": lambda *_: None})(), "error_cb": lambda _: None}
SESSION_MS = 3000


@attrs.frozen
class Figure:
    """One row: how it is measured (`measure(build, directory) -> float`), and the goal."""

    name: str
    unit: str
    goal: str
    measure: Callable[["Build", Path], float]


@attrs.frozen
class Build:
    """A checkout whose brokers are measured."""

    name: str
    path: Path


@attrs.define
class Broker:
    """One running broker of a build."""

    broker_id: int
    port: int
    admin_port: int
    process: "subprocess.Popen[bytes]"
    started_at: float

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_ready(self) -> float:
        """Seconds from exec until /readyz says it is registered and serving."""
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/readyz", timeout=1)
                return time.perf_counter() - self.started_at
            except (urllib.error.URLError, OSError) as error:
                if self.process.poll() is not None:
                    raise SystemExit(f"broker {self.broker_id} ended: see its log") from error
                time.sleep(0.005)

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@contextlib.contextmanager
def cluster(build: Build, directory: Path, count: int) -> Iterator[list[Broker]]:
    """A fresh ZooKeeper and `count` fresh brokers of `build`, all ready."""
    with ZooKeeper.create(directory / "zookeeper") as zookeeper:
        ports = free_ports(2 * count)
        brokers = []
        for i in range(1, count + 1):
            port, admin_port = ports[2 * i - 2 : 2 * i]
            settings = directory / f"{i}.properties"
            settings.write_text(
                f"broker.id={i}\nlisteners=PLAINTEXT://127.0.0.1:{port}\n"
                f"log.dirs={directory / f'data-{i}'}\nzookeeper.connect={zookeeper.connect}\n"
                f"zookeeper.session.timeout.ms={SESSION_MS}\n"
                f"zkafka.admin.listener=127.0.0.1:{admin_port}\n"
                "offsets.topic.replication.factor=1\ngroup.initial.rebalance.delay.ms=0\n"
            )
            log = (directory / f"{i}.log").open("wb")
            process = subprocess.Popen(
                [sys.executable, "-m", "zkafka", str(settings)],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(build.path)},
                stdout=log,
                stderr=log,
            )
            brokers.append(Broker(i, port, admin_port, process, time.perf_counter()))
        try:
            for broker in brokers:
                broker.wait_ready()
            yield brokers
        finally:
            for broker in brokers:
                broker.process.send_signal(signal.SIGTERM)
            for broker in brokers:
                try:
                    broker.process.wait(20)
                except subprocess.TimeoutExpired:
                    broker.process.kill()


def bootstrap(brokers: list[Broker]) -> dict[str, Any]:
    return {"bootstrap.servers": ",".join(b.address for b in brokers), **QUIET}


def create(brokers: list[Broker], topic: str, partitions: int, replicas: int) -> None:
    admin = AdminClient(bootstrap(brokers))
    admin.create_topics([NewTopic(topic, partitions, replicas)], operation_timeout=60)[
        topic
    ].result(90)


def pump(producer: Producer, topic: str, size: int, total: int) -> float:
    """MB/s at which `total` bytes of records of `size` bytes were acknowledged."""
    value = os.urandom(size)
    count = total // size
    started = time.perf_counter()
    sent = 0
    while sent < count:
        try:
            producer.produce(topic, value)
            sent += 1
        except BufferError:
            producer.poll(0.002)
    left = producer.flush(120)
    assert left == 0, f"{left} records were not acknowledged"
    return total / (time.perf_counter() - started) / 1e6


def produce_settings(brokers: list[Broker], **more: Any) -> dict[str, Any]:
    return {
        **bootstrap(brokers),
        "acks": "all",
        "linger.ms": 5,
        "batch.size": 1_000_000,
        "queue.buffering.max.messages": 200_000,
        "queue.buffering.max.kbytes": 400_000,
        **more,
    }


def produce_rate(size: int, total: int) -> Callable[[Build, Path], float]:
    def measure(build: Build, directory: Path) -> float:
        with cluster(build, directory, 1) as brokers:
            create(brokers, "t", 1, 1)
            producer = Producer(produce_settings(brokers))
            pump(producer, "t", size, total // 20)
            return pump(producer, "t", size, total)

    return measure


def consume_rate(build: Build, directory: Path) -> float:
    """With kcat (librdkafka, a dot per record): in Python the client would be measured."""
    total = 2_000_000_000
    with cluster(build, directory, 1) as brokers:
        create(brokers, "t", 1, 1)
        pump(Producer(produce_settings(brokers)), "t", 1024, total)
        options = ["fetch.message.max.bytes=8000000", "fetch.max.bytes=50000000"]
        options += ["queued.max.messages.kbytes=500000", "check.crcs=false"]
        command = ["kcat", "-b", brokers[0].address, "-C", "-t", "t", "-p", "0", "-q", "-f", "."]
        command += ["-o", "beginning", "-e", *(word for o in options for word in ("-X", o))]
        started = time.perf_counter()
        read = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        elapsed = time.perf_counter() - started
        assert len(read) == total // 1024, f"{len(read)} of {total // 1024} records came"
        return total / elapsed / 1e6


def lone_produce(build: Build, directory: Path) -> float:
    with cluster(build, directory, 1) as brokers:
        create(brokers, "t", 1, 1)
        producer = Producer({**bootstrap(brokers), "acks": "all", "linger.ms": 0})
        times = []
        for i in range(3000):
            started = time.perf_counter()
            producer.produce("t", b"x" * 100)
            producer.flush()
            if i >= 500:
                times.append(time.perf_counter() - started)
        return statistics.median(times) * 1e6


def idle_memory(build: Build, directory: Path) -> float:
    with cluster(build, directory, 1) as brokers:
        create(brokers, "t", 1, 1)
        return brokers[0].resident_mb()


def start_time(build: Build, directory: Path) -> float:
    with cluster(build, directory, 1) as brokers:
        broker = brokers[0]
        broker.process.send_signal(signal.SIGTERM)
        broker.process.wait(20)
        broker.started_at = time.perf_counter()
        broker.process = subprocess.Popen(
            [sys.executable, "-m", "zkafka", str(directory / "1.properties")],
            env={**os.environ, "PYTHONPATH": str(build.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return broker.wait_ready()


def create_many(build: Build, directory: Path) -> float:
    with cluster(build, directory, 3) as brokers:
        started = time.perf_counter()
        create(brokers, "many", 1000, 1)
        return time.perf_counter() - started


def re_lead(build: Build, directory: Path) -> float:
    """Seconds beyond the session timeout until 300 partitions have leaders again after a kill."""
    with cluster(build, directory, 3) as brokers:
        create(brokers, "many", 300, 3)
        victim = brokers[0]
        left = brokers[1:]
        admin = AdminClient(bootstrap(left))
        led = {
            p.id
            for p in admin.list_topics("many", timeout=10).topics["many"].partitions.values()
            if p.leader == victim.broker_id
        }
        assert led, "the victim leads nothing"
        victim.process.kill()
        started = time.perf_counter()
        while True:
            partitions = admin.list_topics("many", timeout=10).topics["many"].partitions.values()
            if all(p.leader not in (-1, victim.broker_id) for p in partitions):
                return time.perf_counter() - started - SESSION_MS / 1000
            time.sleep(0.02)


FIGURES = [
    Figure("produce-1KB", "MB/s", ">= 200", produce_rate(1024, 1_500_000_000)),
    Figure("produce-100B", "MB/s", "", produce_rate(100, 150_000_000)),
    Figure("consume-1KB", "MB/s", ">= 500", consume_rate),
    Figure("lone-produce", "us", "< 250", lone_produce),
    Figure("idle-memory", "MB", "< 80", idle_memory),
    Figure("start", "s", "< 1.5", start_time),
    Figure("create-1000-partitions", "s", "< 10", create_many),
    Figure("re-lead-300-partitions", "s", "< 3", re_lead),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="comma list of: " + ", ".join(f.name for f in FIGURES))
    arguments = parser.parse_args()
    builds = [Build("this", ROOT)]
    for pair in arguments.build:
        name, _, path = pair.partition("=")
        builds.append(Build(name, Path(path).resolve()))
    only = arguments.only.split(",") if arguments.only else None
    wanted = [f for f in FIGURES if only is None or f.name in only]
    console = Console()
    results: dict[str, dict[str, list[float]]] = {
        f.name: {b.name: [] for b in builds} for f in wanted
    }
    for figure in wanted:
        for round_number in range(arguments.rounds):
            for build in builds:
                directory = Path(tempfile.mkdtemp(prefix="zkafka-bench-"))
                try:
                    value = figure.measure(build, directory)
                finally:
                    shutil.rmtree(directory, ignore_errors=True)
                results[figure.name][build.name].append(value)
                console.print(
                    f"[dim]{figure.name} round {round_number + 1} {build.name}: "
                    f"{value:.3g} {figure.unit}[/dim]"
                )
    report(console, builds, wanted, results)


def report(
    console: Console,
    builds: list[Build],
    wanted: list[Figure],
    results: dict[str, dict[str, list[float]]],
) -> None:
    table = Table(title=f"{platform.machine()}, {os.cpu_count()} cores, {platform.release()}")
    for column in ("figure", "unit", *(b.name for b in builds), "goal"):
        table.add_column(column, justify="left" if column in ("figure", "unit") else "right")
    rows = []
    for figure in wanted:
        cells = []
        for build in builds:
            values = results[figure.name][build.name]
            cells.append(f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})")
            rows.append(
                {
                    "name": figure.name,
                    "unit": figure.unit,
                    "build": build.name,
                    "median": statistics.median(values),
                    "rounds": values,
                    "goal": figure.goal,
                }
            )
        table.add_row(figure.name, figure.unit, *cells, figure.goal)
    console.print(table)
    latest = ROOT / "bench" / "results" / "latest.json"
    latest.parent.mkdir(exist_ok=True)
    latest.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
