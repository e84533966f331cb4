"""What readers of committed records are given, and told, on leaders and followers."""

import pytest
import trio
from replication_world import TP, PartitionFetch, World

from zkafka.errors import ErrorCode, StorageError
from zkafka.log.transactions import build_marker
from zkafka.protocol.records import Record, build_batch, parse_batches
from zkafka.replication.replicas import Isolation

NONE = ErrorCode.NONE
COMMITTED = Isolation.READ_COMMITTED


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, 2)
    yield world
    world.close()


def write(broker, producer_id, *, sequence=0, timestamp=1000):
    """One record of a transaction."""
    batch = build_batch(
        [Record(None, b"?", timestamp)],
        producer_id=producer_id,
        producer_epoch=0,
        base_sequence=sequence,
        transactional=True,
    )
    return broker.replicas.append_as_coordinator(TP, batch)


def end(broker, producer_id, *, committed):
    marker = build_marker(producer_id, 0, committed=committed, coordinator_epoch=0, timestamp=9000)
    return broker.replicas.append_as_coordinator(TP, marker)


def look(broker, offset, *, isolation=COMMITTED, max_bytes=1 << 20, **how):
    """(offsets of the batches given, last stable offset, who is to be passed over from where)."""
    fetch = PartitionFetch(TP, offset, max_bytes)
    read = broker.replicas.read(
        fetch, isolation=isolation, max_bytes=max_bytes, at_least_one=True, **how
    )
    assert read.error is NONE
    given = []
    if read.slice is not None:
        given = [batch.base_offset for batch in parse_batches(read.slice.read())]
        read.slice.release()
    aborted = [(one.producer_id, one.first_offset) for one in read.aborted]
    return given, read.last_stable_offset, aborted


def available(broker, offset, isolation):
    return broker.replicas.bytes_available(PartitionFetch(TP, offset, 1000), isolation=isolation)


async def latest(broker, isolation):
    found = await broker.replicas.offset_for_timestamp(TP, -1, isolation=isolation)
    return found.offset


async def test_nothing_is_given_from_the_first_open_transaction_on(world):
    await world.assign(1, replicas=[1])
    broker = world[1]
    broker.produce("before", timestamp=1000)
    write(broker, 7)
    broker.produce("after", timestamp=3000)
    assert look(broker, 0) == ([0], 1, [])
    assert look(broker, 1) == ([], 1, [])
    assert look(broker, 2) == ([], 1, []), "who read so far uncommitted waits as well"
    assert look(broker, 0, isolation=0) == ([0, 1, 2], 1, [])
    assert [available(broker, 1, isolation) for isolation in (0, 1)] == [1, 0]
    assert [await latest(broker, isolation) for isolation in (0, 1)] == [3, 1]
    for isolation, offset in ((0, 2), (1, -1)):
        found = await broker.replicas.offset_for_timestamp(TP, 2000, isolation=isolation)
        assert (found.error, found.offset) == (NONE, offset)
    end(broker, 7, committed=True)
    assert look(broker, 0) == ([0, 1, 2, 3], 4, [])
    assert available(broker, 1, COMMITTED) == 1
    assert await latest(broker, COMMITTED) == 4


async def test_readers_of_committed_records_are_told_what_was_aborted(world):
    await world.assign(1, replicas=[1])
    broker = world[1]
    write(broker, 7)  # 0
    write(broker, 8)  # 1
    end(broker, 8, committed=False)  # 2
    broker.produce("between", timestamp=1000)  # 3
    end(broker, 7, committed=False)  # 4
    write(broker, 8, sequence=1)  # 5
    broker.log().roll()
    end(broker, 8, committed=True)  # 6
    write(broker, 9)  # 7
    end(broker, 9, committed=False)  # 8
    assert look(broker, 0) == ([0, 1, 2, 3, 4, 5], 9, [(8, 1), (7, 0)])
    assert look(broker, 3) == ([3, 4, 5], 9, [(7, 0)])
    assert look(broker, 5) == ([5], 9, [])
    assert look(broker, 6) == ([6, 7, 8], 9, [(9, 7)])
    assert look(broker, 0, isolation=0)[2] == []


async def test_a_follower_gets_everything_and_gives_what_is_stable(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        leader, follower = world[1], world[2]
        write(leader, 7)
        await wait(leader, end(leader, 7, committed=False))
        await wait(leader, write(leader, 8))
        await trio.sleep(1)  # The follower hears of the high watermark with its next fetch.
        # Where nobody reads nothing is kept for those who would.
        assert not follower.log().producers.transactions._decided
        for broker in (leader, follower):
            assert look(broker, 0) == ([0, 1], 2, [(7, 0)])
        assert look(leader, 0, replica_id=2)[0] == [0, 1, 2]


async def test_a_transaction_is_not_decided_before_its_marker_is_replicated(world):
    await world.assign(1)
    broker = world[1]
    write(broker, 7)
    look(broker, 1, isolation=0, replica_id=2)
    end(broker, 7, committed=True)
    assert look(broker, 0)[:2] == ([], 0)
    look(broker, 2, isolation=0, replica_id=2)
    assert look(broker, 0)[:2] == ([0, 1], 2)


async def wait(broker, result):
    deadline_ms = broker.clock.monotonic_ms() + 10_000
    assert await broker.replicas.wait_replicated([result], deadline_ms) == [NONE]


async def test_what_was_read_is_given_back_where_the_rest_cannot_be(world, monkeypatch):
    await world.assign(1, replicas=[1])
    broker = world[1]
    write(broker, 7)
    end(broker, 7, committed=False)
    log = broker.log()

    def broken(found, offset):
        raise StorageError("input/output error", log.path)

    monkeypatch.setattr(log, "aborted_in", broken)
    read = broker.replicas.read(
        PartitionFetch(TP, 0, 1000), isolation=COMMITTED, max_bytes=1000, at_least_one=True
    )
    assert (read.error, read.slice) == (ErrorCode.KAFKA_STORAGE_ERROR, None)
    assert log.segments[0]._readers == 0
