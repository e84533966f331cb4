"""One partition of `__consumer_offsets`, and the groups and offsets that it amounts to.

Law: what `offsets` and `stored` hold is a fold, by `replay`, over the partition's log below its
high watermark, and over nothing else. A coordinator that has just loaded the partition and one that
has led it for a year hold the same. What is appended waits in `unreplicated`, in log order, until
the high watermark has passed it; so a commit is seen by others exactly when no failover can undo
it, also one whose client was told that it timed out.

The group machines in `groups` are the part of the state that is not in the log: who waits, whose
session runs until when. `finish_loading` makes them from what was read.

A step of this module is: state and request make entries for the log. Whoever drives it appends
them and says where they went (`appended`), and how far the replicas are (`apply`).

Source: the coordinator runtime of Apache Kafka 3.9 (`CoordinatorShard`), and its classic
coordinator's `GroupMetadataManager` for what is written when.
"""

import collections
import enum
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import attrs

from zkafka.groups.events import GroupState
from zkafka.groups.group import Group, GroupSettings
from zkafka.groups.offsets import CommittedOffsets, GroupLife
from zkafka.groups.records import (
    NO_TIMESTAMP,
    GroupKey,
    GroupValue,
    Key,
    OffsetKey,
    OffsetValue,
    Value,
)
from zkafka.model import (
    NO_PRODUCER,
    OFFSETS_TOPIC,
    LeaderEpoch,
    Offset,
    ProducerId,
    TopicPartition,
)


class Phase(enum.Enum):
    """What a shard may be asked."""

    LOADING = "loading"
    ACTIVE = "active"
    FAILED = "failed"
    """Its log could not be read; another leader must try."""


class Entry(NamedTuple):
    """One record for the log; a value of None is a tombstone."""

    key: Key
    value: Value | None


class EndedTransaction(NamedTuple):
    """What a marker says of a producer's commits that are undecided."""

    producer_id: ProducerId
    committed: bool


@attrs.frozen
class UnreplicatedWrite:
    """A batch that the replicas do not all have yet, as far as we know.

    Until `deadline_ms` (monotonic) somebody waits for it. It has entries, or is the marker of the
    transaction that `ended`.
    """

    base_offset: Offset
    entries: Sequence[Entry]
    deadline_ms: int
    ended: EndedTransaction | None = None

    @property
    def last_offset(self) -> Offset:
        """Where its last record lies."""
        return self.base_offset + max(len(self.entries), 1) - 1


@attrs.frozen
class Purge:
    """What to write in order to forget some offsets of a group; with `whole_group`, all of it."""

    group_id: str
    entries: Sequence[Entry]
    whole_group: bool

    @property
    def offset_count(self) -> int:
        """How many offsets it takes away."""
        return sum(isinstance(entry.key, OffsetKey) for entry in self.entries)


class Shard:
    """The groups of one partition that this broker leads."""

    def __init__(self, partition: int, leader_epoch: LeaderEpoch, settings: GroupSettings) -> None:
        self.partition = partition
        self.leader_epoch = leader_epoch
        self.phase = Phase.LOADING
        self.groups: dict[str, Group] = {}
        self.offsets: dict[str, CommittedOffsets] = {}
        self.stored: dict[str, GroupValue] = {}
        self.unreplicated: collections.deque[UnreplicatedWrite] = collections.deque()
        self.topics_deleted_meanwhile: set[str] = set()
        """Topics that went while this was loading: their offsets are purged afterwards."""
        self.alarms: dict[str, int] = {}
        """For the driver: until when it will look at a group again."""
        self._settings = settings
        self._empty_since: dict[str, int] = {}
        self._transactions: dict[ProducerId, set[str]] = {}
        """Groups with commits of a transaction that is not decided."""

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition whose log this is."""
        return TopicPartition(OFFSETS_TOPIC, self.partition)

    # The fold.

    def replay(
        self, entry: Entry, log_offset: Offset, producer_id: ProducerId = NO_PRODUCER
    ) -> None:
        """The log has `entry` at `log_offset`; with `producer_id`, as part of a transaction."""
        key, value = entry
        if isinstance(key, OffsetKey):
            assert value is None or isinstance(value, OffsetValue)
            offsets = self.offsets.setdefault(key.group, CommittedOffsets())
            offsets.replay(key.topic_partition, value, log_offset, producer_id)
            if producer_id != NO_PRODUCER:
                self._transactions.setdefault(producer_id, set()).add(key.group)
            if not offsets:
                del self.offsets[key.group]
        elif value is None:
            self.stored.pop(key.group, None)
        else:
            assert isinstance(value, GroupValue)
            self.stored[key.group] = value

    def end_transaction(self, producer_id: ProducerId, *, committed: bool) -> None:
        """The log has the end of a transaction."""
        for group_id in self._transactions.pop(producer_id, ()):
            offsets = self.offsets.get(group_id)
            if offsets is not None:
                offsets.end_transaction(producer_id, committed=committed)
                if not offsets:
                    del self.offsets[group_id]

    def appended(self, write: UnreplicatedWrite) -> None:
        """A batch went to the log."""
        assert bool(write.entries) is (write.ended is None)
        if self.unreplicated:
            assert self.unreplicated[-1].last_offset < write.base_offset, "not in log order"
        self.unreplicated.append(write)

    def apply(self, high_watermark: Offset) -> None:
        """Everything below `high_watermark` is on all in-sync replicas: it counts from now on."""
        while self.unreplicated and self.unreplicated[0].last_offset < high_watermark:
            write = self.unreplicated.popleft()
            if write.ended is not None:
                self.end_transaction(write.ended.producer_id, committed=write.ended.committed)
            for position, entry in enumerate(write.entries):
                self.replay(entry, write.base_offset + position)

    def finish_loading(self, now_ms: int) -> None:
        """The log has been read: make the groups of it, with fresh session timers."""
        assert self.phase is Phase.LOADING
        for group_id in sorted(self.stored.keys() | self.offsets.keys()):
            value = self.stored.get(group_id)
            if value is None:
                group = Group(group_id, self._settings)
            else:
                group = Group.from_value(group_id, value, self._settings, now_ms)
                since = value.current_state_timestamp
                if group.state is GroupState.EMPTY and since != NO_TIMESTAMP:
                    self._empty_since[group_id] = since
            self.groups[group_id] = group
        self.phase = Phase.ACTIVE

    # Groups.

    def create_group(self, group_id: str) -> Group:
        """A group that is not in the log."""
        assert group_id not in self.groups
        group = Group(group_id, self._settings)
        self.groups[group_id] = group
        return group

    def drop_group(self, group_id: str) -> None:
        """Its tombstone is on its way to the log, or there was nothing to write of it. What it
        committed goes when the tombstones are replicated."""
        del self.groups[group_id]
        self._empty_since.pop(group_id, None)

    def state_changed(self, group_id: str, state: GroupState, wall_ms: int) -> None:
        """Remember since when the group is empty."""
        if state is GroupState.EMPTY:
            self._empty_since[group_id] = wall_ms
        else:
            self._empty_since.pop(group_id, None)

    # Offsets.

    def committed(self, group_id: str, tp: TopicPartition) -> OffsetValue | None:
        """What the group committed for the partition."""
        offsets = self.offsets.get(group_id)
        return None if offsets is None else offsets.get(tp)

    def committed_partitions(self, group_id: str) -> list[TopicPartition]:
        """The partitions that the group has committed offsets of, in order."""
        return sorted(self.offsets.get(group_id, ()))

    def is_unstable(self, group_id: str, tp: TopicPartition, now_ms: int) -> bool:
        """Whether the partition's offset is about to change: a transaction is undecided, or a
        commit is on its way and its client still waits."""
        offsets = self.offsets.get(group_id)
        if offsets is not None and offsets.is_pending(tp):
            return True
        return any(
            entry.value is not None and entry.key.topic_partition == tp
            for write in self.unreplicated
            if now_ms < write.deadline_ms
            for entry in write.entries
            if isinstance(entry.key, OffsetKey) and entry.key.group == group_id
        )

    # Forgetting.

    def busy(self) -> dict[str, set[TopicPartition]]:
        """The partitions with a commit on its way to the replicas, by group; a group that is
        itself being written is listed too."""
        busy: dict[str, set[TopicPartition]] = {}
        for write in self.unreplicated:
            for entry in write.entries:
                partitions = busy.setdefault(entry.key.group, set())
                if isinstance(entry.key, OffsetKey) and entry.value is not None:
                    partitions.add(entry.key.topic_partition)
        return busy

    def purge_expired(self, wall_ms: int, retention_ms: int) -> Iterator[Purge]:
        """What has expired. A group that is empty and has nothing left goes as a whole."""
        busy = self.busy()
        for group_id in sorted(self.groups.keys() | self.offsets.keys()):
            group = self.groups.get(group_id)
            offsets = self.offsets.get(group_id, CommittedOffsets())
            expired = offsets.expired(
                self._life(group_id, group),
                now_ms=wall_ms,
                retention_ms=retention_ms,
                busy=busy.get(group_id, ()),
            )
            over = (
                group is not None
                and group.state is GroupState.EMPTY
                and not group.pending_members
                and len(offsets) == len(expired)
                and not offsets.has_transactions
                and group_id not in busy
            )
            if expired or over:
                yield self._purge(group_id, expired, whole_group=over)

    def purge_topics(self, topics: Collection[str]) -> Iterator[Purge]:
        """The offsets of topics that are no more, those on their way to the log included."""
        busy = self.busy()
        for group_id in sorted(self.offsets.keys() | busy.keys()):
            offsets = self.offsets.get(group_id)
            found = set() if offsets is None else set(offsets.of_topics(topics))
            found.update(tp for tp in busy.get(group_id, ()) if tp.topic in topics)
            if found:
                yield self._purge(group_id, found, whole_group=False)

    def purge_offsets(self, group_id: str, wanted: Collection[TopicPartition]) -> Purge:
        """Those of the wanted offsets that exist, or are on their way to the log."""
        known = self._known_partitions(group_id)
        return self._purge(group_id, known & set(wanted), whole_group=False)

    def purge_group(self, group_id: str) -> Purge:
        """All of the group, what is on its way to the log included."""
        return self._purge(group_id, self._known_partitions(group_id), whole_group=True)

    def _known_partitions(self, group_id: str) -> set[TopicPartition]:
        offsets = self.offsets.get(group_id)
        known = set() if offsets is None else set(offsets.partitions())
        return known | self.busy().get(group_id, set())

    def _purge(
        self, group_id: str, partitions: Collection[TopicPartition], *, whole_group: bool
    ) -> Purge:
        entries = [
            Entry(OffsetKey(group=group_id, topic=tp.topic, partition=tp.partition), None)
            for tp in sorted(partitions)
        ]
        if whole_group:
            group = self.groups.get(group_id)
            # A group that only ever kept offsets is not in the log itself.
            if group_id in self.stored or (group is not None and group.generation > 0):
                entries.append(Entry(GroupKey(group=group_id), None))
        return Purge(group_id, entries, whole_group)

    def _life(self, group_id: str, group: Group | None) -> GroupLife:
        if group is None:
            return GroupLife(is_empty=True, is_stable=False, protocol_type=None)
        return GroupLife(
            is_empty=group.state is GroupState.EMPTY,
            is_stable=group.state is GroupState.STABLE,
            protocol_type=group.protocol_type,
            empty_since_ms=self._empty_since.get(group_id),
            subscribed_topics=group.subscribed_topics,
        )

    def check(self) -> None:
        """Assert what the module promises."""
        for group_id, group in self.groups.items():
            assert group.group_id == group_id
            assert group.state is not GroupState.DEAD, f"a dead group is kept: {group_id}"
            group.check()
        for offsets in self.offsets.values():
            assert offsets, "a group's offsets without offsets"
            offsets.check()
        previous = -1
        for write in self.unreplicated:
            assert previous < write.base_offset, "unreplicated writes out of order"
            previous = write.last_offset
