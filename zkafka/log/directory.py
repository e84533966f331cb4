"""One entry of `log.dirs`: locked while we run, loaded at start, checkpointed, marked when left in
good order.

A partition has one log. While it moves to another directory there is a *future* log there, which
fills up, and takes its place by a rename when it holds all the first one does: `create_future`,
`promote`. Until that rename is durable the first one stays, under its own name; which of two that
both say they are the partition's log is to be believed tells the count of moves that each carries
(`settle`). So whenever the power goes, a start finds one whole log.

What stands here besides a directory per partition: `.lock`, `meta.properties` (whose it is),
`.kafka_cleanshutdown` (what was left can be trusted), and four checkpoints of an offset per
partition: recovery points, high watermarks, log starts, and up to where logs were compacted.

Threads: `logs` and `futures`, and what adds to them and takes from them, belong to the loop.
`open`, `load`, `sync`, `close` with `clean`, `purge_deleted` and the checkpoints block on the disk
and belong in worker threads, one of each at a time; they work on a copy of the tables of logs. What
`load`, `sync` and `close` do to each log they may do to several logs at a time, by the `each` that
the directory was given.

Errors: StorageError. From a checkpoint, a sync or a flush it takes the directory offline, after
which nothing more is written in it; only a restart brings it back. Want of room (DiskFull) does
not: what could not be written is tried again when it is next due.
"""

import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

import attrs
import javaproperties

from zkafka.config import LogConfig
from zkafka.errors import DiskFull, StartupError, StorageError
from zkafka.log.checkpoint import CheckpointDamaged, read_offsets, write_offsets
from zkafka.log.disk import Disk
from zkafka.log.files import Files
from zkafka.log.partition_log import PartitionLog
from zkafka.model import BrokerEpoch, BrokerId, Offset, TopicPartition

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
META_FILE = "meta.properties"
CLEAN_SHUTDOWN_FILE = ".kafka_cleanshutdown"
RECOVERY_POINTS_FILE = "recovery-point-offset-checkpoint"
HIGH_WATERMARKS_FILE = "replication-offset-checkpoint"
LOG_STARTS_FILE = "log-start-offset-checkpoint"
CLEANED_OFFSETS_FILE = "cleaner-offset-checkpoint"

_DELETE_SUFFIX = "-delete"
_ASIDE_SUFFIX = "-stray"
_FUTURE_SUFFIX = "-future"
_NAME_MAX = 255
_PARTITION_NAME = re.compile(r"([a-zA-Z0-9._-]{1,249})-(\d{1,10})")
_FUTURE_NAME = re.compile(_PARTITION_NAME.pattern + r"\.[0-9a-f]{32}" + _FUTURE_SUFFIX)

_PROGRESS_EVERY = 100
"""A line in the log for so many partitions loaded."""
_SYNC_THREADS = 8
"""Where nothing but fsync is waited for: those of one moment share one commit of the file system's
journal. 2,000 new partitions took 6 to 18 s with one thread on a busy ext4, 0.2 s with eight."""

_LONG_RECOVERY_S = 1.0
"""And one for each that took so long."""

T = TypeVar("T")


class Each(Protocol):
    """Calls `fn` with each of `items`, in any order, at most `threads` at a time. Answers when none
    runs any more; raises what one of them raised, and need not call the rest then."""

    def __call__(self, threads: int, fn: Callable[[T], object], items: Sequence[T], /) -> None: ...


def one_by_one(threads: int, fn: Callable[[T], object], items: Sequence[T]) -> None:
    """`Each` in the caller's own thread."""
    for item in items:
        fn(item)


@attrs.frozen
class MetaProperties:
    """Whose directory it is; a broker refuses one that is another's."""

    broker_id: BrokerId
    cluster_id: str


@attrs.frozen(kw_only=True)
class DirectoryStatistics:
    """`to_recover` counts down while `load` runs."""

    path: str
    online: bool
    log_count: int
    size: int
    to_recover: int
    waiting_for_removal: int


class LogDirectory:
    """The partition logs on one disk. `clean` and `last_broker_epoch` tell how the last run
    ended."""

    def __init__(
        self,
        disk: Disk,
        lock: int,
        last_broker_epoch: BrokerEpoch | None,
        each: Each,
        recovery_threads: int,
    ) -> None:
        self.path = disk.path
        self.clean = last_broker_epoch is not None
        self.last_broker_epoch = last_broker_epoch
        self.logs: dict[TopicPartition, PartitionLog] = {}
        self.futures: dict[TopicPartition, PartitionLog] = {}
        """Of partitions whose log is in another directory, and moves to this one."""
        self._disk = disk
        self._files = disk.files
        self._lock: int | None = lock
        self._each = each
        self._recovery_threads = recovery_threads
        self._to_recover = 0
        self._unsynced: list[PartitionLog] = []
        self._names_changed = False
        # Deleted since the last sync, and perhaps named in checkpoints still.
        self._gone: set[TopicPartition] = set()
        self._last_checkpoints: dict[str, dict[TopicPartition, Offset]] = {}
        self._checkpoint_lock = threading.Lock()
        disk.write_log_starts = self.write_log_start_offsets
        disk.write_cleaned_offsets = self.write_cleaned_offsets

    @classmethod
    def open(
        cls, path: str, files: Files, *, each: Each = one_by_one, recovery_threads: int = 1
    ) -> "LogDirectory":
        """The directory, made if need be, and ours alone until `close`.

        Errors: StartupError if another broker has it; StorageError if the disk does not let us.
        """
        path = os.path.abspath(path)
        files.make_directories(path)
        lock = files.lock(os.path.join(path, LOCK_FILE))
        if lock is None:
            raise StartupError(f"log directory {path} is in use by another broker")
        marker = files.read_file(os.path.join(path, CLEAN_SHUTDOWN_FILE))
        epoch = None if marker is None else _marked_epoch(marker)
        return cls(Disk(path, files), lock, epoch, each, recovery_threads)

    def __repr__(self) -> str:
        return f"<LogDirectory {self.path}>"

    @property
    def offline(self) -> StorageError | None:
        """What took the directory offline, None while it can be used."""
        return self._disk.offline

    def fail(self, error: StorageError) -> None:
        """Take it offline: nothing more is written to any of its logs."""
        self._disk.fail(error)

    def statistics(self) -> DirectoryStatistics:
        """As it is now."""
        logs = [log for _, log in self._all_logs()]
        return DirectoryStatistics(
            path=self.path,
            online=self.offline is None,
            log_count=len(logs),
            size=sum(log.size for log in logs),
            to_recover=self._to_recover,
            waiting_for_removal=self._disk.waiting,
        )

    def _all_logs(self) -> list[tuple[TopicPartition, PartitionLog]]:
        """A partition has one log here at most, current or future; any thread."""
        return [*list(self.logs.items()), *list(self.futures.items())]

    # Whose it is.

    @property
    def meta(self) -> MetaProperties | None:
        """What meta.properties says; None if there is none. StartupError if it makes no sense."""
        path = os.path.join(self.path, META_FILE)
        data = self._files.read_file(path)
        if data is None:
            return None
        try:
            properties = javaproperties.loads(data.decode("latin-1"))
            version, broker_id = int(properties["version"]), int(properties["broker.id"])
            cluster_id = properties["cluster.id"]
        except (ValueError, KeyError, javaproperties.InvalidUEscapeError) as error:
            raise StartupError(f"{path} is malformed: {error}") from error
        if version != 0:
            raise StartupError(f"{path} has version {version}, not 0: not of a ZooKeeper cluster")
        return MetaProperties(broker_id, cluster_id)

    def write_meta(self, meta: MetaProperties) -> None:
        """Claim the directory; durable."""
        text = f"#\nversion=0\nbroker.id={meta.broker_id}\ncluster.id={meta.cluster_id}\n"
        self._files.replace(os.path.join(self.path, META_FILE), text.encode())

    # Loading.

    def load(
        self,
        config_for: Callable[[str], LogConfig],
        *,
        on_loaded: Callable[[int, int], None] | None = None,
    ) -> dict[TopicPartition, PartitionLog]:
        """Open every partition log, recovering it unless the last stop was clean; `settle` is
        next, when all directories are loaded.

        `on_loaded(done, total)` is told of progress, in a thread that loads. The clean-shutdown
        mark is gone afterwards, durably: from now on a crash is a crash.

        Errors: StorageError; the directory is offline then.
        """
        try:
            return self._load(config_for, on_loaded)
        except StorageError as error:
            self._disk.fail(error)
            raise

    def _load(
        self,
        config_for: Callable[[str], LogConfig],
        on_loaded: Callable[[int, int], None] | None,
    ) -> dict[TopicPartition, PartitionLog]:
        if self.clean:
            self._files.unlink(os.path.join(self.path, CLEAN_SHUTDOWN_FILE))
            self._files.fsync_path(self.path)
        recovery_points = self._read_checkpoint(RECOVERY_POINTS_FILE)
        log_starts = self._read_checkpoint(LOG_STARTS_FILE)
        cleaned = self._read_checkpoint(CLEANED_OFFSETS_FILE)
        found = self._partition_directories()
        self._to_recover = 0 if self.clean else len(found)
        if found:
            logger.info(
                "loading logs dir=%s partitions=%d clean=%s", self.path, len(found), self.clean
            )
        configs = {topic: config_for(topic) for topic in {tp.topic for tp, _ in found}}
        loaded: dict[TopicPartition, PartitionLog] = {}
        progress = threading.Lock()

        def load_one(one: tuple[TopicPartition, str]) -> None:
            topic_partition, name = one
            started = time.monotonic()
            log = PartitionLog.load(
                self._disk,
                os.path.join(self.path, name),
                topic_partition,
                configs[topic_partition.topic],
                clean=self.clean,
                recovery_point=recovery_points.get(topic_partition, 0),
                log_start_offset=log_starts.get(topic_partition, 0),
                cleaned_to=cleaned.get(topic_partition),
            )
            took = time.monotonic() - started
            if not self.clean:
                logger.log(
                    logging.INFO if took >= _LONG_RECOVERY_S else logging.DEBUG,
                    "recovered partition=%s end=%d ms=%d",
                    topic_partition, log.log_end_offset, 1000 * took,
                )  # fmt: skip
            with progress:
                loaded[topic_partition] = log
                self._to_recover = max(0, self._to_recover - 1)
                done = len(loaded)
                if done % _PROGRESS_EVERY == 0 or done == len(found):
                    logger.info("loaded logs dir=%s done=%d of=%d", self.path, done, len(found))
                if on_loaded is not None:
                    on_loaded(done, len(found))

        self._each(self._recovery_threads, load_one, found)
        # In the order of their names, whichever was ready first.
        for tp, name in found:
            table = self.futures if name.endswith(_FUTURE_SUFFIX) else self.logs
            table[tp] = loaded[tp]
        # A deletion that a crash cut short left these.
        gone = (recovery_points.keys() | log_starts.keys() | cleaned.keys()) - loaded.keys()
        try:
            self._forget(gone)
            # Where a crash took the end of a log, what is appended next was never compacted.
            self.write_cleaned_offsets()
        except DiskFull as error:
            # A broker must be able to start on a full disk: how else would it be emptied?
            logger.warning("checkpoints not cleaned dir=%s cause=%s", self.path, error)
            self._gone.update(gone)
            self._names_changed = True
        return self.logs

    def _partition_directories(self) -> list[tuple[TopicPartition, str]]:
        found: dict[TopicPartition, str] = {}
        for name in self._files.list_directories(self.path):
            if name.endswith(_DELETE_SUFFIX):
                logger.info("removing what was being deleted dir=%s name=%s", self.path, name)
                self._disk.discard(os.path.join(self.path, name), 0, is_directory=True)
                continue
            match = _FUTURE_NAME.fullmatch(name) or _PARTITION_NAME.fullmatch(name)
            if match is None or name.endswith(_ASIDE_SUFFIX):
                logger.warning("not a partition, left alone dir=%s name=%s", self.path, name)
                continue
            # In the order of their names: a partition's own comes before its future's.
            first = found.setdefault(TopicPartition(match[1], int(match[2])), name)
            if first != name:
                self._discard(os.path.join(self.path, name), f"{match[1]}-{match[2]}", 0)
        return list(found.items())

    # Partitions come and go.

    def create(
        self, topic_partition: TopicPartition, topic_id: uuid.UUID | None, config: LogConfig
    ) -> PartitionLog:
        """A new, empty log. Some 100 microseconds, and no fsync: `sync` does that for many at once,
        before anybody is told that the partition is there. A StorageError but DiskFull takes the
        directory offline."""
        assert topic_partition not in self.logs
        path = os.path.join(self.path, str(topic_partition))
        log = self._create(path, topic_partition, topic_id, config)
        self.logs[topic_partition] = log
        return log

    def _create(
        self,
        path: str,
        topic_partition: TopicPartition,
        topic_id: uuid.UUID | None,
        config: LogConfig,
        start_offset: Offset = 0,
    ) -> PartitionLog:
        try:
            log = PartitionLog.create(
                self._disk, path, topic_partition, topic_id, config, start_offset=start_offset
            )
        except StorageError as error:
            self._disk.write_failed(error)
            raise
        self._unsynced.append(log)
        return log

    def schedule_delete(self, log: PartitionLog) -> None:
        """The log, current or future, is gone at once, by name; its files go in a `purge_deleted`
        after file.delete.delay.ms. The name is free for another. `sync` makes that durable."""
        self._disk.check()
        self.detach(log)
        self.remove(log)

    def detach(self, log: PartitionLog) -> None:
        """Close the log and know it no more; its files stay where they are."""
        table = self.futures if log.topic_partition in self.futures else self.logs
        assert table[log.topic_partition] is log
        log.close(clean=False)
        del table[log.topic_partition]
        self._gone.add(log.topic_partition)

    def remove(self, log: PartitionLog) -> None:
        """What is left to do of `schedule_delete` after `detach`."""
        self._discard(log.path, str(log.topic_partition), log.config.file_delete_delay_ms)

    def _discard(self, path: str, partition: str, delay_ms: int) -> None:
        self._disk.check()
        suffix = f".{uuid.uuid4().hex}{_DELETE_SUFFIX}"
        target = os.path.join(self.path, partition[: _NAME_MAX - len(suffix)] + suffix)
        try:
            self._files.rename(path, target)
        except StorageError as error:
            self._disk.fail(error)
            raise
        self._names_changed = True
        self._disk.discard(target, delay_ms, is_directory=True)
        logger.info("deleting path=%s renamed=%s", path, target)

    # And move.

    def create_future(self, current: PartitionLog) -> PartitionLog:
        """An empty log that is to hold what `current`, of another directory, does. Errors and
        durability as with `create`."""
        topic_partition = current.topic_partition
        assert topic_partition not in self.logs
        assert topic_partition not in self.futures
        log = self._create(
            os.path.join(self.path, future_name(topic_partition)),
            topic_partition,
            current.topic_id,
            current.config,
            current.log_start_offset,
        )
        self.futures[topic_partition] = log
        # What is copied from now on has been compacted up to there.
        log.cleaned_to = current.cleaned_to
        try:
            self.count_move(log, current)
        except StorageError:
            if self.offline is None:
                self.schedule_delete(log)
            raise
        return log

    def count_move(self, future: PartitionLog, current: PartitionLog) -> None:
        """Have it known that `future` is to be believed rather than `current`, once it bears a
        partition's name; durable with its next flush. Errors: StorageError, and but for DiskFull
        the directory is offline."""
        try:
            future.count_move(current.moves + 1)
        except StorageError as error:
            self._disk.write_failed(error)
            raise

    def promote(self, log: PartitionLog) -> None:
        """A future log is the partition's log now: flushed before, and nobody is at work on it.
        Durable with its `sync_entry`, or the next flush. Errors: StorageError; the directory is
        offline."""
        topic_partition = log.topic_partition
        assert self.futures[topic_partition] is log
        assert topic_partition not in self.logs
        self._disk.check()
        try:
            log.relocate(os.path.join(self.path, str(topic_partition)))
        except StorageError as error:
            self._disk.fail(error)
            raise
        del self.futures[topic_partition]
        self.logs[topic_partition] = log

    def sync(self) -> int:
        """Make durable what `create` and `schedule_delete` did before; worker threads.

        Two fsyncs per log and one for all; answers how many logs. A StorageError but DiskFull takes
        the directory offline; after DiskFull the next sync does the whole of it.

        After it the checkpoints say nothing of what was deleted: a partition created anew under
        the same name would be found, after a crash, to start where the old one did.
        """
        logs, self._unsynced = self._unsynced, []
        gone, self._gone = self._gone, set()
        if not logs and not self._names_changed:
            return 0
        self._disk.check()
        try:
            self._names_changed = False
            self._files.fsync_path(self.path)
            self._forget(gone)
            for log in logs:
                log.entry_durable = True
            self._each(_SYNC_THREADS, _sync_names, logs)
        except StorageError as error:
            self._unsynced[:0] = logs
            self._gone.update(gone)
            self._names_changed = True
            self._disk.write_failed(error)
            raise
        return len(logs)

    def purge_deleted(self, now_ms: int) -> int:
        """Remove the files that waited long enough; answers how many files and directories."""
        return 0 if self.offline is not None else self._disk.purge(now_ms)

    # Checkpoints.

    def read_high_watermarks(self) -> dict[TopicPartition, Offset]:
        """As last written; a replica's own is at most its log end offset."""
        return self._read_checkpoint(HIGH_WATERMARKS_FILE)

    def write_high_watermarks(self, high_watermarks: Mapping[TopicPartition, Offset]) -> None:
        """Replace the checkpoint; the partitions are those of this directory."""
        with self._checkpoint_lock:
            self._write_checkpoint(HIGH_WATERMARKS_FILE, dict(high_watermarks))

    def write_recovery_points(self) -> None:
        """Tell the next recovery what it need not read again."""
        with self._checkpoint_lock:
            logs = self._all_logs()
            points = {tp: log.recovery_point_to_checkpoint() for tp, log in logs}
            self._write_checkpoint(RECOVERY_POINTS_FILE, points)
            for topic_partition, log in logs:
                log.recovery_point_is_checkpointed(points[topic_partition])

    def write_log_start_offsets(self) -> None:
        """Remember where logs start that start inside a segment. Blocks on the disk, and may be
        called by a truncation in the loop: in lock step with the checkpoints in workers."""
        with self._checkpoint_lock:
            logs = self._all_logs()
            starts = {tp: log.log_start_to_checkpoint() for tp, log in logs}
            self._write_checkpoint(
                LOG_STARTS_FILE, {tp: start for tp, start in starts.items() if start is not None}
            )
            for topic_partition, log in logs:
                log.log_start_is_checkpointed(starts[topic_partition])

    def write_cleaned_offsets(self) -> None:
        """Remember up to where logs were compacted. Blocks on the disk, and may be called by a
        truncation in the loop, as above."""
        with self._checkpoint_lock:
            cleaned = {
                tp: log.cleaned_to for tp, log in self._all_logs() if log.cleaned_to is not None
            }
            self._write_checkpoint(CLEANED_OFFSETS_FILE, cleaned)

    def _forget(self, gone: Collection[TopicPartition]) -> None:
        """Take these out of all checkpoints that name them."""
        with self._checkpoint_lock:
            for name, offsets in list(self._last_checkpoints.items()):
                kept = {tp: offset for tp, offset in offsets.items() if tp not in gone}
                if len(kept) < len(offsets):
                    self._write_checkpoint(name, kept)

    def _read_checkpoint(self, name: str) -> dict[TopicPartition, Offset]:
        try:
            offsets = read_offsets(self._files, os.path.join(self.path, name))
        except CheckpointDamaged as error:
            # Nothing in it is worth the directory. Without recovery points all is read again,
            # without log starts they are at the first segments, without high watermarks these are
            # learned again from the replicas.
            logger.warning("checkpoint ignored cause=%s", error)
            return {}
        self._last_checkpoints[name] = offsets
        return dict(offsets)

    def _write_checkpoint(self, name: str, offsets: dict[TopicPartition, Offset]) -> None:
        """Replace the file, if it would differ; under the lock."""
        self._disk.check()
        if self._last_checkpoints.get(name) == offsets:
            return
        try:
            write_offsets(self._files, os.path.join(self.path, name), offsets)
        except StorageError as error:
            self._disk.write_failed(error)
            raise
        self._last_checkpoints[name] = offsets

    # The end.

    def close(self, *, clean: bool, broker_epoch: BrokerEpoch = -1) -> None:
        """Close all logs and give the directory back.

        `clean`: everything is flushed and checkpointed, and last of all marked so, which spares the
        next start its recovery; not if the directory is offline. Blocks on the disk.
        Errors: StorageError, after which the directory was given back all the same, unmarked.
        """
        if self._lock is None:
            return
        try:
            if clean and self.offline is None:
                self._close_cleanly(broker_epoch)
        finally:
            for _, log in self._all_logs():
                log.close(clean=False)
            lock, self._lock = self._lock, None
            self._files.close(lock)

    def _close_cleanly(self, broker_epoch: BrokerEpoch) -> None:
        self.sync()
        logs = [log for _, log in self._all_logs()]
        self._each(max(_SYNC_THREADS, self._recovery_threads), _close_cleanly, logs)
        self.write_recovery_points()
        self.write_log_start_offsets()
        marker = json.dumps({"version": 0, "brokerEpoch": broker_epoch}, separators=(",", ":"))
        self._files.replace(os.path.join(self.path, CLEAN_SHUTDOWN_FILE), marker.encode())
        logger.info("closed cleanly dir=%s partitions=%d", self.path, len(self.logs))


def future_name(topic_partition: TopicPartition) -> str:
    """A new name for the directory of a future log; longer than 255 bytes where the topic's is too
    long for a move."""
    return f"{topic_partition}.{uuid.uuid4().hex}{_FUTURE_SUFFIX}"


def settle(directories: Sequence[LogDirectory]) -> dict[TopicPartition, PartitionLog]:
    """The log of each partition, when all `directories` that can be used are loaded; what moves
    left unfinished when the last run ended is resolved.

    A partition's log in two directories is a move at its very end: the one that was moved oftener
    replaced the other, which goes. A future log stays if it can go on to be filled; it goes if its
    partition is another one by now (of another topic id), or has been moved since. One whose
    partition has no log is left alone: the directory of that may be back at another start.

    Errors: StartupError where two logs have an equal claim, or are of two topics of one name. A
    StorageError takes a directory offline, and its logs are not among the answer.
    """
    settled: dict[TopicPartition, tuple[LogDirectory, PartitionLog]] = {}
    for directory in directories:
        for tp, log in list(directory.logs.items()):
            known = settled.get(tp)
            if known is None:
                settled[tp] = directory, log
                continue
            other_directory, other = known
            if other.moves == log.moves or _are_of_two_topics(other, log):
                raise StartupError(f"{tp} is both in {other_directory.path} and {directory.path}")
            if log.moves > other.moves:
                settled[tp] = directory, log
                _replaced(other_directory, other, directory)
            else:
                _replaced(directory, log, other_directory)
    futures: dict[TopicPartition, PartitionLog] = {}
    for directory in directories:
        for tp, future in list(directory.futures.items()):
            if tp not in settled:
                logger.warning("a move without its source is left alone path=%s", future.path)
                future.close(clean=False)
                del directory.futures[tp]
                continue
            current = settled[tp][1]
            is_over = 0 < future.moves <= current.moves
            if is_over or tp in futures or _are_of_two_topics(current, future):
                logger.warning("a move that is not to go on is removed path=%s", future.path)
                _delete(directory, future)
            else:
                futures[tp] = future
    return {tp: log for tp, (directory, log) in settled.items() if directory.offline is None}


def _are_of_two_topics(one: PartitionLog, other: PartitionLog) -> bool:
    """Whether a topic was deleted, and another of its name created, between them."""
    return None not in (one.topic_id, other.topic_id) and one.topic_id != other.topic_id


def _replaced(directory: LogDirectory, log: PartitionLog, by: LogDirectory) -> None:
    logger.warning("moved to another directory path=%s to=%s", log.path, by.path)
    _delete(directory, log)


def _delete(directory: LogDirectory, log: PartitionLog) -> None:
    try:
        directory.schedule_delete(log)
    except StorageError as error:
        # Offline by now: it stays as it is, and the next start resolves it.
        logger.error("cannot remove path=%s cause=%s", log.path, error)


def _sync_names(log: PartitionLog) -> None:
    if not log.closed:
        log.sync_names()


def _close_cleanly(log: PartitionLog) -> None:
    log.close(clean=True)


def _marked_epoch(marker: bytes) -> BrokerEpoch:
    """The broker epoch in a clean-shutdown file, -1 if it has none: older brokers left it empty."""
    try:
        epoch = json.loads(marker)["brokerEpoch"]
    except (ValueError, KeyError, TypeError):
        return -1
    return epoch if isinstance(epoch, int) else -1
