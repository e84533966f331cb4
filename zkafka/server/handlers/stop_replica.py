"""StopReplica (API key 5, versions 0 to 4): stop serving partitions, and delete them if told so.

Sent for brokers that are shutting down, for replicas that a reassignment moved away, and for
deleted topics. Fenced as LeaderAndIsr is: broker epoch, controller epoch, then leader epoch per
partition. A partition that is not here counts as stopped.

Where we differ from Kafka: none known.

Version history: 0; 1 partitions by topic, broker epoch (KIP-380); 2 flexible; 3 leader epoch and
deletion per partition (KIP-570); 4 KRaft flag, without meaning here.
"""

from zkafka.model import OFFSETS_TOPIC
from zkafka.protocol.messages.stop_replica import StopReplicaRequest, StopReplicaResponse
from zkafka.server.context import RequestContext


async def handle(request: StopReplicaRequest, context: RequestContext) -> StopReplicaResponse:
    """One code per partition, or one for the whole request."""
    parts = context.parts
    response, stopped = await parts.replicas.apply_stop_replica(request)
    for tp in stopped:
        if tp.topic == OFFSETS_TOPIC:
            parts.groups.partition_resigned(tp.partition)
    return response
