"""One log directory's disk: its files, whether they can still be trusted, what is to be removed.

Shared by the directory and all its partition logs, which is how the failure of one log's fsync
stops the writing of the others.

A full disk is not a failed one: what was written stays readable, a write that found no room was cut
back, and the next one may succeed. Kafka takes the directory offline; we do only where the want of
room left a log half changed, or an fsync reported it.
"""

import collections
import errno
import logging
from collections.abc import Callable

import attrs

from zkafka.errors import DiskFull, StorageError
from zkafka.log.files import Files

logger = logging.getLogger(__name__)

_NOT_THE_DISK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOENT})
"""What may keep us from reading though the disk is well: want of descriptors or memory, and a file
that was renamed while another thread was about to open it."""


@attrs.define
class Doomed:
    """A file or directory that was renamed away and goes `delay_ms` after it was first seen."""

    path: str
    delay_ms: int
    is_directory: bool
    due_ms: int | None = None


class Disk:
    """`files` below `path`, until `offline` is set. Any thread may use it."""

    def __init__(self, path: str, files: Files) -> None:
        self.path = path
        self.files = files
        self.offline: StorageError | None = None
        self.write_log_starts: Callable[[], None] = lambda: None
        """Rewrites the directory's checkpoint of log start offsets; set by the directory."""
        self.write_cleaned_offsets: Callable[[], None] = lambda: None
        """And that of up to where logs were compacted."""
        self._doomed: collections.deque[Doomed] = collections.deque()

    def check(self) -> None:
        """Raises StorageError if nothing more may be written here."""
        if self.offline is not None:
            raise StorageError(f"log directory {self.path} is offline", self.path)

    def fail(self, error: StorageError) -> None:
        """Take the directory offline for good: what the files hold is no longer known."""
        if self.offline is None:
            self.offline = error
            logger.error("log directory offline dir=%s cause=%s", self.path, error)

    def write_failed(self, error: StorageError) -> None:
        """A write failed whose outcome does not matter: nothing but itself is missing. Offline,
        unless all that was missing is room."""
        if not isinstance(error, DiskFull):
            self.fail(error)

    def read_failed(self, error: StorageError) -> None:
        """Something could not be read. If it was the disk that refused, the directory goes offline:
        it could neither be served from nor copied, and only an offline one is replaced."""
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno not in _NOT_THE_DISK:
            self.fail(error)

    def discard(self, path: str, delay_ms: int, *, is_directory: bool = False) -> None:
        """Have `path`, already renamed out of the way, removed by a `purge` after `delay_ms`."""
        self._doomed.append(Doomed(path, delay_ms, is_directory))

    def relocated(self, source: str, target: str) -> None:
        """The directory `source` is `target` now; what waits in it is to be found there. (What a
        purge just has in hand it will not find, and the next start removes.)"""
        for doomed in list(self._doomed):
            if doomed.path.startswith(source + "/"):
                doomed.path = target + doomed.path[len(source) :]

    def purge(self, now_ms: int) -> int:
        """Remove what is due and answer how many things; one worker thread at a time.

        The delay starts with the first purge that sees a thing: those who discard have no clock,
        and readers that opened a file before it went keep it in any case.
        """
        removed = 0
        for _ in range(len(self._doomed)):
            doomed = self._doomed.popleft()
            if doomed.due_ms is None:
                doomed.due_ms = now_ms + doomed.delay_ms
            if doomed.due_ms > now_ms:
                self._doomed.append(doomed)
                continue
            try:
                if doomed.is_directory:
                    self.files.remove_tree(doomed.path)
                else:
                    self.files.unlink(doomed.path)
            except StorageError as error:
                # Kafka too leaves it at a warning: the bytes are nobody's, and a start tries again.
                logger.warning("cannot remove path=%s cause=%s", doomed.path, error)
                continue
            removed += 1
        return removed

    @property
    def waiting(self) -> int:
        """How many renamed files and directories wait to be removed."""
        return len(self._doomed)
