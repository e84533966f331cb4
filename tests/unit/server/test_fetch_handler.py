import pytest
import server_fakes as fakes
import trio
import trio.testing
from answers import fetched

from zkafka.errors import ErrorCode
from zkafka.log.transactions import AbortedTransaction
from zkafka.model import EpochEndOffset, TopicPartition
from zkafka.protocol.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    ForgottenTopic,
    ReplicaState,
)
from zkafka.replication.replicas import PartitionRead

TP = TopicPartition("t", 0)
OTHER = TopicPartition("t", 1)


@pytest.fixture
def parts():
    made = fakes.parts()
    made.metadata.apply(fakes.update_metadata())
    made.replicas.put(TP)
    made.replicas.put(OTHER)
    yield made
    made.fetch_sessions.check()


@pytest.fixture
def replicas(parts):
    return parts.replicas


def request(*offsets, session=(0, -1), version=12, wait=0, min_bytes=1, max_bytes=1000, **extra):
    """A fetch of (partition, offset) pairs of the topic `t`."""
    by_id = {"topic_id": fakes.TOPIC_ID} if version >= 13 else {"topic": "t"}
    topics = [
        FetchTopic(
            **by_id,
            partitions=[
                FetchPartition(partition=p, fetch_offset=offset, partition_max_bytes=500)
                for p, offset in offsets
            ],
        )
    ]
    return FetchRequest(
        session_id=session[0],
        session_epoch=session[1],
        max_wait_ms=wait,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        topics=topics if offsets else [],
        **extra,
    )


async def ask(parts, *offsets, version=12, **kwargs):
    return await fetched(
        request(*offsets, version=version, **kwargs), fakes.context(parts, version)
    )


def sizes(response):
    """Bytes of records by partition."""
    return {
        p.partition_index: getattr(p.records, "size", 0)
        for topic in response.responses
        for p in topic.partitions
    }


def codes(response):
    return {p.partition_index: p.error_code for t in response.responses for p in t.partitions}


async def test_records_come_with_the_offsets_around_them(parts, replicas):
    replicas.put(TP, 10, 20, 30)
    response = await ask(parts, (0, 1))
    (topic,) = response.responses
    (partition,) = topic.partitions
    assert topic.topic == "t"
    assert partition.records.size == 50
    assert (partition.high_watermark, partition.last_stable_offset) == (3, 3)
    assert partition.log_start_offset == 0
    assert partition.aborted_transactions is None
    assert replicas.held == [partition.records]


async def test_topics_are_answered_by_id_from_version_13_on(parts, replicas):
    replicas.put(TP, 10)
    response = await ask(parts, (0, 0), version=13)
    assert response.responses[0].topic_id == fakes.TOPIC_ID
    assert sizes(response) == {0: 10}


async def test_an_empty_partition_has_empty_records_not_null(parts):
    response = await ask(parts, (0, 0))
    assert response.responses[0].partitions[0].records == b""


async def test_read_committed_gets_an_empty_list_of_aborted_transactions(parts):
    response = await ask(parts, (0, 0), isolation_level=1)
    assert response.responses[0].partitions[0].aborted_transactions == []


async def test_read_committed_is_told_what_was_aborted(parts, replicas):
    replicas.put(TP, 10)
    replicas.aborted[TP] = [AbortedTransaction(7, 0, 3, 4), AbortedTransaction(8, 2, 5, 6)]
    response = await ask(parts, (0, 0), isolation_level=1)
    told = response.responses[0].partitions[0].aborted_transactions
    assert [(one.producer_id, one.first_offset) for one in told] == [(7, 0), (8, 2)]


# --- Limits -------------------------------------------------------------------------------------


async def test_the_first_batch_comes_however_large(parts, replicas):
    replicas.put(TP, 5000)
    replicas.put(OTHER, 5000)
    assert sizes(await ask(parts, (0, 0), (1, 0))) == {0: 5000, 1: 0}


async def test_limits_of_request_and_partition_hold_after_it(parts, replicas):
    replicas.put(TP, *[100] * 8)
    replicas.put(OTHER, *[100] * 8)
    assert sizes(await ask(parts, (0, 0), (1, 0), max_bytes=700)) == {0: 500, 1: 200}


async def test_the_brokers_own_limit_holds_as_well(parts, replicas):
    parts.config.fetch_max_bytes = 250
    replicas.put(TP, *[100] * 8)
    assert sizes(await ask(parts, (0, 0), max_bytes=2**31 - 1)) == {0: 200}


# --- Waiting ------------------------------------------------------------------------------------


async def later(delay, action, *args):
    await trio.sleep(delay)
    action(*args)


@pytest.mark.parametrize("session", [False, True])
async def test_a_fetch_waits_until_there_are_enough_bytes(parts, replicas, session, autojump_clock):
    at = (0, -1)
    if session:
        first = await ask(parts, (0, 0), (1, 0), session=(0, 0))
        at = (first.session_id, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later, 0.2, replicas.put, TP, 30)
        nursery.start_soon(later, 0.4, replicas.put, OTHER, 30)
        nursery.start_soon(later, 0.6, replicas.put, TP, 40)
        response = await ask(
            parts, *(() if session else ((0, 0), (1, 0))), session=at, wait=5000, min_bytes=100
        )
        assert trio.current_time() == pytest.approx(0.6)
    assert sizes(response) == {0: 70, 1: 30}
    assert len(replicas.held) == 2


async def test_time_runs_out_with_what_there_is(parts, replicas, autojump_clock):
    replicas.put(TP, 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later, 0.2, replicas.put, OTHER, 5)
        response = await ask(parts, (0, 0), (1, 0), wait=500, min_bytes=100)
    assert trio.current_time() == pytest.approx(0.5)
    assert sizes(response) == {0: 10, 1: 5}


async def test_only_what_moved_is_read_again_and_only_as_a_second_pass(
    parts, replicas, autojump_clock
):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later, 0.2, replicas.put, OTHER, 5)
        await ask(parts, (0, 0), (1, 0), wait=5000)
    assert replicas.reads == [(TP, True), (OTHER, True), (OTHER, False)]


async def test_an_error_ends_the_wait_at_once(parts, replicas, autojump_clock):
    replicas.errors[TP] = ErrorCode.NOT_LEADER_OR_FOLLOWER
    response = await ask(parts, (0, 0), (1, 0), wait=5000)
    assert trio.current_time() == 0
    assert codes(response) == {0: ErrorCode.NOT_LEADER_OR_FOLLOWER, 1: 0}


async def test_an_error_that_comes_while_waiting_ends_it(parts, replicas, autojump_clock):
    def lose():
        replicas.errors[TP] = ErrorCode.NOT_LEADER_OR_FOLLOWER
        replicas.purgatory.wake(TP)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later, 0.2, lose)
        response = await ask(parts, (0, 0), wait=5000)
    assert trio.current_time() == pytest.approx(0.2)
    assert codes(response) == {0: ErrorCode.NOT_LEADER_OR_FOLLOWER}


async def test_what_does_not_exist_ends_the_wait_only_when_alone(parts, autojump_clock):
    response = await ask(parts, (9, 0), wait=5000)
    assert trio.current_time() == 0
    assert codes(response) == {9: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
    response = await ask(parts, (9, 0), (0, 0), wait=700)
    assert trio.current_time() == pytest.approx(0.7)
    assert codes(response) == {9: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0: 0}


async def test_a_fetch_of_nothing_does_not_wait(parts, autojump_clock):
    assert (await ask(parts, wait=5000)).responses == []
    assert trio.current_time() == 0


async def test_a_fetch_cancelled_while_it_waits_lets_go_of_everything(parts, replicas):
    replicas.put(TP, 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(parts, (0, 0), (1, 0), wait=5000, min_bytes=100))
        await trio.testing.wait_all_tasks_blocked()
        assert len(replicas.held) == 1
        nursery.cancel_scope.cancel()
    assert replicas.held == []
    assert parts.purgatory._watches == {}


# --- Sessions -----------------------------------------------------------------------------------


async def test_an_incremental_answer_tells_only_what_changed(parts, replicas):
    replicas.put(TP, 10)
    first = await ask(parts, (0, 1), (1, 0), session=(0, 0))
    assert first.session_id > 0
    assert sizes(first) == {0: 0, 1: 0}
    second = await ask(parts, session=(first.session_id, 1))
    assert second.session_id == first.session_id
    assert sizes(second) == {}
    replicas.put(OTHER, 7)
    assert sizes(await ask(parts, session=(first.session_id, 2))) == {1: 7}


async def test_data_that_was_not_fetched_on_is_told_again(parts, replicas):
    replicas.put(TP, 10)
    first = await ask(parts, (0, 0), session=(0, 0))
    assert sizes(first) == {0: 10}
    assert sizes(await ask(parts, session=(first.session_id, 1))) == {0: 10}
    assert sizes(await ask(parts, (0, 1), session=(first.session_id, 2))) == {}


async def test_what_found_no_room_comes_with_the_next_fetch(parts, replicas):
    replicas.put(TP, 300)
    replicas.put(OTHER, 300)
    first = await ask(parts, (0, 0), (1, 0), session=(0, 0), max_bytes=300)
    assert sizes(first) == {0: 300, 1: 0}
    second = await ask(parts, (0, 1), session=(first.session_id, 1), max_bytes=300)
    assert sizes(second) == {1: 300}


async def test_an_error_is_told_as_long_as_it_lasts(parts, replicas):
    first = await ask(parts, (0, 0), session=(0, 0))
    replicas.errors[TP] = ErrorCode.KAFKA_STORAGE_ERROR
    replicas.purgatory.wake(TP)
    for epoch in (1, 2):
        response = await ask(parts, session=(first.session_id, epoch))
        assert codes(response) == {0: ErrorCode.KAFKA_STORAGE_ERROR}
    del replicas.errors[TP]
    assert codes(await ask(parts, session=(first.session_id, 3))) == {0: 0}
    assert codes(await ask(parts, session=(first.session_id, 4))) == {}


async def test_a_session_costs_what_moved_not_what_it_holds(parts, replicas):
    first = await ask(parts, *((p, 0) for p in range(2)), session=(0, 0))
    replicas.reads.clear()
    for epoch in range(1, 50):
        await ask(parts, session=(first.session_id, epoch))
    assert replicas.reads == []


async def test_what_is_fetched_beside_data_and_found_empty_costs_nothing_later(parts, replicas):
    first = await ask(parts, (0, 0), (1, 0), session=(0, 0))
    replicas.put(TP, 10)
    await ask(parts, (1, 0), session=(first.session_id, 1))
    replicas.reads.clear()
    await ask(parts, session=(first.session_id, 2))
    assert replicas.reads == [(TP, True)]


async def test_session_errors_stand_at_the_top_with_no_partitions(parts):
    response = await ask(parts, session=(99, 1))
    assert response.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert response.responses == ()


async def test_a_request_overtaken_by_the_next_of_its_session_is_refused(
    parts, replicas, autojump_clock
):
    first = await ask(parts, (0, 0), session=(0, 0))
    answers = {}

    async def take(epoch, **kwargs):
        answers[epoch] = await ask(parts, session=(first.session_id, epoch), **kwargs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: take(1, wait=5000))
        await trio.sleep(0.1)
        nursery.start_soon(lambda: take(2, wait=300))
    assert answers[1].error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert answers[2].error_code == 0
    assert trio.current_time() == pytest.approx(0.4)
    assert replicas.held == []


async def test_forgotten_partitions_are_not_told(parts, replicas):
    first = await ask(parts, (0, 0), (1, 0), session=(0, 0))
    forgotten = [ForgottenTopic(topic="t", partitions=[0])]
    await ask(parts, session=(first.session_id, 1), forgotten_topics_data=forgotten)
    replicas.put(TP, 10)
    replicas.put(OTHER, 20)
    assert sizes(await ask(parts, session=(first.session_id, 2))) == {1: 20}


# --- Topic ids ----------------------------------------------------------------------------------


async def test_an_unknown_topic_id_is_told_until_it_is_known(parts, replicas):
    parts.metadata = type(parts.metadata)("cluster")
    first = await ask(parts, (0, 0), version=13, session=(0, 0))
    assert codes(first) == {0: ErrorCode.UNKNOWN_TOPIC_ID}
    again = await ask(parts, version=13, session=(first.session_id, 1))
    assert codes(again) == {0: ErrorCode.UNKNOWN_TOPIC_ID}
    parts.metadata.apply(fakes.update_metadata())
    replicas.put(TP, 10)
    known = await ask(parts, version=13, session=(first.session_id, 2))
    assert sizes(known) == {0: 10}
    assert codes(known) == {0: 0}


# --- Followers and versions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "who"),
    [
        (12, {"replica_id": 2}),
        (17, {"replica_state": ReplicaState(replica_id=2, replica_epoch=8)}),
    ],
)
async def test_a_follower_is_known_by_the_field_of_its_version(
    parts, replicas, monkeypatch, version, who
):
    seen = []

    def read(wanted, *, replica_id, replica_epoch, **rest):
        seen.append((replica_id, replica_epoch))
        return PartitionRead(ErrorCode.NONE, 0, 0, 0)

    monkeypatch.setattr(replicas, "read", read)
    await ask(parts, (0, 0), version=version, **who)
    assert seen == [(2, 8 if version == 17 else -1)]


async def test_a_divergence_is_told_at_once(parts, replicas, monkeypatch, autojump_clock):
    diverging = PartitionRead(ErrorCode.NONE, 5, 5, 0, None, EpochEndOffset(2, 44))
    monkeypatch.setattr(replicas, "read", lambda *args, **kwargs: diverging)
    response = await ask(parts, (0, 0), wait=5000)
    assert trio.current_time() == 0
    told = response.responses[0].partitions[0].diverging_epoch
    assert (told.epoch, told.end_offset) == (2, 44)


async def test_a_wrong_leader_is_told_who_leads_from_version_16_on(parts, replicas):
    parts.metadata.apply(fakes.update_metadata(leader=2))
    replicas.errors[TP] = ErrorCode.NOT_LEADER_OR_FOLLOWER
    response = await ask(parts, (0, 0), version=16)
    leader = response.responses[0].partitions[0].current_leader
    assert (leader.leader_id, leader.leader_epoch) == (2, 3)
    assert [(n.node_id, n.host, n.port, n.rack) for n in response.node_endpoints] == [
        (2, "h2", 9092, "r2")
    ]
    response = await ask(parts, (0, 0), version=15)
    assert response.responses[0].partitions[0].current_leader.leader_id == -1
    assert response.node_endpoints == []


@pytest.mark.parametrize(
    ("version", "code"),
    [(5, ErrorCode.NOT_LEADER_OR_FOLLOWER), (6, ErrorCode.KAFKA_STORAGE_ERROR)],
)
async def test_a_storage_error_has_another_name_before_version_6(parts, replicas, version, code):
    replicas.errors[TP] = ErrorCode.KAFKA_STORAGE_ERROR
    assert codes(await ask(parts, (0, 0), version=version)) == {0: code}


@pytest.mark.parametrize(
    ("version", "code"), [(9, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE), (10, ErrorCode.NONE)]
)
async def test_a_zstd_topic_needs_version_10(parts, replicas, version, code):
    parts.configs.compression_type = "zstd"
    assert codes(await ask(parts, (0, 0), version=version)) == {0: code}


@pytest.mark.parametrize(("version", "leader_only"), [(10, True), (11, False)])
async def test_followers_answer_consumers_from_version_11_on(
    parts, replicas, monkeypatch, version, leader_only
):
    seen = []

    def read(wanted, *, leader_only, **rest):
        seen.append(leader_only)
        return PartitionRead(ErrorCode.NONE, 0, 0, 0)

    monkeypatch.setattr(replicas, "read", read)
    await ask(parts, (0, 0), version=version)
    assert seen == [leader_only]


async def test_traffic_is_counted_by_topic_and_asker(parts, replicas):
    replicas.put(TP, 10)
    await ask(parts, (0, 0))
    await ask(parts, (0, 0), replica_id=2)
    replicas.errors[TP] = ErrorCode.NOT_LEADER_OR_FOLLOWER
    await ask(parts, (0, 0))
    traffic = parts.traffic.statistics()["t"]
    assert (traffic.bytes_out, traffic.replication_bytes_out) == (10, 10)
    assert (traffic.fetch_requests, traffic.failed_fetch_requests) == (3, 1)
