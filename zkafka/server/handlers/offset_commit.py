"""OffsetCommit (API key 8, versions 2 to 9): a group remembers how far it has read.

Answered when all in-sync replicas have the commit, or with REQUEST_TIMED_OUT after
offsets.commit.timeout.ms: then it may still be written, and counts as soon as it is. A member must
name its generation; a consumer that assigns itself says -1, and may do so while the group has no
members. Metadata above offset.metadata.max.bytes and unknown partitions are refused one by one,
the others are written.

Where we differ from Kafka: versions 0 (offsets in ZooKeeper) and 1 are not served; a commit that
timed out is seen once it is replicated (Kafka: after the next failover). Version 9's member epochs
belong to the new protocol (KIP-848) and are generations here.

Version history: 2 retention time; 3 throttle time; 4 throttling after the answer; 5 no retention
time (KIP-211); 6 leader epochs (KIP-320); 7 static members (KIP-345); 8 flexible; 9 member epochs
(KIP-848).
"""

from zkafka.protocol.messages.offset_commit import OffsetCommitRequest, OffsetCommitResponse
from zkafka.server.context import RequestContext


async def handle(request: OffsetCommitRequest, context: RequestContext) -> OffsetCommitResponse:
    """Waits for the replicas."""
    return await context.parts.groups.commit_offsets(request)
