"""Following a leader: what answers count, and what becomes of errors.

`world.on_answer` sees each answer on its way to the follower and may change it, or change the world
under it: between request and answer anything may happen.
"""

import attrs
import pytest
import trio
from replication_world import TP, Link, World, topic_id

from zkafka.errors import ErrorCode, StorageError
from zkafka.model import TopicPartition
from zkafka.protocol.messages.fetch import EpochEndOffset, FetchRequest, FetchResponse
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrPartitionState,
    LeaderAndIsrRequest,
    LeaderAndIsrTopicState,
)
from zkafka.protocol.messages.list_offsets import ListOffsetsRequest
from zkafka.replication.partition import Role
from zkafka.replication.roles import role_orders
from zkafka.replication.truncation import TruncateTo

NONE = ErrorCode.NONE
OTHER = TopicPartition("orders", 1)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, 2)


def answering(world, *, times=1, **changes):
    """Change the next answers about partitions to broker 2, where they are about any."""
    left = times

    def on_answer(source, request, response):
        nonlocal left
        if source is world[2] and isinstance(response, FetchResponse) and left:
            for topic in response.responses:
                topic.partitions = [attrs.evolve(p, **changes) for p in topic.partitions]
                left -= 1
        return response

    world.on_answer = on_answer


async def settled(world):
    await trio.sleep(5)
    return world[2].everything()


async def test_a_follower_copies_batches_as_they_are(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        for n in range(10):
            world[1].produce(n, n, n)
        assert await settled(world) == world[1].everything()
        logs = world[1].log(), world[2].log()
        slices = [log.read(0, 1 << 20, upper_bound=30, at_least_one=True) for log in logs]
        assert slices[0].read() == slices[1].read()
        for piece in slices:
            piece.release()


@pytest.mark.parametrize(
    "error",
    [
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.INCONSISTENT_TOPIC_ID,
        ErrorCode.KAFKA_STORAGE_ERROR,
        9999,
    ],
)
async def test_after_an_error_it_tries_again_a_little_later(world, autojump_clock, error):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        answering(world, times=3, error_code=error, records=b"")
        assert await settled(world) == ["m1"]


async def test_errors_of_one_partition_do_not_hold_up_another(world, autojump_clock):
    async with world.running():
        await world.assign(1, tp=OTHER)
        await world.assign(1)

        def failing(source, request, response):
            for topic in response.responses:
                for data in topic.partitions:
                    if data.partition_index == TP.partition:
                        data.error_code = ErrorCode.UNKNOWN_LEADER_EPOCH
            return response

        world.on_answer = failing
        world[1].produce("m1")
        world[1].produce("m1", tp=OTHER)
        await trio.sleep(3)
        assert world[2].everything(OTHER) == ["m1"]
        assert world[2].everything() == []


async def test_a_fenced_follower_waits_for_the_controller(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        answering(world, error_code=ErrorCode.FENCED_LEADER_EPOCH, records=b"")
        assert await settled(world) == []
        assert world[2].replicas.statistics().fetchers.failed_partitions == 1
        await world.assign(1)
        assert await settled(world) == ["m1"]
        assert world[2].replicas.statistics().fetchers.failed_partitions == 0


async def test_a_broker_that_leaves_follows_nobody_new(tmp_path, autojump_clock):
    """It hands a partition over and becomes its follower, but is no candidate for the ISR: the new
    leader's high watermark must not wait for it once it is gone."""
    world = World(tmp_path, 3)
    async with world.running():
        await world.assign(1)
        await world.assign(2, tp=OTHER)
        world[1].replicas.fetchers.leave()
        await world.assign(2, isr=[2, 3])
        world[2].produce("m1")
        world[2].produce("m1", tp=OTHER)
        await trio.sleep(3)
        assert world[1].machine().role is Role.FOLLOWER
        assert world[1].everything() == []
        assert world[2].machine().high_watermark == 1
        assert world[1].everything(OTHER) == ["m1"], "what it followed before, it goes on following"


async def test_corrupt_records_are_never_appended(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        corrupted = []

        def corrupt(source, request, response):
            for topic in getattr(response, "responses", ()):
                for data in topic.partitions:
                    if data.records and len(corrupted) < 2:
                        broken = bytearray(data.records)
                        broken[65] ^= 1
                        data.records = bytes(broken)
                        corrupted.append(trio.current_time())
            return response

        world.on_answer = corrupt
        assert await settled(world) == ["m1"]
        assert len(corrupted) == 2


async def test_records_of_an_epoch_to_come_are_refused(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        data = bytearray()

        def newer(source, request, response):
            for topic in getattr(response, "responses", ()):
                for partition in topic.partitions:
                    if partition.records and not data:
                        data.extend(partition.records)
                        data[12:16] = (5).to_bytes(4, "big")
                        partition.records = bytes(data)
            return response

        world.on_answer = newer
        assert await settled(world) == ["m1"]
        assert world[2].log().epochs.latest == 0


async def test_a_batch_cut_off_at_the_end_of_an_answer_is_fetched_again(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        world[1].produce("m2")
        cut = []

        def cut_short(source, request, response):
            for topic in getattr(response, "responses", ()):
                for partition in topic.partitions:
                    if partition.records and not cut:
                        cut.append(len(partition.records))
                        partition.records = partition.records[:-10]
            return response

        world.on_answer = cut_short
        assert await settled(world) == ["m1", "m2"]
        assert cut


# Answers that come too late


async def while_in_flight(world, change):
    """Do `change` when the next answer with records is on its way to broker 2; deliver it then."""
    done = []

    def on_answer(source, request, response):
        if (
            source is world[2]
            and not done
            and any(
                data.records
                for topic in getattr(response, "responses", ())
                for data in topic.partitions
            )
        ):
            done.append(True)
            change()
        return response

    world.on_answer = on_answer
    world[1].produce("stale", acks=1)
    await trio.sleep(2)
    assert done


async def test_an_answer_for_a_stopped_replica_is_dropped(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        await while_in_flight(
            world,
            lambda: world[2].replicas._control._stop(world[2].replicas.hosted[TP], delete=False),
        )
        assert world[2].everything() == []


async def test_an_answer_from_the_last_leader_is_dropped(world, autojump_clock):
    """In the epoch before it was right; now it might be what the new leader cuts away."""
    async with world.running():
        await world.assign(1)
        replicas = world[2].replicas

        def elected():
            order = next(_orders(world, leader=2, leader_epoch=1))
            replicas._control._take_role(replicas.hosted[TP], order)

        await while_in_flight(world, elected)
        assert world[2].machine().is_leader
        assert world[2].everything() == []


async def test_an_answer_in_an_older_epoch_of_the_same_leader_is_asked_for_again(
    world, autojump_clock
):
    async with world.running():
        await world.assign(1)
        replicas = world[2].replicas
        appended = []
        original = replicas.append_fetched

        def noting(replica, records, **how):
            appended.append((replica.machine.leader_epoch, bool(records)))
            return original(replica, records, **how)

        replicas.append_fetched = noting

        def again():
            order = next(_orders(world, leader=1, leader_epoch=1))
            for broker in (world[1], world[2]):
                follow = broker.replicas._control._take_role(broker.replicas.hosted[TP], order)
                if follow is not None:
                    broker.replicas.carry_out(broker.replicas.hosted[TP], [follow])

        await while_in_flight(world, again)
        assert (0, True) not in appended
        assert world[2].everything() == ["stale"]


async def test_an_answer_for_a_log_that_was_cut_meanwhile_is_dropped(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        await trio.sleep(1)
        log = world[2].log()
        replica = world[2].replicas.hosted[TP]
        await while_in_flight(world, lambda: world[2].replicas.cut(replica, TruncateTo(0)))
        log.check()
        assert world[2].everything() == ["m1", "stale"], "from where the log ended then"


def _orders(world, **state):
    fields = {"partition_index": 0, "isr": [1, 2], "replicas": [1, 2], "partition_epoch": 1}
    return role_orders(
        LeaderAndIsrRequest(
            topic_states=[
                LeaderAndIsrTopicState(
                    topic_name="orders",
                    topic_id=topic_id("orders"),
                    partition_states=[LeaderAndIsrPartitionState(**(fields | state))],
                )
            ]
        )
    )


# Leaders that come and go


async def test_a_leader_that_is_away_is_asked_again_and_the_session_begins_anew(
    world, autojump_clock
):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        await trio.sleep(1)
        world.cut(1, 2)
        world[1].produce("m2", acks=1)
        await trio.sleep(20)
        asked = len(world[1].requests)
        world.heal()
        assert await settled(world) == ["m1", "m2"]
        first = world[1].requests[asked]
        assert first.session_epoch == 0
        assert [len(topic.partitions) for topic in first.topics] == [1]
        assert world[1].parts.fetch_sessions.statistics().sessions == 1


@pytest.mark.parametrize("fetches_before", [0, 40])
async def test_a_leader_that_says_nothing_at_all_is_given_up_and_asked_anew(
    world, autojump_clock, monkeypatch, fetches_before
):
    """However many answers came before in the same conversation."""
    original, left, silent_since = Link.request, fetches_before, None

    async def request(link, message, **how):
        nonlocal left, silent_since
        left -= 1
        if left == -1:
            silent_since = trio.current_time()
            await trio.sleep_forever()
        return await original(link, message, **how)

    monkeypatch.setattr(Link, "request", request)
    async with world.running():
        await world.assign(1)
        while silent_since is None:
            await trio.sleep(0.1)
            world[1].produce("m", acks=1)
        patience_s = world[2].config.replica_socket_timeout_ms / 1000
        await trio.sleep_until(silent_since + patience_s - 0.1)
        behind = len(world[1].everything()) - len(world[2].everything())
        assert behind > 0
        await trio.sleep(2)
        assert world[2].everything() == world[1].everything()


async def test_a_leader_that_forgot_the_session_is_told_everything_again(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        await trio.sleep(1)
        world.on_answer = _once(
            lambda response: FetchResponse(error_code=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        )
        world[1].produce("m2", acks=1)
        assert await settled(world) == ["m1", "m2"]


async def test_a_leader_that_refuses_sessions_is_followed_without(tmp_path, autojump_clock):
    world = World(tmp_path, 2, max_incremental_fetch_session_cache_slots=0)
    world[1].parts.fetch_sessions._slots = 0
    async with world.running():
        await world.assign(1)
        await world.assign(1, tp=OTHER)
        world[1].produce("m1")
        world[1].produce("m1", tp=OTHER)
        assert await settled(world) == ["m1"]
        assert world[2].everything(OTHER) == ["m1"]
        assert {request.session_epoch for request in world[1].requests} == {0}


async def test_a_fetch_refused_as_a_whole_is_tried_again(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world.on_answer = _once(lambda _: FetchResponse(error_code=ErrorCode.UNKNOWN_TOPIC_ID))
        world[1].produce("m1", acks=1)
        assert await settled(world) == ["m1"]


async def test_the_fetcher_of_a_leader_ends_with_its_last_partition(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        await trio.sleep(2)
        assert world[2].replicas.statistics().fetchers.fetchers == 1
        await world.assign(2)
        await trio.sleep(2)
        assert world[2].replicas.statistics().fetchers.fetchers == 0
        assert world[1].replicas.statistics().fetchers.fetchers == 1


async def test_partitions_may_be_shared_among_fetchers(tmp_path, autojump_clock):
    world = World(tmp_path, 2, num_replica_fetchers=4)
    async with world.running():
        for n in range(8):
            tp = TopicPartition("orders", n)
            await world.assign(1, tp=tp)
            world[1].produce("m", tp=tp)
        await trio.sleep(3)
        assert world[2].replicas.statistics().fetchers.fetchers == 4
        assert all(world[2].everything(TopicPartition("orders", n)) for n in range(8))


# Storage


async def test_a_full_disk_pauses_the_partition_until_there_is_room(
    world, autojump_clock, monkeypatch
):
    async with world.running():
        await world.assign(1)
        log = world[2].log()
        tries = []

        def full(fd, buffers, position):
            tries.append(trio.current_time())
            raise StorageError("no space left on device", log.path)

        with monkeypatch.context() as patch:
            patch.setattr(log._files, "write", full)
            world[1].produce("m1", acks=1)
            await trio.sleep(5)
            assert 3 < len(tries) < 15
            assert world[2].machine().role is Role.FOLLOWER
        assert await settled(world) == ["m1"]


async def test_a_failed_directory_ends_its_fetching(tmp_path, autojump_clock):
    world = World(tmp_path, 2, dir_names=("a", "b"))
    async with world.running():
        await world.assign(1)
        await world.assign(1, tp=OTHER)
        broker = world[2]
        directory = broker.replicas.hosted[TP].directory
        assert directory is not broker.replicas.hosted[OTHER].directory
        error = StorageError("input/output error", directory.path)
        directory.fail(error)
        broker.replicas.storage_failed(error)
        world[1].produce("m1", tp=OTHER)
        world[1].produce("m1", acks=1)
        await trio.sleep(3)
        assert broker.everything(OTHER) == ["m1"]
        assert broker.replicas.statistics().fetchers.followed == 1


# Out of range


async def test_a_leader_that_cannot_be_asked_for_its_range_is_asked_later(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1", acks=1)
        answering(world, error_code=ErrorCode.OFFSET_OUT_OF_RANGE, records=b"")
        asked = []

        before = world.on_answer

        def failing(source, request, response):
            response = before(source, request, response)
            if isinstance(request, ListOffsetsRequest) and not asked:
                asked.append(request)
                for topic in response.topics:
                    for partition in topic.partitions:
                        partition.error_code = ErrorCode.NOT_LEADER_OR_FOLLOWER
            return response

        world.on_answer = failing
        assert await settled(world) == ["m1"]
        assert asked


async def test_a_range_that_fits_after_all_cuts_nothing(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        await trio.sleep(1)
        answering(world, error_code=ErrorCode.OFFSET_OUT_OF_RANGE, records=b"")
        world[1].produce("m2", acks=1)
        assert await settled(world) == ["m1", "m2"]


async def test_a_divergence_is_cut_through_the_real_fetcher(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1", "m2")
        await trio.sleep(1)
        answering(
            world, diverging_epoch=EpochEndOffset(epoch=0, end_offset=1), records=b"",
        )  # fmt: skip
        world[1].produce("m3", acks=1)
        # The batch m1 m2 holds offset 1 in its middle, so it goes whole, and comes again.
        assert await settled(world) == ["m1", "m2", "m3"]


def _once(change):
    done = []

    def on_answer(source, request, response):
        if isinstance(request, FetchRequest) and not done:
            done.append(True)
            return change(response)
        return response

    return on_answer
