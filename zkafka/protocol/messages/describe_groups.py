"""DescribeGroups (API key 15): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, bytes_, int16, int32, message, string


@message(api_key=15, versions=(0, 5), flexible=5)
class DescribeGroupsRequest:
    """DescribeGroups request, versions 0 to 5."""

    groups: Sequence[str] = array("string", default=())
    include_authorized_operations: bool = boolean(since=3, default=False)


@message()
class DescribedGroupMember:
    member_id: str = string(default="")
    group_instance_id: str | None = string(since=4, nullable=True, default=None)
    client_id: str = string(default="")
    client_host: str = string(default="")
    member_metadata: bytes = bytes_(default=b"")
    member_assignment: bytes = bytes_(default=b"")


@message()
class DescribedGroup:
    error_code: int = int16(default=0)
    group_id: str = string(default="")
    group_state: str = string(default="")
    protocol_type: str = string(default="")
    protocol_data: str = string(default="")
    members: Sequence[DescribedGroupMember] = array(DescribedGroupMember, default=())
    authorized_operations: int = int32(since=3, default=-2147483648)


@message(api_key=15, versions=(0, 5), flexible=5)
class DescribeGroupsResponse:
    """DescribeGroups response, versions 0 to 5."""

    throttle_time_ms: int = int32(since=1, default=0)
    groups: Sequence[DescribedGroup] = array(DescribedGroup, default=())
