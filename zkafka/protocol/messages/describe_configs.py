"""DescribeConfigs (API key 32): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, int8, int16, int32, message, string


@message()
class DescribeConfigsResource:
    resource_type: int = int8(default=0)
    resource_name: str = string(default="")
    configuration_keys: Sequence[str] | None = array("string", nullable=True, default=())


@message(api_key=32, versions=(1, 4), flexible=4)
class DescribeConfigsRequest:
    """DescribeConfigs request, versions 1 to 4."""

    resources: Sequence[DescribeConfigsResource] = array(DescribeConfigsResource, default=())
    include_synonyms: bool = boolean(default=False)
    include_documentation: bool = boolean(since=3, default=False)


@message()
class DescribeConfigsSynonym:
    name: str = string(default="")
    value: str | None = string(nullable=True, default="")
    source: int = int8(default=0)


@message()
class DescribeConfigsResourceResult:
    name: str = string(default="")
    value: str | None = string(nullable=True, default="")
    read_only: bool = boolean(default=False)
    config_source: int = int8(default=-1)
    is_sensitive: bool = boolean(default=False)
    synonyms: Sequence[DescribeConfigsSynonym] = array(DescribeConfigsSynonym, default=())
    config_type: int = int8(since=3, default=0)
    documentation: str | None = string(since=3, nullable=True, default="")


@message()
class DescribeConfigsResult:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=True, default="")
    resource_type: int = int8(default=0)
    resource_name: str = string(default="")
    configs: Sequence[DescribeConfigsResourceResult] = array(
        DescribeConfigsResourceResult, default=()
    )


@message(api_key=32, versions=(1, 4), flexible=4)
class DescribeConfigsResponse:
    """DescribeConfigs response, versions 1 to 4."""

    throttle_time_ms: int = int32(default=0)
    results: Sequence[DescribeConfigsResult] = array(DescribeConfigsResult, default=())
