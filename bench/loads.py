"""Loads as processes: librdkafka (`bench.clients`), kcat, and Apache Kafka's own tools.

Every function blocks until its process has ended, within a time limit, and leaves nothing running.
"""

import itertools
import json
import os
import re
import select
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apache_kafka import jars  # tests/integration
from confluent_kafka import ConsumerGroupState, Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from bench import wire
from bench.clients import quiet
from bench.sides import BenchError, Cluster

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 120.0
_NUMBERS = itertools.count(1)
_TOOLS = "org.apache.kafka.tools"


def create_topic(cluster: Cluster, topic: str, partitions: int, replicas: int) -> None:
    """Create a topic, and wait until every broker knows leaders and full ISRs."""
    admin = AdminClient(quiet({"bootstrap.servers": cluster.bootstrap}))
    wanted = NewTopic(topic, partitions, replicas, config={"file.delete.delay.ms": "0"})
    admin.create_topics([wanted], operation_timeout=60, request_timeout=90)[topic].result(100)
    wait_whole(cluster, topic, partitions)


def grow_topic(cluster: Cluster, topic: str, partitions: int) -> None:
    """Give an existing topic more partitions, and wait for all of them."""
    admin = AdminClient(quiet({"bootstrap.servers": cluster.bootstrap}))
    wanted = NewPartitions(topic, partitions)
    admin.create_partitions([wanted], operation_timeout=240, request_timeout=300)[topic].result(310)
    wait_whole(cluster, topic, partitions)


def wait_whole(cluster: Cluster, topic: str, partitions: int, timeout: float = 120.0) -> None:
    """Wait until every running broker lists `partitions` with leaders, all replicas in sync."""
    deadline = time.monotonic() + timeout
    for broker in cluster.brokers.values():
        while broker.running and not _whole(broker.port, topic, partitions):
            cluster.check_running()
            if time.monotonic() > deadline:
                raise BenchError(f"{topic} is not whole after {timeout:g} s")
            wire.pause()


def _whole(port: int, topic: str, partitions: int) -> bool:
    try:
        known = wire.partitions(port, topic)
    except wire.NoAnswer:
        return False
    return len(known) == partitions and all(
        p.leader_id >= 0 and sorted(p.isr_nodes) == sorted(p.replica_nodes) for p in known
    )


def delete_topic(cluster: Cluster, topic: str, timeout: float = 60.0) -> None:
    """Delete a topic, wait until no broker has it, and empty what is left of its files.

    With them go their dirty pages, which would be written out while another round is measured; a
    broker may take its time to unlink what it has already renamed.
    """
    admin = AdminClient(quiet({"bootstrap.servers": cluster.bootstrap}))
    admin.delete_topics([topic], operation_timeout=60, request_timeout=90)[topic].result(100)
    deadline = time.monotonic() + timeout
    while any(not path.parent.name.endswith("-delete") for path in cluster.data_files(topic)):
        if time.monotonic() > deadline:
            raise BenchError(f"{topic} is still there {timeout:g} s after its deletion")
        time.sleep(0.05)
    for path in cluster.data_files(topic):
        if path.suffix == ".log":
            try:
                os.truncate(path, 0)
            except FileNotFoundError:
                continue  # the broker was faster


@contextmanager
def topic(cluster: Cluster, name: str, partitions: int, replicas: int) -> Iterator[str]:
    """A topic for the time of the block, with a name that no deleted one had: a cluster may not be
    done with that one yet."""
    unique = f"{name}-{next(_NUMBERS)}"
    create_topic(cluster, unique, partitions, replicas)
    try:
        yield unique
    finally:
        delete_topic(cluster, unique)


class ClientProcess:
    """A `bench.clients` process that has been started; `result` waits for what it measured."""

    def __init__(self, kind: str, **arguments: Any) -> None:
        self._kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.clients", kind, json.dumps(arguments)],
            env={**os.environ, "PYTHONPATH": f"{ROOT}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "ClientProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def wait_started(self, timeout: float = LIMIT_SECONDS) -> "ClientProcess":
        """Wait until it says that it has connected. Errors: BenchError."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not ready or self._process.stdout.readline().strip() != "started":
            self._process.kill()
            raise BenchError(
                f"{self._kind} did not start: {self._process.communicate()[1][-2000:]}"
            )
        return self

    def finish(self) -> dict[str, float]:
        """Tell it that this was enough; what it measured."""
        self._process.terminate()
        return self.result()

    def result(self, timeout: float = LIMIT_SECONDS) -> dict[str, float]:
        """What it printed. Errors: BenchError if it failed or was not done in time."""
        try:
            output, errors = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self._kind} took longer than {timeout:g} s") from None
        if self._process.returncode:
            raise BenchError(f"{self._kind} failed: {errors[-2000:]}")
        answer: dict[str, float] = json.loads(output.splitlines()[-1])
        return answer


def client(
    kind: str, cluster: Cluster, *, timeout: float = LIMIT_SECONDS, **arguments: Any
) -> dict[str, float]:
    """Run one client process against a cluster, to its end."""
    with ClientProcess(kind, bootstrap=cluster.bootstrap, **arguments) as process:
        return process.result(timeout)


def kcat_read(cluster: Cluster, topic: str, records: int, readers: int = 1) -> float:
    """Seconds in which so many kcats (librdkafka, in C) read a whole topic at once, each all of it:
    from the first record that any of them had to the last."""
    command = ["kcat", "-b", cluster.bootstrap, "-C", "-t", topic, "-q", "-f", "."]
    command += ["-o", "beginning", "-e"]
    counts: dict[subprocess.Popen[bytes], int] = {}
    try:
        for _ in range(readers):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            counts[process] = 0
        first, elapsed = _count(counts)
    finally:
        for process in counts:
            process.kill()
            process.wait()
    if set(counts.values()) != {records}:
        raise BenchError(f"kcat read {sorted(counts.values())} of {records} records")
    return elapsed * records * readers / (records * readers - first)


def _count(counts: "dict[subprocess.Popen[bytes], int]") -> tuple[int, float]:
    """Count what each process prints until all have ended: how much came first, and the seconds
    from then to the last. Errors: BenchError if there is a long silence."""
    with selectors.DefaultSelector() as selector:
        for process in counts:
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, process)
        first, started, ended = 0, 0.0, 0.0
        while selector.get_map():
            ready = selector.select(30.0)
            if not ready:
                raise BenchError("kcat reads nothing for 30 s")
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                ended = time.perf_counter()
                if not first:
                    first, started = len(data), ended
                if not data:
                    selector.unregister(key.fileobj)
                counts[key.data] += len(data)
    return first, ended - started


@contextmanager
def group_readers(cluster: Cluster, topic: str, groups: int) -> Iterator[None]:
    """So many groups of one kcat each that read a topic as it is written, all of them joined."""
    names = [f"readers-{number}" for number in range(groups)]
    processes = []
    try:
        for name in names:
            command = ["kcat", "-b", cluster.bootstrap, "-q", "-f", ".", "-G", name, topic]
            processes.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        admin = AdminClient(quiet({"bootstrap.servers": cluster.bootstrap}))
        deadline = time.monotonic() + LIMIT_SECONDS
        while not all(_stable(future) for future in admin.describe_consumer_groups(names).values()):
            if time.monotonic() > deadline:
                raise BenchError(f"{groups} groups have not joined in {LIMIT_SECONDS:g} s")
            time.sleep(0.1)
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _stable(described: "Future[Any]") -> bool:
    return bool(described.result(30).state == ConsumerGroupState.STABLE)


def touch(cluster: Cluster, topic: str, partitions: int) -> None:
    """Write one record to every partition, acks=all."""
    producer = Producer(
        quiet({"bootstrap.servers": cluster.bootstrap, "acks": "all", "linger.ms": 0})
    )
    for partition in range(partitions):
        producer.produce(topic, b"x", partition=partition)
    if left := producer.flush(60):
        raise BenchError(f"{left} of {partitions} partitions take no write")


def lead_as_preferred(cluster: Cluster, topic: str, timeout: float = 60.0) -> None:
    """Have every partition led by its first replica, as in a cluster that was left alone."""
    deadline = time.monotonic() + timeout
    wire.elect_preferred(cluster.brokers[cluster.controller()].port)
    while any(
        p.leader_id != p.replica_nodes[0] for p in wire.partitions(cluster.any_port(), topic)
    ):
        if time.monotonic() > deadline:
            raise BenchError(f"leaders are not the preferred ones after {timeout:g} s")
        wire.pause()


def tool(name: str, *arguments: str, timeout: float = LIMIT_SECONDS) -> str:
    """What one of Apache Kafka's tools prints, run as its script runs it."""
    java = ["java", "-Xmx512M", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
    java += ["-XX:InitiatingHeapOccupancyPercent=35", "-Djava.awt.headless=true"]
    try:
        done = subprocess.run(
            [*java, "-cp", f"{jars()}/*", f"{_TOOLS}.{name}", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{name} took longer than {timeout:g} s") from None
    if done.returncode:
        raise BenchError(f"{name} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


def java_produce(cluster: Cluster, topic: str, records: int, size: int) -> dict[str, float]:
    """ProducerPerformance as fast as it can, acks=all: records a second, and the p99."""
    output = tool(
        "ProducerPerformance",
        *("--topic", topic, "--num-records", str(records), "--record-size", str(size)),
        *("--throughput", "-1", "--producer-props", f"bootstrap.servers={cluster.bootstrap}"),
        "acks=all",
    )
    return producer_performance(output)


def java_consume(cluster: Cluster, topic: str, records: int) -> float:
    """ConsumerPerformance over a whole topic: records a second while it fetches."""
    output = tool(
        "ConsumerPerformance",
        *("--bootstrap-server", cluster.bootstrap, "--topic", topic, "--messages", str(records)),
        *("--hide-header", "--timeout", "30000"),
    )
    return consumer_performance(output)


def java_end_to_end(cluster: Cluster, topic: str, records: int, size: int) -> float:
    """EndToEndLatency, one record at a time, acks=all: the mean in milliseconds."""
    return end_to_end_latency(
        tool("EndToEndLatency", cluster.bootstrap, topic, str(records), "all", str(size))
    )


def producer_performance(output: str) -> dict[str, float]:
    """The last line of ProducerPerformance, which sums up."""
    found = re.findall(r"([\d.]+) records/sec .*? ([\d.]+) ms 99th", output)
    if not found:
        raise BenchError(f"ProducerPerformance said: {output[-500:]}")
    rate, p99 = found[-1]
    return {"records_s": float(rate), "p99": float(p99)}


def consumer_performance(output: str) -> float:
    """Records a second while fetching: the last of ten columns, after the time of rebalancing."""
    for line in reversed(output.splitlines()):
        columns = line.split(",")
        if len(columns) == 10:
            return float(columns[9])
    raise BenchError(f"ConsumerPerformance said: {output[-500:]}")


def end_to_end_latency(output: str) -> float:
    """The mean, the only figure of EndToEndLatency that is not rounded to milliseconds."""
    found = re.search(r"Avg latency: ([\d.]+) ms", output)
    if found is None:
        raise BenchError(f"EndToEndLatency said: {output[-500:]}")
    return float(found[1])


def write_out(paths: Sequence[Path], *, forget: bool = False) -> None:
    """Have files written to the disk, and, if they shall be cold, forgotten by the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if forget:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
