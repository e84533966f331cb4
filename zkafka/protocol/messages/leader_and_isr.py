"""LeaderAndIsr (API key 4): request and response."""

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
class LeaderAndIsrPartitionState:
    topic_name: str = string(until=1, default="")
    partition_index: int = int32(default=0)
    controller_epoch: int = int32(default=0)
    leader: int = int32(default=0)
    leader_epoch: int = int32(default=0)
    isr: Sequence[int] = array("int32", default=())
    partition_epoch: int = int32(default=0)
    replicas: Sequence[int] = array("int32", default=())
    adding_replicas: Sequence[int] = array("int32", since=3, default=())
    removing_replicas: Sequence[int] = array("int32", since=3, default=())
    is_new: bool = boolean(since=1, default=False)
    leader_recovery_state: int = int8(since=6, default=0)


@message()
class LeaderAndIsrTopicState:
    topic_name: str = string(since=2, default="")
    topic_id: uuid.UUID = uuid_(since=5, default=NULL_UUID)
    partition_states: Sequence[LeaderAndIsrPartitionState] = array(
        LeaderAndIsrPartitionState, since=2, default=()
    )


@message()
class LeaderAndIsrLiveLeader:
    broker_id: int = int32(default=0)
    host_name: str = string(default="")
    port: int = int32(default=0)


@message(api_key=4, versions=(0, 7), flexible=4)
class LeaderAndIsrRequest:
    """LeaderAndIsr request, versions 0 to 7."""

    controller_id: int = int32(default=0)
    is_kraft_controller: bool = boolean(since=7, default=False)
    controller_epoch: int = int32(default=0)
    broker_epoch: int = int64(since=2, default=-1)
    type: int = int8(since=5, default=0)
    ungrouped_partition_states: Sequence[LeaderAndIsrPartitionState] = array(
        LeaderAndIsrPartitionState, until=1, default=()
    )
    topic_states: Sequence[LeaderAndIsrTopicState] = array(
        LeaderAndIsrTopicState, since=2, default=()
    )
    live_leaders: Sequence[LeaderAndIsrLiveLeader] = array(LeaderAndIsrLiveLeader, default=())


@message()
class LeaderAndIsrPartitionError:
    topic_name: str = string(until=4, default="")
    partition_index: int = int32(default=0)
    error_code: int = int16(default=0)


@message()
class LeaderAndIsrTopicError:
    topic_id: uuid.UUID = uuid_(since=5, default=NULL_UUID)
    partition_errors: Sequence[LeaderAndIsrPartitionError] = array(
        LeaderAndIsrPartitionError, since=5, default=()
    )


@message(api_key=4, versions=(0, 7), flexible=4)
class LeaderAndIsrResponse:
    """LeaderAndIsr response, versions 0 to 7."""

    error_code: int = int16(default=0)
    partition_errors: Sequence[LeaderAndIsrPartitionError] = array(
        LeaderAndIsrPartitionError, until=4, default=()
    )
    topics: Sequence[LeaderAndIsrTopicError] = array(LeaderAndIsrTopicError, since=5, default=())
