"""The cluster as the controller knows it.

States, and from which others each may be entered (Kafka's "valid previous states"):

    partition   NON_EXISTENT <- OFFLINE
                NEW          <- NON_EXISTENT
                ONLINE       <- NEW, ONLINE, OFFLINE
                OFFLINE      <- NEW, ONLINE, OFFLINE

    replica     NON_EXISTENT        <- DELETION_SUCCESSFUL
                NEW                 <- NON_EXISTENT
                ONLINE              <- NEW, ONLINE, OFFLINE, DELETION_INELIGIBLE
                OFFLINE             <- NEW, ONLINE, OFFLINE, DELETION_INELIGIBLE
                DELETION_STARTED    <- OFFLINE
                DELETION_SUCCESSFUL <- DELETION_STARTED
                DELETION_INELIGIBLE <- OFFLINE, DELETION_STARTED

Three words for how well a replica is, each weaker than the one before:

- *online*: its broker lives and is not shutting down, and the partition is not on a failed log
  directory there. Only such a replica may be elected.
- *present*: as online, but its broker may be shutting down. Such a leader still leads, and must
  still be told.
- *reachable* is a property of the broker alone: it is registered and not suspected to be dead, so
  that requests are sent to it. `brokers` are the reachable ones; whoever is `registered` besides is
  suspected, and counts as failed in all of this.

Holds (`check`):
- a partition is NEW iff no state of it is known; ONLINE iff its leader is present;
- leader in ISR, or -1; the ISR is never empty;
- a partition's leader epoch never decreases, and a new leader has a larger one (`adopt` asserts).

Source: `ControllerContext`, `PartitionState`, `ReplicaState` of Apache Kafka 3.9.
"""

import enum
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import attrs

from zkafka.model import (
    NO_LEADER,
    BrokerEpoch,
    BrokerId,
    BrokerInfo,
    PartitionState,
    ReplicaAssignment,
    TopicPartition,
)


class PartitionStatus(enum.Enum):
    """Where a partition stands in its life; kept in memory only."""

    NON_EXISTENT = "NonExistent"
    NEW = "New"
    ONLINE = "Online"
    OFFLINE = "Offline"


class ReplicaStatus(enum.Enum):
    """Where one replica of one partition stands; kept in memory only."""

    NON_EXISTENT = "NonExistent"
    NEW = "New"
    ONLINE = "Online"
    OFFLINE = "Offline"
    DELETION_STARTED = "ReplicaDeletionStarted"
    DELETION_SUCCESSFUL = "ReplicaDeletionSuccessful"
    DELETION_INELIGIBLE = "ReplicaDeletionIneligible"


P, R = PartitionStatus, ReplicaStatus

PARTITION_STATUS_AFTER: Mapping[PartitionStatus, frozenset[PartitionStatus]] = {
    P.NON_EXISTENT: frozenset({P.OFFLINE}),
    P.NEW: frozenset({P.NON_EXISTENT}),
    P.ONLINE: frozenset({P.NEW, P.ONLINE, P.OFFLINE}),
    P.OFFLINE: frozenset({P.NEW, P.ONLINE, P.OFFLINE}),
}

REPLICA_STATUS_AFTER: Mapping[ReplicaStatus, frozenset[ReplicaStatus]] = {
    R.NON_EXISTENT: frozenset({R.DELETION_SUCCESSFUL}),
    R.NEW: frozenset({R.NON_EXISTENT}),
    R.ONLINE: frozenset({R.NEW, R.ONLINE, R.OFFLINE, R.DELETION_INELIGIBLE}),
    R.OFFLINE: frozenset({R.NEW, R.ONLINE, R.OFFLINE, R.DELETION_INELIGIBLE}),
    R.DELETION_STARTED: frozenset({R.OFFLINE}),
    R.DELETION_SUCCESSFUL: frozenset({R.DELETION_STARTED}),
    R.DELETION_INELIGIBLE: frozenset({R.OFFLINE, R.DELETION_STARTED}),
}


class Replica(NamedTuple):
    """One partition on one broker."""

    topic_partition: TopicPartition
    broker_id: BrokerId


@attrs.frozen
class LiveBroker:
    """A registered broker; `epoch` is its registration's czxid and names this life of it."""

    info: BrokerInfo
    epoch: BrokerEpoch

    @property
    def broker_id(self) -> BrokerId:
        """The broker's id."""
        return self.info.broker_id


class ClusterContext:
    """Everything the controller knows, for one term of office; only `machine.py` changes it."""

    def __init__(self) -> None:
        self.registered: dict[BrokerId, LiveBroker] = {}
        self.brokers: dict[BrokerId, LiveBroker] = {}
        self.shutting_down: set[BrokerId] = set()
        self.topic_ids: dict[str, uuid.UUID] = {}
        self.topic_names: dict[uuid.UUID, str] = {}
        self.assignments: dict[TopicPartition, ReplicaAssignment] = {}
        self.states: dict[TopicPartition, PartitionState] = {}
        self.offline_dirs: dict[BrokerId, set[TopicPartition]] = {}
        self.topics_to_delete: set[str] = set()
        self.deletions_started: set[str] = set()
        self.deletions_ineligible: set[str] = set()
        self._by_topic: dict[str, list[TopicPartition]] = {}
        self._by_broker: dict[BrokerId, set[TopicPartition]] = {}
        self._partition_status: dict[TopicPartition, PartitionStatus] = {}
        self._replica_status: dict[Replica, ReplicaStatus] = {}

    # Topics and partitions.

    def add_topic(self, name: str, topic_id: uuid.UUID) -> None:
        """Know a topic, its partitions yet to be added."""
        assert name not in self.topic_ids, name
        self.topic_ids[name] = topic_id
        self.topic_names[topic_id] = name
        self._by_topic[name] = []

    def add_partition(self, tp: TopicPartition, assignment: ReplicaAssignment) -> None:
        """Know a partition of a known topic, and its replicas; all are NON_EXISTENT at first."""
        assert tp not in self.assignments, tp
        self.assignments[tp] = assignment
        self._by_topic[tp.topic].append(tp)
        self._partition_status[tp] = P.NON_EXISTENT
        for broker_id in assignment.replicas:
            self._by_broker.setdefault(broker_id, set()).add(tp)
            self._replica_status[Replica(tp, broker_id)] = R.NON_EXISTENT

    def remove_topic(self, name: str) -> None:
        """Forget a topic and all that belongs to it."""
        del self.topic_names[self.topic_ids.pop(name)]
        for tp in self._by_topic.pop(name):
            for broker_id in self.assignments.pop(tp).replicas:
                self._by_broker[broker_id].discard(tp)
                del self._replica_status[Replica(tp, broker_id)]
            del self._partition_status[tp]
            self.states.pop(tp, None)
            for failed in self.offline_dirs.values():
                failed.discard(tp)
        self.topics_to_delete.discard(name)
        self.deletions_started.discard(name)
        self.deletions_ineligible.discard(name)

    def partitions_of(self, topic: str) -> Iterable[TopicPartition]:
        """The topic's partitions, in the order in which they were learnt."""
        return self._by_topic[topic]

    def partitions_on(self, broker_id: BrokerId) -> list[TopicPartition]:
        """The partitions assigned to a broker, sorted, those being deleted included."""
        return sorted(self._by_broker.get(broker_id, ()))

    def replicas(self, tp: TopicPartition) -> tuple[BrokerId, ...]:
        """The assignment, preferred replica first; (T then the rest) while reassigned."""
        return self.assignments[tp].replicas

    def is_being_deleted(self, topic: str) -> bool:
        """Whether the topic's deletion was asked for, started or not."""
        return topic in self.topics_to_delete

    def state(self, tp: TopicPartition) -> PartitionState | None:
        """What ZooKeeper holds for the partition, or None while it was never led."""
        return self.states.get(tp)

    def adopt(self, tp: TopicPartition, state: PartitionState) -> None:
        """Know what was written to, or read from, ZooKeeper; the status follows from it."""
        known = self.states.get(tp)
        if known is not None:
            assert state.leader_epoch >= known.leader_epoch, (tp, known, state)
            if state.leader != known.leader:
                assert state.leader_epoch > known.leader_epoch, (tp, known, state)
        self.states[tp] = state
        self.move_partition(tp, P.ONLINE if self.is_present(state.leader, tp) else P.OFFLINE)

    # Brokers and replicas.

    def is_live(self, broker_id: BrokerId) -> bool:
        """Whether the broker is reachable and not shutting down."""
        return broker_id in self.brokers and broker_id not in self.shutting_down

    def is_suspected(self, broker_id: BrokerId) -> bool:
        """Whether the broker is registered and counts as failed all the same."""
        return broker_id in self.registered and broker_id not in self.brokers

    def is_present(self, broker_id: BrokerId, tp: TopicPartition) -> bool:
        """See "present" above."""
        return broker_id in self.brokers and tp not in self.offline_dirs.get(broker_id, ())

    def is_online(self, broker_id: BrokerId, tp: TopicPartition) -> bool:
        """See "online" above."""
        return self.is_present(broker_id, tp) and broker_id not in self.shutting_down

    def online_replicas(self, tp: TopicPartition) -> tuple[BrokerId, ...]:
        """The replicas that may be elected, in assignment order."""
        return tuple(r for r in self.assignments[tp].replicas if self.is_online(r, tp))

    def present_replicas(self, tp: TopicPartition) -> tuple[BrokerId, ...]:
        """The replicas that serve, those of brokers shutting down included."""
        return tuple(r for r in self.assignments[tp].replicas if self.is_present(r, tp))

    # Statuses.

    def partition_status(self, tp: TopicPartition) -> PartitionStatus:
        """The partition's status; NON_EXISTENT for an unknown one."""
        return self._partition_status.get(tp, P.NON_EXISTENT)

    def replica_status(self, replica: Replica) -> ReplicaStatus:
        """The replica's status; NON_EXISTENT for an unknown one."""
        return self._replica_status.get(replica, R.NON_EXISTENT)

    def move_partition(self, tp: TopicPartition, status: PartitionStatus) -> None:
        """Change a partition's status, asserting the table above."""
        before = self._partition_status[tp]
        assert before in PARTITION_STATUS_AFTER[status], (tp, before, status)
        self._partition_status[tp] = status

    def move_replica(self, replica: Replica, status: ReplicaStatus) -> None:
        """Change a replica's status, asserting the table above."""
        before = self._replica_status[replica]
        assert before in REPLICA_STATUS_AFTER[status], (replica, before, status)
        self._replica_status[replica] = status

    def replicas_of_topic(self, topic: str) -> Iterator[tuple[Replica, ReplicaStatus]]:
        """The topic's replicas with their statuses."""
        for tp in self._by_topic[topic]:
            for broker_id in self.assignments[tp].replicas:
                replica = Replica(tp, broker_id)
                yield replica, self._replica_status[replica]

    def partitions_in(self, *statuses: PartitionStatus) -> list[TopicPartition]:
        """The partitions in one of these statuses, sorted, none of a topic being deleted."""
        return sorted(
            tp
            for tp, status in self._partition_status.items()
            if status in statuses and tp.topic not in self.topics_to_delete
        )

    # What operators count.

    def offline_partition_count(self) -> int:
        """Partitions nobody leads, of topics not being deleted."""
        return sum(
            not self.is_present(self.states[tp].leader, tp) if tp in self.states else True
            for tp in self.assignments
            if tp.topic not in self.topics_to_delete
        )

    def preferred_replica_imbalance_count(self) -> int:
        """Partitions not led by their first replica, of topics not being deleted."""
        return sum(
            state.leader != self.assignments[tp].replicas[0]
            for tp, state in self.states.items()
            if tp.topic not in self.topics_to_delete
        )

    def check(self) -> None:
        """Assert what the module's docstring promises."""
        assert self.brokers.items() <= self.registered.items()
        assert self.shutting_down <= self.registered.keys()
        assert self.offline_dirs.keys() <= self.brokers.keys()
        assert self.topics_to_delete <= self.topic_ids.keys()
        assert self.deletions_started <= self.topics_to_delete
        assert self.deletions_ineligible <= self.topics_to_delete
        assert {i: n for n, i in self.topic_ids.items()} == self.topic_names
        assert self.states.keys() <= self.assignments.keys()
        assert self._partition_status.keys() == self.assignments.keys()
        for tp, status in self._partition_status.items():
            state = self.states.get(tp)
            if state is not None:
                assert state.isr, f"empty ISR: {tp}"
                assert state.leader == NO_LEADER or state.leader in state.isr, (tp, state)
            if self.is_being_deleted(tp.topic):
                continue
            if status is P.NEW:
                assert state is None, (tp, state)
            elif status is P.ONLINE:
                assert state is not None, tp
                assert self.is_present(state.leader, tp), (tp, state)
            elif status is P.OFFLINE:
                assert state is not None, tp
                assert not self.is_present(state.leader, tp), (tp, state)
            else:
                raise AssertionError(f"partition known but not existing: {tp}")
