"""JoinGroup (API key 11, versions 0 to 9): become a member of a group, or stay one in its next
generation.

The answer comes when the join phase ends: all members have joined, or the rebalance timeout has
passed. One member, the leader, is told the others' metadata. An id too long for the offsets log
(32,767 bytes) is INVALID_GROUP_ID; an instance id or protocol name too long, or an empty instance
id, is INVALID_REQUEST.

Where we differ from Kafka: of protocols with equally many votes the one that the longest-standing
member prefers wins (Kafka's choice is by chance); the initial delay is extended by newcomers
whenever a group starts from empty, not in its first generation only; the part of the client id
that a member id takes over is cut to 32,000 bytes. The new protocol's upgrade (KIP-848) is unknown
here.

Version history: 0; 1 rebalance timeout (KIP-62; before: the session timeout); 2 throttle time; 3
throttling after the answer; 4 MEMBER_ID_REQUIRED (KIP-394); 5 static members (KIP-345); 6 flexible;
7 protocol type in the answer (KIP-559); 8 reason (KIP-800); 9 skip_assignment (KIP-814).
"""

from zkafka.groups.coordinator import ClientContext
from zkafka.protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse
from zkafka.server.context import RequestContext


async def handle(request: JoinGroupRequest, context: RequestContext) -> JoinGroupResponse:
    """Waits for the other members."""
    client = ClientContext(context.client_id, context.peer_host, context.version)
    return await context.parts.groups.join_group(request, client)
