"""The request that comes most often, read and answered by hand: a Produce of one batch.

It is what librdkafka sends always, and Java's producer when it does not linger: versions 9 to 11,
one topic, one partition. What comes before the records is the same in all of a producer's requests
to that partition, so it is looked up, as bytes, instead of being read; and the answer is four
numbers in a frame that was laid out once. Whatever is not of that form (several partitions, acks=0,
a transaction, an internal topic, a long name, tagged fields) is None here, and `codec` reads it.

     0  transactional id, null           0x00
     1  acks, timeout                    int16, int32
     7  topics, one                      0x02
     8  its name                         length + 1 in one byte, UTF-8
        partitions, one                  0x02
        its index                        int32
        ... so far what is looked up
        records                          length + 1 as a varint, the batch
        tagged fields, none              0x00 0x00 0x00 (of the partition, the topic, the request)

Small requests cost what the interpreter has to do: 105 instructions to read one here and 12 to
answer it, where the codec, whose objects are made to be walked through, needs 350 and 290. A test
holds the two equal (tests/unit/protocol/test_hot.py).

Source: ProduceRequest.json and ProduceResponse.json of Apache Kafka 3.9; KIP-482.
"""

import functools
import struct
from collections.abc import Callable
from typing import NamedTuple

from zkafka.errors import RemoteProtocolError
from zkafka.model import INTERNAL_TOPICS, TopicPartition
from zkafka.protocol import codec
from zkafka.protocol.messages.produce import ProduceRequest

VERSIONS = (9, 10, 11)
"""They differ in nothing that is sent here."""

_KNOWN = 4096
"""Beginnings of requests remembered, of all producers together: a kilobyte each at most."""

_NAME = 8
_TO_RECORDS = 5
"""From the end of the name: the number of partitions, and the index."""
_NO_TAGS = b"\0\0\0"
_EMPTY_RECORDS = b"\x01"


class Target(NamedTuple):
    """What a producer repeats with every batch for a partition; `acks` is 1 or -1."""

    topic_partition: TopicPartition
    acks: int
    timeout_ms: int
    answer: Callable[[int, int, int, int], bytes]
    """The whole response for a batch that was appended: (correlation id, base offset, log append
    time, log start offset)."""


def lone_batch(version: int, body: memoryview) -> tuple[Target, memoryview] | None:
    """Where the only batch of a Produce request is to go, and its bytes as a view; None if the
    request is of another form, or none at all."""
    size = len(body)
    if size <= _NAME or version not in VERSIONS:
        return None
    at = _NAME + body[_NAME] + _TO_RECORDS
    target = _target(bytes(body[:at]))
    if target is None or size < at + 4:
        return None
    length = body[at]
    at += 1
    if length > 127:
        byte = body[at]
        at += 1
        length += (byte - 1) << 7
        if byte > 127:
            byte = body[at]
            at += 1
            length += (byte - 1) << 14
            if byte > 127:
                return None  # Two megabytes: the codec's work does not count any more.
    end = at + length - 1
    if length == 0 or end + 3 != size or body[end:] != _NO_TAGS:
        return None
    return target, body[at:end]


@functools.lru_cache(maxsize=_KNOWN)
def _target(beginning: bytes) -> Target | None:
    """`beginning` is a request's body up to its records, if its form is the one."""
    # Then it is a request if something follows, and its records are what follows: none.
    whole = beginning + _EMPTY_RECORDS + _NO_TAGS
    try:
        request = codec.decode(ProduceRequest, VERSIONS[0], whole)
    except RemoteProtocolError:
        return None
    if request.transactional_id is not None or request.acks not in (1, -1):
        return None
    if [len(topic.partition_data) for topic in request.topic_data] != [1]:
        return None
    [topic] = request.topic_data
    [partition] = topic.partition_data
    if partition.records is None or len(partition.records) or topic.name in INTERNAL_TOPICS:
        return None
    return Target(
        TopicPartition(topic.name, partition.index),
        request.acks,
        request.timeout_ms,
        _answer(topic.name.encode(), partition.index),
    )


def _answer(name: bytes, index: int) -> Callable[[int, int, int, int], bytes]:
    # Tagged fields of the header, one topic, its name, one partition, its index, no error.
    where = struct.pack(f">bbb{len(name)}sbih", 0, 2, len(name) + 1, name, 2, index, 0)
    # No record errors, no message, tagged fields, throttle time, tagged fields.
    rest = struct.pack(">bbbbib", 1, 0, 0, 0, 0, 0)
    frame = struct.Struct(f">ii{len(where)}sqqq{len(rest)}s")
    pack, size = frame.pack, frame.size - 4

    def answer(
        correlation_id: int, base_offset: int, log_append_time_ms: int, log_start_offset: int
    ) -> bytes:
        return pack(
            size, correlation_id, where, base_offset, log_append_time_ms, log_start_offset, rest
        )

    return answer
