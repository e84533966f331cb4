"""SyncGroup (API key 14): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, bytes_, int16, int32, message, string


@message()
class SyncGroupRequestAssignment:
    member_id: str = string(default="")
    assignment: bytes = bytes_(default=b"")


@message(api_key=14, versions=(0, 5), flexible=4)
class SyncGroupRequest:
    """SyncGroup request, versions 0 to 5."""

    group_id: str = string(default="")
    generation_id: int = int32(default=0)
    member_id: str = string(default="")
    group_instance_id: str | None = string(since=3, nullable=True, default=None)
    protocol_type: str | None = string(since=5, nullable=True, default=None)
    protocol_name: str | None = string(since=5, nullable=True, default=None)
    assignments: Sequence[SyncGroupRequestAssignment] = array(
        SyncGroupRequestAssignment, default=()
    )


@message(api_key=14, versions=(0, 5), flexible=4)
class SyncGroupResponse:
    """SyncGroup response, versions 0 to 5."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(default=0)
    protocol_type: str | None = string(since=5, nullable=True, default=None)
    protocol_name: str | None = string(since=5, nullable=True, default=None)
    assignment: bytes = bytes_(default=b"")
