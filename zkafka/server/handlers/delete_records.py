"""DeleteRecords (API key 21, versions 0 to 2): move the log start offset (KIP-107).

The leader moves its log start at once and answers when every live replica has followed, with the
low watermark reached; REQUEST_TIMED_OUT if that takes longer than `timeout_ms` (it still happens).
Offset -1 means the high watermark; beyond it is OFFSET_OUT_OF_RANGE. Partitions do not wait for one
another. A topic whose clean-up policy has no `delete` is POLICY_VIOLATION.

Where we differ from Kafka: none known.

Version history: 0; 1 throttling after the answer; 2 flexible.
"""

import trio

from zkafka.errors import ErrorCode
from zkafka.model import INTERNAL_TOPICS, NO_OFFSET, TopicPartition
from zkafka.protocol.messages.delete_records import (
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from zkafka.server.context import RequestContext
from zkafka.turns import pause_now_and_then


async def handle(request: DeleteRecordsRequest, context: RequestContext) -> DeleteRecordsResponse:
    """The low watermark of each partition."""
    deadline_ms = context.parts.clock.monotonic_ms() + request.timeout_ms
    wanted = {
        TopicPartition(topic.name, partition.partition_index): partition.offset
        for topic in request.topics
        for partition in topic.partitions
    }
    results: dict[TopicPartition, DeleteRecordsPartitionResult] = {}
    hosted = context.parts.replicas.hosted
    async with trio.open_nursery() as nursery:
        for done, (tp, offset) in enumerate(wanted.items()):
            await pause_now_and_then(done)
            if tp in hosted:
                nursery.start_soon(_delete, tp, offset, deadline_ms, context, results)
            else:
                # Refused without a wait: not worth a task, of which there could be very many.
                await _delete(tp, offset, deadline_ms, context, results)
    topics: dict[str, list[DeleteRecordsPartitionResult]] = {}
    for tp in wanted:
        topics.setdefault(tp.topic, []).append(results[tp])
    return DeleteRecordsResponse(
        topics=[
            DeleteRecordsTopicResult(name=name, partitions=partitions)
            for name, partitions in topics.items()
        ]
    )


async def _delete(
    tp: TopicPartition,
    offset: int,
    deadline_ms: int,
    context: RequestContext,
    results: dict[TopicPartition, DeleteRecordsPartitionResult],
) -> None:
    if tp.topic in INTERNAL_TOPICS:
        code, low_watermark = ErrorCode.INVALID_TOPIC_EXCEPTION, NO_OFFSET
    else:
        code, low_watermark = await context.parts.replicas.delete_records(tp, offset, deadline_ms)
    results[tp] = DeleteRecordsPartitionResult(
        partition_index=tp.partition, low_watermark=low_watermark, error_code=code
    )
