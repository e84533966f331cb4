"""JoinGroup (API key 11): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, bytes_, int16, int32, message, string


@message()
class JoinGroupRequestProtocol:
    name: str = string(default="")
    metadata: bytes = bytes_(default=b"")


@message(api_key=11, versions=(0, 9), flexible=6)
class JoinGroupRequest:
    """JoinGroup request, versions 0 to 9."""

    group_id: str = string(default="")
    session_timeout_ms: int = int32(default=0)
    rebalance_timeout_ms: int = int32(since=1, default=-1)
    member_id: str = string(default="")
    group_instance_id: str | None = string(since=5, nullable=True, default=None)
    protocol_type: str = string(default="")
    protocols: Sequence[JoinGroupRequestProtocol] = array(JoinGroupRequestProtocol, default=())
    reason: str | None = string(since=8, nullable=True, default=None)


@message()
class JoinGroupResponseMember:
    member_id: str = string(default="")
    group_instance_id: str | None = string(since=5, nullable=True, default=None)
    metadata: bytes = bytes_(default=b"")


@message(api_key=11, versions=(0, 9), flexible=6)
class JoinGroupResponse:
    """JoinGroup response, versions 0 to 9."""

    throttle_time_ms: int = int32(since=2, default=0)
    error_code: int = int16(default=0)
    generation_id: int = int32(default=-1)
    protocol_type: str | None = string(since=7, nullable=True, default=None)
    protocol_name: str | None = string(nullable=7, default="")
    leader: str = string(default="")
    skip_assignment: bool = boolean(since=9, default=False)
    member_id: str = string(default="")
    members: Sequence[JoinGroupResponseMember] = array(JoinGroupResponseMember, default=())
