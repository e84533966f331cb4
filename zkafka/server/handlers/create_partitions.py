"""CreatePartitions (API key 37, versions 0 to 3): give topics more partitions.

Only the controller does it; any other broker answers NOT_CONTROLLER per topic. `count` is the
number after growing. Refused: the same or a smaller count (INVALID_PARTITIONS), a topic that is
unknown, being deleted or being reassigned, assignments that name brokers not alive or do not fit.
The answer waits until all partitions have leaders, or for timeout_ms, as CreateTopics does.

Where we differ from Kafka: no authorizer and no controller mutation quota. Two requests that grow
one topic at the same time cannot undo each other: the later one is INVALID_PARTITIONS.

Version history: 0 and 1 alike but for throttling after the answer; 2 flexible; 3 mutation quota
(KIP-599).
"""

from zkafka.protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopicResult,
)
from zkafka.server.context import RequestContext


async def handle(
    request: CreatePartitionsRequest, context: RequestContext
) -> CreatePartitionsResponse:
    """One result per topic name."""
    results = await context.parts.topics.add_partitions(
        request.topics, timeout_ms=request.timeout_ms, validate_only=request.validate_only
    )
    return CreatePartitionsResponse(
        results=[
            CreatePartitionsTopicResult(
                name=result.name or "", error_code=result.error, error_message=result.message
            )
            for result in results
        ]
    )
