"""OffsetForLeaderEpoch (API key 23, versions 2 to 4): where an epoch's records end.

A consumer that sees a new leader asks whether what it read last is still in the log (KIP-320): the
answer is the largest epoch we know up to the one asked for, and its end offset, exclusive. An epoch
we know nothing of is answered with -1 and -1, without error. Only the leader answers; a wrong
current epoch is FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH.

Where we differ from Kafka: none known.

Version history: 2 current leader epoch (KIP-320); 3 replica id; 4 flexible.
"""

import itertools

from zkafka.model import TopicPartition
from zkafka.protocol.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderTopicResult,
)
from zkafka.server.context import RequestContext
from zkafka.turns import pause_now_and_then


async def handle(
    request: OffsetForLeaderEpochRequest, context: RequestContext
) -> OffsetForLeaderEpochResponse:
    """One end offset per partition."""
    topics = []
    done = itertools.count()
    for topic in request.topics:
        partitions = []
        for wanted in topic.partitions:
            await pause_now_and_then(next(done))
            code, end = context.parts.replicas.end_offset_for_epoch(
                TopicPartition(topic.topic, wanted.partition),
                wanted.current_leader_epoch,
                wanted.leader_epoch,
            )
            partitions.append(
                EpochEndOffset(
                    error_code=code,
                    partition=wanted.partition,
                    leader_epoch=end.leader_epoch,
                    end_offset=end.end_offset,
                )
            )
        topics.append(OffsetForLeaderTopicResult(topic=topic.topic, partitions=partitions))
    return OffsetForLeaderEpochResponse(topics=topics)
