"""The partitions this broker hosts: append, read, change role, carry out the machines' effects.

Everything a request does to a partition passes here. The machine (`partition.py`) decides, this
module asks the log and the machine in the right order, and does what the machine answers: wakes
sleepers, starts and stops following, sends proposals, writes the state-change log.

Order and ownership
-------------------

- Appending, reading and stepping are synchronous: each runs whole between two checkpoints, so
  machine and log agree whenever anybody looks.
- Control requests (LeaderAndIsr, StopReplica) wait for the disk in the middle; `control.py`.
- Purgatory keys: a partition's `TopicPartition` is woken by whatever a fetch may wait for; its
  `Replica` by what a produce or a deletion waits for. So an append does not wake producers.

Storage
-------

A directory that failed takes all its replicas OFFLINE at once: they answer KAFKA_STORAGE_ERROR,
their fetching stops, and `on_log_dir_failure` is told. When the last directory fails, `run` raises
and the broker stops. An append that failed and was cut back off the log (a full disk) is only an
error of that append.

Where flush.messages is met, the flush is begun at once, in a worker thread, and what met it is
acknowledged when it is done, with acks=1 as with acks=-1; a follower fetches no further before, so
that a high watermark never counts on a follower for what that has not flushed.

Where we differ from Kafka: a leader's own records may be read by consumers, though they are not
acknowledged, before they are flushed.

Sources: KIP-101, KIP-112 (JBOD), KIP-227, KIP-320, KIP-392, KIP-497; Kafka's `ReplicaManager`.
"""

import enum
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, assert_never

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import DOUBLE_MAX, LONG_MAX, BrokerConfig, LogConfig
from zkafka.errors import ApiError, DiskFull, ErrorCode, StorageError
from zkafka.log.directory import LogDirectory
from zkafka.log.partition_log import Appended, PartitionLog, TimestampedOffset
from zkafka.log.producers import ProducerStates
from zkafka.log.segment import LogSlice
from zkafka.log.transactions import AbortedTransaction
from zkafka.model import (
    NO_EPOCH,
    NO_OFFSET,
    UNDEFINED_EPOCH_END,
    BrokerEpoch,
    BrokerId,
    ControllerEpoch,
    EpochEndOffset,
    LeaderEpoch,
    Offset,
    TopicPartition,
)
from zkafka.offload import Offload
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.messages.leader_and_isr import LeaderAndIsrRequest
from zkafka.protocol.messages.stop_replica import StopReplicaRequest, StopReplicaResponse
from zkafka.protocol.records import LOG_APPEND_TIME, Batch, parse_batches, restamp, verify_crc
from zkafka.replication.control import ControlRequests, LeadershipChanges, ids
from zkafka.replication.fetcher import Fetcher, Fetchers, FetchersStatistics
from zkafka.replication.links import PeerLink
from zkafka.replication.moving import Moves
from zkafka.replication.opening import (
    check_size,
    in_topics_codec,
    is_small,
    must_open,
    opened,
    with_append_time,
    without_append_time,
)
from zkafka.replication.partition import (
    AdvanceHighWatermark,
    AdvanceLowWatermark,
    AssignEpoch,
    Effect,
    Event,
    FollowerFetched,
    IsrChanged,
    IsrUpdateFailed,
    LagChecked,
    LeaderReported,
    LogAppended,
    LogStartAdvanced,
    LogTruncated,
    MinIsrChanged,
    Partition,
    ProposeIsr,
    Role,
    StartFollowing,
    StopFollowing,
    StorageFailed,
)
from zkafka.replication.proposals import IsrProposals
from zkafka.replication.purgatory import Purgatory, Sleep
from zkafka.replication.replica import PartitionView, Replica
from zkafka.replication.throttle import Throttle
from zkafka.replication.truncation import RestartAt, TruncateTo
from zkafka.replication.upkeep import Upkeep
from zkafka.replication.validation import client_batch
from zkafka.server.metadata import MetadataCache

logger = logging.getLogger(__name__)
state_change = logging.getLogger("zkafka.state_change")

ALL_IN_SYNC = -1
"""acks=-1: acknowledged when the whole in-sync set has it."""
CONSUMER = -1
"""The replica id of those who are none."""
NO_TIMESTAMP = -1
LATEST = -1
EARLIEST = -2
MAX_TIMESTAMP = -3
EARLIEST_LOCAL = -4

DISK_FULL_LINE_MS = 10_000
"""How often a full disk is told, in the log, for as long as it is full."""

LATE_TRANSACTION_MS = 5 * 60_000
"""How much longer than transaction.max.timeout.ms one is open when it is late, as in Kafka."""

YIELD_EVERY = 100
"""Partitions looked at before other tasks get their turn."""


OPENINGS = 2
"""Batches opened in worker threads at a time: each may take two or three times
`compression.OUTPUT_LIMIT`, and threads would share one interpreter's time anyway."""


class Isolation(enum.IntEnum):
    """What a consumer may see, as the protocol numbers it."""

    READ_UNCOMMITTED = 0
    READ_COMMITTED = 1


# ------------------------------------------------------------------------------------- values


@attrs.define
class AppendResult:
    """Where a batch went. `duplicate`: it had been appended before, these are its first offsets.

    `last_offset` is inclusive. `replica` is the hosted replica that took it. Not frozen, only
    because there is one per batch and that costs twice as much to make.
    """

    topic_partition: TopicPartition
    base_offset: Offset
    last_offset: Offset
    leader_epoch: LeaderEpoch
    log_start_offset: Offset
    duplicate: bool
    replica: Replica = attrs.field(repr=False, eq=False)
    log_append_time_ms: int = -1
    """-1: the records keep their producers' times."""
    flush_to: Offset = 0
    """The log must have been flushed up to there before anybody is told; 0 where it need not."""

    @property
    def message_count(self) -> int:
        """Records that are new in the log."""
        return 0 if self.duplicate else self.last_offset - self.base_offset + 1


@attrs.frozen
class Opening:
    """A client's batch that must be opened in a worker thread before it can be appended; see
    `Replicas.append_opened`. It points into the request's buffer."""

    topic_partition: TopicPartition
    batch: Batch
    config: LogConfig
    required_acks: int


class PartitionFetch(Protocol):
    """One partition of a Fetch, by name; `server.fetch_sessions` keeps and changes it.

    `log_start_offset` is the fetcher's own, of a follower."""

    @property
    def topic_partition(self) -> TopicPartition: ...
    @property
    def topic_id(self) -> uuid.UUID: ...
    @property
    def fetch_offset(self) -> Offset: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def current_leader_epoch(self) -> LeaderEpoch: ...
    @property
    def last_fetched_epoch(self) -> LeaderEpoch: ...
    @property
    def log_start_offset(self) -> Offset: ...


@attrs.define
class PartitionRead:
    """What `read` found. On an error, offsets are -1 and `slice` is None.

    Ownership: whoever is given a `slice` releases it. `diverging` is set where the fetcher's log
    and ours part: then there is no data. `high_watermark` is that of before this fetch counted.
    `aborted` transactions are for who reads committed records only.
    """

    error: ErrorCode
    high_watermark: Offset = NO_OFFSET
    last_stable_offset: Offset = NO_OFFSET
    log_start_offset: Offset = NO_OFFSET
    slice: LogSlice | None = None
    diverging: EpochEndOffset | None = None
    aborted: Sequence[AbortedTransaction] = ()

    @property
    def size(self) -> int:
        """Bytes of records read."""
        return 0 if self.slice is None else self.slice.size

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to be told."""
        return self.error is ErrorCode.NONE and self.slice is None and self.diverging is None


@attrs.frozen
class OffsetFound:
    """The answer to a look-up by time; -1 in all three where nothing is at or after it."""

    error: ErrorCode
    timestamp: int = -1
    offset: Offset = NO_OFFSET
    leader_epoch: LeaderEpoch = NO_EPOCH


class HostedPartition(NamedTuple):
    """One log in it, in bytes. The lag, in offsets: of a replica's log behind the high watermark,
    of a future one behind the replica's log."""

    topic_partition: TopicPartition
    size: int
    offset_lag: int
    is_future: bool


@attrs.frozen
class HostedLog:
    """One log directory as DescribeLogDirs shows it."""

    path: str
    error: ErrorCode
    partitions: Sequence[HostedPartition]
    total_bytes: int
    usable_bytes: int


@attrs.frozen(kw_only=True)
class ReplicasStatistics:
    """Counts of partitions now, and totals since the start."""

    partition_count: int
    leader_count: int
    under_replicated: int
    under_min_isr: int
    at_min_isr: int
    offline_replicas: int
    offline_log_dirs: int
    reassigning: int
    producer_id_count: int
    late_transactions: int
    moves: int
    max_move_lag: int
    isr_shrinks: int
    isr_expands: int
    failed_isr_updates: int
    replication_bytes_in: int
    fetchers: FetchersStatistics


@attrs.define
class _Totals:
    isr_shrinks: int = 0
    isr_expands: int = 0
    failed_isr_updates: int = 0
    replication_bytes_in: int = 0


class Replicas:
    """All that this broker hosts. One per broker; its methods belong to the trio loop."""

    def __init__(
        self,
        *,
        broker_id: BrokerId,
        broker_epoch: Callable[[], BrokerEpoch],
        config: BrokerConfig,
        config_for: Callable[[str], LogConfig],
        log_dirs: Sequence[LogDirectory],
        logs: Mapping[TopicPartition, PartitionLog],
        metadata: MetadataCache,
        purgatory: Purgatory,
        offload: Offload,
        clock: Clock,
        connect: Callable[[BrokerId], PeerLink],
        controller: PeerLink,
        may_propose: Callable[[], bool],
        on_log_dir_failure: Callable[[str], None],
    ) -> None:
        """Host `logs`, as `log_dirs` loaded them, in no role yet. Reads the high watermarks'
        checkpoints: some milliseconds of disk.

        `config_for` answers a topic's settings. `connect(broker)` makes an unconnected link to
        that broker's inter-broker listener, or raises `PeerUnreachable` where it is not known.
        `may_propose` tells whether the ZooKeeper session stands. `on_log_dir_failure(path)` must
        not block.
        """
        self._broker_id = broker_id
        self._broker_epoch = broker_epoch
        self._config = config
        self.log_dirs = tuple(log_dirs)
        self._metadata = metadata
        self._purgatory = purgatory
        self._offload = offload
        self._clock = clock
        self._may_propose = may_propose
        self._on_log_dir_failure = on_log_dir_failure
        self._hosted: dict[TopicPartition, Replica] = {}
        self.failed_dirs: set[LogDirectory] = set()
        self._no_storage: trio.Event = trio.Event()
        self._next_full_line_ms = 0
        self._totals = _Totals()
        self._openings = trio.CapacityLimiter(OPENINGS)
        self._proposals = IsrProposals(
            broker_id=broker_id,
            broker_epoch=broker_epoch,
            controller=controller,
            may_propose=may_propose,
            alive=lambda: self.alive,
            answered=self.step,
        )
        self.fetchers = Fetchers(
            lambda leader: Fetcher(
                leader,
                broker_id=broker_id,
                broker_epoch=broker_epoch,
                config=config,
                clock=clock,
                connect=connect,
                replicas=self,
            ),
            config.num_replica_fetchers,
        )
        self.upkeep = Upkeep(self, log_dirs=self.log_dirs, config=config, offload=offload,
                             clock=clock)  # fmt: skip
        self._control = ControlRequests(
            self,
            broker_id=broker_id,
            broker_epoch=broker_epoch,
            config_for=config_for,
            offload=offload,
            clock=clock,
        )
        self._move_throttle = Throttle(DOUBLE_MAX)
        self.moves = Moves(
            log_dirs=self.log_dirs,
            configured=map(os.path.abspath, config.log_dirs),
            hosted=self._hosted,
            is_known=lambda tp: metadata.image.partition(tp) is not None,
            turn=self._control.turn,
            sync=self._control.sync,
            swapped=self._swapped,
            storage_failed=self.storage_failed,
            pay=self._move_throttle.pay,
            threads=config.num_replica_alter_log_dirs_threads,
            offload=offload,
            clock=clock,
        )
        self._host_loaded(logs)
        self.moves.resume()

    def _host_loaded(self, logs: Mapping[TopicPartition, PartitionLog]) -> None:
        for directory in self.log_dirs:
            if directory.offline is not None:
                self.failed_dirs.add(directory)
                continue
            try:
                high_watermarks = directory.read_high_watermarks()
            except StorageError as error:
                # Without it every mark starts at the log start and is learned again: safe, but a
                # checkpoint that cannot be read means a disk that cannot be trusted.
                directory.fail(error)
                self.failed_dirs.add(directory)
                continue
            for tp, log in directory.logs.items():
                if logs.get(tp) is log:
                    self.host(log, directory, high_watermarks.get(tp, 0))
        if len(self.failed_dirs) == len(self.log_dirs):
            self._no_storage.set()

    @property
    def hosted(self) -> Mapping[TopicPartition, Replica]:
        """The partitions hosted here, whatever their role."""
        return MappingProxyType(self._hosted)

    @property
    def controller_epoch(self) -> ControllerEpoch:
        """The newest controller epoch heard of."""
        return max(self._control.controller_epoch, self._metadata.image.controller_epoch)

    @property
    def alive(self) -> Container[BrokerId]:
        """The brokers that the controller counts as living."""
        return self._metadata.image.brokers

    # ------------------------------------------------------------------------------ running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow leaders, watch lag, send proposals, keep the logs; until cancelled.

        Errors: `StorageError` when the last log directory fails; the broker then stops.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.fetchers.run)
            nursery.start_soon(self._proposals.run)
            nursery.start_soon(self._watch_lag)
            nursery.start_soon(self.upkeep.run)
            nursery.start_soon(self.moves.run)
            task_status.started()
            await self._no_storage.wait()
            nursery.cancel_scope.cancel()
        raise StorageError("all log directories failed", ", ".join(d.path for d in self.log_dirs))

    async def _watch_lag(self) -> None:
        pause_s = self._config.replica_lag_time_max_ms / 2 / 1000
        while True:
            await trio.sleep(pause_s)
            await self.check_lag()

    async def check_lag(self) -> None:
        """Look at all followers: those that fell behind are to leave the ISR, and a high watermark
        that waited for one to join, which has died, waits no longer."""
        for count, replica in enumerate(list(self._hosted.values()), 1):
            if replica.machine.is_leader:
                self.step(replica, LagChecked(self.alive, self._may_propose()))
            if count % YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()

    async def checkpoint(self) -> None:
        """Write down all high watermarks; the last act of a stop, before the logs are closed."""
        await self.upkeep.checkpoint_high_watermarks()

    # ------------------------------------------------------------------------------ effects

    def step(self, replica: Replica, event: Event) -> None:
        """Step its machine, and do what it says."""
        effects = replica.machine.step(event, self._clock.monotonic_ms())
        if effects:
            self.carry_out(replica, effects)

    def carry_out(self, replica: Replica, effects: Iterable[Effect]) -> None:
        """Do what its machine said, in this order."""
        for effect in effects:
            match effect:
                case AdvanceHighWatermark():
                    self._purgatory.wake(replica.topic_partition)
                    self._purgatory.wake(replica)
                case AdvanceLowWatermark():
                    self._purgatory.wake(replica)
                case ProposeIsr():
                    self._log_proposal(replica, effect)
                    self._proposals.submit(replica, effect)
                case AssignEpoch():
                    replica.log.epochs.assign(effect.leader_epoch, effect.start_offset)
                case StartFollowing():
                    self.fetchers.follow(replica, effect.leader, effect.leader_epoch)
                case StopFollowing():
                    self.fetchers.unfollow(replica.topic_partition)
                case IsrChanged():
                    self._isr_changed(replica, effect)
                case IsrUpdateFailed():
                    self._totals.failed_isr_updates += 1
                    state_change.info(
                        "in-sync set not changed broker=%d partition=%s leader_epoch=%d error=%s",
                        self._broker_id,
                        replica.topic_partition,
                        replica.machine.leader_epoch,
                        effect.error.name,
                    )
                case _:
                    assert_never(effect)

    def _log_proposal(self, replica: Replica, effect: ProposeIsr) -> None:
        state_change.info(
            "proposed in-sync set broker=%d partition=%s leader_epoch=%d partition_epoch=%d"
            " isr=%s proposed=%s high_watermark=%d log_end_offset=%d",
            self._broker_id,
            replica.topic_partition,
            effect.leader_epoch,
            effect.partition_epoch,
            ids(effect.proposal.committed),
            ids(effect.proposal.proposed),
            replica.machine.high_watermark,
            replica.machine.log_end_offset,
        )

    def _isr_changed(self, replica: Replica, effect: IsrChanged) -> None:
        if effect.after - effect.before:
            self._totals.isr_expands += 1
        if effect.before - effect.after:
            self._totals.isr_shrinks += 1
        state_change.info(
            "in-sync set changed broker=%d partition=%s leader_epoch=%d partition_epoch=%d isr=%s"
            " before=%s",
            self._broker_id,
            replica.topic_partition,
            replica.machine.leader_epoch,
            effect.partition_epoch,
            ids(effect.after),
            ids(effect.before),
        )
        # Enough, or too few, in sync for those who wait: NOT_ENOUGH_REPLICAS_AFTER_APPEND.
        self._purgatory.wake(replica)

    # ------------------------------------------------------------------------------ writing

    def append(
        self, tp: TopicPartition, records: memoryview, *, required_acks: int
    ) -> AppendResult | Opening:
        """Append what a client sent: exactly one batch, checked, stamped in place. Synchronous.

        `records` is writable and may be reused when this returns, unless it is an `Opening`: then
        nothing is appended yet, and `append_opened` comes next. Errors: `ApiError`, with nothing
        written; acks=-1 is refused with NOT_ENOUGH_REPLICAS below min.insync.replicas.
        """
        replica = self._leading(tp)
        if required_acks == ALL_IN_SYNC and not replica.machine.has_enough_in_sync:
            raise self._not_enough(replica)
        wall_ms = self._clock.wall_ms()
        config = replica.log.config
        batch = client_batch(records, config)
        if not config.takes_batches_as_sent or batch.attributes & LOG_APPEND_TIME:
            if must_open(batch, config, wall_ms):
                if not is_small(batch):
                    return Opening(tp, batch, config, required_acks)
                batch = opened(batch, config, wall_ms)
            elif batch.is_log_append_time:
                batch = without_append_time(batch)
        return self._append(replica, batch, wall_ms)

    async def append_opened(self, opening: Opening) -> AppendResult:
        """Open the batch in a worker thread, then append it, as `append` would. Errors: as there.

        Waits: for the thread, and for the few others that are at it, since each may unpack 64 MiB.
        A cancellation takes effect when the thread is done with the buffer.
        """
        async with self._openings:
            batch = await self._offload.run(
                opened, opening.batch, opening.config, self._clock.wall_ms()
            )
        replica = self._leading(opening.topic_partition)
        if opening.required_acks == ALL_IN_SYNC and not replica.machine.has_enough_in_sync:
            raise self._not_enough(replica)
        return self._append(replica, batch, self._clock.wall_ms())

    def append_as_coordinator(self, tp: TopicPartition, batch: bytearray) -> AppendResult:
        """Append a batch of our own making, as with acks=-1, compressed anew where the topic's
        compression.type names another codec. Errors: `ApiError`."""
        replica = self._leading(tp)
        if not replica.machine.has_enough_in_sync:
            raise self._not_enough(replica)
        (ours,) = parse_batches(batch)
        ours = in_topics_codec(ours, replica.log.config)
        check_size(ours, replica.log.config)
        return self._append(replica, ours, self._clock.wall_ms())

    def _append(self, replica: Replica, batch: Batch, wall_ms: int) -> AppendResult:
        log = replica.log
        machine = replica.machine
        leader_epoch = machine.leader_epoch
        append_time_ms = NO_TIMESTAMP
        try:
            if log.config.message_timestamp_type == "LogAppendTime":
                append_time_ms = wall_ms
                appended = _appended_with_time(log, batch, leader_epoch, wall_ms)
            else:
                appended = log.append_as_leader(batch, leader_epoch, wall_ms)
        except StorageError as error:
            self.storage_failed(error)
            raise ApiError(ErrorCode.KAFKA_STORAGE_ERROR, str(error)) from error
        flush_to = 0
        if self.must_flush(replica):
            self.upkeep.flush_soon(replica)
            flush_to = appended.last_offset + 1
        if appended.duplicate:
            if append_time_ms != NO_TIMESTAMP:
                append_time_ms = log.producers.timestamp_at(batch.producer_id, appended.last_offset)
        else:
            end = log.log_end_offset
            effects = machine.step(LogAppended(end, self.alive), self._clock.monotonic_ms())
            if effects:
                self.carry_out(replica, effects)
            else:
                self._purgatory.wake(replica.topic_partition)
        return AppendResult(
            replica.topic_partition,
            appended.base_offset,
            appended.last_offset,
            leader_epoch,
            log.log_start_offset,
            appended.duplicate,
            replica,
            append_time_ms,
            flush_to,
        )

    def verdict(self, result: AppendResult, required_acks: int = ALL_IN_SYNC) -> ErrorCode | None:
        """How the append stands; None while what its producer asked for is not done.

        With acks=1 that is our own flush, where flush.messages asks for one. With acks=-1 these
        are the cases of Kafka's DelayedProduce, for one partition:

        A. we no longer lead, or not without a break since the append: NOT_LEADER_OR_FOLLOWER
           (KAFKA_STORAGE_ERROR where that is why)
        B. we lead,
           B.1 and the high watermark is past the record, in at least min.insync.replicas: NONE, as
               soon as the flush, where there must be one, is done here, too
           B.2 and it is past, but fewer are in sync by now: NOT_ENOUGH_REPLICAS_AFTER_APPEND
           B.3 and it is not there yet: None, keep waiting
        """
        machine = result.replica.machine
        if machine.role is not Role.LEADER or result.leader_epoch < machine.leading_since:
            if machine.role is Role.OFFLINE:
                return ErrorCode.KAFKA_STORAGE_ERROR
            return ErrorCode.NOT_LEADER_OR_FOLLOWER
        if result.replica.log.recovery_point < result.flush_to:
            return None
        if required_acks != ALL_IN_SYNC:
            return ErrorCode.NONE
        if machine.high_watermark <= result.last_offset:
            return None
        if len(machine.in_sync_set.maximal) < machine.effective_min_isr:
            return ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
        return ErrorCode.NONE

    def verdicts(self, results: Sequence[AppendResult], required_acks: int) -> list[ErrorCode]:
        """`verdict` on each, at this moment; REQUEST_TIMED_OUT where there is none."""
        return _Verdicts(self, results, required_acks).final()

    async def wait_replicated(
        self,
        results: Iterable[AppendResult],
        deadline_ms: int,
        required_acks: int = ALL_IN_SYNC,
    ) -> list[ErrorCode]:
        """The verdicts, in order; REQUEST_TIMED_OUT for those pending at the deadline.

        Waits: until all are decided or `deadline_ms` (monotonic). What was appended stays in the
        log in any case. A cancellation leaves nothing behind.
        """
        waiting = _Verdicts(self, list(results), required_acks)
        if waiting.keys:
            await self._purgatory.wait_for_wake(waiting.keys, waiting.judge, deadline_ms)
        return waiting.final()

    def call_when_replicated(
        self,
        results: Sequence[AppendResult],
        deadline_ms: int,
        required_acks: int,
        call: Callable[[list[ErrorCode]], None],
    ) -> Sleep:
        """As `wait_replicated`, for somebody who is no task: `call` gets the verdicts, once, never
        before this returns. Some are pending now."""
        waiting = _Verdicts(self, results, required_acks)
        return self._purgatory.call_after_wake(
            waiting.keys, waiting.judge, deadline_ms, lambda: call(waiting.final())
        )

    # ------------------------------------------------------------------------------ reading

    def read(
        self,
        fetch: PartitionFetch,
        *,
        replica_id: BrokerId = CONSUMER,
        replica_epoch: BrokerEpoch = NO_EPOCH,
        isolation: int = Isolation.READ_UNCOMMITTED,
        max_bytes: int,
        at_least_one: bool,
        first_pass: bool = True,
        leader_only: bool = False,
    ) -> PartitionRead:
        """Records from `fetch.fetch_offset`, at most min(fetch.max_bytes, max_bytes) of them, but a
        whole batch however large if `at_least_one`. Synchronous; never raises ApiError.

        `replica_id` >= 0 is a follower: it may read to the log end, and in the first pass its
        position is recorded. A consumer reads to the high watermark; from a follower too, unless
        `leader_only` (Fetch before version 11).
        """
        is_follower = replica_id >= 0
        replica = self._readable(fetch, replica_id, leader_only)
        if isinstance(replica, ErrorCode):
            return PartitionRead(replica)
        machine = replica.machine
        log = replica.log
        start, end, high_watermark = (
            log.log_start_offset,
            log.log_end_offset,
            machine.high_watermark,
        )
        if is_follower:
            progress = machine.progress_of(replica_id)
            if progress is None:
                # It may have heard of its assignment before we did.
                known = fetch.current_leader_epoch != NO_EPOCH
                return PartitionRead(
                    ErrorCode.UNKNOWN_LEADER_EPOCH if known else ErrorCode.NOT_LEADER_OR_FOLLOWER
                )
            if progress.is_stale(replica_epoch):
                return PartitionRead(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        offset = fetch.fetch_offset
        if offset < start:
            return PartitionRead(ErrorCode.OFFSET_OUT_OF_RANGE)
        epoch = fetch.last_fetched_epoch
        if epoch >= 0 and (epoch != log.epochs.latest or offset > end):
            there = log.epochs.end_offset_for(epoch, end)
            if there.end_offset < 0:
                return PartitionRead(ErrorCode.OFFSET_OUT_OF_RANGE)
            if there.leader_epoch < epoch or there.end_offset < offset:
                return PartitionRead(
                    ErrorCode.NONE,
                    high_watermark,
                    replica.last_stable_offset,
                    start,
                    diverging=there,
                )
        if offset > end:
            return PartitionRead(ErrorCode.OFFSET_OUT_OF_RANGE)
        stable = log.last_stable_offset(high_watermark)
        is_committed = isolation == Isolation.READ_COMMITTED
        bound = end if is_follower else stable if is_committed else high_watermark
        limit = min(fetch.max_bytes, max_bytes)
        found = None
        aborted: Sequence[AbortedTransaction] = ()
        if offset < bound and (limit > 0 or at_least_one):
            lost = replica.directory.offline
            if lost is not None:
                # For what a sender of slices met: it tells the log, and nobody else.
                self.storage_failed(lost)
                return PartitionRead(ErrorCode.KAFKA_STORAGE_ERROR)
            try:
                found = log.read(
                    offset, max(limit, 0), upper_bound=bound, at_least_one=at_least_one
                )
                if found is not None and is_committed and not is_follower:
                    aborted = log.aborted_in(found, offset)
            except StorageError as error:
                if found is not None:
                    found.release()
                self.storage_failed(error)
                return PartitionRead(ErrorCode.KAFKA_STORAGE_ERROR)
        read = PartitionRead(ErrorCode.NONE, high_watermark, stable, start, found, aborted=aborted)
        if is_follower and first_pass:
            effects = machine.step(
                FollowerFetched(
                    replica_id,
                    offset,
                    fetch.log_start_offset,
                    replica_epoch,
                    self.alive,
                    # Asked for only where there may be something to propose.
                    replica_id not in machine.in_sync_set.committed and self._may_propose(),
                ),
                self._clock.monotonic_ms(),
            )
            if effects:
                self.carry_out(replica, effects)
        return read

    def bytes_available(
        self,
        fetch: PartitionFetch,
        *,
        replica_id: BrokerId = CONSUMER,
        isolation: int = Isolation.READ_UNCOMMITTED,
        wanted: int = 1,
        leader_only: bool = False,
    ) -> int | None:
        """Bytes that a `read` would find, exact only below `wanted`; None where waiting is
        pointless (an error, a lost leadership, a truncation): read again and see."""
        replica = self._readable(fetch, replica_id, leader_only)
        if isinstance(replica, ErrorCode):
            return None
        log = replica.log
        offset = fetch.fetch_offset
        end = log.log_end_offset
        if not log.log_start_offset <= offset <= end:
            return None
        bound = end if replica_id >= 0 else _bound(replica, isolation)
        if offset >= bound:
            return 0
        if wanted <= 1:
            return 1
        try:
            return max(1, log.available(offset, bound))
        except StorageError as error:
            self.storage_failed(error)
            return None

    def _readable(
        self, fetch: PartitionFetch, replica_id: BrokerId, leader_only: bool
    ) -> Replica | ErrorCode:
        """The replica, if it may answer this fetch."""
        replica = self._hosted.get(fetch.topic_partition)
        if replica is None:
            return self._absent(fetch.topic_partition)
        machine = replica.machine
        role = machine.role
        if role is Role.OFFLINE:
            return ErrorCode.KAFKA_STORAGE_ERROR
        asked, ours = fetch.topic_id, replica.topic_id
        if asked.int != ours.int and NULL_UUID not in (asked, ours):
            return ErrorCode.INCONSISTENT_TOPIC_ID
        if fetch.current_leader_epoch != NO_EPOCH:
            if fetch.current_leader_epoch < machine.leader_epoch:
                return ErrorCode.FENCED_LEADER_EPOCH
            if fetch.current_leader_epoch > machine.leader_epoch:
                return ErrorCode.UNKNOWN_LEADER_EPOCH
        if role is Role.LEADER or (role is Role.FOLLOWER and replica_id < 0 and not leader_only):
            return replica
        return ErrorCode.NOT_LEADER_OR_FOLLOWER

    def _absent(self, tp: TopicPartition) -> ErrorCode:
        """Why a partition that is not hosted here cannot be used here."""
        if self._metadata.image.partition(tp) is not None:
            return ErrorCode.NOT_LEADER_OR_FOLLOWER
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    def _leading(self, tp: TopicPartition) -> Replica:
        """The replica, if we lead it; ApiError otherwise."""
        replica = self._hosted.get(tp)
        if replica is None:
            raise ApiError(self._absent(tp), f"{tp} is not here")
        role = replica.machine.role
        if role is not Role.LEADER:
            if role is Role.OFFLINE:
                raise ApiError(ErrorCode.KAFKA_STORAGE_ERROR, f"{replica.directory.path} failed")
            raise ApiError(ErrorCode.NOT_LEADER_OR_FOLLOWER, f"{tp} is led elsewhere")
        return replica

    def _leading_in(self, tp: TopicPartition, current_leader_epoch: LeaderEpoch) -> Replica:
        """The replica, if we lead it and the asker knows the epoch, or names none."""
        replica = self._hosted.get(tp)
        if replica is not None and current_leader_epoch != NO_EPOCH and not replica.is_offline:
            ours = replica.machine.leader_epoch
            if current_leader_epoch < ours:
                raise ApiError(ErrorCode.FENCED_LEADER_EPOCH, f"{tp} is in epoch {ours}")
            if current_leader_epoch > ours:
                raise ApiError(ErrorCode.UNKNOWN_LEADER_EPOCH, f"{tp} is in epoch {ours}")
        return self._leading(tp)

    def _not_enough(self, replica: Replica) -> ApiError:
        machine = replica.machine
        return ApiError(
            ErrorCode.NOT_ENOUGH_REPLICAS,
            f"{len(machine.in_sync_set.committed)} in sync,"
            f" {machine.effective_min_isr} wanted for {replica.topic_partition}",
        )

    async def offset_for_timestamp(
        self,
        tp: TopicPartition,
        timestamp: int,
        *,
        current_leader_epoch: LeaderEpoch = NO_EPOCH,
        replica_id: BrokerId = CONSUMER,
        isolation: int = Isolation.READ_UNCOMMITTED,
    ) -> OffsetFound:
        """ListOffsets: -1 latest, -2 earliest, -3 of the largest timestamp, -4 earliest local, or
        the first offset at or after a timestamp. OFFSET_NOT_AVAILABLE while the high watermark is
        below the start of the leader's epoch, since a consumer's latest could then go back."""
        try:
            replica = self._leading_in(tp, current_leader_epoch)
            return await self._find_offset(replica, timestamp, replica_id, isolation)
        except ApiError as refusal:
            return OffsetFound(refusal.code)
        except StorageError as error:
            self.storage_failed(error)
            return OffsetFound(ErrorCode.KAFKA_STORAGE_ERROR)

    async def _find_offset(
        self, replica: Replica, timestamp: int, replica_id: BrokerId, isolation: int
    ) -> OffsetFound:
        machine, log = replica.machine, replica.log
        is_consumer = replica_id == CONSUMER
        bound = _bound(replica, isolation) if is_consumer else log.log_end_offset
        unsettled = is_consumer and machine.high_watermark < machine.epoch_start_offset
        if timestamp == LATEST:
            if unsettled:
                return OffsetFound(ErrorCode.OFFSET_NOT_AVAILABLE)
            return OffsetFound(ErrorCode.NONE, -1, bound, machine.leader_epoch)
        if timestamp in (EARLIEST, EARLIEST_LOCAL):
            start = log.log_start_offset
            return OffsetFound(ErrorCode.NONE, -1, start, log.epochs.epoch_of(start))
        found: TimestampedOffset | None
        if timestamp == MAX_TIMESTAMP:
            found = await self._offload.run(log.max_timestamp_offset)
        elif timestamp < 0:
            raise ApiError(ErrorCode.UNSUPPORTED_VERSION, f"timestamp {timestamp}")
        else:
            end = log.log_end_offset
            found = await self._offload.run(
                lambda: log.offset_for_timestamp(timestamp, upper_bound=end)
            )
        if replica.log is not log:
            # Moved, and closed, while a thread looked.
            return await self._find_offset(replica, timestamp, replica_id, isolation)
        if found is not None and found.offset < bound:
            return OffsetFound(ErrorCode.NONE, found.timestamp, found.offset, found.leader_epoch)
        if unsettled:
            return OffsetFound(ErrorCode.OFFSET_NOT_AVAILABLE)
        return OffsetFound(ErrorCode.NONE)

    def end_offset_for_epoch(
        self, tp: TopicPartition, current_leader_epoch: LeaderEpoch, leader_epoch: LeaderEpoch
    ) -> tuple[ErrorCode, EpochEndOffset]:
        """OffsetForLeaderEpoch; (NONE, (-1, -1)) where the epoch is not known."""
        try:
            log = self._leading_in(tp, current_leader_epoch).log
        except ApiError as refusal:
            return refusal.code, UNDEFINED_EPOCH_END
        return ErrorCode.NONE, log.epochs.end_offset_for(leader_epoch, log.log_end_offset)

    # ------------------------------------------------------------------------------ deleting

    async def delete_records(
        self, tp: TopicPartition, offset: Offset, deadline_ms: int
    ) -> tuple[ErrorCode, Offset]:
        """DeleteRecords: move the log start to `offset` (-1: the high watermark), wait for the live
        replicas to follow; the error and the low watermark (-1 on an error)."""
        try:
            replica = self._leading(tp)
            target = self._delete_before(replica, offset)
        except ApiError as refusal:
            return refusal.code, NO_OFFSET
        machine = replica.machine
        leader_epoch = machine.leader_epoch

        def decided() -> bool:
            return (
                machine.leader_epoch != leader_epoch
                or not machine.is_leader
                or machine.low_watermark(self.alive) >= target
            )

        in_time = await self._purgatory.wait_until([replica], decided, deadline_ms)
        if machine.leader_epoch != leader_epoch or not machine.is_leader:
            return ErrorCode.NOT_LEADER_OR_FOLLOWER, NO_OFFSET
        if not in_time:
            return ErrorCode.REQUEST_TIMED_OUT, NO_OFFSET
        return ErrorCode.NONE, machine.low_watermark(self.alive)

    def _delete_before(self, replica: Replica, offset: Offset) -> Offset:
        machine, log = replica.machine, replica.log
        if "delete" not in log.config.cleanup_policy:
            raise ApiError(
                ErrorCode.POLICY_VIOLATION, f"{replica.topic_partition} is compacted only"
            )
        target = machine.high_watermark if offset == NO_OFFSET else offset
        if not 0 <= target <= machine.high_watermark:
            raise ApiError(
                ErrorCode.OFFSET_OUT_OF_RANGE, f"the high watermark is {machine.high_watermark}"
            )
        log.advance_log_start_offset(target)
        self.log_start_moved(replica)
        return target

    def log_start_moved(self, replica: Replica) -> None:
        """The log of `replica` starts further on: tell its machine, and those who wait for it."""
        start = replica.log.log_start_offset
        if start > replica.machine.log_start_offset:
            self.step(replica, LogStartAdvanced(start))
            self._purgatory.wake(replica.topic_partition)

    # ------------------------------------------------------------------------------ following

    def append_fetched(
        self,
        replica: Replica,
        records: memoryview | bytes | None,
        *,
        high_watermark: Offset,
        log_start_offset: Offset,
    ) -> int:
        """Append what the leader sent from our log end on, and take over its marks; bytes appended.

        The caller has seen to it that the answer is for this epoch and this log end. Errors:
        `ApiError` (CORRUPT_MESSAGE and the like) with nothing appended; `StorageError`.
        """
        log, machine = replica.log, replica.machine
        size = 0
        if records:
            batches = parse_batches(records, partial_tail=True)
            for batch in batches:
                if not verify_crc(batch):
                    raise ApiError(ErrorCode.CORRUPT_MESSAGE, f"checksum at {batch.base_offset}")
                if batch.leader_epoch > machine.leader_epoch:
                    raise ApiError(
                        ErrorCode.CORRUPT_MESSAGE,
                        f"epoch {batch.leader_epoch} at {batch.base_offset}, ours is"
                        f" {machine.leader_epoch}",
                    )
                size += batch.size
            try:
                log.append_as_follower(batches, self._clock.wall_ms())
            finally:
                # Whatever it raised, the machine is told where the log ends: a disk that fills up
                # in the middle leaves the segments before it appended.
                if log.log_end_offset > machine.log_end_offset:
                    self.step(replica, LogAppended(log.log_end_offset))
                    self._purgatory.wake(replica.topic_partition)
                elif log.log_end_offset < machine.log_end_offset:
                    self.step(replica, LogTruncated(log.log_end_offset, log.log_end_offset))
            self._totals.replication_bytes_in += size
            if self.must_flush(replica):
                self.upkeep.flush_soon(replica)
        self.step(replica, LeaderReported(high_watermark))
        log.producers.transactions.replicated(machine.high_watermark)
        if log_start_offset > log.log_start_offset:
            log.advance_log_start_offset(min(log_start_offset, log.log_end_offset))
            self.log_start_moved(replica)
        return size

    def must_flush(self, replica: Replica) -> bool:
        """Whether flush.messages is met by what is not flushed yet."""
        log = replica.log
        return log.log_end_offset - log.recovery_point >= log.config.flush_messages

    def flushed(self, replica: Replica) -> None:
        """A flush of its log has ended: wake who waited for it."""
        self._purgatory.wake(replica)

    async def wait_flushed(self, followers: Sequence[Replica], deadline_ms: int) -> None:
        """Until these followers owe no flush, or follow no more, or it is `deadline_ms`."""
        await self._purgatory.wait_until(
            followers,
            lambda: (
                not any(
                    replica.machine.role is Role.FOLLOWER and self.must_flush(replica)
                    for replica in followers
                )
            ),
            deadline_ms,
        )

    def cut(self, replica: Replica, place: TruncateTo | RestartAt) -> None:
        """Cut the follower's log as `truncation.py` decided. Errors: `StorageError`."""
        log, machine = replica.log, replica.machine
        assert not machine.is_leader, "a leader does not truncate"
        before, high_watermark = log.log_end_offset, machine.high_watermark
        if isinstance(place, TruncateTo):
            log.truncate_to(place.offset)
            # Also where no record goes: an epoch that this replica led without writing anything
            # may stand at the end, unknown to the leader.
            log.epochs.truncate_from_end(log.log_end_offset)
        else:
            log.truncate_fully_and_start_at(place.offset)
        end = log.log_end_offset
        self.step(replica, LogTruncated(log.log_start_offset, end))
        level = logging.WARNING if end < high_watermark else logging.INFO
        state_change.log(
            level,
            "truncated broker=%d partition=%s leader=%d leader_epoch=%d log_end_offset=%d before=%d"
            " high_watermark=%d",
            self._broker_id,
            replica.topic_partition,
            machine.leader,
            machine.leader_epoch,
            end,
            before,
            high_watermark,
        )
        self._purgatory.wake(replica.topic_partition)

    # ------------------------------------------------------------------------------ roles

    async def apply_leader_and_isr(self, request: LeaderAndIsrRequest) -> LeadershipChanges:
        """Take the roles that the controller gives; see `control.py`."""
        return await self._control.apply_leader_and_isr(request)

    async def apply_stop_replica(
        self, request: StopReplicaRequest
    ) -> tuple[StopReplicaResponse, list[TopicPartition]]:
        """Stop, and where asked delete, replicas; the second value lists those stopped."""
        return await self._control.apply_stop_replica(request)

    def host(self, log: PartitionLog, directory: LogDirectory, high_watermark: Offset) -> Replica:
        """Host a log, in no role yet."""
        tp = log.topic_partition
        assert tp not in self._hosted
        machine = Partition(
            tp,
            self._broker_id,
            log_start_offset=log.log_start_offset,
            log_end_offset=log.log_end_offset,
            high_watermark=high_watermark,
            min_insync_replicas=log.config.min_insync_replicas,
            lag_time_max_ms=self._config.replica_lag_time_max_ms,
        )
        replica = self._hosted[tp] = Replica(machine, log, directory)
        return replica

    def unhost(self, tp: TopicPartition) -> None:
        """Know the partition no more; its log is the caller's."""
        del self._hosted[tp]

    def wake_all(self, replica: Replica) -> None:
        """Its role changed: whatever anybody waits for here may be decided now."""
        self._purgatory.wake(replica.topic_partition)
        self._purgatory.wake(replica)

    def reconfigure(self, topic: str, config: LogConfig) -> None:
        """The topic's settings changed."""
        for tp, replica in self._hosted.items():
            if tp.topic == topic and not replica.is_offline:
                replica.log.reconfigure(config)
                self.step(replica, MinIsrChanged(config.min_insync_replicas, self.alive))

    # ------------------------------------------------------------------------------ storage

    def _swapped(self, replica: Replica) -> None:
        """It has been given another log, of another directory, that holds the same."""
        self.log_start_moved(replica)
        if self.must_flush(replica):
            self.upkeep.flush_soon(replica)

    def reconfigure_broker(self, config: BrokerConfig) -> None:
        """Obey what of the broker's own settings may change while it runs."""
        self.throttle_moves(config.replica_alter_log_dirs_io_max_bytes_per_second)
        self.upkeep.cleaner.reconfigure(config)

    def throttle_moves(self, bytes_per_s: float) -> None:
        """Move replicas between directories at this rate from now on, all together; LONG_MAX for
        any."""
        self._move_throttle.change(DOUBLE_MAX if bytes_per_s >= LONG_MAX else bytes_per_s)

    def storage_failed(self, error: StorageError) -> None:
        """Something on a disk failed. If its directory went offline for it, so do its replicas.

        Called by whoever caught the error, once; also for errors that are already known.
        """
        if isinstance(error, DiskFull):
            # Of every produce, until there is room again: one line now and then.
            now_ms = self._clock.monotonic_ms()
            if now_ms >= self._next_full_line_ms:
                self._next_full_line_ms = now_ms + DISK_FULL_LINE_MS
                logger.error("no room to write path=%s cause=%s", error.path, error)
        else:
            logger.error("storage error path=%s cause=%s", error.path, error)
        for directory in self.log_dirs:
            if directory.offline is not None and directory not in self.failed_dirs:
                self._directory_failed(directory)

    def _directory_failed(self, directory: LogDirectory) -> None:
        self.failed_dirs.add(directory)
        lost = [r for r in self._hosted.values() if r.directory is directory]
        logger.error("log directory failed dir=%s replicas=%d", directory.path, len(lost))
        for replica in lost:
            self.step(replica, StorageFailed())
            self.fetchers.unfollow(replica.topic_partition)
            state_change.error(
                "replica offline broker=%d partition=%s leader_epoch=%d dir=%s",
                self._broker_id,
                replica.topic_partition,
                replica.machine.leader_epoch,
                directory.path,
            )
        self.moves.directory_failed(directory)
        for replica in lost:
            self.wake_all(replica)
        self._on_log_dir_failure(directory.path)
        if len(self.failed_dirs) == len(self.log_dirs):
            self._no_storage.set()

    async def describe_log_dirs(
        self, wanted: Collection[TopicPartition] | None = None
    ) -> list[HostedLog]:
        """What each log directory holds; None wants all partitions."""
        described = []
        for directory in self.log_dirs:
            if directory.offline is not None:
                described.append(
                    HostedLog(directory.path, ErrorCode.KAFKA_STORAGE_ERROR, [], -1, -1)
                )
                continue
            try:
                usage = await self._offload.run(shutil.disk_usage, directory.path)
            except OSError as error:
                logger.warning("cannot tell disk usage dir=%s cause=%s", directory.path, error)
                total, usable = -1, -1
            else:
                total, usable = usage.total, usage.free
            partitions = [
                HostedPartition(tp, log.size, self._offset_lag(tp, log), is_future=False)
                for tp, log in directory.logs.items()
                if wanted is None or tp in wanted
            ]
            for tp, future in directory.futures.items():
                move = self.moves.get(tp)
                if move is not None and (wanted is None or tp in wanted):
                    lag = move.way.offset_lag
                    partitions.append(HostedPartition(tp, future.size, lag, is_future=True))
            partitions.sort()
            described.append(HostedLog(directory.path, ErrorCode.NONE, partitions, total, usable))
        return described

    def _offset_lag(self, tp: TopicPartition, log: PartitionLog) -> int:
        replica = self._hosted.get(tp)
        return 0 if replica is None else max(0, replica.machine.high_watermark - log.log_end_offset)

    # ------------------------------------------------------------------------------ looking

    def leader_epoch(self, tp: TopicPartition) -> LeaderEpoch | None:
        """The epoch in which we lead the partition, None where we do not."""
        replica = self._hosted.get(tp)
        if replica is None or not replica.machine.is_leader:
            return None
        return replica.machine.leader_epoch

    def leader_log(self, tp: TopicPartition) -> PartitionLog:
        """The log of a partition we lead; ApiError where we do not. Read it below
        `high_watermark(tp)`."""
        return self._leading(tp).log

    def producers(self, tp: TopicPartition) -> ProducerStates:
        """Who writes to the partition, as our replica knows, leading or following. Errors:
        `ApiError`."""
        replica = self._hosted.get(tp)
        if replica is None:
            raise ApiError(self._absent(tp), f"{tp} is not here")
        match replica.machine.role:
            case Role.LEADER | Role.FOLLOWER:
                return replica.log.producers
            case Role.OFFLINE:
                raise ApiError(ErrorCode.KAFKA_STORAGE_ERROR, f"{replica.directory.path} failed")
            case Role.WAITING:
                raise ApiError(ErrorCode.NOT_LEADER_OR_FOLLOWER, f"{tp} has no role here yet")

    def high_watermark(self, tp: TopicPartition) -> Offset:
        """The hosted partition's high watermark. Errors: `ApiError`."""
        replica = self._hosted.get(tp)
        if replica is None:
            raise ApiError(self._absent(tp), f"{tp} is not here")
        return replica.machine.high_watermark

    def views(self) -> Iterator[PartitionView]:
        """Every hosted replica, for metrics and tools."""
        return (replica.view() for replica in self._hosted.values())

    def statistics(self) -> ReplicasStatistics:
        """Counts now, and totals; costs a look at every partition."""
        machines = [replica.machine for replica in self._hosted.values()]
        leaders = [machine for machine in machines if machine.is_leader]
        now_ms = self._clock.wall_ms()
        late_ms = self._config.transaction_max_timeout_ms + LATE_TRANSACTION_MS
        return ReplicasStatistics(
            partition_count=len(machines),
            leader_count=len(leaders),
            under_replicated=sum(machine.is_under_replicated for machine in leaders),
            under_min_isr=sum(not machine.has_enough_in_sync for machine in leaders),
            at_min_isr=sum(machine.is_at_min_isr for machine in leaders),
            offline_replicas=sum(machine.role is Role.OFFLINE for machine in machines),
            offline_log_dirs=len(self.failed_dirs),
            reassigning=sum(machine.is_reassigning for machine in leaders),
            producer_id_count=sum(len(r.log.producers) for r in self._hosted.values()),
            late_transactions=sum(
                r.machine.is_leader and r.log.producers.has_late_transaction(now_ms, late_ms)
                for r in self._hosted.values()
            ),
            moves=len(self.moves),
            max_move_lag=self.moves.max_lag,
            isr_shrinks=self._totals.isr_shrinks,
            isr_expands=self._totals.isr_expands,
            failed_isr_updates=self._totals.failed_isr_updates,
            replication_bytes_in=self._totals.replication_bytes_in,
            fetchers=self.fetchers.statistics(),
        )


class _Verdicts:
    """How several appends stand: of each the first verdict, which nothing that comes takes back.

    `keys` are to be waited for; `judge` is for the purgatory.
    """

    __slots__ = ("_replicas", "_required_acks", "_results", "_verdicts", "keys")

    def __init__(
        self, replicas: Replicas, results: Sequence[AppendResult], required_acks: int
    ) -> None:
        self._replicas = replicas
        self._results = results
        self._required_acks = required_acks
        self._verdicts = [replicas.verdict(result, required_acks) for result in results]
        pending = zip(results, self._verdicts, strict=True)
        self.keys = [result.replica for result, verdict in pending if verdict is None]

    def judge(self, _key: object) -> bool:
        """Whether there is a verdict about each by now."""
        verdicts = self._verdicts
        for n, verdict in enumerate(verdicts):
            if verdict is None:
                verdicts[n] = self._replicas.verdict(self._results[n], self._required_acks)
        return None not in verdicts

    def final(self) -> list[ErrorCode]:
        """The verdicts; REQUEST_TIMED_OUT where there is none."""
        return [
            ErrorCode.REQUEST_TIMED_OUT if verdict is None else verdict
            for verdict in self._verdicts
        ]


def _bound(replica: Replica, isolation: int) -> Offset:
    """The end of what a consumer may see."""
    if isolation == Isolation.READ_COMMITTED:
        return replica.last_stable_offset
    return replica.machine.high_watermark


def _appended_with_time(
    log: PartitionLog, batch: Batch, leader_epoch: LeaderEpoch, wall_ms: int
) -> Appended:
    """Append it with the leader's time in it; refused, it is as its client sent it."""
    try:
        return log.append_as_leader(with_append_time(batch, wall_ms), leader_epoch, wall_ms)
    except (ApiError, StorageError):
        restamp(batch.view, batch.attributes, batch.max_timestamp)
        raise
