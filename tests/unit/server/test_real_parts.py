"""The handlers over real replicas and real logs: one broker's requests, as bytes, in one loop.

Broker 1 leads `t`, of which broker 2 holds the other replica; the test plays broker 2, the
controller and the clients.
"""

import random

import attrs
import pytest
import server_fakes as fakes
import trio
import trio.testing
from answers import finished

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errors import DiskFull, ErrorCode
from zkafka.log.directory import LogDirectory
from zkafka.log.files import Files
from zkafka.log.segment import LogSlice
from zkafka.model import TopicPartition
from zkafka.offload import Offload
from zkafka.protocol import codec
from zkafka.protocol.apis import APIS, ApiKey
from zkafka.protocol.connection import ConnectionInfo, Request
from zkafka.protocol.fields import schema_of
from zkafka.protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from zkafka.protocol.messages.describe_log_dirs import DescribeLogDirsRequest
from zkafka.protocol.messages.describe_producers import DescribeProducersRequest, TopicRequest
from zkafka.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic, ReplicaState
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrPartitionState,
    LeaderAndIsrRequest,
    LeaderAndIsrTopicState,
)
from zkafka.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from zkafka.protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from zkafka.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from zkafka.protocol.messages.stop_replica import (
    StopReplicaPartitionState,
    StopReplicaRequest,
    StopReplicaTopicState,
)
from zkafka.protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
)
from zkafka.protocol.records import Record, build_batch, iter_records, parse_batches
from zkafka.replication.purgatory import Purgatory
from zkafka.replication.replicas import Replicas
from zkafka.server.dispatch import Dispatcher
from zkafka.server.fetch_sessions import FetchSessions
from zkafka.server.metadata import MetadataCache

TP = TopicPartition("t", 0)
FROM = ConnectionInfo(1, "127.0.0.1", 1234, fakes.LISTENER)
EPOCH = 3
NOW_MS = 1_700_000_000_000


class Broker:
    """What broker 1 is asked, and answers, as its connections see it."""

    def __init__(self, parts):
        self.parts = parts
        self.dispatcher = Dispatcher(parts)

    def arrived(self, message, version=None):
        key = schema_of(type(message)).api_key
        version = APIS[key].max_version if version is None else version
        frame = bytearray(b"".join(codec.encode_request(message, version, 5, "me"))[4:])
        view = memoryview(frame)
        header, offset = codec.decode_request_header(view)
        return Request(header, view[offset:], len(frame))

    def begin(self, message):
        return self.dispatcher.begin(self.arrived(message), FROM)

    async def ask(self, message, version=None):
        request = self.arrived(message, version)
        if request.header.api_key in (ApiKey.PRODUCE, ApiKey.FETCH):
            answer = await finished(self.dispatcher.begin(request, FROM))
        else:
            answer = await self.dispatcher.handle(request, FROM)
        return self.read(request, answer)

    def read(self, request, answer):
        """The answer as a client reads it; slices of the log are sent, and given back."""
        data = b""
        for part in answer:
            if isinstance(part, LogSlice):
                data += part.read()
                part.release()
            else:
                data += part
        api = APIS[request.header.api_key]
        return codec.decode_response(api.response_class, request.header.api_version, data[4:])[1]


@pytest.fixture
async def broker(tmp_path):
    directory = LogDirectory.open(str(tmp_path), Files())
    config = BrokerConfig.parse(
        {
            "broker.id": "1",
            "zookeeper.connect": "unused:2181",
            "log.dirs": str(tmp_path),
            "listeners": "PLAINTEXT://127.0.0.1:0",
        }
    )
    purgatory, metadata, offload = Purgatory(), MetadataCache("c"), Offload(2)
    clock = Clock(wall=lambda: NOW_MS / 1000 + 60)
    replicas = Replicas(
        broker_id=1,
        broker_epoch=lambda: 100,
        config=config,
        config_for=lambda topic: config.log_defaults,
        log_dirs=[directory],
        logs=directory.load(lambda topic: config.log_defaults),
        metadata=metadata,
        purgatory=purgatory,
        offload=offload,
        clock=clock,
        connect=lambda other: None,
        controller=None,
        may_propose=lambda: False,
        on_log_dir_failure=lambda path: None,
    )
    made = Broker(
        fakes.parts(
            config=config,
            clock=clock,
            metadata=metadata,
            purgatory=purgatory,
            offload=offload,
            replicas=replicas,
            fetch_sessions=FetchSessions(watch=purgatory.watch, rng=random.Random(1)),
            log_dirs=[directory],
        )
    )
    response = await made.ask(fakes.update_metadata())
    assert response.error_code == 0
    response = await made.ask(leadership())
    assert [p.error_code for t in response.topics for p in t.partition_errors] == [0]
    yield made
    made.parts.fetch_sessions.check()
    directory.close(clean=True, broker_epoch=100)


def leadership(*, leader=1, epoch=EPOCH, controller_epoch=1, isr=(1, 2)):
    return LeaderAndIsrRequest(
        controller_id=1,
        controller_epoch=controller_epoch,
        broker_epoch=100,
        topic_states=[
            LeaderAndIsrTopicState(
                topic_name="t",
                topic_id=fakes.TOPIC_ID,
                partition_states=[
                    LeaderAndIsrPartitionState(
                        controller_epoch=controller_epoch,
                        leader=leader,
                        leader_epoch=epoch,
                        isr=list(isr),
                        partition_epoch=epoch,
                        replicas=[1, 2],
                        is_new=True,
                    )
                ],
            )
        ],
    )


def produce(*values, acks=-1, timeout_ms=1000):
    records = [
        Record(key=None, value=value, timestamp=NOW_MS + i, headers=())
        for i, value in enumerate(values)
    ]
    return ProduceRequest(
        acks=acks,
        timeout_ms=timeout_ms,
        topic_data=[
            TopicProduceData(
                name="t",
                partition_data=[PartitionProduceData(index=0, records=build_batch(records))],
            )
        ],
    )


def fetch(offset, *, replica=-1, wait=0, session=(0, -1), named=True, epoch=-1, committed=False):
    return FetchRequest(
        isolation_level=int(committed),
        replica_state=ReplicaState(replica_id=replica),
        max_wait_ms=wait,
        min_bytes=1,
        session_id=session[0],
        session_epoch=session[1],
        topics=[
            FetchTopic(
                topic_id=fakes.TOPIC_ID,
                partitions=[
                    FetchPartition(
                        fetch_offset=offset,
                        partition_max_bytes=1 << 20,
                        current_leader_epoch=epoch,
                    )
                ],
            )
        ]
        if named
        else [],
    )


def only(response):
    """The one partition of a response."""
    topics = getattr(response, "responses", None) or response.topics
    for name in ("partition_responses", "partitions"):
        if hasattr(topics[0], name):
            (partition,) = getattr(topics[0], name)
            return partition
    raise AssertionError(response)


def values(partition):
    return [
        bytes(record.value)
        for batch in parse_batches(bytearray(partition.records))
        for record in iter_records(batch)
    ]


async def test_what_is_produced_is_fetched_when_the_follower_has_it(broker):
    request = broker.arrived(produce(b"a", b"b"))
    pending = broker.dispatcher.begin(request, FROM)
    assert not pending.ready
    assert values(only(await broker.ask(fetch(0)))) == []
    # The follower takes the records, and acknowledges them with its next fetch.
    taken = only(await broker.ask(fetch(0, replica=2)))
    assert values(taken) == [b"a", b"b"]
    assert taken.high_watermark == 0
    assert not pending.ready
    await broker.ask(fetch(2, replica=2))
    assert pending.ready
    answer = only(broker.read(request, await finished(pending)))
    assert (answer.error_code, answer.base_offset, answer.log_start_offset) == (0, 0, 0)
    seen = only(await broker.ask(fetch(0)))
    assert (values(seen), seen.high_watermark) == ([b"a", b"b"], 2)


@pytest.mark.parametrize("session", [False, True])
async def test_a_consumer_that_waits_is_woken_when_the_high_watermark_moves(broker, session):
    at = (0, -1)
    if session:
        at = ((await broker.ask(fetch(0, session=(0, 0)))).session_id, 1)
    got = []

    async def consume():
        request = fetch(0, wait=60_000, session=at, named=not session)
        got.append(only(await broker.ask(request)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        await broker.ask(produce(b"a", acks=1))
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        await broker.ask(fetch(1, replica=2))
    assert values(got[0]) == [b"a"]


@pytest.mark.parametrize("session", [False, True])
async def test_a_follower_that_waits_is_woken_by_an_append(broker, session):
    at = (0, -1)
    if session:
        at = ((await broker.ask(fetch(0, replica=2, session=(0, 0)))).session_id, 1)
    got = []

    async def follow():
        request = fetch(0, replica=2, wait=60_000, session=at, named=not session)
        got.append(only(await broker.ask(request)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        await broker.ask(produce(b"a", acks=1))
    assert values(got[0]) == [b"a"]


async def test_those_who_wait_learn_at_once_that_the_leader_moved(broker):
    got = []

    async def consume():
        got.append(only(await broker.ask(fetch(0, wait=60_000, epoch=EPOCH))).error_code)

    async def send():
        request = broker.arrived(produce(b"a", timeout_ms=60_000))
        pending = broker.dispatcher.begin(request, FROM)
        got.append(only(broker.read(request, await finished(pending))).error_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await broker.ask(leadership(leader=-1, epoch=EPOCH + 1, isr=(2,)))
    assert sorted(got) == [ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH]


async def test_a_consumer_goes_on_reading_from_a_replica_that_became_follower(broker):
    await broker.ask(produce(b"a", acks=1))
    await broker.ask(fetch(1, replica=2))
    await broker.ask(leadership(leader=-1, epoch=EPOCH + 1, isr=(2,)))
    assert values(only(await broker.ask(fetch(0)))) == [b"a"]
    refused = only(await broker.ask(produce(b"b", acks=1)))
    assert refused.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    # The picture of the cluster still shows the old leader; the role that was taken is newer.
    assert refused.current_leader.leader_epoch == EPOCH + 1


async def test_epochs_of_fetches_are_fenced(broker):
    response = await broker.ask(fetch(0, epoch=EPOCH - 1))
    partition = only(response)
    assert partition.error_code == ErrorCode.FENCED_LEADER_EPOCH
    assert partition.current_leader.leader_id == 1
    assert [node.node_id for node in response.node_endpoints] == [1]
    partition = only(await broker.ask(fetch(0, epoch=EPOCH + 1)))
    assert partition.error_code == ErrorCode.UNKNOWN_LEADER_EPOCH


async def test_offsets_are_found_by_time_and_by_name(broker):
    await broker.ask(produce(b"a", b"b", acks=1))
    await broker.ask(produce(b"c", acks=1))
    await broker.ask(fetch(3, replica=2))

    async def offset(timestamp, *, version=9):
        request = ListOffsetsRequest(
            replica_id=-1,
            topics=[
                ListOffsetsTopic(name="t", partitions=[ListOffsetsPartition(timestamp=timestamp)])
            ],
        )
        found = only(await broker.ask(request, version))
        assert found.error_code == 0
        return found.offset, found.timestamp

    assert await offset(-1) == (3, -1)
    assert await offset(-2) == (0, -1)
    assert await offset(-4) == (0, -1)
    assert (await offset(-3))[1] == NOW_MS + 1
    assert await offset(NOW_MS + 1) == (1, NOW_MS + 1)
    assert await offset(NOW_MS + 60_000) == (-1, -1)
    assert await offset(-1, version=1) == (3, -1)


async def test_the_end_of_an_epoch_is_known(broker):
    await broker.ask(produce(b"a", acks=1))

    async def end(epoch):
        partition = OffsetForLeaderPartition(current_leader_epoch=EPOCH, leader_epoch=epoch)
        request = OffsetForLeaderEpochRequest(
            topics=[OffsetForLeaderTopic(topic="t", partitions=[partition])]
        )
        found = only(await broker.ask(request))
        return found.error_code, found.leader_epoch, found.end_offset

    assert await end(EPOCH) == (0, EPOCH, 1)
    assert await end(EPOCH + 1) == (0, -1, -1)


async def test_deleted_records_are_gone_for_readers(broker):
    await broker.ask(produce(b"a", acks=1))
    await broker.ask(produce(b"b", acks=1))
    await broker.ask(fetch(2, replica=2))
    request = DeleteRecordsRequest(
        topics=[DeleteRecordsTopic(name="t", partitions=[DeleteRecordsPartition(offset=1)])],
        timeout_ms=0,
    )
    await broker.ask(request)
    assert only(await broker.ask(fetch(0))).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    assert values(only(await broker.ask(fetch(1)))) == [b"b"]
    request = DeleteRecordsRequest(
        topics=[DeleteRecordsTopic(name="t", partitions=[DeleteRecordsPartition(offset=99)])]
    )
    assert only(await broker.ask(request)).error_code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_log_directories_are_described(broker, tmp_path):
    await broker.ask(produce(b"a", acks=1))
    (result,) = (await broker.ask(DescribeLogDirsRequest(topics=None))).results
    assert (result.error_code, result.log_dir) == (0, str(tmp_path))
    assert result.topics[0].partitions[0].partition_size > 0
    assert result.total_bytes >= result.usable_bytes > 0


# --- Transactions, as far as they are served ------------------------------------------------------


def begin_transaction(broker, *values, producer_id=9, base_sequence=0):
    """What Kafka had appended of it."""
    records = [Record(None, value, NOW_MS) for value in values]
    broker.parts.replicas.append_as_coordinator(
        TP,
        build_batch(
            records, producer_id=producer_id, producer_epoch=4, base_sequence=base_sequence,
            transactional=True,
        ),
    )  # fmt: skip


def markers(*, producer_id=9, epoch=4, committed=False, coordinator_epoch=0, at=(("t", 0),)):
    return WriteTxnMarkersRequest(
        markers=[
            WritableTxnMarker(
                producer_id=producer_id,
                producer_epoch=epoch,
                transaction_result=committed,
                topics=[
                    WritableTxnMarkerTopic(name=name, partition_indexes=numbers)
                    for name, *numbers in at
                ],
                coordinator_epoch=coordinator_epoch,
            )
        ]
    )


def written(response):
    """Producer id, topic, partition and code of each marker."""
    return [
        (marker.producer_id, topic.name, partition.partition_index, partition.error_code)
        for marker in response.markers
        for topic in marker.topics
        for partition in topic.partitions
    ]


async def write(broker, **how):
    """The code for one marker in one partition, with a follower that has everything."""
    codes = []

    async def ask():
        codes.extend(code for *_, code in written(await broker.ask(markers(**how))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await broker.ask(fetch(broker.parts.replicas.hosted[TP].log.log_end_offset, replica=2))
    [code] = codes
    return code


async def producers(broker, *numbers, name="t"):
    request = DescribeProducersRequest(
        topics=[TopicRequest(name=name, partition_indexes=list(numbers))]
    )
    return (await broker.ask(request)).topics[0].partitions


async def test_producers_are_described_with_their_open_transactions(broker):
    await broker.ask(produce(b"a", acks=1))
    begin_transaction(broker, b"b", b"c")
    begin_transaction(broker, b"d", producer_id=10)
    assert await write(broker, producer_id=10, epoch=5, coordinator_epoch=7) == 0
    [partition] = await producers(broker, 0)
    assert (partition.error_code, partition.error_message) == (0, None)
    open_, ended = partition.active_producers
    assert (open_.producer_id, open_.producer_epoch, open_.last_sequence) == (9, 4, 1)
    assert (open_.last_timestamp, open_.coordinator_epoch) == (NOW_MS, -1)
    assert open_.current_txn_start_offset == 1
    assert (ended.producer_id, ended.producer_epoch, ended.last_sequence) == (10, 5, -1)
    assert ended.last_timestamp == NOW_MS + 60_000
    assert (ended.coordinator_epoch, ended.current_txn_start_offset) == (7, -1)


async def test_any_replica_knows_the_producers_and_nobody_else(broker):
    begin_transaction(broker, b"a")
    await broker.ask(leadership(leader=-1, epoch=EPOCH + 1, isr=(2,)))
    ours, elsewhere, nowhere = await producers(broker, 0, 1, 7)
    assert [found.producer_id for found in ours.active_producers] == [9]
    assert elsewhere.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert nowhere.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    [unheard_of] = await producers(broker, 0, name="u")
    assert unheard_of.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert unheard_of.error_message


@pytest.mark.parametrize("committed", [False, True])
async def test_a_waiting_reader_of_committed_records_is_woken_by_a_replicated_marker(
    broker, committed
):
    begin_transaction(broker, b"a")
    await broker.ask(produce(b"b", acks=1))
    await broker.ask(fetch(2, replica=2))
    held = only(await broker.ask(fetch(0, committed=True)))
    assert (values(held), held.high_watermark, held.last_stable_offset) == ([], 2, 0)
    got, answered = [], []

    async def consume():
        got.append(only(await broker.ask(fetch(0, wait=60_000, committed=True))))

    async def decide():
        answered.extend(written(await broker.ask(markers(committed=committed))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(decide)
        await trio.testing.wait_all_tasks_blocked()
        assert (got, answered) == ([], []), "the follower does not have the marker yet"
        await broker.ask(fetch(3, replica=2))
    assert answered == [(9, "t", 0, 0)]
    [seen] = got
    a, b, marker = parse_batches(bytearray(seen.records))
    assert (a.is_control, b.is_control, marker.is_control) == (False, False, True)
    assert (marker.producer_id, marker.producer_epoch, marker.is_transactional) == (9, 4, True)
    assert seen.last_stable_offset == 3
    assert [(one.producer_id, one.first_offset) for one in seen.aborted_transactions or ()] == (
        [] if committed else [(9, 0)]
    )


async def test_markers_of_the_replaced_are_refused_and_end_nothing(broker):
    begin_transaction(broker, b"a")
    assert await write(broker, coordinator_epoch=6, producer_id=10) == 0
    assert await write(broker, coordinator_epoch=5, producer_id=10) == (
        ErrorCode.TRANSACTION_COORDINATOR_FENCED
    )
    assert await write(broker, epoch=3) == ErrorCode.INVALID_PRODUCER_EPOCH
    [partition] = await producers(broker, 0)
    assert [one.current_txn_start_offset for one in partition.active_producers] == [0, -1]
    assert broker.parts.replicas.hosted[TP].log.log_end_offset == 2
    assert await write(broker, epoch=5, at=[("t", 0, 0)]) == 0, (
        "a newer one ends it and fences the older"
    )
    assert broker.parts.replicas.hosted[TP].log.log_end_offset == 3, "once, though named twice"
    assert await write(broker, epoch=4) == ErrorCode.INVALID_PRODUCER_EPOCH


async def test_markers_are_answered_one_by_one(broker):
    at = [("t", 1, 7), ("u", 0), ("__consumer_offsets", 3), ("__transaction_state", 0)]
    request = markers(at=at)
    request.markers += markers(producer_id=-1).markers + markers(producer_id=5, epoch=-1).markers
    request.markers += markers(producer_id=6, at=()).markers
    assert written(await broker.ask(request)) == [
        (9, "t", 1, ErrorCode.NOT_LEADER_OR_FOLLOWER),
        (9, "t", 7, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (9, "u", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (9, "__consumer_offsets", 3, ErrorCode.NOT_LEADER_OR_FOLLOWER),
        (9, "__transaction_state", 0, ErrorCode.INVALID_TOPIC_EXCEPTION),
        (-1, "t", 0, ErrorCode.INVALID_REQUEST),
        (5, "t", 0, ErrorCode.INVALID_REQUEST),
    ]
    assert broker.parts.groups.events == [("ended", 3, 9, False)], "the coordinator writes these"
    assert broker.parts.replicas.hosted[TP].log.log_end_offset == 0
    assert written(await broker.ask(WriteTxnMarkersRequest())) == []
    await broker.ask(leadership(leader=-1, epoch=EPOCH + 1, isr=(2,)))
    assert written(await broker.ask(markers())) == [(9, "t", 0, ErrorCode.NOT_LEADER_OR_FOLLOWER)]


async def test_a_marker_wants_as_many_in_sync_as_acks_all_does(broker):
    begin_transaction(broker, b"a")
    replicas = broker.parts.replicas
    config = attrs.evolve(replicas.hosted[TP].log.config, min_insync_replicas=2)
    replicas.reconfigure("t", config)
    await broker.ask(leadership(epoch=EPOCH + 1, isr=(1,)))
    [refused] = written(await broker.ask(markers()))
    assert refused[-1] == ErrorCode.NOT_ENOUGH_REPLICAS
    assert replicas.hosted[TP].log.log_end_offset == 1


async def test_a_marker_that_is_not_replicated_in_time_is_told_so(broker, autojump_clock):
    begin_transaction(broker, b"a")
    broker.parts.config = attrs.evolve(broker.parts.config, request_timeout_ms=7000)
    began = trio.current_time()
    [late] = written(await broker.ask(markers()))
    assert late[-1] == ErrorCode.REQUEST_TIMED_OUT
    assert trio.current_time() - began == pytest.approx(7, abs=0.01)
    assert broker.parts.replicas.hosted[TP].log.log_end_offset == 2


async def test_a_marker_that_a_full_disk_does_not_take_ends_nothing(broker, monkeypatch):
    begin_transaction(broker, b"a")
    log = broker.parts.replicas.hosted[TP].log

    def full(fd, buffers, position):
        raise DiskFull("no space left on device", log.path)

    with monkeypatch.context() as patch:
        patch.setattr(log._files, "write", full)
        [refused] = written(await broker.ask(markers()))
        assert refused[-1] == ErrorCode.KAFKA_STORAGE_ERROR
    [partition] = await producers(broker, 0)
    assert partition.active_producers[0].current_txn_start_offset == 0
    assert await write(broker) == 0


async def test_those_who_wait_for_a_marker_learn_at_once_that_the_leader_moved(broker):
    begin_transaction(broker, b"a")
    got = []

    async def ask():
        got.extend(written(await broker.ask(markers())))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await broker.ask(leadership(leader=-1, epoch=EPOCH + 1, isr=(2,)))
    assert got == [(9, "t", 0, ErrorCode.NOT_LEADER_OR_FOLLOWER)]


# --- What the controller takes away ---------------------------------------------------------------


async def test_a_stopped_replica_is_no_longer_served(broker):
    request = StopReplicaRequest(
        controller_id=1,
        controller_epoch=1,
        broker_epoch=100,
        topic_states=[
            StopReplicaTopicState(
                topic_name="t",
                partition_states=[
                    StopReplicaPartitionState(leader_epoch=EPOCH, delete_partition=True)
                ],
            )
        ],
    )
    response = await broker.ask(request)
    assert [p.error_code for p in response.partition_errors] == [0]
    answer = only(await broker.ask(produce(b"a", acks=1)))
    assert answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert TP not in broker.parts.replicas.hosted


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"controller_epoch": 0}, ErrorCode.STALE_CONTROLLER_EPOCH),
        ({}, ErrorCode.NONE),
    ],
)
async def test_an_older_controller_gives_no_roles(broker, change, code):
    response = await broker.ask(leadership(epoch=EPOCH + 1, **change))
    assert response.error_code == code
