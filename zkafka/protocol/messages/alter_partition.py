"""AlterPartition (API key 56): request and response."""

import uuid
from collections.abc import Sequence

from zkafka.protocol.fields import NULL_UUID, array, int8, int16, int32, int64, message, uuid_


@message()
class BrokerState:
    broker_id: int = int32(since=3, default=0)
    broker_epoch: int = int64(since=3, default=-1)


@message()
class PartitionData:
    partition_index: int = int32(default=0)
    leader_epoch: int = int32(default=0)
    new_isr: Sequence[int] = array("int32", until=2, default=())
    new_isr_with_epochs: Sequence[BrokerState] = array(BrokerState, since=3, default=())
    leader_recovery_state: int = int8(default=0)
    partition_epoch: int = int32(default=0)


@message()
class TopicData:
    topic_id: uuid.UUID = uuid_(default=NULL_UUID)
    partitions: Sequence[PartitionData] = array(PartitionData, default=())


@message(api_key=56, versions=(2, 3), flexible=0)
class AlterPartitionRequest:
    """AlterPartition request, versions 2 to 3."""

    broker_id: int = int32(default=0)
    broker_epoch: int = int64(default=-1)
    topics: Sequence[TopicData] = array(TopicData, default=())


@message()
class PartitionResult:
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)
    leader_id: int = int32(default=0)
    leader_epoch: int = int32(default=0)
    isr: Sequence[int] = array("int32", default=())
    leader_recovery_state: int = int8(default=0)
    partition_epoch: int = int32(default=0)


@message()
class TopicResult:
    topic_id: uuid.UUID = uuid_(default=NULL_UUID)
    partitions: Sequence[PartitionResult] = array(PartitionResult, default=())


@message(api_key=56, versions=(2, 3), flexible=0)
class AlterPartitionResponse:
    """AlterPartition response, versions 2 to 3."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    topics: Sequence[TopicResult] = array(TopicResult, default=())
