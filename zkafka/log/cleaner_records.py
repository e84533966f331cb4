"""What survives compaction, record by record and batch by batch.

A cleaning goes over a log twice. First over its dirty part, noting in `KeyOffsets` the last offset
of each key; then over everything below the end of that part, where a `RecordFilter` says of each
batch what is left:

- a record stays if no later one of its key was noted; records without key go;
- a tombstone (no value) stays until the delete horizon, which the first cleaning that meets it
  writes into its batch: that time plus delete.retention.ms (KIP-534);
- data of an aborted transaction goes; its marker, like that of a committed one, gets a delete
  horizon once no data of the transaction was met, and goes in a cleaning after that;
- a batch without records stays as a header where it has the last sequence of a producer that is
  still remembered, or is the last before the end of what may be cleaned: so a producer's retry is
  recognized, and the log never seems to end earlier than it did.

Offsets never change, and a batch keeps its first and last one. Both passes are generators that
yield every few hundred records, so that whoever runs them in a thread can let others have a turn.

Where we differ from Kafka: which transactions were aborted is told from their markers, not from the
indexes of aborted transactions; a map that is full still takes later offsets of keys that it has.

Sources: Kafka's `Cleaner`, `CleanedTransactionMetadata` and `MemoryRecords.filterTo`.
"""

import bisect
from collections.abc import Callable, Generator, Mapping
from hashlib import blake2b
from typing import NamedTuple

import attrs

from zkafka.log.transactions import Marker, marker_of
from zkafka.model import NO_OFFSET, Offset, ProducerId
from zkafka.protocol.compression import decompress
from zkafka.protocol.records import HEADER_SIZE, Batch
from zkafka.protocol.spans import RecordSpan, delete_horizon_ms, iter_spans, rebuild_batch

BYTES_PER_KEY = 176
"""What a key costs in `KeyOffsets`, at most: a digest (64 bytes with its header), an offset (32),
and their place in a dict that is just growing (80). Kafka's map takes 24, and is there in full from
the start; ours grows with the keys."""

RECORDS_PER_TURN = 256
"""Records between two yields: about a millisecond."""

_DIGEST_SIZE = 16


class KeyOffsets:
    """The last offset of each key from some offset on up to `latest`; of `capacity` keys at most.

    Keys of 16 bytes and more are known by a digest of 16 bytes, shorter ones by themselves.
    """

    __slots__ = ("_offsets", "capacity", "latest")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.latest: Offset = NO_OFFSET
        self._offsets: dict[bytes, Offset] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def put(self, key: bytes, offset: Offset) -> bool:
        """Note that `key` was written at `offset`, above all before; False if it is full."""
        digest = key if len(key) < _DIGEST_SIZE else _digest(key)
        if len(self._offsets) >= self.capacity and digest not in self._offsets:
            return False
        self._offsets[digest] = offset
        return True

    def get(self, key: bytes) -> Offset:
        """The last offset noted for `key`, NO_OFFSET if there is none."""
        return self._offsets.get(key if len(key) < _DIGEST_SIZE else _digest(key), NO_OFFSET)


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=_DIGEST_SIZE).digest()


class Endings:
    """How the transactions of a range of the log ended; markers are added in their order."""

    def __init__(self) -> None:
        self._markers: dict[ProducerId, list[Marker]] = {}

    def add(self, producer_id: ProducerId, marker: Marker) -> None:
        """One more transaction's end."""
        self._markers.setdefault(producer_id, []).append(marker)

    def committed(self, batch: Batch) -> bool | None:
        """Whether a transactional batch was committed; None if its end is not in the range."""
        markers = self._markers.get(batch.producer_id, [])
        after = bisect.bisect_right(markers, batch.last_offset, key=lambda marker: marker.offset)
        return markers[after].committed if after < len(markers) else None


def note_keys(
    batch: Batch, keys: KeyOffsets, first_offset: Offset
) -> Generator[int, None, Offset | None]:
    """Note the batch's keys from `first_offset` on. None if all are noted, else the offset of the
    first that is not, since the map is full. Yields nothing (0) every `RECORDS_PER_TURN` records.
    """
    data = bytes(decompress(batch.codec, batch.view[HEADER_SIZE:]))
    for number, span in enumerate(iter_spans(batch, data), 1):
        if (
            span.key is not None
            and span.offset >= first_offset
            and not keys.put(span.key, span.offset)
        ):
            return span.offset
        if number % RECORDS_PER_TURN == 0:
            yield 0
    return None


class LastOfProducer(NamedTuple):
    """The end of what a remembered producer wrote: the last offset of its last batch of data,
    NO_OFFSET if only its epoch is known."""

    last_offset: Offset
    epoch: int


@attrs.define(kw_only=True)
class RecordFilter:
    """What is left of each batch; to be asked for all batches of a log in their order.

    `bound` is the end of what may be cleaned in this round, exclusive. `is_aborted` is asked for
    transactional batches of data.
    """

    keys: KeyOffsets
    bound: Offset
    now_ms: int
    delete_retention_ms: int
    last_of_producers: Mapping[ProducerId, LastOfProducer]
    is_aborted: Callable[[Batch], bool]
    # Producers of whom data of a transaction was met, and its marker not yet.
    _open: set[ProducerId] = attrs.field(init=False, factory=set)

    def survivor(self, batch: Batch) -> Generator[int, None, Batch | None]:
        """`batch`, or what is left of it, or None. Yields nothing (0) every `RECORDS_PER_TURN`
        records. Errors: `ApiError` if the records are no records."""
        horizon = delete_horizon_ms(batch)
        is_past = horizon is not None and horizon <= self.now_ms
        empty_transaction = batch.is_control and self._ends_nothing(batch)
        if batch.is_control:
            dropped = empty_transaction and is_past
        else:
            dropped = batch.is_transactional and self._is_aborted_data(batch)
        data = b""
        kept: list[RecordSpan] = []
        has_tombstones = False
        if not dropped:
            data = bytes(decompress(batch.codec, batch.view[HEADER_SIZE:]))
            for number, span in enumerate(iter_spans(batch, data), 1):
                if batch.is_control or self._stays(span, is_past):
                    kept.append(span)
                    has_tombstones = has_tombstones or not span.has_value
                if number % RECORDS_PER_TURN == 0:
                    yield 0
        if not kept:
            if not self._must_remain(batch):
                return None
            return rebuild_batch(batch, data, (), delete_horizon_ms=None)
        if horizon is None and (has_tombstones or empty_transaction):
            horizon = self.now_ms + self.delete_retention_ms
        elif len(kept) == batch.record_count:
            return batch
        return rebuild_batch(batch, data, kept, delete_horizon_ms=horizon)

    def _stays(self, span: RecordSpan, is_past: bool) -> bool:
        if span.offset > self.keys.latest:
            return True
        if span.key is None:
            return False
        return (span.has_value or not is_past) and span.offset >= self.keys.get(span.key)

    def _is_aborted_data(self, batch: Batch) -> bool:
        self._open.add(batch.producer_id)
        return self.is_aborted(batch)

    def _ends_nothing(self, batch: Batch) -> bool:
        """Whether a control batch is the marker of a transaction of which nothing is left."""
        if batch.record_count and marker_of(batch) is None:
            return False  # Of a kind that a later Kafka may write.
        if batch.producer_id in self._open:
            self._open.discard(batch.producer_id)
            return False
        return True

    def _must_remain(self, batch: Batch) -> bool:
        if batch.last_offset + 1 == self.bound:
            return True
        last = self.last_of_producers.get(batch.producer_id)
        if not batch.has_producer or last is None:
            return False
        if last.last_offset != NO_OFFSET:
            return batch.last_offset == last.last_offset
        return batch.is_control and batch.producer_epoch == last.epoch
