"""IncrementalAlterConfigs (API key 44, versions 0 and 1): set, delete, append, subtract.

Topics: any topic key; takes effect at once on every broker. Brokers (this one, or with an empty
name all of them): the log defaults that Kafka calls dynamic (`log.retention.ms`,
`message.max.bytes`, `min.insync.replicas`, ...), which take effect at once for every topic that
does not override them. Each resource is altered, or refused, for itself and as a whole:

- topics: unknown key, bad value, or append and subtract on what is no list INVALID_CONFIG; unknown
  topic UNKNOWN_TOPIC_OR_PARTITION; empty name INVALID_REQUEST;
- brokers: another broker's id, a static key, a bad value INVALID_REQUEST; unknown keys are stored;
- both: a resource or a key named twice, a null value (but for delete), an unknown operation
  INVALID_REQUEST. A resource named twice is refused at every mention.

With `validate_only` nothing is written. When ZooKeeper did not answer in time, REQUEST_TIMED_OUT:
it may have been done.

Where we differ from Kafka: the dynamic settings of threads, connections, the cleaner, TLS and
listeners are static here (INVALID_REQUEST), and the three replication throttles, which would be
stored without effect, are refused alike; so are broker loggers (type 8) and client metrics (16).
The version of the entity's node is not checked, as in Kafka: of two brokers that alter one topic
at the same moment, the last writer wins.

Version history: 0 KIP-339; 1 flexible.
"""

from collections import Counter
from collections.abc import Sequence

from zkafka.errors import ApiError, CoordinationError, ErrorCode
from zkafka.protocol.messages.incremental_alter_configs import (
    AlterConfigsResourceResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from zkafka.server.config_entries import Alteration
from zkafka.server.context import RequestContext


async def handle(
    request: IncrementalAlterConfigsRequest, context: RequestContext
) -> IncrementalAlterConfigsResponse:
    """Every resource, in order, each altered or refused."""
    times = Counter((r.resource_type, r.resource_name) for r in request.resources)
    responses = []
    for resource in request.resources:
        code, message = await alter(
            context,
            resource.resource_type,
            resource.resource_name,
            [Alteration(c.name, c.value, c.config_operation) for c in resource.configs],
            mentions=times[resource.resource_type, resource.resource_name],
            incremental=True,
            validate_only=request.validate_only,
        )
        responses.append(
            AlterConfigsResourceResponse(
                error_code=code,
                error_message=message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
            )
        )
    return IncrementalAlterConfigsResponse(responses=responses)


async def alter(
    context: RequestContext,
    resource_type: int,
    name: str,
    alterations: Sequence[Alteration],
    *,
    mentions: int,
    incremental: bool,
    validate_only: bool,
) -> tuple[ErrorCode, str | None]:
    """Alter one resource; the code and message that its answer carries."""
    if mentions > 1:
        return ErrorCode.INVALID_REQUEST, "the resource is named twice"
    try:
        await context.parts.configs.alter(
            resource_type,
            name,
            alterations,
            incremental=incremental,
            validate_only=validate_only,
            topics=context.parts.metadata.image.topics,
        )
    except ApiError as error:
        return error.code, error.message
    except CoordinationError as error:
        return ErrorCode.REQUEST_TIMED_OUT, str(error)
    return ErrorCode.NONE, None
