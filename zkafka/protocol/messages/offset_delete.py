"""OffsetDelete (API key 47): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, message, string


@message()
class OffsetDeleteRequestPartition:
    partition_index: int = int32(default=0)


@message()
class OffsetDeleteRequestTopic:
    name: str = string(default="")
    partitions: Sequence[OffsetDeleteRequestPartition] = array(
        OffsetDeleteRequestPartition, default=()
    )


@message(api_key=47, versions=(0, 0))
class OffsetDeleteRequest:
    """OffsetDelete request, versions 0 to 0."""

    group_id: str = string(default="")
    topics: Sequence[OffsetDeleteRequestTopic] = array(OffsetDeleteRequestTopic, default=())


@message()
class OffsetDeleteResponsePartition:
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)


@message()
class OffsetDeleteResponseTopic:
    name: str = string(default="")
    partitions: Sequence[OffsetDeleteResponsePartition] = array(
        OffsetDeleteResponsePartition, default=()
    )


@message(api_key=47, versions=(0, 0))
class OffsetDeleteResponse:
    """OffsetDelete response, versions 0 to 0."""

    error_code: int = int16(default=0)
    throttle_time_ms: int = int32(default=0)
    topics: Sequence[OffsetDeleteResponseTopic] = array(OffsetDeleteResponseTopic, default=())
