"""DescribeLogDirs (API key 35): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, int16, int32, int64, message, string


@message()
class DescribableLogDirTopic:
    topic: str = string(default="")
    partitions: Sequence[int] = array("int32", default=())


@message(api_key=35, versions=(1, 4), flexible=2)
class DescribeLogDirsRequest:
    """DescribeLogDirs request, versions 1 to 4."""

    topics: Sequence[DescribableLogDirTopic] | None = array(
        DescribableLogDirTopic, nullable=True, default=()
    )


@message()
class DescribeLogDirsPartition:
    partition_index: int = int32(default=0)
    partition_size: int = int64(default=0)
    offset_lag: int = int64(default=0)
    is_future_key: bool = boolean(default=False)


@message()
class DescribeLogDirsTopic:
    name: str = string(default="")
    partitions: Sequence[DescribeLogDirsPartition] = array(DescribeLogDirsPartition, default=())


@message()
class DescribeLogDirsResult:
    error_code: int = int16(default=0)
    log_dir: str = string(default="")
    topics: Sequence[DescribeLogDirsTopic] = array(DescribeLogDirsTopic, default=())
    total_bytes: int = int64(since=4, default=-1)
    usable_bytes: int = int64(since=4, default=-1)


@message(api_key=35, versions=(1, 4), flexible=2)
class DescribeLogDirsResponse:
    """DescribeLogDirs response, versions 1 to 4."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=3, default=0)
    results: Sequence[DescribeLogDirsResult] = array(DescribeLogDirsResult, default=())
