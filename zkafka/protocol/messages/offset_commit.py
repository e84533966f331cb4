"""OffsetCommit (API key 8): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, int64, message, string


@message()
class OffsetCommitRequestPartition:
    partition_index: int = int32(default=0)
    committed_offset: int = int64(default=0)
    committed_leader_epoch: int = int32(since=6, default=-1)
    committed_metadata: str | None = string(nullable=True, default="")


@message()
class OffsetCommitRequestTopic:
    name: str = string(default="")
    partitions: Sequence[OffsetCommitRequestPartition] = array(
        OffsetCommitRequestPartition, default=()
    )


@message(api_key=8, versions=(2, 9), flexible=8)
class OffsetCommitRequest:
    """OffsetCommit request, versions 2 to 9."""

    group_id: str = string(default="")
    generation_id_or_member_epoch: int = int32(default=-1)
    member_id: str = string(default="")
    group_instance_id: str | None = string(since=7, nullable=True, default=None)
    retention_time_ms: int = int64(until=4, default=-1)
    topics: Sequence[OffsetCommitRequestTopic] = array(OffsetCommitRequestTopic, default=())


@message()
class OffsetCommitResponsePartition:
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)


@message()
class OffsetCommitResponseTopic:
    name: str = string(default="")
    partitions: Sequence[OffsetCommitResponsePartition] = array(
        OffsetCommitResponsePartition, default=()
    )


@message(api_key=8, versions=(2, 9), flexible=8)
class OffsetCommitResponse:
    """OffsetCommit response, versions 2 to 9."""

    throttle_time_ms: int = int32(since=3, default=0)
    topics: Sequence[OffsetCommitResponseTopic] = array(OffsetCommitResponseTopic, default=())
