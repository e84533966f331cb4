"""A controller machine beside a ZooKeeper of dictionaries, for the tests of this folder.

`World.happen(event)` lets the machine take an event and carries out what it asks, checking its
invariants after each step. What was sent to brokers is read from `World.sent`.
"""

import random
import uuid
from collections.abc import Callable, Iterable

import attrs

from zkafka.controller.context import LiveBroker
from zkafka.controller.events import (
    Answer,
    BrokersChanged,
    Effect,
    Event,
    LeaderAndIsrAnswered,
    PartitionStatesRead,
    PartitionStatesWritten,
    ReadPartitionStates,
    ReadUncleanElection,
    SendRequest,
    StopReplicaAnswered,
    SuspectsChanged,
    TookOffice,
    TopicsChanged,
    UncleanElectionRead,
    WritePartitionStates,
)
from zkafka.controller.machine import ControllerMachine
from zkafka.errors import NodeExists, StaleVersion
from zkafka.model import (
    BrokerInfo,
    Endpoint,
    PartitionState,
    ReplicaAssignment,
    TopicPartition,
)
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrPartitionError,
    LeaderAndIsrRequest,
    LeaderAndIsrResponse,
    LeaderAndIsrTopicError,
)
from zkafka.protocol.messages.stop_replica import (
    StopReplicaPartitionError,
    StopReplicaRequest,
    StopReplicaResponse,
)
from zkafka.protocol.messages.update_metadata import UpdateMetadataRequest
from zkafka.zk.znodes import TopicZnode

LISTENER = "PLAINTEXT"


def topic_id(name: str) -> uuid.UUID:
    """An id that a reader of a failing test can tell from others."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, name)


def broker(broker_id: int, epoch: int | None = None, rack: str | None = None) -> LiveBroker:
    """A live broker whose epoch is 100 times its id unless told otherwise."""
    endpoint = Endpoint(LISTENER, f"host{broker_id}", 9000 + broker_id)
    info = BrokerInfo(broker_id, {LISTENER: endpoint}, rack)
    return LiveBroker(info, epoch or 100 * broker_id)


def brokers(*ids: int) -> dict[int, LiveBroker]:
    """Live brokers by id."""
    return {broker_id: broker(broker_id) for broker_id in ids}


def topic(name: str, *replicas: tuple[int, ...]) -> TopicZnode:
    """A topic whose partitions have these replicas."""
    return TopicZnode(
        topic_id=topic_id(name),
        assignments={p: ReplicaAssignment(replicas=r) for p, r in enumerate(replicas)},
    )


class World:
    """One controller's term of office, played."""

    def __init__(
        self,
        *live: int,
        topics: dict[str, TopicZnode] | None = None,
        stored: dict[TopicPartition, PartitionState] | None = None,
        deletions: Iterable[str] = (),
        preferred_elections: Iterable[TopicPartition] = (),
        controller_epoch: int = 1,
        unclean: Iterable[str] = (),
        deletion_enabled: bool = True,
        suspects: Iterable[int] = (),
    ) -> None:
        self.machine = ControllerMachine(
            controller_id=1,
            controller_epoch=controller_epoch,
            inter_broker_listener=LISTENER,
            rng=random.Random(7),
            deletion_enabled=deletion_enabled,
        )
        self.live = brokers(*live)
        self.suspects = {i: self.live[i].epoch for i in suspects}
        self.stored = dict(stored or {})
        self.unclean = set(unclean)
        self.sent: list[SendRequest] = []
        self.effects: list[Effect] = []
        self.before_write: Callable[[WritePartitionStates], None] | None = None
        self.lose_replies = False
        self.history: dict[TopicPartition, list[PartitionState]] = {}
        self.happen(
            TookOffice(
                brokers=dict(self.live),
                topics=topics or {},
                states=dict(self.stored),
                deletions=frozenset(deletions),
                preferred_elections=frozenset(preferred_elections),
                suspects=dict(self.suspects),
            )
        )

    @property
    def context(self):
        """What the controller knows."""
        return self.machine.context

    def happen(self, event: Event) -> list[Effect]:
        """Play one event to its end; return all its effects."""
        self.sent.clear()
        self.effects = []
        fresh = self.machine.step(event, 0)
        while True:
            self.machine.check()
            self.effects += fresh
            self.sent += [effect for effect in fresh if isinstance(effect, SendRequest)]
            asked = self.machine.awaiting
            if asked is None:
                return self.effects
            assert fresh[-1] is asked
            fresh = self.machine.step(self._carry_out(asked), 0)

    def _carry_out(self, asked: Effect) -> Event:
        match asked:
            case WritePartitionStates():
                if self.before_write is not None:
                    before_write, self.before_write = self.before_write, None
                    before_write(asked)
                results = {tp: self._write(tp, s, asked.create) for tp, s in asked.states.items()}
                if self.lose_replies:
                    self.lose_replies = False
                    results = {tp: StaleVersion("again") for tp in results}
                return PartitionStatesWritten(results)
            case ReadPartitionStates(partitions):
                return PartitionStatesRead(
                    {tp: self.stored[tp] for tp in partitions if tp in self.stored}
                )
            case ReadUncleanElection(topics):
                return UncleanElectionRead(frozenset(topics) & self.unclean)
            case _:
                raise AssertionError(asked)

    def _write(self, tp: TopicPartition, state: PartitionState, create: bool):
        found = self.stored.get(tp)
        if create:
            if found is not None:
                return NodeExists(str(tp))
            state = attrs.evolve(state, partition_epoch=0)
        else:
            if found is None or found.partition_epoch != state.partition_epoch:
                return StaleVersion(str(tp))
            state = attrs.evolve(state, partition_epoch=state.partition_epoch + 1)
        self.stored[tp] = state
        self.history.setdefault(tp, []).append(state)
        return state

    # Things that happen often.

    def create(self, name: str, *replicas: tuple[int, ...]) -> list[Effect]:
        """A topic's znode appears."""
        return self.happen(TopicsChanged({name: topic(name, *replicas)}, frozenset()))

    def fail(self, *ids: int) -> list[Effect]:
        """These brokers' registrations vanish, in one change."""
        for broker_id in ids:
            del self.live[broker_id]
        return self.happen(BrokersChanged(dict(self.live)))

    def start(self, *ids: int) -> list[Effect]:
        """These brokers register; one that lives already has bounced."""
        for broker_id in ids:
            old = self.live.get(broker_id)
            epoch = old.epoch + 1 if old else 100 * broker_id + len(self.machine.life)
            self.live[broker_id] = broker(broker_id, epoch)
        return self.happen(BrokersChanged(dict(self.live)))

    def suspect(self, *ids: int) -> list[Effect]:
        """These, and nobody else, are suspected to be dead under their present registrations."""
        self.suspects = {i: self.live[i].epoch for i in ids}
        return self.happen(SuspectsChanged(dict(self.suspects)))

    def answer_stops(self, broker_id: int, error: int = 0) -> list[Effect]:
        """The broker answers the StopReplica it was sent last."""
        request = self.requests(broker_id, StopReplicaRequest)[-1]
        errors = [
            StopReplicaPartitionError(
                topic_name=t.topic_name, partition_index=p.partition_index, error_code=error
            )
            for t in request.topic_states
            for p in t.partition_states
        ]
        return self.happen(
            StopReplicaAnswered(broker_id, request, StopReplicaResponse(partition_errors=errors))
        )

    def answer_leader_and_isr(self, broker_id: int, request, error: int) -> list[Effect]:
        """The broker answers each partition of the request with `error`."""
        topics = [
            LeaderAndIsrTopicError(
                topic_id=t.topic_id,
                partition_errors=[
                    LeaderAndIsrPartitionError(partition_index=p.partition_index, error_code=error)
                    for p in t.partition_states
                ],
            )
            for t in request.topic_states
        ]
        return self.happen(
            LeaderAndIsrAnswered(broker_id, request, LeaderAndIsrResponse(topics=topics))
        )

    # What was sent.

    def requests(self, broker_id: int, kind: type):
        """The requests of a kind that the last event sent to a broker."""
        return [
            s.request for s in self.sent if s.broker_id == broker_id and type(s.request) is kind
        ]

    def kinds(self, broker_id: int) -> list[str]:
        """The names of the requests that the last event sent to a broker, in order."""
        return [
            type(s.request).__name__.removesuffix("Request")
            for s in self.sent
            if s.broker_id == broker_id
        ]

    def roles(self, broker_id: int) -> dict[TopicPartition, tuple[int, int, list[int]]]:
        """(leader, leader epoch, ISR) per partition, as LeaderAndIsr last told the broker."""
        return {
            TopicPartition(t.topic_name, p.partition_index): (p.leader, p.leader_epoch, list(p.isr))
            for request in self.requests(broker_id, LeaderAndIsrRequest)
            for t in request.topic_states
            for p in t.partition_states
        }

    def told(self, broker_id: int) -> dict[TopicPartition, int]:
        """The leader per partition, as UpdateMetadata last told the broker."""
        return {
            TopicPartition(t.topic_name, p.partition_index): p.leader
            for request in self.requests(broker_id, UpdateMetadataRequest)
            for t in request.topic_states
            for p in t.partition_states
        }

    def stopped(self, broker_id: int) -> dict[TopicPartition, bool]:
        """Per partition of StopReplica sent to the broker: whether to delete it."""
        return {
            TopicPartition(t.topic_name, p.partition_index): p.delete_partition
            for request in self.requests(broker_id, StopReplicaRequest)
            for t in request.topic_states
            for p in t.partition_states
        }

    def answer(self):
        """The one answer that the last event gave."""
        [answer] = [effect for effect in self.effects if isinstance(effect, Answer)]
        return answer.response

    def state(self, name: str, partition: int = 0) -> tuple[int, int, tuple[int, ...]]:
        """(leader, leader epoch, ISR) as the controller knows it, which ZooKeeper must hold."""
        tp = TopicPartition(name, partition)
        known = self.context.states[tp]
        assert known == self.stored[tp]
        return known.leader, known.leader_epoch, known.isr
