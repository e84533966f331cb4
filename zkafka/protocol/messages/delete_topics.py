"""DeleteTopics (API key 20): request and response."""

import uuid
from collections.abc import Sequence

from zkafka.protocol.fields import NULL_UUID, array, int16, int32, message, string, uuid_


@message()
class DeleteTopicState:
    name: str | None = string(since=6, nullable=True, default=None)
    topic_id: uuid.UUID = uuid_(since=6, default=NULL_UUID)


@message(api_key=20, versions=(1, 6), flexible=4)
class DeleteTopicsRequest:
    """DeleteTopics request, versions 1 to 6."""

    topics: Sequence[DeleteTopicState] = array(DeleteTopicState, since=6, default=())
    topic_names: Sequence[str] = array("string", until=5, default=())
    timeout_ms: int = int32(default=0)


@message()
class DeletableTopicResult:
    name: str | None = string(nullable=6, default="")
    topic_id: uuid.UUID = uuid_(since=6, default=NULL_UUID)
    error_code: int = int16(default=0)
    error_message: str | None = string(since=5, nullable=True, default=None)


@message(api_key=20, versions=(1, 6), flexible=4)
class DeleteTopicsResponse:
    """DeleteTopics response, versions 1 to 6."""

    throttle_time_ms: int = int32(default=0)
    responses: Sequence[DeletableTopicResult] = array(DeletableTopicResult, default=())
