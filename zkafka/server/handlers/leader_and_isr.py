"""LeaderAndIsr (API key 4, versions 0 to 7): the controller gives this broker its roles.

Fenced as a whole by the broker's epoch (a request meant for an earlier registration of ours is
STALE_BROKER_EPOCH) and the controller's (an older controller than one we have heard is
STALE_CONTROLLER_EPOCH), and partition by partition by the leader epoch; `replication.replicas` sees
to that, one control request after the other. When the roles are taken, the group coordinator is
told which of its partitions came and went.

Where we differ from Kafka: there is no KRaft controller and no migration to one, so `type` and
`is_kraft_controller` mean nothing.

Version history: 0; 1 is_new; 2 partitions by topic, broker epoch (KIP-380); 3 reassignment
(KIP-455); 4 flexible; 5 topic ids (KIP-516); 6 leader recovery state (KIP-704); 7 KRaft flag.
"""

from zkafka.model import OFFSETS_TOPIC
from zkafka.protocol.messages.leader_and_isr import LeaderAndIsrRequest, LeaderAndIsrResponse
from zkafka.replication.roles import role_orders
from zkafka.server.context import RequestContext


async def handle(request: LeaderAndIsrRequest, context: RequestContext) -> LeaderAndIsrResponse:
    """One code per partition, or one for the whole request."""
    parts = context.parts
    hosted = parts.replicas.hosted
    named = {order.topic_partition for order in role_orders(request)}
    # Before the logs are made, since a compacted topic must not begin as another.
    await parts.configs.learn({tp.topic for tp in named if tp not in hosted})
    changes = await parts.replicas.apply_leader_and_isr(request)
    # No checkpoint from here on: the coordinator learns of changes in the order they were made.
    for tp in changes.became_follower:
        if tp.topic == OFFSETS_TOPIC:
            parts.groups.partition_resigned(tp.partition)
    for tp, leader_epoch in changes.became_leader:
        if tp.topic == OFFSETS_TOPIC:
            parts.groups.partition_led(tp.partition, leader_epoch)
    return changes.response
