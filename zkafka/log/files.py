"""Open, write, fsync, rename: the disk seam.

Everything that `zkafka.log` does to a disk is a method of `Files`, so that a simulation can supply
a disk that forgets, tears and fills up. An open file is an `int`, as the kernel has it, since
sendfile wants one. Every failure is a `StorageError` that names the path, want of room a
`DiskFull`; a file that is not there is a `None` or an empty answer where that is an ordinary case.

A test double overrides `_do`, through which each system call goes, or the methods themselves.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeAlias, TypeVar

from zkafka.errors import DiskFull, StorageError

Bytes: TypeAlias = bytes | bytearray | memoryview
P = ParamSpec("P")
T = TypeVar("T")

_BUFFERS_PER_WRITE = 1024
"""IOV_MAX of Linux: how many buffers one pwritev takes."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def storage_error(operation: str, path: str, error: OSError) -> StorageError:
    """What a failed system call is to us.

    An fsync that finds no room (a thin volume, a network disk) has lost what was written before:
    that is no `DiskFull`.
    """
    full = error.errno in _NO_ROOM and operation != "fsync"
    raised = (DiskFull if full else StorageError)(
        f"{operation} {path}: {error.strerror or error}", path
    )
    raised.__cause__ = error
    return raised


class Files:
    """The file system of the operating system."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def _do(
        self, operation: str, path: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`call(*args)`, its OSError told as a StorageError about `path`."""
        try:
            return call(*args, **kwargs)
        except OSError as error:
            raise storage_error(operation, path, error) from error

    # Open files.

    def open(self, path: str, *, create: bool = False) -> int:
        """Open for reading and writing, at first use creating an empty file if `create`."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        fd = self._do("open", path, os.open, path, flags, 0o644)
        self._paths[fd] = path
        return fd

    def close(self, fd: int) -> None:
        """Give the descriptor back; the caller lets nobody use it afterwards."""
        self._do("close", self._paths.pop(fd, "?"), os.close, fd)

    def size(self, fd: int) -> int:
        """Length of an open file in bytes."""
        return self._do("stat", self._paths[fd], os.fstat, fd).st_size

    def write(self, fd: int, buffers: Sequence[Bytes], position: int) -> None:
        """All of `buffers`, back to back from `position`: one system call unless it comes up short.

        After a StorageError any part of them may be in the file: the caller cuts it off.
        """
        path = self._paths[fd]
        if len(buffers) > _BUFFERS_PER_WRITE:
            for first in range(0, len(buffers), _BUFFERS_PER_WRITE):
                some = buffers[first : first + _BUFFERS_PER_WRITE]
                self.write(fd, some, position)
                position += sum(map(len, some))
            return
        total = sum(map(len, buffers))
        written = self._do("write", path, os.pwritev, fd, buffers, position)
        if written == total:
            return
        # Rare: the disk is nearly full, a signal came, or the kernel's 2 GiB limit was met.
        rest = memoryview(b"".join(buffers))
        while written < total:
            more = self._do("write", path, os.pwritev, fd, [rest[written:]], position + written)
            if more == 0:
                raise storage_error("write", path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            written += more

    def read(self, fd: int, size: int, position: int) -> bytes:
        """Up to `size` bytes from `position`; fewer only at the end of the file."""
        path = self._paths[fd]
        data = self._do("read", path, os.pread, fd, size, position)
        while len(data) < size:
            more = self._do("read", path, os.pread, fd, size - len(data), position + len(data))
            if not more:
                break
            data += more
        return data

    def allocate(self, fd: int, size: int) -> None:
        """Make the file at least `size` bytes long, of zeros and with room on the disk."""
        self._do("allocate", self._paths[fd], os.posix_fallocate, fd, 0, size)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file at `size` bytes."""
        self._do("truncate", self._paths[fd], os.ftruncate, fd, size)

    def fsync(self, fd: int) -> None:
        """Everything written to the file survives a power cut; blocks, so in a worker thread.

        A failure is final: the kernel may have dropped the pages and call them clean, so that a
        second fsync would succeed without the data (the lesson of PostgreSQL, 2018).
        """
        self._do("fsync", self._paths[fd], os.fsync, fd)

    # Paths.

    def fsync_path(self, path: str) -> None:
        """As `fsync`, for a file or a directory that is not open. A directory's fsync makes the
        creations, renames and removals in it durable."""
        fd = self._do("open", path, os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._do("fsync", path, os.fsync, fd)
        finally:
            os.close(fd)

    def read_file(self, path: str) -> bytes | None:
        """The whole file, None if there is none."""
        try:
            fd = self._do("open", path, os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        self._paths[fd] = path
        try:
            return self.read(fd, self.size(fd), 0)
        finally:
            self.close(fd)

    def write_file(self, path: str, data: Bytes) -> None:
        """Create or overwrite the file; neither atomic nor durable."""
        fd = self.open(path, create=True)
        try:
            self.truncate(fd, 0)
            if data:
                self.write(fd, [data], 0)
        finally:
            self.close(fd)

    def replace(self, path: str, data: Bytes) -> None:
        """The file has either its old content or `data`, whenever the power goes; afterwards
        `data`.

        Blocks on the disk: `path.tmp`, fsync, rename, fsync of the directory.
        """
        temporary = path + ".tmp"
        fd = self.open(temporary, create=True)
        try:
            self.truncate(fd, 0)
            self.write(fd, [data], 0)
            self.fsync(fd)
        finally:
            self.close(fd)
        self.rename(temporary, path)
        self.fsync_path(os.path.dirname(path))

    def rename(self, source: str, target: str) -> None:
        """Atomically; an existing file `target` is replaced."""
        self._do("rename", source, os.rename, source, target)

    def unlink(self, path: str) -> None:
        """Remove the file if it is there; open descriptors keep its bytes."""
        try:
            self._do("unlink", path, os.unlink, path)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of this name."""
        return self._do("stat", path, os.path.exists, path)

    def size_of(self, path: str) -> int:
        """Length in bytes of a file that is not open."""
        return self._do("stat", path, os.stat, path).st_size

    def modified_ms(self, path: str) -> int:
        """When the file was last written, in milliseconds since the epoch."""
        return self._do("stat", path, os.stat, path).st_mtime_ns // 1_000_000

    def set_modified_ms(self, path: str, modified_ms: int) -> None:
        """Have the file look as if it was last written then."""
        times = (modified_ms * 1_000_000, modified_ms * 1_000_000)
        self._do("utime", path, os.utime, path, ns=times)

    def list_names(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        return sorted(self._do("list", path, os.listdir, path))

    def list_directories(self, path: str) -> list[str]:
        """Names of the directories in a directory, sorted."""
        entries = self._do("list", path, lambda: list(os.scandir(path)))
        return sorted(entry.name for entry in entries if entry.is_dir())

    def make_directory(self, path: str) -> None:
        """One new directory; its parent exists."""
        self._do("mkdir", path, os.mkdir, path)

    def make_directories(self, path: str) -> None:
        """The directory and its parents, as far as they are missing."""
        self._do("mkdir", path, os.makedirs, path, exist_ok=True)

    def remove_tree(self, path: str) -> None:
        """A directory and all in it, if it is there."""
        try:
            self._do("remove", path, shutil.rmtree, path)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise

    def lock(self, path: str) -> int | None:
        """An exclusive lock on the file, held until the descriptor is closed; None: somebody has
        it.

        Two locks in one: `lockf`'s is the one that Kafka's JVM takes, but a process never
        conflicts with itself; `flock`'s keeps apart two brokers of one process.
        """
        fd = self.open(path, create=True)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close(fd)
            return None
        except OSError as error:
            self.close(fd)
            raise StorageError(f"lock {path}: {error.strerror}", path) from error
        return fd
