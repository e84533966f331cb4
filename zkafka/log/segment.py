"""One `.log` file of batches back to back, with its indexes, and slices of it for readers.

A segment knows positions and sizes; which offsets it may give out, and when to begin a new one, is
its log's affair. The end of what was appended lately is also in a small table in memory, from
which a consumer or follower near the end is served without a look at the disk.

A file descriptor is opened at first use and kept until the segment was closed by its log and the
last slice of it was released, whichever comes later: removed segments stay readable for those who
are at it.
"""

import bisect
import logging
import os
import struct
import threading
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zkafka.config import LogConfig
from zkafka.errors import StorageError
from zkafka.log.disk import Disk
from zkafka.log.files import Bytes
from zkafka.log.index import OffsetIndex, TimeIndex, TransactionIndex
from zkafka.model import NO_OFFSET, Offset
from zkafka.protocol.records import (
    HEADER_SIZE,
    LENGTH_OVERHEAD,
    MAGIC,
    Batch,
    verify_crc,
)

logger = logging.getLogger(__name__)

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
TIME_INDEX_SUFFIX = ".timeindex"
TXN_INDEX_SUFFIX = ".txnindex"
DELETED_SUFFIX = ".deleted"
CLEANED_SUFFIX = ".cleaned"
"""Of a segment that compaction is writing."""
SWAP_SUFFIX = ".swap"
"""Of one that is whole, and about to replace those it was made of."""

_TAIL_BATCHES = 512
"""How many of the last batches the table holds at least, once there were as many; twice that at
most, 16 bytes each. A follower asking twice a second under 1,000 small requests a second stays
in."""

_LOOKUP_CHUNK = 8 << 10
"""Bytes read to find a batch behind an index entry: an index interval, and a batch more."""
_SCAN_CHUNK = 1 << 20
"""Bytes read at once by recovery."""

_REBUILD_INTERVAL = 4096
"""index.interval.bytes by default: for an index that is missed long after the log was opened."""

_OFFSET_DELTA_MAX = 2**31 - 1

_unpack_extent = struct.Struct(">qi4xb").unpack_from


class Extent(NamedTuple):
    """What a segment must know of a batch to place it."""

    size: int
    last_offset: Offset
    max_timestamp: int


class Found(NamedTuple):
    """A batch on disk; of `batch` only the header may be there, so `size` is the batch's."""

    position: int
    size: int
    batch: Batch


class SegmentGone(Exception):
    """The segment was closed, its files perhaps renamed, when another thread was to open them."""


class LogSlice:
    """`size` bytes of a segment from `position`, whole batches but perhaps for the last.

    Made with one reader counted, who releases it: until then `read` and `fileno` hold, even if the
    segment is removed meanwhile. Any thread.
    """

    __slots__ = ("_cuts_seen", "_segment", "position", "size")

    def __init__(self, segment: "Segment", position: int, size: int) -> None:
        assert size > 0
        assert position + size <= segment.size
        self._segment = segment
        self._cuts_seen = segment.cut_count
        self.position = position
        self.size = size

    def __repr__(self) -> str:
        return f"<LogSlice {self._segment.path} {self.position}+{self.size}>"

    def fileno(self) -> int:
        """The open `.log` file, for sendfile from `position`."""
        return self._segment.fd

    def read(self) -> bytes:
        """The bytes; a StorageError if the file has fewer."""
        return self._segment.read(self.position, self.size)

    def read_failed(self, error: OSError) -> None:
        """Reading `fileno()` failed; not sending. As when `read` fails, the directory goes offline
        if it was the disk's fault."""
        self._segment.read_failed(error)

    @property
    def segment(self) -> "Segment":
        """The segment it is of."""
        return self._segment

    @property
    def intact(self) -> bool:
        """False once the log was truncated below the slice's end: what lies there now may be other
        bytes, and a sender who is in the middle must give up the connection."""
        return self._segment.lowest_cut_since(self._cuts_seen) >= self.position + self.size

    def release(self) -> None:
        """This reader is done."""
        self._segment.release()


class Segment:
    """The batches from `base_offset` on, in `size` bytes.

    Holds: positions in the tail table, offsets and timestamps in the indexes rise; a batch's index
    entry names its last offset and the position where it starts. Only the loop changes it, save for
    `save_indexes` and the count of readers, which a lock guards.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        base_offset: Offset,
        *,
        size: int = 0,
        new: bool = False,
        suffix: str = "",
    ) -> None:
        """An existing file of `size` bytes, or a `new` one that `create` is to make. The names of
        all its files end with `suffix`."""
        self.base_offset = base_offset
        self.size = size
        self.directory = directory
        self.stem = os.path.join(directory, f"{base_offset:020d}")
        self.suffix = suffix
        self.path = self.stem + LOG_SUFFIX + suffix
        self.created_ms: int | None = None
        self.offset_index = OffsetIndex(
            disk, self.stem + INDEX_SUFFIX + suffix, base_offset, new=new
        )
        self.time_index = TimeIndex(
            disk, self.stem + TIME_INDEX_SUFFIX + suffix, base_offset, new=new
        )
        self.transaction_index = TransactionIndex(
            disk, self.stem + TXN_INDEX_SUFFIX + suffix, base_offset
        )
        self._disk = disk
        self._files = disk.files
        self._fd: int | None = None
        self._lock = threading.RLock()
        self._readers = 0
        self._closed = False
        self._is_allocated = False
        self._cuts: list[int] = []
        # The largest timestamp so far and the last offset of the batch that has it. What an
        # existing file has is in its time index, once that is loaded.
        self._largest: tuple[int, Offset] | None = (-1, NO_OFFSET) if new else None
        self._first_timestamp: int | None = None
        self._bytes_since_index_entry: int | None = 0 if new else None
        # Boundaries of the last batches, (offsets, positions): batch i lies at positions[i - 1] up
        # to positions[i], and its last offset is offsets[i]. Element 0 is where the table begins:
        # every batch before it ends at or below offsets[0]. One pair, replaced whole, and appended
        # to positions first: a look-up in another thread finds a position for each offset.
        self._tail = self._new_tail() if new else (array("q"), array("q"))
        self._end_before_tail: Offset = NO_OFFSET

    def __repr__(self) -> str:
        return f"<Segment {self.path} size={self.size}>"

    # The file.

    @property
    def fd(self) -> int:
        """The open file; opened now if it was not. SegmentGone if there is none to open."""
        fd = self._fd
        if fd is None:
            with self._lock:
                if self._fd is None:
                    self._check_present()
                    try:
                        self._fd = self._files.open(self.path)
                    except StorageError as error:
                        self._disk.read_failed(error)
                        raise
                fd = self._fd
        return fd

    def _check_present(self) -> None:
        # By now another segment may have this name.
        if self._closed:
            raise SegmentGone(self.path)

    def create(self, allocate: int = 0) -> None:
        """Make the empty file; what an earlier segment of this name left in it is cut off.

        With `allocate` it has room for so many bytes from the beginning, and is longer than what is
        in it until `trim`. (After a crash, recovery finds where the batches end.)
        """
        assert self._fd is None
        fd = self._files.open(self.path, create=True)
        self._fd = fd
        if self._files.size(fd):
            self._files.truncate(fd, 0)
        if allocate:
            self._is_allocated = True
            try:
                self._files.allocate(fd, allocate)
            except StorageError:
                self.trim()
                self.close()
                raise

    def trim(self) -> None:
        """Give back the room that was not needed."""
        if self._is_allocated:
            self._files.truncate(self.fd, self.size)
            self._is_allocated = False

    def read(self, position: int, size: int) -> bytes:
        """Exactly `size` bytes from `position`."""
        fd = self.fd
        try:
            data = self._files.read(fd, size, position)
        except StorageError as error:
            self._disk.read_failed(error)
            raise
        if len(data) != size:
            raise StorageError(f"read {self.path}: {len(data)} of {size} bytes", self.path)
        return data

    def read_failed(self, failure: OSError) -> None:
        """Somebody read the open file by its descriptor, and failed."""
        error = StorageError(f"read {self.path}: {failure.strerror or failure}", self.path)
        error.__cause__ = failure
        self._disk.read_failed(error)

    def try_acquire(self) -> bool:
        """Count a reader, who keeps the file open; False if it was closed for good already."""
        with self._lock:
            if self._closed and not self._readers:
                return False
            self._readers += 1
            return True

    def release(self) -> None:
        """One reader less; the last one of a closed segment closes its file."""
        with self._lock:
            assert self._readers > 0
            self._readers -= 1
            self._close_if_unused()

    def close(self) -> None:
        """The log is done with this segment: its files are opened no more, and what is open is
        closed with its last reader. Idempotent."""
        with self._lock:
            self._closed = True
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._readers and self._fd is not None:
            fd, self._fd = self._fd, None
            self._files.close(fd)

    def slice(self, position: int, size: int) -> LogSlice:
        """A slice with its first reader counted."""
        _ = self.fd  # Opened now: later the file may have been renamed or unlinked.
        acquired = self.try_acquire()
        assert acquired, "no slice of a closed segment"
        return LogSlice(self, position, size)

    @property
    def cut_count(self) -> int:
        """How often the file was truncated."""
        return len(self._cuts)

    def lowest_cut_since(self, cuts_seen: int) -> int:
        """The lowest size that the file had since it was truncated `cuts_seen` times."""
        if len(self._cuts) == cuts_seen:
            return self.size
        return min(self._cuts[cuts_seen:])

    # Appending.

    def append(
        self, buffers: Sequence[Bytes], extents: Sequence[Extent], config: LogConfig
    ) -> None:
        """Write the batches, one system call, then account them.

        On a StorageError the file is as before; if it cannot be brought back there, the disk is
        offline.
        """
        start = position = self.size
        try:
            self._files.write(self.fd, buffers, position)
        except StorageError:
            self._cut_torn_tail(start)
            raise
        for extent in extents:
            self._account(position, extent, config.index_interval_bytes)
            position += extent.size
        self.size = position
        if self._first_timestamp is None and not start:
            self._first_timestamp = extents[0].max_timestamp

    def _cut_torn_tail(self, size: int) -> None:
        try:
            self._files.truncate(self.fd, size)
        except StorageError as error:
            logger.error("a torn batch stays behind file=%s size=%d", self.path, size)
            self._disk.fail(error)

    def _account(self, position: int, extent: Extent, interval: int) -> None:
        size, last_offset, max_timestamp = extent
        largest = self._largest
        since = self._bytes_since_index_entry
        if largest is None or since is None:
            largest, since = self._resume_indexes()
        if max_timestamp > largest[0]:
            self._largest = largest = (max_timestamp, last_offset)
        if since > interval:
            self.offset_index.append(last_offset, position)
            self.time_index.append_if_later(*largest)
            since = 0
        self._bytes_since_index_entry = since + size
        offsets, positions = self._tail
        if not offsets:
            # First append after a load. Whoever asks for something older looks into the index.
            positions.append(position)
            offsets.append(self._end_before_tail)
        positions.append(position + size)
        offsets.append(last_offset)
        if len(offsets) > 2 * _TAIL_BATCHES:
            self._tail = (offsets[_TAIL_BATCHES:], positions[_TAIL_BATCHES:])

    def _new_tail(self) -> "tuple[array[int], array[int]]":
        return array("q", [self.base_offset - 1]), array("q", [0])

    def _resume_indexes(self) -> tuple[tuple[int, Offset], int]:
        """Continue an existing file's indexes where they ended."""
        self.load_indexes()
        assert self._largest is not None
        self._bytes_since_index_entry = self.size - self.offset_index.last()[1]
        return self._largest, self._bytes_since_index_entry

    def resume_at(self, end_offset: Offset) -> None:
        """The file, as loaded, ends before `end_offset`."""
        self._end_before_tail = end_offset - 1

    def must_roll(
        self,
        incoming_size: int,
        incoming_timestamp: int,
        incoming_last_offset: Offset,
        config: LogConfig,
        now_ms: int | None,
        jitter_ms: int,
        *,
        batch_count: int = 1,
    ) -> bool:
        """Whether the batch about to be appended belongs in a new segment (formats, 4.5).

        It may be the last of `batch_count`, of `incoming_size` bytes together, in one write.
        `now_ms` may be unknown; then a segment without timestamps does not age.
        """
        if incoming_last_offset - self.base_offset > _OFFSET_DELTA_MAX:
            return True
        if self.size:
            if self.size + incoming_size > config.segment_bytes:
                return True
            # Its own age by its first batch's timestamp if it has one, by its creation if not.
            first = self._first_timestamp
            if first is None:
                first = self.first_timestamp
            if first >= 0:
                age = incoming_timestamp - first
            elif now_ms is not None:
                age = now_ms - self._creation_ms(now_ms)
            else:
                age = 0
            if age > config.max_segment_ms - jitter_ms:
                return True
        elif batch_count == 1:
            return False
        offsets, times = self.offset_index.file.entries, self.time_index.file.entries
        if offsets is None or times is None:
            self.load_indexes()
            offsets, times = self.offset_index.file.contents, self.time_index.file.contents
        limit = config.segment_index_bytes
        entries = batch_count
        if entries > 1:
            entries = min(entries, 1 + incoming_size // (config.index_interval_bytes + 1))
        # As in Kafka, the last place of the time index is for the entry of `seal`.
        return len(offsets) + 8 * entries > limit or len(times) + 12 * (entries + 1) > limit

    def _creation_ms(self, now_ms: int) -> int:
        if self.created_ms is None:
            self.created_ms = min(now_ms, self._files.modified_ms(self.path))
        return self.created_ms

    @property
    def first_timestamp(self) -> int:
        """The largest timestamp in the first batch, -1 without batches or timestamps."""
        if self._first_timestamp is None:
            if not self.size:
                return -1
            header = self.read(0, HEADER_SIZE)
            self._first_timestamp = Batch(memoryview(header)).max_timestamp
        return self._first_timestamp

    @property
    def largest(self) -> tuple[int, Offset]:
        """The largest timestamp and the last offset of the batch that has it; (-1, -1) if none."""
        if self._largest is None:
            self.load_indexes()
            assert self._largest is not None
        return self._largest

    @property
    def retention_timestamp(self) -> int:
        """The largest timestamp; the file's time of modification if no record has one."""
        timestamp = self.largest[0]
        return timestamp if timestamp >= 0 else self._files.modified_ms(self.path)

    def seal(self) -> None:
        """No more appends: the indexes get their last entry and their files (not yet durable)."""
        self.trim()
        self._add_last_time_entry()
        self.save_indexes()

    def _add_last_time_entry(self) -> None:
        timestamp, offset = self.largest
        if offset != NO_OFFSET:
            self.time_index.append_if_later(timestamp, offset)

    # Indexes.

    def load_indexes(self) -> None:
        """Read both indexes unless they are in memory; rebuild them if one is missing or
        damaged."""
        if (
            self.offset_index.file.entries is not None
            and self.time_index.file.entries is not None
            and self._largest is not None
        ):
            return
        with self._lock:
            if not (self.offset_index.file.load() and self.time_index.file.load() and self._sane()):
                self._rebuild_damaged()
            elif self._largest is None:
                timestamp, offset = self.time_index.last()
                self._largest = (timestamp, offset) if timestamp >= 0 else (-1, NO_OFFSET)
                if timestamp >= 0 and not self._bears(timestamp, offset):
                    self._rebuild_damaged()

    def _sane(self) -> bool:
        """Whether they can be indexes of this file. A bit that flipped in the middle may escape
        this; look-ups hold each entry that they use against the batch it points at."""
        offset, position = self.offset_index.last()
        return (
            offset >= self.base_offset
            and (position < self.size or not position)
            and self.offset_index.file.is_sorted()
            and self.time_index.file.is_sorted()
        )

    def _rebuild_damaged(self) -> None:
        logger.warning("rebuilding indexes segment=%s size=%d", self.path, self.size)
        with self._lock:
            self.rebuild_indexes(_REBUILD_INTERVAL)

    def rebuild_indexes(self, interval: int) -> None:
        """Both indexes anew from the batches' headers."""
        self.begin_rebuild()
        for position, size, batch in self.scan(0, self.size):
            self.rebuild_with(
                position, Extent(size, batch.last_offset, batch.max_timestamp), interval
            )
        if self._tail[1][-1] != self.size:
            # Something behind it is damaged, and the table must not say that nothing is there.
            self._tail = (array("q"), array("q"))
        self._add_last_time_entry()

    def begin_rebuild(self) -> None:
        """Forget both indexes and the tail table; `rebuild_with` every batch follows."""
        self.offset_index.file.clear()
        self.time_index.file.clear()
        self._largest = (-1, NO_OFFSET)
        self._bytes_since_index_entry = 0
        self._tail = self._new_tail()

    def rebuild_with(self, position: int, extent: Extent, interval: int) -> None:
        """The next batch found by a rebuild."""
        self._account(position, extent, interval)

    def save_indexes(self) -> bool:
        """Bring the index files up to date, into the page cache; False if this was closed."""
        with self._lock:
            if self._closed:
                return False
            self.offset_index.file.save()
            self.time_index.file.save()
            self.transaction_index.save()
            return True

    def fsync(self, *, indexes: bool) -> None:
        """The batches, then their indexes, survive a power cut; worker threads.

        An active segment's indexes are saved, not fsynced: recovery rebuilds them in any case.
        Quietly does less if the segment is closed or discarded meanwhile.
        """
        try:
            self._files.fsync(self.fd)
            if self.save_indexes() and indexes:
                self._files.fsync_path(self.offset_index.file.path)
                self._files.fsync_path(self.time_index.file.path)
                if self.transaction_index.is_on_disk:
                    self._files.fsync_path(self.transaction_index.file.path)
        except SegmentGone:
            return
        except StorageError as error:
            if not (self._closed and isinstance(error.__cause__, FileNotFoundError)):
                raise

    @property
    def index_sizes(self) -> tuple[int, int]:
        """Bytes of the offset index and of the time index."""
        self.load_indexes()
        offsets, times = self.offset_index, self.time_index
        return len(offsets.file) * offsets.ENTRY.size, len(times.file) * times.ENTRY.size

    def unload_indexes(self) -> None:
        """Drop from memory what the index files have; the next look-up reads them."""
        with self._lock:
            self.offset_index.file.unload()
            self.time_index.file.unload()

    # Looking up.

    def scan(self, position: int, end: int, *, chunk_size: int = _LOOKUP_CHUNK) -> Iterator[Found]:
        """The headers of the batches from `position`, where one starts, up to `end`.

        Stops before the first thing that cannot be a whole batch below `end`, with offsets above
        those before it and within what a segment may hold. CRCs are not looked at.
        """
        chunk = memoryview(b"")
        chunk_start = position
        lowest = self.base_offset
        while end - position >= HEADER_SIZE:
            at = position - chunk_start
            if at + HEADER_SIZE > len(chunk):
                chunk_start, at = position, 0
                chunk = memoryview(self.read(position, min(chunk_size, end - position)))
            base_offset, length, magic = _unpack_extent(chunk, at)
            size = length + LENGTH_OVERHEAD
            if magic != MAGIC or size < HEADER_SIZE or size > end - position:
                return
            batch = Batch(chunk[at : at + size])
            if (
                base_offset < lowest
                or batch.last_offset_delta < 0
                or batch.last_offset - self.base_offset > _OFFSET_DELTA_MAX
            ):
                return
            yield Found(position, size, batch)
            lowest = batch.last_offset + 1
            position += size

    def scan_verified(self, position: int = 0, *, chunk_size: int = _SCAN_CHUNK) -> Iterator[Found]:
        """Whole batches from `position` on, as long as they are sound to the last byte."""
        chunk = memoryview(b"")
        chunk_start = position
        for found in self.scan(position, self.size, chunk_size=chunk_size):
            position, size, batch = found
            if len(batch.view) < size:
                if position + size > chunk_start + len(chunk):
                    chunk_start = position
                    chunk = memoryview(self.read(position, size))
                at = position - chunk_start
                batch = Batch(chunk[at : at + size])
            if not verify_crc(batch):
                return
            yield Found(position, size, batch)

    def batch_at(self, position: int, size: int) -> Batch:
        """The whole batch, read."""
        return Batch(memoryview(self.read(position, size)))

    def locate(self, offset: Offset) -> tuple[int, int] | None:
        """(position, size) of the first batch that ends at or above `offset`; None if all end
        below.

        From the tail table if it reaches back so far, else by the index and a read.
        """
        offsets, positions = self._tail
        if offsets and offset > offsets[0]:
            number = bisect.bisect_left(offsets, offset)
            if number == len(offsets):
                return None
            start = positions[number - 1]
            return start, positions[number] - start
        for last_try in (False, True):
            self.load_indexes()
            floor, start = self.offset_index.floor(offset)
            file_end = self.size
            end = start
            for position, size, batch in self.scan(start, file_end):
                if start == position > 0 and batch.base_offset > floor:
                    break  # The entry is of another batch.
                if batch.last_offset >= offset:
                    return position, size
                end = position + size
            if end == file_end:
                return None
            if last_try:
                raise StorageError(f"{self.path} is damaged at position {end}", self.path)
            self._rebuild_damaged()
        raise AssertionError

    def time_floor(self, timestamp: int) -> Offset:
        """An offset before which every record has a smaller timestamp; the base offset if no more
        is known."""
        self.load_indexes()
        known, offset = self.time_index.floor(timestamp)
        if known >= 0 and not self._bears(known, offset):
            self._rebuild_damaged()
            return self.time_index.floor(timestamp)[1]
        return offset

    def _bears(self, timestamp: int, offset: Offset) -> bool:
        """Whether the batch at `offset` has this largest timestamp."""
        for _, _, batch in self.scan(self.offset_index.floor(offset)[1], self.size):
            if batch.last_offset >= offset:
                return batch.max_timestamp == timestamp
        return False

    def position_of(self, offset: Offset) -> int:
        """Where the first batch starts that ends at or above `offset`; the size if all end
        below."""
        offsets, positions = self._tail
        if offsets and offset > offsets[0]:
            return positions[bisect.bisect_left(offsets, offset) - 1]
        found = self.locate(offset)
        return self.size if found is None else found[0]

    def boundary_before(self, position: int, start: int) -> int:
        """The end of a batch in (start, position], the last one that is known without a read;
        `start` if none is."""
        positions = self._tail[1]
        if positions and positions[0] <= position:
            return max(positions[bisect.bisect_right(positions, position) - 1], start)
        self.load_indexes()
        return max(self.offset_index.position_floor(position), start)

    def offset_bound(self, position: int) -> Offset | None:
        """An offset above those of all batches before `position`, by an index interval or so; None
        if the end of the segment is the nearest known."""
        self.load_indexes()
        return self.offset_index.ceiling(position)

    def approximate_position(self, offset: Offset) -> int:
        """`position_of` without reading batches: up to an index interval too low."""
        offsets, positions = self._tail
        if offsets and offset > offsets[0]:
            return positions[bisect.bisect_left(offsets, offset) - 1]
        self.load_indexes()
        return self.offset_index.floor(offset)[1]

    # Truncating and removing.

    def truncate_at(self, position: int, end_offset: Offset) -> None:
        """Cut the file where a batch starts; offsets from `end_offset` on are gone.

        On a StorageError nothing is known of the file's length, and the disk is offline.
        """
        assert 0 <= position <= self.size
        self.load_indexes()
        self._cuts.append(position)
        try:
            self._files.truncate(self.fd, position)
            with self._lock:
                self.offset_index.truncate(position)
                self.time_index.truncate(end_offset)
                self.transaction_index.truncate(end_offset)
        except StorageError as error:
            self._disk.fail(error)
            raise
        self.size = position
        offsets, positions = self._tail
        keep = bisect.bisect_right(positions, position)
        self._tail = (offsets[:keep], positions[:keep])
        self.resume_at(end_offset)
        timestamp, offset = self.time_index.last()
        self._largest = (timestamp, offset) if timestamp >= 0 else (-1, NO_OFFSET)
        # The batches between the last time index entry and the cut may have larger timestamps.
        start = self.offset_index.floor(offset)[1] if timestamp >= 0 else 0
        for _, _, batch in self.scan(start, position):
            if batch.max_timestamp > self._largest[0]:
                self._largest = (batch.max_timestamp, batch.last_offset)
        self._bytes_since_index_entry = position - self.offset_index.last()[1]
        if not position:
            self._first_timestamp = None

    def rename(self, suffix: str) -> None:
        """Give all files this suffix in place of the one they have.

        The `.log` goes first: on its name depends what a start makes of them all.
        """
        for name in (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX):
            if name != TXN_INDEX_SUFFIX or self.transaction_index.is_on_disk:
                stem = self.stem + name
                self._files.rename(stem + self.suffix, stem + suffix)
        self.suffix = suffix
        self._name_files()

    def relocate(self, directory: str) -> None:
        """The directory was renamed to this, while no thread opens files by name."""
        self.directory = directory
        self.stem = os.path.join(directory, os.path.basename(self.stem))
        self._name_files()

    def _name_files(self) -> None:
        stem, suffix = self.stem, self.suffix
        self.path = stem + LOG_SUFFIX + suffix
        self.offset_index.file.path = stem + INDEX_SUFFIX + suffix
        self.time_index.file.path = stem + TIME_INDEX_SUFFIX + suffix
        self.transaction_index.file.path = stem + TXN_INDEX_SUFFIX + suffix

    def look_as_old_as(self, other: "Segment") -> None:
        """Take over the file's time of modification: where records have no timestamps, retention
        goes by it."""
        self._files.set_modified_ms(self.path, self._files.modified_ms(other.path))

    def mark_cut(self) -> None:
        """The log was truncated below this whole segment: no slice of it is intact."""
        self._cuts.append(0)

    def discard(self, delay_ms: int) -> None:
        """Rename the files to `.deleted`, to be unlinked after the delay, and close.

        The `.log` goes first: an index without a log is swept up at the next start.
        """
        with self._lock:
            self._closed = True  # From here on no thread opens the files by name.
        for suffix in (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX):
            path = self.stem + suffix + self.suffix
            if suffix == LOG_SUFFIX or self._files.exists(path):
                self._files.rename(path, path + DELETED_SUFFIX)
                self._disk.discard(path + DELETED_SUFFIX, delay_ms)
        self.close()
