"""DescribeLogDirs (API key 35, versions 1 to 4): what each log directory of this broker holds.

Null topics ask for all partitions. A partition's lag is what a follower has still to fetch; that of
a future replica, on its way to another directory, is what is still to be copied. A directory that
failed is told with KAFKA_STORAGE_ERROR and nothing in it. Partitions asked for that are not here
are left out.

Where we differ from Kafka: none known.

Version history: 1 (KIP-113); 2 flexible; 3 top-level error; 4 volume sizes (KIP-827).
"""

from zkafka.model import TopicPartition
from zkafka.protocol.messages.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from zkafka.replication.replicas import HostedLog
from zkafka.server.context import RequestContext


async def handle(
    request: DescribeLogDirsRequest, context: RequestContext
) -> DescribeLogDirsResponse:
    """One result per directory."""
    wanted = None
    if request.topics is not None:
        wanted = {
            TopicPartition(topic.topic, partition)
            for topic in request.topics
            for partition in topic.partitions
        }
    directories = await context.parts.replicas.describe_log_dirs(wanted)
    return DescribeLogDirsResponse(results=[_result(directory) for directory in directories])


def _result(directory: HostedLog) -> DescribeLogDirsResult:
    topics: dict[str, list[DescribeLogDirsPartition]] = {}
    for tp, size, lag, is_future in directory.partitions:
        topics.setdefault(tp.topic, []).append(
            DescribeLogDirsPartition(
                partition_index=tp.partition,
                partition_size=size,
                offset_lag=lag,
                is_future_key=is_future,
            )
        )
    return DescribeLogDirsResult(
        error_code=directory.error,
        log_dir=directory.path,
        topics=[
            DescribeLogDirsTopic(name=name, partitions=partitions)
            for name, partitions in sorted(topics.items())
        ],
        total_bytes=directory.total_bytes,
        usable_bytes=directory.usable_bytes,
    )
