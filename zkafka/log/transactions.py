"""Transactions as one log sees them: which are open, how they ended, which were aborted (KIP-98).

A transaction begins in a partition with the first transactional batch of a producer id, and ends
with its marker, a control batch. Two things follow for who reads committed records only: nothing
from the first undecided transaction on (`Transactions`), and which records below are to be passed
over (`AbortedTransaction`, of which each segment has an index). All of it is derived from the
batches; a restart has it from a snapshot and the index files, or reads the batches again.

Source: semantics 5.5; Kafka's ProducerStateManager.
"""

import collections
import struct
from collections.abc import Iterable
from typing import NamedTuple

from zkafka.model import NO_OFFSET, NO_PRODUCER, Offset, ProducerId
from zkafka.protocol.records import Batch, Record, build_batch, iter_records

_ABORT, _COMMIT = 0, 1
_KIND = struct.Struct(">hh")
"""In a marker's key: its version and kind."""
_COORDINATOR_EPOCH = struct.Struct(">2xi")
"""In a marker's value, behind its version."""


class Marker(NamedTuple):
    """The end of one producer's transaction. `coordinator_epoch` is of who wrote it."""

    offset: Offset
    committed: bool
    coordinator_epoch: int


def marker_of(batch: Batch) -> Marker | None:
    """The end of a transaction that a control batch tells of; None for any other, or an empty
    one. Errors: `ApiError` if its records are none."""
    record = next(iter_records(batch), None)
    if record is None or record.key is None or len(record.key) < _KIND.size:
        return None
    version, kind = _KIND.unpack_from(record.key)
    if version < 0 or kind not in (_ABORT, _COMMIT):
        return None
    value = record.value or b""
    known = len(value) >= _COORDINATOR_EPOCH.size
    epoch = _COORDINATOR_EPOCH.unpack_from(value)[0] if known else -1
    return Marker(batch.last_offset, kind == _COMMIT, epoch)


def build_marker(
    producer_id: ProducerId,
    producer_epoch: int,
    *,
    committed: bool,
    coordinator_epoch: int,
    timestamp: int,
) -> bytearray:
    """A control batch that ends the producer's transaction."""
    kind = _KIND.pack(0, _COMMIT if committed else _ABORT)
    return build_batch(
        [Record(kind, _COORDINATOR_EPOCH.pack(coordinator_epoch), timestamp)],
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        transactional=True,
        control=True,
    )


class AbortedTransaction(NamedTuple):
    """What the producer wrote from `first_offset` up to its marker at `last_offset` is void.

    `last_stable_offset` is that of when the marker was appended: a transaction that ends later
    begins at or above it.
    """

    producer_id: ProducerId
    first_offset: Offset
    last_offset: Offset
    last_stable_offset: Offset


class Transactions:
    """The transactions that hold up readers of committed records: those open, by producer, and
    those decided whose marker is not replicated yet. (Where all this was read from a snapshot,
    those decided below it count as replicated, as in Kafka: what becomes of them is settled.)"""

    __slots__ = ("_decided", "_open")

    def __init__(self, begun: Iterable[tuple[ProducerId, Offset]] = ()) -> None:
        """`begun` are those open, by the offset of their first batch."""
        # In the order of their first offsets, as they are begun.
        self._open = dict(sorted(begun, key=lambda one: one[1]))
        # (first offset, offset of the marker), both rising: who began after another and was decided
        # before it holds up nobody.
        self._decided: collections.deque[tuple[Offset, Offset]] = collections.deque()

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self._open or self._decided)

    def first_offset(self, producer_id: ProducerId) -> Offset:
        """Where the producer's open transaction begins; NO_OFFSET if it has none."""
        return self._open.get(producer_id, NO_OFFSET)

    @property
    def oldest(self) -> ProducerId:
        """Whose open transaction began first; NO_PRODUCER if none is open."""
        return next(iter(self._open), NO_PRODUCER)

    def begin(self, producer_id: ProducerId, base_offset: Offset) -> None:
        """The producer wrote a transactional batch there; its first one opens a transaction."""
        self._open.setdefault(producer_id, base_offset)

    def end(
        self, producer_id: ProducerId, offset: Offset, *, committed: bool
    ) -> AbortedTransaction | None:
        """The producer's transaction ended with a marker at `offset`; answers it if it was aborted.
        One of which there are no batches here leaves no trace."""
        first_offset = self._open.pop(producer_id, None)
        if first_offset is None:
            return None
        decided = self._decided
        while decided and decided[-1][0] > first_offset:
            decided.pop()
        decided.append((first_offset, offset))
        if committed:
            return None
        stable = next(iter(self._open.values()), offset + 1)
        return AbortedTransaction(producer_id, first_offset, offset, stable)

    def replicated(self, high_watermark: Offset) -> None:
        """What was decided by markers below it is so for good."""
        decided = self._decided
        while decided and decided[0][1] < high_watermark:
            decided.popleft()

    def last_stable_offset(self, high_watermark: Offset) -> Offset:
        """Everything below it is replicated, and decided by a marker that is."""
        self.replicated(high_watermark)
        stable = min(high_watermark, next(iter(self._open.values()), high_watermark))
        return min(stable, self._decided[0][0]) if self._decided else stable
