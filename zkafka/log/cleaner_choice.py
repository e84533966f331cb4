"""Which log is compacted next, how far, and in which pieces.

A log of a compacted topic has three parts. Below `start` it is clean: no key is there twice, but
for keys that were written again since. From there to `bound` it is dirty and may be cleaned. From
`bound` on it may not: what is not stable or not flushed, what is younger than
min.compaction.lag.ms, and the active segment. Cleaned is the log with the largest share of dirty
bytes, if that is above min.cleanable.dirty.ratio or something dirty is older than
max.compaction.lag.ms.

Source: Kafka's `LogCleanerManager` and `LogToClean`, `Cleaner.groupSegmentsBySize`. Where we
differ: only what was flushed is cleaned, which a sealed segment is after a second; and a group is
of `SEGMENTS_PER_GROUP` segments at most, since replacing it costs the loop some renames for each.
"""

import bisect
from collections.abc import Sequence
from typing import Protocol, TypeVar

import attrs

from zkafka.config import LogConfig
from zkafka.model import Offset

SEGMENTS_PER_GROUP = 64
_OFFSETS_PER_SEGMENT = 2**31 - 1


class SegmentFacts(Protocol):
    """What is asked of a segment; all but the base offset and the size may cost a read."""

    @property
    def base_offset(self) -> Offset: ...
    @property
    def size(self) -> int: ...
    @property
    def retention_timestamp(self) -> int: ...
    @property
    def first_timestamp(self) -> int: ...
    @property
    def index_sizes(self) -> tuple[int, int]: ...


S = TypeVar("S", bound=SegmentFacts)


@attrs.frozen(kw_only=True)
class Dirt:
    """What there is to clean in a log: the offsets from `start` to `bound`, where a segment begins.

    `overdue_ms` is by how much the oldest dirty batch has passed max.compaction.lag.ms.
    """

    start: Offset
    bound: Offset
    clean_bytes: int
    dirty_bytes: int
    overdue_ms: int

    @property
    def ratio(self) -> float:
        """The dirty share of what is below `bound`."""
        total = self.clean_bytes + self.dirty_bytes
        return self.dirty_bytes / total if total else 0.0

    def is_enough(self, config: LogConfig) -> bool:
        """Whether it is time to clean."""
        if not self.dirty_bytes:
            return False
        return self.overdue_ms > 0 or self.ratio > config.min_cleanable_dirty_ratio


def dirt_in(
    segments: Sequence[SegmentFacts],
    *,
    start: Offset,
    stable_end: Offset,
    now_ms: int,
    config: LogConfig,
) -> Dirt:
    """What may be cleaned of `segments`, the last one active.

    `start` is where the dirty part begins. Nothing from `stable_end` on may be cleaned: the last
    stable offset, or the end of what was flushed, whichever is lower.
    """
    sealed = segments[:-1]
    # The segments that hold the two offsets.
    first_dirty = max(0, bisect.bisect_right(segments, start, key=_base_offset) - 1)
    bound_number = max(0, bisect.bisect_right(segments, stable_end, key=_base_offset) - 1)
    if config.min_compaction_lag_ms > 0:
        youngest = now_ms - config.min_compaction_lag_ms
        for number in range(first_dirty, bound_number):
            if sealed[number].retention_timestamp > youngest:
                bound_number = number
                break
    bound_number = max(bound_number, first_dirty)
    overdue_ms = 0
    dirty = sealed[first_dirty:bound_number]
    if config.max_compaction_lag_ms < now_ms:
        first = [segment.first_timestamp for segment in sealed[first_dirty:]]
        oldest = min((timestamp for timestamp in first if timestamp > 0), default=now_ms)
        overdue_ms = max(0, now_ms - config.max_compaction_lag_ms - oldest)
    return Dirt(
        start=start,
        bound=max(start, segments[bound_number].base_offset) if dirty else start,
        clean_bytes=sum(segment.size for segment in sealed if segment.base_offset < start),
        dirty_bytes=sum(segment.size for segment in dirty),
        overdue_ms=overdue_ms,
    )


def grouped(segments: Sequence[S], *, bound: Offset, config: LogConfig) -> list[list[S]]:
    """Runs of segments, each to be rewritten as one that segment.bytes and the 2^31 offsets of an
    index can hold, whatever survives. The last segment ends at `bound`."""
    ends = [*(segment.base_offset for segment in segments[1:]), bound]
    groups: list[list[S]] = []
    size, index_sizes = 0, (0, 0)
    for segment, end in zip(segments, ends, strict=True):
        more = segment.index_sizes
        sum_sizes = (index_sizes[0] + more[0], index_sizes[1] + more[1])
        if (
            groups
            and len(groups[-1]) < SEGMENTS_PER_GROUP
            and size + segment.size <= config.segment_bytes
            and max(sum_sizes) <= config.segment_index_bytes
            and (segment.size == 0 or end - 1 - groups[-1][0].base_offset <= _OFFSETS_PER_SEGMENT)
        ):
            groups[-1].append(segment)
            size, index_sizes = size + segment.size, sum_sizes
        else:
            groups.append([segment])
            size, index_sizes = segment.size, more
    return groups


def _base_offset(segment: SegmentFacts) -> Offset:
    return segment.base_offset
