"""AlterReplicaLogDirs (API key 34, versions 1 to 2): move replicas of this broker to other
directories of it (KIP-113).

Answered when the moves have begun; DescribeLogDirs shows how far they are, and that they are over.
The directory where a replica is already ends its move to another. Per partition: LOG_DIR_NOT_FOUND
for a path that is none of log.dirs; UNKNOWN_TOPIC_OR_PARTITION, or REPLICA_NOT_AVAILABLE where the
partition is on other brokers, and then the directory is remembered for when it comes here;
KAFKA_STORAGE_ERROR where one of the two directories failed; INVALID_TOPIC_EXCEPTION where the
topic's name leaves no room for what a moving replica's directory is called. Of a partition that is
named twice, the last directory counts.

Where we differ from Kafka: see `replication/moving.py`.

Version history: 1 (KIP-113); 2 flexible.
"""

from zkafka.model import TopicPartition
from zkafka.protocol.messages.alter_replica_log_dirs import (
    AlterReplicaLogDirPartitionResult,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopicResult,
)
from zkafka.server.context import RequestContext


async def handle(
    request: AlterReplicaLogDirsRequest, context: RequestContext
) -> AlterReplicaLogDirsResponse:
    """One code per partition."""
    wanted = {
        TopicPartition(topic.name, partition): directory.path
        for directory in request.dirs
        for topic in directory.topics
        for partition in topic.partitions
    }
    topics: dict[str, list[AlterReplicaLogDirPartitionResult]] = {}
    for tp, error in (await context.parts.replicas.moves.alter(wanted)).items():
        topics.setdefault(tp.topic, []).append(
            AlterReplicaLogDirPartitionResult(partition_index=tp.partition, error_code=error)
        )
    return AlterReplicaLogDirsResponse(
        results=[
            AlterReplicaLogDirTopicResult(topic_name=name, partitions=partitions)
            for name, partitions in topics.items()
        ]
    )
