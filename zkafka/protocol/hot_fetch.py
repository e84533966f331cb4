"""A follower's fetch of one partition, written, read and answered by hand.

Where records come one at a time, this is what each follower asks for each of them: in its session,
the partition that moved, from its new end on, and nothing else. Versions 15 to 17. All but the
records has its fixed place, so that the request is one `struct`, and the answer another, up to the
records:

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

     0  correlation id, no tagged fields int32, 0x00
     5  throttle time, error, session id int32, int16, int32
    15  topics, one; its id              0x02, UUID
    32  partitions, one                  0x02
    33  its index, no error              int32, int16
    39  high watermark, last stable offset, log start offset
                                         int64 each
    63  no aborted transactions, preferred replica
                                         0x00, int32
    68  records                          length + 1 as a varint, the batches
        tagged fields, none              0x00 0x00 0x00 (of the partition, the topic, the answer)

Whatever is not of that form is None here, and `codec` does it. A test holds the two equal
(tests/unit/protocol/test_hot_fetch.py).

Source: FetchRequest.json and FetchResponse.json of Apache Kafka 3.9; KIP-903.
"""

import struct
from typing import NamedTuple

from zkafka.model import BrokerEpoch, BrokerId, LeaderEpoch, Offset
from zkafka.protocol.codec import uuid_of
from zkafka.protocol.messages.fetch import (
    FetchableTopicResponse,
    FetchRequest,
    FetchResponse,
    PartitionData,
)

VERSIONS = (15, 16, 17)
"""They differ in nothing that is sent here."""

_REQUEST = struct.Struct(">iiibiix16sxiiqiqi7xiqx")
_SAID = struct.Struct(">iiibiib16sbiiqiqi7siqb")
"""The same, with the bytes that are always the same."""
_HEADER = struct.Struct(">ihhih")
_FETCH = 1
_ONE = 2
"""As the length of an array is written."""
_BETWEEN = b"\0\0\x01\x01\x01\x01\x0d"
_NO_TAGS = 0

# Size, correlation id, no tagged fields, no throttling, no error, session id, one topic, its id,
# one partition, its index, no error, high watermark, last stable offset, log start offset, nothing
# aborted, no preferred replica.
_ANSWER = struct.Struct(">iibihib16sbihqqqbi")
_END = b"\0\0\0"
_ANSWERED = struct.Struct(">ixihib16sbihqqqbi")
"""The same, without the size."""


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


def request(
    message: FetchRequest, version: int, correlation_id: int, client_id: bytes
) -> bytes | None:
    """The whole request, its size first, if it is of that form."""
    topics, state = message.topics, message.replica_state
    if (
        version not in VERSIONS
        or len(topics) != 1
        or len(topics[0].partitions) != 1
        or message.forgotten_topics_data
        or message.rack_id
        or message.cluster_id is not None
        or state.replica_id < 0
    ):
        return None
    [topic] = topics
    [asked] = topic.partitions
    if asked.replica_directory_id.int:
        return None
    size = _HEADER.size - 4 + len(client_id) + 1 + _SAID.size
    try:
        header = _HEADER.pack(size, _FETCH, version, correlation_id, len(client_id))
        said = _SAID.pack(
            message.max_wait_ms,
            message.min_bytes,
            message.max_bytes,
            message.isolation_level,
            message.session_id,
            message.session_epoch,
            _ONE,
            topic.topic_id.bytes,
            _ONE,
            asked.partition,
            asked.current_leader_epoch,
            asked.fetch_offset,
            asked.last_fetched_epoch,
            asked.log_start_offset,
            asked.partition_max_bytes,
            _BETWEEN,
            state.replica_id,
            state.replica_epoch,
            _NO_TAGS,
        )
    except struct.error:
        return None  # The codec says what it is.
    return b"%b%b\0%b" % (header, client_id, said)


def answered(version: int, frame: memoryview) -> tuple[int, FetchResponse] | None:
    """The correlation id and the response in a frame without its size, if it is of that form; the
    records are a view of it."""
    size = len(frame)
    at = _ANSWERED.size
    if size < at + 4 or version not in VERSIONS or frame[4] != _NO_TAGS:
        return None
    (
        correlation_id, throttle_time_ms, error, session_id, topics, topic_id, partitions, index,
        partition_error, high_watermark, last_stable_offset, log_start_offset, aborted, preferred,
    ) = _ANSWERED.unpack_from(frame)  # fmt: skip
    if topics != _ONE or partitions != _ONE or error or partition_error or aborted:
        return None
    length = frame[at]
    at += 1
    if length > 127:
        byte = frame[at]
        at += 1
        length += (byte - 1) << 7
        if byte > 127:
            return None  # Sixteen kilobytes: the codec's work does not count any more.
    end = at + length - 1
    if not length or end + 3 != size or frame[end:] != _END:
        return None
    return correlation_id, FetchResponse(
        throttle_time_ms=throttle_time_ms,
        session_id=session_id,
        responses=[
            FetchableTopicResponse(
                topic_id=uuid_of(topic_id),
                partitions=[
                    PartitionData(
                        partition_index=index,
                        high_watermark=high_watermark,
                        last_stable_offset=last_stable_offset,
                        log_start_offset=log_start_offset,
                        aborted_transactions=None,
                        preferred_read_replica=preferred,
                        records=frame[at:end],
                    )
                ],
            )
        ],
    )


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
