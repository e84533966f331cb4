"""ElectLeaders (API key 43, versions 0 to 2): elect preferred leaders, or unclean ones.

Only the controller does it; any other broker answers NOT_CONTROLLER. Preferred (type 0): the first
assigned replica leads, if it is alive and in sync. Unclean (type 1): for partitions without a live
leader, any live replica, with or without the data. A null list asks for all partitions and is
answered for those only where something was to be done. The answer waits until this broker has heard
of the new leaders, or for timeout_ms: then REQUEST_TIMED_OUT, though they lead.

Where we differ from Kafka: no authorizer. A broker that is not controller says so at the top as
well, where the version has a place for it; an election type that does not exist is INVALID_REQUEST.

Version history: 0 preferred only; 1 election type and top-level error (KIP-460); 2 flexible.
"""

from collections.abc import Sequence

from zkafka.controller.events import ElectionResult
from zkafka.errors import ApiError, ErrorCode
from zkafka.model import TopicPartition
from zkafka.protocol.messages.elect_leaders import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    PartitionResult,
    ReplicaElectionResult,
)
from zkafka.replication.purgatory import METADATA
from zkafka.server.context import Parts, RequestContext

PREFERRED, UNCLEAN = 0, 1

_MESSAGES = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: "The partition does not exist.",
    ErrorCode.INVALID_TOPIC_EXCEPTION: "The topic is being deleted.",
    ErrorCode.ELECTION_NOT_NEEDED: "Leader election not needed for topic partition.",
    ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE: "The preferred leader is not alive and in sync.",
    ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE: "No replica is alive.",
    ErrorCode.NOT_CONTROLLER: "This is not the correct controller for this cluster.",
}


async def handle(request: ElectLeadersRequest, context: RequestContext) -> ElectLeadersResponse:
    """One result per partition. Errors: ApiError for the whole request."""
    parts = context.parts
    if request.election_type not in (PREFERRED, UNCLEAN):
        raise ApiError(ErrorCode.INVALID_REQUEST, f"no election type {request.election_type}")
    deadline_ms = parts.clock.monotonic_ms() + request.timeout_ms
    asked: list[TopicPartition] | None = None
    if request.topic_partitions is not None:
        asked = [
            TopicPartition(topic.topic, partition)
            for topic in request.topic_partitions
            for partition in topic.partitions
        ]
    results = await parts.controller.elect_leaders(asked, unclean=request.election_type == UNCLEAN)
    if results is None:
        refused = ErrorCode.NOT_CONTROLLER
        return _response(dict.fromkeys(asked or (), refused), refused)
    errors = {tp: result.error for tp, result in results.items()}
    elected = {tp: r for tp, r in results.items() if r.error is ErrorCode.NONE}
    for tp in await _unheard_of(elected, parts, deadline_ms, request.timeout_ms):
        errors[tp] = ErrorCode.REQUEST_TIMED_OUT
    return _response(errors, ErrorCode.NONE)


async def _unheard_of(
    elected: dict[TopicPartition, ElectionResult],
    parts: Parts,
    deadline_ms: int,
    timeout_ms: int,
) -> Sequence[TopicPartition]:
    """The elections that this broker has not been told of in time."""
    waiting = dict(elected)

    def heard() -> bool:
        image = parts.metadata.image
        for tp, result in list(waiting.items()):
            partition = image.partition(tp)
            if partition is not None and partition.leader_epoch >= result.leader_epoch:
                del waiting[tp]
        return not waiting

    if not heard() and timeout_ms > 0:
        await parts.purgatory.wait_until([METADATA], heard, deadline_ms)
    return list(waiting)


def _response(errors: dict[TopicPartition, ErrorCode], top: ErrorCode) -> ElectLeadersResponse:
    by_topic: dict[str, list[PartitionResult]] = {}
    for tp, error in sorted(errors.items()):
        by_topic.setdefault(tp.topic, []).append(
            PartitionResult(
                partition_id=tp.partition, error_code=error, error_message=_MESSAGES.get(error)
            )
        )
    return ElectLeadersResponse(
        error_code=top,
        replica_election_results=[
            ReplicaElectionResult(topic=topic, partition_result=partitions)
            for topic, partitions in by_topic.items()
        ],
    )
