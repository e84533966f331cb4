"""Heartbeat (API key 12): request and response."""

from zkafka.protocol.fields import int16, int32, message, string


@message(api_key=12, versions=(0, 4), flexible=4)
class HeartbeatRequest:
    """Heartbeat request, versions 0 to 4."""

    group_id: str = string(default="")
    generation_id: int = int32(default=0)
    member_id: str = string(default="")
    group_instance_id: str | None = string(since=3, nullable=True, default=None)


@message(api_key=12, versions=(0, 4), flexible=4)
class HeartbeatResponse:
    """Heartbeat response, versions 0 to 4."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(default=0)
