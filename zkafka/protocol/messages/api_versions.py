"""ApiVersions (API key 18): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, int16, int32, int64, message, string


@message(api_key=18, versions=(0, 4), flexible=3)
class ApiVersionsRequest:
    """ApiVersions request, versions 0 to 4."""

    client_software_name: str = string(since=3, default="")
    client_software_version: str = string(since=3, default="")


@message()
class ApiVersion:
    api_key: int = int16(default=0)
    min_version: int = int16(default=0)
    max_version: int = int16(default=0)


@message()
class SupportedFeatureKey:
    name: str = string(since=3, default="")
    min_version: int = int16(since=3, default=0)
    max_version: int = int16(since=3, default=0)


@message()
class FinalizedFeatureKey:
    name: str = string(since=3, default="")
    max_version_level: int = int16(since=3, default=0)
    min_version_level: int = int16(since=3, default=0)


@message(api_key=18, versions=(0, 4), flexible=3)
class ApiVersionsResponse:
    """ApiVersions response, versions 0 to 4."""

    error_code: int = int16(default=0)
    api_keys: Sequence[ApiVersion] = array(ApiVersion, default=())
    throttle_time_ms: int = int32(since=1, default=0)
    supported_features: Sequence[SupportedFeatureKey] = array(
        SupportedFeatureKey, since=3, tag=0, default=()
    )
    finalized_features_epoch: int = int64(since=3, tag=1, default=-1)
    finalized_features: Sequence[FinalizedFeatureKey] = array(
        FinalizedFeatureKey, since=3, tag=2, default=()
    )
    zk_migration_ready: bool = boolean(since=3, tag=3, default=False)
