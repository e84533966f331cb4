"""Produce, ListOffsets, OffsetForLeaderEpoch, DeleteRecords, DescribeLogDirs."""

import pytest
import server_fakes as fakes
import trio
from answers import produced

from zkafka.errors import ErrorCode
from zkafka.model import OFFSETS_TOPIC, TopicPartition
from zkafka.protocol.messages import alter_replica_log_dirs as alter_messages
from zkafka.protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from zkafka.protocol.messages.describe_log_dirs import (
    DescribableLogDirTopic,
    DescribeLogDirsRequest,
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
from zkafka.protocol.records import Record, build_batch
from zkafka.replication.opening import RecordsRefused
from zkafka.replication.replicas import HostedLog, HostedPartition
from zkafka.server.handlers import (
    alter_replica_log_dirs,
    delete_records,
    describe_log_dirs,
    list_offsets,
    offset_for_leader_epoch,
    produce,
)

TP = TopicPartition("t", 0)
BATCH = build_batch([Record(key=None, value=b"v", timestamp=1, headers=())])


@pytest.fixture
def parts():
    made = fakes.parts()
    made.metadata.apply(fakes.update_metadata())
    made.replicas.put(TP, 100)
    return made


# --- Produce ------------------------------------------------------------------------------------


def begin(parts, *, version=9, acks=1, records=BATCH, topic="t", client_id="client", **extra):
    request = ProduceRequest(
        acks=acks,
        timeout_ms=1000,
        topic_data=[
            TopicProduceData(
                name=topic,
                partition_data=[
                    PartitionProduceData(
                        index=0, records=None if records is None else memoryview(records)
                    )
                ],
            )
        ],
        **extra,
    )
    return produce.begin(request, fakes.context(parts, version, client_id=client_id))


async def outcome(parts, **kwargs):
    response = await produced(begin(parts, **kwargs))
    (topic,) = response.responses
    (partition,) = topic.partition_responses
    return partition


async def test_a_batch_is_answered_with_where_it_went(parts):
    partition = await outcome(parts)
    assert (partition.error_code, partition.base_offset, partition.log_start_offset) == (0, 1, 0)
    assert partition.log_append_time_ms == -1


async def test_a_refused_batch_is_answered_with_code_and_message(parts):
    parts.replicas.errors[TP] = ErrorCode.CORRUPT_MESSAGE
    partition = await outcome(parts)
    assert (partition.error_code, partition.base_offset) == (ErrorCode.CORRUPT_MESSAGE, -1)
    assert partition.error_message == "because"


async def test_a_batch_that_must_be_opened_is_appended_by_open(parts):
    parts.replicas.opens[TP] = None
    pending = begin(parts)
    assert pending.openings
    assert parts.replicas.appended == []
    await pending.open()
    assert not pending.openings
    assert parts.replicas.opened == [TP]
    (partition,) = (await produced(pending)).responses[0].partition_responses
    assert (partition.error_code, partition.base_offset) == (0, 1)
    counts = parts.traffic.statistics()["t"]
    assert (counts.messages_in, counts.failed_produce_requests) == (1, 0)


async def test_records_at_fault_are_told_one_by_one(parts):
    parts.replicas.opens[TP] = RecordsRefused(
        ErrorCode.INVALID_TIMESTAMP, "some", [(1, "too old"), (4, "too young")]
    )
    pending = begin(parts)
    await pending.open()
    (partition,) = (await produced(pending)).responses[0].partition_responses
    assert partition.error_code == ErrorCode.INVALID_TIMESTAMP
    assert partition.error_message == "some"
    assert [(e.batch_index, e.batch_index_error_message) for e in partition.record_errors] == [
        (1, "too old"),
        (4, "too young"),
    ]
    assert partition.base_offset == -1


@pytest.mark.parametrize("acks", [2, -2, 100])
async def test_only_three_values_of_acks_mean_something(parts, acks):
    assert (await outcome(parts, acks=acks)).error_code == ErrorCode.INVALID_REQUIRED_ACKS
    assert parts.replicas.appended == []


async def test_no_records_are_not_a_batch(parts):
    assert (await outcome(parts, records=None)).error_code == ErrorCode.INVALID_RECORD


async def test_a_transactional_id_is_refused(parts):
    partition = await outcome(parts, transactional_id="mine")
    assert partition.error_code == ErrorCode.INVALID_TXN_STATE
    assert parts.replicas.appended == []


@pytest.mark.parametrize(
    ("version", "code"), [(6, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE), (7, ErrorCode.NONE)]
)
async def test_zstd_needs_version_7(parts, version, code):
    zstd = build_batch([Record(key=None, value=b"v", timestamp=1, headers=())], codec=4)
    assert (await outcome(parts, version=version, records=zstd)).error_code == code


async def test_internal_topics_are_written_by_the_admin_client_alone(parts):
    refused = await outcome(parts, topic=OFFSETS_TOPIC)
    assert refused.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    admitted = await outcome(parts, topic=OFFSETS_TOPIC, client_id="__admin_client")
    assert admitted.error_code == 0


async def test_a_wrong_leader_is_told_who_leads_from_version_10_on(parts):
    parts.metadata.apply(fakes.update_metadata(leader=2))
    parts.replicas.errors[TP] = ErrorCode.NOT_LEADER_OR_FOLLOWER
    response = await produced(begin(parts, version=10))
    leader = response.responses[0].partition_responses[0].current_leader
    assert (leader.leader_id, leader.leader_epoch) == (2, 3)
    assert [(n.node_id, n.port) for n in response.node_endpoints] == [(2, 9092)]
    response = await produced(begin(parts, version=9))
    assert response.responses[0].partition_responses[0].current_leader.leader_id == -1
    assert response.node_endpoints == []


async def test_a_produce_of_nothing_is_answered_with_nothing(parts):
    pending = produce.begin(ProduceRequest(acks=-1), fakes.context(parts, 9))
    assert not pending.is_waiting
    assert (await produced(pending)).responses == []


async def test_produce_traffic_is_counted_per_batch(parts):
    await outcome(parts)
    parts.replicas.errors[TP] = ErrorCode.CORRUPT_MESSAGE
    await outcome(parts)
    traffic = parts.traffic.statistics()["t"]
    assert (traffic.messages_in, traffic.bytes_in) == (1, len(BATCH))
    assert (traffic.produce_requests, traffic.failed_produce_requests) == (2, 1)
    assert traffic.bytes_rejected == len(BATCH)


# --- ListOffsets --------------------------------------------------------------------------------


async def listed(parts, version, *timestamps, partition=0):
    request = ListOffsetsRequest(
        replica_id=-1,
        topics=[
            ListOffsetsTopic(
                name="t",
                partitions=[
                    ListOffsetsPartition(partition_index=partition, timestamp=timestamp)
                    for timestamp in timestamps
                ],
            )
        ],
    )
    response = await list_offsets.handle(request, fakes.context(parts, version))
    return response.topics[0].partitions


@pytest.mark.parametrize(
    ("timestamp", "since"), [(-1, 1), (-2, 1), (-3, 7), (-4, 8), (-5, 9), (1234, 1)]
)
async def test_special_timestamps_are_understood_from_their_version_on(parts, timestamp, since):
    for version in range(1, 10):
        (found,) = await listed(parts, version, timestamp)
        known = version >= since
        assert found.error_code == (0 if known else ErrorCode.UNSUPPORTED_VERSION), version


async def test_an_unheard_of_timestamp_is_of_no_version(parts):
    (found,) = await listed(parts, 9, -6)
    assert found.error_code == ErrorCode.UNSUPPORTED_VERSION


async def test_nothing_is_tiered(parts):
    (found,) = await listed(parts, 9, -5)
    assert (found.offset, found.timestamp, found.leader_epoch) == (-1, -1, -1)
    parts.replicas.errors[TP] = ErrorCode.NOT_LEADER_OR_FOLLOWER
    (found,) = await listed(parts, 9, -5)
    assert found.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


@pytest.mark.parametrize(
    ("version", "code"),
    [(4, ErrorCode.LEADER_NOT_AVAILABLE), (5, ErrorCode.OFFSET_NOT_AVAILABLE)],
)
async def test_a_leader_that_cannot_tell_yet_says_so_in_its_version(parts, version, code):
    parts.replicas.errors[TP] = ErrorCode.OFFSET_NOT_AVAILABLE
    (found,) = await listed(parts, version, -1)
    assert found.error_code == code


async def test_a_partition_asked_twice_is_refused_both_times(parts):
    found = await listed(parts, 9, -1, -2)
    assert [f.error_code for f in found] == [ErrorCode.INVALID_REQUEST] * 2


# --- The others ---------------------------------------------------------------------------------


async def test_the_end_of_an_epoch_is_told_per_partition(parts):
    parts.replicas.errors[TopicPartition("t", 1)] = ErrorCode.FENCED_LEADER_EPOCH
    request = OffsetForLeaderEpochRequest(
        topics=[
            OffsetForLeaderTopic(
                topic="t",
                partitions=[OffsetForLeaderPartition(partition=p, leader_epoch=2) for p in (0, 1)],
            )
        ]
    )
    response = await offset_for_leader_epoch.handle(request, fakes.context(parts, 4))
    assert [
        (p.partition, p.error_code, p.leader_epoch, p.end_offset)
        for p in response.topics[0].partitions
    ] == [(0, 0, 2, 1), (1, ErrorCode.FENCED_LEADER_EPOCH, -1, -1)]


async def test_records_are_deleted_per_partition_and_never_of_internal_topics(parts):
    parts.replicas.errors[TopicPartition("t", 1)] = ErrorCode.OFFSET_OUT_OF_RANGE

    def topic(name, *partitions):
        return DeleteRecordsTopic(
            name=name,
            partitions=[DeleteRecordsPartition(partition_index=p, offset=9) for p in partitions],
        )

    request = DeleteRecordsRequest(topics=[topic("t", 0, 1), topic(OFFSETS_TOPIC, 0)])
    response = await delete_records.handle(request, fakes.context(parts, 2))
    assert [
        (t.name, [(p.partition_index, p.low_watermark, p.error_code) for p in t.partitions])
        for t in response.topics
    ] == [
        ("t", [(0, 9, 0), (1, -1, ErrorCode.OFFSET_OUT_OF_RANGE)]),
        (OFFSETS_TOPIC, [(0, -1, ErrorCode.INVALID_TOPIC_EXCEPTION)]),
    ]


async def test_partitions_that_are_not_here_take_no_task_each(parts):
    """A request may name very many of them."""
    tasks = set()

    async def refuse(tp, offset, deadline_ms):
        tasks.add(trio.lowlevel.current_task())
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1

    parts.replicas.delete_records = refuse
    many = [DeleteRecordsPartition(partition_index=p, offset=9) for p in range(1, 2000)]
    request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name="t", partitions=many)])
    response = await delete_records.handle(request, fakes.context(parts, 2))
    assert {p.error_code for p in response.topics[0].partitions} == {
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    }
    assert len(tasks) == 1


async def test_replicas_are_moved_and_answered_by_topic(parts):
    wanted = []

    class Moves:
        async def alter(self, asked):
            wanted.append(asked)
            return {tp: ErrorCode.LOG_DIR_NOT_FOUND if tp == TP else 0 for tp in asked}

    parts.replicas.moves = Moves()
    request = alter_messages.AlterReplicaLogDirsRequest(
        dirs=[
            alter_messages.AlterReplicaLogDir(
                path=path,
                topics=[
                    alter_messages.AlterReplicaLogDirTopic(name=name, partitions=partitions)
                    for name, partitions in topics.items()
                ],
            )
            for path, topics in {"/a": {"t": [0, 1], "u": [0]}, "/b": {"t": [2]}}.items()
        ]
    )
    response = await alter_replica_log_dirs.handle(request, fakes.context(parts, 2))
    assert wanted == [
        {TP: "/a", TopicPartition("t", 1): "/a", TopicPartition("u", 0): "/a"}
        | {TopicPartition("t", 2): "/b"}
    ]
    assert {
        topic.topic_name: [(p.partition_index, p.error_code) for p in topic.partitions]
        for topic in response.results
    } == {"t": [(0, ErrorCode.LOG_DIR_NOT_FOUND), (1, 0), (2, 0)], "u": [(0, 0)]}


async def test_log_directories_are_described_by_topic(parts, monkeypatch):
    asked = []

    async def describe(wanted):
        asked.append(wanted)
        return [
            HostedLog("/a", ErrorCode.NONE, [HostedPartition(TP, 100, 3, True)], 1000, 500),
            HostedLog("/b", ErrorCode.KAFKA_STORAGE_ERROR, [], -1, -1),
        ]

    monkeypatch.setattr(parts.replicas, "describe_log_dirs", describe, raising=False)
    context = fakes.context(parts, 4)
    request = DescribeLogDirsRequest(topics=[DescribableLogDirTopic(topic="t", partitions=[0])])
    good, bad = (await describe_log_dirs.handle(request, context)).results
    (topic,) = good.topics
    (partition,) = topic.partitions
    assert (topic.name, partition.partition_size, partition.offset_lag) == ("t", 100, 3)
    assert partition.is_future_key
    assert (good.total_bytes, good.usable_bytes) == (1000, 500)
    assert (bad.log_dir, bad.error_code) == ("/b", ErrorCode.KAFKA_STORAGE_ERROR)
    await describe_log_dirs.handle(DescribeLogDirsRequest(topics=None), context)
    assert asked == [{TP}, None]
