"""DescribeCluster (API key 60): request and response."""

from collections.abc import Sequence

from zkafka.protocol.fields import array, boolean, int8, int16, int32, message, string


@message(api_key=60, versions=(0, 1), flexible=0)
class DescribeClusterRequest:
    """DescribeCluster request, versions 0 to 1."""

    include_cluster_authorized_operations: bool = boolean(default=False)
    endpoint_type: int = int8(since=1, default=1)


@message()
class DescribeClusterBroker:
    broker_id: int = int32(default=0)
    host: str = string(default="")
    port: int = int32(default=0)
    rack: str | None = string(nullable=True, default=None)


@message(api_key=60, versions=(0, 1), flexible=0)
class DescribeClusterResponse:
    """DescribeCluster response, versions 0 to 1."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=True, default=None)
    endpoint_type: int = int8(since=1, default=1)
    cluster_id: str = string(default="")
    controller_id: int = int32(default=-1)
    brokers: Sequence[DescribeClusterBroker] = array(DescribeClusterBroker, default=())
    cluster_authorized_operations: int = int32(default=-2147483648)
