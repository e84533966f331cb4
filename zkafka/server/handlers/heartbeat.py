"""Heartbeat (API key 12, versions 0 to 4): a member lives, and asks whether it must rejoin.

REBALANCE_IN_PROGRESS is the coordinator's call to join again; it counts as a heartbeat all the
same. While the coordinator loads, the answer is NONE: there is nothing to tell yet.

Where we differ from Kafka: none known.

Version history: 0; 1 throttle time; 2 throttling after the answer; 3 static members (KIP-345); 4
flexible.
"""

from zkafka.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from zkafka.server.context import RequestContext


async def handle(request: HeartbeatRequest, context: RequestContext) -> HeartbeatResponse:
    """Answered at once."""
    return context.parts.groups.heartbeat(request)
