"""Batches: headers, stamps, CRCs and records; aiokafka's builder and reader are the judges."""

import random
import struct

import crc32c
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from zkafka.errors import ApiError, ErrorCode
from zkafka.protocol.compression import Codec
from zkafka.protocol.records import (
    HEADER_SIZE,
    LOG_APPEND_TIME,
    Batch,
    Record,
    build_batch,
    iter_records,
    parse_batches,
    restamp,
    stamp,
    verify_crc,
)

RECORDS = [
    Record(b"key", b"value", 1_600_000_000_000),
    Record(None, None, 1_600_000_000_005, [("h", b"1"), ("h", None), ("é", b"")]),
    Record(b"", b"", 1_599_999_999_000),
    Record(b"k" * 200, b"v" * 70_000, 1_600_000_100_000),
]


def only(buffer):
    (batch,) = parse_batches(buffer)
    return batch


def refused(buffer, code=ErrorCode.CORRUPT_MESSAGE, **options):
    with pytest.raises(ApiError) as caught:
        parse_batches(buffer, **options)
    assert caught.value.code is code


def unreadable(batch):
    with pytest.raises(ApiError) as caught:
        list(iter_records(batch))
    assert caught.value.code is ErrorCode.CORRUPT_MESSAGE


# --- Against aiokafka ---------------------------------------------------------------------------


@pytest.mark.parametrize("codec", Codec)
def test_another_reader_reads_what_we_build(codec):
    data = build_batch(
        RECORDS,
        base_offset=1000,
        leader_epoch=7,
        codec=codec,
        producer_id=4000,
        producer_epoch=3,
        base_sequence=12,
    )
    theirs = DefaultRecordBatch(bytes(data))
    assert theirs.validate_crc()
    assert theirs.compression_type == codec
    assert (theirs.base_offset, theirs.next_offset) == (1000, 1004)
    assert (theirs.producer_id, theirs.producer_epoch, theirs.base_sequence) == (4000, 3, 12)
    assert theirs.max_timestamp == 1_600_000_100_000
    assert [Record(r.key, r.value, r.timestamp, r.headers, r.offset) for r in theirs] == expected(
        1000
    )


def expected(base_offset):
    return [
        r._replace(offset=base_offset + i, headers=list(r.headers)) for i, r in enumerate(RECORDS)
    ]


@pytest.mark.parametrize("codec", Codec)
def test_we_read_what_another_builder_builds(codec):
    builder = DefaultRecordBatchBuilder(2, int(codec), 0, 4000, 3, 12, 1_000_000)
    for index, record in enumerate(RECORDS):
        headers = list(record.headers)
        assert builder.append(index, record.timestamp, record.key, record.value, headers)
    data = bytearray(builder.build())
    batch = only(data)
    assert verify_crc(batch)
    assert batch.codec == codec
    assert (batch.base_offset, batch.last_offset, batch.record_count) == (0, 3, 4)
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (4000, 3, 12)
    assert list(iter_records(batch)) == expected(0)


# --- The header ---------------------------------------------------------------------------------


def test_header_layout():
    data = build_batch(
        [Record(b"k", b"v", 5), Record(b"k", b"v", 3)],
        base_offset=1,
        leader_epoch=2,
        producer_id=3,
        producer_epoch=4,
        base_sequence=5,
        transactional=True,
    )
    size = len(data)
    crc = crc32c.crc32c(bytes(data[21:]))
    assert data[:HEADER_SIZE] == struct.pack(
        ">qiibIhiqqqhii", 1, size - 12, 2, 2, crc, 0x10, 1, 5, 5, 3, 4, 5, 2
    )


def test_a_transaction_marker_has_the_size_that_kafka_gives_it():
    """One record of six bytes each in key and value: 78 bytes in all."""
    data = build_batch(
        [Record(struct.pack(">hh", 0, 1), struct.pack(">hi", 0, 5), 0)],
        producer_id=1,
        producer_epoch=0,
        transactional=True,
        control=True,
    )
    batch = only(data)
    assert len(data) == 78
    assert batch.is_control
    assert batch.is_transactional


def test_attributes_of_a_batch():
    batch = only(build_batch(RECORDS, codec=Codec.ZSTD, base_offset=10))
    assert batch.codec == Codec.ZSTD
    assert not batch.is_control
    assert not batch.is_transactional
    assert not batch.is_log_append_time
    assert not batch.has_producer
    assert batch.last_sequence == -1
    assert "10..13" in repr(batch)


def test_the_last_sequence_wraps_to_zero():
    data = build_batch(
        [Record(None, b"", 0)] * 3, producer_id=1, producer_epoch=0, base_sequence=2**31 - 2
    )
    assert only(data).last_sequence == 0


def test_stamping_leaves_the_crc_right_and_everything_else_alone():
    data = build_batch(RECORDS)
    before = bytes(data)
    stamp(memoryview(data), 123456789012, 42)
    batch = only(data)
    assert verify_crc(batch)
    assert (batch.base_offset, batch.leader_epoch) == (123456789012, 42)
    assert data[8:12] == before[8:12]
    assert data[16:] == before[16:]


def test_stamping_through_the_view_of_a_batch():
    data = build_batch(RECORDS) + build_batch(RECORDS)
    first, second = parse_batches(data)
    stamp(second.view, 9, 1)
    assert [b.base_offset for b in parse_batches(data)] == [0, 9]
    assert first.base_offset == 0


def test_any_changed_byte_after_the_crc_is_noticed():
    data = build_batch(RECORDS[:2])
    for position in range(17, len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x40
        assert not verify_crc(Batch(memoryview(changed)))


# --- Several batches ----------------------------------------------------------------------------


def test_batches_follow_each_other_without_copies():
    one, two = build_batch(RECORDS), build_batch(RECORDS[:1], base_offset=4)
    buffer = one + two
    batches = parse_batches(memoryview(buffer))
    assert [b.size for b in batches] == [len(one), len(two)]
    assert [b.base_offset for b in batches] == [0, 4]
    assert all(b.view.obj is buffer for b in batches)


def test_an_empty_buffer_has_no_batches():
    assert parse_batches(b"") == []
    assert parse_batches(b"", partial_tail=True) == []


def test_a_tail_cut_off_anywhere_is_left_out_or_refused():
    """Left out where an answer to Fetch is read, refused where a producer sent it."""
    one, two = build_batch(RECORDS[:2]), build_batch(RECORDS[:1])
    for size in range(1, len(two)):
        buffer = one + two[:size]
        assert [b.size for b in parse_batches(buffer, partial_tail=True)] == [len(one)]
        refused(buffer)


@pytest.mark.parametrize("length", [-1, -(2**31), 0, 48, 2**31 - 1])
def test_impossible_lengths(length):
    data = build_batch(RECORDS[:1])
    struct.pack_into(">i", data, 8, length)
    refused(data)
    if length < 49:
        refused(data, partial_tail=True)


@pytest.mark.parametrize(("magic", "code"), [(0, 87), (1, 87), (3, 2), (-1, 2)])
def test_other_formats(magic, code):
    """Kafka's older formats are known and not supported; the rest is nonsense."""
    data = build_batch(RECORDS[:1])
    struct.pack_into(">b", data, 16, magic)
    refused(data, ErrorCode(code))


def test_a_message_of_format_1_shorter_than_a_header_of_format_2():
    refused(struct.pack(">qiIbb", 0, 14, 0, 1, 0) + bytes(8), ErrorCode.INVALID_RECORD)


def test_random_bytes_are_batches_or_refused():
    rng = random.Random(3)
    data = build_batch(RECORDS[:2]) + build_batch(RECORDS[:1])
    codes = set()
    for _ in range(500):
        mutated = bytearray(data)
        for _ in range(rng.choice((1, 3, 20))):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        for partial in (False, True):
            try:
                batches = parse_batches(mutated, partial_tail=partial)
                assert sum(b.size for b in batches) <= len(mutated)
                for batch in batches:
                    list(iter_records(batch, limit=100_000))
            except ApiError as error:
                codes.add(error.code)
    assert codes == {
        ErrorCode.CORRUPT_MESSAGE,
        ErrorCode.INVALID_RECORD,
        ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
    }


# --- Records ------------------------------------------------------------------------------------


def test_log_append_time_is_every_records_time():
    batch = only(build_batch(RECORDS, log_append_time=True))
    assert {r.timestamp for r in iter_records(batch)} == {batch.max_timestamp}


def test_timestamps_and_sizes_at_the_edges_of_their_varints():
    stamps = [0, 63, 64, -64, -65, 8191, 8192, 2**31, -(2**31), 2**62, -(2**62)]
    records = [Record(b"x" * (abs(t) % 200), None, t) for t in stamps]
    assert [r.timestamp for r in iter_records(only(build_batch(records)))] == stamps


def test_a_batch_without_records():
    batch = only(build_batch([]))
    assert (batch.record_count, batch.last_offset_delta) == (0, -1)
    assert list(iter_records(batch)) == []


@pytest.mark.parametrize("count", [-1, 0, 3, 5, 2**31 - 1])
def test_a_count_that_disagrees_with_the_records(count):
    data = build_batch(RECORDS)
    struct.pack_into(">i", data, 57, count)
    unreadable(only(data))


def raw(body, count=1):
    """A batch with these bytes for records."""
    data = build_batch([]) + body
    struct.pack_into(">i", data, 8, len(data) - 12)
    struct.pack_into(">i", data, 57, count)
    return only(data)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("0e 00 00 00 01 01 00 00", "a byte left over in the record"),
        ("0c 00 00 00 01 01 00 00", "a byte left over after it"),
        ("0c 00 00 00 01 01 02", "a header announced that is not there"),
        ("0c 00 00 00 01 01 01", "minus one headers"),
        ("0c 00 00 00 03 01 00", "a key of minus two bytes"),
        ("0c 00 00 00 40 01 00", "a key beyond the record"),
        ("40 00 00 00 01 01 00", "a record beyond the batch"),
        ("0b 00 00 00 01 01 00", "a record of negative length"),
        ("10 00 00 00 01 01 02 01 01", "a header with a null key"),
        ("ff ff ff ff ff ff ff ff ff ff 01", "a length of more than 64 bits"),
        ("ff ff ff ff ff ff ff", "a length that does not end"),
    ],
)
def test_records_that_cannot_be(body, why):
    unreadable(raw(bytes.fromhex(body)))


def test_the_least_record_is_read():
    (record,) = iter_records(raw(bytes.fromhex("0c 00 00 00 01 01 00")))
    assert record == Record(None, None, -1, [], 0)


def test_a_headers_name_may_be_any_bytes():
    """Java's reader replaces what is not UTF-8, and some clients send it."""
    (record,) = iter_records(raw(bytes.fromhex("12 00 00 00 01 01 02 02 ff 01")))
    assert record.headers == [("\ufffd", None)]


def test_restamping_writes_what_the_checksum_covers():
    data = build_batch(RECORDS, codec=Codec.GZIP)
    batch = only(data)
    changed = restamp(batch.view, batch.attributes | LOG_APPEND_TIME, 5)
    assert changed.is_log_append_time
    assert (changed.max_timestamp, changed.codec) == (5, Codec.GZIP)
    assert verify_crc(changed)
    assert only(data).crc == changed.crc, "in place"
    assert not verify_crc(batch), "the header as it was"


def test_a_codec_that_nobody_defined():
    data = build_batch(RECORDS)
    struct.pack_into(">h", data, 21, 6)
    with pytest.raises(ApiError) as caught:
        list(iter_records(only(data)))
    assert caught.value.code is ErrorCode.UNSUPPORTED_COMPRESSION_TYPE


def test_decompression_is_bounded():
    batch = only(build_batch([Record(None, bytes(1_000_000), 0)], codec=Codec.ZSTD))
    with pytest.raises(ApiError):
        list(iter_records(batch, limit=500_000))
    assert len(list(iter_records(batch, limit=1_000_100))) == 1
