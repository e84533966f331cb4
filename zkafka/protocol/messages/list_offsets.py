"""ListOffsets (API key 2): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int8, int16, int32, int64, message, string


@message()
class ListOffsetsPartition:
    partition_index: int = int32(default=0)
    current_leader_epoch: int = int32(since=4, default=-1)
    timestamp: int = int64(default=0)


@message()
class ListOffsetsTopic:
    name: str = string(default="")
    partitions: Sequence[ListOffsetsPartition] = array(ListOffsetsPartition, default=())


@message(api_key=2, versions=(1, 9), flexible=6)
class ListOffsetsRequest:
    """ListOffsets request, versions 1 to 9."""

    replica_id: int = int32(default=0)
    isolation_level: int = int8(since=2, default=0)
    topics: Sequence[ListOffsetsTopic] = array(ListOffsetsTopic, default=())


@message()
class ListOffsetsPartitionResponse:
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)
    timestamp: int = int64(default=-1)
    offset: int = int64(default=-1)
    leader_epoch: int = int32(since=4, default=-1)


@message()
class ListOffsetsTopicResponse:
    name: str = string(default="")
    partitions: Sequence[ListOffsetsPartitionResponse] = array(
        ListOffsetsPartitionResponse, default=()
    )


@message(api_key=2, versions=(1, 9), flexible=6)
class ListOffsetsResponse:
    """ListOffsets response, versions 1 to 9."""

    throttle_time_ms: int = int32(since=2, default=0)
    topics: Sequence[ListOffsetsTopicResponse] = array(ListOffsetsTopicResponse, default=())
