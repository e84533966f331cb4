"""DescribeGroups (API key 15, versions 0 to 5): state and members of groups.

A group that does not exist is "Dead", without error. Members' metadata and assignments are told
of a group that is Stable only, as Kafka does: otherwise they are of the past, or not made yet.

Where we differ from Kafka: no authorizer, so a client that asks for its authorized operations gets
all of them.

Version history: 0; 1 throttle time; 2 throttling after the answer; 3 authorized operations
(KIP-430); 4 static members (KIP-345); 5 flexible.
"""

from zkafka.protocol.messages.describe_groups import (
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)
from zkafka.server.acls import NOT_ASKED, Operation, bit_field
from zkafka.server.context import RequestContext
from zkafka.turns import pause_now_and_then

GROUP_OPERATIONS = bit_field({Operation.READ, Operation.DELETE, Operation.DESCRIBE})


async def handle(request: DescribeGroupsRequest, context: RequestContext) -> DescribeGroupsResponse:
    """Answered at once, group by group."""
    operations = GROUP_OPERATIONS if request.include_authorized_operations else NOT_ASKED
    groups = []
    for done, group_id in enumerate(request.groups):
        groups.append(context.parts.groups.describe_group(group_id, operations))
        await pause_now_and_then(done)
    return DescribeGroupsResponse(groups=groups)
