"""ListGroups (API key 16): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, message, string


@message(api_key=16, versions=(0, 5), flexible=3)
class ListGroupsRequest:
    """ListGroups request, versions 0 to 5."""

    states_filter: Sequence[str] = array("string", since=4, default=())
    types_filter: Sequence[str] = array("string", since=5, default=())


@message()
class ListedGroup:
    group_id: str = string(default="")
    protocol_type: str = string(default="")
    group_state: str = string(since=4, default="")
    group_type: str = string(since=5, default="")


@message(api_key=16, versions=(0, 5), flexible=3)
class ListGroupsResponse:
    """ListGroups response, versions 0 to 5."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(default=0)
    groups: Sequence[ListedGroup] = array(ListedGroup, default=())
