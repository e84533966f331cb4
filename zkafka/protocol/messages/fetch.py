"""Fetch (API key 1): request and response."""

import uuid
from collections.abc import Sequence

from zkafka.protocol.fields import (
    NULL_UUID,
    Records,
    array,
    int8,
    int16,
    int32,
    int64,
    message,
    records_,
    string,
    struct,
    uuid_,
)


@message()
class ReplicaState:
    replica_id: int = int32(since=15, default=-1)
    replica_epoch: int = int64(since=15, default=-1)


@message()
class FetchPartition:
    partition: int = int32(default=0)
    current_leader_epoch: int = int32(since=9, default=-1)
    fetch_offset: int = int64(default=0)
    last_fetched_epoch: int = int32(since=12, default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    partition_max_bytes: int = int32(default=0)
    replica_directory_id: uuid.UUID = uuid_(since=17, tag=0, default=NULL_UUID)


@message()
class FetchTopic:
    topic: str = string(until=12, default="")
    topic_id: uuid.UUID = uuid_(since=13, default=NULL_UUID)
    partitions: Sequence[FetchPartition] = array(FetchPartition, default=())


@message()
class ForgottenTopic:
    topic: str = string(since=7, until=12, default="")
    topic_id: uuid.UUID = uuid_(since=13, default=NULL_UUID)
    partitions: Sequence[int] = array("int32", since=7, default=())


@message(api_key=1, versions=(4, 17), flexible=12)
class FetchRequest:
    """Fetch request, versions 4 to 17."""

    cluster_id: str | None = string(since=12, tag=0, nullable=True, default=None)
    replica_id: int = int32(until=14, default=-1)
    replica_state: ReplicaState = struct(ReplicaState, since=15, tag=1, default=ReplicaState())
    max_wait_ms: int = int32(default=0)
    min_bytes: int = int32(default=0)
    max_bytes: int = int32(default=2**31 - 1)
    isolation_level: int = int8(default=0)
    session_id: int = int32(since=7, default=0)
    session_epoch: int = int32(since=7, default=-1)
    topics: Sequence[FetchTopic] = array(FetchTopic, default=())
    forgotten_topics_data: Sequence[ForgottenTopic] = array(ForgottenTopic, since=7, default=())
    rack_id: str = string(since=11, default="")


@message()
class EpochEndOffset:
    epoch: int = int32(since=12, default=-1)
    end_offset: int = int64(since=12, default=-1)


@message()
class LeaderIdAndEpoch:
    leader_id: int = int32(since=12, default=-1)
    leader_epoch: int = int32(since=12, default=-1)


@message()
class SnapshotId:
    end_offset: int = int64(default=-1)
    epoch: int = int32(default=-1)


@message()
class AbortedTransaction:
    producer_id: int = int64(default=0)
    first_offset: int = int64(default=0)


@message()
class PartitionData:
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)
    high_watermark: int = int64(default=0)
    last_stable_offset: int = int64(default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    diverging_epoch: EpochEndOffset = struct(
        EpochEndOffset, since=12, tag=0, default=EpochEndOffset()
    )
    current_leader: LeaderIdAndEpoch = struct(
        LeaderIdAndEpoch, since=12, tag=1, default=LeaderIdAndEpoch()
    )
    snapshot_id: SnapshotId = struct(SnapshotId, since=12, tag=2, default=SnapshotId())
    aborted_transactions: Sequence[AbortedTransaction] | None = array(
        AbortedTransaction, nullable=True, default=()
    )
    preferred_read_replica: int = int32(since=11, default=-1)
    records: Records | None = records_(nullable=True, default=None)


@message()
class FetchableTopicResponse:
    topic: str = string(until=12, default="")
    topic_id: uuid.UUID = uuid_(since=13, default=NULL_UUID)
    partitions: Sequence[PartitionData] = array(PartitionData, default=())


@message()
class NodeEndpoint:
    node_id: int = int32(since=16, default=0)
    host: str = string(since=16, default="")
    port: int = int32(since=16, default=0)
    rack: str | None = string(since=16, nullable=True, default=None)


@message(api_key=1, versions=(4, 17), flexible=12)
class FetchResponse:
    """Fetch response, versions 4 to 17."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=7, default=0)
    session_id: int = int32(since=7, default=0)
    responses: Sequence[FetchableTopicResponse] = array(FetchableTopicResponse, default=())
    node_endpoints: Sequence[NodeEndpoint] = array(NodeEndpoint, since=16, tag=0, default=())
