"""What can happen to a controller, and what it can have done about it.

Events are in the past tense, effects in the imperative. Three effects *ask*: their outcome comes
back as an event, and until then the machine takes no other (`WritePartitionStates`,
`ReadPartitionStates`, `ReadUncleanElection`). All others are carried out in order and are not
heard of again; if one cannot be carried out, the controller resigns.

`token` in an event names who waits for an answer; the `Answer` effect gives it back.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from zkafka.controller.context import LiveBroker
from zkafka.errors import CoordinationError, ErrorCode
from zkafka.model import (
    BrokerEpoch,
    BrokerId,
    LeaderEpoch,
    PartitionState,
    ReplicaAssignment,
    TopicPartition,
)
from zkafka.protocol.messages.alter_partition import AlterPartitionRequest
from zkafka.protocol.messages.leader_and_isr import LeaderAndIsrRequest, LeaderAndIsrResponse
from zkafka.protocol.messages.stop_replica import StopReplicaRequest, StopReplicaResponse
from zkafka.protocol.messages.update_metadata import UpdateMetadataRequest
from zkafka.zk.znodes import TopicZnode

ControlRequest: TypeAlias = LeaderAndIsrRequest | UpdateMetadataRequest | StopReplicaRequest

# Events from outside.


@attrs.frozen(kw_only=True)
class TookOffice:
    """The election is won and everything was read, with watches armed."""

    brokers: Mapping[BrokerId, LiveBroker]
    topics: Mapping[str, TopicZnode]
    states: Mapping[TopicPartition, PartitionState]
    deletions: frozenset[str]
    preferred_elections: frozenset[TopicPartition]
    suspects: Mapping[BrokerId, BrokerEpoch] = attrs.field(factory=dict)
    """As in `SuspectsChanged`."""


@attrs.frozen
class BrokersChanged:
    """The registered brokers, all of them, as they are now."""

    brokers: Mapping[BrokerId, LiveBroker]


@attrs.frozen
class SuspectsChanged:
    """Whom this broker suspects to be dead, all of them, by the registration concerned
    (`suspicion.py`); one that is not registered under that epoch means nobody."""

    suspects: Mapping[BrokerId, BrokerEpoch]


@attrs.frozen
class TopicsChanged:
    """Topics appeared (with what was read of them) or vanished under /brokers/topics."""

    added: Mapping[str, TopicZnode]
    removed: frozenset[str]


@attrs.frozen
class TopicChanged:
    """A topic's znode changed: partitions may have been added."""

    name: str
    topic: TopicZnode


@attrs.frozen
class TopicDeletionsMarked:
    """The markers under /admin/delete_topics, all of them."""

    topics: frozenset[str]


@attrs.frozen
class AlterPartitionRequested:
    """A leader proposes ISRs (KIP-497)."""

    request: AlterPartitionRequest
    version: int
    token: object


@attrs.frozen
class ControlledShutdownRequested:
    """A broker asks to leave. `broker_epoch` is -1 where its version does not carry one."""

    broker_id: BrokerId
    broker_epoch: BrokerEpoch
    token: object


@attrs.frozen
class ElectLeadersRequested:
    """An operator asks for elections; `partitions` None means all of them."""

    partitions: Sequence[TopicPartition] | None
    unclean: bool
    token: object


@attrs.frozen
class PreferredElectionsMarked:
    """/admin/preferred_replica_election was written by a legacy tool."""

    partitions: frozenset[TopicPartition]


@attrs.frozen
class BalanceCheckDue:
    """Time to look whether leaders have drifted away from the preferred replicas."""


@attrs.frozen
class LeaderAndIsrAnswered:
    """A broker answered a LeaderAndIsr."""

    broker_id: BrokerId
    request: LeaderAndIsrRequest
    response: LeaderAndIsrResponse


@attrs.frozen
class StopReplicaAnswered:
    """A broker answered a StopReplica."""

    broker_id: BrokerId
    request: StopReplicaRequest
    response: StopReplicaResponse


@attrs.frozen
class LogDirsFailed:
    """Brokers announced failed log directories under /log_dir_event_notification."""

    brokers: frozenset[BrokerId]


@attrs.frozen
class IsrChangesNoted:
    """Leaders of older inter-broker protocols wrote these partitions' states themselves."""

    partitions: frozenset[TopicPartition]


@attrs.frozen
class UncleanElectionEnabled:
    """unclean.leader.election.enable was turned on: for one topic, or (None) for the cluster."""

    topic: str | None


# Events that answer an effect.


@attrs.frozen
class PartitionStatesWritten:
    """Per partition: the state with its new partition epoch, or why it was not written."""

    results: Mapping[TopicPartition, PartitionState | CoordinationError]


@attrs.frozen
class PartitionStatesRead:
    """The states as ZooKeeper holds them; a partition without one is left out."""

    states: Mapping[TopicPartition, PartitionState]


@attrs.frozen
class UncleanElectionRead:
    """Those of the topics asked about that allow unclean election."""

    allowed: frozenset[str]


Outcome: TypeAlias = PartitionStatesWritten | PartitionStatesRead | UncleanElectionRead
Event: TypeAlias = (
    TookOffice
    | BrokersChanged
    | SuspectsChanged
    | TopicsChanged
    | TopicChanged
    | TopicDeletionsMarked
    | AlterPartitionRequested
    | ControlledShutdownRequested
    | ElectLeadersRequested
    | PreferredElectionsMarked
    | BalanceCheckDue
    | LeaderAndIsrAnswered
    | StopReplicaAnswered
    | LogDirsFailed
    | IsrChangesNoted
    | UncleanElectionEnabled
    | Outcome
)

# Effects that ask.


@attrs.frozen
class WritePartitionStates:
    """Write each state, fenced by our epoch: create its node, or set it on the partition epoch
    that the state carries. Answered by `PartitionStatesWritten`, for each partition one result."""

    states: Mapping[TopicPartition, PartitionState]
    create: bool = False


@attrs.frozen
class ReadPartitionStates:
    """Answered by `PartitionStatesRead`."""

    partitions: tuple[TopicPartition, ...]


@attrs.frozen
class ReadUncleanElection:
    """Whether these topics allow unclean election; answered by `UncleanElectionRead`."""

    topics: tuple[str, ...]


# Effects that are done and forgotten.


@attrs.frozen
class OpenChannel:
    """Have a queue and a connection for a broker; replaces the one for its former life."""

    broker: LiveBroker


@attrs.frozen
class CloseChannel:
    """The broker is gone: drop what is queued for it."""

    broker_id: BrokerId


@attrs.frozen
class SendRequest:
    """Queue a request for a broker; sent in order, repeated until it answers or leaves."""

    broker_id: BrokerId
    request: ControlRequest


@attrs.frozen
class RewriteTopic:
    """Write a topic's znode anew, fenced: it had no topic id."""

    name: str
    topic_id: uuid.UUID
    assignments: Mapping[int, ReplicaAssignment]


@attrs.frozen
class DeleteTopicNodes:
    """Every replica is gone: delete the topic's znode, its configuration, then the marker."""

    name: str


@attrs.frozen
class ClearTopicDeletion:
    """Delete a marker that asks for nothing: unknown topic, or deletion is disabled."""

    name: str


@attrs.frozen
class ClearPreferredElections:
    """Delete /admin/preferred_replica_election: its elections have been tried."""


@attrs.frozen
class Answer:
    """Give the one who waits for `token` what it asked for."""

    token: object
    response: Any


@attrs.frozen
class NoteState:
    """For the state-change log: a partition's state was written, and why."""

    topic_partition: TopicPartition
    before: PartitionState | None
    after: PartitionState
    reason: str


@attrs.frozen
class NoteTrouble:
    """For the log: something was refused or left undone, in a sentence."""

    message: str


Asking: TypeAlias = WritePartitionStates | ReadPartitionStates | ReadUncleanElection
Effect: TypeAlias = (
    Asking
    | OpenChannel
    | CloseChannel
    | SendRequest
    | RewriteTopic
    | DeleteTopicNodes
    | ClearTopicDeletion
    | ClearPreferredElections
    | Answer
    | NoteState
    | NoteTrouble
)


@attrs.frozen
class ElectionResult:
    """What became of one partition in ElectLeaders; `leader` is who leads now, after success."""

    error: ErrorCode
    leader: BrokerId
    leader_epoch: LeaderEpoch


@attrs.frozen
class ShutdownResult:
    """What became of a ControlledShutdown: the partitions that the broker still leads."""

    error: ErrorCode
    remaining: tuple[TopicPartition, ...] = ()
