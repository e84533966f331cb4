"""Which leader wrote from which offset: what two logs compare to find where they part.

An ordered list of (leader epoch, start offset). Both rise strictly from entry to entry. The list is
kept in memory and written to `leader-epoch-checkpoint` by the log's `flush` and `close`; what a
crash loses of it is rebuilt from the batches above the recovery point, which carry their epochs.

Sources: KIP-101, KIP-279 (end offset of an epoch this replica does not have), KIP-320.
"""

import bisect
from collections.abc import Iterable

from zkafka.model import (
    NO_EPOCH,
    UNDEFINED_EPOCH_END,
    EpochEndOffset,
    LeaderEpoch,
    Offset,
)


class EpochCache:
    """The epochs of one log. `dirty` while it differs from what `saved` was last told."""

    __slots__ = ("_entries", "_saved")

    def __init__(self, entries: Iterable[tuple[LeaderEpoch, Offset]] = ()) -> None:
        self._entries: tuple[tuple[LeaderEpoch, Offset], ...] = ()
        for epoch, start in entries:
            self.assign(epoch, start)
        self._saved: tuple[tuple[LeaderEpoch, Offset], ...] = self._entries

    @property
    def entries(self) -> tuple[tuple[LeaderEpoch, Offset], ...]:
        """All (epoch, start offset), oldest first; immutable, so that a worker may write it
        down."""
        return self._entries

    @property
    def latest(self) -> LeaderEpoch:
        """The newest epoch, NO_EPOCH if there is none."""
        return self._entries[-1][0] if self._entries else NO_EPOCH

    @property
    def dirty(self) -> bool:
        """Whether the entries are not those that were saved."""
        return self._entries is not self._saved and self._entries != self._saved

    def saved(self, entries: tuple[tuple[LeaderEpoch, Offset], ...]) -> None:
        """`entries` are in the checkpoint now."""
        self._saved = entries

    def assign(self, epoch: LeaderEpoch, start_offset: Offset) -> None:
        """What is written from `start_offset` on is of `epoch`. No change if it is the latest.

        Entries that contradict this, of the same or a later epoch or from the same or a later
        offset, are forgotten: they describe an end of the log that is no more.
        """
        entries = self._entries
        if entries and entries[-1][0] == epoch and entries[-1][1] <= start_offset:
            return
        kept = [(e, s) for e, s in entries if e < epoch and s < start_offset]
        self._entries = (*kept, (epoch, start_offset))

    def end_offset_for(self, leader_epoch: LeaderEpoch, log_end_offset: Offset) -> EpochEndOffset:
        """Where the records of `leader_epoch` end here, or of the largest epoch below it.

        Undefined if it is -1 or newer than all known. If it is older than all known, the answer is
        the epoch itself with the first start: nothing of it is left.
        """
        entries = self._entries
        if leader_epoch == NO_EPOCH or not entries or leader_epoch > entries[-1][0]:
            return UNDEFINED_EPOCH_END
        if leader_epoch == entries[-1][0]:
            return EpochEndOffset(leader_epoch, log_end_offset)
        after = bisect.bisect_right(entries, leader_epoch, key=lambda entry: entry[0])
        if after == 0:
            return EpochEndOffset(leader_epoch, entries[0][1])
        return EpochEndOffset(entries[after - 1][0], entries[after][1])

    def epoch_of(self, offset: Offset) -> LeaderEpoch:
        """The epoch in which `offset` was or would be written, NO_EPOCH before the first."""
        count = bisect.bisect_right(self._entries, offset, key=lambda entry: entry[1])
        return self._entries[count - 1][0] if count else NO_EPOCH

    def truncate_from_end(self, end_offset: Offset) -> None:
        """The log ends at `end_offset`: forget epochs that start there or later."""
        if self._entries and self._entries[-1][1] >= end_offset:
            self._entries = tuple(entry for entry in self._entries if entry[1] < end_offset)

    def truncate_from_start(self, start_offset: Offset) -> None:
        """The log starts at `start_offset`: of the epochs that start before it, the newest is the
        first one now, and starts there."""
        entries = self._entries
        before = bisect.bisect_right(entries, start_offset, key=lambda entry: entry[1])
        if before and entries[0][1] < start_offset:
            self._entries = ((entries[before - 1][0], start_offset), *entries[before:])

    def take_over(self, other: "EpochCache") -> None:
        """Know what `other` knows: this log holds what the other one does."""
        self._entries = other._entries

    def clear(self) -> None:
        """Forget everything: the log starts anew."""
        self._entries = ()
