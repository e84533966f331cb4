"""Metadata (API key 3, versions 0 to 12): the brokers, and the topics asked for.

Answered from `server.metadata` without asking anybody. Brokers and leaders are told by the
endpoints of the listener the client came in on: a broker that lacks it is left out, a partition
whose leader lacks it has LISTENER_NOT_FOUND (LEADER_NOT_AVAILABLE before version 6) and no leader.

A topic that does not exist has UNKNOWN_TOPIC_OR_PARTITION, or is created if the client and
`auto.create.topics.enable` allow: then its code says how that went, LEADER_NOT_AVAILABLE where the
creation was started. A client that asks for all topics, or by topic id, creates none.

Where we differ from Kafka: a broker that has just started knows no cluster until the controller
describes it. Kafka answers without brokers, and takes every topic for missing; some clients then
drop what they know of their topics. We wait for the picture, `_FIRST_PICTURE_MS` at most, after
which topics asked for by name have LEADER_NOT_AVAILABLE, and none is created. There is no
authorizer, so a client that asks for its authorized operations gets all of them and every topic is
visible. Each topic named twice is answered once, as
Kafka does, in the order of the request, which Kafka does not keep.

Version history: 0 an empty list asks for all, dead replicas are left out with
REPLICA_NOT_AVAILABLE; 1 null asks for all and empty for none, controller id, racks, is_internal;
2 cluster id; 3 throttle time; 4 allow_auto_topic_creation (KIP-204); 5 offline replicas (KIP-112);
6 throttling after the answer, LISTENER_NOT_FOUND; 7 leader epochs (KIP-320); 8 authorized
operations (KIP-430); 9 flexible; 10 topic ids in the answer (KIP-516); 11 cluster operations moved
to DescribeCluster; 12 topics by id.
"""

import uuid
from collections import Counter
from collections.abc import Sequence

from zkafka.errors import ErrorCode
from zkafka.model import INTERNAL_TOPICS, NO_LEADER
from zkafka.protocol import codec
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from zkafka.replication.purgatory import METADATA
from zkafka.server import acls, refusals
from zkafka.server.context import RequestContext
from zkafka.server.metadata import MetadataImage, PartitionImage, TopicImage
from zkafka.server.topics import is_legal_topic_name
from zkafka.turns import pause_now_and_then

_FIRST_PICTURE_MS = 1000
"""A controller describes the cluster to a new broker within milliseconds, if there is one."""
_LONG = 256
"""Partitions of which the answer for all topics is kept, until the cluster changes: a millisecond
of work and 6 KB. Of 10,000 partitions it takes 30 ms and 260 KB."""
_KEPT = 8
"""Long answers kept at most: of some versions, listeners and flags."""


async def handle(
    request: MetadataRequest, context: RequestContext
) -> MetadataResponse | codec.Prepared:
    """The cluster as this broker knows it when all topics to be created have been asked for."""
    version = context.version
    await _first_picture(context)
    operations = (
        acls.TOPIC_OPERATIONS if request.include_topic_authorized_operations else acls.NOT_ASKED
    )
    asked = request.topics
    wants_all = asked is None or (version == 0 and not asked)
    creations: dict[str, ErrorCode] = {}
    if not wants_all:
        assert asked is not None
        refusal = _refusal(asked, version)
        if refusal is not ErrorCode.NONE:
            topics = [_failed(t.name, t.topic_id, refusal) for t in asked]
            return _response(request, context, context.parts.metadata.image, topics)
        if not any(topic.topic_id != NULL_UUID for topic in asked):
            creations = await _create_missing(request, asked, context)

    if wants_all:
        return await _all_topics(request, context, operations)
    assert asked is not None
    # Taken after the waiting, so that brokers and topics are of one moment.
    image = context.parts.metadata.image
    topics = []
    by_id = any(topic.topic_id != NULL_UUID for topic in asked)
    each = dict.fromkeys((topic.name, topic.topic_id) for topic in asked)
    for done, (name, topic_id) in enumerate(each):
        await pause_now_and_then(done)
        if by_id:
            known = image.topics.get(image.topic_names.get(topic_id, ""))
            missing = ErrorCode.UNKNOWN_TOPIC_ID
        else:
            assert name is not None
            known = image.topics.get(name)
            missing = creations.get(name, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        if known is not None:
            topics.append(_described(known, image, context, operations))
        else:
            topics.append(_failed(None if by_id else name, topic_id, missing))
    return _response(request, context, image, topics)


async def _all_topics(
    request: MetadataRequest, context: RequestContext, operations: int
) -> MetadataResponse | codec.Prepared:
    """Every topic there is; a long answer is kept, and given again until the cluster changes."""
    metadata, version = context.parts.metadata, context.version
    image = metadata.image
    of_cluster = request.include_cluster_authorized_operations
    kind = version, context.listener_name, operations, of_cluster
    kept = metadata.answers(image).get(kind)
    if kept is not None:
        return kept
    topics = []
    for done, (_, topic) in enumerate(sorted(image.topics.items())):
        await pause_now_and_then(done)
        topics.append(_described(topic, image, context, operations))
    response = _response(request, context, image, topics)
    if image.partition_count() < _LONG:
        return response
    prepared = codec.Prepared.of(response, version, Counter(refusals.codes(response)))
    answers = metadata.answers(image)
    if len(answers) < _KEPT:
        answers[kind] = prepared
    return prepared


def _refusal(asked: Sequence[MetadataRequestTopic], version: int) -> ErrorCode:
    """Why the whole request makes no sense: topics neither named nor, since version 12, by id."""
    for topic in asked:
        by_id = topic.topic_id != NULL_UUID
        if (topic.name is None and not by_id) or (by_id and version < 12):
            return ErrorCode.INVALID_REQUEST
    return ErrorCode.NONE


async def _first_picture(context: RequestContext) -> None:
    """Until the controller has described the cluster once, or it takes too long."""
    parts = context.parts
    if not parts.metadata.image.received:
        deadline_ms = parts.clock.monotonic_ms() + _FIRST_PICTURE_MS
        await parts.purgatory.wait_until(
            [METADATA], lambda: parts.metadata.image.received, deadline_ms
        )


async def _create_missing(
    request: MetadataRequest, asked: Sequence[MetadataRequestTopic], context: RequestContext
) -> dict[str, ErrorCode]:
    """Codes for the topics that do not exist: how their creation went, or why there was none."""
    parts = context.parts
    image = parts.metadata.image
    may_create = request.allow_auto_topic_creation and parts.config.auto_create_topics_enable
    codes: dict[str, ErrorCode] = {}
    for done, topic in enumerate(asked):
        await pause_now_and_then(done)
        name = topic.name
        assert name is not None
        if name in image.topics or name in codes:
            continue
        if not image.received:
            codes[name] = ErrorCode.LEADER_NOT_AVAILABLE
        elif may_create:
            codes[name] = await parts.topics.auto_create(name)
        elif not is_legal_topic_name(name):
            codes[name] = ErrorCode.INVALID_TOPIC_EXCEPTION
        else:
            codes[name] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return codes


def _response(
    request: MetadataRequest,
    context: RequestContext,
    image: MetadataImage,
    topics: list[MetadataResponseTopic],
) -> MetadataResponse:
    return MetadataResponse(
        brokers=[
            MetadataResponseBroker(
                node_id=broker_id, host=endpoint.host, port=endpoint.port, rack=broker.rack
            )
            for broker_id, broker in sorted(image.brokers.items())
            if (endpoint := broker.endpoints.get(context.listener_name)) is not None
        ],
        cluster_id=image.cluster_id,
        controller_id=image.controller_id,
        topics=topics,
        cluster_authorized_operations=acls.CLUSTER_OPERATIONS
        if request.include_cluster_authorized_operations
        else acls.NOT_ASKED,
    )


def _described(
    topic: TopicImage, image: MetadataImage, context: RequestContext, operations: int
) -> MetadataResponseTopic:
    version, listener = context.version, context.listener_name
    return MetadataResponseTopic(
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.name in INTERNAL_TOPICS,
        partitions=[
            _partition(index, partition, image, listener, version)
            for index, partition in sorted(topic.partitions.items())
        ],
        topic_authorized_operations=operations,
    )


def _failed(name: str | None, topic_id: uuid.UUID, code: ErrorCode) -> MetadataResponseTopic:
    # A null name can be told from version 12 on, where alone a topic may be asked for by id; the
    # refusal of an older request that left the name out says "".
    by_id = code is ErrorCode.UNKNOWN_TOPIC_ID
    return MetadataResponseTopic(
        error_code=code,
        name=name if by_id or name is not None else "",
        topic_id=topic_id,
        is_internal=name in INTERNAL_TOPICS,
    )


def _partition(
    index: int, partition: PartitionImage, image: MetadataImage, listener: str, version: int
) -> MetadataResponsePartition:
    replicas: Sequence[int] = partition.replicas
    isr: Sequence[int] = partition.isr
    code = ErrorCode.NONE
    if version == 0:
        # The first clients knew nothing of dead replicas: they are left out and reported.
        replicas = [r for r in replicas if image.endpoint(r, listener) is not None]
        isr = [r for r in isr if image.endpoint(r, listener) is not None]
        if len(replicas) < len(partition.replicas) or len(isr) < len(partition.isr):
            code = ErrorCode.REPLICA_NOT_AVAILABLE
    leader = partition.leader
    if image.endpoint(leader, listener) is None:
        # Clients look the leader up among the brokers of this answer, so one they cannot reach
        # must not be named.
        unlistened = version >= 6 and image.is_alive(leader)
        code = ErrorCode.LISTENER_NOT_FOUND if unlistened else ErrorCode.LEADER_NOT_AVAILABLE
        leader = NO_LEADER
    return MetadataResponsePartition(
        error_code=code,
        partition_index=index,
        leader_id=leader,
        leader_epoch=partition.leader_epoch,
        replica_nodes=replicas,
        isr_nodes=isr,
        offline_replicas=partition.offline_replicas,
    )
