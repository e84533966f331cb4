"""LeaveGroup (API key 13): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, message, string


@message()
class MemberIdentity:
    member_id: str = string(since=3, default="")
    group_instance_id: str | None = string(since=3, nullable=True, default=None)
    reason: str | None = string(since=5, nullable=True, default=None)


@message(api_key=13, versions=(0, 5), flexible=4)
class LeaveGroupRequest:
    """LeaveGroup request, versions 0 to 5."""

    group_id: str = string(default="")
    member_id: str = string(until=2, default="")
    members: Sequence[MemberIdentity] = array(MemberIdentity, since=3, default=())


@message()
class MemberResponse:
    member_id: str = string(since=3, default="")
    group_instance_id: str | None = string(since=3, nullable=True, default="")
    error_code: int = int16(since=3, default=0)


@message(api_key=13, versions=(0, 5), flexible=4)
class LeaveGroupResponse:
    """LeaveGroup response, versions 0 to 5."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(default=0)
    members: Sequence[MemberResponse] = array(MemberResponse, since=3, default=())
