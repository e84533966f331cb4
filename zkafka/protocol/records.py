"""Record batches, format 2: the header at a glance, stamping in place, and, rarely, the records.

A broker moves batches: it reads the 61 bytes of a batch's header in one go, checks the CRC over the
rest, and writes the base offset and the leader epoch into the batch where it lies, since both are
outside the CRC. Records are opened only where their values matter: the coordinators' own logs, a
search by timestamp, tests.

Offsets of the header, big-endian: base_offset 0, batch_length 8 (bytes after it), leader_epoch 12,
magic 16, crc 17 (CRC-32C over everything from 21 on), attributes 21, last_offset_delta 23,
base_timestamp 27, max_timestamp 35, producer_id 43, producer_epoch 51, base_sequence 53,
record_count 57, records 61.

Whatever the bytes, the only exception is `ApiError`, with CORRUPT_MESSAGE or, for a whole batch of
an older format, INVALID_RECORD.

Source: KIP-98 (format 2), KIP-101 (leader epoch).
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import crc32c

from zkafka.errors import ApiError, ErrorCode
from zkafka.model import NO_PRODUCER, LeaderEpoch, Offset, ProducerId
from zkafka.protocol.compression import OUTPUT_LIMIT, Codec, compress, decompress

HEADER_SIZE = 61
LENGTH_OVERHEAD = 12
"""A batch's size is its batch_length plus this."""
CRC_START = 21
MAGIC = 2

CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
DELETE_HORIZON = 0x40

_HEADER = struct.Struct(">qiibIhiqqqhii")
_unpack_header = _HEADER.unpack_from
_LENGTH = struct.Struct(">8xi4xb")
_unpack_length = _LENGTH.unpack_from
_pack_offset = struct.Struct(">q").pack_into
_pack_epoch = struct.Struct(">i").pack_into
_pack_attributes = struct.Struct(">h").pack_into
_pack_crc = struct.Struct(">I").pack_into
_INT32_MAX = 2**31 - 1

assert _HEADER.size == HEADER_SIZE

Buffer = bytes | bytearray | memoryview


class Batch:
    """The header of one batch, unpacked, over a view of exactly its bytes.

    The attributes say what was there when the batch was parsed; `stamp` changes the bytes alone.
    """

    __slots__ = (
        "attributes",
        "base_offset",
        "base_sequence",
        "base_timestamp",
        "crc",
        "last_offset_delta",
        "leader_epoch",
        "magic",
        "max_timestamp",
        "producer_epoch",
        "producer_id",
        "record_count",
        "size",
        "view",
    )

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.size = len(view)
        self.base_offset: Offset
        self.leader_epoch: LeaderEpoch
        self.magic: int
        self.crc: int
        self.attributes: int
        self.last_offset_delta: int
        self.base_timestamp: int
        self.max_timestamp: int
        self.producer_id: ProducerId
        self.producer_epoch: int
        self.base_sequence: int
        self.record_count: int
        (
            self.base_offset,
            _,
            self.leader_epoch,
            self.magic,
            self.crc,
            self.attributes,
            self.last_offset_delta,
            self.base_timestamp,
            self.max_timestamp,
            self.producer_id,
            self.producer_epoch,
            self.base_sequence,
            self.record_count,
        ) = _unpack_header(view)

    def __repr__(self) -> str:
        return (
            f"<Batch {self.base_offset}..{self.last_offset} epoch={self.leader_epoch} "
            f"records={self.record_count} size={self.size}>"
        )

    @property
    def last_offset(self) -> Offset:
        """Offset of the last record, or where it was before compaction took it."""
        return self.base_offset + self.last_offset_delta

    @property
    def last_sequence(self) -> int:
        """Sequence number of the last record; wraps from 2^31-1 to 0. -1 without sequences."""
        if self.base_sequence < 0:
            return self.base_sequence
        return (self.base_sequence + self.last_offset_delta) & _INT32_MAX

    @property
    def codec(self) -> int:
        """A `Codec`'s number, or one that nobody defined."""
        return self.attributes & CODEC_MASK

    @property
    def is_transactional(self) -> bool:
        """Whether it is part of a transaction."""
        return self.attributes & TRANSACTIONAL != 0

    @property
    def is_control(self) -> bool:
        """Whether it is a transaction's end, written by a broker."""
        return self.attributes & CONTROL != 0

    @property
    def is_log_append_time(self) -> bool:
        """Whether every record's timestamp is `max_timestamp`, the broker's."""
        return self.attributes & LOG_APPEND_TIME != 0

    @property
    def has_producer(self) -> bool:
        """Whether an idempotent producer wrote it."""
        return self.producer_id != NO_PRODUCER


def parse_batches(buffer: Buffer, *, partial_tail: bool = False) -> list[Batch]:
    """All batches of `buffer`, in order, as views into it; nothing is copied or verified.

    With `partial_tail` a batch cut off at the end is left out, as answers to Fetch may have one;
    without, it is an error. An empty buffer has no batches.
    """
    view = memoryview(buffer)
    end = len(view)
    if end >= HEADER_SIZE and _unpack_length(view, 0) == (end - LENGTH_OVERHEAD, MAGIC):
        return [Batch(view)]  # One and all, as clients send them.
    batches = []
    position = 0
    while position < end:
        if end - position < 17:
            if partial_tail:
                break
            raise ApiError(ErrorCode.CORRUPT_MESSAGE, "batch header cut short")
        length, magic = _unpack_length(view, position)
        if magic != MAGIC:
            if magic in (0, 1):
                raise ApiError(ErrorCode.INVALID_RECORD, f"message format {magic} is not supported")
            raise ApiError(ErrorCode.CORRUPT_MESSAGE, f"no message format {magic}")
        size = length + LENGTH_OVERHEAD
        if size < HEADER_SIZE:
            raise ApiError(ErrorCode.CORRUPT_MESSAGE, f"batch length {length}")
        if size > end - position:
            if partial_tail:
                break
            raise ApiError(ErrorCode.CORRUPT_MESSAGE, "batch cut short")
        batches.append(Batch(view[position : position + size]))
        position += size
    return batches


def verify_crc(batch: Batch) -> bool:
    """Whether the bytes are those that the CRC was computed over."""
    return crc32c.crc32c(batch.view[CRC_START:]) == batch.crc


def stamp(view: memoryview | bytearray, base_offset: Offset, leader_epoch: LeaderEpoch) -> None:
    """Write the leader's base offset and epoch into the batch at the start of `view`, in place.

    The CRC stays right: it does not cover them. The view must be writable.
    """
    _pack_offset(view, 0, base_offset)
    _pack_epoch(view, 12, leader_epoch)


def restamp(view: memoryview, attributes: int, max_timestamp: int) -> Batch:
    """Write attributes and the largest timestamp into the batch that is `view`, in place, and the
    checksum anew; the batch as it is now. The view must be writable."""
    _pack_attributes(view, 21, attributes)
    _pack_offset(view, 35, max_timestamp)
    seal(view)
    return Batch(view)


def seal(view: memoryview | bytearray) -> None:
    """Write the length and the checksum of the batch that is `view`, in place."""
    _pack_epoch(view, 8, len(view) - LENGTH_OVERHEAD)
    _pack_crc(view, 17, crc32c.crc32c(memoryview(view)[CRC_START:]))


class Record(NamedTuple):
    """One record; `timestamp` in ms since the epoch, `offset` where it lies in the log."""

    key: Buffer | None
    value: Buffer | None
    timestamp: int
    headers: Sequence[tuple[str, bytes | None]] = ()
    offset: Offset = 0


def build_batch(
    records: Iterable[Record],
    *,
    base_offset: Offset = 0,
    leader_epoch: LeaderEpoch = -1,
    codec: int = Codec.NONE,
    producer_id: ProducerId = NO_PRODUCER,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    transactional: bool = False,
    control: bool = False,
    log_append_time: bool = False,
) -> bytearray:
    """One batch of `records`, with a right CRC, offsets counted up from `base_offset`.

    The records' own `offset` is not looked at. Without records: a batch of none, which no leader
    accepts from a client.
    """
    records = list(records)
    base_timestamp = records[0].timestamp if records else -1
    max_timestamp = max((record.timestamp for record in records), default=-1)
    body = bytearray()
    for delta, record in enumerate(records):
        _put_record(body, record, delta, record.timestamp - base_timestamp)
    payload = compress(codec, body) if codec else body
    attributes = (
        codec
        | (LOG_APPEND_TIME if log_append_time else 0)
        | (TRANSACTIONAL if transactional else 0)
        | (CONTROL if control else 0)
    )
    size = HEADER_SIZE + len(payload)
    batch = bytearray(size)
    _HEADER.pack_into(
        batch,
        0,
        base_offset,
        size - LENGTH_OVERHEAD,
        leader_epoch,
        MAGIC,
        0,
        attributes,
        len(records) - 1,
        base_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        len(records),
    )
    batch[HEADER_SIZE:] = payload
    struct.pack_into(">I", batch, 17, crc32c.crc32c(memoryview(batch)[CRC_START:]))
    return batch


def _put_record(body: bytearray, record: Record, offset_delta: int, timestamp_delta: int) -> None:
    out = bytearray(1)  # the record's attributes: none are defined
    put_varint(out, timestamp_delta)
    put_varint(out, offset_delta)
    _put_bytes(out, record.key)
    _put_bytes(out, record.value)
    put_varint(out, len(record.headers))
    for key, value in record.headers:
        _put_bytes(out, key.encode())
        _put_bytes(out, value)
    put_varint(body, len(out))
    body += out


def _put_bytes(out: bytearray, value: Buffer | None) -> None:
    if value is None:
        out.append(1)  # -1, zig-zag
        return
    put_varint(out, len(value))
    out += value


def put_varint(out: bytearray, value: int) -> None:
    """Append a zig-zag number."""
    value = (value << 1) ^ (value >> 63)
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def iter_records(batch: Batch, *, limit: int = OUTPUT_LIMIT) -> Iterator[Record]:
    """The records of `batch`, decompressed as needed; keys and values are bytes.

    `limit` bounds what decompression may make of it. Errors: CORRUPT_MESSAGE if the bytes and the
    header's count disagree, a length is impossible or anything is left over;
    UNSUPPORTED_COMPRESSION_TYPE. The records before the nonsense have been yielded by then.
    """
    data = bytes(decompress(batch.codec, batch.view[HEADER_SIZE:], limit=limit))
    count = batch.record_count
    # The shortest record has seven bytes with its length: refuse a count that cannot be.
    if count < 0 or count * 7 > len(data):
        raise _corrupt(f"{count} records in {len(data)} bytes")
    position = 0
    try:
        for _ in range(count):
            record, position = _get_record(data, position, batch)
            yield record
    except IndexError as error:
        raise _corrupt(f"record cut short: {error}") from None
    if position != len(data):
        raise _corrupt(f"{len(data) - position} bytes after the last record")


def _get_record(data: bytes, position: int, batch: Batch) -> tuple[Record, int]:
    length, position = get_varint(data, position)
    end = position + length
    if length < 0 or end > len(data):
        raise _corrupt(f"record of {length} bytes")
    position += 1
    timestamp_delta, position = get_varint(data, position)
    offset_delta, position = get_varint(data, position)
    key, position = _get_bytes(data, position, end)
    value, position = _get_bytes(data, position, end)
    header_count, position = get_varint(data, position)
    if header_count < 0 or header_count * 2 > end - position:
        raise _corrupt(f"{header_count} headers")
    headers = []
    for _ in range(header_count):
        header_key, position = _get_bytes(data, position, end)
        header_value, position = _get_bytes(data, position, end)
        if header_key is None:
            raise _corrupt("null header key")
        # As Java reads it: some clients send any bytes as a header's name.
        headers.append((header_key.decode(errors="replace"), header_value))
    if position != end:
        raise _corrupt(f"record of {length} bytes ends {end - position} bytes early")
    timestamp = (
        batch.max_timestamp if batch.is_log_append_time else batch.base_timestamp + timestamp_delta
    )
    return Record(key, value, timestamp, headers, batch.base_offset + offset_delta), position


def _get_bytes(data: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    size, position = get_varint(data, position)
    if size < 0:
        if size != -1:
            raise _corrupt(f"field of {size} bytes")
        return None, position
    if size > end - position:
        raise _corrupt(f"field of {size} bytes, {end - position} left")
    return data[position : position + size], position + size


def get_varint(data: bytes, position: int) -> tuple[int, int]:
    """A zig-zag number of at most 64 bits, and where it ends."""
    byte = data[position]
    position += 1
    value = byte & 0x7F
    shift = 7
    while byte > 0x7F:
        if shift > 63:
            raise _corrupt("number of more than 64 bits")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
    return (value >> 1) ^ -(value & 1), position


def _corrupt(what: str) -> ApiError:
    return ApiError(ErrorCode.CORRUPT_MESSAGE, what)
