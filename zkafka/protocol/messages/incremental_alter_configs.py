"""IncrementalAlterConfigs (API key 44): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, int8, int16, int32, message, string


@message()
class AlterableConfig:
    name: str = string(default="")
    config_operation: int = int8(default=0)
    value: str | None = string(nullable=True, default="")


@message()
class AlterConfigsResource:
    resource_type: int = int8(default=0)
    resource_name: str = string(default="")
    configs: Sequence[AlterableConfig] = array(AlterableConfig, default=())


@message(api_key=44, versions=(0, 1), flexible=1)
class IncrementalAlterConfigsRequest:
    """IncrementalAlterConfigs request, versions 0 to 1."""

    resources: Sequence[AlterConfigsResource] = array(AlterConfigsResource, default=())
    validate_only: bool = boolean(default=False)


@message()
class AlterConfigsResourceResponse:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=True, default="")
    resource_type: int = int8(default=0)
    resource_name: str = string(default="")


@message(api_key=44, versions=(0, 1), flexible=1)
class IncrementalAlterConfigsResponse:
    """IncrementalAlterConfigs response, versions 0 to 1."""

    throttle_time_ms: int = int32(default=0)
    responses: Sequence[AlterConfigsResourceResponse] = array(
        AlterConfigsResourceResponse, default=()
    )
