"""Where in a segment an offset or a time is to be found: `.index` and `.timeindex`. And which
transactions were aborted in it: `.txnindex`.

All are sorted arrays of fixed-size big-endian entries, in the first two sparse, with the offset
relative to the segment's base. They are derived: whatever is lost is rebuilt from the batches. So
entries are kept in memory as they are on disk, and reach the file when the log is flushed, rolled
or closed, which costs the append path neither a system call nor an open file. A sealed segment's
offset and time index are read on first use and may be dropped again; of aborted transactions, which
few logs have, all are in memory.

Kafka maps its active indexes into memory, 10 MiB each, and trims them when a segment is rolled or
closed; we never pre-size them. Its tools accept both.

Threads: the loop appends and truncates; `floor` may run anywhere, since a truncation puts a new
array in place of the old one; `save` and `truncate` run under the segment's lock.
"""

import bisect
import operator
import struct
from collections.abc import Iterator
from typing import cast

from zkafka.errors import StorageError
from zkafka.log.disk import Disk
from zkafka.log.transactions import AbortedTransaction
from zkafka.model import Offset


class IndexFile:
    """A sorted array of entries of one `struct.Struct`, in memory and in a file.

    `entries` is None until they are needed; `written` of them are in the file already, -1 if the
    file is to be written anew.
    """

    __slots__ = ("_disk", "_files", "_format", "entries", "path", "written")

    def __init__(self, disk: Disk, path: str, entry: struct.Struct, *, new: bool) -> None:
        self._disk = disk
        self._files = disk.files
        self._format = entry
        self.path = path
        self.entries: bytearray | None = bytearray() if new else None
        self.written = 0

    def load(self) -> bool:
        """Read the file unless it was read before; False if it is missing or not whole entries."""
        if self.entries is not None:
            return True
        try:
            data = self._files.read_file(self.path)
        except StorageError as error:
            self._disk.read_failed(error)
            raise
        if data is None or len(data) % self._format.size:
            return False
        self.written = len(data) // self._format.size
        self.entries = bytearray(data)
        return True

    def unload(self) -> None:
        """Forget the entries in memory, if all are in the file."""
        if self.entries is not None and self.written * self._format.size == len(self.entries):
            self.entries = None

    def clear(self) -> None:
        """No entries, whatever the file holds; `save` will overwrite it."""
        self.entries = bytearray()
        self.written = -1

    @property
    def contents(self) -> bytearray:
        """The entries, read from the file if they are not in memory."""
        # Each look-up holds on to one array: another thread may unload or truncate meanwhile.
        entries = self.entries
        while entries is None:
            if not self.load():
                raise StorageError(f"{self.path} vanished or was damaged while open", self.path)
            entries = self.entries
        return entries

    def append(self, *values: int) -> None:
        """One more entry, larger than the last."""
        self.contents.extend(self._format.pack(*values))

    def __len__(self) -> int:
        return len(self.contents) // self._format.size

    def is_sorted(self) -> bool:
        """Whether both fields rise, or stay, from entry to entry, from 0 on."""
        entries = list(self._format.iter_unpack(self.contents))
        for values in zip(*entries, strict=True):
            if values[0] < 0 or any(map(operator.gt, values, values[1:])):
                return False
        return True

    def last(self) -> tuple[int, int] | None:
        """The last entry, its offset still relative; None if there is none."""
        entries = self.contents
        return self._unpack(entries, len(entries) - self._format.size) if entries else None

    def floor(self, target: int, field: int) -> tuple[int, int] | None:
        """The last entry with `entry[field] <= target`."""
        entries = self.contents
        count = self._bisect(entries, target, field)
        return self._unpack(entries, (count - 1) * self._format.size) if count else None

    def entries_from(self, target: int, field: int) -> Iterator[tuple[int, ...]]:
        """The entries with `entry[field] >= target`."""
        entries, size = self.contents, self._format.size
        for number in range(self._bisect(entries, target - 1, field), len(entries) // size):
            yield self._format.unpack_from(entries, number * size)

    def _bisect(self, entries: bytearray, target: int, field: int) -> int:
        size, unpack = self._format.size, self._format.unpack_from
        return bisect.bisect_right(
            range(len(entries) // size),
            target,
            key=lambda number: cast(int, unpack(entries, number * size)[field]),
        )

    def _unpack(self, entries: bytearray, at: int) -> tuple[int, int]:
        first, second = self._format.unpack_from(entries, at)
        return first, second

    def keep_through(self, target: int, field: int) -> None:
        """Drop the entries with `entry[field] > target`, in the file too."""
        entries = self.contents
        count = self._bisect(entries, target, field)
        self.entries = entries[: count * self._format.size]
        if self.written > count:
            fd = self._files.open(self.path)
            try:
                self._files.truncate(fd, count * self._format.size)
            finally:
                self._files.close(fd)
            self.written = count

    def replace(self) -> None:
        """Put the entries, which are in memory, in place of the file, durably and at once: a power
        cut leaves the old file or the new."""
        entries = self.contents
        self._files.replace(self.path, entries)
        self.written = len(entries) // self._format.size

    def save(self) -> None:
        """Bring the file up to date, into the page cache; `Files.fsync_path` makes it durable."""
        if self.entries is None:
            return
        size = self._format.size
        fd = self._files.open(self.path, create=True)
        try:
            if self.written < 0:
                self._files.truncate(fd, 0)
                self.written = 0
            # A copy, and no view: the loop may append meanwhile.
            missing = self.entries[self.written * size :]
            if missing:
                self._files.write(fd, [missing], self.written * size)
                self.written += len(missing) // size
        finally:
            self._files.close(fd)


class OffsetIndex:
    """Offset -> position of a batch at or before it.

    An entry is (last offset of a batch - base, position of that batch); the first batch of a
    segment needs none.
    """

    ENTRY = struct.Struct(">iI")

    __slots__ = ("_base", "file")

    def __init__(self, disk: Disk, path: str, base_offset: Offset, *, new: bool) -> None:
        self._base = base_offset
        self.file = IndexFile(disk, path, self.ENTRY, new=new)

    def append(self, last_offset: Offset, position: int) -> None:
        """The batch about to be accounted at `position` ends with `last_offset`."""
        self.file.append(last_offset - self._base, position)

    def floor(self, offset: Offset) -> tuple[Offset, int]:
        """The last entry with an offset <= `offset`, as (offset, position); the segment's start if
        there is none. A batch that holds `offset`, or is the first after it, is at or behind it."""
        return self._absolute(self.file.floor(offset - self._base, 0))

    def position_floor(self, position: int) -> int:
        """The last indexed position <= `position`, where a batch starts; 0 if there is none."""
        return self._absolute(self.file.floor(position, 1))[1]

    def ceiling(self, position: int) -> Offset | None:
        """The last offset of the first indexed batch at or behind `position`; None if there is
        none."""
        for entry in self.file.entries_from(position, 1):
            return self._base + entry[0]
        return None

    def last(self) -> tuple[Offset, int]:
        """The last entry, or the segment's start."""
        return self._absolute(self.file.last())

    def _absolute(self, entry: tuple[int, int] | None) -> tuple[Offset, int]:
        return (self._base + entry[0], entry[1]) if entry is not None else (self._base, 0)

    def truncate(self, position: int) -> None:
        """Forget the batches from `position` on."""
        self.file.keep_through(position - 1, 1)


class TimeIndex:
    """Timestamp -> offset of a batch, before which every timestamp is smaller or equal.

    An entry is (largest timestamp so far, last offset of the batch that has it - base). Timestamps
    rise strictly from entry to entry.
    """

    ENTRY = struct.Struct(">qi")

    __slots__ = ("_base", "file")

    def __init__(self, disk: Disk, path: str, base_offset: Offset, *, new: bool) -> None:
        self._base = base_offset
        self.file = IndexFile(disk, path, self.ENTRY, new=new)

    def append_if_later(self, timestamp: int, offset: Offset) -> None:
        """An entry, if `timestamp` is larger than the last entry's."""
        if timestamp > self.last()[0]:
            self.file.append(timestamp, offset - self._base)

    def last(self) -> tuple[int, Offset]:
        """The last entry as (timestamp, offset); (-1, base offset) if there is none."""
        entry = self.file.last()
        return (entry[0], self._base + entry[1]) if entry is not None else (-1, self._base)

    def floor(self, timestamp: int) -> tuple[int, Offset]:
        """The last entry with a smaller timestamp; (-1, base offset) if there is none.

        Every record before that offset has a smaller timestamp than the one asked for.
        """
        entry = self.file.floor(timestamp - 1, 0)
        return (entry[0], self._base + entry[1]) if entry is not None else (-1, self._base)

    def truncate(self, offset: Offset) -> None:
        """Forget what was written at `offset` and later."""
        self.file.keep_through(offset - 1 - self._base, 1)


class TransactionIndex:
    """The aborted transactions whose markers lie in one segment, in their order. There is a file
    once there was one of them."""

    ENTRY = struct.Struct(">hqqqq")
    _VERSION = 0
    _LAST_OFFSET = 3

    __slots__ = ("_base", "_is_on_disk", "file")

    def __init__(self, disk: Disk, path: str, base_offset: Offset) -> None:
        self._base = base_offset
        self.file = IndexFile(disk, path, self.ENTRY, new=True)
        self._is_on_disk = False

    def __iter__(self) -> Iterator[AbortedTransaction]:
        for entry in self.file.entries_from(0, self._LAST_OFFSET):
            yield AbortedTransaction._make(entry[1:])

    @property
    def is_on_disk(self) -> bool:
        """Whether there is a file."""
        return self._is_on_disk

    def load(self, end_offset: Offset) -> bool:
        """Read the file, which is there, of a segment that ends there or below; False, and no
        entries, if it is damaged."""
        self._is_on_disk = True
        self.file.entries = None
        if self.file.load() and self._is_sane(end_offset):
            return True
        self.file.clear()
        return False

    def _is_sane(self, end_offset: Offset) -> bool:
        last_before = self._base - 1
        for version, producer_id, first, last, stable in self.ENTRY.iter_unpack(self.file.contents):
            if (
                version != self._VERSION
                or producer_id < 0
                or not 0 <= first < last
                or not last_before < last < end_offset
                or not 0 <= stable <= last + 1
            ):
                return False
            last_before = last
        return True

    def append(self, aborted: AbortedTransaction) -> None:
        """One more, whose marker is the last so far."""
        self.file.append(self._VERSION, *aborted)

    def find(self, start: Offset, end: Offset) -> tuple[list[AbortedTransaction], bool]:
        """Those that overlap offsets from `start` up to `end`, exclusive; and whether one in a
        later segment may."""
        found = []
        for entry in self.file.entries_from(start, self._LAST_OFFSET):
            aborted = AbortedTransaction._make(entry[1:])
            if aborted.first_offset < end:
                found.append(aborted)
            if aborted.last_stable_offset >= end:
                return found, False
        return found, True

    def truncate(self, end_offset: Offset) -> None:
        """Forget those whose markers lie at `end_offset` or later."""
        self.file.keep_through(end_offset - 1, self._LAST_OFFSET)

    def save(self) -> None:
        """As `IndexFile.save`, if there is something to save, or a file."""
        if self._is_on_disk or self.file.contents:
            self.file.save()
            self._is_on_disk = True
