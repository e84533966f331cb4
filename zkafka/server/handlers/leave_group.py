"""LeaveGroup (API key 13, versions 0 to 5): members leave, or are removed by an administrator.

A static member is removed by its instance id alone; its own client does not leave, so that it may
come back without a rebalance. Up to version 2 there is one member, whose code stands at the top.

Where we differ from Kafka: none known.

Version history: 0; 1 throttle time; 2 throttling after the answer; 3 several members, by member or
instance id (KIP-345); 4 flexible; 5 reason (KIP-800).
"""

from zkafka.protocol.messages.leave_group import (
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
)
from zkafka.server.context import RequestContext


async def handle(request: LeaveGroupRequest, context: RequestContext) -> LeaveGroupResponse:
    """Answered at once."""
    groups = context.parts.groups
    if context.version >= 3:
        return groups.leave_group(request)
    member = MemberIdentity(member_id=request.member_id)
    response = groups.leave_group(LeaveGroupRequest(group_id=request.group_id, members=[member]))
    code = response.error_code or next((m.error_code for m in response.members), 0)
    return LeaveGroupResponse(error_code=code)
