"""The coordinator over a log that can lag, refuse and be lost."""

import pytest
import trio
from coordinator_scene import EPOCH_S, GROUP, PARTITIONS, CoordinatorScene, metadata

from zkafka.errors import ApiError, ErrorCode, StorageError
from zkafka.groups.group import GroupState
from zkafka.groups.records import (
    GroupKey,
    OffsetKey,
    OffsetValue,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
)
from zkafka.groups.runtime import commit_write_error, group_write_error
from zkafka.groups.shard import EndedTransaction
from zkafka.log.transactions import build_marker
from zkafka.model import OFFSETS_TOPIC, TopicPartition
from zkafka.protocol.messages.leave_group import MemberIdentity
from zkafka.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from zkafka.protocol.records import Record, build_batch

ORDERS_0 = ("orders", 0)
ORDERS_1 = ("orders", 1)
BILLS_0 = ("bills", 0)
RETENTION_S = 7 * 24 * 3600
TIMEOUT_S = 5
NONE = ErrorCode.NONE


@pytest.fixture
async def scene():
    """In virtual time, if the test itself asks for `autojump_clock`: pytest-trio looks there."""
    async with CoordinatorScene().running() as scene:
        yield scene


async def in_background(nursery, results, call, *args, **kw):
    """Start a request, and let it run as far as it gets."""

    async def run():
        results.append(await call(*args, **kw))

    nursery.start_soon(run)
    await trio.testing.wait_all_tasks_blocked()


def written(log):
    """The log's records as (key, value); None for a tombstone."""
    entries = []
    for record in log.records():
        key = decode_key(record.key)
        entries.append((key, None if record.value is None else decode_value(key, record.value)))
    return entries


# Who is asked.


async def test_before_it_runs_and_afterwards_nobody_coordinates(autojump_clock):
    scene = CoordinatorScene()
    assert scene.heartbeat("m", 0) is ErrorCode.COORDINATOR_NOT_AVAILABLE
    async with scene.running():
        assert scene.heartbeat("m", 0) is ErrorCode.UNKNOWN_MEMBER_ID
    assert scene.heartbeat("m", 0) is ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert scene.groups.list_groups() == (ErrorCode.COORDINATOR_NOT_AVAILABLE, [])


async def test_partitions_led_before_it_runs_are_loaded_once_it_does(autojump_clock):
    scene = CoordinatorScene()
    scene.lead(scene.partition())
    async with scene.running(lead=False):
        await scene.loaded()
        assert scene.heartbeat("m", 0) is ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_group_of_a_partition_not_led_here_is_not_ours(autojump_clock):
    async with CoordinatorScene().running(lead=False) as scene:
        sent_away = ErrorCode.NOT_COORDINATOR
        assert scene.heartbeat("m", 0) is sent_away
        assert (await scene.join()).error_code == sent_away
        assert (await scene.sync("m", 0)).error_code == sent_away
        assert scene.leave("m").error_code == sent_away
        assert await scene.commit({ORDERS_0: 1, BILLS_0: 2}) == [sent_away, sent_away]
        assert scene.fetch() is sent_away
        assert scene.describe().error_code == sent_away
        (deleted,) = await scene.groups.delete_groups([GROUP])
        assert deleted.error_code == sent_away


async def test_a_partition_lost_without_our_being_told_is_not_ours(autojump_clock, scene):
    member, generation = await scene.member()
    await scene.commit({ORDERS_0: 1}, member, generation)
    scene.replicas.lose(scene.partition())
    assert scene.heartbeat(member, generation) is ErrorCode.NOT_COORDINATOR
    assert scene.fetch() is ErrorCode.NOT_COORDINATOR
    assert scene.groups.list_groups()[1] == []


@pytest.mark.parametrize("group", ["", "g" * 32_768, "é" * 20_000])
async def test_a_group_id_that_cannot_be_written_is_refused(autojump_clock, scene, group):
    invalid = ErrorCode.INVALID_GROUP_ID
    assert scene.heartbeat("m", 0, group=group) is invalid
    assert (await scene.join(group=group)).error_code == invalid
    assert (await scene.sync("m", 0, group=group)).error_code == invalid
    assert scene.leave("m", group=group).error_code == invalid
    if group:
        assert scene.fetch(group=group) is invalid


async def test_the_empty_group_id_is_good_enough_for_offsets(autojump_clock, scene):
    assert await scene.commit({ORDERS_0: 7}, group="") == [NONE]
    assert scene.fetch(ORDERS_0, group="") == {ORDERS_0: 7}
    assert scene.state("") == "Empty"
    (deleted,) = await scene.groups.delete_groups([""])
    assert deleted.error_code == NONE


def test_a_groups_partition_does_not_depend_on_what_is_known_of_the_topic(monkeypatch):
    scene = CoordinatorScene()
    expected = {name: scene.groups.partition_for(name) for name in ("a", "b", "c", "readers")}
    partly = metadata(**{OFFSETS_TOPIC: 1})
    monkeypatch.setattr(scene.metadata, "_image", partly.image)
    assert {name: scene.groups.partition_for(name) for name in expected} == expected


# Members.


async def test_members_join_sync_and_heartbeat(autojump_clock, scene):
    async with trio.open_nursery() as nursery:
        first, generation = await scene.member()
        joined = []
        await in_background(nursery, joined, scene.join_for_good)
        assert scene.heartbeat(first, generation) is ErrorCode.REBALANCE_IN_PROGRESS
        again = await scene.join(first)
        await trio.testing.wait_all_tasks_blocked()
        (second,) = joined
        assert second.generation_id == again.generation_id == generation + 1
        assert len(again.members) == 2
        assert list(second.members) == []
        synced = []
        await in_background(nursery, synced, scene.sync, second.member_id, second.generation_id)
        assert synced == []
        assert scene.groups.statistics().requests_waiting == 1
        plan = {first: b"1", second.member_id: b"2"}
        mine = await scene.sync(first, again.generation_id, plan)
        await trio.testing.wait_all_tasks_blocked()
        assert (mine.assignment, synced[0].assignment) == (b"1", b"2")
        assert scene.heartbeat(first, again.generation_id) is NONE
        assert scene.state() == "Stable"


async def test_an_assignment_is_told_when_the_replicas_have_it(autojump_clock, scene):
    joined = await scene.join_for_good()
    scene.replicas.lag = True
    async with trio.open_nursery() as nursery:
        synced = []
        await in_background(
            nursery, synced, scene.sync, joined.member_id, 1, {joined.member_id: b"x"}
        )
        assert synced == []
        assert scene.state() == "CompletingRebalance"
        scene.replicas.replicate(scene.partition())
        await trio.testing.wait_all_tasks_blocked()
        assert synced[0].assignment == b"x"
        assert scene.state() == "Stable"


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_COORDINATOR),
        (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_COORDINATOR),
        (ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.UNKNOWN_SERVER_ERROR),
        (ErrorCode.RECORD_LIST_TOO_LARGE, ErrorCode.UNKNOWN_SERVER_ERROR),
    ],
)
async def test_an_assignment_that_the_log_refuses_is_an_error_and_a_rebalance(
    autojump_clock, scene, refusal, told
):
    joined = await scene.join_for_good()
    scene.replicas.refusal = refusal
    synced = await scene.sync(joined.member_id, 1, {joined.member_id: b"x"})
    assert synced.error_code == told
    assert scene.state() == "PreparingRebalance"


async def test_an_assignment_that_is_not_replicated_in_time_is_a_rebalance(autojump_clock, scene):
    joined = await scene.join_for_good()
    scene.replicas.lag = True
    began = trio.current_time()
    synced = await scene.sync(joined.member_id, 1, {joined.member_id: b"x"})
    assert synced.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert trio.current_time() - began >= TIMEOUT_S
    assert scene.state() == "PreparingRebalance"


async def test_an_assignment_on_too_few_replicas_is_an_error(autojump_clock, scene):
    joined = await scene.join_for_good()
    scene.replicas.after_append = ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
    synced = await scene.sync(joined.member_id, 1, {joined.member_id: b"x"})
    assert synced.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


async def test_who_waits_is_sent_away_when_the_coordinator_resigns(autojump_clock, scene):
    async with trio.open_nursery() as nursery:
        member, generation = await scene.member()
        joined, synced, committed = [], [], []
        await in_background(nursery, joined, scene.join_for_good)
        other, _ = await scene.member(group="others")
        scene.replicas.lag = True
        await in_background(nursery, committed, scene.commit, {ORDERS_0: 1}, member, generation)
        joining = await scene.join_for_good(group="syncers")
        await in_background(
            nursery,
            synced,
            scene.sync,
            joining.member_id,
            1,
            {joining.member_id: b""},
            group="syncers",
        )
        assert joined == synced == committed == []
        for partition in range(PARTITIONS):
            scene.resign(partition)
        await trio.testing.wait_all_tasks_blocked()
        assert joined[0].error_code == ErrorCode.NOT_COORDINATOR
        assert synced[0].error_code == ErrorCode.NOT_COORDINATOR
        assert committed == [[ErrorCode.NOT_COORDINATOR]]
        assert scene.heartbeat(other, 1, group="others") is ErrorCode.NOT_COORDINATOR
        assert scene.groups.statistics().groups == 0


async def test_a_member_whose_connection_is_gone_leaves_no_one_waiting(autojump_clock, scene):
    member, generation = await scene.member()
    async with trio.open_nursery() as nursery:
        await in_background(nursery, [], scene.join_for_good)
        nursery.cancel_scope.cancel()
    assert scene.groups.statistics().requests_waiting == 0
    again = await scene.join(member)
    assert again.generation_id == generation + 1
    assert len(again.members) == 2


async def test_sessions_expire_when_it_is_time(autojump_clock, scene):
    member, generation = await scene.member()
    await trio.sleep(9.99)
    assert scene.heartbeat(member, generation) is NONE
    await trio.sleep(9.99)
    assert scene.state() == "Stable"
    await trio.sleep(0.02)
    assert scene.state() == "Empty"
    assert scene.heartbeat(member, generation) is ErrorCode.UNKNOWN_MEMBER_ID


async def test_the_initial_delay_is_kept(autojump_clock):
    settings = {"group_initial_rebalance_delay_ms": 3000}
    async with CoordinatorScene(**settings).running() as scene:
        began = trio.current_time()
        joined = await scene.join_for_good()
        assert joined.generation_id == 1
        assert 3.0 <= trio.current_time() - began < 3.1


async def test_a_refused_newcomer_leaves_no_group_behind(autojump_clock, scene):
    for bad in (
        {"session_timeout_ms": 1},
        {"protocols": []},
        {"protocol_type": ""},
        {"member_id": "nobody"},
        {"member_id": "nobody", "session_timeout_ms": 1},
    ):
        assert (await scene.join(**bad)).error_code
    assert scene.groups.list_groups() == (NONE, [])
    refused = await scene.join(member_id="nobody", session_timeout_ms=1)
    assert refused.error_code == ErrorCode.INVALID_SESSION_TIMEOUT


@pytest.mark.parametrize(
    "bad", [{"speaks": "p" * 32_768}, {"protocol_type": "t" * 32_768}, {"group_instance_id": ""}]
)
async def test_names_that_cannot_be_written_are_refused(autojump_clock, scene, bad):
    assert (await scene.join(**bad)).error_code == ErrorCode.INVALID_REQUEST


async def test_leaving_is_answered_member_by_member(autojump_clock, scene):
    member, _ = await scene.member()
    response = scene.leave(member, "nobody", MemberIdentity(group_instance_id="who"))
    assert [m.error_code for m in response.members] == [
        NONE,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.UNKNOWN_MEMBER_ID,
    ]
    assert [m.member_id for m in response.members] == [member, "nobody", ""]
    assert scene.state() == "Empty"


async def test_leaving_a_group_that_does_not_exist_is_answered_by_member(autojump_clock, scene):
    response = scene.leave("a", "b")
    assert response.error_code == NONE
    assert {m.error_code for m in response.members} == {ErrorCode.UNKNOWN_MEMBER_ID}


async def test_requests_to_a_group_that_does_not_exist(autojump_clock, scene):
    unknown = ErrorCode.UNKNOWN_MEMBER_ID
    assert scene.heartbeat("m", 0) is unknown
    assert (await scene.sync("m", 0)).error_code == unknown
    assert await scene.commit({ORDERS_0: 1}, "m", 3) == [ErrorCode.ILLEGAL_GENERATION]
    assert scene.fetch(ORDERS_0) == {ORDERS_0: -1}
    assert (scene.state(), scene.describe().error_code) == ("Dead", NONE)


# Offsets.


async def test_a_commit_is_seen_once_it_is_acknowledged(autojump_clock, scene):
    assert await scene.commit({ORDERS_0: 10, ORDERS_1: 20}) == [NONE, NONE]
    assert scene.fetch(ORDERS_0, ORDERS_1, BILLS_0) == {ORDERS_0: 10, ORDERS_1: 20, BILLS_0: -1}
    assert scene.fetch() == {ORDERS_0: 10, ORDERS_1: 20}
    assert scene.groups.statistics().commits == 2
    (entry, _) = written(scene.log())
    key, value = entry
    assert key == OffsetKey(group=GROUP, topic="orders", partition=0)
    assert (value.offset, value.leader_epoch) == (10, 5)
    assert value.commit_timestamp == EPOCH_S * 1000


async def test_a_commit_is_not_seen_before_the_replicas_have_it(autojump_clock, scene):
    await scene.commit({ORDERS_0: 10})
    scene.replicas.lag = True
    async with trio.open_nursery() as nursery:
        codes = []
        await in_background(nursery, codes, scene.commit, {ORDERS_0: 11})
        assert codes == []
        assert scene.fetch(ORDERS_0) == {ORDERS_0: 10}
        unstable = {ORDERS_0: ErrorCode.UNSTABLE_OFFSET_COMMIT}
        assert scene.fetch(ORDERS_0, require_stable=True) == unstable
        assert scene.fetch(ORDERS_1, require_stable=True) == {ORDERS_1: -1}
        scene.replicas.replicate(scene.partition())
        await trio.testing.wait_all_tasks_blocked()
        assert codes == [[NONE]]
        assert scene.fetch(ORDERS_0, require_stable=True) == {ORDERS_0: 11}


async def test_overlapping_commits_count_in_the_order_of_the_log(autojump_clock, scene):
    scene.replicas.lag = True
    async with trio.open_nursery() as nursery:
        codes = []
        for offset in (1, 2, 3):
            await in_background(nursery, codes, scene.commit, {ORDERS_0: offset})
        log = scene.log()
        scene.replicas.replicate(scene.partition(), upto=2)
        await trio.testing.wait_all_tasks_blocked()
        assert codes == [[NONE], [NONE]]
        assert scene.fetch(ORDERS_0) == {ORDERS_0: 2}
        scene.replicas.replicate(scene.partition())
    assert scene.fetch(ORDERS_0) == {ORDERS_0: 3}
    assert log.log_end_offset == 3


async def test_a_commit_that_timed_out_counts_once_it_is_replicated(autojump_clock, scene):
    scene.replicas.lag = True
    assert await scene.commit({ORDERS_0: 10}) == [ErrorCode.REQUEST_TIMED_OUT]
    assert scene.fetch(ORDERS_0, require_stable=True) == {ORDERS_0: -1}
    assert scene.groups.statistics().commit_failures == 1
    scene.replicas.replicate(scene.partition())
    assert scene.fetch(ORDERS_0) == {ORDERS_0: 10}


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_COORDINATOR),
        (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_COORDINATOR),
        (ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.INVALID_COMMIT_OFFSET_SIZE),
        (ErrorCode.RECORD_LIST_TOO_LARGE, ErrorCode.INVALID_COMMIT_OFFSET_SIZE),
        (ErrorCode.INVALID_FETCH_SIZE, ErrorCode.INVALID_COMMIT_OFFSET_SIZE),
        (ErrorCode.CORRUPT_MESSAGE, ErrorCode.CORRUPT_MESSAGE),
    ],
)
async def test_a_commit_that_the_log_refuses_is_an_error_and_not_seen(
    autojump_clock, scene, refusal, told
):
    scene.replicas.refusal = refusal
    assert await scene.commit({ORDERS_0: 10}) == [told]
    assert scene.fetch(ORDERS_0) == {ORDERS_0: -1}


def test_write_errors_are_told_as_kafka_tells_them():
    assert commit_write_error(ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND) is (
        ErrorCode.COORDINATOR_NOT_AVAILABLE
    )
    assert commit_write_error(ErrorCode.REQUEST_TIMED_OUT) is ErrorCode.REQUEST_TIMED_OUT
    assert group_write_error(ErrorCode.REQUEST_TIMED_OUT) is ErrorCode.REBALANCE_IN_PROGRESS
    assert group_write_error(ErrorCode.INVALID_FETCH_SIZE) is ErrorCode.UNKNOWN_SERVER_ERROR
    assert group_write_error(NONE) is commit_write_error(NONE) is NONE


async def test_what_cannot_be_committed_is_refused_one_by_one(autojump_clock, scene):
    codes = await scene.commit({ORDERS_0: 1, ("orders", 9): 2, ("nothing", 0): 3, BILLS_0: 4})
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert codes == [NONE, unknown, unknown, NONE]
    assert scene.fetch() == {ORDERS_0: 1, BILLS_0: 4}


@pytest.mark.parametrize(
    ("length", "code"), [(4096, NONE), (4097, ErrorCode.OFFSET_METADATA_TOO_LARGE)]
)
async def test_metadata_has_a_limit(autojump_clock, scene, length, code):
    assert await scene.commit({ORDERS_0: 1}, metadata="é" * length) == [code]


async def test_null_metadata_is_empty(autojump_clock, scene):
    await scene.commit({ORDERS_0: 1}, metadata=None)
    ((_, value),) = written(scene.log())
    assert value.metadata == ""


async def test_nothing_to_commit_writes_nothing(autojump_clock, scene):
    assert await scene.commit({("nothing", 0): 1}) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert await scene.commit({}) == []
    assert scene.log().log_end_offset == 0


async def test_a_member_commits_in_its_own_name_only(autojump_clock, scene):
    member, generation = await scene.member()
    assert await scene.commit({ORDERS_0: 1}, member, generation) == [NONE]
    assert await scene.commit({ORDERS_0: 2}, member, 0) == [ErrorCode.ILLEGAL_GENERATION]
    assert await scene.commit({ORDERS_0: 2}) == [ErrorCode.UNKNOWN_MEMBER_ID]
    assert scene.fetch() == {ORDERS_0: 1}


async def test_a_compressed_offsets_topic_is_read_back(autojump_clock):
    async with CoordinatorScene(offsets_topic_compression_codec=1).running() as scene:
        await scene.commit({ORDERS_0: 1})
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.fetch() == {ORDERS_0: 1}


# Failover.


async def failover(scene, **settings):
    """Another broker, with the same logs."""
    return CoordinatorScene(scene.replicas.logs, **settings)


async def test_a_failover_forgets_neither_groups_nor_offsets(autojump_clock):
    async with CoordinatorScene().running() as scene:
        member, generation = await scene.member()
        await scene.commit({ORDERS_0: 10}, member, generation)
        await scene.commit({ORDERS_0: 11}, member, generation)
        await scene.commit({BILLS_0: 5}, group="simple")
        described = scene.describe()
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.fetch() == {ORDERS_0: 11}
        assert successor.fetch(group="simple") == {BILLS_0: 5}
        assert successor.describe() == described
        assert successor.state() == "Stable"
        assert successor.state("simple") == "Empty"
        assert successor.heartbeat(member, generation) is NONE
        synced = await successor.sync(member, generation)
        assert synced.assignment == b"all"
        assert await successor.commit({ORDERS_0: 9}, member, generation - 1) == [
            ErrorCode.ILLEGAL_GENERATION
        ]


async def test_after_a_failover_sessions_begin_anew(autojump_clock):
    async with CoordinatorScene().running() as scene:
        member, generation = await scene.member()
        await trio.sleep(9)
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        await trio.sleep(9.9)
        assert successor.heartbeat(member, generation) is NONE
        await trio.sleep(10.1)
        assert successor.state() == "Empty"


async def test_an_acknowledged_commit_survives_whatever_was_not_replicated_does_not(
    autojump_clock,
):
    async with CoordinatorScene().running() as scene:
        await scene.commit({ORDERS_0: 10})
        scene.replicas.lag = True
        assert await scene.commit({ORDERS_0: 11}) == [ErrorCode.REQUEST_TIMED_OUT]
        log = scene.log()
    log.truncate_to(log.high_watermark)
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.fetch() == {ORDERS_0: 10}


async def test_while_it_loads_clients_are_told_to_wait(autojump_clock):
    async with CoordinatorScene().running() as scene:
        await scene.commit({ORDERS_0: 10})
    async with CoordinatorScene(scene.replicas.logs).running(loaded=False) as successor:
        wait = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        assert (await successor.join()).error_code == wait
        assert successor.leave("m").error_code == wait
        assert await successor.commit({ORDERS_0: 1}) == [wait]
        assert successor.fetch() is wait
        assert successor.describe().error_code == wait
        assert successor.groups.list_groups() == (wait, [])
        # A member need not be alarmed, but one in a rebalance must join again.
        assert successor.heartbeat("m", 0) is NONE
        assert (await successor.sync("m", 0)).error_code == ErrorCode.REBALANCE_IN_PROGRESS
        await successor.loaded()
        assert successor.fetch() == {ORDERS_0: 10}


async def test_a_new_coordinator_waits_until_the_replicas_have_what_it_read(autojump_clock):
    async with CoordinatorScene().running() as scene:
        await scene.commit({ORDERS_0: 10})
    scene.log().high_watermark = 0
    async with CoordinatorScene(scene.replicas.logs).running(loaded=False) as successor:
        await trio.sleep(1)
        assert successor.fetch() is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        successor.replicas.replicate(successor.partition())
        await trio.testing.wait_all_tasks_blocked()
        assert successor.fetch() == {ORDERS_0: 10}


async def test_but_not_for_ever(autojump_clock, caplog):
    async with CoordinatorScene().running() as scene:
        await scene.commit({ORDERS_0: 10})
    scene.log().high_watermark = 0
    async with CoordinatorScene(scene.replicas.logs).running(loaded=False) as successor:
        await trio.sleep(TIMEOUT_S + 0.1)
        assert successor.fetch() == {ORDERS_0: 10}
    assert "not replicated yet" in caplog.text


async def test_a_resignation_stops_the_loading(autojump_clock):
    async with CoordinatorScene().running() as scene:
        await scene.commit({ORDERS_0: 10})
    scene.log().high_watermark = 0
    async with CoordinatorScene(scene.replicas.logs).running(loaded=False) as successor:
        await trio.testing.wait_all_tasks_blocked()
        successor.resign(successor.partition())
        await trio.testing.wait_all_tasks_blocked()
        assert successor.fetch() is ErrorCode.NOT_COORDINATOR
        assert successor.groups.statistics().partitions_loading == 0
        # And it may lead again, from the beginning.
        successor.lead(successor.partition(), 3)
        successor.replicas.replicate(successor.partition())
        await successor.loaded()
        assert successor.fetch() == {ORDERS_0: 10}


async def test_a_newer_epoch_without_a_resignation_keeps_everything(autojump_clock, scene):
    member, generation = await scene.member()
    scene.lead(scene.partition(), 4)
    assert scene.heartbeat(member, generation) is NONE


async def test_a_log_is_loaded_piece_by_piece(autojump_clock):
    async with CoordinatorScene().running() as scene:
        for offset in range(40):
            await scene.commit({ORDERS_0: offset, ORDERS_1: offset}, group=f"g{offset % 3}")
    for log in scene.replicas.logs.values():
        log.torn_reads = True
    settings = {"offsets_load_buffer_size": 500}
    async with CoordinatorScene(scene.replicas.logs, **settings).running() as successor:
        for group, newest in (("g0", 39), ("g1", 37), ("g2", 38)):
            assert successor.fetch(group=group) == {ORDERS_0: newest, ORDERS_1: newest}
        assert all(log.readers == 0 for log in scene.replicas.logs.values())


async def test_an_unreadable_record_costs_nobody_else_a_group(autojump_clock, caplog):
    scene = CoordinatorScene()
    log = scene.replicas.lead(scene.partition())
    key = encode_key(OffsetKey(group=GROUP, topic="orders", partition=0))
    good = encode_value(OffsetValue(offset=3, metadata="", commit_timestamp=1))
    for record in (
        Record(key, b"\0\x09nonsense", 0),
        Record(b"", b"", 0),
        Record(None, b"", 0),
        Record(b"\0\x05later protocol", b"?", 0),
        Record(key, good, 0),
        Record(key, b"\0\3short", 0),
    ):
        log.append(build_batch([record]))
    log.high_watermark = log.log_end_offset
    async with scene.running():
        assert scene.fetch() == {ORDERS_0: 3}
    assert caplog.text.count("unreadable record") == 4


async def test_a_partition_whose_log_is_torn_is_left_to_another_leader(autojump_clock, caplog):
    async with CoordinatorScene().running() as scene:
        await scene.commit({ORDERS_0: 1})
    log = scene.log()
    log.batches[0].view = log.batches[0].view[:40]
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.fetch() is ErrorCode.NOT_COORDINATOR
        assert successor.groups.statistics().partitions_failed == 1
        # Led anew, it tries again.
        log.truncate_to(0)
        log.batches.clear()
        log.log_end_offset = log.high_watermark = 0
        successor.lead(successor.partition(), 2)
        await successor.loaded()
        assert successor.fetch() == {}
    assert "cannot load groups" in caplog.text


async def test_a_partition_on_a_broken_disk_is_left_to_another_leader(autojump_clock):
    async with CoordinatorScene().running() as scene:
        await scene.commit({ORDERS_0: 1})
    scene.log().broken = StorageError("read failed", "/disk")
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.fetch() is ErrorCode.NOT_COORDINATOR
        assert [error.path for error in successor.replicas.storage_errors] == ["/disk"]


def marker(log, producer_id, kind):
    log.append(
        build_batch(
            [Record(b"\0\0" + kind.to_bytes(2), b"\0\0\0\0\0\0", 0)],
            producer_id=producer_id,
            producer_epoch=0,
            transactional=True,
            control=True,
        )
    )


def commit_record(log, tp, offset, **batch):
    key = encode_key(OffsetKey(group=GROUP, topic=tp[0], partition=tp[1]))
    value = encode_value(OffsetValue(offset=offset, metadata="", commit_timestamp=1))
    log.append(build_batch([Record(key, value, 0)], **batch))


async def test_transactional_commits_count_as_their_transactions_ended(autojump_clock):
    scene = CoordinatorScene()
    log = scene.replicas.lead(scene.partition())
    transaction = {"producer_epoch": 0, "base_sequence": 0, "transactional": True}
    commit_record(log, ORDERS_0, 1)
    commit_record(log, ORDERS_0, 2, producer_id=7, **transaction)
    commit_record(log, ORDERS_1, 3, producer_id=8, **transaction)
    commit_record(log, BILLS_0, 4, producer_id=9, **transaction)
    commit_record(log, ("orders", 2), 5, producer_id=7, **transaction)
    commit_record(log, ("orders", 2), 6)
    marker(log, 7, 1)
    marker(log, 8, 0)
    log.high_watermark = log.log_end_offset
    async with scene.running():
        assert scene.fetch() == {ORDERS_0: 2, ("orders", 2): 6}
        assert scene.fetch(BILLS_0, require_stable=True) == {
            BILLS_0: ErrorCode.UNSTABLE_OFFSET_COMMIT
        }


@pytest.mark.parametrize("committed", [True, False])
async def test_a_transaction_that_was_left_open_ends_with_its_marker(autojump_clock, committed):
    scene = CoordinatorScene()
    log = scene.replicas.lead(scene.partition())
    transaction = {"producer_epoch": 0, "base_sequence": 0, "transactional": True}
    commit_record(log, ORDERS_0, 1)
    commit_record(log, ORDERS_0, 2, producer_id=7, **transaction)
    log.high_watermark = log.log_end_offset

    def end():
        batch = build_marker(7, 0, committed=committed, coordinator_epoch=0, timestamp=0)
        ended = EndedTransaction(7, committed)
        return scene.groups.append_marker(scene.partition(), batch, ended)

    async with scene.running(loaded=False):
        with pytest.raises(ApiError) as refused:
            end()
        assert refused.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER
        await scene.loaded()
        scene.replicas.lag = True
        assert end().base_offset == 2
        undecided = {ORDERS_0: ErrorCode.UNSTABLE_OFFSET_COMMIT}
        assert scene.fetch(ORDERS_0, require_stable=True) == undecided
        scene.replicas.replicate(scene.partition())
        decided = {ORDERS_0: 2 if committed else 1}
        assert scene.fetch(ORDERS_0, require_stable=True) == decided
        scene.replicas.lose(scene.partition())
        with pytest.raises(ApiError) as refused:
            end()
        assert refused.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.fetch(ORDERS_0, require_stable=True) == decided


# Expiry.


async def until_expiry(seconds=RETENTION_S):
    await trio.sleep(seconds + 601)


async def test_offsets_of_a_simple_group_expire_from_the_commit_on(autojump_clock, scene):
    await scene.commit({ORDERS_0: 1})
    await trio.sleep(3 * 24 * 3600)
    await scene.commit({ORDERS_1: 2})
    await until_expiry(4 * 24 * 3600)
    assert scene.fetch() == {ORDERS_1: 2}
    await until_expiry(3 * 24 * 3600)
    assert scene.fetch() == {}
    assert scene.groups.list_groups() == (NONE, [])
    assert scene.groups.statistics().offsets_expired == 2
    # Tombstones of the offsets; a group that was never written needs none.
    assert [key for key, value in written(scene.log()) if value is None] == [
        OffsetKey(group=GROUP, topic="orders", partition=0),
        OffsetKey(group=GROUP, topic="orders", partition=1),
    ]


async def test_offsets_of_an_emptied_group_expire_from_then_on(autojump_clock, scene):
    member, generation = await scene.member()
    await scene.commit({ORDERS_0: 1}, member, generation)
    for _ in range(600):
        await trio.sleep(6)
        assert scene.heartbeat(member, generation) is NONE
    scene.leave(member)
    await trio.sleep(RETENTION_S - 1)
    assert scene.fetch() == {ORDERS_0: 1}
    await until_expiry(0)
    assert scene.fetch() == {}
    assert scene.state() == "Dead"
    assert written(scene.log())[-1] == (GroupKey(group=GROUP), None)
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.groups.list_groups() == (NONE, [])


async def test_an_empty_group_that_was_loaded_expires_by_when_it_became_empty(autojump_clock):
    async with CoordinatorScene().running() as scene:
        member, generation = await scene.member()
        await scene.commit({ORDERS_0: 1}, member, generation)
        await trio.sleep(5)
        scene.leave(member)
        await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(RETENTION_S - 3_600)
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.fetch() == {ORDERS_0: 1}
        await until_expiry(3_600)
        assert successor.fetch() == {}


async def test_an_explicit_retention_overrides(autojump_clock, scene):
    codes = await scene.commit({ORDERS_0: 1}, retention_time_ms=3_600_000)
    assert codes == [NONE]
    await scene.commit({ORDERS_1: 1})
    ((_, explicit), _) = written(scene.log())
    assert explicit.expire_timestamp == explicit.commit_timestamp + 3_600_000
    await until_expiry(3_600)
    assert scene.fetch() == {ORDERS_1: 1}


@pytest.mark.parametrize("retention_ms", [2**63 - 1, 2**63 - 2**40])
async def test_a_retention_beyond_the_end_of_time_is_for_ever(autojump_clock, scene, retention_ms):
    assert await scene.commit({ORDERS_0: 1}, retention_time_ms=retention_ms) == [NONE]
    ((_, explicit),) = written(scene.log())
    assert explicit.expire_timestamp == 2**63 - 1


async def test_a_commit_on_its_way_is_not_undone_by_expiry(autojump_clock, scene):
    await scene.commit({ORDERS_0: 1})
    await trio.sleep(RETENTION_S + 590)
    scene.replicas.lag = True
    async with trio.open_nursery() as nursery:
        codes = []
        await in_background(nursery, codes, scene.commit, {ORDERS_0: 2})
        await trio.sleep(4)
        scene.replicas.replicate(scene.partition())
        await trio.testing.wait_all_tasks_blocked()
    assert codes == [[NONE]]
    scene.replicas.lag = False
    await until_expiry(0)
    assert scene.fetch() == {ORDERS_0: 2}


async def test_while_commits_are_in_flight_expiry_leaves_them_alone(autojump_clock):
    """The tombstone would follow the commit in the log and undo it."""
    async with CoordinatorScene().running() as scene:
        await scene.commit({ORDERS_0: 1})
        await trio.sleep(RETENTION_S - 602)
        scene.replicas.lag = True
        await scene.commit({ORDERS_0: 2})  # times out, and stays in flight
        await trio.sleep(1_300)
        scene.replicas.replicate(scene.partition())
        assert scene.fetch() == {ORDERS_0: 2}


async def test_a_log_that_refuses_tombstones_keeps_the_offsets(autojump_clock, scene, caplog):
    await scene.commit({ORDERS_0: 1})
    scene.replicas.refusal = ErrorCode.NOT_ENOUGH_REPLICAS
    await until_expiry()
    assert scene.fetch() == {ORDERS_0: 1}
    assert "offsets not purged" in caplog.text
    scene.replicas.refusal = None
    await until_expiry(0)
    assert scene.fetch() == {}


async def test_a_partition_that_is_led_no_longer_is_dropped_in_time(autojump_clock, scene):
    await scene.commit({ORDERS_0: 1})
    scene.replicas.lose(scene.partition())
    await trio.sleep(601)
    assert scene.groups.statistics().partitions_active == PARTITIONS - 1


async def test_deleted_topics_take_their_offsets_along(autojump_clock, scene):
    await scene.commit({ORDERS_0: 1, BILLS_0: 2})
    scene.replicas.lag = True
    async with trio.open_nursery() as nursery:
        await in_background(nursery, [], scene.commit, {ORDERS_1: 3})
        scene.groups.topics_deleted({"orders"})
        scene.replicas.replicate(scene.partition())
    assert scene.fetch() == {BILLS_0: 2}
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.fetch() == {BILLS_0: 2}


async def test_topics_deleted_while_loading_take_their_offsets_along(autojump_clock):
    async with CoordinatorScene().running() as scene:
        await scene.commit({ORDERS_0: 1, BILLS_0: 2})
    async with CoordinatorScene(scene.replicas.logs).running(loaded=False) as successor:
        successor.groups.topics_deleted({"orders"})
        await successor.loaded()
        assert successor.fetch() == {BILLS_0: 2}


# Administration.


async def test_describing_tells_members_data_of_a_stable_group_only(autojump_clock, scene):
    member, _ = await scene.member(topics=b"subscription")
    stable = scene.describe()
    assert (stable.group_state, stable.protocol_type, stable.protocol_data) == (
        "Stable", "consumer", "range",
    )  # fmt: skip
    (described,) = stable.members
    assert (described.member_id, described.client_id, described.client_host) == (
        member, "client", "/10.0.0.1",
    )  # fmt: skip
    assert (described.member_metadata, described.member_assignment) == (b"subscription", b"all")
    async with trio.open_nursery() as nursery:
        await in_background(nursery, [], scene.join_for_good)
        preparing = scene.describe()
        assert (preparing.group_state, preparing.protocol_data) == ("PreparingRebalance", "")
        assert {(m.member_metadata, m.member_assignment) for m in preparing.members} == {(b"", b"")}
        nursery.cancel_scope.cancel()


async def test_groups_are_listed_by_state_and_type_whatever_the_case(autojump_clock, scene):
    await scene.member()
    await scene.commit({ORDERS_0: 1}, group="simple")

    def listed(states=(), types=()):
        error, groups = scene.groups.list_groups(states, types)
        assert error is NONE
        return sorted(group.group_id for group in groups)

    assert listed() == [GROUP, "simple"]
    assert listed(["stable"]) == [GROUP]
    assert listed(["EMPTY", "Dead"]) == ["simple"]
    assert listed(["nonsense"]) == []
    assert listed(types=["Classic"]) == [GROUP, "simple"]
    assert listed(types=["consumer"]) == []
    (group,) = scene.groups.list_groups(["Stable"])[1]
    assert (group.protocol_type, group.group_state, group.group_type) == (
        "consumer", "Stable", "classic",
    )  # fmt: skip


async def test_only_empty_groups_are_deleted(autojump_clock, scene):
    member, _ = await scene.member()
    await scene.commit({ORDERS_0: 1}, group="simple")
    results = await scene.groups.delete_groups([GROUP, "simple", "nobody", GROUP])
    assert [(r.group_id, r.error_code) for r in results] == [
        (GROUP, ErrorCode.NON_EMPTY_GROUP),
        ("simple", NONE),
        ("nobody", ErrorCode.GROUP_ID_NOT_FOUND),
    ]
    assert scene.fetch(group="simple") == {}
    assert scene.state("simple") == "Dead"
    scene.leave(member)
    (deleted,) = await scene.groups.delete_groups([GROUP])
    assert deleted.error_code == NONE
    async with CoordinatorScene(scene.replicas.logs).running() as successor:
        assert successor.groups.list_groups() == (NONE, [])


async def test_very_many_groups_that_are_none_take_no_task_each(autojump_clock, scene):
    before = trio.lowlevel.current_statistics().tasks_living
    most = 0

    class Watching(trio.abc.Instrument):
        def before_task_step(self, task):
            nonlocal most
            most = max(most, trio.lowlevel.current_statistics().tasks_living)

    watching = Watching()
    trio.lowlevel.add_instrument(watching)
    results = await scene.groups.delete_groups([f"nobody-{i}" for i in range(2000)])
    trio.lowlevel.remove_instrument(watching)
    assert {result.error_code for result in results} == {ErrorCode.GROUP_ID_NOT_FOUND}
    assert len(results) == 2000
    assert most <= before + 1


async def test_a_group_deleted_with_a_commit_in_flight_does_not_come_back(autojump_clock, scene):
    await scene.commit({ORDERS_0: 1})
    scene.replicas.lag = True
    async with trio.open_nursery() as nursery:
        codes, deleted = [], []
        await in_background(nursery, codes, scene.commit, {ORDERS_1: 2})
        await in_background(nursery, deleted, scene.groups.delete_groups, [GROUP])
        assert deleted == []
        scene.replicas.replicate(scene.partition())
        await trio.testing.wait_all_tasks_blocked()
    assert deleted[0][0].error_code == NONE
    assert scene.fetch() == {}


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_COORDINATOR),
    ],
)
async def test_a_group_whose_tombstones_are_refused_stays(autojump_clock, scene, refusal, told):
    await scene.commit({ORDERS_0: 1})
    scene.replicas.refusal = refusal
    (deleted,) = await scene.groups.delete_groups([GROUP])
    assert deleted.error_code == told
    assert scene.state() == "Empty"
    assert scene.fetch() == {ORDERS_0: 1}


def delete_request(*tps, group=GROUP):
    return OffsetDeleteRequest(
        group_id=group,
        topics=[
            OffsetDeleteRequestTopic(
                name=topic, partitions=[OffsetDeleteRequestPartition(partition_index=index)]
            )
            for topic, index in tps
        ],
    )


def codes(response):
    return [p.error_code for t in response.topics for p in t.partitions]


async def test_single_offsets_are_deleted(autojump_clock, scene):
    await scene.commit({ORDERS_0: 1, BILLS_0: 2})
    request = delete_request(ORDERS_0, ORDERS_1, ("nothing", 0))
    response = await scene.groups.delete_offsets(request)
    assert codes(response) == [NONE, NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert scene.fetch() == {BILLS_0: 2}
    assert scene.groups.statistics().offsets_deleted == 1


async def test_offsets_of_topics_that_somebody_reads_are_not_deleted(autojump_clock, scene):
    subscription = b"\0\0\0\0\0\1\0\6orders\xff\xff\xff\xff"
    member, generation = await scene.member(topics=subscription)
    await scene.commit({ORDERS_0: 1, BILLS_0: 2}, member, generation)
    response = await scene.groups.delete_offsets(delete_request(ORDERS_0, BILLS_0))
    assert codes(response) == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, NONE]
    assert scene.fetch() == {ORDERS_0: 1}
    scene.leave(member)
    response = await scene.groups.delete_offsets(delete_request(ORDERS_0))
    assert codes(response) == [NONE]


async def test_with_an_unreadable_subscription_every_topic_may_be_read(autojump_clock, scene):
    member, generation = await scene.member(topics=b"?")
    await scene.commit({ORDERS_0: 1}, member, generation)
    response = await scene.groups.delete_offsets(delete_request(ORDERS_0))
    assert codes(response) == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC]


async def test_a_group_of_no_consumers_must_be_empty(autojump_clock, scene):
    await scene.member(protocol_type="connect")
    response = await scene.groups.delete_offsets(delete_request(ORDERS_0))
    assert response.error_code == ErrorCode.NON_EMPTY_GROUP
    response = await scene.groups.delete_offsets(delete_request(ORDERS_0, group="nobody"))
    assert response.error_code == ErrorCode.GROUP_ID_NOT_FOUND


async def test_a_stable_group_keeps_offsets_of_topics_it_reads(autojump_clock):
    subscription = b"\0\0\0\0\0\1\0\6orders\xff\xff\xff\xff"
    async with CoordinatorScene(offsets_retention_minutes=1).running() as scene:
        member, generation = await scene.member(topics=subscription, session_timeout_ms=1_800_000)
        await scene.commit({ORDERS_0: 1, BILLS_0: 2}, member, generation)
        await until_expiry(60)
        assert scene.fetch() == {ORDERS_0: 1}


# Looking.


async def test_statistics_count_what_there_is(autojump_clock, scene):
    member, generation = await scene.member()
    await scene.commit({ORDERS_0: 1, BILLS_0: 1}, member, generation)
    await scene.commit({ORDERS_0: 1}, group="simple")
    statistics = scene.groups.statistics()
    assert statistics.groups == 2
    assert statistics.groups_by_state[GroupState.STABLE] == 1
    assert statistics.groups_by_state[GroupState.EMPTY] == 1
    assert statistics.members == 1
    assert statistics.offsets == 3
    assert statistics.commits == 3
    assert (statistics.rebalances, statistics.generations) == (1, 1)
    assert (statistics.partitions_active, statistics.partitions_loading) == (PARTITIONS, 0)
    assert statistics.writes_unreplicated == 0


async def test_the_operator_reads_a_line_however_long_the_ids(autojump_clock, scene, caplog):
    caplog.set_level("INFO", "zkafka.state_change")
    group = "g\n" * 10_000
    scene.lead(scene.partition(group))
    await scene.loaded()
    await scene.member(group=group, group_instance_id="i" * 30_000)
    lines = [r.getMessage() for r in caplog.records if "group changed" in r.getMessage()]
    assert len(lines) >= 2
    assert all(len(line) < 2_000 and "\n" not in line for line in lines)


async def test_the_operator_reads_of_every_generation(autojump_clock, scene, caplog):
    caplog.set_level("INFO", "zkafka.state_change")
    await scene.member()
    assert "state=CompletingRebalance generation=1 members=1" in caplog.text
    scene.resign(scene.partition())
    assert "resigned as coordinator" in caplog.text
    tp = TopicPartition(OFFSETS_TOPIC, scene.partition())
    assert f"partition={tp}" in caplog.text
