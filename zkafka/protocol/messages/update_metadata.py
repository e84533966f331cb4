"""UpdateMetadata (API key 6): request and response."""

import uuid
from collections.abc import Sequence

from zkafka.protocol.fields import (
    NULL_UUID,
    array,
    boolean,
    int8,
    int16,
    int32,
    int64,
    message,
    string,
    uuid_,
)


@message()
class UpdateMetadataPartitionState:
    topic_name: str = string(until=4, default="")
    partition_index: int = int32(default=0)
    controller_epoch: int = int32(default=0)
    leader: int = int32(default=0)
    leader_epoch: int = int32(default=0)
    isr: Sequence[int] = array("int32", default=())
    zk_version: int = int32(default=0)
    replicas: Sequence[int] = array("int32", default=())
    offline_replicas: Sequence[int] = array("int32", since=4, default=())


@message()
class UpdateMetadataTopicState:
    topic_name: str = string(since=5, default="")
    topic_id: uuid.UUID = uuid_(since=7, default=NULL_UUID)
    partition_states: Sequence[UpdateMetadataPartitionState] = array(
        UpdateMetadataPartitionState, since=5, default=()
    )


@message()
class UpdateMetadataEndpoint:
    port: int = int32(since=1, default=0)
    host: str = string(since=1, default="")
    listener: str = string(since=3, default="")
    security_protocol: int = int16(since=1, default=0)


@message()
class UpdateMetadataBroker:
    id: int = int32(default=0)
    v0_host: str = string(until=0, default="")
    v0_port: int = int32(until=0, default=0)
    endpoints: Sequence[UpdateMetadataEndpoint] = array(UpdateMetadataEndpoint, since=1, default=())
    rack: str | None = string(since=2, nullable=True, default="")


@message(api_key=6, versions=(0, 8), flexible=6)
class UpdateMetadataRequest:
    """UpdateMetadata request, versions 0 to 8."""

    controller_id: int = int32(default=0)
    is_kraft_controller: bool = boolean(since=8, default=False)
    type: int = int8(since=8, tag=0, default=0)
    controller_epoch: int = int32(default=0)
    broker_epoch: int = int64(since=5, default=-1)
    ungrouped_partition_states: Sequence[UpdateMetadataPartitionState] = array(
        UpdateMetadataPartitionState, until=4, default=()
    )
    topic_states: Sequence[UpdateMetadataTopicState] = array(
        UpdateMetadataTopicState, since=5, default=()
    )
    live_brokers: Sequence[UpdateMetadataBroker] = array(UpdateMetadataBroker, default=())


@message(api_key=6, versions=(0, 8), flexible=6)
class UpdateMetadataResponse:
    """UpdateMetadata response, versions 0 to 8."""

    error_code: int = int16(default=0)
