"""Metadata (API key 3): request and response."""

import uuid
from collections.abc import Sequence

from zkafka.protocol.fields import NULL_UUID, array, boolean, int16, int32, message, string, uuid_


@message()
class MetadataRequestTopic:
    topic_id: uuid.UUID = uuid_(since=10, default=NULL_UUID)
    name: str | None = string(nullable=10, default="")


@message(api_key=3, versions=(0, 12), flexible=9)
class MetadataRequest:
    """Metadata request, versions 0 to 12."""

    topics: Sequence[MetadataRequestTopic] | None = array(
        MetadataRequestTopic, nullable=1, default=()
    )
    allow_auto_topic_creation: bool = boolean(since=4, default=True)
    include_cluster_authorized_operations: bool = boolean(since=8, until=10, default=False)
    include_topic_authorized_operations: bool = boolean(since=8, default=False)


@message()
class MetadataResponseBroker:
    node_id: int = int32(default=0)
    host: str = string(default="")
    port: int = int32(default=0)
    rack: str | None = string(since=1, nullable=True, default=None)


@message()
class MetadataResponsePartition:
    error_code: int = int16(default=0)
    partition_index: int = int32(default=0)
    leader_id: int = int32(default=0)
    leader_epoch: int = int32(since=7, default=-1)
    replica_nodes: Sequence[int] = array("int32", default=())
    isr_nodes: Sequence[int] = array("int32", default=())
    offline_replicas: Sequence[int] = array("int32", since=5, default=())


@message()
class MetadataResponseTopic:
    error_code: int = int16(default=0)
    name: str | None = string(nullable=12, default="")
    topic_id: uuid.UUID = uuid_(since=10, default=NULL_UUID)
    is_internal: bool = boolean(since=1, default=False)
    partitions: Sequence[MetadataResponsePartition] = array(MetadataResponsePartition, default=())
    topic_authorized_operations: int = int32(since=8, default=-2147483648)


@message(api_key=3, versions=(0, 12), flexible=9)
class MetadataResponse:
    """Metadata response, versions 0 to 12."""

    throttle_time_ms: int = int32(since=3, default=0)
    brokers: Sequence[MetadataResponseBroker] = array(MetadataResponseBroker, default=())
    cluster_id: str | None = string(since=2, nullable=True, default=None)
    controller_id: int = int32(since=1, default=-1)
    topics: Sequence[MetadataResponseTopic] = array(MetadataResponseTopic, default=())
    cluster_authorized_operations: int = int32(since=8, until=10, default=-2147483648)
