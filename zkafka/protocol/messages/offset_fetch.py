"""OffsetFetch (API key 9): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, int16, int32, int64, message, string


@message()
class OffsetFetchRequestTopic:
    name: str = string(until=7, default="")
    partition_indexes: Sequence[int] = array("int32", until=7, default=())


@message()
class OffsetFetchRequestTopics:
    name: str = string(since=8, default="")
    partition_indexes: Sequence[int] = array("int32", since=8, default=())


@message()
class OffsetFetchRequestGroup:
    group_id: str = string(since=8, default="")
    member_id: str | None = string(since=9, nullable=True, default=None)
    member_epoch: int = int32(since=9, default=-1)
    topics: Sequence[OffsetFetchRequestTopics] | None = array(
        OffsetFetchRequestTopics, since=8, nullable=True, default=()
    )


@message(api_key=9, versions=(1, 9), flexible=6)
class OffsetFetchRequest:
    """OffsetFetch request, versions 1 to 9."""

    group_id: str = string(until=7, default="")
    topics: Sequence[OffsetFetchRequestTopic] | None = array(
        OffsetFetchRequestTopic, until=7, nullable=2, default=()
    )
    groups: Sequence[OffsetFetchRequestGroup] = array(OffsetFetchRequestGroup, since=8, default=())
    require_stable: bool = boolean(since=7, default=False)


@message()
class OffsetFetchResponsePartition:
    partition_index: int = int32(until=7, default=0)
    committed_offset: int = int64(until=7, default=0)
    committed_leader_epoch: int = int32(since=5, until=7, default=-1)
    metadata: str | None = string(until=7, nullable=True, default="")
    error_code: int = int16(until=7, default=0)


@message()
class OffsetFetchResponseTopic:
    name: str = string(until=7, default="")
    partitions: Sequence[OffsetFetchResponsePartition] = array(
        OffsetFetchResponsePartition, until=7, default=()
    )


@message()
class OffsetFetchResponsePartitions:
    partition_index: int = int32(since=8, default=0)
    committed_offset: int = int64(since=8, default=0)
    committed_leader_epoch: int = int32(since=8, default=-1)
    metadata: str | None = string(since=8, nullable=True, default="")
    error_code: int = int16(since=8, default=0)


@message()
class OffsetFetchResponseTopics:
    name: str = string(since=8, default="")
    partitions: Sequence[OffsetFetchResponsePartitions] = array(
        OffsetFetchResponsePartitions, since=8, default=()
    )


@message()
class OffsetFetchResponseGroup:
    group_id: str = string(since=8, default="")
    topics: Sequence[OffsetFetchResponseTopics] = array(
        OffsetFetchResponseTopics, since=8, default=()
    )
    error_code: int = int16(since=8, default=0)


@message(api_key=9, versions=(1, 9), flexible=6)
class OffsetFetchResponse:
    """OffsetFetch response, versions 1 to 9."""

    throttle_time_ms: int = int32(since=3, default=0)
    topics: Sequence[OffsetFetchResponseTopic] = array(
        OffsetFetchResponseTopic, until=7, default=()
    )
    error_code: int = int16(since=2, until=7, default=0)
    groups: Sequence[OffsetFetchResponseGroup] = array(
        OffsetFetchResponseGroup, since=8, default=()
    )
