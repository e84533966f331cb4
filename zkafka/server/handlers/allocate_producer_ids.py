"""AllocateProducerIds (API key 67, version 0): a broker asks for its next thousand producer ids.

Only the controller does it; any other broker answers NOT_CONTROLLER. A broker that is not
registered is BROKER_ID_NOT_REGISTERED, one that asks with another than its registered epoch
STALE_BROKER_EPOCH. A block is given once: if the answer is lost, so are its ids.

Where we differ from Kafka: while ZooKeeper does not answer, COORDINATOR_LOAD_IN_PROGRESS, which is
retriable, where Kafka keeps the broker waiting.

Version history: 0 (KIP-730).
"""

from zkafka.protocol.messages.allocate_producer_ids import (
    AllocateProducerIdsRequest,
    AllocateProducerIdsResponse,
)
from zkafka.server.context import RequestContext


async def handle(
    request: AllocateProducerIdsRequest, context: RequestContext
) -> AllocateProducerIdsResponse:
    """The block's first id and length, or a code."""
    return await context.parts.controller.allocate_producer_ids(request)
