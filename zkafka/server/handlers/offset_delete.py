"""OffsetDelete (API key 47, version 0): forget single committed offsets of a group.

Offsets of topics that a member subscribes to are GROUP_SUBSCRIBED_TO_TOPIC; where a member's
subscription cannot be read, that is any topic. A group with members that are no consumers is
NON_EMPTY_GROUP. To delete what is not there is no error.

Where we differ from Kafka: answered when all in-sync replicas have the tombstones.

Version history: 0 (KIP-496).
"""

from zkafka.protocol.messages.offset_delete import OffsetDeleteRequest, OffsetDeleteResponse
from zkafka.server.context import RequestContext


async def handle(request: OffsetDeleteRequest, context: RequestContext) -> OffsetDeleteResponse:
    """Waits for the replicas."""
    return await context.parts.groups.delete_offsets(request)
