"""DescribeConfigs (API key 32, versions 1 to 4): settings in force, and where each comes from.

A topic's settings come with its overrides as ZooKeeper holds them now; a broker's only from that
broker itself (another id is INVALID_REQUEST); the empty broker name asks for the cluster's dynamic
defaults, and gets nothing else. Null or empty keys ask for all; a key that is none is left out.
Each resource is refused for itself: INVALID_TOPIC_EXCEPTION, UNKNOWN_TOPIC_OR_PARTITION, or
INVALID_REQUEST for a resource type without settings.

Passwords, and values of keys whose type is unknown, are never shown: null, and marked sensitive.

Where we differ from Kafka: broker loggers (type 8) and client metrics (16) are refused with
INVALID_REQUEST. A broker's dynamic values are read from ZooKeeper, where Kafka shows those it has
heard of. Settings that are dynamic in Kafka and not here are read-only. A setting without effect
here is listed, and its documentation says so.

Version history: 1 synonyms and sources (KIP-226); 2 throttling after the answer; 3 types and
documentation (KIP-569); 4 flexible.
"""

from zkafka.errors import ApiError, CoordinationError, ErrorCode
from zkafka.protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)
from zkafka.server.config_entries import Entry
from zkafka.server.context import RequestContext


async def handle(
    request: DescribeConfigsRequest, context: RequestContext
) -> DescribeConfigsResponse:
    """Every resource asked for, in order, each with its settings or its error."""
    results = [await _described(resource, request, context) for resource in request.resources]
    return DescribeConfigsResponse(results=results)


async def _described(
    resource: DescribeConfigsResource, request: DescribeConfigsRequest, context: RequestContext
) -> DescribeConfigsResult:
    result = DescribeConfigsResult(
        error_message=None,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
    )
    try:
        entries = await context.parts.configs.describe(
            resource.resource_type,
            resource.resource_name,
            resource.configuration_keys,
            topics=context.parts.metadata.image.topics,
        )
    except ApiError as error:
        result.error_code, result.error_message = error.code, error.message
    except CoordinationError as error:
        # A reading, so it may always be tried again.
        result.error_code, result.error_message = ErrorCode.REQUEST_TIMED_OUT, str(error)
    else:
        result.configs = [_row(entry, request) for entry in entries]
    return result


def _row(entry: Entry, request: DescribeConfigsRequest) -> DescribeConfigsResourceResult:
    synonyms = entry.synonyms if request.include_synonyms else ()
    return DescribeConfigsResourceResult(
        name=entry.key,
        value=entry.value,
        read_only=entry.read_only,
        config_source=entry.source,
        is_sensitive=entry.is_sensitive,
        synonyms=[
            DescribeConfigsSynonym(name=synonym.key, value=synonym.value, source=synonym.source)
            for synonym in synonyms
        ],
        config_type=entry.kind,
        documentation=entry.documentation if request.include_documentation else None,
    )
