import struct

import crc32c
import pytest

from zkafka.config import LogConfig
from zkafka.errors import ApiError, ErrorCode
from zkafka.protocol.records import Record, build_batch
from zkafka.replication.validation import client_batch

NOW_MS = 1_700_000_000_000
CONFIG = LogConfig(max_message_bytes=1000)


def batch(count=2, *, timestamp=NOW_MS, **how):
    return build_batch([Record(b"k", b"v" * 20, timestamp, offset=n) for n in range(count)], **how)


def patched(data, form, position, value):
    """The batch with a header field overwritten, and a right checksum."""
    struct.pack_into(form, data, position, value)
    struct.pack_into(">I", data, 17, crc32c.crc32c(memoryview(data)[21:]))
    return data


def refusal(data, config=CONFIG):
    with pytest.raises(ApiError) as refused:
        client_batch(memoryview(data), config)
    return refused.value.code


def test_a_sound_batch_passes():
    assert client_batch(memoryview(batch()), CONFIG).record_count == 2


@pytest.mark.parametrize("data", [b"", batch() + batch()])
def test_there_is_exactly_one_batch(data):
    assert refusal(bytearray(data)) is ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("length", [1, 16, 60, 80])
def test_a_batch_cut_short_is_corrupt(length):
    assert refusal(batch()[:length]) is ErrorCode.CORRUPT_MESSAGE


def test_a_flipped_bit_is_corrupt():
    data = batch()
    data[70] ^= 1
    assert refusal(data) is ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize(
    ("magic", "code"),
    [(0, ErrorCode.INVALID_RECORD), (1, ErrorCode.INVALID_RECORD), (9, ErrorCode.CORRUPT_MESSAGE)],
)
def test_other_formats_are_refused(magic, code):
    data = batch()
    data[16] = magic
    assert refusal(data) is code


def test_sizes_are_limited_by_the_topic():
    assert refusal(batch(40)) is ErrorCode.MESSAGE_TOO_LARGE


def test_the_base_offset_is_the_leaders_to_give():
    assert refusal(batch(base_offset=5)) is ErrorCode.INVALID_RECORD


@pytest.mark.parametrize(("delta", "count"), [(0, 2), (1, 3), (-1, 0), (1, -2)])
def test_the_counts_agree(delta, count):
    data = patched(batch(), ">i", 23, delta)
    data = patched(data, ">i", 57, count)
    assert refusal(data) is ErrorCode.INVALID_RECORD


def test_transactions_and_control_batches_are_not_for_clients():
    assert refusal(batch(control=True)) is ErrorCode.INVALID_RECORD
    assert refusal(batch(transactional=True)) is ErrorCode.INVALID_TXN_STATE


@pytest.mark.parametrize(("epoch", "sequence"), [(0, -1), (-1, 0)])
def test_a_producer_id_comes_with_epoch_and_sequence(epoch, sequence):
    data = batch(producer_id=5, producer_epoch=epoch, base_sequence=sequence)
    assert refusal(data) is ErrorCode.INVALID_RECORD


def test_an_unknown_codec_is_refused():
    assert refusal(patched(batch(), ">h", 21, 5)) is ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
