"""UpdateMetadata (API key 6, versions 0 to 8): the controller describes the cluster.

Live brokers are replaced, partitions merged (`server.metadata`). Fenced by the broker's epoch and
the controller's, as LeaderAndIsr is. Whoever waits for leaders to be known (CreateTopics,
ElectLeaders, ...) is woken; of deleted topics the group coordinator drops the offsets.

Where we differ from Kafka: there is no KRaft controller, so `type` and `is_kraft_controller` mean
nothing.

Version history: 0; 1 endpoints per listener's protocol; 2 racks (KIP-36); 3 listener names
(KIP-103); 4 offline replicas (KIP-112); 5 partitions by topic, broker epoch (KIP-380); 6 flexible;
7 topic ids (KIP-516); 8 KRaft flags.
"""

import logging

from zkafka.errors import ErrorCode
from zkafka.model import NO_EPOCH
from zkafka.protocol.messages.update_metadata import UpdateMetadataRequest, UpdateMetadataResponse
from zkafka.replication.purgatory import METADATA
from zkafka.server.context import Parts, RequestContext

log = logging.getLogger(__name__)
state_changes = logging.getLogger("zkafka.state_change")


async def handle(request: UpdateMetadataRequest, context: RequestContext) -> UpdateMetadataResponse:
    """One code for the whole request."""
    parts = context.parts
    verdict = _fence(request, parts)
    if verdict is not ErrorCode.NONE:
        log.info(
            "refused metadata broker=%d code=%s controller=%d controller_epoch=%d",
            parts.broker_id,
            verdict.name,
            request.controller_id,
            request.controller_epoch,
        )
        return UpdateMetadataResponse(error_code=verdict)
    before = parts.metadata.image
    changes = parts.metadata.apply(request)
    image = parts.metadata.image
    if (before.controller_id, before.controller_epoch) != (
        image.controller_id,
        image.controller_epoch,
    ):
        state_changes.info(
            "follows controller broker=%d controller=%d controller_epoch=%d",
            parts.broker_id,
            image.controller_id,
            image.controller_epoch,
        )
        parts.controller_changed()
    if changes.new_brokers or changes.lost_brokers:
        state_changes.info(
            "live brokers changed broker=%d live=%s",
            parts.broker_id,
            ",".join(map(str, sorted(image.brokers))),
        )
    if changes.deleted_topics:
        parts.groups.topics_deleted(set(changes.deleted_topics))
        for topic in changes.deleted_topics:
            parts.traffic.forget(topic)
    parts.purgatory.wake(METADATA)
    if changes.lost_brokers:
        await parts.replicas.check_lag()
    return UpdateMetadataResponse()


def _fence(request: UpdateMetadataRequest, parts: Parts) -> ErrorCode:
    """Whether the request is from the present controller and meant for this very registration of
    ours (KIP-380); a broker epoch of -1 is from before they were sent.

    A newer broker epoch than ours is no error: the controller may learn of our registration
    before we do.
    """
    if NO_EPOCH < request.broker_epoch < parts.broker_epoch():
        return ErrorCode.STALE_BROKER_EPOCH
    if request.controller_epoch < parts.replicas.controller_epoch:
        return ErrorCode.STALE_CONTROLLER_EPOCH
    return ErrorCode.NONE
