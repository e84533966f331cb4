"""CreateTopics (API key 19, versions 2 to 7): create topics, or only judge whether they could be.

Only the controller does it; any other broker answers NOT_CONTROLLER per topic. A topic is judged in
the order that `server/topics.py` tells, then its znodes are written, and the answer waits until all
of its partitions have leaders, or for timeout_ms: then REQUEST_TIMED_OUT, though the topic comes to
be. A timeout of zero or less never waits and always says so. Counts of -1 are the broker's
num.partitions and default.replication.factor.

Where we differ from Kafka: no authorizer, no create.topic.policy and no controller mutation quota,
so that TOPIC_AUTHORIZATION_FAILED, POLICY_VIOLATION and THROTTLING_QUOTA_EXCEEDED are not answered.
Topics of one request are written side by side, not one after the other.

Version history: 2 throttle time; 3 throttling after the answer; 4 counts of -1 (KIP-464);
5 settings and counts in the answer (KIP-525), flexible; 6 mutation quota (KIP-599); 7 topic id
(KIP-516).
"""

from collections.abc import Mapping

from zkafka.errors import ErrorCode
from zkafka.protocol.messages.create_topics import (
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from zkafka.server.configs import Configs
from zkafka.server.context import RequestContext
from zkafka.server.topics import TopicResult


async def handle(request: CreateTopicsRequest, context: RequestContext) -> CreateTopicsResponse:
    """One result per topic name."""
    results = await context.parts.topics.create(
        request.topics, timeout_ms=request.timeout_ms, validate_only=request.validate_only
    )
    with_details = context.version >= 5
    described: dict[frozenset[tuple[str, str]], list[CreatableTopicConfigs]] = {}
    topics: list[CreatableTopicResult] = []
    for result in results:
        assert result.name is not None
        if not with_details or not result.assignments:
            topics.append(_plain(result))
            continue
        # Requests for many topics mostly have few sets of settings among them.
        settings = frozenset(result.configs.items())
        if settings not in described:
            described[settings] = _described(context.parts.configs, result.configs)
        topics.append(
            CreatableTopicResult(
                name=result.name,
                topic_id=result.topic_id,
                error_code=result.error,
                error_message=result.message,
                num_partitions=len(result.assignments),
                replication_factor=len(next(iter(result.assignments.values())).replicas),
                configs=described[settings],
            )
        )
    return CreateTopicsResponse(topics=topics)


def _plain(result: TopicResult) -> CreatableTopicResult:
    assert result.name is not None
    return CreatableTopicResult(
        name=result.name,
        topic_id=result.topic_id,
        error_code=result.error,
        error_message=None if result.error is ErrorCode.NONE else result.message,
    )


def _described(configs: Configs, overrides: Mapping[str, str]) -> list[CreatableTopicConfigs]:
    return [
        CreatableTopicConfigs(
            name=entry.key,
            value=entry.value,
            read_only=entry.read_only,
            config_source=entry.source,
            is_sensitive=entry.is_sensitive,
        )
        for entry in configs.describe_overrides(overrides)
    ]
