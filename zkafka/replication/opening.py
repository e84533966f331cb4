"""What happens to a batch whose records must be looked at before it is appended.

Most batches are appended as their producer made them, unopened: `validation.py` has looked at the
header. A batch is opened where its topic asks for something that the header cannot tell:

- `zkafka.record.validation=records`: every record, as Kafka checks it;
- `compression.type` names another codec than the batch's: it is compressed anew;
- `message.timestamp.before.max.ms` is set, or the largest timestamp is beyond
  `message.timestamp.after.max.ms`: each record's timestamp;
- `cleanup.policy` contains compact: a record without key could never be compacted away.

Whatever the reason, an opened batch is gone through record by record. What cannot be records, or
not as many as the header says, is INVALID_RECORD. Records that break a rule are told one by one
(`RecordsRefused`). A header's largest timestamp that is not the records' is put right; offsets in
the batch that do not count up from 0, as some old clients send them, have it rebuilt.

Pure, and slow: one or two microseconds per record, and what the codecs take. So all but
small batches (`is_small`) belong in a worker thread. What is unpacked is at most
`compression.OUTPUT_LIMIT`, and there is as much again while it is compressed anew.

Where we differ from Kafka: what cannot be decompressed is INVALID_RECORD, not UNKNOWN_SERVER_ERROR;
lengths are checked in compressed batches too; at most MAX_RECORD_ERRORS records are told of.

Source: Kafka's `LogValidator`; KIP-467 (record errors).
"""

from collections.abc import Sequence

from zkafka.config import LONG_MAX, LogConfig
from zkafka.errors import ApiError, ErrorCode
from zkafka.protocol.compression import Codec, compress, decompress
from zkafka.protocol.records import (
    CODEC_MASK,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    Batch,
    get_varint,
    put_varint,
    restamp,
)

MAX_RECORD_ERRORS = 1000
"""Ours: Kafka tells of every record. An answer of some 200 KB at most."""

_SMALL_BYTES = 4096
_SMALL_RECORDS = 32
"""So that opening takes less than the way to a thread and back, or hardly more: 50 microseconds,
600 with the most thorough of codecs."""

_NO_TIMESTAMP = -1
_TIMESTAMP_MIN = -(2**63)
_LINKED_LZ4 = 0x20
"""Not set in a frame whose blocks build on each other: Java's reader refuses those."""

_CODECS = {
    "uncompressed": Codec.NONE,
    "gzip": Codec.GZIP,
    "snappy": Codec.SNAPPY,
    "lz4": Codec.LZ4,
    "zstd": Codec.ZSTD,
}


class RecordsRefused(ApiError):
    """Some records break a rule; `record_errors` has the index and the fault of each."""

    def __init__(
        self, code: ErrorCode, message: str, record_errors: Sequence[tuple[int, str]]
    ) -> None:
        super().__init__(code, message)
        self.record_errors = record_errors


def must_open(batch: Batch, config: LogConfig, now_ms: int) -> bool:
    """Whether the topic asks for more than the header of `batch` can tell."""
    if (
        config.record_validation == "records"
        or "compact" in config.cleanup_policy
        or _target(batch, config) != batch.codec
    ):
        return True
    if config.message_timestamp_type != "CreateTime":
        return batch.is_log_append_time
    return (
        config.timestamp_before_max_ms != LONG_MAX
        or batch.max_timestamp > now_ms + config.timestamp_after_max_ms
        or (batch.is_log_append_time and batch.max_timestamp == _NO_TIMESTAMP)
    )


def is_small(batch: Batch) -> bool:
    """Whether it may be opened in passing. Compressed, it could be of any size inside."""
    return (
        batch.codec == Codec.NONE
        and batch.size <= _SMALL_BYTES
        and batch.record_count <= _SMALL_RECORDS
    )


def with_append_time(batch: Batch, now_ms: int) -> Batch:
    """The batch, in place, with the leader's time as the time of every record."""
    return restamp(batch.view, batch.attributes | LOG_APPEND_TIME, now_ms)


def without_append_time(batch: Batch) -> Batch:
    """The batch, in place, with its records' own times: those are the leader's to replace."""
    return restamp(batch.view, batch.attributes & ~LOG_APPEND_TIME, batch.max_timestamp)


def opened(batch: Batch, config: LogConfig, now_ms: int) -> Batch:
    """The batch to append in place of `batch`, whose header is sound: itself, if need be changed
    in place, or another one. Its records have their producers' times. Any thread.

    Errors: `ApiError` with the code that Kafka gives, `RecordsRefused` where single records are at
    fault.
    """
    try:
        data = bytes(decompress(batch.codec, batch.view[HEADER_SIZE:]))
        max_timestamp, counts_up = _check_records(data, batch, config, now_ms)
    except IndexError:
        raise _invalid("record cut short") from None
    except RecordsRefused:
        raise
    except ApiError as refusal:
        # Its checksum is right: sent again it would be no better, as CORRUPT_MESSAGE promises.
        raise _invalid(refusal.message) from None
    target = _target(batch, config)
    attributes = batch.attributes & ~LOG_APPEND_TIME
    if counts_up and target == batch.codec and not _is_linked_lz4(batch):
        if attributes != batch.attributes or max_timestamp != batch.max_timestamp:
            return restamp(batch.view, attributes, max_timestamp)
        return batch
    body = data if counts_up else _counted_up(data, batch.record_count)
    result = _rebuilt(batch, body, target, attributes, max_timestamp, config)
    check_size(result, config)
    return result


def in_topics_codec(batch: Batch, config: LogConfig) -> Batch:
    """A batch of our own making, in the codec that compression.type asks for. Like Kafka, we leave
    the markers of transactions as they are."""
    target = _target(batch, config)
    if target == batch.codec or (batch.is_control and batch.codec == Codec.NONE):
        return batch
    data = bytes(decompress(batch.codec, batch.view[HEADER_SIZE:]))
    return _rebuilt(batch, data, target, batch.attributes, batch.max_timestamp, config)


def _rebuilt(
    batch: Batch,
    body: bytes | bytearray,
    target: int,
    attributes: int,
    max_timestamp: int,
    config: LogConfig,
) -> Batch:
    """The batch with this body instead, compressed with `target`."""
    rebuilt = bytearray(batch.view[:HEADER_SIZE])
    rebuilt += compress(target, body, _level(target, config)) if target else body
    return restamp(memoryview(rebuilt), attributes & ~CODEC_MASK | target, max_timestamp)


def check_size(batch: Batch, config: LogConfig) -> None:
    """Errors: MESSAGE_TOO_LARGE. (What no segment can hold, the log refuses.)"""
    if batch.size > config.max_message_bytes:
        raise ApiError(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"batch of {batch.size} bytes, max.message.bytes is {config.max_message_bytes}",
        )


def _target(batch: Batch, config: LogConfig) -> int:
    """The codec to store it with."""
    return _CODECS.get(config.compression_type, batch.codec)


def _level(codec: int, config: LogConfig) -> int | None:
    match codec:
        case Codec.GZIP:
            return config.compression_gzip_level
        case Codec.LZ4:
            return config.compression_lz4_level
        case Codec.ZSTD:
            return config.compression_zstd_level
    return None


def _is_linked_lz4(batch: Batch) -> bool:
    return batch.codec == Codec.LZ4 and not batch.view[HEADER_SIZE + 4] & _LINKED_LZ4


def _check_records(data: bytes, batch: Batch, config: LogConfig, now_ms: int) -> tuple[int, bool]:
    """The largest timestamp, and whether offsets count up from 0.

    Errors: `ApiError`, or IndexError where the bytes end too early.
    """
    count = batch.record_count
    # The shortest record has seven bytes with its length.
    if count * 7 > len(data):
        raise _invalid(f"{count} records in {len(data)} bytes")
    keys_needed = "compact" in config.cleanup_policy
    create_time = config.message_timestamp_type == "CreateTime"
    earliest = now_ms - config.timestamp_before_max_ms
    latest = now_ms + config.timestamp_after_max_ms
    claims_append_time = batch.is_log_append_time
    base_timestamp = batch.base_timestamp
    largest = _NO_TIMESTAMP
    counts_up = True
    faults = _Faults()
    position = 0
    for number in range(count):
        length, position = get_varint(data, position)
        end = position + length
        position += 1
        delta, position = get_varint(data, position)
        timestamp = base_timestamp + delta
        if timestamp > largest:
            largest = timestamp
        offset, position = get_varint(data, position)
        if offset != number:
            counts_up = False
        key_size, position = get_varint(data, position)
        if key_size > 0:
            position += key_size
        value_size, position = get_varint(data, position)
        if value_size > 0:
            position += value_size
        # One byte, mostly: no headers.
        header_count = data[position]
        position += 1
        if header_count:
            position = _skip_headers(data, position - 1, end)
        if position != end or key_size < -1 or value_size < -1:
            raise _invalid(f"record {number} of {length} bytes is not one")
        if keys_needed and key_size < 0:
            faults.add(number, "Compacted topic cannot accept message without key.")
            continue
        if claims_append_time:
            timestamp = batch.max_timestamp
        if create_time and timestamp != _NO_TIMESTAMP:
            if not earliest <= timestamp <= latest:
                faults.add_time(
                    number,
                    f"Timestamp {timestamp} of message with offset {number} is out of range."
                    f" The timestamp should be within [{earliest}, {latest}]",
                )
        elif claims_append_time:
            faults.add_time(
                number,
                f"Invalid timestamp type in message {number}."
                " Producer should not set timestamp type to LogAppendTime.",
            )
    if position != len(data):
        raise _invalid(f"{len(data) - position} bytes after the last record")
    if not _TIMESTAMP_MIN <= largest <= LONG_MAX:
        raise _invalid(f"timestamp {largest}")
    faults.refuse()
    return largest, counts_up


def _skip_headers(data: bytes, position: int, end: int) -> int:
    """Where the record's headers end."""
    count, position = get_varint(data, position)
    if not 0 <= 2 * count <= end - position:
        raise _invalid(f"{count} headers")
    for _ in range(count):
        size, position = get_varint(data, position)
        if size < 0:
            raise _invalid("header without a name")
        size, position = get_varint(data, position + size)
        if size < -1:
            raise _invalid(f"header of {size} bytes")
        position += max(size, 0)
    return position


def _counted_up(data: bytes, count: int) -> bytearray:
    """The same records with offsets 0, 1, 2 and so on; `data` was checked."""
    body = bytearray()
    position = 0
    for number in range(count):
        length, start = get_varint(data, position)
        position = start + length
        _, times_end = get_varint(data, start + 1)
        _, offset_end = get_varint(data, times_end)
        record = bytearray(data[start:times_end])
        put_varint(record, number)
        record += data[offset_end:position]
        put_varint(body, len(record))
        body += record
    return body


class _Faults:
    """The faults of single records, and the code that stands for them."""

    def __init__(self) -> None:
        self._count = 0
        self._code = ErrorCode.INVALID_RECORD
        self._told: list[tuple[int, str]] = []

    def add(self, number: int, fault: str) -> None:
        self._count += 1
        if len(self._told) < MAX_RECORD_ERRORS:
            self._told.append((number, fault))

    def add_time(self, number: int, fault: str) -> None:
        self._code = ErrorCode.INVALID_TIMESTAMP
        self.add(number, fault)

    def refuse(self) -> None:
        """Errors: `RecordsRefused`, if there is any fault."""
        if not self._count:
            return
        if self._code is ErrorCode.INVALID_TIMESTAMP:
            message = "One or more records have been rejected due to invalid timestamp"
        else:
            message = (
                f"One or more records have been rejected due to {self._count} record errors in"
                " total"
            )
        raise RecordsRefused(self._code, message, self._told)


def _invalid(what: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_RECORD, what)
