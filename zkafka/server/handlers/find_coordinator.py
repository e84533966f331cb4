"""FindCoordinator (API key 10, versions 0 to 6): which broker coordinates a group.

It is the leader of the partition of `__consumer_offsets` that the group's id hashes to. If that
topic does not exist it is created; until its partition has a leader, one that listens where the
client came in, the answer is COORDINATOR_NOT_AVAILABLE and clients ask again.

Where we differ from Kafka: there are no transactions yet. For a transactional id (key type 1) the
answer is TRANSACTIONAL_ID_AUTHORIZATION_FAILED with a message, as from InitProducerId: librdkafka
and kafka-python then fail `init_transactions` within a tenth of a second (tried), where they ask
again and again after UNSUPPORTED_VERSION or COORDINATOR_NOT_AVAILABLE. Share groups (key type 2)
are INVALID_REQUEST, as from a Kafka broker beside ZooKeeper, and so are unknown key types. A group
id that no coordinator could write down (above 32,767 bytes) is INVALID_REQUEST too, where Kafka
names a coordinator that will refuse it.

Version history: 0; 1 key type, throttle time, error message (KIP-98); 2 throttling after the
answer; 3 flexible; 4 several keys (KIP-699); 5 TRANSACTION_ABORTABLE (KIP-890); 6 share groups
(KIP-932).
"""

import logging

from zkafka.errors import CoordinationError, ErrorCode
from zkafka.groups.records import STRING_LIMIT
from zkafka.model import NO_BROKER, OFFSETS_TOPIC, Endpoint, TopicPartition
from zkafka.protocol.messages.find_coordinator import (
    Coordinator,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
)
from zkafka.server.context import RequestContext
from zkafka.turns import pause_now_and_then

log = logging.getLogger(__name__)

GROUP = 0
TRANSACTION = 1


async def handle(
    request: FindCoordinatorRequest, context: RequestContext
) -> FindCoordinatorResponse:
    """Waits for the creation of the topic to be started, at most."""
    if request.key_type == GROUP:
        await _ensure_topic(context)
    if context.version >= 4:
        coordinators = []
        for done, key in enumerate(request.coordinator_keys):
            coordinators.append(_find(key, request.key_type, context))
            await pause_now_and_then(done)
        return FindCoordinatorResponse(coordinators=coordinators)
    found = _find(request.key, request.key_type, context)
    return FindCoordinatorResponse(
        error_code=found.error_code,
        error_message=found.error_message,
        node_id=found.node_id,
        host=found.host,
        port=found.port,
    )


async def _ensure_topic(context: RequestContext) -> None:
    """Have the topic created if it is missing. Whether that went well is not waited for: clients
    ask again and again."""
    parts = context.parts
    if OFFSETS_TOPIC in parts.metadata.image.topics:
        return
    try:
        await parts.topics.create_internal(OFFSETS_TOPIC)
    except CoordinationError as error:
        log.warning("cannot create topic=%s reason=%s", OFFSETS_TOPIC, error)


def _find(key: str, key_type: int, context: RequestContext) -> Coordinator:
    if key_type == TRANSACTION:
        return _refused(
            key,
            ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            "transactions are not supported yet",
        )
    if key_type != GROUP:
        return _refused(key, ErrorCode.INVALID_REQUEST, f"no coordinators of type {key_type}")
    if len(key.encode()) > STRING_LIMIT:
        return _refused(key, ErrorCode.INVALID_REQUEST, "the group id is too long")
    parts = context.parts
    image = parts.metadata.image
    partition = image.partition(TopicPartition(OFFSETS_TOPIC, parts.groups.partition_for(key)))
    endpoint: Endpoint | None = None
    if partition is not None:
        endpoint = image.endpoint(partition.leader, context.listener_name)
    if partition is None or endpoint is None:
        return _refused(key, ErrorCode.COORDINATOR_NOT_AVAILABLE, "the offsets have no leader yet")
    return Coordinator(
        key=key,
        node_id=partition.leader,
        host=endpoint.host,
        port=endpoint.port,
        error_message=None,
    )


def _refused(key: str, code: ErrorCode, message: str) -> Coordinator:
    return Coordinator(key=key, node_id=NO_BROKER, port=-1, error_code=code, error_message=message)
