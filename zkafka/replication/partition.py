"""One replica of one partition: its role, its epochs, its offsets, and, leading, its in-sync set.

Laws
----

- `log_start_offset <= high_watermark <= log_end_offset`. (The log start may be moved up to the high
  watermark, never beyond; a log that restarts at its leader's start takes the mark with it.)
- Within a leader epoch the high watermark does not go back. A truncation takes it along; none below
  it happens unless an unclean election already lost what was acknowledged.
- A leader's high watermark is at most the log end of each member of its *maximal* ISR.
- The leader epoch never goes back. What speaks of an older one is refused, what speaks of this one
  again is ignored.
- A leader is a member of its own ISR, committed and maximal.
- At most one change of the ISR is in flight. It names the partition epoch it depends on, so that of
  two changes made from the same state one fails.

Roles
-----

    WAITING    hosted, but the controller has not said what to be (or said to stop)
    LEADER     takes writes; knows each follower's progress
    FOLLOWER   copies `leader`; knows its leader's high watermark. `leader` may be -1: nobody leads
    OFFLINE    its log directory failed; it takes no other role in this process

      WAITING -> LEADER <-> FOLLOWER      by BecameLeader, BecameFollower, each with a higher epoch
      LEADER, FOLLOWER -> WAITING         by ReplicaStopped
      any -> OFFLINE                      by StorageFailed

The in-sync set
---------------

    CommittedIsr                 as ZooKeeper has it
    PendingExpand                one follower is to join; proposed, not answered
    PendingShrink                some are to leave; proposed, not answered

Until the controller answers, either of the old and the new set may be the committed one, and the
next leader may come from either. So whoever may be in it must have a record before it counts as
committed: the high watermark waits for the union, which is the *maximal* ISR. Whether there are
enough replicas to accept a write at all is judged by the set known to be committed (KIP-497).

The high watermark further waits for a follower that is about to join, caught up and alive: else it
could run ahead of the joiner for ever. And it stands still while the committed ISR is smaller than
min.insync.replicas, so that what is visible to consumers is always that safe (KIP-966's first part,
in Kafka from 3.9).

Difference from Kafka: a follower's high watermark does not go back when a new leader, not yet told
by its followers how far they are, reports a smaller one than the old leader did. What was committed
stays committed.

Sources: KIP-101, KIP-279, KIP-320, KIP-497, KIP-704 (recovery state), KIP-966; Kafka's `Partition`.
"""

import collections
import enum
from collections.abc import Container, Sequence
from typing import NamedTuple, TypeAlias, assert_never

import attrs

from zkafka.errors import ErrorCode
from zkafka.model import (
    NO_EPOCH,
    NO_LEADER,
    NO_OFFSET,
    BrokerEpoch,
    BrokerId,
    LeaderEpoch,
    Offset,
    PartitionEpoch,
    TopicPartition,
)
from zkafka.replication.progress import Progress

LIFE_EVENTS = 32
"""How many events of its life a replica remembers. Only those that change role or ISR are kept: a
broker hosts thousands of replicas, and their appends are in their logs."""


class Role(enum.Enum):
    """What this broker is to the partition."""

    WAITING = "waiting"
    LEADER = "leader"
    FOLLOWER = "follower"
    OFFLINE = "offline"


# ------------------------------------------------------------------------------- in-sync sets


@attrs.frozen
class CommittedIsr:
    """The in-sync set as the controller last confirmed it."""

    committed: frozenset[BrokerId]

    @property
    def maximal(self) -> frozenset[BrokerId]:
        return self.committed


@attrs.frozen
class PendingExpand:
    """`joining` is to become a member; the answer is outstanding.

    `joining_epoch` is the registration that was caught up. A later one of the same broker may have
    lost what this one had, so it must not join in its name, however late the proposal arrives.
    """

    committed: frozenset[BrokerId]
    joining: BrokerId
    joining_epoch: BrokerEpoch = NO_EPOCH

    @property
    def maximal(self) -> frozenset[BrokerId]:
        return self.committed | {self.joining}

    @property
    def proposed(self) -> frozenset[BrokerId]:
        return self.committed | {self.joining}


@attrs.frozen
class PendingShrink:
    """`leaving` are to be members no longer; the answer is outstanding."""

    committed: frozenset[BrokerId]
    leaving: frozenset[BrokerId]

    @property
    def maximal(self) -> frozenset[BrokerId]:
        return self.committed

    @property
    def proposed(self) -> frozenset[BrokerId]:
        return self.committed - self.leaving


PendingIsr: TypeAlias = PendingExpand | PendingShrink
InSyncSet: TypeAlias = CommittedIsr | PendingIsr


# ------------------------------------------------------------------------------------- events
#
# Three of them are named tuples: they come with every append and every fetch, and cost a third.


@attrs.frozen(kw_only=True)
class Assignment:
    """What the controller decided, as a LeaderAndIsr brings it."""

    leader: BrokerId
    leader_epoch: LeaderEpoch
    partition_epoch: PartitionEpoch
    isr: tuple[BrokerId, ...]
    replicas: tuple[BrokerId, ...]
    adding: tuple[BrokerId, ...] = ()
    """Those of `replicas` that a reassignment is adding (KIP-455)."""
    recovering: bool = False


@attrs.frozen
class BecameLeader:
    """The controller made this replica the leader. `alive` are the brokers it counts as living."""

    assignment: Assignment
    alive: Container[BrokerId]


@attrs.frozen
class BecameFollower:
    """The controller named another leader, or none."""

    assignment: Assignment


@attrs.frozen
class ReplicaStopped:
    """The controller sent StopReplica, in this epoch or with none."""


@attrs.frozen
class StorageFailed:
    """The log directory went offline."""


class LogAppended(NamedTuple):
    """Records were appended, here as leader or as follower; the log ends at `log_end_offset`."""

    log_end_offset: Offset
    alive: Container[BrokerId] = ()


@attrs.frozen
class LogTruncated:
    """The log was cut, or restarted elsewhere; it spans these offsets now."""

    log_start_offset: Offset
    log_end_offset: Offset


@attrs.frozen
class LogStartAdvanced:
    """Records before `log_start_offset` are gone: by retention, DeleteRecords or our leader."""

    log_start_offset: Offset


class FollowerFetched(NamedTuple):
    """A follower asked for records from `offset`, so it has everything below.

    `may_propose` is false while nothing may be proposed to the controller.
    """

    replica: BrokerId
    offset: Offset
    log_start_offset: Offset
    broker_epoch: BrokerEpoch
    alive: Container[BrokerId]
    may_propose: bool = True


class LeaderReported(NamedTuple):
    """Our leader, in its answer to a fetch, told its high watermark."""

    high_watermark: Offset


@attrs.frozen
class LagChecked:
    """It is time to look for followers that fell behind."""

    alive: Container[BrokerId]
    may_propose: bool = True


@attrs.frozen
class IsrConfirmed:
    """The controller answered `proposal` with the state it committed."""

    proposal: PendingIsr
    leader_epoch: LeaderEpoch
    partition_epoch: PartitionEpoch
    isr: frozenset[BrokerId]
    recovering: bool
    alive: Container[BrokerId]


@attrs.frozen
class IsrRefused:
    """The controller did not carry out `proposal`."""

    proposal: PendingIsr
    leader_epoch: LeaderEpoch
    error: ErrorCode


@attrs.frozen
class MinIsrChanged:
    """The topic's min.insync.replicas was set."""

    min_insync_replicas: int
    alive: Container[BrokerId]


Event: TypeAlias = (
    LogAppended
    | FollowerFetched
    | LeaderReported
    | LogStartAdvanced
    | LagChecked
    | BecameLeader
    | BecameFollower
    | ReplicaStopped
    | StorageFailed
    | LogTruncated
    | IsrConfirmed
    | IsrRefused
    | MinIsrChanged
)


# ------------------------------------------------------------------------------------ effects


@attrs.frozen
class AdvanceHighWatermark:
    """The high watermark rose to `high_watermark`: wake those who wait for it."""

    high_watermark: Offset


@attrs.frozen
class AdvanceLowWatermark:
    """Replicas' log starts moved: wake those who wait for deletions."""


@attrs.frozen
class ProposeIsr:
    """Ask the controller to commit `proposal.proposed`, if the partition is still at this epoch."""

    proposal: PendingIsr
    leader_epoch: LeaderEpoch
    partition_epoch: PartitionEpoch


@attrs.frozen
class AssignEpoch:
    """Note in the log's epoch cache that this leader's records begin at `start_offset`."""

    leader_epoch: LeaderEpoch
    start_offset: Offset


@attrs.frozen
class StartFollowing:
    """Fetch from `leader` in this epoch, in place of whatever was followed before."""

    leader: BrokerId
    leader_epoch: LeaderEpoch


@attrs.frozen
class StopFollowing:
    """Fetch no more."""


@attrs.frozen
class IsrChanged:
    """The controller committed another ISR; for the log and the counters."""

    before: frozenset[BrokerId]
    after: frozenset[BrokerId]
    partition_epoch: PartitionEpoch


@attrs.frozen
class IsrUpdateFailed:
    """A proposal came to nothing; for the log and counters."""

    error: ErrorCode


Effect: TypeAlias = (
    AdvanceHighWatermark
    | AdvanceLowWatermark
    | ProposeIsr
    | AssignEpoch
    | StartFollowing
    | StopFollowing
    | IsrChanged
    | IsrUpdateFailed
)

_NOTHING: list[Effect] = []
"""Answered by the steps of the hot path that have no effect; nobody changes what `step` returns."""

_TAKEN_BACK = frozenset({ErrorCode.OPERATION_NOT_ATTEMPTED, ErrorCode.INELIGIBLE_REPLICA})
"""The controller says that it did not try: the committed set is what it was."""

_SUPERSEDED = frozenset(
    {
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.INVALID_UPDATE_VERSION,
        ErrorCode.INVALID_REQUEST,
    }
)
"""The controller knows something newer and will tell by LeaderAndIsr. Until then we cannot know
which set is committed, so the proposal stays pending, and the larger set counts."""


# ------------------------------------------------------------------------------------ machine


class Partition:
    """The machine of one replica; `step` is the only entrance."""

    __slots__ = (
        "_adding",
        "_broker_id",
        "_effective_min_isr",
        "_epoch_start_offset",
        "_high_watermark",
        "_isr",
        "_lag_time_max_ms",
        "_leader",
        "_leader_epoch",
        "_leading_since",
        "_life",
        "_log_end_offset",
        "_log_start_offset",
        "_min_insync_replicas",
        "_partition_epoch",
        "_progress",
        "_recovering",
        "_replicas",
        "_role",
        "topic_partition",
    )

    def __init__(
        self,
        topic_partition: TopicPartition,
        broker_id: BrokerId,
        *,
        log_start_offset: Offset,
        log_end_offset: Offset,
        high_watermark: Offset = 0,
        min_insync_replicas: int = 1,
        lag_time_max_ms: int = 30_000,
    ) -> None:
        """`high_watermark` is the checkpoint's, or 0; it is brought between the log's ends."""
        assert log_start_offset <= log_end_offset
        self.topic_partition = topic_partition
        self._broker_id = broker_id
        self._lag_time_max_ms = lag_time_max_ms
        self._min_insync_replicas = min_insync_replicas
        self._effective_min_isr = 0
        self._log_start_offset = log_start_offset
        self._log_end_offset = log_end_offset
        self._high_watermark = min(max(high_watermark, log_start_offset), log_end_offset)
        self._role = Role.WAITING
        self._leader: BrokerId = NO_LEADER
        self._leader_epoch: LeaderEpoch = NO_EPOCH
        self._partition_epoch: PartitionEpoch = NO_EPOCH
        self._leading_since: LeaderEpoch = NO_EPOCH
        self._epoch_start_offset: Offset = NO_OFFSET
        self._replicas: tuple[BrokerId, ...] = ()
        self._adding: tuple[BrokerId, ...] = ()
        self._isr: InSyncSet = CommittedIsr(frozenset())
        self._recovering = False
        self._progress: dict[BrokerId, Progress] = {}
        self._life: collections.deque[tuple[int, Event]] = collections.deque(maxlen=LIFE_EVENTS)

    # Reading.

    @property
    def role(self) -> Role:
        return self._role

    @property
    def is_leader(self) -> bool:
        return self._role is Role.LEADER

    @property
    def leader(self) -> BrokerId:
        """Who leads as far as we were told; NO_LEADER where nobody, or we were not."""
        return self._leader

    @property
    def leader_epoch(self) -> LeaderEpoch:
        return self._leader_epoch

    @property
    def leading_since(self) -> LeaderEpoch:
        """The first epoch of this unbroken leadership. What was appended in it or later is still in
        the log, at the same offsets."""
        return self._leading_since

    @property
    def partition_epoch(self) -> PartitionEpoch:
        return self._partition_epoch

    @property
    def epoch_start_offset(self) -> Offset:
        """Leading: where this epoch's records begin."""
        return self._epoch_start_offset

    @property
    def replicas(self) -> tuple[BrokerId, ...]:
        """All assigned replicas, preferred first; empty until the first role."""
        return self._replicas

    @property
    def in_sync_set(self) -> InSyncSet:
        """Leading: the ISR and what is being made of it."""
        return self._isr

    @property
    def recovering(self) -> bool:
        """Whether the controller still counts the leader as elected uncleanly."""
        return self._recovering

    @property
    def log_start_offset(self) -> Offset:
        return self._log_start_offset

    @property
    def log_end_offset(self) -> Offset:
        return self._log_end_offset

    @property
    def high_watermark(self) -> Offset:
        return self._high_watermark

    @property
    def effective_min_isr(self) -> int:
        """min.insync.replicas, or all replicas where there are fewer."""
        return self._effective_min_isr

    @property
    def has_enough_in_sync(self) -> bool:
        """Leading: whether a write with acks=all may be accepted."""
        return len(self._isr.committed) >= self._effective_min_isr

    @property
    def is_at_min_isr(self) -> bool:
        """Leading, with just enough in sync: one less, and acks=all is refused."""
        enough = len(self._isr.committed) == self.effective_min_isr
        return self._role is Role.LEADER and enough

    @property
    def is_under_replicated(self) -> bool:
        """Leading, with replicas out of sync; those being added are not missed yet."""
        expected = len(self._replicas) - len(self._adding)
        return self._role is Role.LEADER and len(self._isr.committed) < expected

    @property
    def is_reassigning(self) -> bool:
        """Leading, while a reassignment adds replicas."""
        return self._role is Role.LEADER and bool(self._adding)

    def low_watermark(self, alive: Container[BrokerId]) -> Offset:
        """Leading: the smallest log start among us and the followers alive; a living one not heard
        of yet counts as still having everything."""
        low = self._log_start_offset
        for broker, progress in self._progress.items():
            if broker in alive:
                low = min(low, max(progress.log_start_offset, 0))
        return low

    @property
    def progress(self) -> Sequence[Progress]:
        """Leading: what is known of each follower, by broker id. Read only."""
        return [self._progress[broker] for broker in sorted(self._progress)]

    def progress_of(self, replica: BrokerId) -> Progress | None:
        """Leading: what is known of one follower; None for somebody without a replica."""
        return self._progress.get(replica)

    @property
    def life(self) -> Sequence[tuple[int, Event]]:
        """The last changes of role and ISR, with their times, for the crash report."""
        return tuple(self._life)

    # The entrance.

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """Take note of what happened; answer what is to be done about it, in this order.

        `now_ms` is monotonic. The returned list is not to be changed.
        """
        match event:
            case LogAppended():
                return self._on_log_appended(event, now_ms)
            case FollowerFetched():
                return self._on_follower_fetched(event, now_ms)
            case LeaderReported():
                return self._on_leader_reported(event)
            case LogStartAdvanced():
                return self._on_log_start_advanced(event)
            case LagChecked():
                return self._on_lag_checked(event, now_ms)
        self._life.append((now_ms, event))
        match event:
            case BecameLeader():
                return self._on_became_leader(event, now_ms)
            case BecameFollower():
                return self._on_became_follower(event)
            case ReplicaStopped():
                return self._on_replica_stopped()
            case StorageFailed():
                return self._on_storage_failed()
            case LogTruncated():
                return self._on_log_truncated(event)
            case IsrConfirmed():
                return self._on_isr_confirmed(event, now_ms)
            case IsrRefused():
                return self._on_isr_refused(event)
            case MinIsrChanged():
                return self._on_min_isr_changed(event, now_ms)
            case _:
                assert_never(event)

    # Roles.

    def _on_became_leader(self, event: BecameLeader, now_ms: int) -> list[Effect]:
        assignment = event.assignment
        assert assignment.leader == self._broker_id, "another's leadership"
        was_leader = self._role is Role.LEADER
        was_follower = self._role is Role.FOLLOWER
        # With an epoch in between somebody else may have led, and followers may have truncated.
        nobody_between = was_leader and assignment.leader_epoch == self._leader_epoch + 1
        self._take(assignment)
        self._role = Role.LEADER
        if not was_leader:
            self._leading_since = assignment.leader_epoch
        self._epoch_start_offset = self._log_end_offset
        self._isr = CommittedIsr(frozenset(assignment.isr) | {self._broker_id})
        # An unclean election's new leader has recovered by leading: its next proposal says so.
        self._recovering = False
        # In ISR order too, in case the controller names one that is not assigned (any more).
        others = dict.fromkeys(
            b for b in (*assignment.replicas, *assignment.isr) if b != self._broker_id
        )
        known = self._progress
        self._progress = {}
        for broker in others:
            progress = known.get(broker) or Progress(broker)
            progress.start_epoch(
                in_sync=broker in self._isr.committed,
                new_leader=not nobody_between,
                leader_end_offset=self._log_end_offset,
                now_ms=now_ms,
            )
            self._progress[broker] = progress
        effects: list[Effect] = [StopFollowing()] if was_follower else []
        effects.append(AssignEpoch(self._leader_epoch, self._epoch_start_offset))
        effects += self._raise_high_watermark(event.alive, now_ms)
        return effects

    def _on_became_follower(self, event: BecameFollower) -> list[Effect]:
        assignment = event.assignment
        assert assignment.leader != self._broker_id, "our own leadership"
        self._take(assignment)
        was_follower = self._role is Role.FOLLOWER
        self._role = Role.FOLLOWER
        self._forget_leadership()
        self._recovering = assignment.recovering
        if assignment.leader != NO_LEADER:
            return [StartFollowing(assignment.leader, assignment.leader_epoch)]
        return [StopFollowing()] if was_follower else []

    def _take(self, assignment: Assignment) -> None:
        assert self._role is not Role.OFFLINE, "an offline replica takes no role"
        assert assignment.leader_epoch > self._leader_epoch, "an old epoch must be refused before"
        assert assignment.partition_epoch >= self._partition_epoch, "an older state"
        assert self._broker_id in assignment.replicas, "not our replica"
        self._leader = assignment.leader
        self._leader_epoch = assignment.leader_epoch
        self._partition_epoch = assignment.partition_epoch
        self._replicas = assignment.replicas
        self._effective_min_isr = min(self._min_insync_replicas, len(self._replicas))
        self._adding = assignment.adding

    def _on_replica_stopped(self) -> list[Effect]:
        was_follower = self._role is Role.FOLLOWER
        if self._role is not Role.OFFLINE:
            self._role = Role.WAITING
        # The epoch is kept: what made us a replica then must not do so again.
        self._leader = NO_LEADER
        self._forget_leadership()
        return [StopFollowing()] if was_follower else []

    def _on_storage_failed(self) -> list[Effect]:
        was_follower = self._role is Role.FOLLOWER
        self._role = Role.OFFLINE
        self._forget_leadership()
        return [StopFollowing()] if was_follower else []

    def _forget_leadership(self) -> None:
        self._isr = CommittedIsr(frozenset())
        self._progress = {}
        self._leading_since = NO_EPOCH
        self._epoch_start_offset = NO_OFFSET

    # The log.

    def _on_log_appended(self, event: LogAppended, now_ms: int) -> list[Effect]:
        before = self._log_end_offset
        assert event.log_end_offset >= before, "an append does not shorten"
        self._log_end_offset = event.log_end_offset
        if self._role is Role.LEADER:
            for progress in self._progress.values():
                if progress.log_end_offset == before and progress.fetched_ms is not None:
                    # Until this moment it had all there was, however long ago it said so: of a
                    # quiet partition a fetch session need not ask again. But one that left the ISR
                    # and has not fetched since, as a broker does that is shutting down, is not
                    # about to join: nobody waits for it.
                    progress.caught_up_ms = now_ms
            return self._raise_high_watermark(event.alive, now_ms)
        return _NOTHING

    def _on_log_truncated(self, event: LogTruncated) -> list[Effect]:
        assert self._role is not Role.LEADER, "a leader does not truncate"
        assert event.log_start_offset <= event.log_end_offset
        self._log_start_offset = event.log_start_offset
        self._log_end_offset = event.log_end_offset
        # Restarted further on, the log's start is above the mark: the leader had deleted up to
        # there, which it does only below its own high watermark.
        mark = max(self._high_watermark, event.log_start_offset)
        self._high_watermark = min(mark, event.log_end_offset)
        return _NOTHING

    def _on_log_start_advanced(self, event: LogStartAdvanced) -> list[Effect]:
        assert event.log_start_offset <= self._log_end_offset, "a log starts before its end"
        if event.log_start_offset <= self._log_start_offset:
            return _NOTHING
        self._log_start_offset = event.log_start_offset
        effects: list[Effect] = [AdvanceLowWatermark()]
        if self._high_watermark < event.log_start_offset:
            # Only on a follower: it learns of both from its leader, of the start first.
            assert self._role is not Role.LEADER, "a leader deletes below its high watermark"
            self._high_watermark = event.log_start_offset
            effects.append(AdvanceHighWatermark(self._high_watermark))
        return effects

    # Following.

    def _on_leader_reported(self, event: LeaderReported) -> list[Effect]:
        assert self._role is Role.FOLLOWER, "only a follower has a leader"
        mark = min(event.high_watermark, self._log_end_offset)
        if mark <= self._high_watermark:
            return _NOTHING
        self._high_watermark = mark
        return [AdvanceHighWatermark(mark)]

    # Leading.

    def _on_follower_fetched(self, event: FollowerFetched, now_ms: int) -> list[Effect]:
        assert self._role is Role.LEADER, "only a leader is fetched from by followers"
        progress = self._progress[event.replica]
        moved = progress.log_end_offset != event.offset
        start_moved = progress.log_start_offset != event.log_start_offset
        progress.fetched(
            event.offset, event.log_start_offset, self._log_end_offset, event.broker_epoch, now_ms
        )
        isr = self._isr
        if not moved and not start_moved and event.replica in isr.committed:
            return _NOTHING  # A quiet partition's fetch, which is most of them.
        effects: list[Effect] = [AdvanceLowWatermark()] if start_moved else []
        if (
            event.may_propose
            and isinstance(isr, CommittedIsr)
            and self._may_join(event.replica, event.alive)
        ):
            effects.append(
                self._propose(PendingExpand(isr.committed, event.replica, progress.broker_epoch))
            )
        if moved:
            effects += self._raise_high_watermark(event.alive, now_ms)
        return effects

    def _may_join(self, replica: BrokerId, alive: Container[BrokerId]) -> bool:
        """Whether a replica outside the ISR has what it takes to be in it."""
        offset = self._progress[replica].log_end_offset
        return (
            replica not in self._isr.committed
            and replica in alive
            and offset >= self._high_watermark
            and offset >= self._epoch_start_offset
        )

    def _on_lag_checked(self, event: LagChecked, now_ms: int) -> list[Effect]:
        if self._role is not Role.LEADER:
            return _NOTHING
        isr = self._isr
        effects: list[Effect] = []
        if event.may_propose and isinstance(isr, CommittedIsr):
            behind = frozenset(
                broker
                for broker in isr.committed
                if broker != self._broker_id
                and not self._progress[broker].is_caught_up(
                    self._log_end_offset, now_ms, self._lag_time_max_ms
                )
            )
            if behind:
                effects.append(self._propose(PendingShrink(isr.committed, behind)))
        # Time alone may raise the mark: it no longer waits for a joiner that fell back or died.
        effects += self._raise_high_watermark(event.alive, now_ms)
        return effects

    def _propose(self, proposal: PendingIsr) -> ProposeIsr:
        assert isinstance(self._isr, CommittedIsr), "one change at a time"
        assert self._broker_id in proposal.proposed, "a leader does not propose itself away"
        self._isr = proposal
        return ProposeIsr(proposal, self._leader_epoch, self._partition_epoch)

    def _is_outdated(self, event: IsrConfirmed | IsrRefused) -> bool:
        """Whether roles or ISR moved on since the proposal: its answer means nothing any more."""
        return (
            self._role is not Role.LEADER
            or event.leader_epoch != self._leader_epoch
            or self._isr is not event.proposal
        )

    def _on_isr_confirmed(self, event: IsrConfirmed, now_ms: int) -> list[Effect]:
        if self._is_outdated(event) or event.partition_epoch < self._partition_epoch:
            return _NOTHING
        assert self._broker_id in event.isr, "the controller left the leader in its ISR"
        # An equal epoch is a proposal of what was committed already: nothing was written.
        before = self._isr.committed
        self._isr = CommittedIsr(event.isr)
        self._partition_epoch = event.partition_epoch
        self._recovering = event.recovering
        for broker in event.isr:
            if broker != self._broker_id and broker not in self._progress:
                self._progress[broker] = Progress(broker)
        effects: list[Effect] = [IsrChanged(before, event.isr, event.partition_epoch)]
        # One that fetched while this change was on its way could not be proposed then, and on a
        # quiet partition says nothing new for seconds: its fetches do not even name the partition.
        for replica, progress in sorted(self._progress.items()):
            caught_up = progress.is_caught_up(self._log_end_offset, now_ms, self._lag_time_max_ms)
            if (
                caught_up
                and progress.fetched_ms is not None
                and self._may_join(replica, event.alive)
            ):
                expand = PendingExpand(event.isr, replica, progress.broker_epoch)
                effects.append(self._propose(expand))
                break
        return effects + self._raise_high_watermark(event.alive, now_ms)

    def _on_isr_refused(self, event: IsrRefused) -> list[Effect]:
        if self._is_outdated(event):
            return _NOTHING
        assert isinstance(event.proposal, PendingExpand | PendingShrink)
        if event.error in _TAKEN_BACK:
            self._isr = CommittedIsr(event.proposal.committed)
            return [IsrUpdateFailed(event.error)]
        if event.error in _SUPERSEDED:
            return [IsrUpdateFailed(event.error)]
        return [ProposeIsr(event.proposal, self._leader_epoch, self._partition_epoch)]

    def _on_min_isr_changed(self, event: MinIsrChanged, now_ms: int) -> list[Effect]:
        self._min_insync_replicas = event.min_insync_replicas
        self._effective_min_isr = min(self._min_insync_replicas, len(self._replicas))
        if self._role is Role.LEADER:
            return self._raise_high_watermark(event.alive, now_ms)
        return _NOTHING

    def _raise_high_watermark(self, alive: Container[BrokerId], now_ms: int) -> list[Effect]:
        """The high watermark, as far up as the law lets it."""
        isr = self._isr
        if len(isr.committed) < self._effective_min_isr:
            return _NOTHING
        end = candidate = self._log_end_offset
        if self._progress:
            maximal = isr.maximal
            for broker, progress in self._progress.items():
                if progress.log_end_offset < candidate and (
                    broker in maximal
                    or (
                        broker in alive
                        and progress.is_caught_up(end, now_ms, self._lag_time_max_ms)
                    )
                ):
                    candidate = progress.log_end_offset
        if candidate <= self._high_watermark:
            return _NOTHING
        self._high_watermark = candidate
        return [AdvanceHighWatermark(candidate)]

    # Checking.

    def check(self) -> None:
        """Assert the laws; costs a look at each follower."""
        assert self._log_start_offset <= self._high_watermark, "high watermark below the log start"
        assert self._high_watermark <= self._log_end_offset, "high watermark beyond the log end"
        isr = self._isr
        assert isr.committed <= isr.maximal
        if self._role is Role.LEADER:
            assert self._leader == self._broker_id
            assert self._broker_id in isr.committed, "the leader left its own ISR"
            assert self._leader_epoch >= self._leading_since > NO_EPOCH
            assert 0 <= self._epoch_start_offset <= self._log_end_offset
            assert self._broker_id not in self._progress
            for broker in isr.maximal - {self._broker_id}:
                assert broker in self._progress, "a member of the ISR without progress"
        else:
            assert not self._progress, "progress is the leader's to know"
            assert isr == CommittedIsr(frozenset())
            assert self._leading_since == NO_EPOCH
            assert self._leader != self._broker_id or self._role is Role.OFFLINE
        for progress in self._progress.values():
            assert progress.log_end_offset <= self._log_end_offset, "a follower beyond its leader"
