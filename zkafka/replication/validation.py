"""What a leader checks of a client's batch before it appends it.

The header and the checksum over all the rest; records are not opened. So what lies inside a batch
is as its producer made it: a client that counts its records right and fills them with nonsense
harms its own readers, as it could with any bytes as values.

Where we differ from Kafka, which decompresses every batch: timestamps are checked by the batch's
first and largest; a record without key is accepted on a compacted topic; gaps between the records'
own offsets are not noticed; batches keep their codec whatever the topic's compression.type says.

Source: Kafka's `LogValidator` and `UnifiedLog.append`.
"""

from zkafka.config import LogConfig
from zkafka.errors import ApiError, ErrorCode
from zkafka.protocol.records import Batch, parse_batches, verify_crc

_LARGEST_CODEC = 4
_NO_TIMESTAMP = -1


def client_batch(records: memoryview, config: LogConfig, now_ms: int) -> Batch:
    """The one batch in `records`, checked; `now_ms` is wall time.

    Errors: `ApiError` with the code that Kafka gives.
    """
    batches = parse_batches(records)
    if len(batches) != 1:
        # Nothing at all, too: there would be no offset to answer.
        raise ApiError(ErrorCode.INVALID_RECORD, f"{len(batches)} batches, where one is allowed")
    batch = batches[0]
    if batch.size > config.max_message_bytes:
        raise ApiError(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"batch of {batch.size} bytes, max.message.bytes is {config.max_message_bytes}",
        )
    if batch.size > config.segment_bytes:
        raise ApiError(
            ErrorCode.RECORD_LIST_TOO_LARGE,
            f"batch of {batch.size} bytes, segment.bytes is {config.segment_bytes}",
        )
    if not verify_crc(batch):
        raise ApiError(ErrorCode.CORRUPT_MESSAGE, "checksum")
    if batch.base_offset != 0:
        raise ApiError(ErrorCode.INVALID_RECORD, f"base offset {batch.base_offset}, not 0")
    if batch.record_count < 1 or batch.last_offset_delta + 1 != batch.record_count:
        raise ApiError(
            ErrorCode.INVALID_RECORD,
            f"{batch.record_count} records, last offset delta {batch.last_offset_delta}",
        )
    if batch.is_control:
        raise ApiError(ErrorCode.INVALID_RECORD, "control batch from a client")
    if batch.is_transactional:
        # Without transactions nobody could ever commit it.
        raise ApiError(ErrorCode.INVALID_TXN_STATE, "transactions are not supported")
    if batch.producer_id >= 0 and (batch.base_sequence < 0 or batch.producer_epoch < 0):
        raise ApiError(ErrorCode.INVALID_RECORD, "producer id without epoch or sequence")
    if batch.codec > _LARGEST_CODEC:
        raise ApiError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"codec {batch.codec}")
    if batch.is_log_append_time:
        raise ApiError(ErrorCode.INVALID_TIMESTAMP, "a client cannot set the log append time")
    _check_timestamps(batch, config, now_ms)
    return batch


def _check_timestamps(batch: Batch, config: LogConfig, now_ms: int) -> None:
    earliest = now_ms - config.message_timestamp_before_max_ms
    latest = now_ms + config.message_timestamp_after_max_ms
    for timestamp in (batch.base_timestamp, batch.max_timestamp):
        if timestamp != _NO_TIMESTAMP and not earliest <= timestamp <= latest:
            raise ApiError(
                ErrorCode.INVALID_TIMESTAMP,
                f"timestamp {timestamp} outside {max(earliest, 0)} to {latest}",
            )
