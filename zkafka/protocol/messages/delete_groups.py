"""DeleteGroups (API key 42): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, int16, int32, message, string


@message(api_key=42, versions=(0, 2), flexible=2)
class DeleteGroupsRequest:
    """DeleteGroups request, versions 0 to 2."""

    groups_names: Sequence[str] = array("string", default=())


@message()
class DeletableGroupResult:
    group_id: str = string(default="")
    error_code: int = int16(default=0)


@message(api_key=42, versions=(0, 2), flexible=2)
class DeleteGroupsResponse:
    """DeleteGroups response, versions 0 to 2."""

    throttle_time_ms: int = int32(default=0)
    results: Sequence[DeletableGroupResult] = array(DeletableGroupResult, default=())
