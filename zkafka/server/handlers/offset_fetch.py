"""OffsetFetch (API key 9, versions 1 to 9): how far groups have read.

A partition without a committed offset, or a group that does not exist, answers -1 without error.
Null topics ask for all that the group has committed. With require_stable an offset that is about
to change (a transaction is undecided, a commit is being replicated) is UNSTABLE_OFFSET_COMMIT, and
the client asks again.

Where we differ from Kafka: version 0 (offsets in ZooKeeper) is not served. Version 9's member id
and epoch belong to the new protocol (KIP-848) and are not looked at.

Version history: 1; 2 null topics, code at the top (before: in each partition); 3 throttle time; 4
throttling after the answer; 5 leader epochs (KIP-320); 6 flexible; 7 require_stable (KIP-447); 8
several groups (KIP-709); 9 member epochs (KIP-848).
"""

from zkafka.errors import ErrorCode
from zkafka.model import NO_OFFSET
from zkafka.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponseTopic,
)
from zkafka.server.context import RequestContext
from zkafka.turns import pause_now_and_then


async def handle(request: OffsetFetchRequest, context: RequestContext) -> OffsetFetchResponse:
    """Answered at once."""
    groups = context.parts.groups
    if context.version >= 8:
        fetched_groups = []
        for done, group in enumerate(request.groups):
            fetched_groups.append(
                groups.fetch_offsets(group, require_stable=request.require_stable)
            )
            await pause_now_and_then(done)
        return OffsetFetchResponse(groups=fetched_groups)
    topics = None
    if request.topics is not None:
        topics = [
            OffsetFetchRequestTopics(name=topic.name, partition_indexes=topic.partition_indexes)
            for topic in request.topics
        ]
    wanted = OffsetFetchRequestGroup(group_id=request.group_id, topics=topics)
    fetched = groups.fetch_offsets(wanted, require_stable=request.require_stable)
    if fetched.error_code and context.version < 2:
        return OffsetFetchResponse(topics=_refused(request, fetched.error_code))
    return OffsetFetchResponse(error_code=fetched.error_code, topics=_topics(fetched))


def _topics(fetched: OffsetFetchResponseGroup) -> list[OffsetFetchResponseTopic]:
    return [
        OffsetFetchResponseTopic(
            name=topic.name,
            partitions=[
                OffsetFetchResponsePartition(
                    partition_index=partition.partition_index,
                    committed_offset=partition.committed_offset,
                    committed_leader_epoch=partition.committed_leader_epoch,
                    metadata=partition.metadata,
                    error_code=partition.error_code,
                )
                for partition in topic.partitions
            ],
        )
        for topic in fetched.topics
    ]


def _refused(request: OffsetFetchRequest, code: int) -> list[OffsetFetchResponseTopic]:
    """Version 1 has no code at the top: every partition asked for has it."""
    return [
        OffsetFetchResponseTopic(
            name=topic.name,
            partitions=[
                OffsetFetchResponsePartition(
                    partition_index=index,
                    committed_offset=NO_OFFSET,
                    error_code=ErrorCode(code),
                )
                for index in topic.partition_indexes
            ],
        )
        for topic in request.topics or ()
    ]
