"""DescribeProducers (API key 61): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, int64, message, string


@message()
class TopicRequest:
    name: str = string(default="")
    partition_indexes: Sequence[int] = array("int32", default=())


@message(api_key=61, versions=(0, 0), flexible=0)
class DescribeProducersRequest:
    """DescribeProducers request, versions 0 to 0."""

    topics: Sequence[TopicRequest] = array(TopicRequest, default=())


@message()
class ProducerState:
    producer_id: int = int64(default=0)
    producer_epoch: int = int32(default=0)
    last_sequence: int = int32(default=-1)
    last_timestamp: int = int64(default=-1)
    coordinator_epoch: int = int32(default=0)
    current_txn_start_offset: int = int64(default=-1)


@message()
class PartitionResponse:
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=True, default=None)
    active_producers: Sequence[ProducerState] = array(ProducerState, default=())


@message()
class TopicResponse:
    name: str = string(default="")
    partitions: Sequence[PartitionResponse] = array(PartitionResponse, default=())


@message(api_key=61, versions=(0, 0), flexible=0)
class DescribeProducersResponse:
    """DescribeProducers response, versions 0 to 0."""

    throttle_time_ms: int = int32(default=0)
    topics: Sequence[TopicResponse] = array(TopicResponse, default=())
