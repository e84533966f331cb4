"""Roles, epochs and storage of the replicas of one broker; no tasks run but the test's own."""

import errno
import logging

import attrs
import pytest
import trio
import trio.testing
from replication_world import TP, PartitionFetch, World, records, topic_id

from zkafka.errors import ApiError, ErrorCode, StorageError
from zkafka.log.transactions import build_marker
from zkafka.model import TopicPartition
from zkafka.protocol.compression import Codec
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrPartitionState,
    LeaderAndIsrRequest,
    LeaderAndIsrTopicState,
)
from zkafka.protocol.records import (
    Record,
    build_batch,
    iter_records,
    parse_batches,
    stamp,
    verify_crc,
)
from zkafka.replication.partition import Role
from zkafka.replication.replicas import Opening

NONE = ErrorCode.NONE
OTHER = TopicPartition("orders", 1)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, 2)
    yield world
    world.close()


@pytest.fixture
def two_dirs(tmp_path):
    world = World(tmp_path, 1, dir_names=("a", "b"))
    yield world
    world.close()


def refusal(broker, *values, tp=TP, acks=-1):
    with pytest.raises(ApiError) as refused:
        broker.replicas.append(tp, records(*values or ("m",)), required_acks=acks)
    return refused.value.code


def break_disk(broker, directory_index=0):
    """As if an fsync in a worker thread had failed."""
    directory = broker.log_dirs[directory_index]
    error = StorageError("input/output error", directory.path)
    directory.fail(error)
    broker.replicas.storage_failed(error)


# LeaderAndIsr


async def test_a_leader_and_isr_creates_the_log_and_gives_the_role(world):
    assert await world.assign(1) == {1: NONE, 2: NONE}
    assert world[1].machine().role is Role.LEADER
    assert world[2].machine().role is Role.FOLLOWER
    assert world[1].log().topic_id == topic_id("orders")
    assert world[1].log().entry_durable
    assert world[1].replicas.leader_epoch(TP) == 0
    assert world[2].replicas.leader_epoch(TP) is None


async def test_a_repeated_or_older_epoch_changes_nothing(world):
    await world.assign(1)
    await world.assign(1)
    assert await world.tell(1) is ErrorCode.STALE_CONTROLLER_EPOCH
    assert await world.tell(1, leader_epoch=0, leader=2) is ErrorCode.STALE_CONTROLLER_EPOCH
    assert world[1].machine().is_leader
    assert world[1].machine().leader_epoch == 1


@pytest.mark.parametrize("leader", [1, 2])
@pytest.mark.parametrize(
    "epochs", [{"leader_epoch": -1}, {"leader_epoch": -(2**31)}, {"partition_epoch": -2}]
)
async def test_an_epoch_that_is_none_hosts_nothing(world, leader, epochs):
    answers = await world.assign(leader, tell=[1], **epochs)
    assert answers == {1: ErrorCode.STALE_CONTROLLER_EPOCH}
    assert TP not in world[1].replicas.hosted


async def test_an_older_controller_is_refused_as_a_whole(world):
    await world.assign(1)
    world.controller_epoch = 5
    await world.assign(1)
    assert (
        await world.tell(1, leader_epoch=9, leader=2, controller_epoch=4)
        is ErrorCode.STALE_CONTROLLER_EPOCH
    )
    assert world[1].machine().is_leader
    assert await world.stop(1, controller_epoch=4) is ErrorCode.STALE_CONTROLLER_EPOCH


async def test_a_request_for_an_earlier_registration_is_refused_as_a_whole(world):
    await world.assign(1)
    stale = world[1].broker_epoch - 1
    assert (
        await world.tell(1, leader_epoch=9, leader=2, broker_epoch=stale)
        is ErrorCode.STALE_BROKER_EPOCH
    )
    assert world[1].machine().is_leader


async def test_a_partition_that_is_not_ours_is_refused(world):
    answers = await world.assign(1, replicas=[1], tell=[1, 2])
    assert answers == {1: NONE, 2: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
    assert TP not in world[2].replicas.hosted


async def test_another_topic_id_is_refused(world):
    await world.assign(1)
    answer = await world.tell(1, leader_epoch=9, topic_id=topic_id("another"))
    assert answer is ErrorCode.INCONSISTENT_TOPIC_ID
    assert world[1].machine().leader_epoch == 0


async def test_a_topic_id_that_was_missing_is_filled_in_by_a_repetition(world):
    await world.assign(1, topic_id=NULL_UUID)
    assert world[1].log().topic_id is None
    assert await world.tell(1) is NONE
    assert world[1].log().topic_id == topic_id("orders")
    assert await world.tell(1) is ErrorCode.STALE_CONTROLLER_EPOCH


async def test_an_older_partition_epoch_is_passed_over_in_silence(world):
    await world.assign(1)
    await world.assign(1)
    assert await world.tell(1, leader_epoch=9, partition_epoch=0, leader=2) is NONE
    assert world[1].machine().is_leader


async def test_a_leader_steps_down_for_a_leader_that_is_not_alive_or_none(world):
    await world.assign(1)
    world.alive.discard(2)
    await world.assign(2, tell=[1])
    assert refusal(world[1]) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    await world.assign(1)
    await world.assign(-1, isr=[1], tell=[1])
    assert refusal(world[1]) is ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_a_follower_without_epochs_keeps_only_what_was_committed(world):
    await world.assign(1, replicas=[1])
    broker = world[2]
    # A log as left by something that knew no epochs, and a checkpoint of its high watermark.
    log = broker.log_dirs[0].create(TP, topic_id("orders"), broker.config.log_defaults)
    batches = build_batch([Record(None, b"old", 0)]), build_batch([Record(None, b"older", 0)])
    for offset, batch in enumerate(batches):
        stamp(batch, offset, -1)
        log.append_as_follower(parse_batches(batch))
    broker.replicas.host(log, broker.log_dirs[0], 1)
    assert log.epochs.latest == -1
    await world.assign(1, replicas=[1, 2])
    assert broker.everything() == ["old"]


async def test_many_partitions_become_durable_with_one_sync(world):
    broker = world[1]
    states = [
        LeaderAndIsrPartitionState(partition_index=n, leader=1, isr=[1], replicas=[1], is_new=True)
        for n in range(300)
    ]
    topic = LeaderAndIsrTopicState(
        topic_name="wide", topic_id=topic_id("wide"), partition_states=states
    )
    other_tasks_ran = 0

    async def others():
        nonlocal other_tasks_ran
        while True:
            await trio.lowlevel.checkpoint()
            other_tasks_ran += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        changes = await broker.replicas.apply_leader_and_isr(
            LeaderAndIsrRequest(controller_epoch=1, topic_states=[topic])
        )
        nursery.cancel_scope.cancel()
    assert len(changes.became_leader) == 300
    assert broker.offload.count == 1
    assert other_tasks_ran >= 6, "the loop was not held for all of it"
    assert all(replica.log.entry_durable for replica in broker.replicas.hosted.values())


async def test_every_change_of_role_is_told_in_the_state_change_log(world, caplog):
    caplog.set_level(logging.INFO, "zkafka.state_change")
    await world.assign(1)
    await world.assign(2)
    await world.stop(1, delete=True, leader_epoch=1)
    lines = [record.getMessage() for record in caplog.records if "state_change" in record.name]
    assert lines[0].startswith(
        "became leader broker=1 partition=orders-0 leader_epoch=0 partition_epoch=0 isr=1,2"
    )
    assert [line.split(" broker=")[0] for line in lines] == [
        "became leader",
        "became follower",
        "became follower",
        "became leader",
        "stopped replica",
    ]


# StopReplica


async def test_a_stopped_replica_serves_nobody_and_keeps_its_log(world):
    await world.assign(1)
    world[1].produce("m1", acks=1)
    assert await world.stop(1, leader_epoch=0) is NONE
    assert refusal(world[1]) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert world[1].fetch(0) == (ErrorCode.NOT_LEADER_OR_FOLLOWER, [])
    assert world[1].everything() == ["m1"]


async def test_a_deleted_replica_is_gone_and_may_come_again_empty(world):
    await world.assign(1)
    world[1].produce("m1", acks=1)
    assert await world.stop(1, leader_epoch=-2, delete=True) is NONE
    assert TP not in world[1].replicas.hosted
    assert refusal(world[1]) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    await world.assign(1)
    assert world[1].everything() == []


async def test_a_stop_with_an_older_epoch_is_fenced(world):
    await world.assign(1)
    await world.assign(1)
    assert await world.stop(1, leader_epoch=0, delete=True) is ErrorCode.FENCED_LEADER_EPOCH
    assert world[1].machine().is_leader


@pytest.mark.parametrize("leader_epoch", [-2, -1, 1, 7])
async def test_a_stop_without_or_with_a_newer_epoch_is_obeyed(world, leader_epoch):
    await world.assign(1)
    await world.assign(1)
    assert await world.stop(1, leader_epoch=leader_epoch) is NONE
    assert world[1].machine().role is Role.WAITING


async def test_stopping_what_is_not_here_is_a_success(world):
    assert await world.stop(1, delete=True) is NONE


async def test_a_deletion_wakes_those_who_wait_for_the_partition(world, autojump_clock):
    await world.assign(1)
    result = world[1].produce("m1")
    verdicts = []

    async def produce():
        verdicts.extend(await world[1].replicas.wait_replicated([result], 10_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        await trio.testing.wait_all_tasks_blocked()
        await world.stop(1, leader_epoch=-2, delete=True)
    assert verdicts == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    assert trio.current_time() < 1


async def test_a_topic_created_anew_acknowledges_nothing_of_the_old_one(world):
    await world.assign(1)
    old = world[1].produce("old")
    await world.stop(1, leader_epoch=-2, delete=True)
    del world.states[TP]
    await world.assign(1, replicas=[1])
    world[1].produce("new")
    assert world[1].machine().high_watermark == 1
    assert world[1].replicas.verdict(old) is ErrorCode.NOT_LEADER_OR_FOLLOWER


# Restart


async def test_high_watermarks_survive_a_restart(world):
    await world.assign(1, replicas=[1])
    world[1].produce("m1", "m2")
    await world[1].replicas.checkpoint()
    world[1].produce("m3")
    world[1].close()
    world[1].start()
    machine = world[1].machine()
    assert machine.role is Role.WAITING
    assert (machine.high_watermark, machine.log_end_offset) == (2, 3)
    assert refusal(world[1]) is ErrorCode.NOT_LEADER_OR_FOLLOWER


# Storage


async def test_a_failed_directory_takes_its_replicas_offline_and_no_others(two_dirs):
    broker = two_dirs[1]
    await two_dirs.assign(1)
    await two_dirs.assign(1, tp=OTHER)
    lost, kept = TP, OTHER
    assert broker.replicas.hosted[lost].directory is broker.log_dirs[0]
    assert broker.replicas.hosted[kept].directory is broker.log_dirs[1]
    break_disk(broker)
    assert broker.failed_dirs == [broker.log_dirs[0].path]
    assert refusal(broker, tp=lost) is ErrorCode.KAFKA_STORAGE_ERROR
    assert broker.fetch(0, tp=lost) == (ErrorCode.KAFKA_STORAGE_ERROR, [])
    assert broker.produce("m", tp=kept).base_offset == 0
    assert broker.replicas.statistics().offline_replicas == 1
    described = await broker.replicas.describe_log_dirs()
    assert [d.error for d in described] == [ErrorCode.KAFKA_STORAGE_ERROR, NONE]
    assert [found.topic_partition for found in described[1].partitions] == [kept]


async def test_a_read_error_that_only_a_sender_met_is_noticed_by_the_next_fetch(two_dirs):
    """Else the followers would fall out of the in-sync set, and nobody would replace the leader."""
    broker = two_dirs[1]
    await two_dirs.assign(1)
    broker.produce("m")
    log = broker.log()
    part = log.read(0, 1000, upper_bound=1, at_least_one=True)
    part.read_failed(OSError(errno.EIO, "Input/output error"))
    part.release()
    assert broker.fetch(0) == (ErrorCode.KAFKA_STORAGE_ERROR, [])
    assert broker.failed_dirs == [broker.log_dirs[0].path]
    assert broker.machine().role is Role.OFFLINE


async def test_control_requests_for_a_lost_replica_answer_a_storage_error(two_dirs):
    await two_dirs.assign(1)
    break_disk(two_dirs[1])
    assert (await two_dirs.assign(1))[1] is ErrorCode.KAFKA_STORAGE_ERROR
    assert await two_dirs.stop(1, delete=True) is ErrorCode.KAFKA_STORAGE_ERROR


async def test_an_unknown_replica_is_not_created_empty_while_a_directory_is_lost(two_dirs):
    """It may be on that directory; an empty one in its place would count as in sync."""
    break_disk(two_dirs[1])
    answers = await two_dirs.assign(1, is_new=False)
    assert answers[1] is ErrorCode.KAFKA_STORAGE_ERROR
    assert await two_dirs.tell(1, is_new=True) is NONE
    assert two_dirs[1].replicas.hosted[TP].directory is two_dirs[1].log_dirs[1]


async def test_those_who_wait_for_a_lost_replica_are_told(world):
    await world.assign(1)
    result = world[1].produce("m1")
    break_disk(world[1])
    verdicts = await world[1].replicas.wait_replicated([result], 10**9)
    assert verdicts == [ErrorCode.KAFKA_STORAGE_ERROR]


async def test_the_broker_stops_with_its_last_directory(two_dirs, autojump_clock):
    broker = two_dirs[1]

    async def live():
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.replicas.run)
            break_disk(broker, 0)
            await trio.sleep(60)
            break_disk(broker, 1)
            await trio.sleep(60)

    with pytest.raises(ExceptionGroup) as failed:
        await live()
    assert failed.group_contains(StorageError, match="all log directories failed")
    assert 60 <= trio.current_time() < 61


async def test_a_write_that_fails_and_is_cut_back_is_an_error_of_that_write_alone(
    world, monkeypatch
):
    await world.assign(1, replicas=[1])
    log = world[1].log()
    files = log._files
    write = files.write

    def full(fd, buffers, position):
        raise StorageError("no space left on device", log.path)

    monkeypatch.setattr(files, "write", full)
    assert refusal(world[1], "m1") is ErrorCode.KAFKA_STORAGE_ERROR
    assert world[1].failed_dirs == []
    monkeypatch.setattr(files, "write", write)
    assert world[1].produce("m1").base_offset == 0


# Looking up


async def test_offsets_are_found_by_time(world):
    await world.assign(1, replicas=[1])
    for n in range(5):
        world[1].produce(n, timestamp=1000 + n)
    replicas = world[1].replicas

    async def find(timestamp, **how):
        found = await replicas.offset_for_timestamp(TP, timestamp, **how)
        return found.error, found.timestamp, found.offset, found.leader_epoch

    assert await find(-1) == (NONE, -1, 5, 0)
    assert await find(-2) == (NONE, -1, 0, 0)
    assert await find(-4) == (NONE, -1, 0, 0)
    assert await find(-3) == (NONE, 1004, 4, 0)
    assert await find(1002) == (NONE, 1002, 2, 0)
    assert await find(2000) == (NONE, -1, -1, -1)
    assert (await find(-1, current_leader_epoch=5))[0] is ErrorCode.UNKNOWN_LEADER_EPOCH
    await world.assign(1)
    assert (await find(-1, current_leader_epoch=0))[0] is ErrorCode.FENCED_LEADER_EPOCH


async def test_a_consumer_is_not_told_an_end_that_could_go_back(world):
    await world.assign(1)
    world[1].produce("m1", acks=1)
    await world.assign(1)
    replicas = world[1].replicas
    latest = await replicas.offset_for_timestamp(TP, -1)
    assert latest.error is ErrorCode.OFFSET_NOT_AVAILABLE
    replica = await replicas.offset_for_timestamp(TP, -1, replica_id=2)
    assert (replica.error, replica.offset) == (NONE, 1)


async def test_only_the_leader_knows_epochs_ends(world):
    await world.assign(1)
    world[1].produce("m1", acks=1)
    await world.assign(1)
    assert world[1].replicas.end_offset_for_epoch(TP, 1, 0) == (NONE, (0, 1))
    assert world[1].replicas.end_offset_for_epoch(TP, -1, 9) == (NONE, (-1, -1))
    assert world[1].replicas.end_offset_for_epoch(TP, 0, 0)[0] is ErrorCode.FENCED_LEADER_EPOCH
    assert world[2].replicas.end_offset_for_epoch(TP, 1, 0)[0] is ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_records_of_a_compacted_topic_are_not_deleted(world):
    config = attrs.evolve(world[1].config.log_defaults, cleanup_policy=("compact",))
    world[1].topic_configs["orders"] = config
    await world.assign(1, replicas=[1])
    assert await world[1].replicas.delete_records(TP, -1, 0) == (ErrorCode.POLICY_VIOLATION, -1)


async def test_coordinators_write_batches_of_their_own(world):
    await world.assign(1, replicas=[1])
    batch = build_batch([Record(b"key", b"value", 5)])
    result = world[1].replicas.append_as_coordinator(TP, batch)
    assert (result.base_offset, result.last_offset) == (0, 0)
    assert world[1].replicas.verdict(result) is NONE
    assert world[1].replicas.leader_log(TP) is world[1].log()
    assert world[1].replicas.high_watermark(TP) == 1
    with pytest.raises(ApiError):
        world[2].replicas.leader_log(TP)


@pytest.mark.parametrize(
    ("made_with", "asked_for", "stored_with"),
    [
        (Codec.NONE, "producer", Codec.NONE),
        (Codec.GZIP, "producer", Codec.GZIP),
        (Codec.NONE, "zstd", Codec.ZSTD),
        (Codec.GZIP, "lz4", Codec.LZ4),
        (Codec.GZIP, "uncompressed", Codec.NONE),
    ],
)
async def test_a_coordinators_batch_is_stored_in_the_topics_codec(
    world, made_with, asked_for, stored_with
):
    config = attrs.evolve(world[1].config.log_defaults, compression_type=asked_for)
    world[1].topic_configs["orders"] = config
    await world.assign(1, replicas=[1])
    sent = [Record(b"key %d" % number, b"value", 5 + number) for number in range(9)]
    result = world[1].replicas.append_as_coordinator(TP, build_batch(sent, codec=made_with))
    assert (result.base_offset, result.last_offset) == (0, 8)
    marker = [Record(b"\0\0\0\1", b"\0\0\0\0\0\0", 9)]
    world[1].replicas.append_as_coordinator(TP, build_batch(marker, control=True))
    batch, control = stored(world[1])
    assert (batch.codec, control.codec) == (stored_with, Codec.NONE)
    assert verify_crc(batch)
    assert [(bytes(r.key), r.timestamp) for r in iter_records(batch)] == [
        (record.key, record.timestamp) for record in sent
    ]


async def test_a_marker_is_acknowledged_flushed_and_ends_the_transaction_everywhere(
    world, autojump_clock
):
    begun = build_batch(
        [Record(None, b"a", 5)],
        producer_id=7,
        producer_epoch=0,
        base_sequence=0,
        transactional=True,
    )
    async with world.running():
        await world.assign(1)
        replicas, deadline_ms = world[1].replicas, world[1].clock.monotonic_ms() + 10_000
        await replicas.wait_replicated([replicas.append_as_coordinator(TP, begun)], deadline_ms)
        assert replicas.hosted[TP].last_stable_offset == 0
        configured(world[1], flush_messages=1)
        ending = build_marker(7, 1, committed=False, coordinator_epoch=3, timestamp=6)
        result = replicas.append_as_coordinator(TP, ending)
        assert await replicas.wait_replicated([result], deadline_ms) == [NONE]
        assert world[1].log().recovery_point == 2
        await trio.sleep(1)  # The follower hears of the high watermark with its next fetch.
        for broker in (world[1], world[2]):
            assert broker.replicas.hosted[TP].last_stable_offset == 2
            states = broker.replicas.producers(TP)
            assert states.transactions.first_offset(7) == -1
            assert (states.get(7).epoch, states.get(7).coordinator_epoch) == (1, 3)
        assert bytes(stored(world[2])[1].view) == bytes(stored(world[1])[1].view)


async def test_producers_are_known_to_replicas_that_have_a_role_and_a_disk(world):
    def refusal_of_producers():
        with pytest.raises(ApiError) as refused:
            world[1].replicas.producers(TP)
        return refused.value.code

    await world.assign(1, replicas=[1, 2])
    world[1].produce("m", acks=1, producer_id=7, producer_epoch=0, base_sequence=0)
    assert [producer_id for producer_id, _ in world[1].replicas.producers(TP)] == [7]
    assert list(world[2].replicas.producers(TP)) == [], "nothing is fetched here"
    world[1].close()
    world[1].start()
    assert refusal_of_producers() is ErrorCode.NOT_LEADER_OR_FOLLOWER
    break_disk(world[1])
    assert refusal_of_producers() is ErrorCode.KAFKA_STORAGE_ERROR


async def test_a_coordinators_batch_may_be_too_large_once_it_is_opened(world):
    config = attrs.evolve(
        world[1].config.log_defaults, compression_type="uncompressed", max_message_bytes=1000
    )
    world[1].topic_configs["orders"] = config
    await world.assign(1, replicas=[1])
    batch = build_batch([Record(b"key", bytes(2000), 5)], codec=Codec.GZIP)
    with pytest.raises(ApiError) as refused:
        world[1].replicas.append_as_coordinator(TP, batch)
    assert refused.value.code is ErrorCode.MESSAGE_TOO_LARGE


async def test_a_topics_settings_take_effect_at_once(world):
    await world.assign(1, isr=[1])
    world[1].replicas.reconfigure(
        "orders", attrs.evolve(world[1].config.log_defaults, min_insync_replicas=2)
    )
    assert refusal(world[1]) is ErrorCode.NOT_ENOUGH_REPLICAS
    statistics = world[1].replicas.statistics()
    assert (statistics.under_min_isr, statistics.under_replicated) == (1, 1)
    world[1].replicas.reconfigure("orders", world[1].config.log_defaults)
    world[1].produce("m1")
    assert world[1].replicas.statistics().at_min_isr == 1


async def test_a_wake_reaches_only_those_who_wait_for_this(world, autojump_clock):
    """An append wakes fetches; a produce that waits for replicas is not even judged for it."""
    await world.assign(1)
    judged = []
    async with trio.open_nursery() as nursery:

        async def sleep_on(key, name):
            await world[1].purgatory.wait_for_wake([key], lambda _: judged.append(name))

        nursery.start_soon(sleep_on, TP, "fetch")
        nursery.start_soon(sleep_on, world[1].replicas.hosted[TP], "produce")
        await trio.testing.wait_all_tasks_blocked()
        world[1].produce("m1", acks=1)
        assert judged == ["fetch"]
        fetch = PartitionFetch(TP, 1, 100, current_leader_epoch=0, last_fetched_epoch=0)
        world[1].replicas.read(
            fetch, replica_id=2, replica_epoch=102, max_bytes=100, at_least_one=True
        )
        assert sorted(judged[1:]) == ["fetch", "produce"]
        nursery.cancel_scope.cancel()


# What producers send


def configured(broker, **settings):
    broker.replicas.reconfigure("orders", attrs.evolve(broker.log().config, **settings))


def stored(broker):
    """Every batch in the log."""
    log = broker.log()
    piece = log.read(0, 1 << 20, upper_bound=log.log_end_offset, at_least_one=True)
    try:
        return parse_batches(piece.read())
    finally:
        piece.release()


async def test_the_leaders_time_is_stamped_and_answered_and_a_setting_of_now(world, autojump_clock):
    await world.assign(1)
    broker = world[1]
    then_ms = broker.clock.wall_ms() - 5
    assert broker.produce("a", timestamp=then_ms, acks=1).log_append_time_ms == -1
    configured(broker, message_timestamp_type="LogAppendTime")
    await trio.sleep(7)
    now_ms = broker.clock.wall_ms()
    how = {
        "timestamp": then_ms,
        "acks": 1,
        "producer_id": 9,
        "producer_epoch": 0,
        "base_sequence": 0,
    }
    assert broker.produce("b", "c", **how).log_append_time_ms == now_ms
    await trio.sleep(3)
    again = broker.produce("b", "c", **how)
    assert (again.duplicate, again.log_append_time_ms) == (True, now_ms), "the time of then"
    ours = memoryview(build_batch([Record(b"k", b"d", then_ms)]))
    assert broker.replicas.append_as_coordinator(TP, bytearray(ours)).log_append_time_ms == (
        now_ms + 3000
    )
    batches = stored(broker)
    assert [b.is_log_append_time for b in batches] == [False, True, True]
    assert [b.max_timestamp for b in batches] == [then_ms, now_ms, now_ms + 3000]
    assert all(map(verify_crc, batches))


async def test_a_batch_that_the_log_refuses_is_as_its_client_sent_it(world):
    await world.assign(1)
    configured(world[1], message_timestamp_type="LogAppendTime")
    how = {"producer_id": 9, "producer_epoch": 0}
    world[1].produce("a", acks=1, base_sequence=0, **how)
    sent = records("b", base_sequence=7, **how)
    before = bytes(sent)
    for _ in "twice":
        with pytest.raises(ApiError) as refused:
            world[1].replicas.append(TP, sent, required_acks=1)
        assert refused.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    (batch,) = parse_batches(sent)
    assert verify_crc(batch)
    assert bytes(sent)[12:] == before[12:]


async def test_a_small_batch_is_opened_at_once_and_a_large_one_in_a_thread(world):
    await world.assign(1)
    broker = world[1]
    configured(broker, compression_type="zstd")
    used = broker.offload.count
    assert broker.produce("a", acks=1).base_offset == 0
    opening = broker.produce(*range(100), acks=1)
    assert isinstance(opening, Opening)
    assert broker.log().log_end_offset == 1
    result = await broker.replicas.append_opened(opening)
    assert (result.base_offset, result.last_offset) == (1, 100)
    assert broker.offload.count == used + 1
    assert [b.codec for b in stored(broker)] == [Codec.ZSTD, Codec.ZSTD]
    assert broker.everything() == ["a", *map(str, range(100))]
    configured(broker, compression_type="producer")
    broker.produce(*range(100), acks=1)
    assert stored(broker)[-1].codec == Codec.NONE


async def test_what_was_opened_is_appended_only_by_a_leader_with_enough_in_sync(world):
    await world.assign(1)
    broker = world[1]
    configured(broker, compression_type="zstd")
    patient, hasty = (broker.produce(*range(100), acks=acks) for acks in (-1, 1))
    await world.assign(1, isr=[1])
    configured(broker, min_insync_replicas=2)
    with pytest.raises(ApiError) as refused:
        await broker.replicas.append_opened(patient)
    assert refused.value.code is ErrorCode.NOT_ENOUGH_REPLICAS
    assert (await broker.replicas.append_opened(hasty)).base_offset == 0
    assert broker.log().log_end_offset == 100
    opening = broker.produce(*range(100), acks=1)
    await world.assign(2)
    with pytest.raises(ApiError) as refused:
        await broker.replicas.append_opened(opening)
    assert refused.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_followers_take_what_the_leader_made_of_it(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        configured(world[1], compression_type="gzip", message_timestamp_type="LogAppendTime")
        world[1].produce("a", "b", timestamp=5)
        await trio.sleep(1)
        (batch,) = stored(world[2])
        assert (batch.codec, batch.is_log_append_time) == (Codec.GZIP, True)
        assert bytes(batch.view) == bytes(stored(world[1])[0].view)
