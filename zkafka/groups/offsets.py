"""What one group has committed, and what of it may be forgotten.

A fold over the log: `replay` is told each record of the group in log order, and what is held is
what those records amount to. Nobody writes here otherwise, so what a group reads back is what a
new coordinator would find.

A transactional commit stays aside until its transaction ends: committed, it counts as if written
where its record lies, so that of two commits the one further down the log wins; aborted, it never
happened.

Holds: `committed[tp].log_offset` is the largest log offset of a commit of `tp` that counts.

Expiry (KIP-211): a commit that names its own expiry goes by that; otherwise it lives for the
retention time from a moment that depends on the group (`expired`).

Source: `GroupMetadata` of Apache Kafka 3.9; KIP-98, KIP-211, KIP-496.
"""

from collections.abc import Collection, Iterator

import attrs

from zkafka.groups.records import CONSUMER_PROTOCOL, NO_TIMESTAMP, STRING_LIMIT, OffsetValue
from zkafka.model import NO_PRODUCER, Offset, ProducerId, TopicPartition


@attrs.frozen
class CommittedOffset:
    """One commit that counts. `log_offset` is where its record lies in `__consumer_offsets`."""

    value: OffsetValue
    log_offset: Offset


@attrs.frozen(kw_only=True)
class GroupLife:
    """What expiry must know of the group whose offsets they are.

    `protocol_type` is None for a group that never had members (a simple consumer's).
    `empty_since_ms` is wall time, None while there are members or where it is not known.
    `subscribed_topics` is None where subscriptions cannot be read.
    """

    is_empty: bool
    is_stable: bool
    protocol_type: str | None
    empty_since_ms: int | None = None
    subscribed_topics: frozenset[str] | None = None


class CommittedOffsets:
    """The committed offsets of one group."""

    def __init__(self) -> None:
        self._committed: dict[TopicPartition, CommittedOffset] = {}
        self._pending: dict[ProducerId, dict[TopicPartition, CommittedOffset]] = {}

    def __len__(self) -> int:
        return len(self._committed)

    def __bool__(self) -> bool:
        """Whether anything is held, undecided transactions included."""
        return bool(self._committed or self._pending)

    def __iter__(self) -> Iterator[TopicPartition]:
        return iter(self._committed)

    def get(self, tp: TopicPartition) -> OffsetValue | None:
        """What the group committed for the partition."""
        committed = self._committed.get(tp)
        return None if committed is None else committed.value

    def is_pending(self, tp: TopicPartition) -> bool:
        """Whether an undecided transaction may change the partition's offset."""
        return any(tp in commits for commits in self._pending.values())

    @property
    def has_transactions(self) -> bool:
        """Whether a transaction with commits of this group is undecided."""
        return bool(self._pending)

    def partitions(self) -> list[TopicPartition]:
        """All partitions with an offset, committed or undecided, in order."""
        return sorted({*self._committed, *(tp for c in self._pending.values() for tp in c)})

    def replay(
        self,
        tp: TopicPartition,
        value: OffsetValue | None,
        log_offset: Offset,
        producer_id: ProducerId = NO_PRODUCER,
    ) -> None:
        """The log says `value` (None: a tombstone) for the partition at `log_offset`.

        `producer_id` is given for a record of a transaction, which waits for its end.
        """
        if producer_id != NO_PRODUCER and value is not None:
            self._pending.setdefault(producer_id, {})[tp] = CommittedOffset(value, log_offset)
        elif value is None:
            self._committed.pop(tp, None)
            # A deletion also takes what an open transaction was about to write, as in Kafka.
            for producer in sorted(self._pending):
                self._pending[producer].pop(tp, None)
                if not self._pending[producer]:
                    del self._pending[producer]
        else:
            self._keep(tp, CommittedOffset(value, log_offset))

    def end_transaction(self, producer_id: ProducerId, *, committed: bool) -> None:
        """The log says how the producer's transaction ended; without one here nothing happens."""
        for tp, commit in self._pending.pop(producer_id, {}).items():
            if committed:
                self._keep(tp, commit)

    def _keep(self, tp: TopicPartition, commit: CommittedOffset) -> None:
        held = self._committed.get(tp)
        if held is None or held.log_offset < commit.log_offset:
            self._committed[tp] = commit

    def of_topics(self, topics: Collection[str]) -> list[TopicPartition]:
        """The partitions of those topics that have an offset, committed or undecided, in order."""
        return [tp for tp in self.partitions() if tp.topic in topics]

    def expired(
        self,
        group: GroupLife,
        *,
        now_ms: int,
        retention_ms: int,
        busy: Collection[TopicPartition] = (),
    ) -> list[TopicPartition]:
        """The partitions whose offset may be forgotten at wall time `now_ms`, in order.

        - A group that never had members: from the commit on.
        - An empty group: from when it became empty (from the commit, where that is not known).
        - A stable group of consumers: from the commit on, and only topics nobody subscribes to.
        - Any other: nothing expires.

        `busy` partitions have a newer commit on its way to the log: a tombstone written now would
        follow it there and undo it, so they stay.
        """
        subscribed: frozenset[str] = frozenset()
        since: int | None = None
        if group.protocol_type is None:
            pass
        elif group.is_empty:
            since = group.empty_since_ms
        elif group.is_stable and group.protocol_type == CONSUMER_PROTOCOL:
            if group.subscribed_topics is None:
                return []
            subscribed = group.subscribed_topics
        else:
            return []
        return [
            tp
            for tp, commit in sorted(self._committed.items(), key=_by_partition)
            if tp.topic not in subscribed
            and tp not in busy
            and _is_over(commit.value, since, now_ms, retention_ms)
        ]

    def check(self) -> None:
        """Assert what the module promises."""
        for tp, commit in self._committed.items():
            assert commit.log_offset >= 0, f"{tp} committed nowhere"
        assert all(self._pending.values()), "a transaction without commits"


def _by_partition(item: tuple[TopicPartition, CommittedOffset]) -> TopicPartition:
    return item[0]


def _is_over(value: OffsetValue, since: int | None, now_ms: int, retention_ms: int) -> bool:
    if value.expire_timestamp != NO_TIMESTAMP:
        return now_ms >= value.expire_timestamp
    return now_ms - (value.commit_timestamp if since is None else since) >= retention_ms


def metadata_fits(metadata: str | None, limit: int) -> bool:
    """Whether a commit's metadata is within offset.metadata.max.bytes.

    Kafka counts characters there, and so do we; the record's own limit is in bytes.
    """
    if metadata is None:
        return True
    return len(metadata) <= limit and len(metadata.encode()) <= STRING_LIMIT
