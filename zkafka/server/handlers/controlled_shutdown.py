"""ControlledShutdown (API key 7, versions 1 to 3): a broker asks to be relieved before it stops.

Only the controller does it; any other broker answers NOT_CONTROLLER. The broker's partitions get
other leaders and it leaves all ISRs; the answer lists the partitions that it still leads because
nobody else is in sync, for which it asks again. Partitions with a single replica are not listed.
Unknown brokers are BROKER_NOT_AVAILABLE, requests of an earlier life STALE_BROKER_EPOCH.

Where we differ from Kafka: version 0, which brokers before 0.9 sent under a header of its own, is
not served.

Version history: 1 the usual request header; 2 broker epoch (KIP-380); 3 flexible.
"""

from zkafka.protocol.messages.controlled_shutdown import (
    ControlledShutdownRequest,
    ControlledShutdownResponse,
)
from zkafka.server.context import RequestContext


async def handle(
    request: ControlledShutdownRequest, context: RequestContext
) -> ControlledShutdownResponse:
    """The partitions that are left, or a code."""
    return await context.parts.controller.controlled_shutdown(request, context.version)
