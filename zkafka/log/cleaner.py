"""One cleaning of one log: what was written again since is taken out of its older segments.

The segments below the bound are rewritten group by group (`cleaner_choice.py`), each group into one
new segment, of what `cleaner_records.py` says survives. The new one is written beside them with the
suffix `.cleaned`, made durable, and put in their place by renames: to `.swap`, the old ones to
`.deleted`, and the new one to its final names. `recovery.py` finishes or undoes what was cut short
in between, so that a start finds the old segments of a group, or the new one. The log's
`cleaned_to`, and the directory's checkpoint of it, advance when all groups are done, and never
before the renames are durable.

`Cleaning.steps` is the sequence, to be driven from the loop: what stands between its yields runs
there, and changes the log; what it yields are jobs that read and write for about a millisecond
each, and belong in worker threads. Whoever drives it may stop after any of them.

A log that is truncated or closed meanwhile is left as it is: `CleaningAborted`. Readers of the old
segments keep them. Retention passes over a log that is being cleaned.

Source: Kafka's `Cleaner`.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar

import attrs

from zkafka.errors import ApiError, ErrorCode
from zkafka.log.cleaner_choice import Dirt, dirt_in, grouped
from zkafka.log.cleaner_records import (
    BYTES_PER_KEY,
    Endings,
    KeyOffsets,
    LastOfProducer,
    RecordFilter,
    note_keys,
)
from zkafka.log.files import Bytes
from zkafka.log.partition_log import PartitionLog
from zkafka.log.segment import Extent, Found, Segment
from zkafka.log.transactions import AbortedTransaction, marker_of
from zkafka.model import NO_OFFSET, Offset, ProducerId
from zkafka.protocol.records import Batch

logger = logging.getLogger(__name__)

T = TypeVar("T")

Job: TypeAlias = Callable[[], int]
"""Work for a thread; answers how many bytes it read and wrote."""
Work: TypeAlias = Generator[int, None, T]
"""Work in many short turns; yields how many bytes each read and wrote."""

_BYTES_PER_TURN = 256 << 10
"""Bytes read, without opening many records, between two yields."""
_LEAST_BUFFER = 4 << 10


class CleaningAborted(Exception):
    """The log is not what it was when its cleaning began; nothing is wrong with it."""


@attrs.frozen
class CleanerLimits:
    """What one cleaning may use: so many keys in memory, so many bytes read or written at once."""

    keys: int
    io_bytes: int

    @classmethod
    def of(
        cls, dedupe_buffer_size: int, load_factor: float, io_buffer_size: int, threads: int
    ) -> "CleanerLimits":
        """Of one of `threads` cleaners, from the settings, which are for all of them. The io
        buffer is one for reading and one for writing."""
        keys = int(dedupe_buffer_size / threads * load_factor) // BYTES_PER_KEY
        return cls(max(1, keys), max(_LEAST_BUFFER, io_buffer_size // threads // 2))


@attrs.define
class CleaningStatistics:
    """What a cleaning did so far: to note keys it read `bytes_indexed`, to rewrite segments it read
    and wrote the rest."""

    bytes_indexed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    records_read: int = 0
    records_written: int = 0
    keys: int = 0


def find_dirt(log: PartitionLog, last_stable_offset: Offset, now_ms: int) -> Dirt:
    """What there is to clean in a log at `now_ms` (wall time); may read indexes, so in a worker
    thread. Errors: StorageError, SegmentGone."""
    # In this order: what is flushed by now lies in the segments seen after it.
    stable_end = min(last_stable_offset, log.recovery_point)
    return dirt_in(
        log.segments,
        start=max(log.cleaned_to or 0, log.log_start_offset),
        stable_end=stable_end,
        now_ms=now_ms,
        config=log.config,
    )


class Cleaning:
    """The compaction of `log` as far as `dirt` says, from `now_ms` (wall time) on.

    `checkpoint` writes down the directory's `cleaned_to`s. After `steps` are through,
    `cleaned_to` says how far they came: `dirt.bound`, or less where the keys were too many, or
    where a transaction has no end yet.
    """

    def __init__(
        self,
        log: PartitionLog,
        dirt: Dirt,
        *,
        now_ms: int,
        limits: CleanerLimits,
        checkpoint: Callable[[], None],
    ) -> None:
        self.statistics = CleaningStatistics()
        self.cleaned_to: Offset = dirt.start
        self._log = log
        self._dirt = dirt
        self._now_ms = now_ms
        self._limits = limits
        self._checkpoint = checkpoint
        self._truncations = log.truncation_count
        self._keys = KeyOffsets(limits.keys)
        # Of the transactions in the dirty part; None while none was met.
        self._endings: Endings | None = None
        # The last data that each producer has left in a transaction.
        self._left: dict[ProducerId, Offset] = {}

    @property
    def is_disturbed(self) -> bool:
        """Whether the log was closed or truncated since: then no error says anything about it."""
        return self._log.closed or self._log.truncation_count != self._truncations

    def steps(self) -> Generator[Job, None, None]:
        """The whole cleaning; see above for who runs what.

        Errors, of it or of its jobs: CleaningAborted, StorageError, `ApiError` where the log's
        bytes are not what they should be. Then, or if it is closed early, nothing was changed but
        by whole groups.
        """
        log = self._log
        if self._dirt.bound <= self._dirt.start:
            return
        assert not log.is_being_cleaned
        log.is_being_cleaned = True
        try:
            segments = [s for s in log.segments[:-1] if s.base_offset < self._dirt.bound]
            yield from self._in_turns(self._index(segments))
            self.statistics.keys = len(self._keys)
            cleaned_to = self._keys.latest + 1
            if cleaned_to <= self._dirt.start:
                return
            touched = [segment for segment in segments if segment.base_offset < cleaned_to]
            groups: list[list[Segment]] = []
            yield lambda: self._group(touched, groups)
            record_filter = self._filter()
            for group in groups:
                self._check()
                record_filter.last_of_producers = {
                    producer_id: LastOfProducer(producer.last_offset, producer.epoch)
                    for producer_id, producer in log.producers
                }
                yield from self._rewrite(group, record_filter)
            self._check()
            self.cleaned_to = log.cleaned_to = cleaned_to
            yield self._write_checkpoint
        finally:
            log.is_being_cleaned = False

    def _check(self) -> None:
        if self.is_disturbed:
            raise CleaningAborted(f"{self._log.topic_partition} was truncated or closed")

    def _in_turns(self, work: Work[None]) -> Iterator[Job]:
        """Jobs of one turn each."""
        turns = _Turns(work)
        try:
            while not turns.done:
                yield turns.take
                self._check()
        finally:
            work.close()

    def _group(self, segments: Sequence[Segment], groups: list[list[Segment]]) -> int:
        groups += grouped(segments, bound=self._dirt.bound, config=self._log.config)
        return 0

    def _write_checkpoint(self) -> int:
        self._checkpoint()
        return 0

    # What may go.

    def _index(self, segments: Sequence[Segment]) -> Work[None]:
        """Note the keys of the dirty part."""
        start = self._dirt.start
        ends = [*(segment.base_offset for segment in segments[1:]), self._dirt.bound]
        for number, (segment, end) in enumerate(zip(segments, ends, strict=True)):
            if end <= start:
                continue
            with _reading(segment):
                place = segment.locate(start)
                unread = 0
                for found in self._batches(segment, segment.size if place is None else place[0]):
                    full = yield from self._index_batch(found, segments[number:])
                    if full is not None:
                        self._keys.latest = full - 1
                        return
                    self._keys.latest = found.batch.last_offset
                    unread += found.size
                    if unread >= _BYTES_PER_TURN:
                        yield self._count_indexed(unread)
                        unread = 0
                yield self._count_indexed(unread)
            self._keys.latest = end - 1

    def _index_batch(self, found: Found, segments: Sequence[Segment]) -> Work[Offset | None]:
        """Note one batch's keys; the offset from which on they could not be, None if all are."""
        batch = found.batch
        if batch.is_control:
            return None
        if batch.is_transactional:
            if self._endings is None:
                self._endings = yield from self._read_endings(segments, found.position)
            committed = self._endings.committed(batch)
            if committed is None:
                return max(batch.base_offset, self._dirt.start)
            if not committed:
                return None
        return (yield from note_keys(batch, self._keys, self._dirt.start))

    def _read_endings(self, segments: Sequence[Segment], position: int) -> Work[Endings]:
        """The markers from `position` in the first of `segments` on: read only for logs that have
        transactions at all."""
        endings = Endings()
        for segment in segments:
            with _reading(segment):
                unread = 0
                for found in segment.scan(position, segment.size):
                    if found.batch.is_control:
                        marker = marker_of(segment.batch_at(found.position, found.size))
                        if marker is not None:
                            endings.add(found.batch.producer_id, marker)
                    unread += found.size
                    if unread >= _BYTES_PER_TURN:
                        yield unread
                        unread = 0
            position = 0
        return endings

    def _is_aborted(self, batch: Batch) -> bool:
        """Whether it is of an aborted transaction. In the clean part no such data are left."""
        if self._endings is None or batch.last_offset < self._dirt.start:
            return False
        return self._endings.committed(batch) is False

    # What stays.

    def _filter(self) -> RecordFilter:
        return RecordFilter(
            keys=self._keys,
            bound=self._dirt.bound,
            now_ms=self._now_ms,
            delete_retention_ms=self._log.config.delete_retention_ms,
            last_of_producers={},
            is_aborted=self._is_aborted,
        )

    def _rewrite(self, group: Sequence[Segment], record_filter: RecordFilter) -> Iterator[Job]:
        """Replace a group by what is left of it."""
        log = self._log
        cleaned = log.begin_cleaned(group[0].base_offset)
        try:
            yield from self._in_turns(self._fill(cleaned, group, record_filter))
            log.replace(group)
        finally:
            log.discard_cleaned()
        yield self._sync_names
        logger.debug(
            "compacted partition=%s base_offset=%d segments=%d size=%d",
            log.topic_partition, cleaned.base_offset, len(group), cleaned.size,
        )  # fmt: skip

    def _sync_names(self) -> int:
        self._log.sync_names()
        return 0

    def _fill(
        self, cleaned: Segment, group: Sequence[Segment], record_filter: RecordFilter
    ) -> Work[None]:
        """Write what survives of the group, and make it durable."""
        with _reading(cleaned):
            yield from self._copy(cleaned, group, record_filter)
            self._log.seal_cleaned()
            cleaned.look_as_old_as(group[-1])

    def _copy(
        self, cleaned: Segment, group: Sequence[Segment], record_filter: RecordFilter
    ) -> Work[None]:
        statistics, io_bytes = self.statistics, self._limits.io_bytes
        kept: list[Batch] = []
        pending = 0
        for segment in group:
            aborted = {one.last_offset: one for one in segment.transaction_index}
            with _reading(segment):
                unread = 0
                for found in self._batches(segment, 0):
                    statistics.records_read += found.batch.record_count
                    survivor = yield from record_filter.survivor(found.batch)
                    unread += found.size
                    if survivor is not None:
                        statistics.records_written += survivor.record_count
                        kept.append(survivor)
                        pending += survivor.size
                        if survivor.is_transactional:
                            self._carry(cleaned, survivor, aborted)
                    if pending >= io_bytes or unread >= _BYTES_PER_TURN:
                        self._write(cleaned, kept)
                        yield self._count_read(unread) + pending
                        unread = pending = 0
                        kept.clear()
                self._write(cleaned, kept)
                yield self._count_read(unread) + pending
                pending = 0
                kept.clear()

    def _carry(
        self, cleaned: Segment, batch: Batch, aborted: Mapping[Offset, AbortedTransaction]
    ) -> None:
        """Of aborted transactions those are remembered of which there are records left."""
        if not batch.is_control:
            if batch.record_count:
                self._left[batch.producer_id] = batch.last_offset
        elif batch.last_offset in aborted:
            ended = aborted[batch.last_offset]
            if self._left.get(ended.producer_id, NO_OFFSET) >= ended.first_offset:
                cleaned.transaction_index.append(ended)

    def _write(self, cleaned: Segment, kept: Sequence[Batch]) -> None:
        if not kept:
            return
        buffers: list[Bytes] = [batch.view for batch in kept]
        extents = [Extent(batch.size, batch.last_offset, batch.max_timestamp) for batch in kept]
        cleaned.append(buffers, extents, self._log.config)
        self.statistics.bytes_written += sum(batch.size for batch in kept)

    def _batches(self, segment: Segment, position: int) -> Iterator[Found]:
        """Whole batches to the end of the segment; `ApiError` if there is anything else in it,
        which must not be lost."""
        for found in segment.scan_verified(position, chunk_size=self._limits.io_bytes):
            yield found
            position = found.position + found.size
        if position != segment.size:
            raise ApiError(ErrorCode.CORRUPT_MESSAGE, f"{segment.path} is not sound at {position}")

    def _count_indexed(self, size: int) -> int:
        self.statistics.bytes_indexed += size
        return size

    def _count_read(self, size: int) -> int:
        self.statistics.bytes_read += size
        return size


class _Turns(Generic[T]):
    """Work, turn by turn, where a StopIteration would be in the way."""

    def __init__(self, work: Work[T]) -> None:
        self.done = False
        self._work = work

    def take(self) -> int:
        """One turn; how many bytes it moved."""
        try:
            return next(self._work)
        except StopIteration:
            self.done = True
            return 0


class _reading:
    """A reader of a segment, who keeps its file open."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    def __enter__(self) -> None:
        if not self._segment.try_acquire():
            raise CleaningAborted(f"{self._segment.path} is gone")

    def __exit__(self, *_: object) -> None:
        self._segment.release()
