"""DeleteTopics (API key 20, versions 1 to 6): have topics deleted, by name or by id.

Only the controller does it; any other broker answers NOT_CONTROLLER per topic. A marker is written
for each topic that exists; the controller then tells every broker that the topic goes, and the
answer waits until this one has heard so, or for timeout_ms: then REQUEST_TIMED_OUT, though the
topic goes on being deleted (it waits for brokers that are down). Asking for what is marked already
is no error.

Unknown names are UNKNOWN_TOPIC_OR_PARTITION, unknown ids UNKNOWN_TOPIC_ID; a name together with an
id makes the whole request INVALID_REQUEST. With delete.topic.enable=false everything is
TOPIC_DELETION_DISABLED (INVALID_REQUEST below version 3).

Where we differ from Kafka: no authorizer and no controller mutation quota.

Version history: 1 throttle time; 2 throttling after the answer; 3 TOPIC_DELETION_DISABLED;
4 flexible; 5 error messages, mutation quota (KIP-599); 6 topic ids (KIP-516).
"""

import uuid

from zkafka.errors import ApiError, ErrorCode
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
)
from zkafka.server.context import RequestContext


async def handle(request: DeleteTopicsRequest, context: RequestContext) -> DeleteTopicsResponse:
    """One result per topic. Errors: ApiError for the whole request."""
    parts = context.parts
    asked = _asked(request, context.version)
    if not parts.controller.is_active:
        return _all(asked, ErrorCode.NOT_CONTROLLER)
    if not parts.config.delete_topic_enable:
        disabled = ErrorCode.TOPIC_DELETION_DISABLED
        return _all(asked, disabled if context.version >= 3 else ErrorCode.INVALID_REQUEST)
    if any(name is not None and topic_id != NULL_UUID for name, topic_id in asked):
        raise ApiError(
            ErrorCode.INVALID_REQUEST, "Topic name and topic ID can not both be specified."
        )

    image = parts.metadata.image
    responses: list[DeletableTopicResult] = []
    names: dict[str, uuid.UUID] = {}
    for name, topic_id in asked:
        known = name if name is not None else image.topic_names.get(topic_id)
        if known is None:
            responses.append(_result(None, topic_id, ErrorCode.UNKNOWN_TOPIC_ID, None))
        else:
            names.setdefault(known, topic_id if name is None else image.topic_id(known))
    for result in await parts.topics.delete(list(names), timeout_ms=request.timeout_ms):
        assert result.name is not None
        responses.append(_result(result.name, names[result.name], result.error, result.message))
    return DeleteTopicsResponse(responses=responses)


def _asked(request: DeleteTopicsRequest, version: int) -> list[tuple[str | None, uuid.UUID]]:
    """What is to go: each once, by name or by id, in the order of the request."""
    if version >= 6:
        return list(dict.fromkeys((topic.name, topic.topic_id) for topic in request.topics))
    return [(name, NULL_UUID) for name in dict.fromkeys(request.topic_names)]


def _all(asked: list[tuple[str | None, uuid.UUID]], error: ErrorCode) -> DeleteTopicsResponse:
    return DeleteTopicsResponse(
        responses=[_result(name, topic_id, error, None) for name, topic_id in asked]
    )


def _result(
    name: str | None, topic_id: uuid.UUID, error: ErrorCode, message: str | None
) -> DeletableTopicResult:
    return DeletableTopicResult(
        name=name, topic_id=topic_id, error_code=error, error_message=message
    )
