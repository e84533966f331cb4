"""A follower's fetch of one partition, read and answered by hand.

Where records come one at a time, this is what each follower asks for each of them: in its session,
the partition that moved, from its new end on, and nothing else. Versions 15 to 17. All but the
records has its fixed place, so that the request is one `struct`, and the answer another:

     0  max wait, min bytes, max bytes   int32 each
    12  isolation level                  int8
    13  session id and epoch             int32 each
    21  topics, one; its id              0x02, UUID
    38  partitions, one                  0x02
    39  its index, leader epoch          int32 each
    47  fetch offset, last fetched epoch, log start offset, max bytes
                                         int64, int32, int64, int32
    71  tagged fields of both, forgotten topics, rack: none
                                         0x00 0x00 0x01 0x01
    75  one tagged field, 1, of 13 bytes: replica id, broker epoch, no tagged fields
                                         0x01 0x01 0x0d, int32, int64, 0x00

Whatever is not of that form is None here, and `codec` reads it. A test holds the two equal
(tests/unit/protocol/test_hot_fetch.py).

Source: FetchRequest.json and FetchResponse.json of Apache Kafka 3.9; KIP-903.
"""

import struct
from typing import NamedTuple

from zkafka.model import BrokerEpoch, BrokerId, LeaderEpoch, Offset

VERSIONS = (15, 16, 17)
"""They differ in nothing that is sent here."""

_REQUEST = struct.Struct(">iiibiix16sxiiqiqi7xiqx")
_ONE = 2
"""As the length of an array is written."""
_BETWEEN = b"\0\0\x01\x01\x01\x01\x0d"
_NO_TAGS = 0

# Size, correlation id, no tagged fields, no throttling, no error, session id, one topic, its id,
# one partition, its index, no error, high watermark, last stable offset, log start offset, nothing
# aborted, no preferred replica.
_ANSWER = struct.Struct(">iibihib16sbihqqqbi")
_END = b"\0\0\0"


class LoneFetch(NamedTuple):
    """What the request says, by the names that `FetchRequest`, `FetchPartition` and `ReplicaState`
    have for it; `topic_id` as its bytes."""

    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    session_id: int
    session_epoch: int
    topic_id: bytes
    partition: int
    current_leader_epoch: LeaderEpoch
    fetch_offset: Offset
    last_fetched_epoch: LeaderEpoch
    log_start_offset: Offset
    partition_max_bytes: int
    replica_id: BrokerId
    replica_epoch: BrokerEpoch


def lone_fetch(version: int, body: memoryview) -> LoneFetch | None:
    """The request, if it is of that form."""
    if (
        len(body) != _REQUEST.size
        or version not in VERSIONS
        or body[21] != _ONE
        or body[38] != _ONE
        or body[71:78] != _BETWEEN
        or body[90] != _NO_TAGS
    ):
        return None
    return LoneFetch._make(_REQUEST.unpack(body))


def answer(
    correlation_id: int,
    session_id: int,
    topic_id: bytes,
    partition: int,
    high_watermark: Offset,
    last_stable_offset: Offset,
    log_start_offset: Offset,
    size: int,
) -> tuple[bytes, bytes]:
    """What stands before and behind `size` bytes of records, and is with them the whole answer."""
    length = size + 1
    varint = bytearray()
    while length > 127:
        varint.append(length & 127 | 128)
        length >>= 7
    varint.append(length)
    head = _ANSWER.pack(
        _ANSWER.size - 4 + len(varint) + size + len(_END),
        correlation_id,
        0,
        0,
        0,
        session_id,
        _ONE,
        topic_id,
        _ONE,
        partition,
        0,
        high_watermark,
        last_stable_offset,
        log_start_offset,
        0,
        -1,
    )
    return head + varint, _END
