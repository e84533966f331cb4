"""AlterReplicaLogDirs (API key 34): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, message, string


@message()
class AlterReplicaLogDirTopic:
    name: str = string(default="")
    partitions: Sequence[int] = array("int32", default=())


@message()
class AlterReplicaLogDir:
    path: str = string(default="")
    topics: Sequence[AlterReplicaLogDirTopic] = array(AlterReplicaLogDirTopic, default=())


@message(api_key=34, versions=(1, 2), flexible=2)
class AlterReplicaLogDirsRequest:
    """AlterReplicaLogDirs request, versions 1 to 2."""

    dirs: Sequence[AlterReplicaLogDir] = array(AlterReplicaLogDir, default=())


@message()
class AlterReplicaLogDirPartitionResult:
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)


@message()
class AlterReplicaLogDirTopicResult:
    topic_name: str = string(default="")
    partitions: Sequence[AlterReplicaLogDirPartitionResult] = array(
        AlterReplicaLogDirPartitionResult, default=()
    )


@message(api_key=34, versions=(1, 2), flexible=2)
class AlterReplicaLogDirsResponse:
    """AlterReplicaLogDirs response, versions 1 to 2."""

    throttle_time_ms: int = int32(default=0)
    results: Sequence[AlterReplicaLogDirTopicResult] = array(
        AlterReplicaLogDirTopicResult, default=()
    )
