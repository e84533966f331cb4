"""What a leader knows of each follower, and when it counts as caught up.

A follower says how far it is by the offset it fetches from: everything below is in its log. It is
caught up, at time `t`, if it asked for the leader's log end as it stood at its own previous fetch
or later; so a follower of a busy leader, which never sees the very end, still counts.

Laws:

- `caught_up_ms` never goes back within one leadership.
- A fetch of an older registration of the follower's broker than the newest seen is refused: that
  process is dead, and its successor may have lost what it promised.

Known weakness, as in Kafka: a follower that fetches often but gains nothing within
replica.lag.time.max.ms leaves the ISR only then.

Sources: KIP-16 (lag in time, not in messages), KIP-841 and KIP-966 (broker epochs of replicas),
Kafka's `Replica`.
"""

from zkafka.model import NO_EPOCH, NO_OFFSET, BrokerEpoch, BrokerId, Offset


class Progress:
    """One follower, as its leader sees it. Offsets are NO_OFFSET until its first fetch."""

    __slots__ = (
        "broker_epoch",
        "caught_up_ms",
        "fetched_ms",
        "leader_end_at_fetch",
        "log_end_offset",
        "log_start_offset",
        "replica",
    )

    def __init__(self, replica: BrokerId) -> None:
        self.replica = replica
        self.log_end_offset: Offset = NO_OFFSET
        self.log_start_offset: Offset = NO_OFFSET
        self.broker_epoch: BrokerEpoch = NO_EPOCH
        self.fetched_ms: int | None = None
        """When it fetched last; None before its first fetch in this leadership."""
        self.caught_up_ms: int | None = None
        """When it was last known to be caught up; None for not in this leadership."""
        self.leader_end_at_fetch: Offset = NO_OFFSET

    def is_stale(self, broker_epoch: BrokerEpoch) -> bool:
        """Whether a fetch with this epoch comes from a process that has been replaced."""
        return broker_epoch != NO_EPOCH and broker_epoch < self.broker_epoch

    def fetched(
        self,
        offset: Offset,
        log_start_offset: Offset,
        leader_end_offset: Offset,
        broker_epoch: BrokerEpoch,
        now_ms: int,
    ) -> None:
        """Take note of a fetch from `offset`, while our own log ends at `leader_end_offset`."""
        assert offset <= leader_end_offset, "a follower cannot have more than its leader"
        assert not self.is_stale(broker_epoch), "refused before"
        if offset >= leader_end_offset:
            self.caught_up_ms = now_ms
        elif self.fetched_ms is not None and offset >= self.leader_end_at_fetch:
            # It has by now all that there was when it asked before.
            self.caught_up_ms = max(self.fetched_ms, self.caught_up_ms or self.fetched_ms)
        self.log_end_offset = offset
        self.log_start_offset = log_start_offset
        self.leader_end_at_fetch = leader_end_offset
        self.fetched_ms = now_ms
        if broker_epoch != NO_EPOCH:
            self.broker_epoch = broker_epoch

    def is_caught_up(self, leader_end_offset: Offset, now_ms: int, lag_time_max_ms: int) -> bool:
        """Whether it may be, or stay, in the ISR: at our end, or there not long ago."""
        if self.log_end_offset == leader_end_offset:
            return True
        return self.caught_up_ms is not None and now_ms - self.caught_up_ms <= lag_time_max_ms

    def start_epoch(
        self, *, in_sync: bool, new_leader: bool, leader_end_offset: Offset, now_ms: int
    ) -> None:
        """We lead in a new epoch; with `new_leader` we did not lead before.

        Those in sync get the benefit of the doubt: they count as caught up now. What an earlier
        leadership of ours knew of offsets is forgotten, the follower may have truncated since.
        """
        self.caught_up_ms = now_ms if in_sync else None
        self.fetched_ms = now_ms if in_sync and not new_leader else None
        if new_leader:
            self.log_end_offset = NO_OFFSET
            self.log_start_offset = NO_OFFSET
            self.leader_end_at_fetch = NO_OFFSET
        else:
            self.leader_end_at_fetch = leader_end_offset

    def lag(self, leader_end_offset: Offset) -> int:
        """Offsets behind; all of them before the first fetch."""
        return leader_end_offset - max(self.log_end_offset, 0)
