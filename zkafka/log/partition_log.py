"""One partition's log: append, read, roll, truncate, delete, across segments.

Holds, between calls:

- `log_start_offset <= log_end_offset`, and the first segment's base <= log_start_offset.
- Segments are sorted, the last one is active; each ends where the next begins, or below it after
  compaction.
- `recovery_point <= log_end_offset`; below it everything survives a power cut, and the checkpoint
  of recovery points on disk never lets recovery skip a segment of which that is not true.

Threads: one thread changes the log. `flush`, `offset_for_timestamp`, `max_timestamp_offset` and the
reading of slices may run in worker threads beside it. They work on the tuple of segments as they
found it and count themselves as readers, so a file they use stays open; what they share with the
loop is `recovery_point`, under a lock held for two comparisons. A flush that meets a truncation, be
it begun before or in the middle of one, advances nothing.

Errors: StorageError from the disk; after one from an append the log is as before, or the disk is
offline. After a failed fsync the disk is offline for good. DiskFull, a StorageError, leaves a log
to go on with; from a flush it means that nothing more is known to be durable than before. ApiError
where a caller asked for what cannot be.
"""

import bisect
import collections
import itertools
import logging
import os
import threading
import uuid
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import attrs

from zkafka.config import LogConfig
from zkafka.errors import ApiError, ErrorCode, StorageError
from zkafka.log.checkpoint import format_epochs
from zkafka.log.disk import Disk
from zkafka.log.epochs import EpochCache
from zkafka.log.producers import NO_SEQUENCE, ProducerStates, Snapshots
from zkafka.log.recovery import (
    EPOCHS_FILE,
    METADATA_FILE,
    MOVES_FILE,
    LoadedLog,
    format_metadata,
    load,
    load_producers,
)
from zkafka.log.retention import deletable
from zkafka.log.segment import (
    CLEANED_SUFFIX,
    SWAP_SUFFIX,
    Extent,
    LogSlice,
    Segment,
    SegmentGone,
)
from zkafka.log.transactions import AbortedTransaction
from zkafka.model import NO_OFFSET, NO_PRODUCER, LeaderEpoch, Offset, TopicPartition
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.records import Batch, iter_records, stamp

logger = logging.getLogger(__name__)

_WARM_SEGMENTS = 4
"""How many sealed segments keep their indexes in memory, per log: as many as there are consumers
reading old data at different places; a gigabyte's indexes are five megabytes at most."""


class Appended(NamedTuple):
    """Where a batch lies. `duplicate`: it was there already, and nothing was written."""

    base_offset: Offset
    last_offset: Offset
    duplicate: bool = False


class TimestampedOffset(NamedTuple):
    """A record found by its timestamp."""

    timestamp: int
    offset: Offset
    leader_epoch: LeaderEpoch


@attrs.frozen(kw_only=True)
class LogStatistics:
    """A log's extent; `unflushed` counts offsets above the recovery point."""

    segment_count: int
    size: int
    log_start_offset: Offset
    log_end_offset: Offset
    unflushed: int
    producer_count: int


class PartitionLog:
    """The batches of one partition on this broker, from `log_start_offset` to `log_end_offset`.

    Made by `create` or `load`, through `LogDirectory`. Whoever holds it appends what leaders and
    followers are to append; that a replica may do so is not checked here.
    """

    def __init__(
        self,
        disk: Disk,
        path: str,
        topic_partition: TopicPartition,
        config: LogConfig,
        loaded: LoadedLog,
    ) -> None:
        self.topic_partition = topic_partition
        self.topic_id = loaded.topic_id
        self.moves = loaded.moves
        """How often it was moved to another directory: of two that say they are the partition's
        log, the one moved oftener has replaced the other."""
        self.path = path
        self.config = config
        self.epochs = loaded.epochs
        self.producers = loaded.producers
        self.log_start_offset: Offset = loaded.log_start_offset
        self.recovery_point: Offset = loaded.recovery_point
        self.cleaned_to: Offset | None = loaded.cleaned_to
        """Up to where the log was compacted, None if it never was; lowered by truncations."""
        self.is_being_cleaned = False
        self.entry_durable = True
        """Whether the partition's directory itself survives a power cut."""
        self._disk = disk
        self._files = disk.files
        self._snapshots = loaded.snapshots
        self._segments: tuple[Segment, ...] = tuple(loaded.segments)
        self._active = self._segments[-1]
        self._end: Offset = loaded.log_end_offset
        self._size = sum(segment.size for segment in self._segments)
        self._lock = threading.Lock()
        # Odd in the middle of one.
        self._truncations = 0
        self._cuts: list[Offset] = []
        self._rolls = 0
        self._cut_unsynced = False
        # The highest recovery point of ours that the checkpoint on disk may contain.
        self._checkpointed: Offset = loaded.recovery_point
        # And the log start offset in its checkpoint, 0 if it has none of ours.
        self._log_start_checkpointed: Offset = 0
        # Files written and not fsynced yet; names created in the directory since its last fsync.
        self._unsynced: collections.deque[str] = collections.deque()
        self._names_changed = False
        # Where the active segment's index files were last made durable, which only closing does.
        self._closed_at: Offset = NO_OFFSET
        self._unflushed_since_ms: int | None = None
        self._warm: collections.deque[Segment] = collections.deque()
        # Whether an index of aborted transactions may have an entry.
        self._has_aborted = any(
            segment.transaction_index.file.entries for segment in self._segments
        )
        # What compaction is writing, not yet one of the segments.
        self._cleaned: Segment | None = None
        self._closed = False

    @classmethod
    def create(
        cls,
        disk: Disk,
        path: str,
        topic_partition: TopicPartition,
        topic_id: uuid.UUID | None,
        config: LogConfig,
        *,
        start_offset: Offset = 0,
    ) -> "PartitionLog":
        """A new directory with an empty segment; `sync_creation` makes it durable."""
        disk.check()
        disk.files.make_directory(path)
        segment = Segment(disk, path, start_offset, new=True)
        log = cls(
            disk,
            path,
            topic_partition,
            config,
            LoadedLog(
                topic_id=None,
                segments=[segment],
                epochs=EpochCache(),
                producers=ProducerStates(),
                snapshots=Snapshots(disk.files, path),
                log_start_offset=start_offset,
                log_end_offset=start_offset,
                recovery_point=start_offset,
                cleaned_to=None,
            ),
        )
        log.entry_durable = False
        log._names_changed = True
        try:
            segment.create(_room(config))
            if topic_id is not None and topic_id != NULL_UUID:
                log.assign_topic_id(topic_id)
        except StorageError:
            log.close(clean=False)
            disk.files.remove_tree(path)  # The name is free again.
            raise
        return log

    @classmethod
    def load(
        cls,
        disk: Disk,
        path: str,
        topic_partition: TopicPartition,
        config: LogConfig,
        *,
        clean: bool,
        recovery_point: Offset,
        log_start_offset: Offset,
        cleaned_to: Offset | None = None,
    ) -> "PartitionLog":
        """The log in `path`, recovered unless the last stop was `clean`; worker threads."""
        loaded = load(
            disk,
            path,
            config,
            clean=clean,
            recovery_point=recovery_point,
            log_start_offset=log_start_offset,
            cleaned_to=cleaned_to,
        )
        log = cls(disk, path, topic_partition, config, loaded)
        log._checkpointed = max(recovery_point, loaded.recovery_point)
        log._log_start_checkpointed = log_start_offset
        if clean:
            log._closed_at = loaded.log_end_offset
        else:
            # Creations before the crash may never have reached the disk: the next flush sees to it.
            log._names_changed = True
            log.entry_durable = False
        return log

    def __repr__(self) -> str:
        return f"<PartitionLog {self.topic_partition} {self.log_start_offset}..{self._end}>"

    # What it holds.

    @property
    def log_end_offset(self) -> Offset:
        """The offset that the next record gets."""
        return self._end

    @property
    def closed(self) -> bool:
        """Whether it was closed; nothing is read or written here any more."""
        return self._closed

    @property
    def size(self) -> int:
        """Bytes in all `.log` files."""
        return self._size

    @property
    def segment_bases(self) -> tuple[Offset, ...]:
        """The base offsets of the segments, rising."""
        return tuple(segment.base_offset for segment in self._segments)

    def statistics(self) -> LogStatistics:
        """As it is now."""
        return LogStatistics(
            segment_count=len(self._segments),
            size=self._size,
            log_start_offset=self.log_start_offset,
            log_end_offset=self._end,
            unflushed=self._end - max(self.log_start_offset, self.recovery_point),
            producer_count=len(self.producers),
        )

    def reconfigure(self, config: LogConfig) -> None:
        """Obey `config` from now on."""
        self.config = config

    def assign_topic_id(self, topic_id: uuid.UUID) -> None:
        """Write partition.metadata, once: the id of a log never changes. Durable with a flush."""
        assert self.topic_id is None or self.topic_id == topic_id
        if self.topic_id is None:
            path = os.path.join(self.path, METADATA_FILE)
            self._files.write_file(path, format_metadata(topic_id))
            self._unsynced.append(path)
            self._names_changed = True
            self.topic_id = topic_id

    def count_move(self, moves: int) -> None:
        """Write down how often it was moved. Durable with a flush."""
        path = os.path.join(self.path, MOVES_FILE)
        self._files.write_file(path, b"%d\n" % moves)
        self._unsynced.append(path)
        self._names_changed = True
        self.moves = moves

    def check(self) -> None:
        """Assert the laws; for tests, and for whoever doubts."""
        bases = self.segment_bases
        assert self._active is self._segments[-1]
        assert all(low < high for low, high in itertools.pairwise(bases))
        assert bases[0] <= self.log_start_offset <= self._end
        assert bases[-1] <= self._end
        assert self.recovery_point <= self._end
        assert self._size == sum(segment.size for segment in self._segments)
        assert self.epochs.latest == -1 or self.epochs.entries[-1][1] <= self._end

    # Appending.

    def append_as_leader(self, batch: Batch, leader_epoch: LeaderEpoch, now_ms: int) -> Appended:
        """Give the batch the next offsets and this epoch, in place, and write it.

        A batch that its producer sent before is not written again: the answer has the offsets of
        then. Errors: INVALID_PRODUCER_EPOCH and OUT_OF_ORDER_SEQUENCE_NUMBER (KIP-98),
        TRANSACTION_COORDINATOR_FENCED for a marker of an earlier coordinator than the last,
        RECORD_LIST_TOO_LARGE for what no segment can hold; StorageError.
        """
        if self._disk.offline is not None or self._closed:
            self._refuse()
        if batch.producer_id != NO_PRODUCER:
            if batch.base_sequence != NO_SEQUENCE:
                written = self.producers.check(batch)
                if written is not None:
                    return Appended(written.base_offset, written.last_offset, duplicate=True)
            elif batch.is_control:
                self.producers.check_marker(batch)
        size = batch.size
        max_timestamp = batch.max_timestamp
        if size > self.config.segment_bytes:
            raise ApiError(
                ErrorCode.RECORD_LIST_TOO_LARGE,
                f"a batch of {size} bytes, segment.bytes is {self.config.segment_bytes}",
            )
        base_offset = self._end
        last_offset = base_offset + batch.last_offset_delta
        segment = self._active
        if segment.must_roll(
            size, max_timestamp, last_offset, self.config, now_ms, self._jitter_ms
        ):
            segment = self._roll(base_offset)
        if segment.created_ms is None and not segment.size:
            segment.created_ms = now_ms
        stamp(batch.view, base_offset, leader_epoch)
        try:
            segment.append([batch.view], (Extent(size, last_offset, max_timestamp),), self.config)
        except StorageError:
            # As it was sent: whoever looks at it once more must not find offsets of ours.
            stamp(batch.view, batch.base_offset, batch.leader_epoch)
            raise
        self._size += size
        self._end = last_offset + 1
        if leader_epoch > self.epochs.latest:
            self.epochs.assign(leader_epoch, base_offset)
        if batch.producer_id != NO_PRODUCER:
            self._note_producer(batch, base_offset)
        return Appended(base_offset, last_offset)

    def append_as_follower(
        self, batches: Sequence[Batch], now_ms: int | None = None
    ) -> Appended | None:
        """Write what a leader wrote, verbatim: one write, unless segments roll in between.

        The first batch starts at the log end offset, or above it where the leader's log was
        compacted. An empty log takes a batch that begins below its start and ends above it, as a
        leader sends whose log start lies inside a batch. None if there is nothing to append.

        Errors: CORRUPT_MESSAGE if offsets do not rise or begin below the end; nothing is written
        then. A StorageError in the middle leaves the segments before it appended.
        """
        if self._disk.offline is not None or self._closed:
            self._refuse()
        if not batches:
            return None
        first = batches[0]
        if first.base_offset < self._end <= first.last_offset and (
            self._end == self.log_start_offset
        ):
            start = self.log_start_offset
            self.truncate_fully_and_start_at(first.base_offset)
            self.append_as_follower(batches, now_ms)
            self.advance_log_start_offset(start)
            return Appended(first.base_offset, batches[-1].last_offset)
        expected = self._end
        for batch in batches:
            if batch.base_offset < expected or batch.last_offset_delta < 0:
                raise ApiError(
                    ErrorCode.CORRUPT_MESSAGE,
                    f"{self.topic_partition}: offsets {batch.base_offset}..{batch.last_offset}"
                    f" where {expected} was due",
                )
            expected = batch.last_offset + 1

        pending: list[Batch] = []
        pending_size = 0
        for batch in batches:
            if self._active.must_roll(
                pending_size + batch.size,
                batch.max_timestamp,
                batch.last_offset,
                self.config,
                now_ms,
                self._jitter_ms,
                batch_count=len(pending) + 1,
            ) or (pending and pending_size + batch.size > self.config.segment_bytes):
                self._write(pending)
                pending, pending_size = [], 0
                if self._active.size or batch.last_offset - self._active.base_offset >= 2**31:
                    self._roll(batch.base_offset)
            pending.append(batch)
            pending_size += batch.size
        self._write(pending)
        return Appended(first.base_offset, batches[-1].last_offset)

    def _write(self, batches: list[Batch]) -> None:
        if not batches:
            return
        extents = [Extent(batch.size, batch.last_offset, batch.max_timestamp) for batch in batches]
        self._active.append([batch.view for batch in batches], extents, self.config)
        self._size += sum(batch.size for batch in batches)
        self._end = batches[-1].last_offset + 1
        for batch in batches:
            if batch.leader_epoch > self.epochs.latest:
                self.epochs.assign(batch.leader_epoch, batch.base_offset)
            if batch.producer_id != NO_PRODUCER:
                self._note_producer(batch, batch.base_offset)

    def _note_producer(self, batch: Batch, base_offset: Offset) -> None:
        aborted = self.producers.update(batch, base_offset)
        if aborted is not None:
            self._active.transaction_index.append(aborted)
            self._has_aborted = True

    def _refuse(self) -> None:
        self._disk.check()
        raise StorageError(f"the log of {self.topic_partition} is closed", self.path)

    @property
    def _jitter_ms(self) -> int:
        """How much earlier this active segment ages: spread over the logs, but no dice."""
        jitter = min(self.config.segment_jitter_ms, self.config.max_segment_ms)
        if not jitter:
            return 0
        return zlib.crc32(f"{self.topic_partition}/{self._active.base_offset}".encode()) % jitter

    def roll(self) -> None:
        """Begin a new segment at the log end offset, unless the active one is empty."""
        if self._disk.offline is not None or self._closed:
            self._refuse()
        if self._active.size:
            self._roll(self._end)

    def _roll(self, base_offset: Offset) -> Segment:
        active = self._active
        if active.size:
            active.seal()
            self._unsynced.append(self._snapshots.write(base_offset, self.producers))
            with self._lock:
                self._rolls += 1
                must_sync = base_offset <= self._checkpointed or self._cut_unsynced
                # The sealed segment's indexes are not durable yet, so that a recovery must not
                # skip it, though its batches may all have been flushed.
                self.recovery_point = min(self.recovery_point, base_offset - 1)
            if must_sync:
                # Either the checkpoint on disk would have it skipped: the log was truncated below a
                # recovery point written before, or is rolled just there. Or a power cut could undo
                # a truncation here and keep the next segment, and mix two histories. Both are rare.
                self._flush(active_indexes=True)
        # Only now does anything change. A snapshot left by a failure below is right all the same.
        segment = Segment(self._disk, self.path, base_offset, new=True)
        segment.create(_room(self.config))
        self._names_changed = True
        if active.size:
            self._segments = (*self._segments, segment)
            self._keep_warm(active)
        else:
            # Only offsets too far above its base replace an empty segment.
            self._segments = (*self._segments[:-1], segment)
            self.log_start_offset = max(self.log_start_offset, self._segments[0].base_offset)
            active.discard(self.config.file_delete_delay_ms)
        self._active = segment
        return segment

    def _keep_warm(self, segment: Segment) -> None:
        """Let a sealed segment keep its indexes in memory, in place of the one that came first."""
        if segment in self._warm:
            return
        self._warm.append(segment)
        if len(self._warm) > _WARM_SEGMENTS:
            self._warm.popleft().unload_indexes()

    # Reading.

    def read(
        self, offset: Offset, max_bytes: int, *, upper_bound: Offset, at_least_one: bool
    ) -> LogSlice | None:
        """Batches from the one that holds `offset`, all below `upper_bound`, of one segment.

        At most `max_bytes`, but one whole batch if `at_least_one`. It ends with a batch where that
        is known without a read, else perhaps in the middle of one. None: nothing below the bound,
        or nothing so small. The caller releases the slice.

        Errors: OFFSET_OUT_OF_RANGE outside log_start_offset..log_end_offset.
        """
        if not self.log_start_offset <= offset <= self._end:
            raise ApiError(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"{self.topic_partition} has {self.log_start_offset}..{self._end}, not {offset}",
            )
        upper_bound = min(upper_bound, self._end)
        if offset >= upper_bound:
            return None
        segments = self._segments
        number = len(segments) - 1
        if offset < self._active.base_offset:
            number = bisect.bisect_right(segments, offset, key=_base_offset) - 1
        found = None
        while found is None:
            segment = segments[number]
            if segment is not self._active:
                self._keep_warm(segment)
            found = segment.locate(offset)
            number += 1
            if found is None and (
                number == len(segments) or segments[number].base_offset >= upper_bound
            ):
                return None  # Compaction took everything from here on to the bound.
        start, first_size = found
        if upper_bound >= (segments[number].base_offset if number < len(segments) else self._end):
            limit = segment.size
        else:
            limit = segment.position_of(upper_bound)
        if start + first_size > limit:
            return None
        end = start + max_bytes
        if end >= limit:
            end = limit
        elif end < start + first_size:
            if not at_least_one:
                return None
            end = start + first_size
        else:
            boundary = segment.boundary_before(end, start)
            if boundary >= start + first_size:
                end = boundary
        return segment.slice(start, end - start)

    def last_stable_offset(self, high_watermark: Offset) -> Offset:
        """The end of what readers of committed records may see: no transaction below it is
        undecided, or decided by a marker that is not replicated yet."""
        transactions = self.producers.transactions
        if not transactions:
            return high_watermark
        stable = transactions.last_stable_offset(high_watermark)
        return max(stable, min(self.log_start_offset, high_watermark))

    def aborted_in(self, found: LogSlice, offset: Offset) -> Sequence[AbortedTransaction]:
        """The aborted transactions of which `found`, read from `offset` on, may have records; and
        perhaps some that begin a little above it."""
        if not self._has_aborted:
            return ()
        segments = self._segments
        bound = found.segment.offset_bound(found.position + found.size)
        if bound is None:
            after = bisect.bisect_right(segments, found.segment.base_offset, key=_base_offset)
            bound = segments[after].base_offset if after < len(segments) else self._end
        aborted: list[AbortedTransaction] = []
        for segment in segments[bisect.bisect_right(segments, offset, key=_base_offset) - 1 :]:
            if not segment.transaction_index.file.entries:
                continue
            some, may_go_on = segment.transaction_index.find(offset, bound)
            aborted += some
            if not may_go_on:
                break
        return aborted

    def available(self, offset: Offset, upper_bound: Offset) -> int:
        """About how many bytes `read` could give from `offset` to the bound, in all segments.

        Exact near the end of the log; further back up to an index interval too large. Not a read.
        """
        upper_bound = min(upper_bound, self._end)
        if offset >= upper_bound:
            return 0
        if offset >= self._active.base_offset:
            end = self._active.size
            if upper_bound < self._end:
                end = self._active.approximate_position(upper_bound)
            return max(0, end - self._active.approximate_position(offset))
        total = 0
        for segment in reversed(self._segments):
            if segment.base_offset >= upper_bound:
                continue
            end = segment.size
            if segment is self._active and upper_bound < self._end:
                end = segment.approximate_position(upper_bound)
            if segment.base_offset <= offset:
                return max(0, total + end - segment.approximate_position(offset))
            total += end
        return total

    def size_from(self, offset: Offset) -> int:
        """Bytes of the batches from the one that holds `offset` on. Reads, to find that one,
        unless it is near the end."""
        segments = self._segments
        number = bisect.bisect_right(segments, offset, key=_base_offset) - 1
        sizes = sum(segment.size for segment in segments[number:])
        return sizes - segments[number].position_of(offset)

    def offset_for_timestamp(
        self, timestamp: int, *, upper_bound: Offset
    ) -> TimestampedOffset | None:
        """The first record with at least this timestamp, if it is below `upper_bound`.

        Reads, so better in a worker thread. Opens the records of one batch, rarely two.
        """
        start = self.log_start_offset
        segments, end_offset = self._segments, self._end
        for segment, segment_end in zip(segments, _ends(segments, end_offset), strict=True):
            if segment_end <= start:
                continue
            if segment.base_offset >= upper_bound:
                return None
            if not segment.try_acquire():
                continue  # Deleted since we looked, and the log start is above it.
            try:
                if segment.largest[0] < timestamp:
                    continue
                floor = max(segment.time_floor(timestamp), start)
                position = segment.offset_index.floor(floor)[1]
                for found in segment.scan(position, segment.size):
                    header = found.batch
                    if header.max_timestamp < timestamp or header.last_offset < start:
                        continue
                    batch = segment.batch_at(found.position, found.size)
                    for record in iter_records(batch):
                        if record.timestamp >= timestamp and record.offset >= start:
                            if record.offset >= upper_bound:
                                return None
                            return TimestampedOffset(
                                record.timestamp, record.offset, batch.leader_epoch
                            )
            except SegmentGone:
                continue
            finally:
                segment.release()
        return None

    def max_timestamp_offset(self) -> TimestampedOffset | None:
        """The first record with the largest timestamp in the log (KIP-734); None if none has
        one."""
        best, timestamp = None, -1
        for segment in self._segments:
            try:
                if segment.largest[0] > timestamp and segment.try_acquire():
                    if best is not None:
                        best.release()
                    best, timestamp = segment, segment.largest[0]
            except SegmentGone:
                continue
        if best is None:
            return None
        try:
            found = best.locate(best.largest[1])
            if found is None:
                return None
            batch = best.batch_at(*found)
            for record in iter_records(batch):
                if record.timestamp == batch.max_timestamp:
                    return TimestampedOffset(record.timestamp, record.offset, batch.leader_epoch)
            return None
        except SegmentGone:
            return None
        finally:
            best.release()

    # Durability.

    def flush_due(self, now_ms: int) -> bool:
        """Whether `flush` should run: a sealed segment waits, or flush.messages or flush.ms is
        met."""
        unflushed = self._end - self.recovery_point
        if unflushed <= 0:
            self._unflushed_since_ms = None
            return False
        if self._unflushed_since_ms is None:
            self._unflushed_since_ms = now_ms
        return (
            self.recovery_point < self._active.base_offset
            or unflushed >= self.config.flush_messages
            or now_ms - self._unflushed_since_ms >= self.config.flush_ms
        )

    def flush(self) -> None:
        """Make everything appended until now durable, and advance the recovery point to there.

        Blocks on the disk, so in a worker thread; appends go on meanwhile. The order: batches,
        indexes of sealed segments, snapshots, leader epochs, the directory; then the recovery
        point, which the directory's checkpoint may then carry.

        Errors: StorageError; the disk is offline, for what a failed fsync left is unknown.
        """
        self._flush(active_indexes=False)

    def _flush(self, *, active_indexes: bool) -> None:
        """`flush`, which leaves out the active segment's indexes, or all there is."""
        self._disk.check()
        with self._lock:
            truncations, rolls = self._truncations, self._rolls
            segments, target = self._segments, self._end
            recovery_point = self.recovery_point
            # The cut itself must last, though all that it left was flushed before.
            with_last = active_indexes or self._cut_unsynced
        try:
            for segment, end in zip(segments, _ends(segments, target), strict=True):
                indexes = active_indexes or segment is not segments[-1]
                if end <= recovery_point and not (with_last and segment is segments[-1]):
                    continue
                if not segment.try_acquire():
                    continue  # Deleted meanwhile.
                try:
                    segment.fsync(indexes=indexes)
                finally:
                    segment.release()
            self.sync_names()
        except StorageError as error:
            self._disk.write_failed(error)
            raise
        with self._lock:
            if self._truncations != truncations or truncations % 2:
                return
            self._cut_unsynced = False
            if self._rolls != rolls and not active_indexes:
                # What was active then is sealed now, and its indexes wait for the next flush.
                target = min(target, segments[-1].base_offset)
            self.recovery_point = max(self.recovery_point, target)
        self._unflushed_since_ms = None

    def sync_names(self) -> None:
        """Make durable what stands beside the batches: snapshots, the topic id, leader epochs, and
        the names of all files. Worker threads. After a StorageError but DiskFull the disk is
        offline."""
        try:
            while self._unsynced:
                path = self._unsynced.popleft()
                if self._files.exists(path):
                    self._files.fsync_path(path)
            entries = self.epochs.entries
            if self._closed:
                return  # Its directory may be another log's by now.
            if self.epochs.dirty:
                self._names_changed = False
                self._files.replace(os.path.join(self.path, EPOCHS_FILE), format_epochs(entries))
                self.epochs.saved(entries)
            elif self._names_changed:
                self._names_changed = False
                self._files.fsync_path(self.path)
            self._sync_entry()
        except StorageError as error:
            if self._closed and isinstance(error.__cause__, FileNotFoundError):
                return  # Renamed to be deleted, since we looked.
            self._names_changed = True
            self._disk.write_failed(error)
            raise

    def _sync_entry(self) -> None:
        if not self.entry_durable:
            self._files.fsync_path(self._disk.path)
            self.entry_durable = True

    def sync_entry(self) -> None:
        """Make the name of the log's own directory durable. Worker threads. After a StorageError
        the disk is offline."""
        try:
            self._sync_entry()
        except StorageError as error:
            self._disk.write_failed(error)
            raise

    def recovery_point_to_checkpoint(self) -> Offset:
        """The recovery point, which is about to be written into the directory's checkpoint."""
        with self._lock:
            self._checkpointed = max(self._checkpointed, self.recovery_point)
            return self.recovery_point

    def recovery_point_is_checkpointed(self, recovery_point: Offset) -> None:
        """The checkpoint on disk has this recovery point now, and no longer an earlier one."""
        with self._lock:
            self._checkpointed = recovery_point

    def log_start_to_checkpoint(self) -> Offset | None:
        """The log start, about to be written into its checkpoint; None if the files alone tell
        it."""
        start = self.log_start_offset
        if start > self._segments[0].base_offset:
            self._log_start_checkpointed = max(self._log_start_checkpointed, start)
            return start
        return None

    def log_start_is_checkpointed(self, start: Offset | None) -> None:
        """The checkpoint on disk says that now, of this log, and no longer what it said before."""
        self._log_start_checkpointed = start or 0

    # Truncating and deleting.

    def truncate_to(self, offset: Offset) -> Offset:
        """Forget everything from `offset` on; answers the new log end offset.

        A batch that holds `offset` in its middle goes as a whole, since batches are what leaders
        send. Below the first segment it is `truncate_fully_and_start_at`.

        Errors: StorageError; the disk is offline.
        """
        if self._disk.offline is not None or self._closed:
            self._refuse()
        if offset >= self._end:
            return self._end
        segments = self._segments
        if offset < segments[0].base_offset:
            self.truncate_fully_and_start_at(offset)
            return offset
        keep = bisect.bisect_right(segments, offset, key=_base_offset)
        last = segments[keep - 1]
        found = last.locate(offset)
        position, end_offset = last.size, offset
        if found is not None:
            position = found[0]
            end_offset = min(offset, last.batch_at(*found).base_offset)
        try:
            self._begin_truncation(end_offset)
            self._remove(segments[keep:], truncated=True)
            if keep < len(segments):
                # A power cut must not bring these back behind what is written here next: should it
                # end where they begin, two histories would be one. Rare enough to wait for.
                self._files.fsync_path(self.path)
            self._segments, self._active = segments[:keep], last
            last.truncate_at(position, end_offset)
            self._size = sum(segment.size for segment in self._segments)
            self._end = end_offset
            self.log_start_offset = min(self.log_start_offset, end_offset)
            self.epochs.truncate_from_end(end_offset)
            self._snapshots.keep_between(0, end_offset)
            truncated = self.producers
            if not truncated.truncate_to(end_offset):
                self.producers = load_producers(self._snapshots, self._segments, end_offset)
                self.producers.keep(truncated)
            self._end_truncation()
            self._lower_checkpoints()
        except StorageError as error:
            self._disk.fail(error)
            raise
        logger.info(
            "truncated partition=%s log_end_offset=%d asked=%d",
            self.topic_partition, end_offset, offset,
        )  # fmt: skip
        return end_offset

    def truncate_fully_and_start_at(self, offset: Offset) -> None:
        """Forget everything; the log is empty and starts and ends at `offset`.

        Errors: StorageError; the disk is offline.
        """
        if self._disk.offline is not None or self._closed:
            self._refuse()
        segments = self._segments
        try:
            # The recovery point stays low until a flush: should the renames below be undone by a
            # power cut, the old segments must not be skipped.
            self._begin_truncation(min(offset, segments[0].base_offset))
            self._remove(segments, truncated=True)
            self.epochs.clear()
            self.producers.clear()
            self._snapshots.keep_between(0, -1)
            segment = Segment(self._disk, self.path, offset, new=True)
            segment.create(_room(self.config))
            self._segments, self._active = (segment,), segment
            self._size = 0
            self._end = self.log_start_offset = offset
            self._end_truncation()
            self._lower_checkpoints()
        except StorageError as error:
            self._disk.fail(error)
            raise
        logger.info("emptied partition=%s log_start_offset=%d", self.topic_partition, offset)

    def _begin_truncation(self, end_offset: Offset) -> None:
        with self._lock:
            self._truncations += 1
            self._cuts.append(end_offset)
            self._cut_unsynced = True
            self.recovery_point = min(self.recovery_point, end_offset)
        self._closed_at = NO_OFFSET
        self._names_changed = True

    def _end_truncation(self) -> None:
        with self._lock:
            self._truncations += 1
        # Again: a flush in between may have taken note of the names as they were then.
        self._names_changed = True

    def _lower_checkpoints(self) -> None:
        """A log that was truncated below its log start must not be found to start there: what is
        appended next would be taken for deleted. Nor one truncated below where it was compacted to
        be compacted there: a tombstone would go before what it buries. Both are rare, since no
        clean truncation goes so far."""
        if self._log_start_checkpointed > self.log_start_offset:
            self._disk.write_log_starts()
        if self.cleaned_to is not None and self.cleaned_to > self._end:
            self.cleaned_to = self._end
            self._disk.write_cleaned_offsets()

    def _remove(self, segments: Sequence[Segment], *, truncated: bool) -> None:
        """Rename their files away. A truncation starts with the last one, so that whenever the
        power goes, what is left has no hole; retention starts with the first for the same reason.
        """
        for segment in reversed(segments) if truncated else segments:
            if truncated:
                segment.mark_cut()
            segment.discard(self.config.file_delete_delay_ms)
            if segment in self._warm:
                self._warm.remove(segment)

    def advance_log_start_offset(self, offset: Offset) -> None:
        """Records below `offset` are no longer read; their segments go with the next retention.

        Does nothing if the log starts there already. Durable with the directory's checkpoint.
        Errors: OFFSET_OUT_OF_RANGE above the log end offset.
        """
        if offset > self._end:
            raise ApiError(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"{self.topic_partition} ends at {self._end}, cannot start at {offset}",
            )
        if offset > self.log_start_offset:
            self.log_start_offset = offset
            self.epochs.truncate_from_start(offset)

    def delete_old_segments(self, now_ms: int, high_watermark: Offset) -> int:
        """Remove what retention lets go; answers how many segments. The log start moves up to the
        first that stays. Nothing goes while the log is compacted: the next time will do.
        Errors: StorageError; DiskFull where all segments are to go and there is no room for an
        empty one."""
        if self._disk.offline is not None or self._closed:
            self._refuse()
        if self.is_being_cleaned:
            return 0
        config = self.config
        segments = self._segments
        gone = deletable(
            segments,
            _ends(segments, self._end),
            log_start_offset=self.log_start_offset,
            high_watermark=high_watermark,
            now_ms=now_ms,
            retention_ms=config.retention_ms,
            retention_bytes=config.retention_bytes,
            delete="delete" in config.cleanup_policy,
        )
        for segment in segments[:-1]:
            if segment not in self._warm:
                segment.unload_indexes()
        if not gone:
            return 0
        if gone == len(segments):
            self._roll(self._end)
        kept = self._segments[gone:]
        first = kept[0].base_offset
        self.advance_log_start_offset(first)
        try:
            self._remove(segments[:gone], truncated=False)
        except StorageError as error:
            self._disk.fail(error)
            raise
        self._segments = kept
        self._size = sum(segment.size for segment in kept)
        # The recovery point stays where it is until a flush makes the renames durable: segments
        # that a power cut brings back must not be skipped if they were never flushed.
        self._names_changed = True
        self._snapshots.keep_between(first, self._end)
        logger.info(
            "deleted old segments partition=%s count=%d log_start_offset=%d",
            self.topic_partition, gone, self.log_start_offset,
        )  # fmt: skip
        return gone

    # Taking another log's place, in another directory; see `directory.py`.

    @property
    def cut_count(self) -> int:
        """How often it was truncated since it was opened."""
        return len(self._cuts)

    def lowest_cut_since(self, cuts_seen: int) -> Offset:
        """What of it stayed as it was since it had been truncated `cuts_seen` times ends here, or
        where the log does."""
        return min([self._end, *self._cuts[cuts_seen:]])

    def skip_to(self, offset: Offset) -> None:
        """End at `offset`, above the end, with nothing in between: compaction left nothing there.
        A log that was empty starts there as well."""
        if self._disk.offline is not None or self._closed:
            self._refuse()
        assert offset >= self._end
        if offset > self._end:
            self._roll(offset)
            self._end = offset

    def take_over(self, other: "PartitionLog") -> None:
        """Be what `other` is, of which it holds all batches by now: its epochs, which may be of
        leaders that wrote nothing, its producers, who must not share them any more, and where it
        starts."""
        assert self._end == other.log_end_offset
        self.epochs.take_over(other.epochs)
        self.producers = other.producers
        self._closed_at = NO_OFFSET  # A snapshot of before knows less.
        if other.cleaned_to is not None and self.cleaned_to is None:
            self.cleaned_to = self.log_start_offset  # It may have holes.
        self.advance_log_start_offset(other.log_start_offset)
        self.config = other.config

    def relocate(self, path: str) -> None:
        """Rename its directory, of the same parent, while no thread works on it. Durable with
        `sync_entry` or a flush."""
        self._files.rename(self.path, path)
        self._disk.relocated(self.path, path)
        self.path = path
        self._snapshots.relocate(path)
        for segment in self._segments:
            segment.relocate(path)
        unsynced = [os.path.join(path, os.path.basename(name)) for name in self._unsynced]
        self._unsynced = collections.deque(unsynced)
        self.entry_durable = False

    # Compacting; what survives is decided elsewhere, see `cleaner.py`.

    @property
    def segments(self) -> tuple[Segment, ...]:
        """As they are now; the last one is active. They are for looking at, in any thread."""
        return self._segments

    @property
    def truncation_count(self) -> int:
        """Another number after each truncation."""
        return self._truncations

    def begin_cleaned(self, base_offset: Offset) -> Segment:
        """A new file to be filled in a worker thread, for `replace` or `discard_cleaned`."""
        if self._disk.offline is not None or self._closed:
            self._refuse()
        assert self._cleaned is None
        cleaned = Segment(self._disk, self.path, base_offset, new=True, suffix=CLEANED_SUFFIX)
        cleaned.create()
        cleaned.begin_rebuild()  # An index file of this name may be there, too.
        self._cleaned = cleaned
        return cleaned

    def seal_cleaned(self) -> None:
        """Make what was begun by `begin_cleaned` durable; in the worker thread that filled it.
        Errors: StorageError; but for DiskFull the disk is offline."""
        cleaned = self._cleaned
        assert cleaned is not None
        try:
            cleaned.seal()
            cleaned.fsync(indexes=True)
        except StorageError as error:
            self._disk.write_failed(error)
            raise
        cleaned.unload_indexes()

    def discard_cleaned(self) -> None:
        """Give up what is not to replace anything, if there is such a thing."""
        cleaned, self._cleaned = self._cleaned, None
        if cleaned is None:
            return
        cleaned.close()
        # In a closed log's place there may be another by now; a start sweeps up what is left.
        if self._disk.offline is None and not self._closed:
            try:
                cleaned.discard(0)
            except StorageError as error:
                # Lying about, it would have a start undo what replaces segments above it.
                self._disk.fail(error)
                raise

    def replace(self, old: Sequence[Segment]) -> None:
        """Put what was begun by `begin_cleaned`, filled and durable by now, in place of `old`, a
        run of sealed segments from the same base offset on.

        Whenever the power goes, a start finds either those or this (`recovery.py`), provided that
        a directory's changes reach the disk in their order. Errors: StorageError; the disk is
        offline.
        """
        if self._disk.offline is not None or self._closed:
            self._refuse()
        cleaned, self._cleaned = self._cleaned, None
        assert cleaned is not None
        assert cleaned.base_offset == old[0].base_offset
        first = self._segments.index(old[0])
        last = first + len(old)
        assert self._segments[first:last] == tuple(old)
        assert last < len(self._segments), "the active segment is never compacted"
        try:
            cleaned.rename(SWAP_SUFFIX)
            self._remove(old, truncated=False)
            cleaned.rename("")
        except StorageError as error:
            self._disk.fail(error)
            raise
        self._segments = (*self._segments[:first], cleaned, *self._segments[last:])
        self._size = sum(segment.size for segment in self._segments)
        self._names_changed = True
        self._snapshots.keep_bases(segment.base_offset for segment in self._segments)

    # The end.

    def close(self, *, clean: bool) -> None:
        """Nothing more is read or written here; slices in use stay readable. Idempotent.

        `clean`: everything is durable afterwards, so that the next start may trust the files.
        Blocks on the disk then, but not if nothing happened since a clean start.
        Errors: StorageError if `clean`; the log stays open then.
        """
        if self._closed:
            return
        if clean:
            try:
                self._settle()
            except StorageError as error:
                self._disk.write_failed(error)
                raise
        self._closed = True
        for segment in (*self._segments, *([self._cleaned] if self._cleaned else [])):
            segment.close()

    def _settle(self) -> None:
        """Snapshot, indexes and all, as a clean start wants to find them."""
        self._disk.check()
        self._active.trim()
        settled = self._closed_at == self._end == self.recovery_point
        if not settled and (self._active.size or len(self._segments) > 1 or len(self.producers)):
            self._active.seal()
            # Again, if there is one: of before a move.
            self._unsynced.append(self._snapshots.write(self._end, self.producers))
            self._names_changed = True
            self._flush(active_indexes=True)
            self._closed_at = self._end
        else:
            self.sync_names()


def _room(config: LogConfig) -> int:
    """What a new segment's file is to have room for."""
    return config.segment_bytes if config.preallocate else 0


def _base_offset(segment: Segment) -> Offset:
    return segment.base_offset


def _ends(segments: Sequence[Segment], log_end_offset: Offset) -> list[Offset]:
    return [*(segment.base_offset for segment in segments[1:]), log_end_offset]
