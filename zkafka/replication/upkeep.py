"""Flush, retention, compaction, checkpoints and removal, each in its time; all disk work in worker
threads.

    every                                            what
    replica.high.watermark.checkpoint.interval.ms    high watermarks
    log.flush.offset.checkpoint.interval.ms          recovery points
    log.flush.start.offset.checkpoint.interval.ms    log start offsets
    FLUSH_LOOK_MS, and whoever asks                  fsync of logs that are due
    log.retention.check.interval.ms                  old segments (first after 30 s)
    PURGE_LOOK_MS                                    files of what was deleted a while ago
    PRODUCER_LOOK_MS                                 forgotten producers
    log.cleaner.backoff.ms, if nothing was to do     compaction (`cleaning.py`)

One disk job per directory and kind runs at a time. Deleting segments is a few renames and changes
the log, so it runs in the loop, one partition between two checkpoints.

A failed job takes its directory offline (`log.disk` sees to that), and `Replicas.storage_failed`
then takes the replicas with it; the jobs of the other directories go on.

Source: the schedules of Kafka's `LogManager` and `ReplicaManager`.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errors import DiskFull, StorageError
from zkafka.log.directory import LogDirectory
from zkafka.log.partition_log import PartitionLog
from zkafka.model import Offset, TopicPartition
from zkafka.offload import Offload
from zkafka.replication.cleaning import Cleaner
from zkafka.replication.replica import Replica

if TYPE_CHECKING:
    from zkafka.replication.replicas import Replicas

logger = logging.getLogger(__name__)

FLUSH_LOOK_MS = 1_000
"""How often logs are looked through for sealed segments and flush.ms, or oftener where that is
shorter: it costs a few comparisons per log. Kafka's log.flush.scheduler.interval.ms is off by
default, and flushes at each roll."""
FIRST_RETENTION_MS = 30_000
PURGE_LOOK_MS = 10_000
PRODUCER_LOOK_MS = 600_000
YIELD_EVERY = 50


class Upkeep:
    """What keeps the logs of one broker in shape; `run` it beside the replicas."""

    def __init__(
        self,
        replicas: "Replicas",
        *,
        log_dirs: Sequence[LogDirectory],
        config: BrokerConfig,
        offload: Offload,
        clock: Clock,
    ) -> None:
        self._replicas = replicas
        self._log_dirs = log_dirs
        self._config = config
        self._offload = offload
        self._clock = clock
        self.cleaner = Cleaner(replicas, config=config, offload=offload, clock=clock)
        # Bounded by the logs hosted: each is in it once at most.
        self._to_flush: dict[Replica, None] = {}
        self._flush_asked = trio.Event()

    async def run(self) -> None:
        """All of it, until cancelled."""
        config = self._config
        async with trio.open_nursery() as nursery:
            for pause_ms, job in (
                (
                    config.replica_high_watermark_checkpoint_interval_ms,
                    self.checkpoint_high_watermarks,
                ),
                (config.log_flush_offset_checkpoint_interval_ms, self.checkpoint_recovery_points),
                (config.log_flush_start_offset_checkpoint_interval_ms, self.checkpoint_log_starts),
                (PURGE_LOOK_MS, self.purge_deleted),
                (PRODUCER_LOOK_MS, self.expire_producers),
            ):
                nursery.start_soon(self._every, pause_ms, pause_ms, job)
            nursery.start_soon(
                self._every,
                min(FIRST_RETENTION_MS, config.log_retention_check_interval_ms),
                config.log_retention_check_interval_ms,
                self.delete_old_segments,
            )
            nursery.start_soon(self._flush_in_time)
            nursery.start_soon(self.cleaner.run)

    async def _every(
        self, first_ms: int, pause_ms: int, job: Callable[[], Awaitable[None]]
    ) -> None:
        await trio.sleep(first_ms / 1000)
        while True:
            await job()
            # A pause of nothing would be a loop that never rests.
            await trio.sleep(max(pause_ms, 1) / 1000)

    # Checkpoints.

    async def checkpoint_high_watermarks(self) -> None:
        """Write down the high watermarks as they are now."""
        marks: dict[LogDirectory, dict[TopicPartition, Offset]] = {}
        for tp, replica in self._replicas.hosted.items():
            mark = replica.machine.high_watermark
            marks.setdefault(replica.directory, {})[tp] = mark
            move = self._replicas.moves.get(tp)
            if move is not None:
                mark = min(mark, move.way.future.log_end_offset)
                marks.setdefault(move.way.target, {})[tp] = mark
        for directory in self._log_dirs:
            job = partial(directory.write_high_watermarks, marks.get(directory, {}))
            await self._on_disk(directory, job)

    async def checkpoint_recovery_points(self) -> None:
        """Write down up to where each log was flushed."""
        for directory in self._log_dirs:
            await self._on_disk(directory, directory.write_recovery_points)

    async def checkpoint_log_starts(self) -> None:
        """Write down where logs start, where their files do not tell."""
        for directory in self._log_dirs:
            await self._on_disk(directory, directory.write_log_start_offsets)

    async def purge_deleted(self) -> None:
        """Remove the files of what was deleted file.delete.delay.ms ago."""
        now_ms = self._clock.wall_ms()
        for directory in self._log_dirs:
            await self._on_disk(directory, partial(directory.purge_deleted, now_ms))

    async def _on_disk(self, directory: LogDirectory, job: Callable[[], object]) -> None:
        if directory.offline is not None:
            return
        try:
            await self._offload.run(job)
        except StorageError as error:
            self._replicas.storage_failed(error)

    # Flushing.

    def flush_soon(self, replica: Replica) -> None:
        """Have the log flushed now (flush.messages is met)."""
        self._to_flush[replica] = None
        self._flush_asked.set()

    async def _flush_in_time(self) -> None:
        look_ms = self._clock.monotonic_ms() + self._look_interval_ms()
        while True:
            with trio.move_on_at(look_ms / 1000):
                await self._flush_asked.wait()
            # Also where somebody asks all the time: the others' logs are due all the same.
            if self._clock.monotonic_ms() >= look_ms:
                await self._look_for_flushes()
                look_ms = self._clock.monotonic_ms() + self._look_interval_ms()
            await self.flush_asked()

    def _look_interval_ms(self) -> int:
        """A quarter of the shortest flush.ms here, so that it is late by so much at most."""
        shortest = min((r.log.config.flush_ms for r in self._replicas.hosted.values()), default=0)
        return min(FLUSH_LOOK_MS, max(1, shortest // 4)) if shortest else FLUSH_LOOK_MS

    async def _look_for_flushes(self) -> None:
        now_ms = self._clock.monotonic_ms()
        for count, replica in enumerate(list(self._replicas.hosted.values()), 1):
            if not replica.is_offline and replica.log.flush_due(now_ms):
                self._to_flush[replica] = None
            if count % (20 * YIELD_EVERY) == 0:
                await trio.lowlevel.checkpoint()

    async def flush_asked(self) -> None:
        """Flush what was asked for, the directories at the same time, each log by log."""
        asked, self._to_flush = self._to_flush, {}
        self._flush_asked = trio.Event()
        by_directory: dict[LogDirectory, list[Replica]] = {}
        for replica in asked:
            if not replica.is_offline and not replica.log.closed:
                by_directory.setdefault(replica.directory, []).append(replica)
        async with trio.open_nursery() as nursery:
            for directory, replicas in by_directory.items():
                nursery.start_soon(self._flush, directory, replicas)

    async def _flush(self, directory: LogDirectory, replicas: Sequence[Replica]) -> None:
        await self._on_disk(directory, partial(_flush_all, [replica.log for replica in replicas]))
        for replica in replicas:
            self._replicas.flushed(replica)

    # In the loop.

    async def delete_old_segments(self) -> None:
        """Delete what retention lets go: each replica by its own clock, below its own mark."""
        deleted = 0
        for count, replica in enumerate(list(self._replicas.hosted.values()), 1):
            # It may have gone, or failed, at the last checkpoint.
            if self._is_current(replica):
                try:
                    deleted += replica.log.delete_old_segments(
                        self._clock.wall_ms(), replica.machine.high_watermark
                    )
                except StorageError as error:
                    self._replicas.storage_failed(error)
                else:
                    self._replicas.log_start_moved(replica)
            if count % YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()
        if deleted:
            logger.info("retention deleted segments=%d", deleted)

    async def expire_producers(self) -> None:
        """Forget producers that have not written for producer.id.expiration.ms."""
        expiration_ms = self._config.producer_id_expiration_ms
        for count, replica in enumerate(list(self._replicas.hosted.values()), 1):
            if self._is_current(replica):
                replica.log.producers.expire(self._clock.wall_ms(), expiration_ms)
            if count % YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()

    def _is_current(self, replica: Replica) -> bool:
        return (
            not replica.is_offline and self._replicas.hosted.get(replica.topic_partition) is replica
        )


def _flush_all(logs: Sequence[PartitionLog]) -> None:
    full = None
    for log in logs:
        # Deleted since it was asked for: nothing to make durable.
        if not log.closed:
            try:
                log.flush()
            except DiskFull as error:
                full = error  # Want of room for one log's index is no reason to leave the others.
    if full is not None:
        raise full
