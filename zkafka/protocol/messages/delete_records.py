"""DeleteRecords (API key 21): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, int64, message, string


@message()
class DeleteRecordsPartition:
    partition_index: int = int32(default=0)
    offset: int = int64(default=0)


@message()
class DeleteRecordsTopic:
    name: str = string(default="")
    partitions: Sequence[DeleteRecordsPartition] = array(DeleteRecordsPartition, default=())


@message(api_key=21, versions=(0, 2), flexible=2)
class DeleteRecordsRequest:
    """DeleteRecords request, versions 0 to 2."""

    topics: Sequence[DeleteRecordsTopic] = array(DeleteRecordsTopic, default=())
    timeout_ms: int = int32(default=0)


@message()
class DeleteRecordsPartitionResult:
    partition_index: int = int32(default=0)
    low_watermark: int = int64(default=0)
    error_code: int = int16(default=0)


@message()
class DeleteRecordsTopicResult:
    name: str = string(default="")
    partitions: Sequence[DeleteRecordsPartitionResult] = array(
        DeleteRecordsPartitionResult, default=()
    )


@message(api_key=21, versions=(0, 2), flexible=2)
class DeleteRecordsResponse:
    """DeleteRecords response, versions 0 to 2."""

    throttle_time_ms: int = int32(default=0)
    topics: Sequence[DeleteRecordsTopicResult] = array(DeleteRecordsTopicResult, default=())
