"""AlterPartition (API key 56, versions 2 to 3): a leader proposes who is in sync.

Only the controller does it; any other broker answers NOT_CONTROLLER for the whole request, as does
one that resigns meanwhile. What is judged, in which order, is told by `controller/machine.py`. The
answer comes when ZooKeeper has the new state, and carries it with its partition epoch.

Where we differ from Kafka 3.9 in ZooKeeper mode: the broker epochs that version 3 carries are
compared with the registered ones, as KRaft does (KIP-903), where they are not -1: a replica that
has registered anew since its last fetch is INELIGIBLE_REPLICA. A proposal that leaves the leader
out, or comes from another broker, or names an unassigned one, is INVALID_REQUEST.

Version history: 2 topic ids (KIP-516); 3 ISR members with broker epochs (KIP-903). Versions 0 and
1 name topics, and are spoken by brokers before 3.3 only.
"""

from zkafka.protocol.messages.alter_partition import (
    AlterPartitionRequest,
    AlterPartitionResponse,
)
from zkafka.server.context import RequestContext


async def handle(request: AlterPartitionRequest, context: RequestContext) -> AlterPartitionResponse:
    """One result per partition, or one code for the whole request."""
    return await context.parts.controller.alter_partition(request, context.version)
