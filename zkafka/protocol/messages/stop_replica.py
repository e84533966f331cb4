"""StopReplica (API key 5): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, int16, int32, int64, message, string


@message()
class StopReplicaPartitionV0:
    topic_name: str = string(until=0, default="")
    partition_index: int = int32(until=0, default=0)


@message()
class StopReplicaTopicV1:
    name: str = string(since=1, until=2, default="")
    partition_indexes: Sequence[int] = array("int32", since=1, until=2, default=())


@message()
class StopReplicaPartitionState:
    partition_index: int = int32(since=3, default=0)
    leader_epoch: int = int32(since=3, default=-1)
    delete_partition: bool = boolean(since=3, default=False)


@message()
class StopReplicaTopicState:
    topic_name: str = string(since=3, default="")
    partition_states: Sequence[StopReplicaPartitionState] = array(
        StopReplicaPartitionState, since=3, default=()
    )


@message(api_key=5, versions=(0, 4), flexible=2)
class StopReplicaRequest:
    """StopReplica request, versions 0 to 4."""

    controller_id: int = int32(default=0)
    is_kraft_controller: bool = boolean(since=4, default=False)
    controller_epoch: int = int32(default=0)
    broker_epoch: int = int64(since=1, default=-1)
    delete_partitions: bool = boolean(until=2, default=False)
    ungrouped_partitions: Sequence[StopReplicaPartitionV0] = array(
        StopReplicaPartitionV0, until=0, default=()
    )
    topics: Sequence[StopReplicaTopicV1] = array(StopReplicaTopicV1, since=1, until=2, default=())
    topic_states: Sequence[StopReplicaTopicState] = array(
        StopReplicaTopicState, since=3, default=()
    )


@message()
class StopReplicaPartitionError:
    topic_name: str = string(default="")
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)


@message(api_key=5, versions=(0, 4), flexible=2)
class StopReplicaResponse:
    """StopReplica response, versions 0 to 4."""

    error_code: int = int16(default=0)
    partition_errors: Sequence[StopReplicaPartitionError] = array(
        StopReplicaPartitionError, default=()
    )
