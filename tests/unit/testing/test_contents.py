"""Replicas read from their files, whoever has written them."""

from pathlib import Path

import pytest

from zkafka.errors import ApiError
from zkafka.model import TopicPartition
from zkafka.protocol.records import Record, build_batch
from zkafka.testing.contents import read_replica
from zkafka.testing.history import Read, Value

TP = TopicPartition("t", 0)


def batch(base_offset: int, *values: Value, leader_epoch: int = 3) -> bytes:
    records = [Record(None, value.encode(), 1_000) for value in values]
    return bytes(build_batch(records, base_offset=base_offset, leader_epoch=leader_epoch))


def write(tmp_path: Path, *segments: tuple[int, bytes]) -> None:
    (tmp_path / str(TP)).mkdir()
    for base_offset, data in segments:
        (tmp_path / str(TP) / f"{base_offset:020}.log").write_bytes(data)


def test_segments_follow_each_other(tmp_path: Path) -> None:
    a, b, c = Value("p", 1), Value("p", 2), Value("q", 1)
    write(tmp_path, (5, batch(5, a, b)), (7, batch(7, c, leader_epoch=4)))
    contents = read_replica(tmp_path, TP, broker=1, at_ms=9)
    assert contents is not None
    assert (contents.log_start_offset, contents.log_end_offset) == (5, 8)
    assert contents.records == (Read(5, a, 3), Read(6, b, 3), Read(7, c, 4))


def test_no_replica_is_none_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    assert read_replica(tmp_path, TP, broker=1, at_ms=9) is None
    write(tmp_path, (0, b""))
    contents = read_replica(tmp_path, TP, broker=1, at_ms=9)
    assert contents is not None
    assert (contents.log_end_offset, contents.records) == (0, ())


def test_what_is_being_written_is_left_out(tmp_path: Path) -> None:
    whole, torn = batch(0, Value("p", 1)), batch(1, Value("p", 2))[:-3]
    write(tmp_path, (0, whole + torn))
    contents = read_replica(tmp_path, TP, broker=1, at_ms=9)
    assert contents is not None
    assert contents.log_end_offset == 1


def test_a_flipped_bit_is_an_error(tmp_path: Path) -> None:
    data = bytearray(batch(0, Value("p", 1)))
    data[-1] ^= 1
    write(tmp_path, (0, bytes(data)))
    with pytest.raises((AssertionError, ApiError)):
        read_replica(tmp_path, TP, broker=1, at_ms=9)


def test_batches_that_overlap_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, (0, batch(0, Value("p", 1), Value("p", 2)) + batch(1, Value("p", 3))))
    with pytest.raises(AssertionError, match="overlaps"):
        read_replica(tmp_path, TP, broker=1, at_ms=9)
