"""Moving replicas between this broker's data directories, while they are written and read.

    AlterReplicaLogDirs -> a future log in the other directory -> filled piece by piece
        -> flushed -> the last piece, and the swap, in one step of the loop
        -> its name made durable -> the old log deleted

The steps are those of `log/relocation.py`; here worker threads are sent through them.
`num.replica.alter.log.dirs.threads` moves are at it at once, and take turns, a piece each; together
they keep to replica.alter.log.dirs.io.max.bytes.per.second. A move is a copy of whole batches, byte
for byte. What the log does meanwhile the future one follows: where it was truncated, that is cut as
far; where its start has passed the future one's end, that begins anew. Since all of it is of this
process no epochs need be compared, but once, when a start finds a future log
(`truncation.common_end`).

The swap is synchronous: with little left to copy, the loop copies that itself, renames the future
log's directory and puts it in the replica's place. Nobody else runs meanwhile, so that nothing is
lost or doubled; who had the old log in hand across a wait finds it closed, and looks for the
replica's log again. What was flushed of the old one has been flushed of the new one before. Only
when the new name is durable is the old directory renamed to be deleted.

What goes wrong ends the move, never the replica: a future log whose directory has no room, or whose
source has bytes that are not sound, is removed, with an error in the log. If its directory fails
it is left there; if the source's fails, the future log waits for that to be back at a start.
Compaction of a replica that moves waits. Moves go on whatever the replica's role.

Where we differ from Kafka: a second request for another directory, or for the present one, ends the
move under way, but does not wait for free directories: also with a failed directory a move is begun
(Kafka refuses with KAFKA_STORAGE_ERROR, since it could not tell which of two future logs is meant);
and a start after a crash in the middle of a swap, which Kafka refuses, finds one log.

Source: KIP-113; Kafka's `ReplicaAlterLogDirsThread` and `ReplicaManager.alterReplicaLogDirs`.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping

import attrs
import trio

from zkafka.clock import Clock
from zkafka.errors import ApiError, ErrorCode, StorageError
from zkafka.log.directory import LogDirectory, future_name
from zkafka.log.partition_log import PartitionLog
from zkafka.log.relocation import Relocation
from zkafka.model import TopicPartition
from zkafka.offload import Offload
from zkafka.replication.replica import Replica
from zkafka.replication.truncation import common_end

logger = logging.getLogger(__name__)

PREFERENCES_MAX = 10_000
"""Directories asked for before the partition is here; the oldest are forgotten."""
_NAME_MAX = 255


@attrs.define(eq=False)
class Move:
    """One replica on its way to another directory."""

    replica: Replica
    way: Relocation
    started_ms: int
    is_over: bool = False
    lock: trio.Lock = attrs.Factory(trio.Lock)
    """Held by whoever works on the future log."""


class Moves:
    """All moves of one broker; its methods belong to the trio loop."""

    def __init__(
        self,
        *,
        log_dirs: Iterable[LogDirectory],
        configured: Iterable[str],
        hosted: Mapping[TopicPartition, Replica],
        is_known: Callable[[TopicPartition], bool],
        turn: trio.Lock,
        sync: Callable[[Iterable[LogDirectory]], Awaitable[set[LogDirectory]]],
        swapped: Callable[[Replica], None],
        storage_failed: Callable[[StorageError], None],
        pay: Callable[[int], Awaitable[None]],
        threads: int,
        offload: Offload,
        clock: Clock,
    ) -> None:
        """`configured` are the paths of log.dirs, also of those that cannot be used. `turn` is that
        of the control requests, `sync` makes names in directories durable and answers where it
        failed; `swapped` is told at once of a replica that has its new log; `pay` waits until so
        many bytes more may be copied."""
        self._log_dirs = {directory.path: directory for directory in log_dirs}
        self._configured = frozenset(configured)
        self._hosted = hosted
        self._is_known = is_known
        self._turn = turn
        self._sync = sync
        self._swapped = swapped
        self._storage_failed = storage_failed
        self._pay = pay
        self._threads = threads
        self._offload = offload
        self._clock = clock
        self._moves: dict[TopicPartition, Move] = {}
        self._preferred: dict[TopicPartition, LogDirectory] = {}
        # Bounded by the replicas hosted: each move is in it once at most.
        self._send, self._receive = trio.open_memory_channel[Move](math.inf)

    def __len__(self) -> int:
        return len(self._moves)

    @property
    def max_lag(self) -> int:
        """Offsets that are still to be copied, at worst."""
        return max((move.way.offset_lag for move in self._moves.values()), default=0)

    def get(self, tp: TopicPartition) -> Move | None:
        """The partition's move under way."""
        return self._moves.get(tp)

    def take_preferred(self, tp: TopicPartition) -> LogDirectory | None:
        """Where the partition's first log was asked to be, once, if that can be used."""
        directory = self._preferred.pop(tp, None)
        return None if directory is None or directory.offline is not None else directory

    def resume(self) -> None:
        """Go on with what an earlier run began: every future log of a replica that is here."""
        for directory in self._log_dirs.values():
            for tp, future in directory.futures.items():
                replica = self._hosted.get(tp)
                if directory.offline is None and replica is not None:
                    log = replica.log
                    agreed = common_end(
                        future.epochs, future.log_end_offset, log.epochs, log.log_end_offset
                    )
                    logger.info(
                        "move resumed partition=%s to=%s offset=%d log_end_offset=%d",
                        tp, directory.path, agreed, log.log_end_offset,
                    )  # fmt: skip
                    self._begin(
                        Move(
                            replica,
                            Relocation(log, replica.directory, directory, agreed),
                            self._clock.monotonic_ms(),
                        )
                    )

    def _begin(self, move: Move) -> None:
        self._moves[move.replica.topic_partition] = move
        self._send.send_nowait(move)

    # What clients ask.

    async def alter(self, wanted: Mapping[TopicPartition, str]) -> dict[TopicPartition, ErrorCode]:
        """Have replicas moved to the directories of these paths; the code of each. The moves go on
        when this answers.

        Waits: for control requests under way, and for the disk.
        """
        async with self._turn:
            # Whoever asked may hang up: no future log is to be left that nobody fills.
            with trio.CancelScope(shield=True):
                outcomes = await self._alter(wanted)
        return outcomes

    async def _alter(self, wanted: Mapping[TopicPartition, str]) -> dict[TopicPartition, ErrorCode]:
        outcomes: dict[TopicPartition, ErrorCode] = {}
        begun: dict[TopicPartition, tuple[LogDirectory, PartitionLog]] = {}
        touched: set[LogDirectory] = set()
        for tp, path in wanted.items():
            try:
                target = self._target(tp, path)
                move = self._moves.get(tp)
                if move is not None and move.way.target is not target:
                    touched.add(move.way.target)
                    await self._abandon(move, f"{path} was asked for")
                replica = self._replica(tp, target)
                if tp not in self._moves and replica.directory is not target:
                    begun[tp] = target, target.create_future(replica.log)
                    touched.add(target)
                outcomes[tp] = ErrorCode.NONE
            except ApiError as refusal:
                outcomes[tp] = refusal.code
            except StorageError as error:
                self._storage_failed(error)
                outcomes[tp] = ErrorCode.KAFKA_STORAGE_ERROR
        # Before anything is in them: what the checkpoints say of earlier logs there must be
        # gone.
        failed = await self._sync(touched)
        for tp, (target, future) in begun.items():
            replica = self._hosted[tp]
            if target in failed or target.offline is not None or replica.is_offline:
                outcomes[tp] = ErrorCode.KAFKA_STORAGE_ERROR
                self._remove_future(target, future)
            else:
                logger.info(
                    "move begun partition=%s from=%s to=%s log_end_offset=%d",
                    tp, replica.directory.path, target.path, replica.log.log_end_offset,
                )  # fmt: skip
                way = Relocation(replica.log, replica.directory, target)
                self._begin(Move(replica, way, self._clock.monotonic_ms()))
        return outcomes

    def _target(self, tp: TopicPartition, path: str) -> LogDirectory:
        if len(future_name(tp)) > _NAME_MAX:
            raise ApiError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{tp.topic}: too long for a move")
        target = self._log_dirs.get(path)
        if target is None and path not in self._configured:
            raise ApiError(ErrorCode.LOG_DIR_NOT_FOUND, f"{path} is none of log.dirs")
        if target is None or target.offline is not None:
            raise ApiError(ErrorCode.KAFKA_STORAGE_ERROR, f"{path} failed")
        return target

    def _replica(self, tp: TopicPartition, target: LogDirectory) -> Replica:
        replica = self._hosted.get(tp)
        if replica is None:
            self._preferred.pop(tp, None)
            if len(self._preferred) >= PREFERENCES_MAX:
                del self._preferred[next(iter(self._preferred))]
            self._preferred[tp] = target
            known = self._is_known(tp)
            raise ApiError(
                ErrorCode.REPLICA_NOT_AVAILABLE if known else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                f"{tp} is not here",
            )
        if replica.is_offline:
            raise ApiError(ErrorCode.KAFKA_STORAGE_ERROR, f"{replica.directory.path} failed")
        return replica

    # Ending one.

    async def abandon(self, tp: TopicPartition) -> LogDirectory | None:
        """The partition's replica is to be deleted: first its future log is. The directory that is
        to be synced; None where nothing moved. For who has the turn of control requests."""
        move = self._moves.get(tp)
        if move is None:
            return None
        await self._abandon(move, "the replica is deleted")
        return move.way.target

    async def _abandon(self, move: Move, reason: str) -> None:
        async with move.lock:
            if not move.is_over:
                self._give_up(move, reason)

    def _give_up(self, move: Move, reason: object) -> None:
        """Nobody works on it."""
        self._forget(move)
        logger.warning(
            "move given up partition=%s to=%s cause=%s",
            move.replica.topic_partition, move.way.target.path, reason,
        )  # fmt: skip
        self._remove_future(move.way.target, move.way.future)

    def _forget(self, move: Move) -> None:
        move.is_over = True
        del self._moves[move.replica.topic_partition]

    def _remove_future(self, target: LogDirectory, future: PartitionLog) -> None:
        if target.offline is None:
            try:
                target.schedule_delete(future)
            except StorageError as error:
                self._storage_failed(error)

    def directory_failed(self, directory: LogDirectory) -> None:
        """Moves to or from it end where they are. (Their future logs stay open: a thread may be
        at them, and the next start finds them.)"""
        for move in list(self._moves.values()):
            if directory in (move.way.target, move.way.source):
                self._forget(move)
                logger.error(
                    "move given up partition=%s to=%s cause=log directory %s failed",
                    move.replica.topic_partition, move.way.target.path, directory.path,
                )  # fmt: skip

    # Carrying them out.

    async def run(self) -> None:
        """Move what is asked for, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._threads):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        async for move in self._receive:
            await self._pay(await self._carry(move))
            if not move.is_over:
                self._send.send_nowait(move)

    async def _carry(self, move: Move) -> int:
        """One piece of it, or its end; how many bytes were copied."""
        size = 0
        async with move.lock:
            if not move.is_over:
                with _Failures(self, move):
                    size = await self._copy(move.way)
        if size or move.is_over:
            return size
        # In this order: who deletes a replica has the turn, and waits for the move.
        async with self._turn, move.lock:
            if not move.is_over:
                with _Failures(self, move):
                    await self._finish(move)
        return 0

    async def _copy(self, way: Relocation) -> int:
        """Copy a piece; 0 where it is time for the end, for which all is durable then."""
        while way.parting():
            await self._offload.run(way.cut)
        piece = way.next_piece() if way.must_copy else None
        if piece is None:
            if way.must_flush:
                await self._offload.run(way.make_durable)
            return 0
        try:
            await self._offload.run(way.append, piece, self._clock.wall_ms())
        finally:
            piece.release()
        return piece.size

    async def _finish(self, move: Move) -> None:
        """The swap, unless there is more to copy by now; then what makes it last."""
        replica, way = move.replica, move.way
        if not way.swap(self._clock.wall_ms()):
            return
        replica.log, replica.directory = way.future, way.target
        self._forget(move)
        way.leave_source()
        self._swapped(replica)
        logger.info(
            "moved partition=%s from=%s to=%s size=%d log_end_offset=%d took_ms=%d",
            replica.topic_partition, way.source.path, way.target.path, way.future.size,
            way.future.log_end_offset, self._clock.monotonic_ms() - move.started_ms,
        )  # fmt: skip
        try:
            await self._offload.run(way.make_name_durable)
        except StorageError as error:
            self._storage_failed(error)
            if way.target.offline is not None:
                return  # As far as it goes, the old log is all there is.
        if way.source.offline is None:
            way.remove_source()
            await self._sync([way.source])

    def failed(self, move: Move, error: ApiError | StorageError) -> None:
        """Working on it failed."""
        if isinstance(error, StorageError):
            self._storage_failed(error)
        if not move.is_over:
            self._give_up(move, error)


@attrs.frozen
class _Failures:
    """What ends a move, told to its broker."""

    moves: Moves
    move: Move

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        if not isinstance(error, ApiError | StorageError):
            return False
        self.moves.failed(self.move, error)
        return True
