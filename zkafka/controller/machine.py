"""The controller's decisions: events to znode writes and requests to brokers, in order.

Laws:

- *Write, then announce.* A state enters the context, and any request, only after ZooKeeper took
  it; so what brokers hear was never less than durable, and a deposed controller announces nothing
  new. The other memory of the machine (statuses, failed directories) is derived and rebuilt.
- *One event at a time.* An event that needs an outcome (`Asking` effects) is suspended until the
  outcome comes; no other is taken meanwhile (asserted). This is Kafka's single controller thread,
  without the thread. `awaiting` says what is in flight.
- *One batch per event.* All partitions concerned are decided together and written together. Where
  Kafka writes a partition twice for one event (elect, then take the dead replica out of the ISR),
  we write the outcome once, one leader epoch further.
- *Somebody else's change wins.* A write refused for its version is read back. If it is our own
  (a lost reply), it counts as written. If a later controller wrote it, we leave it. Otherwise it
  is taken over and the decision is taken anew, from what is there.
- A leader is elected from the ISR, or unclean with recovery state RECOVERING where allowed.

Where we differ from Kafka 3.9 in what is decided, and why:

- Brokers that died are taken out before brokers that came are let in, so that no election can
  choose one of the dead. Unclean elections come last of all, so that a broker that only bounced
  leads again without loss, where Kafka would have elected around it.
- When a partition's whole ISR dies at once it is kept whole; Kafka keeps one member, whichever it
  looked at last. Every member of it has all that was acknowledged.
- An ISR proposal must hold the leader, come from it, and name assigned replicas; one that names
  another broker epoch than the registered one is ineligible (KIP-903, as Kafka has it in KRaft).
  A leader that is shutting down, and that nobody could replace, may still shrink its ISR.
- LeaderAndIsr is not repeated to replicas for which nothing changed, and a topic being deleted has
  no partition states written for it any more.
- A broker may count as failed before its session has ended (`suspicion.py`). While it is only
  suspected, no partition with it in the ISR is led uncleanly, not even by request.
- A reassignment found in a topic's znode is carried along in all requests but not executed, and a
  deletion does not wait for it.

Source: semantics of `KafkaController`, `ZkPartitionStateMachine`, `ZkReplicaStateMachine`,
`TopicDeletionManager` of Apache Kafka 3.9; KIP-497, KIP-841 (shutting-down brokers and the ISR).
"""

import collections
import random
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar, assert_never

import attrs

from zkafka.controller.announcements import Announcements
from zkafka.controller.context import (
    ClusterContext,
    LiveBroker,
    PartitionStatus,
    Replica,
    ReplicaStatus,
)
from zkafka.controller.election import (
    Election,
    elect_for_shutdown,
    elect_offline,
    elect_preferred,
)
from zkafka.controller.events import (
    AlterPartitionRequested,
    Answer,
    Asking,
    BalanceCheckDue,
    BrokersChanged,
    ClearPreferredElections,
    ClearTopicDeletion,
    CloseChannel,
    ControlledShutdownRequested,
    DeleteTopicNodes,
    Effect,
    ElectionResult,
    ElectLeadersRequested,
    Event,
    IsrChangesNoted,
    LeaderAndIsrAnswered,
    LogDirsFailed,
    NoteState,
    NoteTrouble,
    OpenChannel,
    Outcome,
    PartitionStatesRead,
    PartitionStatesWritten,
    PreferredElectionsMarked,
    ReadPartitionStates,
    ReadUncleanElection,
    RewriteTopic,
    ShutdownResult,
    StopReplicaAnswered,
    SuspectsChanged,
    TookOffice,
    TopicChanged,
    TopicDeletionsMarked,
    TopicsChanged,
    UncleanElectionEnabled,
    UncleanElectionRead,
    WritePartitionStates,
)
from zkafka.errors import ErrorCode
from zkafka.model import (
    NO_LEADER,
    BrokerEpoch,
    BrokerId,
    ControllerEpoch,
    PartitionState,
    ReplicaAssignment,
    TopicPartition,
)
from zkafka.protocol.messages.alter_partition import (
    AlterPartitionResponse,
    PartitionData,
    PartitionResult,
    TopicResult,
)
from zkafka.zk.znodes import TopicZnode, is_valid_topic_id

T = TypeVar("T")
Procedure: TypeAlias = Generator[Asking, Outcome, T]
"""What one event sets going: yields what it asks, is sent the outcome, and returns."""

REMEMBERED_EVENTS = 256
_NOWHERE = ReplicaAssignment(replicas=())


@attrs.frozen
class Change:
    """A decision about one partition: the state to write, and who must hear of it."""

    state: PartitionState
    receivers: tuple[BrokerId, ...]
    reason: str
    election: Election | None = None


@attrs.define
class ElectionCounts:
    """How many partitions got a leader, since this controller took office."""

    clean: int = 0
    unclean: int = 0
    failed: int = 0


class ControllerMachine:
    """One term of office of one controller.

    `step` is the only entrance. The machine is thrown away when the controller resigns.
    """

    def __init__(
        self,
        *,
        controller_id: BrokerId,
        controller_epoch: ControllerEpoch,
        inter_broker_listener: str,
        rng: random.Random,
        imbalance_percentage: int = 10,
        deletion_enabled: bool = True,
    ) -> None:
        self.controller_id = controller_id
        self.controller_epoch = controller_epoch
        self.context = ClusterContext()
        self.elections = ElectionCounts()
        self.life: collections.deque[tuple[int, Event]] = collections.deque(
            maxlen=REMEMBERED_EVENTS
        )
        self._rng = rng
        self._imbalance_percentage = imbalance_percentage
        self._deletion_enabled = deletion_enabled
        self._announcements = Announcements(
            self.context,
            controller_id=controller_id,
            controller_epoch=controller_epoch,
            inter_broker_listener=inter_broker_listener,
        )
        self._suspects: Mapping[BrokerId, BrokerEpoch] = {}
        self._effects: list[Effect] = []
        self._procedure: Procedure[None] | None = None
        self._awaiting: Asking | None = None

    @property
    def awaiting(self) -> Asking | None:
        """The effect whose outcome must come next; None when the next event may be anything."""
        return self._awaiting

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """Take one event; an `Asking` effect, if any, is the last of the list."""
        self.life.append((now_ms, event))
        match event:
            case PartitionStatesWritten() | PartitionStatesRead() | UncleanElectionRead():
                assert self._awaiting is not None, f"nobody asked: {event}"
                self._go_on(event)
            case _:
                assert self._awaiting is None, f"{event} while awaiting {self._awaiting}"
                self._procedure = self._begin(event)
                self._go_on(None)
        effects, self._effects = self._effects, []
        return effects

    def _go_on(self, outcome: Outcome | None) -> None:
        assert self._procedure is not None
        try:
            # A generator that has not started takes None, and ours are typed for what follows.
            self._awaiting = (
                next(self._procedure) if outcome is None else self._procedure.send(outcome)
            )
        except StopIteration:
            self._procedure = self._awaiting = None
            self._flush()
        else:
            self._effects.append(self._awaiting)

    def _begin(self, event: Event) -> Procedure[None]:
        match event:
            case TookOffice():
                return self._on_took_office(event)
            case BrokersChanged():
                return self._on_brokers_changed(event)
            case SuspectsChanged():
                return self._on_suspects_changed(event)
            case TopicsChanged():
                return self._on_topics_changed(event)
            case TopicChanged():
                return self._on_topic_changed(event)
            case TopicDeletionsMarked():
                return self._on_topic_deletions_marked(event)
            case AlterPartitionRequested():
                return self._on_alter_partition_requested(event)
            case ControlledShutdownRequested():
                return self._on_controlled_shutdown_requested(event)
            case ElectLeadersRequested():
                return self._on_elect_leaders_requested(event)
            case PreferredElectionsMarked():
                return self._on_preferred_elections_marked(event)
            case BalanceCheckDue():
                return self._on_balance_check_due()
            case LeaderAndIsrAnswered():
                return self._on_leader_and_isr_answered(event)
            case StopReplicaAnswered():
                return self._on_stop_replica_answered(event)
            case LogDirsFailed():
                return self._on_log_dirs_failed(event)
            case IsrChangesNoted():
                return self._on_isr_changes_noted(event)
            case UncleanElectionEnabled():
                return self._on_unclean_election_enabled(event)
            case PartitionStatesWritten() | PartitionStatesRead() | UncleanElectionRead():
                raise AssertionError(f"an outcome is no beginning: {event}")
            case _:
                assert_never(event)

    # Taking office.

    def _on_took_office(self, event: TookOffice) -> Procedure[None]:
        """Learn everything, tell everybody who lives, then settle every partition.

        Brokers are told of each other before they are told to follow one another. Every partition
        is then brought into accordance with who is online in one batch of writes, and every
        replica is told its state, changed or not: the last controller may have died before saying.
        """
        context = self.context
        assert not context.registered
        assert not context.topic_ids
        context.registered = dict(event.brokers)
        self._suspects = event.suspects
        for broker_id, broker in sorted(self._reachable().items()):
            context.brokers[broker_id] = broker
            self._do(OpenChannel(broker))
        for name in sorted(event.topics):
            self._learn_topic(name, event.topics[name])
        self._mark_deletions(event.deletions)

        self._announcements.metadata()
        self._flush()

        for tp in context.assignments:
            state = event.states.get(tp)
            self._start_statuses(tp)
            if state is not None:
                context.states[tp] = state
                self._refresh_status(tp)

        standing = [tp for tp in sorted(context.states) if not context.is_being_deleted(tp.topic)]
        yield from self._change(standing, self._accord)
        for tp in standing:
            self._announcements.lead_and_follow(tp, context.present_replicas(tp))
        yield from self._elect_offline()
        self._flush()
        yield from self._resume_deletions()
        if event.preferred_elections:
            yield from self._elect_marked(event.preferred_elections)

    def _learn_topic(self, name: str, topic: TopicZnode) -> None:
        """Know a topic and its partitions; one without an id is given one, and written."""
        topic_id = topic.topic_id
        if topic_id is None:
            topic_id = new_topic_id(self._rng)
            self._do(RewriteTopic(name, topic_id, topic.assignments))
        self.context.add_topic(name, topic_id)
        for index in sorted(topic.assignments):
            self.context.add_partition(TopicPartition(name, index), topic.assignments[index])

    def _start_statuses(self, tp: TopicPartition) -> None:
        """A partition newly known is NEW; its replicas are ONLINE or OFFLINE as they are found.

        A dead replica of a topic being deleted cannot be deleted now, and says so.
        """
        context = self.context
        context.move_partition(tp, PartitionStatus.NEW)
        for broker_id in context.replicas(tp):
            replica = Replica(tp, broker_id)
            context.move_replica(replica, ReplicaStatus.NEW)
            if context.is_present(broker_id, tp):
                context.move_replica(replica, ReplicaStatus.ONLINE)
            else:
                context.move_replica(replica, ReplicaStatus.OFFLINE)
                if context.is_being_deleted(tp.topic):
                    context.move_replica(replica, ReplicaStatus.DELETION_INELIGIBLE)
                    context.deletions_ineligible.add(tp.topic)

    # Brokers.

    def _on_brokers_changed(self, event: BrokersChanged) -> Procedure[None]:
        context = self.context
        ended = {
            broker_id
            for broker_id, broker in context.registered.items()
            if broker_id not in event.brokers or event.brokers[broker_id].epoch != broker.epoch
        }
        lifted = any(context.is_suspected(broker_id) for broker_id in ended)
        context.registered = dict(event.brokers)
        context.shutting_down -= ended
        yield from self._follow_brokers(lifted=lifted)

    def _on_suspects_changed(self, event: SuspectsChanged) -> Procedure[None]:
        """A suspect is handled as a broker that failed, one that answers as a broker that came."""
        self._suspects = event.suspects
        yield from self._follow_brokers()

    def _reachable(self) -> dict[BrokerId, LiveBroker]:
        """Who is registered and not suspected."""
        return {
            broker_id: broker
            for broker_id, broker in self.context.registered.items()
            if self._suspects.get(broker_id) != broker.epoch
        }

    def _follow_brokers(self, *, lifted: bool = False) -> Procedure[None]:
        """Take out the brokers that cannot be reached any more, and let in those that now can.

        `lifted`: a suspect has gone for good, and nothing waits for its answer any longer.
        """
        context = self.context
        old, new = context.brokers, self._reachable()
        dead = old.keys() - new.keys()
        bounced = {b for b in old.keys() & new.keys() if old[b].epoch != new[b].epoch}
        came = new.keys() - old.keys()
        moved = {
            b for b in old.keys() & new.keys() if b not in bounced and old[b].info != new[b].info
        }
        for broker_id in sorted(dead | bounced | moved):
            self._do(CloseChannel(broker_id))
        for broker_id in sorted(dead | bounced):
            del context.brokers[broker_id]
            context.offline_dirs.pop(broker_id, None)
        for broker_id in sorted(moved):
            context.brokers[broker_id] = new[broker_id]
            self._do(OpenChannel(new[broker_id]))

        if dead or bounced:
            gone = [
                Replica(tp, b) for b in sorted(dead | bounced) for tp in context.partitions_on(b)
            ]
            yield from self._take_offline(gone)
            self._flush()
        elif moved:
            self._announcements.metadata()
        if came or bounced:
            yield from self._start_brokers([new[b] for b in sorted(came | bounced)])
        elif dead or lifted:
            yield from self._elect_offline()

    def _take_offline(self, gone: Sequence[Replica]) -> Procedure[None]:
        """Replicas stopped being there: elect around them from the ISRs, and shrink those.

        Everybody is told of all partitions concerned, since their offline replicas changed, or at
        least of who still lives. Partitions left without a leader are for `_elect_offline`.
        """
        context = self.context
        failed_deletions = [r for r in gone if context.is_being_deleted(r.topic_partition.topic)]
        failed = [r for r in gone if not context.is_being_deleted(r.topic_partition.topic)]
        for replica in failed:
            context.move_replica(replica, ReplicaStatus.OFFLINE)
            self._announcements.stop(replica.broker_id, replica.topic_partition, delete=False)
        partitions = sorted({r.topic_partition for r in failed} & context.states.keys())
        for tp in partitions:
            self._refresh_status(tp)
        self._announcements.metadata(partitions)
        yield from self._change(partitions, self._accord)
        self._fail_deletions(failed_deletions)

    def _start_brokers(self, brokers: Sequence[LiveBroker]) -> Procedure[None]:
        """Brokers came: tell them everything, give them their roles, then retry what waits."""
        context = self.context
        for broker in brokers:
            assert broker.broker_id not in context.brokers
            context.brokers[broker.broker_id] = broker
            self._do(OpenChannel(broker))
        everything = [tp for tp in context.states if not context.is_being_deleted(tp.topic)]
        self._announcements.metadata()
        for broker in brokers:
            self._announcements.metadata_only_to(broker.broker_id, everything)
        self._flush()

        deletions: set[str] = set()
        for broker in brokers:
            for tp in context.partitions_on(broker.broker_id):
                if context.is_being_deleted(tp.topic):
                    deletions.add(tp.topic)
                    continue
                context.move_replica(Replica(tp, broker.broker_id), ReplicaStatus.ONLINE)
                if tp in context.states:
                    self._refresh_status(tp)
                    self._announcements.lead_and_follow(tp, [broker.broker_id])
        self._flush()
        yield from self._elect_offline()
        context.deletions_ineligible -= deletions
        yield from self._resume_deletions()

    def _on_log_dirs_failed(self, event: LogDirsFailed) -> Procedure[None]:
        """Tell the brokers their roles again: for those on a dead directory they will refuse."""
        context = self.context
        for broker_id in sorted(event.brokers & context.brokers.keys()):
            for tp in context.partitions_on(broker_id):
                if tp in context.states and not context.is_being_deleted(tp.topic):
                    context.move_replica(Replica(tp, broker_id), ReplicaStatus.ONLINE)
                    self._announcements.lead_and_follow(tp, [broker_id])
        yield from ()

    def _on_leader_and_isr_answered(self, event: LeaderAndIsrAnswered) -> Procedure[None]:
        """A replica refused with KAFKA_STORAGE_ERROR is offline; one that accepted is not."""
        context = self.context
        broker = context.brokers.get(event.broker_id)
        if broker is None or broker.epoch != event.request.broker_epoch:
            return  # it answered in a former life
        if event.response.error_code != ErrorCode.NONE:
            self._trouble(
                f"LeaderAndIsr refused broker={event.broker_id} "
                f"error={ErrorCode.of(event.response.error_code).name}"
            )
            return
        failed: set[TopicPartition] = set()
        accepted: set[TopicPartition] = set()
        for topic in event.response.topics:
            name = context.topic_names.get(topic.topic_id)
            for partition in topic.partition_errors if name is not None else ():
                assert name is not None
                tp = TopicPartition(name, partition.partition_index)
                if event.broker_id not in context.assignments.get(tp, _NOWHERE).replicas:
                    continue
                if partition.error_code == ErrorCode.KAFKA_STORAGE_ERROR:
                    failed.add(tp)
                elif partition.error_code == ErrorCode.NONE:
                    accepted.add(tp)
        before = context.offline_dirs.get(event.broker_id, set())
        after = (before | failed) - accepted
        if after:
            context.offline_dirs[event.broker_id] = after
        else:
            context.offline_dirs.pop(event.broker_id, None)
        healed = [
            tp
            for tp in sorted(before - after)
            if tp in context.states and not context.is_being_deleted(tp.topic)
        ]
        for tp in healed:
            context.move_replica(Replica(tp, event.broker_id), ReplicaStatus.ONLINE)
            self._refresh_status(tp)
        if healed:
            self._announcements.metadata(healed)
        newly = sorted(after - before)
        if newly:
            self._trouble(
                f"replicas on a failed log directory broker={event.broker_id} n={len(newly)}"
            )
            yield from self._take_offline([Replica(tp, event.broker_id) for tp in newly])
            self._flush()
        if newly or healed:
            yield from self._elect_offline()

    # Topics.

    def _on_topics_changed(self, event: TopicsChanged) -> Procedure[None]:
        context = self.context
        for name in sorted(event.removed & context.topic_ids.keys()):
            # Not by us: a deletion of ours forgets the topic before its znode goes.
            if context.is_being_deleted(name):
                self._do(ClearTopicDeletion(name))
            context.remove_topic(name)
        new: list[TopicPartition] = []
        for name in sorted(event.added.keys() - context.topic_ids.keys()):
            self._learn_topic(name, event.added[name])
            new.extend(context.partitions_of(name))
        yield from self._start_partitions(new)

    def _on_topic_changed(self, event: TopicChanged) -> Procedure[None]:
        context = self.context
        if event.name not in context.topic_ids:
            return
        if event.topic.topic_id not in (None, context.topic_ids[event.name]):
            # Deleted and created anew behind our back, between two looks.
            context.remove_topic(event.name)
            yield from self._on_topics_changed(
                TopicsChanged({event.name: event.topic}, frozenset())
            )
            return
        known = {tp.partition for tp in context.partitions_of(event.name)}
        added = sorted(event.topic.assignments.keys() - known)
        if not added:
            return
        if context.is_being_deleted(event.name):
            # Their znodes go with the topic's, and no broker has heard of them.
            self._trouble(f"partitions added to a topic being deleted topic={event.name}")
            return
        new = [TopicPartition(event.name, index) for index in added]
        for tp in new:
            context.add_partition(tp, event.topic.assignments[tp.partition])
        yield from self._start_partitions(new)

    def _start_partitions(self, new: Sequence[TopicPartition]) -> Procedure[None]:
        for tp in new:
            self._start_statuses(tp)
        yield from self._create(new)

    def _create(self, new: Sequence[TopicPartition]) -> Procedure[None]:
        """NEW to ONLINE: the first online replica leads, all online ones are in sync.

        A partition without any online replica stays NEW until a broker comes.
        """
        context = self.context
        wanted: dict[TopicPartition, PartitionState] = {}
        for tp in new:
            online = context.online_replicas(tp)
            if online:
                wanted[tp] = PartitionState(
                    leader=online[0],
                    leader_epoch=0,
                    isr=online,
                    controller_epoch=self.controller_epoch,
                )
        if not wanted:
            return
        results = yield from self._write(wanted, create=True)
        refused = [tp for tp in wanted if not isinstance(results[tp], PartitionState)]
        found = yield from self._read(refused) if refused else _nothing()
        met: list[TopicPartition] = []
        for tp, state in wanted.items():
            result = results[tp]
            if not isinstance(result, PartitionState):
                stored = found.get(tp)
                if stored is None:
                    self._trouble(f"partition not created partition={tp} error={result!r}")
                    continue
                if not _same_content(stored, state):
                    self._adopt(tp, stored, "found written")
                    met.append(tp)
                    continue
                result = stored  # the reply was lost, the write was not
            self._adopt(tp, result, "created")
            self._announcements.lead_and_follow(tp, state.isr, is_new=True)
        if met:
            yield from self._change(met, self._accord)
            for tp in met:
                self._announcements.lead_and_follow(tp, context.present_replicas(tp))

    # Elections.

    def _on_unclean_election_enabled(self, event: UncleanElectionEnabled) -> Procedure[None]:
        yield from self._elect_offline(event.topic)

    def _elect_offline(self, only_topic: str | None = None) -> Procedure[None]:
        """Try to find leaders for all partitions that have none: the NEW and the OFFLINE.

        Whether a topic allows unclean election is asked only for those without a live ISR member,
        and without a suspected one: that may be alive and have acknowledged what others lack.
        """
        context = self.context
        waiting = [
            tp
            for tp in context.partitions_in(PartitionStatus.NEW, PartitionStatus.OFFLINE)
            if only_topic is None or tp.topic == only_topic
        ]
        yield from self._create([tp for tp in waiting if tp not in context.states])
        offline = [tp for tp in waiting if tp in context.states and context.online_replicas(tp)]
        hopeless = {
            tp.topic
            for tp in offline
            if not self._awaits_suspect(context.states[tp])
            and not any(context.is_online(member, tp) for member in context.states[tp].isr)
        }
        allowed: Collection[str] = ()
        if hopeless:
            outcome = yield ReadUncleanElection(tuple(sorted(hopeless)))
            assert isinstance(outcome, UncleanElectionRead)
            allowed = outcome.allowed

        def decide(tp: TopicPartition) -> Change | None:
            state = context.states[tp]
            if context.is_present(state.leader, tp):
                return None
            online = context.online_replicas(tp)
            election = elect_offline(
                context.replicas(tp),
                state.isr,
                online,
                unclean_allowed=tp.topic in allowed and not self._awaits_suspect(state),
            )
            if election is None:
                self.elections.failed += 1
                return None
            return self._elected(state, election, online, "offline election")

        yield from self._change(offline, decide)

    def _awaits_suspect(self, state: PartitionState) -> bool:
        """Whether the ISR has a member that is suspected only: then nothing may be lost yet."""
        return any(self.context.is_suspected(member) for member in state.isr)

    def _accord(self, tp: TopicPartition) -> Change | None:
        """What must change so that the state agrees with who is present, without loss.

        A leader that is gone is replaced from within the ISR, or by nobody: then the ISR is kept
        whole, since each of its members has all that was acknowledged. Members that are gone leave
        the ISR of a leader that is not.
        """
        context = self.context
        state = context.states[tp]
        if context.is_present(state.leader, tp):
            isr = tuple(member for member in state.isr if context.is_present(member, tp))
            if isr == state.isr:
                return None
            assert isr, (tp, state)
            return Change(
                self._next(state, state.leader, isr),
                context.present_replicas(tp),
                "isr shrunk to those present",
            )
        online = context.online_replicas(tp)
        election = elect_offline(context.replicas(tp), state.isr, online, unclean_allowed=False)
        if election is not None:
            return self._elected(state, election, online, "offline election")
        if state.leader == NO_LEADER:
            return None
        return Change(
            self._next(state, NO_LEADER, state.isr),
            context.present_replicas(tp),
            "no live member of the isr",
        )

    def _on_balance_check_due(self) -> Procedure[None]:
        """Elect preferred leaders where too many of one broker's partitions are led elsewhere."""
        context = self.context
        total: collections.Counter[BrokerId] = collections.Counter()
        drifted: dict[BrokerId, list[TopicPartition]] = {}
        for tp in sorted(context.states):
            if context.is_being_deleted(tp.topic):
                continue
            preferred = context.replicas(tp)[0]
            total[preferred] += 1
            if context.states[tp].leader != preferred:
                drifted.setdefault(preferred, []).append(tp)
        for broker_id in sorted(drifted):
            partitions = drifted[broker_id]
            if not context.is_live(broker_id):
                continue
            if len(partitions) * 100 > total[broker_id] * self._imbalance_percentage:
                movable = [tp for tp in partitions if self._prefer(tp, "auto balance") is not None]
                yield from self._change(movable, lambda tp: self._prefer(tp, "auto balance"))

    def _prefer(self, tp: TopicPartition, reason: str) -> Change | None:
        context = self.context
        assignment = context.assignments[tp]
        state = context.states[tp]
        election = elect_preferred(assignment.replicas, state.isr, context.online_replicas(tp))
        if election is None or election.leader == state.leader:
            return None
        return self._elected(state, election, context.present_replicas(tp), reason)

    def _on_preferred_elections_marked(self, event: PreferredElectionsMarked) -> Procedure[None]:
        yield from self._elect_marked(event.partitions)

    def _elect_marked(self, partitions: frozenset[TopicPartition]) -> Procedure[None]:
        context = self.context
        known = [
            tp
            for tp in sorted(partitions & context.states.keys())
            if not context.is_being_deleted(tp.topic)
        ]
        yield from self._change(known, lambda tp: self._prefer(tp, "preferred election"))
        self._flush()
        self._do(ClearPreferredElections())

    def _on_elect_leaders_requested(self, event: ElectLeadersRequested) -> Procedure[None]:
        """Kafka's order of refusals: unknown, being deleted, not needed, then the election's own.

        An unclean election is one for partitions without a live leader, whatever the topic allows.
        """
        context = self.context
        results: dict[TopicPartition, ElectionResult] = {}
        electable: list[TopicPartition] = []
        asked = sorted(context.assignments) if event.partitions is None else event.partitions
        for tp in dict.fromkeys(asked):
            state = context.states.get(tp)
            if tp not in context.assignments:
                results[tp] = _no_election(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            elif context.is_being_deleted(tp.topic):
                results[tp] = _no_election(ErrorCode.INVALID_TOPIC_EXCEPTION)
            elif state is not None and (
                context.is_present(state.leader, tp)
                if event.unclean
                else state.leader == context.replicas(tp)[0]
            ):
                results[tp] = _no_election(ErrorCode.ELECTION_NOT_NEEDED)
            else:
                electable.append(tp)

        def decide(tp: TopicPartition) -> Change | None:
            state = context.states[tp]
            if not event.unclean:
                return self._prefer(tp, "preferred election")
            if context.is_present(state.leader, tp):
                return None
            online = context.online_replicas(tp)
            election = elect_offline(
                context.replicas(tp),
                state.isr,
                online,
                unclean_allowed=not self._awaits_suspect(state),
            )
            if election is None:
                return None
            return self._elected(state, election, online, "unclean election by request")

        changed = yield from self._change([tp for tp in electable if tp in context.states], decide)
        self._flush()
        refusal = (
            ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE
            if event.unclean
            else ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE
        )
        for tp in electable:
            if tp in changed:
                state = context.states[tp]
                results[tp] = ElectionResult(ErrorCode.NONE, state.leader, state.leader_epoch)
            else:
                results[tp] = _no_election(refusal)
        if event.partitions is None:
            results = {
                tp: result
                for tp, result in results.items()
                if result.error is not ErrorCode.ELECTION_NOT_NEEDED
            }
        self._do(Answer(event.token, results))

    # Controlled shutdown.

    def _on_controlled_shutdown_requested(
        self, event: ControlledShutdownRequested
    ) -> Procedure[None]:
        """Move leadership away from a broker that asks to leave, and its replicas out of ISRs.

        It is marked before anything else, so that no election chooses it any more. Partitions with
        one replica stay where they are and never hold it up. Asked again, it continues. One that
        is suspected has nothing left to hand over; the mark is for when it answers.
        """
        context = self.context
        broker_id = event.broker_id
        broker = context.registered.get(broker_id)
        if broker is None:
            self._do(Answer(event.token, ShutdownResult(ErrorCode.BROKER_NOT_AVAILABLE)))
            return
        if event.broker_epoch not in (-1, broker.epoch) and event.broker_epoch < broker.epoch:
            self._do(Answer(event.token, ShutdownResult(ErrorCode.STALE_BROKER_EPOCH)))
            return
        context.shutting_down.add(broker_id)
        concerned = [
            tp
            for tp in context.partitions_on(broker_id)
            if len(context.replicas(tp)) > 1
            and tp in context.states
            and not context.is_being_deleted(tp.topic)
        ]

        def decide(tp: TopicPartition) -> Change | None:
            state = context.states[tp]
            if state.leader == broker_id:
                election = elect_for_shutdown(
                    context.replicas(tp),
                    state.isr,
                    context.present_replicas(tp),
                    context.shutting_down,
                )
                if election is None:
                    return None
                return self._elected(
                    state, election, context.present_replicas(tp), "controlled shutdown"
                )
            isr = tuple(member for member in state.isr if member != broker_id)
            if state.leader == NO_LEADER or isr == state.isr:
                return None
            assert state.leader in isr, (tp, state)
            others = tuple(r for r in context.present_replicas(tp) if r != broker_id)
            return Change(self._next(state, state.leader, isr), others, "controlled shutdown")

        followed = [tp for tp in concerned if context.states[tp].leader != broker_id]
        yield from self._change(concerned, decide)
        for tp in followed:
            replica = Replica(tp, broker_id)
            if context.replica_status(replica) is not ReplicaStatus.OFFLINE:
                context.move_replica(replica, ReplicaStatus.OFFLINE)
            self._announcements.stop(broker_id, tp, delete=False)
            self._announcements.metadata([tp])
        self._flush()
        remaining = tuple(tp for tp in concerned if context.states[tp].leader == broker_id)
        self._do(Answer(event.token, ShutdownResult(ErrorCode.NONE, remaining)))

    # AlterPartition.

    def _on_alter_partition_requested(self, event: AlterPartitionRequested) -> Procedure[None]:
        context = self.context
        request = event.request
        broker = context.brokers.get(request.broker_id)
        if broker is None or broker.epoch != request.broker_epoch:
            response = AlterPartitionResponse(error_code=ErrorCode.STALE_BROKER_EPOCH)
            self._do(Answer(event.token, response))
            return

        refused: dict[tuple[uuid.UUID, int], ErrorCode] = {}
        wanted: dict[TopicPartition, PartitionState] = {}
        order: list[tuple[uuid.UUID, list[int]]] = []
        for topic in request.topics:
            order.append((topic.topic_id, [p.partition_index for p in topic.partitions]))
            name = context.topic_names.get(topic.topic_id)
            for partition in topic.partitions:
                key = (topic.topic_id, partition.partition_index)
                if name is None:
                    refused[key] = ErrorCode.UNKNOWN_TOPIC_ID
                    continue
                tp = TopicPartition(name, partition.partition_index)
                verdict = self._judge_proposal(tp, partition, request.broker_id, event.version)
                if isinstance(verdict, PartitionState):
                    wanted[tp] = verdict
                elif verdict is not ErrorCode.NONE:
                    refused[key] = verdict

        if wanted:
            results = yield from self._write(wanted)
            stale = [tp for tp in wanted if not isinstance(results[tp], PartitionState)]
            found = yield from self._read(stale) if stale else _nothing()
            for tp, state in wanted.items():
                result = results[tp]
                if not isinstance(result, PartitionState):
                    stored = found.get(tp)
                    if stored is not None and _same_content(stored, state):
                        result = stored  # the reply was lost, the write was not
                    else:
                        if stored is not None and self._may_take_over(tp, stored):
                            self._adopt(tp, stored, "found changed")
                        key = (context.topic_ids[tp.topic], tp.partition)
                        refused[key] = ErrorCode.INVALID_UPDATE_VERSION
                        continue
                self._adopt(tp, result, "isr proposed by its leader")
                self._announcements.metadata([tp])
            self._flush()

        topics: list[TopicResult] = []
        for topic_id, indexes in order:
            entries: list[PartitionResult] = []
            for index in indexes:
                error = refused.get((topic_id, index))
                if error is not None:
                    entries.append(PartitionResult(partition_index=index, error_code=error))
                    continue
                state = context.states[TopicPartition(context.topic_names[topic_id], index)]
                entries.append(
                    PartitionResult(
                        partition_index=index,
                        leader_id=state.leader,
                        leader_epoch=state.leader_epoch,
                        isr=list(state.isr),
                        leader_recovery_state=int(state.recovering),
                        partition_epoch=state.partition_epoch,
                    )
                )
            topics.append(TopicResult(topic_id=topic_id, partitions=entries))
        self._do(Answer(event.token, AlterPartitionResponse(topics=topics)))

    def _judge_proposal(
        self, tp: TopicPartition, proposal: PartitionData, leader: BrokerId, version: int
    ) -> PartitionState | ErrorCode:
        """The state to write; or NONE, where it is committed already; or the refusal."""
        context = self.context
        state = context.states.get(tp)
        if state is None or context.is_being_deleted(tp.topic):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if (
            proposal.partition_epoch > state.partition_epoch
            or proposal.leader_epoch > state.leader_epoch
        ):
            return ErrorCode.NOT_CONTROLLER  # we are the ones behind
        if proposal.leader_epoch < state.leader_epoch:
            return ErrorCode.FENCED_LEADER_EPOCH
        members = (
            {member.broker_id: member.broker_epoch for member in proposal.new_isr_with_epochs}
            if version >= 3
            else dict.fromkeys(proposal.new_isr, -1)
        )
        isr = tuple(members)
        recovering = proposal.leader_recovery_state == 1
        if set(isr) == set(state.isr) and recovering == state.recovering:
            return ErrorCode.NONE
        if proposal.partition_epoch < state.partition_epoch:
            return ErrorCode.INVALID_UPDATE_VERSION
        if recovering and (len(isr) > 1 or not state.recovering):
            return ErrorCode.INVALID_REQUEST
        if leader != state.leader or leader not in members:
            return ErrorCode.INVALID_REQUEST
        if not members.keys() <= set(context.replicas(tp)):
            return ErrorCode.INVALID_REQUEST
        for member, epoch in members.items():
            if member == leader and member in context.brokers:
                continue  # the leader itself may be on its way out and still shrink its ISR
            if not context.is_live(member) or epoch not in (-1, context.brokers[member].epoch):
                return ErrorCode.INELIGIBLE_REPLICA
        return attrs.evolve(
            state, isr=isr, recovering=recovering, controller_epoch=self.controller_epoch
        )

    def _on_isr_changes_noted(self, event: IsrChangesNoted) -> Procedure[None]:
        """Leaders wrote states themselves (before KIP-497): read them, and tell everybody."""
        context = self.context
        partitions = sorted(event.partitions & context.states.keys())
        if not partitions:
            return
        found = yield from self._read(partitions)
        told = []
        for tp, stored in found.items():
            if not context.is_being_deleted(tp.topic) and self._may_take_over(tp, stored):
                self._adopt(tp, stored, "isr written by its leader")
                told.append(tp)
        self._announcements.metadata(told)

    # Topic deletion.

    def _on_topic_deletions_marked(self, event: TopicDeletionsMarked) -> Procedure[None]:
        self._mark_deletions(event.topics)
        yield from self._resume_deletions()

    def _mark_deletions(self, marked: frozenset[str]) -> None:
        """Take note of markers; those that ask for nothing are cleared."""
        context = self.context
        for topic in sorted(marked - context.topics_to_delete):
            if topic in context.topic_ids and self._deletion_enabled:
                context.topics_to_delete.add(topic)
            else:
                self._do(ClearTopicDeletion(topic))

    def _resume_deletions(self) -> Procedure[None]:
        """Go on with each deletion as far as it goes without waiting for anybody."""
        context = self.context
        for topic in sorted(context.topics_to_delete):
            statuses = [status for _, status in context.replicas_of_topic(topic)]
            if all(status is ReplicaStatus.DELETION_SUCCESSFUL for status in statuses):
                self._complete_deletion(topic)
            elif ReplicaStatus.DELETION_STARTED in statuses:
                continue  # brokers still have to answer
            elif topic not in context.deletions_ineligible:
                self._start_deletion(topic)
        yield from ()

    def _start_deletion(self, topic: str) -> None:
        """Tell everybody that the topic goes, and those present to delete their replicas.

        Dead replicas make it wait (ineligible) until their brokers come; those deleted already
        stay deleted.
        """
        context = self.context
        partitions = list(context.partitions_of(topic))
        if topic not in context.deletions_started:
            context.deletions_started.add(topic)
            for tp in partitions:
                context.move_partition(tp, PartitionStatus.OFFLINE)
                context.move_partition(tp, PartitionStatus.NON_EXISTENT)
        self._announcements.metadata(partitions)
        for replica, status in list(context.replicas_of_topic(topic)):
            if status is ReplicaStatus.DELETION_SUCCESSFUL:
                continue
            context.move_replica(replica, ReplicaStatus.OFFLINE)
            if context.is_present(replica.broker_id, replica.topic_partition):
                context.move_replica(replica, ReplicaStatus.DELETION_STARTED)
                self._announcements.stop(replica.broker_id, replica.topic_partition, delete=True)
            else:
                context.move_replica(replica, ReplicaStatus.DELETION_INELIGIBLE)
                context.deletions_ineligible.add(topic)

    def _complete_deletion(self, topic: str) -> None:
        """Forget the topic, then its znodes: its end is not mistaken for someone else's doing."""
        self._flush()
        for replica, _ in list(self.context.replicas_of_topic(topic)):
            self.context.move_replica(replica, ReplicaStatus.NON_EXISTENT)
        self.context.remove_topic(topic)
        self._do(DeleteTopicNodes(topic))

    def _fail_deletions(self, replicas: Iterable[Replica]) -> None:
        """These cannot be deleted now; their topics wait until a broker comes back."""
        context = self.context
        for replica in replicas:
            status = context.replica_status(replica)
            topic = replica.topic_partition.topic
            if status is ReplicaStatus.DELETION_SUCCESSFUL:
                continue
            if status in (ReplicaStatus.NEW, ReplicaStatus.ONLINE):
                context.move_replica(replica, ReplicaStatus.OFFLINE)
            if context.replica_status(replica) is not ReplicaStatus.DELETION_INELIGIBLE:
                context.move_replica(replica, ReplicaStatus.DELETION_INELIGIBLE)
            context.deletions_ineligible.add(topic)

    def _on_stop_replica_answered(self, event: StopReplicaAnswered) -> Procedure[None]:
        context = self.context
        broker = context.brokers.get(event.broker_id)
        if broker is None or broker.epoch != event.request.broker_epoch:
            return  # it answered in a former life
        errors = {
            TopicPartition(p.topic_name, p.partition_index): p.error_code
            for p in event.response.partition_errors
        }
        failed: list[Replica] = []
        concerned = False
        for topic in event.request.topic_states:
            for partition in topic.partition_states:
                tp = TopicPartition(topic.topic_name, partition.partition_index)
                replica = Replica(tp, event.broker_id)
                if (
                    not partition.delete_partition
                    or context.replica_status(replica) is not ReplicaStatus.DELETION_STARTED
                ):
                    continue
                concerned = True
                error = event.response.error_code or errors.get(tp, ErrorCode.NONE)
                if error == ErrorCode.NONE:
                    context.move_replica(replica, ReplicaStatus.DELETION_SUCCESSFUL)
                else:
                    failed.append(replica)
                    name = ErrorCode.of(error).name
                    self._trouble(
                        f"replica not deleted broker={event.broker_id} partition={tp} error={name}"
                    )
        self._fail_deletions(failed)
        if concerned:
            yield from self._resume_deletions()

    # Writing.

    def _change(
        self,
        partitions: Iterable[TopicPartition],
        decide: Callable[[TopicPartition], Change | None],
    ) -> Procedure[set[TopicPartition]]:
        """Write what `decide` says of each partition; return those written, and announce them.

        Announcing is up to the next flush. Where somebody else changed the state, `decide` is
        asked again about what was found; that ends, since each round needs another foreign write.
        """
        written: set[TopicPartition] = set()
        remaining = list(partitions)
        while remaining:
            changes: dict[TopicPartition, Change] = {}
            for tp in remaining:
                change = decide(tp)
                if change is not None:
                    changes[tp] = change
            if not changes:
                break
            results = yield from self._write({tp: c.state for tp, c in changes.items()})
            refused = [tp for tp in changes if not isinstance(results[tp], PartitionState)]
            found = yield from self._read(refused) if refused else _nothing()
            remaining = []
            for tp, change in changes.items():
                result = results[tp]
                if not isinstance(result, PartitionState):
                    stored = found.get(tp)
                    if stored is None:
                        self._trouble(
                            f"partition state not written partition={tp} error={result!r}"
                        )
                        continue
                    if not _same_content(stored, change.state):
                        if self._may_take_over(tp, stored):
                            self._adopt(tp, stored, "found changed")
                            remaining.append(tp)
                        continue
                    result = stored  # the reply was lost, the write was not
                self._adopt(tp, result, change.reason)
                written.add(tp)
                if change.election is not None:
                    if change.election.unclean:
                        self.elections.unclean += 1
                    else:
                        self.elections.clean += 1
                self._announcements.lead_and_follow(tp, change.receivers)
        return written

    def _write(
        self, states: Mapping[TopicPartition, PartitionState], *, create: bool = False
    ) -> Procedure[Mapping[TopicPartition, PartitionState | Exception]]:
        outcome = yield WritePartitionStates(states, create)
        assert isinstance(outcome, PartitionStatesWritten), outcome
        assert outcome.results.keys() == states.keys(), "one result for each partition"
        return outcome.results

    def _read(
        self, partitions: Sequence[TopicPartition]
    ) -> Procedure[Mapping[TopicPartition, PartitionState]]:
        outcome = yield ReadPartitionStates(tuple(partitions))
        assert isinstance(outcome, PartitionStatesRead), outcome
        return outcome.states

    def _may_take_over(self, tp: TopicPartition, stored: PartitionState) -> bool:
        """Whether a state found in ZooKeeper is for us to go on from.

        It is not where a later controller wrote it: our next fenced write will say so too.
        """
        if stored.controller_epoch > self.controller_epoch:
            self._trouble(
                f"state written by a later controller partition={tp} "
                f"controller_epoch={stored.controller_epoch}"
            )
            return False
        known = self.context.states.get(tp)
        if known is not None and (
            stored.leader_epoch < known.leader_epoch
            or (stored.leader_epoch == known.leader_epoch and stored.leader != known.leader)
        ):
            self._trouble(f"state found older than known partition={tp} stored={stored}")
            return False
        return True

    def _adopt(self, tp: TopicPartition, state: PartitionState, reason: str) -> None:
        before = self.context.state(tp)
        self.context.adopt(tp, state)
        if before != state:
            self._do(NoteState(tp, before, state, reason))

    def _refresh_status(self, tp: TopicPartition) -> None:
        """Make the status follow from who is present now."""
        state = self.context.states[tp]
        present = self.context.is_present(state.leader, tp)
        self.context.move_partition(
            tp, PartitionStatus.ONLINE if present else PartitionStatus.OFFLINE
        )

    def _next(
        self, state: PartitionState, leader: BrokerId, isr: tuple[BrokerId, ...]
    ) -> PartitionState:
        """The state one leader epoch further; the partition epoch is the one to write on."""
        return attrs.evolve(
            state,
            leader=leader,
            leader_epoch=state.leader_epoch + 1,
            isr=isr,
            controller_epoch=self.controller_epoch,
        )

    def _elected(
        self,
        state: PartitionState,
        election: Election,
        receivers: tuple[BrokerId, ...],
        reason: str,
    ) -> Change:
        new = self._next(state, election.leader, election.isr)
        if election.unclean:
            new = attrs.evolve(new, recovering=True)
            reason = f"unclean {reason}"
        return Change(new, receivers, reason, election)

    def _do(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _trouble(self, message: str) -> None:
        self._do(NoteTrouble(message))

    def _flush(self) -> None:
        self._effects.extend(self._announcements.flush())

    # Invariants.

    def check(self) -> None:
        """Assert the laws that can be seen between two steps."""
        assert (self._procedure is None) == (self._awaiting is None)
        self.context.check()


def new_topic_id(rng: random.Random) -> uuid.UUID:
    """A random topic id that may stand in a znode."""
    while True:
        candidate = uuid.UUID(int=rng.getrandbits(128), version=4)
        if is_valid_topic_id(candidate):
            return candidate


def _same_content(stored: PartitionState, wanted: PartitionState) -> bool:
    """Whether the stored state is the one we meant to write (its version aside)."""
    return attrs.evolve(stored, partition_epoch=wanted.partition_epoch) == wanted


def _no_election(error: ErrorCode) -> ElectionResult:
    return ElectionResult(error, NO_LEADER, -1)


def _nothing() -> Procedure[Mapping[TopicPartition, PartitionState]]:
    yield from ()
    return {}
