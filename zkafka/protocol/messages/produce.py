"""Produce (API key 0): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import (
    Records,
    array,
    int16,
    int32,
    int64,
    message,
    records_,
    string,
    struct,
)


@message()
class PartitionProduceData:
    index: int = int32(default=0)
    records: Records | None = records_(nullable=True, default=None)


@message()
class TopicProduceData:
    name: str = string(default="")
    partition_data: Sequence[PartitionProduceData] = array(PartitionProduceData, default=())


@message(api_key=0, versions=(3, 11), flexible=9)
class ProduceRequest:
    """Produce request, versions 3 to 11."""

    transactional_id: str | None = string(nullable=True, default=None)
    acks: int = int16(default=0)
    timeout_ms: int = int32(default=0)
    topic_data: Sequence[TopicProduceData] = array(TopicProduceData, default=())


@message()
class BatchIndexAndErrorMessage:
    batch_index: int = int32(since=8, default=0)
    batch_index_error_message: str | None = string(since=8, nullable=True, default=None)


@message()
class LeaderIdAndEpoch:
    leader_id: int = int32(since=10, default=-1)
    leader_epoch: int = int32(since=10, default=-1)


@message()
class PartitionProduceResponse:
    index: int = int32(default=0)
    error_code: int = int16(default=0)
    base_offset: int = int64(default=0)
    log_append_time_ms: int = int64(default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    record_errors: Sequence[BatchIndexAndErrorMessage] = array(
        BatchIndexAndErrorMessage, since=8, default=()
    )
    error_message: str | None = string(since=8, nullable=True, default=None)
    current_leader: LeaderIdAndEpoch = struct(
        LeaderIdAndEpoch, since=10, tag=0, default=LeaderIdAndEpoch()
    )


@message()
class TopicProduceResponse:
    name: str = string(default="")
    partition_responses: Sequence[PartitionProduceResponse] = array(
        PartitionProduceResponse, default=()
    )


@message()
class NodeEndpoint:
    node_id: int = int32(since=10, default=0)
    host: str = string(since=10, default="")
    port: int = int32(since=10, default=0)
    rack: str | None = string(since=10, nullable=True, default=None)


@message(api_key=0, versions=(3, 11), flexible=9)
class ProduceResponse:
    """Produce response, versions 3 to 11."""

    responses: Sequence[TopicProduceResponse] = array(TopicProduceResponse, default=())
    throttle_time_ms: int = int32(default=0)
    node_endpoints: Sequence[NodeEndpoint] = array(NodeEndpoint, since=10, tag=0, default=())
