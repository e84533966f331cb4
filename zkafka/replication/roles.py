"""What of a control request to obey: the fences, partition by partition.

The controller repeats itself, and an old one may still be talking. So each partition of a
LeaderAndIsr or StopReplica is compared with what this replica knows already, and obeyed only if it
is news.

    LeaderAndIsr, leader epoch
      above ours          obeyed
      equal               STALE_CONTROLLER_EPOCH; said before. It may still bring a topic id
      below, or negative  STALE_CONTROLLER_EPOCH
    StopReplica, leader epoch
      -2 (being deleted), -1 (not known), ours or above      obeyed
      below               FENCED_LEADER_EPOCH

The whole request is fenced before this by the broker epoch (meant for an earlier registration of
ours) and the controller epoch (from a controller that has been replaced).

Source: Kafka's `ReplicaManager.becomeLeaderOrFollower` and `stopReplicas`.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from zkafka.errors import ErrorCode
from zkafka.model import NO_EPOCH, BrokerId, LeaderEpoch, TopicPartition
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrPartitionError,
    LeaderAndIsrPartitionState,
    LeaderAndIsrRequest,
    LeaderAndIsrResponse,
    LeaderAndIsrTopicError,
)
from zkafka.protocol.messages.stop_replica import (
    StopReplicaPartitionError,
    StopReplicaRequest,
    StopReplicaResponse,
)
from zkafka.replication.partition import Assignment, Partition, Role

_RECOVERING = 1


class RoleOrder(NamedTuple):
    """One partition of a LeaderAndIsr."""

    topic_partition: TopicPartition
    topic_id: uuid.UUID
    state: LeaderAndIsrPartitionState


class StopOrder(NamedTuple):
    """One partition of a StopReplica."""

    topic_partition: TopicPartition
    leader_epoch: LeaderEpoch
    delete: bool


def role_orders(request: LeaderAndIsrRequest) -> Iterator[RoleOrder]:
    """The partitions, whichever way the request's version groups them."""
    for topic in request.topic_states:
        for state in topic.partition_states:
            tp = TopicPartition(topic.topic_name, state.partition_index)
            yield RoleOrder(tp, topic.topic_id, state)
    for state in request.ungrouped_partition_states:
        tp = TopicPartition(state.topic_name, state.partition_index)
        yield RoleOrder(tp, NULL_UUID, state)


def stop_orders(request: StopReplicaRequest) -> Iterator[StopOrder]:
    """The partitions, whichever way the request's version groups them."""
    for topic in request.topic_states:
        for state in topic.partition_states:
            tp = TopicPartition(topic.topic_name, state.partition_index)
            yield StopOrder(tp, state.leader_epoch, state.delete_partition)
    for old in request.topics:
        for index in old.partition_indexes:
            yield StopOrder(TopicPartition(old.name, index), NO_EPOCH, request.delete_partitions)
    for oldest in request.ungrouped_partitions:
        tp = TopicPartition(oldest.topic_name, oldest.partition_index)
        yield StopOrder(tp, NO_EPOCH, request.delete_partitions)


def assignment_of(state: LeaderAndIsrPartitionState) -> Assignment:
    """What the controller decided, for the machine."""
    return Assignment(
        leader=state.leader,
        leader_epoch=state.leader_epoch,
        partition_epoch=state.partition_epoch,
        isr=tuple(state.isr),
        replicas=tuple(state.replicas),
        adding=tuple(state.adding_replicas),
        recovering=state.leader_recovery_state == _RECOVERING,
    )


def judge_role(
    order: RoleOrder, broker_id: BrokerId, machine: Partition | None, known_id: uuid.UUID
) -> ErrorCode | None:
    """None to obey, else the answer; NONE is the answer to what is passed over in silence.

    `machine` is None where the partition is not hosted; `known_id` is its topic id here, all zero
    for none.
    """
    state = order.state
    if machine is not None:
        if machine.role is Role.OFFLINE:
            return ErrorCode.KAFKA_STORAGE_ERROR
        if NULL_UUID not in (order.topic_id, known_id) and order.topic_id != known_id:
            return ErrorCode.INCONSISTENT_TOPIC_ID
        if state.leader_epoch <= machine.leader_epoch:
            return ErrorCode.STALE_CONTROLLER_EPOCH
    elif state.leader_epoch <= NO_EPOCH or state.partition_epoch < NO_EPOCH:
        # Where nothing is known yet, at least an epoch it must be.
        return ErrorCode.STALE_CONTROLLER_EPOCH
    if broker_id not in state.replicas:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if machine is not None and state.partition_epoch < machine.partition_epoch:
        return ErrorCode.NONE
    return None


def brings_topic_id(order: RoleOrder, machine: Partition, known_id: uuid.UUID) -> bool:
    """Whether a repetition of what we know serves to tell us the topic id."""
    return (
        known_id == NULL_UUID
        and order.topic_id != NULL_UUID
        and order.state.leader_epoch == machine.leader_epoch
        and machine.role is not Role.OFFLINE
    )


def judge_stop(order: StopOrder, machine: Partition) -> ErrorCode | None:
    """None to obey, else the answer."""
    if machine.role is Role.OFFLINE:
        return ErrorCode.KAFKA_STORAGE_ERROR
    # NO_EPOCH, and the -2 of a topic being deleted, are below every epoch and fence nothing.
    if NO_EPOCH < order.leader_epoch < machine.leader_epoch:
        return ErrorCode.FENCED_LEADER_EPOCH
    return None


def leader_and_isr_response(
    outcomes: Mapping[TopicPartition, tuple[uuid.UUID, ErrorCode]],
) -> LeaderAndIsrResponse:
    """The answer, in the shape of every version: a writer leaves out what its version lacks."""
    by_topic: dict[uuid.UUID, list[LeaderAndIsrPartitionError]] = {}
    flat = []
    for tp, (topic_id, error) in outcomes.items():
        answer = LeaderAndIsrPartitionError(
            topic_name=tp.topic, partition_index=tp.partition, error_code=error
        )
        by_topic.setdefault(topic_id, []).append(answer)
        flat.append(answer)
    return LeaderAndIsrResponse(
        partition_errors=flat,
        topics=[
            LeaderAndIsrTopicError(topic_id=topic_id, partition_errors=errors)
            for topic_id, errors in by_topic.items()
        ],
    )


def stop_replica_response(
    outcomes: Iterable[tuple[TopicPartition, ErrorCode]],
) -> StopReplicaResponse:
    """The answer to a StopReplica."""
    return StopReplicaResponse(
        partition_errors=[
            StopReplicaPartitionError(
                topic_name=tp.topic, partition_index=tp.partition, error_code=error
            )
            for tp, error in outcomes
        ]
    )
