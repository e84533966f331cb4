"""Compaction in its time: log.cleaner.threads tasks that each clean the dirtiest log there is.

    look at all compacted logs -> the dirtiest that is dirty enough -> clean it -> look again
              |                                                  |
              nothing to do: log.cleaner.backoff.ms              failed: see below

What a cleaning is, and who runs which part of it, is told in `log/cleaner.py`: here its jobs are
carried to worker threads, one by one. Each takes about a millisecond, so the interpreter is the
loop's again after that, and a loop that is busy slows the cleaning down, not the other way round.
Bytes read and written by all cleaners together are held to log.cleaner.io.max.bytes.per.second.
All of these settings but log.cleaner.enable may change while the broker runs.

A log that was truncated or deleted meanwhile is not cleaned further: it is looked at again like any
other. One whose bytes are not what they should be is marked uncleanable until the next start, with
an error in the log, and keeps nobody else from being cleaned; nor does one for which the disk has
no room, or no file descriptors: it is tried again after the next pause.

Source: Kafka's `LogCleaner` and `LogCleanerManager`.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errors import ApiError, StorageError
from zkafka.log.cleaner import (
    CleanerLimits,
    Cleaning,
    CleaningAborted,
    CleaningStatistics,
    find_dirt,
)
from zkafka.log.cleaner_choice import Dirt
from zkafka.log.partition_log import PartitionLog
from zkafka.log.segment import SegmentGone
from zkafka.model import Offset
from zkafka.offload import Offload
from zkafka.replication.replica import Replica
from zkafka.replication.throttle import Throttle

if TYPE_CHECKING:
    from zkafka.replication.replicas import Replicas

logger = logging.getLogger(__name__)

_LOGS_PER_LOOK = 50
"""Logs looked at by one job: some ten microseconds each, unless an index must be read."""


@attrs.frozen(kw_only=True)
class CleanerStatistics:
    """The percentages and times are of each cleaner's last run, or of the last look; the totals
    are since the start. `uncleanable` has (partitions, their dirty bytes) by directory."""

    max_dirty_percent: int
    max_compaction_delay_s: int
    max_buffer_utilization_percent: int
    max_clean_time_s: int
    recopy_percent: int
    since_last_look_ms: int
    uncleanable: Mapping[str, tuple[int, int]]
    runs: int
    bytes_read: int
    bytes_written: int


@attrs.frozen
class _Run:
    """One cleaning that came to its end."""

    statistics: CleaningStatistics
    took_ms: int


class Cleaner:
    """Keeps the compacted logs of one broker compact; `run` it beside the replicas."""

    def __init__(
        self, replicas: "Replicas", *, config: BrokerConfig, offload: Offload, clock: Clock
    ) -> None:
        self._replicas = replicas
        self._config = config
        self._offload = offload
        self._clock = clock
        self._limits = _limits_of(config)
        self._throttle = Throttle(config.log_cleaner_io_max_bytes_per_second)
        self._reconfigured = trio.Event()
        self._cleaners: set[int] = set()
        self._choosing = trio.Lock()
        self._in_progress: set[PartitionLog] = set()
        # Until the next pause.
        self._put_off: set[PartitionLog] = set()
        # With the dirty bytes they had. Closed logs are dropped at each look.
        self._uncleanable: dict[PartitionLog, int] = {}
        self._max_ratio = 0.0
        self._max_overdue_ms = 0
        self._looked_ms: int | None = None
        self._last_runs: dict[int, _Run] = {}
        self._runs = self._bytes_read = self._bytes_written = 0

    def reconfigure(self, config: BrokerConfig) -> None:
        """Obey these settings from now on. What is being cleaned is cleaned to its end, with the
        buffers that it has and at the new rate. (Kafka breaks it off and starts afresh.)"""
        if config == self._config:
            return
        self._config = config
        self._limits = _limits_of(config)
        self._throttle.change(config.log_cleaner_io_max_bytes_per_second)
        self._reconfigured.set()
        self._reconfigured = trio.Event()

    async def run(self) -> None:
        """Clean until cancelled; returns at once if log.cleaner.enable=false."""
        if not self._config.log_cleaner_enable:
            return
        async with trio.open_nursery() as nursery:
            while True:
                for number in range(self._config.log_cleaner_threads):
                    if number not in self._cleaners:
                        self._cleaners.add(number)
                        nursery.start_soon(self._clean_while_wanted, number)
                await self._reconfigured.wait()

    async def _clean_while_wanted(self, number: int) -> None:
        try:
            while number < self._config.log_cleaner_threads:
                if not await self.clean_dirtiest(number):
                    # A pause of nothing would be a loop that never rests.
                    with trio.move_on_after(max(self._config.log_cleaner_backoff_ms, 1) / 1000):
                        await self._reconfigured.wait()
                    self._put_off.clear()
        finally:
            self._cleaners.discard(number)
            self._last_runs.pop(number, None)

    async def clean_dirtiest(self, number: int = 0) -> bool:
        """Clean one log, if one is dirty enough; whether there was one. `number` is the cleaner's.

        Waits: for the disk, and as long as the throttle says. A cancellation leaves every segment
        as it was, or replaced.
        """
        async with self._choosing:
            chosen = await self._dirtiest()
            if chosen is None:
                return False
            replica, dirt = chosen
            self._in_progress.add(replica.log)
        try:
            await self._clean(replica, dirt, number)
        finally:
            self._in_progress.discard(replica.log)
        return True

    # Choosing.

    async def _dirtiest(self) -> tuple[Replica, Dirt] | None:
        now_ms = self._clock.wall_ms()
        self._looked_ms = self._clock.monotonic_ms()
        for log in [log for log in self._uncleanable if log.closed]:
            del self._uncleanable[log]
        candidates = [r for r in self._replicas.hosted.values() if self._may_be_cleaned(r)]
        looked: list[tuple[Replica, int, Dirt]] = []
        for first in range(0, len(candidates), _LOGS_PER_LOOK):
            some = candidates[first : first + _LOGS_PER_LOOK]
            logs = [(replica.log, replica.last_stable_offset) for replica in some]
            truncations = [log.truncation_count for log, _ in logs]
            found = await self._offload.run(_look, logs, now_ms)
            for replica, truncation_count, dirt in zip(some, truncations, found, strict=True):
                if isinstance(dirt, Dirt):
                    looked.append((replica, truncation_count, dirt))
                elif not replica.log.closed:
                    self._failed(replica, dirt, dirty_bytes=0)
        self._max_ratio = max((dirt.ratio for _, _, dirt in looked), default=0.0)
        self._max_overdue_ms = max((dirt.overdue_ms for _, _, dirt in looked), default=0)
        looked.sort(key=lambda one: one[2].ratio, reverse=True)
        for replica, truncation_count, dirt in looked:
            # It may have gone, or changed, while others were looked at.
            log = replica.log
            if (
                dirt.is_enough(log.config)
                and self._may_be_cleaned(replica)
                and log.truncation_count == truncation_count
            ):
                return replica, dirt
        return None

    def _may_be_cleaned(self, replica: Replica) -> bool:
        log = replica.log
        return (
            not replica.is_offline
            and not log.closed
            and self._replicas.moves.get(replica.topic_partition) is None
            and "compact" in log.config.cleanup_policy
            and log not in self._in_progress
            and log not in self._put_off
            and log not in self._uncleanable
        )

    # Cleaning.

    async def _clean(self, replica: Replica, dirt: Dirt, number: int) -> None:
        log = replica.log
        started_ms = self._clock.monotonic_ms()
        cleaning = Cleaning(
            log,
            dirt,
            now_ms=self._clock.wall_ms(),
            limits=self._limits,
            checkpoint=replica.directory.write_cleaned_offsets,
        )
        try:
            with contextlib.closing(cleaning.steps()) as jobs:
                for job in jobs:
                    await self._throttle.pay(await self._offload.run(job))
        except (CleaningAborted, SegmentGone):
            logger.info("compaction given up partition=%s", log.topic_partition)
        except (ApiError, StorageError) as error:
            if cleaning.is_disturbed:
                logger.info("compaction given up partition=%s", log.topic_partition)
            else:
                self._failed(replica, error, dirty_bytes=dirt.dirty_bytes)
        else:
            self._finished(log, dirt, cleaning, number, started_ms)

    def _finished(
        self, log: PartitionLog, dirt: Dirt, cleaning: Cleaning, number: int, started_ms: int
    ) -> None:
        statistics = cleaning.statistics
        took_ms = self._clock.monotonic_ms() - started_ms
        self._last_runs[number] = _Run(statistics, took_ms)
        self._runs += 1
        self._bytes_read += statistics.bytes_indexed + statistics.bytes_read
        self._bytes_written += statistics.bytes_written
        if cleaning.cleaned_to <= dirt.start:
            # A transaction that has no end yet stands at the beginning of what is dirty.
            self._put_off.add(log)
        logger.info(
            "compacted partition=%s from=%d to=%d of=%d keys=%d records=%d kept=%d bytes=%d"
            " kept_bytes=%d took_ms=%d",
            log.topic_partition, dirt.start, cleaning.cleaned_to, dirt.bound, statistics.keys,
            statistics.records_read, statistics.records_written, statistics.bytes_read,
            statistics.bytes_written, took_ms,
        )  # fmt: skip

    def _failed(self, replica: Replica, error: ApiError | StorageError, dirty_bytes: int) -> None:
        log = replica.log
        if isinstance(error, StorageError) and error.__cause__ is not None:
            # The disk's doing: if it went offline for it, its replicas do.
            self._put_off.add(log)
            self._replicas.storage_failed(error)
            return
        self._uncleanable[log] = dirty_bytes
        logger.error(
            "not compacted any more until the next start partition=%s cause=%s",
            log.topic_partition, error,
        )  # fmt: skip

    def statistics(self) -> CleanerStatistics:
        """As it is now."""
        last = [run.statistics for run in self._last_runs.values()]
        read = sum(statistics.bytes_read for statistics in last)
        written = sum(statistics.bytes_written for statistics in last)
        keys = max((statistics.keys for statistics in last), default=0)
        took_ms = max((run.took_ms for run in self._last_runs.values()), default=0)
        uncleanable = {}
        for directory in self._replicas.log_dirs:
            dirty = [
                dirty_bytes
                for log, dirty_bytes in self._uncleanable.items()
                if not log.closed and directory.logs.get(log.topic_partition) is log
            ]
            uncleanable[directory.path] = (len(dirty), sum(dirty))
        return CleanerStatistics(
            max_dirty_percent=int(100 * self._max_ratio),
            max_compaction_delay_s=self._max_overdue_ms // 1000,
            max_buffer_utilization_percent=100 * keys // self._limits.keys,
            max_clean_time_s=took_ms // 1000,
            recopy_percent=100 * written // max(read, 1),
            since_last_look_ms=(
                0 if self._looked_ms is None else self._clock.monotonic_ms() - self._looked_ms
            ),
            uncleanable=uncleanable,
            runs=self._runs,
            bytes_read=self._bytes_read,
            bytes_written=self._bytes_written,
        )


def _limits_of(config: BrokerConfig) -> CleanerLimits:
    return CleanerLimits.of(
        config.log_cleaner_dedupe_buffer_size,
        config.log_cleaner_io_buffer_load_factor,
        config.log_cleaner_io_buffer_size,
        max(1, config.log_cleaner_threads),
    )


def _look(
    logs: Sequence[tuple[PartitionLog, Offset]], now_ms: int
) -> list[Dirt | StorageError | ApiError]:
    """What there is to clean in each of these logs; in a worker thread."""
    found: list[Dirt | StorageError | ApiError] = []
    for log, last_stable_offset in logs:
        try:
            found.append(find_dirt(log, last_stable_offset, now_ms))
        except StorageError as error:
            found.append(error)
        except SegmentGone:
            start = log.cleaned_to or 0
            found.append(Dirt(start=start, bound=start, clean_bytes=0, dirty_bytes=0, overdue_ms=0))
    return found
