"""Disks that fail and disks that fill up, under real brokers.

A directory is broken by a directory of the name of a checkpoint's temporary file: the next
checkpoint cannot be written, whoever the broker runs as. A disk is filled by a limit on the size of
the broker's files, which any user may set and lift, and, where we may mount one, by a small tmpfs.
"""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_start import Place
from wire import Wire, wait_for

from zkafka.errors import ErrorCode
from zkafka.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
from zkafka.protocol.messages.describe_log_dirs import DescribeLogDirsRequest
from zkafka.protocol.records import Record, build_batch, iter_records, parse_batches
from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.cluster import ClusterBroker
from zkafka.testing.zookeeper import ZooKeeper

STORAGE_ERROR = ErrorCode.KAFKA_STORAGE_ERROR
CHECKPOINT = "replication-offset-checkpoint"
SETTINGS = {
    "replica.high.watermark.checkpoint.interval.ms": "200",
    "replica.lag.time.max.ms": "3000",
    "auto.leader.rebalance.enable": "false",
}
VALUE_BYTES = 20_000


@pytest.fixture
def make_cluster(
    tmp_path_factory: pytest.TempPathFactory, zookeeper: ZooKeeper
) -> Iterator[Callable[..., BlockingCluster]]:
    """A cluster that ends with its test, and before the disk under it."""
    with contextlib.ExitStack() as stack:

        def make(brokers: int, **config: str) -> BlockingCluster:
            directory = tmp_path_factory.mktemp("cluster")
            settings = SETTINGS | {key.replace("_", "."): text for key, text in config.items()}
            cluster = BlockingCluster(brokers, config=settings, directory=directory)
            return stack.enter_context(cluster)

        yield make


def batch(value: bytes) -> bytes:
    return bytes(build_batch([Record(None, value, 1_700_000_000_000)]))


def value(number: int) -> bytes:
    """Some bytes that no other number has, and that no disk shrinks."""
    return b"%06d" % number + bytes(VALUE_BYTES)


def numbers(broker: ClusterBroker, topic: str, partition: int = 0) -> list[int]:
    """Of every record that a consumer gets from this broker."""
    found: list[int] = []
    offset = 0
    with Wire(broker.port) as wire:
        while True:
            data = wire.fetch(topic, offset, partition=partition)
            assert data.error_code == ErrorCode.NONE, ErrorCode(data.error_code).name
            batches = parse_batches(data.records or b"", partial_tail=True)
            if not batches:
                return found
            for each in batches:
                found += [int(bytes(record.value or b"")[:6]) for record in iter_records(each)]
            offset = batches[-1].last_offset + 1


def break_directory(path: Path) -> None:
    """Its next checkpoint of high watermarks fails; one may be being written at this moment."""

    def done() -> bool:
        try:
            (path / f"{CHECKPOINT}.tmp").mkdir()
        except FileExistsError:
            return False
        return True

    wait_for(done)


def partitions_in(path: Path, topic: str) -> set[int]:
    return {int(found.name.rpartition("-")[2]) for found in path.glob(f"{topic}-*")}


def log_bytes(directory: Path, partition: str) -> bytes:
    """What a broker has of a partition, in whichever of its directories."""
    return b"".join(path.read_bytes() for path in sorted(directory.glob(f"*/{partition}/*.log")))


def test_one_of_two_directories_fails(make_cluster: Callable[..., BlockingCluster]) -> None:
    """Its replicas go offline and others are elected; the rest goes on as if nothing was."""
    cluster = make_cluster(3, log_dirs="one,two")
    cluster.create_topic("t", partitions=12, replication_factor=3)
    broker = cluster.brokers[1]
    one, two = broker.directory / "one", broker.directory / "two"
    lost, kept = partitions_in(one, "t"), partitions_in(two, "t")
    assert len(lost) == len(kept) == 6  # To each the fewest first.
    led = {p: cluster.leader("t", p) for p in range(12)}
    for p, leader in led.items():
        with Wire(cluster.brokers[leader].port) as wire:
            assert wire.produce("t", batch(value(p)), partition=p).error_code == ErrorCode.NONE
    led_here = {p for p, leader in led.items() if leader == 1}
    assert led_here & lost
    assert led_here & kept

    break_directory(one)
    for p in led_here & lost:
        assert cluster.leader("t", p, other_than=1) in (2, 3)
    assert {cluster.leader("t", p) for p in led_here & kept} == {1}
    with Wire(broker.port) as wire:
        for p in lost:
            assert wire.produce("t", batch(value(0)), partition=p).error_code == STORAGE_ERROR
            assert wire.fetch("t", partition=p).error_code == STORAGE_ERROR
        described = wire.ask(DescribeLogDirsRequest(topics=None), 4).results
    assert {r.log_dir: (r.error_code, len(r.topics)) for r in described} == {
        str(one): (STORAGE_ERROR, 0),
        str(two): (ErrorCode.NONE, 1),
    }
    for p in range(12):
        leader = cluster.brokers[cluster.leader("t", p)]
        with Wire(leader.port) as wire:
            assert wire.produce("t", batch(value(100 + p)), partition=p).error_code == 0
        assert numbers(leader, "t", p) == [p, 100 + p]
    assert broker.running

    (one / f"{CHECKPOINT}.tmp").rmdir()
    cluster.restart(1)
    cluster.wait_until_whole()
    for p in range(12):
        stored = [log_bytes(each.directory, f"t-{p}") for each in cluster.brokers.values()]
        assert stored[0] == stored[1] == stored[2]
        assert len(parse_batches(stored[0])) == 2


def test_a_broker_whose_last_directory_fails_ends(tmp_path: Path, zookeeper: ZooKeeper) -> None:
    place = Place(tmp_path, zookeeper)
    one, two = tmp_path / "one", tmp_path / "two"
    settings = {key.replace(".", "_"): text for key, text in SETTINGS.items()}
    try:
        run = place.started(log_dirs=f"{one},{two}", **settings)
        wanted = CreatableTopic(name="t", num_partitions=2, replication_factor=1)
        with Wire(place.port) as wire:
            request = CreateTopicsRequest(topics=[wanted], timeout_ms=10_000)
            # Once it has a controller.
            wait_for(lambda: wire.ask(request, 5).topics[0].error_code == ErrorCode.NONE)
            (first,), (second,) = partitions_in(one, "t"), partitions_in(two, "t")
            for partition, directory in ((first, one), (second, two)):
                assert run.process.poll() is None
                break_directory(directory)
                # So that the next checkpoint has something new to say.
                assert wire.produce("t", batch(b"x"), partition=partition).error_code == 0
                run.wait_for(f"log directory failed dir={directory}")
        assert run.exit_code() != 0
        assert "all log directories failed" in run.out + run.err
    finally:
        place.close()


# Disks that fill up.


@contextlib.contextmanager
def limited_files(broker: ClusterBroker, directory: Path) -> Iterator[Callable[[], None]]:
    """No file of the broker may grow beyond 200 kB, until what this gives is called."""
    _, hard = resource.prlimit(broker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (200_000, hard))
    yield lambda: resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (hard, hard)) and None


@contextlib.contextmanager
def filled_disk(broker: ClusterBroker, directory: Path) -> Iterator[Callable[[], None]]:
    """Another's file leaves 200 kB of the file system, until what this gives is called."""
    filler = directory / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(directory).free - 200_000))
    yield filler.unlink


def may_mount() -> bool:
    return (
        os.geteuid() == 0
        and not subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
        ).returncode
    )


WAYS = [limited_files, *([filled_disk] if may_mount() else [])]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory; where we may, with 4 MB of its own."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = may_mount()
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "zkafka", path], check=True)
    yield path
    if mounted:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("fill", WAYS)
def test_a_full_disk_refuses_writes_and_nothing_else(
    small_disk: Path,
    make_cluster: Callable[..., BlockingCluster],
    fill: Callable[..., contextlib.AbstractContextManager[Callable[[], None]]],
) -> None:
    """In the middle of a batch, too; and when there is room again, it is as if nothing had been."""
    cluster = make_cluster(1, log_dirs=str(small_disk))
    cluster.create_topic("t", replication_factor=1)
    broker = cluster.brokers[1]
    acknowledged = []
    with Wire(broker.port) as wire, fill(broker, small_disk) as make_room:
        refused = 0
        for number in range(40):
            answer = wire.produce("t", batch(value(number)))
            if answer.error_code == ErrorCode.NONE:
                acknowledged.append(number)
                assert answer.base_offset == len(acknowledged) - 1
            else:
                assert answer.error_code == STORAGE_ERROR
                refused += 1
        assert 3 < len(acknowledged) < 15
        assert refused > 20
        assert numbers(broker, "t") == acknowledged
        # Long enough for checkpoints and flushes to meet it as well.
        wait_for(lambda: "no room to write" in broker.log_path.read_text())
        make_room()
        for number in range(100, 110):
            assert wire.produce("t", batch(value(number))).error_code == ErrorCode.NONE
            acknowledged.append(number)
        assert numbers(broker, "t") == acknowledged
    assert "log directory offline" not in broker.log_path.read_text()
    cluster.kill(1)
    cluster.start(1)
    assert cluster.leader("t", 0) == 1
    assert numbers(broker, "t") == acknowledged


def test_a_broker_stops_and_starts_on_a_full_disk(
    small_disk: Path, make_cluster: Callable[..., BlockingCluster]
) -> None:
    """How else would it be emptied?"""
    cluster = make_cluster(1, log_dirs=str(small_disk), log_segment_bytes="100000")
    cluster.create_topic("t", replication_factor=1)
    broker = cluster.brokers[1]
    acknowledged = []
    filler = small_disk / "filler"
    with Wire(broker.port) as wire:
        for number in range(20):
            assert wire.produce("t", batch(value(number))).error_code == ErrorCode.NONE
            acknowledged.append(number)
    if may_mount():
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    cluster.kill(1)
    cluster.start(1)
    assert cluster.leader("t", 0) == 1
    assert numbers(broker, "t") == acknowledged
    cluster.stop(1)
    filler.unlink(missing_ok=True)
    cluster.start(1)
    assert cluster.leader("t", 0) == 1
    with Wire(broker.port) as wire:
        assert wire.produce("t", batch(value(500))).error_code == ErrorCode.NONE
    assert numbers(broker, "t") == [*acknowledged, 500]


def test_a_follower_on_a_full_disk_falls_behind_and_catches_up(
    make_cluster: Callable[..., BlockingCluster],
) -> None:
    """It leaves the in-sync set, writes go on without it, and with room it comes back whole."""
    cluster = make_cluster(2, min_insync_replicas="1")
    cluster.create_topic("t", assignments=[[1, 2]])
    leader, follower = cluster.brokers[1], cluster.brokers[2]
    with Wire(leader.port) as wire, limited_files(follower, follower.directory) as make_room:
        for number in range(40):
            assert wire.produce("t", batch(value(number))).error_code == ErrorCode.NONE
        wait_for(lambda: list(wire.topics("t")[0].partitions[0].isr_nodes) == [1])
        assert follower.running
        make_room()
    cluster.wait_until_whole()
    assert numbers(leader, "t") == list(range(40))
    stored = [log_bytes(each.directory, "t-0") for each in (leader, follower)]
    assert stored[0] == stored[1]
