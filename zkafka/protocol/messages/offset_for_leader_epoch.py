"""OffsetForLeaderEpoch (API key 23): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, int64, message, string


@message()
class OffsetForLeaderPartition:
    partition: int = int32(default=0)
    current_leader_epoch: int = int32(default=-1)
    leader_epoch: int = int32(default=0)


@message()
class OffsetForLeaderTopic:
    topic: str = string(default="")
    partitions: Sequence[OffsetForLeaderPartition] = array(OffsetForLeaderPartition, default=())


@message(api_key=23, versions=(2, 4), flexible=4)
class OffsetForLeaderEpochRequest:
    """OffsetForLeaderEpoch request, versions 2 to 4."""

    replica_id: int = int32(since=3, default=-2)
    topics: Sequence[OffsetForLeaderTopic] = array(OffsetForLeaderTopic, default=())


@message()
class EpochEndOffset:
    error_code: int = int16(default=0)
    partition: int = int32(default=0)
    leader_epoch: int = int32(default=-1)
    end_offset: int = int64(default=-1)


@message()
class OffsetForLeaderTopicResult:
    topic: str = string(default="")
    partitions: Sequence[EpochEndOffset] = array(EpochEndOffset, default=())


@message(api_key=23, versions=(2, 4), flexible=4)
class OffsetForLeaderEpochResponse:
    """OffsetForLeaderEpoch response, versions 2 to 4."""

    throttle_time_ms: int = int32(default=0)
    topics: Sequence[OffsetForLeaderTopicResult] = array(OffsetForLeaderTopicResult, default=())
