"""What a leader checks of a client's batch before it appends it.

The header, and the checksum over all the rest; records are not opened here. So unless the topic has
them opened (`opening.py`), what lies inside a batch is as its producer made it: a client that
counts its records right and fills them with nonsense harms its own readers, as it could with any
bytes as values.

Where we differ from Kafka: bytes after the batch are CORRUPT_MESSAGE, where Kafka cuts them off;
so is a batch cut short, which Kafka takes for none at all. A codec that nobody defined is
UNSUPPORTED_COMPRESSION_TYPE, not UNKNOWN_SERVER_ERROR. A producer id without epoch is refused.

Source: Kafka's `ProduceRequest.validateRecords`, `UnifiedLog.append` and `LogValidator`.
"""

from zkafka.config import LogConfig
from zkafka.errors import ApiError, ErrorCode
from zkafka.protocol.records import (
    CODEC_MASK,
    CONTROL,
    TRANSACTIONAL,
    Batch,
    parse_batches,
    verify_crc,
)
from zkafka.replication.opening import check_size

_LARGEST_CODEC = 4


def client_batch(records: memoryview, config: LogConfig) -> Batch:
    """The one batch in `records`, its header checked.

    Errors: `ApiError` with the code that Kafka gives.
    """
    batches = parse_batches(records)
    if len(batches) != 1:
        # Nothing at all, too: there would be no offset to answer.
        raise ApiError(ErrorCode.INVALID_RECORD, f"{len(batches)} batches, where one is allowed")
    batch = batches[0]
    if batch.base_offset != 0:
        raise ApiError(ErrorCode.INVALID_RECORD, f"base offset {batch.base_offset}, not 0")
    check_size(batch, config)
    if not verify_crc(batch):
        raise ApiError(ErrorCode.CORRUPT_MESSAGE, "checksum")
    count = batch.record_count
    if count < 1 or batch.last_offset_delta + 1 != count:
        raise ApiError(
            ErrorCode.INVALID_RECORD,
            f"{count} records, last offset delta {batch.last_offset_delta}",
        )
    attributes = batch.attributes
    if attributes & (CONTROL | TRANSACTIONAL):
        if batch.is_control:
            raise ApiError(ErrorCode.INVALID_RECORD, "control batch from a client")
        # Without transactions nobody could ever commit it.
        raise ApiError(ErrorCode.INVALID_TXN_STATE, "transactions are not supported")
    if batch.producer_id >= 0 and (batch.base_sequence < 0 or batch.producer_epoch < 0):
        raise ApiError(ErrorCode.INVALID_RECORD, "producer id without epoch or sequence")
    if attributes & CODEC_MASK > _LARGEST_CODEC:
        raise ApiError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"codec {batch.codec}")
    return batch
