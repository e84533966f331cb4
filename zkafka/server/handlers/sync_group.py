"""SyncGroup (API key 14, versions 0 to 5): the leader says who is assigned what, everybody asks.

Answered when the leader's assignment is in the log on all in-sync replicas. While the coordinator
loads, and when writing the assignment took too long: REBALANCE_IN_PROGRESS, so that members join
again.

Where we differ from Kafka: a member that is removed while it waits is told UNKNOWN_MEMBER_ID at
once (Kafka leaves it waiting); a second SyncGroup of the leader, sent while the first is being
written, does not replace its assignment.

Version history: 0; 1 throttle time; 2 throttling after the answer; 3 static members (KIP-345); 4
flexible; 5 protocol type and name, in the request to be compared with the group's (KIP-559).
"""

from zkafka.protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse
from zkafka.server.context import RequestContext


async def handle(request: SyncGroupRequest, context: RequestContext) -> SyncGroupResponse:
    """Waits for the leader."""
    return await context.parts.groups.sync_group(request)
