"""DeleteGroups (API key 42, versions 0 to 2): forget groups, with all they have committed.

A group with members is NON_EMPTY_GROUP, one that does not exist GROUP_ID_NOT_FOUND.

Where we differ from Kafka: answered when all in-sync replicas have the tombstones (Kafka: when the
leader has them), so that a deleted group does not come back; a group named twice is answered once,
in the order of the request.

Version history: 0 (KIP-229); 1 throttling after the answer; 2 flexible.
"""

from zkafka.protocol.messages.delete_groups import DeleteGroupsRequest, DeleteGroupsResponse
from zkafka.server.context import RequestContext


async def handle(request: DeleteGroupsRequest, context: RequestContext) -> DeleteGroupsResponse:
    """Waits for the replicas."""
    results = await context.parts.groups.delete_groups(request.groups_names)
    return DeleteGroupsResponse(results=results)
