"""ElectLeaders (API key 43): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int8, int16, int32, message, string


@message()
class TopicPartitions:
    topic: str = string(default="")
    partitions: Sequence[int] = array("int32", default=())


@message(api_key=43, versions=(0, 2), flexible=2)
class ElectLeadersRequest:
    """ElectLeaders request, versions 0 to 2."""

    election_type: int = int8(since=1, default=0)
    topic_partitions: Sequence[TopicPartitions] | None = array(
        TopicPartitions, nullable=True, default=()
    )
    timeout_ms: int = int32(default=60000)


@message()
class PartitionResult:
    partition_id: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=True, default="")


@message()
class ReplicaElectionResult:
    topic: str = string(default="")
    partition_result: Sequence[PartitionResult] = array(PartitionResult, default=())


@message(api_key=43, versions=(0, 2), flexible=2)
class ElectLeadersResponse:
    """ElectLeaders response, versions 0 to 2."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=1, default=0)
    replica_election_results: Sequence[ReplicaElectionResult] = array(
        ReplicaElectionResult, default=()
    )
