"""The journey of a fetch: what a follower and a consumer are given, and what their asking does.

Two or three brokers with real logs in one loop; what crosses between them goes through the wire's
form and back.
"""

import pytest
import trio
from replication_world import TP, PartitionFetch, World, records, topic_id

from zkafka.errors import ErrorCode
from zkafka.model import EpochEndOffset, TopicPartition
from zkafka.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic

NONE = ErrorCode.NONE


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, 2)


async def led(world, **how):
    """Broker 1 leads, broker 2 follows but its tasks do not run; fetching is by hand."""
    await world.assign(1, **how)
    return world[1].replicas


def by_follower(offset, *, epoch=0, last=-1, start=0, replica=2, **how):
    fetch = PartitionFetch(
        TP,
        offset,
        1 << 20,
        current_leader_epoch=epoch,
        last_fetched_epoch=last,
        log_start_offset=start,
    )
    given = {"replica_id": replica, "replica_epoch": 102, "max_bytes": 1 << 20}
    return fetch, given | {"at_least_one": True} | how


def read(replicas, fetch, how):
    found = replicas.read(fetch, **how)
    if found.slice is not None:
        found.slice.release()
    return found


# What a follower's asking does


async def test_a_followers_fetch_offset_is_its_acknowledgement(world):
    replicas = await led(world)
    world[1].produce("m1", "m2", acks=1)
    first = read(replicas, *by_follower(0))
    assert first.size > 0
    assert first.high_watermark == 0
    second = read(replicas, *by_follower(2, last=0))
    assert second.high_watermark == 0, "as it was before this fetch counted"
    assert world[1].machine().high_watermark == 2
    assert read(replicas, *by_follower(2, last=0)).high_watermark == 2
    world.close()


async def test_only_the_first_pass_of_a_parked_fetch_counts(world):
    replicas = await led(world)
    world[1].produce("m1", acks=1)
    read(replicas, *by_follower(1, last=0, first_pass=False))
    assert world[1].machine().high_watermark == 0
    world.close()


async def test_followers_read_to_the_log_end_and_consumers_to_the_high_watermark(world):
    replicas = await led(world)
    world[1].produce("m1", acks=1)
    assert read(replicas, *by_follower(0)).size > 0
    assert world[1].fetch(0) == (NONE, [])
    read(replicas, *by_follower(1, last=0))
    assert world[1].fetch(0) == (NONE, ["m1"])
    world.close()


async def test_between_high_watermark_and_log_end_a_consumer_finds_nothing_and_beyond_an_error(
    world,
):
    await led(world)
    world[1].produce("m1", "m2", acks=1)
    assert world[1].fetch(2) == (NONE, [])
    assert world[1].fetch(3) == (ErrorCode.OFFSET_OUT_OF_RANGE, [])
    assert world[1].fetch(-1) == (ErrorCode.OFFSET_OUT_OF_RANGE, [])
    world.close()


@pytest.mark.parametrize(
    ("epoch", "error"),
    [
        (0, ErrorCode.FENCED_LEADER_EPOCH),
        (1, NONE),
        (2, ErrorCode.UNKNOWN_LEADER_EPOCH),
        (-1, NONE),
    ],
)
async def test_the_leader_epoch_fences_those_who_name_one(world, epoch, error):
    await led(world)
    replicas = await led(world)
    assert read(replicas, *by_follower(0, epoch=epoch)).error is error
    assert read(replicas, *by_follower(0, epoch=epoch, replica=-1)).error is error
    world.close()


async def test_a_fetch_from_an_older_registration_of_the_follower_is_refused(world):
    """That process is dead. Its successor may have lost what it promised (KIP-903)."""
    replicas = await led(world)
    world[1].produce("m1", acks=1)
    read(replicas, *by_follower(0))
    stale = read(replicas, *by_follower(1, last=0, replica_epoch=50))
    assert stale.error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert world[1].machine().high_watermark == 0
    world.close()


async def test_a_broker_without_a_replica_cannot_fetch_as_follower(world):
    replicas = await led(world)
    assert read(replicas, *by_follower(0, replica=7)).error is ErrorCode.UNKNOWN_LEADER_EPOCH
    assert (
        read(replicas, *by_follower(0, replica=7, epoch=-1)).error
        is ErrorCode.NOT_LEADER_OR_FOLLOWER
    )
    world.close()


async def test_a_follower_that_parted_from_the_leader_is_told_where_and_does_not_count(world):
    replicas = await led(world)
    world[1].produce("m1", "m2", acks=1)
    await led(world)
    await led(world)
    world[1].produce("m3", acks=1)
    parted = read(replicas, *by_follower(5, epoch=2, last=1))
    assert parted.diverging == EpochEndOffset(0, 2)
    assert parted.error is NONE
    assert parted.slice is None
    assert world[1].machine().progress_of(2).log_end_offset == -1
    # An epoch that ended earlier here than there.
    assert read(replicas, *by_follower(3, epoch=2, last=0)).diverging == EpochEndOffset(0, 2)
    assert read(replicas, *by_follower(2, epoch=2, last=0)).diverging is None
    # An epoch nobody here ever heard of.
    unknown = read(replicas, *by_follower(2, epoch=2, last=9))
    assert unknown.error is ErrorCode.OFFSET_OUT_OF_RANGE
    world.close()


async def test_an_epoch_before_the_log_start_is_out_of_range_not_divergence(world):
    replicas = await led(world, isr=[1], replicas=[1])
    world[1].produce("m1", "m2", "m3", acks=1)
    await replicas.delete_records(TP, 2, 0)
    behind = read(replicas, *by_follower(1, last=0, replica=-1))
    assert behind.error is ErrorCode.OFFSET_OUT_OF_RANGE
    world.close()


# From whom one may read


async def test_a_follower_serves_consumers_up_to_its_own_high_watermark(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        await trio.sleep(2)
        world.cut(1, 2)
        world[1].produce("m2", acks=1)
        assert world[2].fetch(0) == (NONE, ["m1"])
        assert world[2].fetch(1) == (NONE, [])
        assert world[2].fetch(2) == (ErrorCode.OFFSET_OUT_OF_RANGE, [])
        assert world[2].fetch(0, leader_only=True) == (ErrorCode.NOT_LEADER_OR_FOLLOWER, [])


async def test_followers_may_not_fetch_from_followers(world):
    await led(world)
    fetched = read(world[2].replicas, *by_follower(0, replica=1))
    assert fetched.error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    world.close()


async def test_a_partition_that_is_not_here_is_told_apart_from_one_that_is_nowhere(world):
    await led(world, replicas=[1])
    assert world[2].fetch(0) == (ErrorCode.NOT_LEADER_OR_FOLLOWER, [])
    nowhere = TopicPartition("nowhere", 0)
    assert world[1].fetch(0, tp=nowhere) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])
    world.close()


async def test_a_topic_of_the_same_name_and_another_id_is_another_topic(world):
    replicas = await led(world)
    fetch, how = by_follower(0)
    fetch.topic_id = topic_id("another")
    assert replicas.read(fetch, **how).error is ErrorCode.INCONSISTENT_TOPIC_ID
    fetch.topic_id = topic_id("orders")
    assert read(replicas, fetch, how).error is NONE
    world.close()


# How much


async def test_limits_hold_but_for_one_batch(world):
    replicas = await led(world, replicas=[1])
    for n in range(5):
        world[1].produce(n)
    whole = len(records(0))
    fetch = PartitionFetch(TP, 0, 2 * whole + 10)
    assert read(replicas, fetch, {"max_bytes": 1 << 20, "at_least_one": True}).size == 2 * whole
    fetch.max_bytes = 10
    assert read(replicas, fetch, {"max_bytes": 1 << 20, "at_least_one": True}).size == whole
    assert read(replicas, fetch, {"max_bytes": 1 << 20, "at_least_one": False}).size == 0
    fetch.max_bytes = 1 << 20
    assert read(replicas, fetch, {"max_bytes": 0, "at_least_one": True}).size == whole
    assert read(replicas, fetch, {"max_bytes": 0, "at_least_one": False}).size == 0
    world.close()


async def test_what_is_available_is_told_without_reading(world):
    replicas = await led(world, replicas=[1])
    fetch = PartitionFetch(TP, 0, 1 << 20)
    assert replicas.bytes_available(fetch) == 0
    for n in range(3):
        world[1].produce(n)
    assert replicas.bytes_available(fetch) == 1, "as many as were wanted"
    assert replicas.bytes_available(fetch, wanted=1 << 20) == 3 * len(records(0))
    fetch.fetch_offset = 4
    assert replicas.bytes_available(fetch) is None, "waiting would be in vain"
    world.close()


# Over the wire


async def test_a_parked_fetch_wakes_when_what_it_asked_for_is_committed(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        answered = []

        async def consume():
            request = FetchRequest(
                max_wait_ms=10_000,
                min_bytes=1,
                topics=[
                    FetchTopic(
                        topic_id=topic_id("orders"),
                        partitions=[
                            FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1000)
                        ],
                    )
                ],
            )
            response = await world[1].handle(request)
            answered.append((trio.current_time(), len(response.responses[0].partitions[0].records)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            await trio.sleep(3)
            assert not answered
            world[1].produce("m1")
        assert answered == [(pytest.approx(3, abs=0.01), len(records("m1")))]


async def test_a_follower_of_many_quiet_partitions_asks_for_nothing_in_particular(
    world, autojump_clock
):
    async with world.running():
        for partition in range(20):
            await world.assign(1, tp=TopicPartition("orders", partition))
        await trio.sleep(5)
        seen = len(world[1].requests)
        await trio.sleep(5)
        quiet = world[1].requests[seen:]
        assert len(quiet) == 10, "one each half second"
        assert all(not request.topics for request in quiet)
        # One of them speaks: it alone is fetched, at once.
        before = trio.current_time()
        result = world[1].produce("m1", tp=TopicPartition("orders", 17))
        deadline_ms = int(trio.current_time() * 1000) + 10_000
        assert await world[1].replicas.wait_replicated([result], deadline_ms) == [NONE]
        assert trio.current_time() == before
        listed = [len(topic.partitions) for topic in world[1].requests[-1].topics]
        assert listed == [1]


async def test_a_partition_that_joins_does_not_wait_for_the_fetch_of_the_others(
    world, autojump_clock
):
    async with world.running():
        await world.assign(1)
        await trio.sleep(2.1)
        other = TopicPartition("orders", 1)
        await world.assign(1, tp=other)
        before = trio.current_time()
        result = world[1].produce("m1", tp=other)
        deadline_ms = int(trio.current_time() * 1000) + 10_000
        assert await world[1].replicas.wait_replicated([result], deadline_ms) == [NONE]
        assert trio.current_time() - before <= 0.06


async def test_a_busy_partition_does_not_starve_a_quiet_one(tmp_path, autojump_clock):
    """One answer holds two batches at most, and a busy partition always has more."""
    size = len(records("x" * 1000))
    world = World(
        tmp_path,
        2,
        replica_fetch_response_max_bytes=2 * size,
        replica_fetch_max_bytes=2 * size,
    )
    busy, quiet = TopicPartition("orders", 0), TopicPartition("orders", 1)
    async with world.running():
        await world.assign(1, tp=busy)
        await world.assign(1, tp=quiet)
        for _ in range(400):
            world[1].produce("x" * 1000, tp=busy)
        world[1].produce("hear me", tp=quiet)
        seen = len(world[1].requests)
        while not world[2].everything(quiet):
            await trio.lowlevel.checkpoint()
        assert len(world[1].requests) - seen < 10
        await trio.sleep(5)
        assert len(world[2].everything(busy)) == 400


async def test_the_log_start_travels_with_the_fetches(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        for n in range(6):
            world[1].produce(n)
        await trio.sleep(2)
        deadline_ms = int(trio.current_time() * 1000) + 5_000
        assert await world[1].replicas.delete_records(TP, 4, deadline_ms) == (NONE, 4)
        assert world[2].log().log_start_offset == 4
        world.cut(1, 2)
        assert await world[1].replicas.delete_records(TP, -1, deadline_ms + 5_000) == (
            ErrorCode.REQUEST_TIMED_OUT,
            -1,
        )
        assert await world[1].replicas.delete_records(TP, 9, 0) == (
            ErrorCode.OFFSET_OUT_OF_RANGE,
            -1,
        )
