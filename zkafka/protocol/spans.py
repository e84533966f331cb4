"""A batch's records by where they lie, and the batch rebuilt from some of them.

What compaction does to a batch: it looks at keys and at whether there is a value, and copies the
bytes of the records that stay. Nothing of a record is decoded that need not be, and what stays is
copied to the byte: only timestamps are written anew, where the batch's base timestamp moves.

Source: Kafka's `MemoryRecords.filterTo`; KIP-534 (delete horizon).
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zkafka.errors import ApiError, ErrorCode
from zkafka.model import Offset
from zkafka.protocol.compression import compress
from zkafka.protocol.records import (
    CODEC_MASK,
    DELETE_HORIZON,
    HEADER_SIZE,
    Batch,
    Buffer,
    get_varint,
    put_varint,
    seal,
)

_SHORTEST_RECORD = 7
_pack_attributes = struct.Struct(">h").pack_into
_pack_timestamps = struct.Struct(">qq").pack_into
_pack_count = struct.Struct(">i").pack_into


class RecordSpan(NamedTuple):
    """One record of a batch's decompressed `data`: it is `data[start:end]`.

    Its attributes are one byte at `attributes_at`, its timestamp's delta follows, and from
    `rest_at` on comes what does not depend on the batch's base timestamp.
    """

    start: int
    attributes_at: int
    rest_at: int
    end: int
    timestamp: int
    offset: Offset
    key: bytes | None
    has_value: bool


def delete_horizon_ms(batch: Batch) -> int | None:
    """From when on compaction may drop the batch's tombstones, or the marker that it is; None
    until a first compaction has seen it."""
    return batch.base_timestamp if batch.attributes & DELETE_HORIZON else None


def iter_spans(batch: Batch, data: bytes) -> Iterator[RecordSpan]:
    """The records of `batch`, of which `data` are the decompressed bytes.

    Errors: `ApiError` CORRUPT_MESSAGE where bytes and count disagree, a length is impossible,
    anything is left over, or offsets do not rise within the batch's. Headers are not looked at.
    """
    count, size = batch.record_count, len(data)
    if count < 0 or count * _SHORTEST_RECORD > size:
        raise _corrupt(batch, f"{count} records in {size} bytes")
    base_offset, base_timestamp = batch.base_offset, batch.base_timestamp
    append_time = batch.max_timestamp if batch.is_log_append_time else None
    largest_delta, last_delta = batch.last_offset_delta, -1
    end = 0
    try:
        for _ in range(count):
            start = end
            length, attributes_at = get_varint(data, start)
            end = attributes_at + length
            if length < 0 or end > size:
                raise _corrupt(batch, f"record of {length} bytes")
            timestamp_delta, rest_at = get_varint(data, attributes_at + 1)
            offset_delta, position = get_varint(data, rest_at)
            if not last_delta < offset_delta <= largest_delta:
                raise _corrupt(batch, f"offset delta {offset_delta} after {last_delta}")
            last_delta = offset_delta
            key_size, position = get_varint(data, position)
            key = None
            if key_size >= 0:
                key = data[position : position + key_size]
                position += key_size
            value_size, position = get_varint(data, position)
            if key_size < -1 or not -1 <= value_size <= end - position:
                raise _corrupt(batch, f"key of {key_size} bytes, value of {value_size}")
            yield RecordSpan(
                start,
                attributes_at,
                rest_at,
                end,
                base_timestamp + timestamp_delta if append_time is None else append_time,
                base_offset + offset_delta,
                key,
                value_size >= 0,
            )
    except IndexError:
        raise _corrupt(batch, "record cut short") from None
    if end != size:
        raise _corrupt(batch, f"{size - end} bytes after the last record")


def rebuild_batch(
    batch: Batch, data: bytes, kept: Sequence[RecordSpan], *, delete_horizon_ms: int | None
) -> Batch:
    """`batch` with only the records `kept` of its decompressed `data`.

    Offsets, leader epoch, producer, codec and flags stay, and so does the last offset, though its
    record may be gone. The base timestamp is the delete horizon where there is one, else that of
    the first record; the largest timestamp is that of the records left. Without records it is a
    header alone, which remembers a producer's last sequence, or where the log ended.
    """
    attributes = batch.attributes & ~DELETE_HORIZON
    base_timestamp, max_timestamp = -1, batch.max_timestamp
    payload: Buffer = b""
    if kept:
        base_timestamp = kept[0].timestamp
        max_timestamp = max(span.timestamp for span in kept)
        if delete_horizon_ms is not None:
            attributes |= DELETE_HORIZON
            base_timestamp = delete_horizon_ms
        payload = _rebased(batch, data, kept, base_timestamp)
        if batch.codec:
            payload = compress(batch.codec, payload)
    else:
        attributes &= ~CODEC_MASK
    rebuilt = bytearray(batch.view[:HEADER_SIZE])
    _pack_attributes(rebuilt, 21, attributes)
    _pack_timestamps(rebuilt, 27, base_timestamp, max_timestamp)
    _pack_count(rebuilt, 57, len(kept))
    rebuilt += payload
    seal(rebuilt)
    return Batch(memoryview(rebuilt))


def _rebased(
    batch: Batch, data: bytes, kept: Sequence[RecordSpan], base_timestamp: int
) -> bytearray:
    """The records `kept`, their timestamps relative to another base."""
    body = bytearray()
    if base_timestamp == batch.base_timestamp and not batch.is_log_append_time:
        for span in kept:
            body += data[span.start : span.end]
        return body
    for span in kept:
        delta = bytearray()
        put_varint(delta, span.timestamp - base_timestamp)
        put_varint(body, 1 + len(delta) + span.end - span.rest_at)
        body.append(data[span.attributes_at])
        body += delta
        body += data[span.rest_at : span.end]
    return body


def _corrupt(batch: Batch, what: str) -> ApiError:
    return ApiError(ErrorCode.CORRUPT_MESSAGE, f"{what}, in the batch at {batch.base_offset}")
