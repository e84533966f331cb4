"""Batches with some of their records taken out, as compaction rewrites them."""

import struct

import pytest

from zkafka.errors import ApiError, ErrorCode
from zkafka.protocol.compression import Codec, decompress
from zkafka.protocol.records import (
    HEADER_SIZE,
    Batch,
    Record,
    build_batch,
    iter_records,
    verify_crc,
)
from zkafka.protocol.spans import delete_horizon_ms, iter_spans, rebuild_batch

RECORDS = [
    Record(b"a", b"one", 1000),
    Record(b"b", None, 1700, [("h", b"x"), ("null", None)]),
    Record(None, b"three", 900),
    Record(b"long" * 100, b"four" * 100, 1 << 40),
]


def made(**fields):
    fields = {
        "base_offset": 70,
        "leader_epoch": 3,
        "producer_id": 9,
        "producer_epoch": 2,
        "base_sequence": 5,
    } | fields
    return Batch(memoryview(build_batch(RECORDS, **fields)))


def opened(batch):
    data = bytes(decompress(batch.codec, batch.view[HEADER_SIZE:]))
    return data, list(iter_spans(batch, data))


def rebuilt(batch, *numbers, horizon=None):
    data, spans = opened(batch)
    kept = [spans[number] for number in numbers]
    return rebuild_batch(batch, data, kept, delete_horizon_ms=horizon)


@pytest.mark.parametrize("codec", Codec)
def test_spans_tell_of_the_records_what_iterating_them_does(codec):
    batch = made(codec=codec)
    _, spans = opened(batch)
    assert [(s.key, s.has_value, s.timestamp, s.offset) for s in spans] == [
        (r.key, r.value is not None, r.timestamp, r.offset) for r in iter_records(batch)
    ]


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (0, 3), (1, 2), (3,)])
@pytest.mark.parametrize("horizon", [None, 5_000])
def test_what_is_kept_is_as_it_was(codec, kept, horizon):
    batch = made(codec=codec)
    result = rebuilt(batch, *kept, horizon=horizon)
    before = list(iter_records(batch))
    assert verify_crc(result)
    assert list(iter_records(result)) == [before[number] for number in kept]
    assert result.record_count == len(kept)
    for name in (
        "base_offset", "last_offset", "leader_epoch", "producer_id", "producer_epoch",
        "base_sequence", "last_sequence", "codec",
    ):  # fmt: skip
        assert getattr(result, name) == getattr(batch, name)
    assert result.max_timestamp == max(RECORDS[number].timestamp for number in kept)
    assert delete_horizon_ms(result) == horizon
    assert result.base_timestamp == (RECORDS[kept[0]].timestamp if horizon is None else horizon)


def test_nothing_kept_leaves_a_header_that_remembers_the_sequence():
    batch = made(codec=Codec.GZIP, transactional=True)
    result = rebuilt(batch, horizon=5_000)
    assert verify_crc(result)
    assert (result.size, result.record_count, list(iter_records(result))) == (HEADER_SIZE, 0, [])
    assert (result.last_offset, result.last_sequence) == (73, 8)
    assert (result.codec, result.base_timestamp, result.max_timestamp) == (0, -1, 1 << 40)
    assert result.is_transactional
    assert delete_horizon_ms(result) is None


def test_the_time_of_the_append_stays_the_time_of_all_records():
    batch = made(log_append_time=True)
    result = rebuilt(batch, 0, 1, horizon=77)
    assert result.is_log_append_time
    assert {record.timestamp for record in iter_records(result)} == {1 << 40}
    assert result.max_timestamp == 1 << 40


def test_a_batch_with_a_horizon_is_read_and_rebuilt_again():
    once = rebuilt(made(), 0, 1, 3, horizon=1 << 41)
    twice = rebuilt(once, 0, 2, horizon=1 << 41)
    assert [r.timestamp for r in iter_records(twice)] == [1000, 1 << 40]
    assert delete_horizon_ms(twice) == 1 << 41


@pytest.mark.parametrize(
    ("at", "byte"),
    [(0, 0xFF), (3, 0x7F), (4, 0x7F), (6, 0x7F), (3, 0x01), (-1, None)],
    ids=["length", "offset delta", "key size", "value size", "offset falls", "cut"],
)
def test_records_that_lie_are_refused(at, byte):
    batch = Batch(memoryview(build_batch([Record(b"k", b"v", 1)] * 2)))
    data = bytearray(batch.view[HEADER_SIZE:])
    if byte is None:
        del data[-1]
    else:
        data[at] = byte
    with pytest.raises(ApiError) as caught:
        list(iter_spans(batch, bytes(data)))
    assert caught.value.code is ErrorCode.CORRUPT_MESSAGE


def test_a_count_that_cannot_be_is_refused():
    raw = build_batch([Record(b"k", b"v", 1)])
    struct.pack_into(">i", raw, 57, 2**31 - 1)
    with pytest.raises(ApiError):
        list(iter_spans(Batch(memoryview(raw)), bytes(raw[HEADER_SIZE:])))
