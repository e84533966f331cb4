"""AlterConfigs (API key 33, versions 0 to 2): replace all overrides of a topic or a broker.

What the request does not name is removed. Everything else, the refusals and the differences from
Kafka included, is as in `incremental_alter_configs.py`, which clients should use instead (KIP-339):
this one loses what another client set in between.

Version history: 0 KIP-133; 1 throttling after the answer; 2 flexible.
"""

from collections import Counter

from zkafka.protocol.messages.alter_configs import (
    AlterConfigsRequest,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
)
from zkafka.server.config_entries import Alteration
from zkafka.server.context import RequestContext
from zkafka.server.handlers.incremental_alter_configs import alter


async def handle(request: AlterConfigsRequest, context: RequestContext) -> AlterConfigsResponse:
    """Every resource, in order, each replaced or refused."""
    times = Counter((r.resource_type, r.resource_name) for r in request.resources)
    responses = []
    for resource in request.resources:
        code, message = await alter(
            context,
            resource.resource_type,
            resource.resource_name,
            [Alteration(c.name, c.value) for c in resource.configs],
            mentions=times[resource.resource_type, resource.resource_name],
            incremental=False,
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
    return AlterConfigsResponse(responses=responses)
