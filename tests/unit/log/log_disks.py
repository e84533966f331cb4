"""Two other disks for `zkafka.log`: one that refuses, one that forgets.

`FaultyFiles` is the real file system with faults planned: the nth call of an operation fails, or a
write comes up short. `ForgetfulFiles` is a file system in memory that remembers what was fsynced
and what was not, and after a power cut gives back an image in which any of the latter may be
missing: of each file and of each directory an arbitrary number of the latest changes, the first
lost write torn between any two sectors, and zeros in place of some that were never fsynced.
"""

import errno
import os
import posixpath
from random import Random

from zkafka.errors import StorageError
from zkafka.log.files import Files, storage_error


class FaultyFiles(Files):
    """`plan[(operation, n)]` is what happens to the nth call of it, counted from `arm`: an errno,
    or SHORT for a write that takes half of the bytes."""

    SHORT = -1

    def __init__(self, plan=None):
        super().__init__()
        self.plan = dict(plan or {})
        self.counts = {}

    def arm(self, **plan):
        """`arm(write=[None, errno.ENOSPC])`: from now on the second write fails."""
        self.counts = {}
        self.plan = {
            (operation, n): fault
            for operation, faults in plan.items()
            for n, fault in enumerate(faults, 1)
            if fault is not None
        }

    def _do(self, operation, path, call, *args, **kwargs):
        n = self.counts[operation] = self.counts.get(operation, 0) + 1
        fault = self.plan.get((operation, n))
        if fault == self.SHORT:
            fd, buffers, position = args
            data = b"".join(buffers)
            return os.pwrite(fd, data[: len(data) // 2], position)
        if fault is not None:
            raise storage_error(operation, path, OSError(fault, os.strerror(fault)))
        return super()._do(operation, path, call, *args, **kwargs)


SECTOR = 16
"""Bytes that reach a disk together. Real ones are larger; so small a one tears most batches, and
none between their leader epoch and the checksum that does not cover it."""


class PowerCut(BaseException):
    """The process is no more; nothing catches this."""


class File:
    def __init__(self, durable=b""):
        self.durable = durable
        self.data = bytearray(durable)
        self.pending = []  # ("write", position, bytes) and ("truncate", size), not fsynced yet

    def apply(self, change):
        _apply(self.data, change)
        self.pending.append(change)

    def fsync(self):
        self.durable = bytes(self.data)
        self.pending = []

    def image(self, rng):
        """What a power cut leaves."""
        data = bytearray(self.durable)
        if rng is None:
            return bytes(self.data)
        kept = rng.randint(0, len(self.pending))
        for change in self.pending[:kept]:
            _apply(data, change)
            if change[0] == "write" and rng.random() < 0.05:
                # The file grew, but these pages were never written.
                _, position, written = change
                hole = _torn_at(position, rng.randrange(len(written)))
                data[position + hole : position + len(written)] = bytes(len(written) - hole)
        if kept < len(self.pending) and self.pending[kept][0] == "write":
            _, position, written = self.pending[kept]
            torn_at = _torn_at(position, rng.randrange(len(written)))
            _apply(data, ("write", position, written[:torn_at]))
        return bytes(data)


def _torn_at(position, size):
    """How much of a write at `position` is there, if some `size` bytes are: whole sectors."""
    return max(0, size - (position + size) % SECTOR)


def _apply(data, change):
    if change[0] == "truncate":
        size = change[1]
        del data[size:]
        data.extend(bytes(size - len(data)))
    else:
        _, position, written = change
        if position > len(data):
            data.extend(bytes(position - len(data)))
        data[position : position + len(written)] = written


class Directory:
    def __init__(self):
        self.entries = {}
        self.durable = {}
        self.pending = []  # each a list of (name, node or None), which happen together

    def change(self, *changes):
        for name, node in changes:
            _set_entry(self.entries, name, node)
        self.pending.append(changes)

    def fsync(self):
        self.durable = dict(self.entries)
        self.pending = []

    def image(self, rng):
        entries = dict(self.durable)
        kept = len(self.pending) if rng is None else rng.randint(0, len(self.pending))
        for changes in self.pending[:kept]:
            for name, node in changes:
                _set_entry(entries, name, node)
        result = Directory()
        for name, node in entries.items():
            image = node.image(rng)
            result.entries[name] = image if isinstance(image, Directory) else File(image)
        result.fsync()
        return result


def _set_entry(entries, name, node):
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


class ForgetfulFiles(Files):
    """A disk in memory. `changes` counts what was done to it; the change numbered `cut_at` is only
    begun, and from then on every call raises `PowerCut`. `room` is how many more bytes may be
    written before the disk is full; None for any number. `before_change` is called before every
    change and in the middle of every write: the disk as it is then is what a crash would find."""

    def __init__(self, root=None):
        super().__init__()
        self.root = root or Directory()
        self.room = None
        self.changes = 0
        self.cut_at = None
        self.before_change = None
        self.open_files = {}
        self._next_fd = 3
        self._locked = set()

    def after_power_cut(self, rng: Random | None):
        """The disk as it is found after the power went; `rng` None: only the process was killed."""
        return ForgetfulFiles(self.root.image(rng))

    def _changing(self):
        """Count a change; True if the power goes in the middle of it."""
        if self.cut_at is not None and self.changes >= self.cut_at:
            raise PowerCut
        if self.before_change is not None:
            self.before_change()
        self.changes += 1
        return self.changes == self.cut_at

    def _take_room(self, wanted):
        """How many of the bytes wanted there is room for."""
        if self.room is None:
            return wanted
        taken = min(wanted, self.room)
        self.room -= taken
        return taken

    @staticmethod
    def _full(path):
        return storage_error("write", path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _node(self, path):
        node = self.root
        if path == "/":
            return node
        for name in path.strip("/").split("/"):
            if not isinstance(node, Directory) or name not in node.entries:
                return None
            node = node.entries[name]
        return node

    def _parent(self, path):
        parent, name = posixpath.split(path)
        node = self._node(parent) if parent.strip("/") else self.root
        if not isinstance(node, Directory):
            raise self._missing(path)
        return node, name

    @staticmethod
    def _missing(path):
        error = StorageError(f"open {path}: {os.strerror(errno.ENOENT)}", path)
        error.__cause__ = FileNotFoundError(path)
        return error

    def open(self, path, *, create=False):
        node = self._node(path)
        if node is None:
            if not create:
                raise self._missing(path)
            parent, name = self._parent(path)
            if self.room == 0:
                raise self._full(path)
            node = File()
            cut = self._changing()
            parent.change((name, node))
            if cut:
                raise PowerCut
        fd = self._next_fd
        self._next_fd += 1
        self.open_files[fd] = node
        return fd

    def close(self, fd):
        del self.open_files[fd]

    def size(self, fd):
        return len(self.open_files[fd].data)

    def write(self, fd, buffers, position):
        data = b"".join(buffers)
        taken = self._take_room(len(data))
        full = taken < len(data)
        if full and not taken:
            raise self._full("a file")
        cut = self._changing()
        if cut:
            taken //= 2
        file = self.open_files[fd]
        if self.before_change is not None and taken > 1:
            # A moment in the middle of it, too.
            file.apply(("write", position, data[: taken // 2]))
            self.before_change()
            file.apply(("write", position + taken // 2, data[taken // 2 : taken]))
        else:
            file.apply(("write", position, data[:taken] or b"?"))
        if cut:
            raise PowerCut
        if full:
            raise self._full("a file")

    def read(self, fd, size, position):
        return bytes(self.open_files[fd].data[position : position + size])

    def truncate(self, fd, size):
        cut = self._changing()
        self.open_files[fd].apply(("truncate", size))
        if cut:
            raise PowerCut

    def fsync(self, fd):
        if self._changing():
            raise PowerCut
        self.open_files[fd].fsync()

    def fsync_path(self, path):
        node = self._node(path)
        if node is None:
            raise self._missing(path)
        if self._changing():
            raise PowerCut
        node.fsync()

    def read_file(self, path):
        node = self._node(path)
        return None if node is None else bytes(node.data)

    def rename(self, source, target):
        node = self._node(source)
        if node is None:
            raise self._missing(source)
        parent, name = self._parent(source)
        other, new_name = self._parent(target)
        assert parent is other
        cut = self._changing()
        parent.change((name, None), (new_name, node))
        if cut:
            raise PowerCut

    def unlink(self, path):
        if self._node(path) is not None:
            parent, name = self._parent(path)
            cut = self._changing()
            parent.change((name, None))
            if cut:
                raise PowerCut

    def exists(self, path):
        return self._node(path) is not None

    def size_of(self, path):
        return len(self._node(path).data)

    def modified_ms(self, path):
        return 0

    def set_modified_ms(self, path, modified_ms):
        assert modified_ms == 0

    def list_names(self, path):
        return sorted(self._node(path).entries)

    def list_directories(self, path):
        entries = self._node(path).entries
        return sorted(name for name, node in entries.items() if isinstance(node, Directory))

    def make_directory(self, path):
        parent, name = self._parent(path)
        assert name not in parent.entries
        cut = self._changing()
        parent.change((name, Directory()))
        if cut:
            raise PowerCut

    def make_directories(self, path):
        if self._node(path) is None:
            self.make_directories(posixpath.dirname(path))
            self.make_directory(path)

    def remove_tree(self, path):
        self.unlink(path)

    def lock(self, path):
        if path in self._locked:
            return None
        return self.open(path, create=True)
