"""What is read and written by hand, against the codec."""

import random

import pytest

from zkafka.errors import RemoteProtocolError
from zkafka.model import TopicPartition
from zkafka.protocol import codec
from zkafka.protocol.hot import VERSIONS, lone_batch
from zkafka.protocol.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)


def request(*partitions, topic="orders", acks=-1, timeout_ms=30_000, transactional_id=None):
    """`partitions` are pairs of index and records."""
    return ProduceRequest(
        transactional_id=transactional_id,
        acks=acks,
        timeout_ms=timeout_ms,
        topic_data=[
            TopicProduceData(
                name=topic,
                partition_data=[
                    PartitionProduceData(index=index, records=records)
                    for index, records in partitions
                ],
            )
        ],
    )


def body(message, version=9):
    return memoryview(bytearray(codec.encode(message, version)))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 1, 61, 125, 126, 127, 128, 200, 16_382, 16_383, 70_000])
@pytest.mark.parametrize("acks", [1, -1])
def test_a_lone_batch_is_read_as_the_codec_reads_it(version, size, acks):
    records = random.Random(size).randbytes(size)
    found = lone_batch(version, body(request((3, records), topic="ä" * 20, acks=acks), version))
    assert found is not None
    target, view = found
    assert target[:3] == (TopicPartition("ä" * 20, 3), acks, 30_000)
    assert bytes(view) == records


def test_the_batch_is_a_writable_view_of_the_request():
    found = body(request((0, b"records")))
    _, view = lone_batch(9, found)
    view[:3] = b"REC"
    assert b"RECords" in bytes(found)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_answer_is_the_codecs(version):
    target, _ = lone_batch(version, body(request((7, b"x"), topic="t" * 126), version))
    response = ProduceResponse(
        responses=[
            TopicProduceResponse(
                name="t" * 126,
                partition_responses=[
                    PartitionProduceResponse(
                        index=7, base_offset=2**40, log_append_time_ms=-1, log_start_offset=12
                    )
                ],
            )
        ]
    )
    assert [target.answer(99, 2**40, -1, 12)] == codec.encode_response(response, version, 99)


@pytest.mark.parametrize(
    "other",
    [
        request((0, b"x"), acks=0),
        request((0, b"x"), acks=2),
        request((0, b"x"), (1, b"y")),
        request(),
        ProduceRequest(acks=1),
        request((0, None)),
        request((0, b"x"), transactional_id="tx"),
        request((0, b"x"), transactional_id=""),
        request((0, b"x"), topic="t" * 127),
        request((0, b"x"), topic="__consumer_offsets"),
        request((0, b"x" * (2 << 20))),
    ],
)
def test_what_is_not_a_lone_batch_is_left_to_the_codec(other):
    assert lone_batch(9, body(other)) is None


@pytest.mark.parametrize("version", [3, 8])
def test_classic_versions_are_left_to_the_codec(version):
    assert lone_batch(version, body(request((0, b"x")), version)) is None


def test_tagged_fields_are_left_to_the_codec():
    plain = bytes(body(request((0, b"x"))))
    assert lone_batch(9, memoryview(plain[:-1] + b"\x01\x63\x01!")) is None


def test_whatever_the_bytes_the_codec_reads_the_same():
    """Cut, changed, and with bytes put in: what is taken here is a request, and this one."""
    rng = random.Random(11)
    plain = bytes(body(request((1, b"some records"), topic="abc")))
    taken = 0
    for _ in range(20_000):
        data = bytearray(plain)
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.choice((0, 1, 2, 3, 0x7F, 0x80, 0x81, 0x82, 0xFF))
                case 1:
                    data[at] = rng.randrange(256)
                case 2:
                    data[at:at] = rng.choice((b"\0", b"\x80", b"\x02", b"\x81\0"))
                case 3:
                    del data[at : at + rng.randrange(1, 4)]
        found = lone_batch(9, memoryview(data))
        if found is None:
            continue
        taken += 1
        target, view = found
        [topic] = (read := codec.decode(ProduceRequest, 9, data)).topic_data
        [partition] = topic.partition_data
        assert target[:3] == (
            TopicPartition(topic.name, partition.index),
            read.acks,
            read.timeout_ms,
        )
        assert (read.transactional_id, view) == (None, partition.records)
    assert taken > 1000


def test_a_body_cut_short_is_left_to_the_codec():
    plain = body(request((0, b"records")))
    for size in range(len(plain)):
        assert lone_batch(9, plain[:size]) is None
        with pytest.raises(RemoteProtocolError):
            codec.decode(ProduceRequest, 9, plain[:size])
