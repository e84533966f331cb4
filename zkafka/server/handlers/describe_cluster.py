"""DescribeCluster (API key 60, versions 0 to 1): cluster id, controller and live brokers.

The endpoints are those of the listener the client came in on; a broker without it is left out, as
from Metadata.

Where we differ from Kafka: there is no authorizer, so all cluster operations are authorized.

Version history: 0 (KIP-700); 1 endpoint type (KIP-919): brokers only, since controllers are
brokers here: asking for controllers is MISMATCHED_ENDPOINT_TYPE.
"""

from zkafka.errors import ErrorCode
from zkafka.protocol.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)
from zkafka.server import acls
from zkafka.server.context import RequestContext

BROKERS = 1
CONTROLLERS = 2


async def handle(
    request: DescribeClusterRequest, context: RequestContext
) -> DescribeClusterResponse:
    """The cluster as this broker knows it."""
    if request.endpoint_type != BROKERS:
        mismatched = request.endpoint_type == CONTROLLERS
        return DescribeClusterResponse(
            error_code=ErrorCode.MISMATCHED_ENDPOINT_TYPE
            if mismatched
            else ErrorCode.UNSUPPORTED_ENDPOINT_TYPE,
            error_message="this endpoint belongs to a broker"
            if mismatched
            else f"unsupported endpoint type {request.endpoint_type}",
            endpoint_type=BROKERS,
        )
    image = context.parts.metadata.image
    return DescribeClusterResponse(
        endpoint_type=BROKERS,
        cluster_id=image.cluster_id or "",
        controller_id=image.controller_id,
        brokers=[
            DescribeClusterBroker(
                broker_id=broker_id, host=endpoint.host, port=endpoint.port, rack=broker.rack
            )
            for broker_id, broker in sorted(image.brokers.items())
            if (endpoint := broker.endpoints.get(context.listener_name)) is not None
        ],
        cluster_authorized_operations=acls.CLUSTER_OPERATIONS
        if request.include_cluster_authorized_operations
        else acls.NOT_ASKED,
    )
