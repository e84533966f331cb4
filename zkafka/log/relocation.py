"""One log on its way to another directory: the steps, each for the loop or for a worker thread.

    loop    `parting`, then a worker `cut`s, until there is nothing to cut
    loop    `next_piece`, then a worker `append`s it, until no more than a piece is left
    worker  `make_durable`
    loop    `swap`: the last piece, and the future log is the partition's log; `leave_source`
    worker  `make_name_durable`
    loop    `remove_source`

Nobody but whoever goes through these steps, one after the other, touches the future log before
`swap`; the log itself is written, read and truncated meanwhile as ever. After each step the power
may go: a start finds the old log, or the new one, or both, and then the new one is not behind
(`directory.settle`).
"""

from zkafka.errors import ApiError, ErrorCode, StorageError
from zkafka.log.directory import LogDirectory
from zkafka.log.partition_log import PartitionLog
from zkafka.log.segment import LogSlice
from zkafka.model import Offset
from zkafka.protocol.records import parse_batches, verify_crc

PIECE_BYTES = 256 << 10
"""Copied by one job: about a millisecond."""
LAST_BYTES = 1 << 20
"""Copied at most in the loop itself, by the swap."""


class Relocation:
    """`log` of `source` moves to `target`, where its future log is `future`.

    `agreed`: up to there at most the future log holds what the log does; its end where it was
    filled by this process.
    """

    def __init__(
        self,
        log: PartitionLog,
        source: LogDirectory,
        target: LogDirectory,
        agreed: Offset | None = None,
    ) -> None:
        self.log = log
        self.source = source
        self.target = target
        self.future = target.futures[log.topic_partition]
        end = self.future.log_end_offset
        # Of the log as it was when it had been truncated `_cuts_seen` times.
        self._agreed = end if agreed is None else agreed
        self._cuts_seen = log.cut_count
        self._has_caught_up = False
        self._is_durable = False

    @property
    def offset_lag(self) -> int:
        """What is still to be copied, in offsets."""
        return max(0, self.log.log_end_offset - self.future.log_end_offset)

    # Following what the log goes through.

    def parting(self) -> bool:
        """Whether the future log must be `cut` before it can go on: the log was truncated below
        its end, or starts above it."""
        log, future = self.log, self.future
        cut = log.lowest_cut_since(self._cuts_seen)
        self._agreed, self._cuts_seen = min(self._agreed, cut), log.cut_count
        if future.cleaned_to is not None:
            future.cleaned_to = min(future.cleaned_to, cut)
        return self._agreed < future.log_end_offset or future.log_end_offset < log.log_start_offset

    def cut(self) -> None:
        """After `parting`, in a worker thread. Errors: StorageError."""
        future = self.future
        if self._agreed < future.log_end_offset:
            future.truncate_to(self._agreed)
        else:
            future.truncate_fully_and_start_at(self.log.log_start_offset)
        self._agreed = future.log_end_offset

    # Copying.

    @property
    def remaining(self) -> int:
        """Bytes still to be copied; where nothing is `parting`. Errors: StorageError."""
        return self.log.size_from(self.future.log_end_offset)

    @property
    def must_copy(self) -> bool:
        """Whether a worker is to copy a piece; where nothing is `parting`. To the end once, so that
        what rests is whole before it is made durable. Errors: StorageError."""
        return self.remaining > (PIECE_BYTES if self._has_caught_up else 0)

    def next_piece(self) -> LogSlice | None:
        """What is to be copied next, None at the log's end; the caller releases it. Errors:
        StorageError."""
        log = self.log
        piece = log.read(
            self.future.log_end_offset,
            PIECE_BYTES,
            upper_bound=log.log_end_offset,
            at_least_one=True,
        )
        if piece is not None and piece.size == self.remaining:
            self._has_caught_up = True
        return piece

    def append(self, piece: LogSlice, wall_ms: int) -> None:
        """Copy a piece, in any thread; does nothing where it was cut off meanwhile. Errors:
        CORRUPT_MESSAGE where its bytes are not sound; StorageError."""
        try:
            data = piece.read()
        except StorageError:
            if piece.intact:
                raise
            return
        if not piece.intact:
            return  # Perhaps nothing that ever was.
        batches = parse_batches(data, partial_tail=True)
        for batch in batches:
            if not verify_crc(batch):
                raise ApiError(ErrorCode.CORRUPT_MESSAGE, f"checksum at {batch.base_offset}")
        self.future.append_as_follower(batches, wall_ms)
        # Nobody reads it yet.
        self.future.producers.transactions.replicated(self.future.log_end_offset)
        self._agreed = self.future.log_end_offset

    @property
    def must_flush(self) -> bool:
        """Whether `make_durable` is needed, perhaps again, before the swap."""
        return not self._is_durable or self._is_behind

    @property
    def _is_behind(self) -> bool:
        """Whether something was perhaps flushed of the log, and told to somebody, that was not of
        the future one. A roll takes the recovery point back by one."""
        log = self.log
        return self.future.recovery_point < min(log.recovery_point + 1, log.log_end_offset)

    def make_durable(self) -> None:
        """All that was copied, and what a start wants to know of it; worker threads. Errors:
        StorageError."""
        log, future = self.log, self.future
        future.reconfigure(log.config)
        future.advance_log_start_offset(min(log.log_start_offset, future.log_end_offset))
        if future.moves <= log.moves:
            self.target.count_move(future, log)
        future.flush()
        self.target.write_recovery_points()
        self.target.write_log_start_offsets()
        self.target.write_cleaned_offsets()
        self._is_durable = True

    # Taking its place.

    def swap(self, wall_ms: int) -> bool:
        """Copy what is left, and have the future log be the partition's log, whose name its
        directory bears; False, with nothing done, where that is not possible yet. Errors: as with
        `append`; with the future log as it was, or its directory offline."""
        log, future = self.log, self.future
        if self.parting() or not self._is_durable or self.remaining > LAST_BYTES:
            return False
        while (piece := self.next_piece()) is not None:
            try:
                self.append(piece, wall_ms)
            finally:
                piece.release()
        future.skip_to(log.log_end_offset)
        future.take_over(log)
        if self._is_behind:
            # Somebody was told that it is flushed. It is little, and once in a move: to wait for a
            # thread would be to find more of it.
            future.flush()
        self.target.promote(future)
        return True

    def leave_source(self) -> None:
        """After `swap`, when nobody will look for the log in `source` any more. Errors:
        StorageError."""
        self.source.detach(self.log)

    def make_name_durable(self) -> None:
        """After `swap`, in a worker thread: a start finds the new log, whenever the power goes.
        Errors: StorageError; but for DiskFull the directory is offline."""
        self.future.sync_entry()
        self.target.write_log_start_offsets()

    def remove_source(self) -> None:
        """The old log's files are to go; the source's `sync` makes that durable. Errors:
        StorageError; the source is offline."""
        self.source.remove(self.log)
