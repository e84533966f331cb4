"""ListOffsets (API key 2, versions 1 to 9): an offset by time, or by name.

A timestamp asks for the first record at or after it; -1 for the end of what the asker may read, -2
for the log start offset. Where nothing is that late, offset and timestamp are -1, without error.
Only the leader answers. A new leader whose high watermark is still below the start of its epoch
cannot tell the end yet: OFFSET_NOT_AVAILABLE.

Where we differ from Kafka: there is no tiered storage, so -4 (earliest local) is the log start
offset and -5 (latest tiered) answers -1, as Kafka does without it.

Version history: 1 one offset per partition; 2 isolation level, throttle time (KIP-98); 3
throttling after the answer; 4 leader epochs (KIP-320); 5 OFFSET_NOT_AVAILABLE (KIP-207; before:
LEADER_NOT_AVAILABLE); 6 flexible; 7 -3, the largest timestamp (KIP-734); 8 -4 (KIP-405); 9 -5
(KIP-1005).
"""

import itertools

from zkafka.errors import ErrorCode
from zkafka.model import TopicPartition
from zkafka.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from zkafka.replication.replicas import OffsetFound
from zkafka.server.context import RequestContext
from zkafka.turns import pause_now_and_then

LATEST_TIERED = -5
_SPECIAL_SINCE = {-1: 0, -2: 0, -3: 7, -4: 8, LATEST_TIERED: 9}
"""The version from which each special timestamp is understood."""


async def handle(request: ListOffsetsRequest, context: RequestContext) -> ListOffsetsResponse:
    """One offset per partition; a partition named twice is an error in both places."""
    seen: set[TopicPartition] = set()
    twice: set[TopicPartition] = set()
    for topic in request.topics:
        for wanted in topic.partitions:
            tp = TopicPartition(topic.name, wanted.partition_index)
            (twice if tp in seen else seen).add(tp)
    topics = []
    done = itertools.count()
    for topic in request.topics:
        partitions = []
        for wanted in topic.partitions:
            await pause_now_and_then(next(done))
            tp = TopicPartition(topic.name, wanted.partition_index)
            if tp in twice:
                found = OffsetFound(ErrorCode.INVALID_REQUEST)
            else:
                found = await _find(request, tp, wanted, context)
            partitions.append(
                ListOffsetsPartitionResponse(
                    partition_index=tp.partition,
                    error_code=found.error,
                    timestamp=found.timestamp,
                    offset=found.offset,
                    leader_epoch=found.leader_epoch,
                )
            )
        topics.append(ListOffsetsTopicResponse(name=topic.name, partitions=partitions))
    return ListOffsetsResponse(topics=topics)


async def _find(
    request: ListOffsetsRequest,
    tp: TopicPartition,
    wanted: ListOffsetsPartition,
    context: RequestContext,
) -> OffsetFound:
    version = context.version
    if wanted.timestamp < 0 and _SPECIAL_SINCE.get(wanted.timestamp, version + 1) > version:
        return OffsetFound(ErrorCode.UNSUPPORTED_VERSION)
    if wanted.timestamp == LATEST_TIERED:
        # Asked for all the same, so that a wrong leader or epoch is told.
        found = await _ask(request, tp, wanted, -2, context)
        return OffsetFound(found.error)
    found = await _ask(request, tp, wanted, wanted.timestamp, context)
    if found.error is ErrorCode.OFFSET_NOT_AVAILABLE and version < 5:
        return OffsetFound(ErrorCode.LEADER_NOT_AVAILABLE)
    return found


async def _ask(
    request: ListOffsetsRequest,
    tp: TopicPartition,
    wanted: ListOffsetsPartition,
    timestamp: int,
    context: RequestContext,
) -> OffsetFound:
    return await context.parts.replicas.offset_for_timestamp(
        tp,
        timestamp,
        current_leader_epoch=wanted.current_leader_epoch,
        replica_id=request.replica_id,
        isolation=request.isolation_level,
    )
