"""Who wrote last, in which sequence: what makes a producer's retry harmless (KIP-98, KIP-360).

For each producer id: its epoch and up to five last batches, which is the number of requests that an
idempotent producer may have in flight. The leader checks a batch against them before appending;
leader and followers alike update them from what was appended, so that a new leader knows the same.

The same batches tell of transactions (`transactions.py`): which are open, and how each ended.

Persisted at each roll and each clean close as `<offset>.snapshot`: the state of everything below
that offset. Loading is the newest snapshot plus the batches above it.
"""

import bisect
import collections
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import crc32c

from zkafka.errors import ApiError, ErrorCode
from zkafka.log.files import Files
from zkafka.log.transactions import AbortedTransaction, Transactions, marker_of
from zkafka.model import NO_OFFSET, NO_PRODUCER, Offset, ProducerId
from zkafka.protocol.records import CONTROL, TRANSACTIONAL, Batch

logger = logging.getLogger(__name__)

CACHED_BATCHES = 5
SNAPSHOT_SUFFIX = ".snapshot"
NO_SEQUENCE = -1
_SEQUENCE_MODULUS = 2**31

_SNAPSHOT_HEAD = struct.Struct(">hIi")
_SNAPSHOT_ENTRY = struct.Struct(">qhiqiqiq")
_SNAPSHOT_VERSION = 1
_CRC_FROM = 6
"""A snapshot's checksum covers what follows it: the count and the entries."""


class SnapshotCorrupt(Exception):
    """A snapshot file that is not one, or is damaged; the one before it will do."""


class WrittenBatch(NamedTuple):
    """One batch of a producer as it went into the log."""

    last_sequence: int
    last_offset: Offset
    offset_delta: int
    timestamp: int

    @property
    def base_offset(self) -> Offset:
        return self.last_offset - self.offset_delta

    @property
    def base_sequence(self) -> int:
        return (self.last_sequence - self.offset_delta) % _SEQUENCE_MODULUS


_NO_BATCH = WrittenBatch(NO_SEQUENCE, NO_OFFSET, 0, -1)
"""Stands in a snapshot for a producer of whom only the epoch is known."""


class Producer:
    """One producer id on one partition; `batches` oldest first, all of `epoch`."""

    __slots__ = ("batches", "coordinator_epoch", "epoch", "last_timestamp")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.batches: collections.deque[WrittenBatch] = collections.deque(maxlen=CACHED_BATCHES)
        self.last_timestamp = -1
        self.coordinator_epoch = -1

    @property
    def last_sequence(self) -> int:
        return self.batches[-1].last_sequence if self.batches else NO_SEQUENCE

    @property
    def last_offset(self) -> Offset:
        return self.batches[-1].last_offset if self.batches else NO_OFFSET


class ProducerStates:
    """All producers of one log, and their transactions. Only the loop touches it."""

    def __init__(self) -> None:
        self.transactions = Transactions()
        self._producers: dict[ProducerId, Producer] = {}
        # What was said of transactions up to there cannot be unsaid.
        self._transactional_end: Offset = 0

    def __len__(self) -> int:
        return len(self._producers)

    def __iter__(self) -> Iterator[tuple[ProducerId, Producer]]:
        return iter(self._producers.items())

    def get(self, producer_id: ProducerId) -> Producer | None:
        """What is known of one producer."""
        return self._producers.get(producer_id)

    def clear(self) -> None:
        """Forget everybody."""
        self.transactions = Transactions()
        self._producers.clear()
        self._transactional_end = 0

    def check(self, batch: Batch) -> WrittenBatch | None:
        """Judge a client's batch before it is appended: None to append it, or the batch that it
        repeats, which is to be answered as if it were appended now.

        Errors: INVALID_PRODUCER_EPOCH from a producer that was replaced,
        OUT_OF_ORDER_SEQUENCE_NUMBER where something was lost in between, or where the repeated
        batch is older than the five known, INVALID_TXN_STATE for what is outside of the producer's
        open transaction.
        """
        producer = self._producers.get(batch.producer_id)
        if producer is None:
            # KIP-360: after an expiry, or when records were deleted, any sequence is a beginning.
            return None
        base_sequence = batch.base_sequence
        if batch.producer_epoch == producer.epoch:
            last_sequence = (base_sequence + batch.last_offset_delta) % _SEQUENCE_MODULUS
            for written in producer.batches:
                if (
                    written.last_sequence == last_sequence
                    and written.offset_delta == batch.last_offset_delta
                ):
                    return written
            expected = (producer.last_sequence + 1) % _SEQUENCE_MODULUS
        elif batch.producer_epoch < producer.epoch:
            raise _replaced(batch, producer)
        else:
            expected = 0
        if base_sequence != expected:
            raise ApiError(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {batch.producer_id} sent sequence {base_sequence}, not {expected}",
            )
        if self.transactions and not batch.is_transactional:
            first_offset = self.transactions.first_offset(batch.producer_id)
            if first_offset != NO_OFFSET:
                raise ApiError(
                    ErrorCode.INVALID_TXN_STATE,
                    f"producer {batch.producer_id} has a transaction open since {first_offset}",
                )
        return None

    def check_marker(self, batch: Batch) -> None:
        """Judge a marker before it is appended. There need be no transaction for it to end.

        Errors: INVALID_PRODUCER_EPOCH for a producer that was replaced,
        TRANSACTION_COORDINATOR_FENCED from a coordinator that was.
        """
        producer = self._producers.get(batch.producer_id)
        if producer is None:
            return
        if batch.producer_epoch < producer.epoch:
            raise _replaced(batch, producer)
        marker = marker_of(batch)
        if marker is not None and marker.coordinator_epoch < producer.coordinator_epoch:
            raise ApiError(
                ErrorCode.TRANSACTION_COORDINATOR_FENCED,
                f"a coordinator of epoch {producer.coordinator_epoch} ended a transaction of"
                f" producer {batch.producer_id}, this one has epoch {marker.coordinator_epoch}",
            )

    def timestamp_at(self, producer_id: ProducerId, last_offset: Offset) -> int:
        """The largest timestamp of the producer's known batch that ends there, -1 if none does."""
        producer = self._producers.get(producer_id)
        for written in producer.batches if producer is not None else ():
            if written.last_offset == last_offset:
                return written.timestamp
        return -1

    def update(self, batch: Batch, base_offset: Offset) -> AbortedTransaction | None:
        """Take note of a batch that was appended at `base_offset`, here or by another leader; of a
        control batch all bytes must be there. Answers the transaction that it aborted.

        Nothing is refused: what is in the log is in the log. Another epoch, even a smaller one,
        starts the producer's history anew.
        """
        producer_id = batch.producer_id
        if producer_id == NO_PRODUCER:
            return None
        producer = self._producers.get(producer_id)
        if producer is None:
            producer = self._producers[producer_id] = Producer(batch.producer_epoch)
        elif producer.epoch != batch.producer_epoch:
            producer.epoch = batch.producer_epoch
            producer.batches.clear()
        producer.last_timestamp = batch.max_timestamp
        if batch.attributes & (TRANSACTIONAL | CONTROL):
            self._transactional_end = base_offset + batch.last_offset_delta + 1
            if batch.is_control:
                # It carries no sequence; it may have raised the epoch.
                return self._end_transaction(producer_id, producer, batch, base_offset)
            self.transactions.begin(producer_id, base_offset)
        delta = batch.last_offset_delta
        producer.batches.append(
            WrittenBatch(
                (batch.base_sequence + delta) % _SEQUENCE_MODULUS,
                base_offset + delta,
                delta,
                batch.max_timestamp,
            )
        )
        return None

    def _end_transaction(
        self, producer_id: ProducerId, producer: Producer, batch: Batch, base_offset: Offset
    ) -> AbortedTransaction | None:
        try:
            marker = marker_of(batch)
        except ApiError as error:
            logger.warning("a marker that is none offset=%d cause=%s", base_offset, error)
            return None
        if marker is None:
            return None
        producer.coordinator_epoch = marker.coordinator_epoch
        return self.transactions.end(
            producer_id, base_offset + batch.last_offset_delta, committed=marker.committed
        )

    def truncate_to(self, end_offset: Offset) -> bool:
        """Forget the batches at or above `end_offset`. False if somebody's state below it cannot be
        told from what is in memory: then load a snapshot and replay, and `keep` the others.

        Of a producer with some batches left the epoch and last sequence are exact. That fewer than
        five are left harms nobody: those cut off can have been repeats of none below them. What
        was said of transactions must lie below.
        """
        is_exact = end_offset >= self._transactional_end
        for producer in self._producers.values():
            if producer.last_offset < end_offset and producer.batches:
                continue
            while producer.batches and producer.batches[-1].last_offset >= end_offset:
                producer.batches.pop()
            if producer.batches:
                producer.last_timestamp = producer.batches[-1].timestamp
            else:
                is_exact = False
        return is_exact

    def keep(self, truncated: "ProducerStates") -> None:
        """Remember those with batches left who are not known here: of whom no batch and no snapshot
        tells any more, since the log was moved after their batches were deleted."""
        for producer_id, producer in truncated:
            if producer.batches:
                self._producers.setdefault(producer_id, producer)

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget who has not written for `producer.id.expiration.ms`; answers how many."""
        idle = [
            producer_id
            for producer_id, producer in self._producers.items()
            if now_ms - producer.last_timestamp >= expiration_ms
            and self.transactions.first_offset(producer_id) == NO_OFFSET
        ]
        for producer_id in idle:
            del self._producers[producer_id]
        return len(idle)

    def has_late_transaction(self, now_ms: int, limit_ms: int) -> bool:
        """Whether the oldest open transaction had nothing written for longer than that."""
        producer = self._producers.get(self.transactions.oldest)
        return producer is not None and now_ms - producer.last_timestamp > limit_ms

    def to_snapshot(self) -> bytes:
        """The state as Kafka's ProducerStateManager writes it, version 1, but with an entry for
        each batch that is remembered, oldest first.

        Kafka writes the last one only. It has no more than one batch of a connection in the log
        unacknowledged, we have up to five: after a restart its producer repeats all of them, and
        each must be known. Kafka reads this as well: of several entries it keeps the last.
        """
        entries = bytearray()
        for producer_id, producer in self._producers.items():
            for number, batch in enumerate(producer.batches or (_NO_BATCH,), 1):
                last = number >= len(producer.batches)
                entries += _SNAPSHOT_ENTRY.pack(
                    producer_id,
                    producer.epoch,
                    batch.last_sequence,
                    batch.last_offset,
                    batch.offset_delta,
                    producer.last_timestamp if last else batch.timestamp,
                    producer.coordinator_epoch,
                    self.transactions.first_offset(producer_id),
                )
        count = len(entries) // _SNAPSHOT_ENTRY.size
        crc = crc32c.crc32c(entries, crc32c.crc32c(struct.pack(">i", count)))
        return _SNAPSHOT_HEAD.pack(_SNAPSHOT_VERSION, crc, count) + entries

    @classmethod
    def from_snapshot(cls, data: bytes, offset: Offset) -> "ProducerStates":
        """What `to_snapshot` wrote of everything below `offset`; SnapshotCorrupt for anything
        else."""
        if len(data) < _SNAPSHOT_HEAD.size:
            raise SnapshotCorrupt(f"{len(data)} bytes")
        version, crc, count = _SNAPSHOT_HEAD.unpack_from(data)
        if version != _SNAPSHOT_VERSION:
            raise SnapshotCorrupt(f"version {version}")
        if crc32c.crc32c(memoryview(data)[_CRC_FROM:]) != crc:
            raise SnapshotCorrupt("checksum")
        if len(data) != _SNAPSHOT_HEAD.size + count * _SNAPSHOT_ENTRY.size:
            raise SnapshotCorrupt(f"{count} entries in {len(data)} bytes")
        states = cls()
        begun: dict[ProducerId, Offset] = {}
        for (
            producer_id,
            epoch,
            last_sequence,
            last_offset,
            offset_delta,
            timestamp,
            coordinator_epoch,
            txn_first_offset,
        ) in _SNAPSHOT_ENTRY.iter_unpack(data[_SNAPSHOT_HEAD.size :]):
            producer = states._producers.get(producer_id)
            if producer is None or producer.epoch != epoch:
                producer = states._producers[producer_id] = Producer(epoch)
            producer.last_timestamp = timestamp
            producer.coordinator_epoch = coordinator_epoch
            if txn_first_offset != NO_OFFSET:
                begun[producer_id] = txn_first_offset
            if begun or coordinator_epoch != -1:
                states._transactional_end = offset
            if last_sequence != NO_SEQUENCE:
                producer.batches.append(
                    WrittenBatch(last_sequence, last_offset, offset_delta, timestamp)
                )
        states.transactions = Transactions(begun.items())
        return states


def _replaced(batch: Batch, producer: Producer) -> ApiError:
    return ApiError(
        ErrorCode.INVALID_PRODUCER_EPOCH,
        f"producer {batch.producer_id} has epoch {producer.epoch} by now,"
        f" not {batch.producer_epoch}",
    )


class Snapshots:
    """The `.snapshot` files of one log, by offset."""

    def __init__(self, files: Files, directory: str, offsets: Iterable[Offset] = ()) -> None:
        self._files = files
        self._directory = directory
        self._offsets = sorted(offsets)

    @property
    def offsets(self) -> tuple[Offset, ...]:
        """At which offsets there are snapshots, rising."""
        return tuple(self._offsets)

    def relocate(self, directory: str) -> None:
        """The log's directory was renamed to this."""
        self._directory = directory

    def path(self, offset: Offset) -> str:
        """The file of the snapshot at `offset`."""
        return os.path.join(self._directory, f"{offset:020d}{SNAPSHOT_SUFFIX}")

    def write(self, offset: Offset, states: ProducerStates) -> str:
        """Put down the state of everything below `offset`; not durable. Answers the path.

        Neither atomic: a torn snapshot fails its checksum, and the one before it is used.
        """
        path = self.path(offset)
        self._files.write_file(path, states.to_snapshot())
        if offset not in self._offsets:
            bisect.insort(self._offsets, offset)
        return path

    def newest(self, limit: Offset) -> tuple[Offset, ProducerStates] | None:
        """The newest sound snapshot at or below `limit`; unsound ones are removed."""
        for offset in reversed([offset for offset in self._offsets if offset <= limit]):
            data = self._files.read_file(self.path(offset))
            if data is not None:
                try:
                    return offset, ProducerStates.from_snapshot(data, offset)
                except SnapshotCorrupt as error:
                    logger.warning("bad snapshot path=%s cause=%s", self.path(offset), error)
            self._remove([offset])
        return None

    def keep_between(self, lowest: Offset, highest: Offset) -> None:
        """Remove those below `lowest` and above `highest`."""
        self._remove([offset for offset in self._offsets if not lowest <= offset <= highest])

    def keep_bases(self, bases: Iterable[Offset]) -> None:
        """Remove all but those at the segments' `bases`, and the newest."""
        wanted = {*bases, *self._offsets[-1:]}
        self._remove([offset for offset in self._offsets if offset not in wanted])

    def _remove(self, offsets: list[Offset]) -> None:
        for offset in offsets:
            self._files.unlink(self.path(offset))
            self._offsets.remove(offset)
