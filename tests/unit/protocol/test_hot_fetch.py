"""A fetch of one partition, read and written by hand, against the codec."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkafka.errors import RemoteProtocolError
from zkafka.protocol import codec
from zkafka.protocol.hot_fetch import VERSIONS, answer, answered, lone_fetch
from zkafka.protocol.hot_fetch import request as written
from zkafka.protocol.messages.fetch import (
    AbortedTransaction,
    EpochEndOffset,
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    ForgottenTopic,
    LeaderIdAndEpoch,
    PartitionData,
    ReplicaState,
)

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TOPIC = uuid.UUID(int=0x0102030405060708090A0B0C0D0E0F10)


def request(**changes):
    said = {
        "replica_state": ReplicaState(replica_id=2, replica_epoch=7),
        "max_wait_ms": 500,
        "min_bytes": 1,
        "session_id": 77,
        "session_epoch": 5,
        "topics": [topic(FetchPartition(partition=3, fetch_offset=1000, partition_max_bytes=99))],
    }
    return FetchRequest(**said | changes)


def topic(*partitions, topic_id=TOPIC):
    return FetchTopic(topic_id=topic_id, partitions=list(partitions))


def body(message, version=17):
    return memoryview(bytearray(codec.encode(message, version)))


def told(message):
    """What a request of one partition says, in the order of `LoneFetch`."""
    [asked] = message.topics
    [partition] = asked.partitions
    return (
        message.max_wait_ms,
        message.min_bytes,
        message.max_bytes,
        message.isolation_level,
        message.session_id,
        message.session_epoch,
        asked.topic_id.bytes,
        partition.partition,
        partition.current_leader_epoch,
        partition.fetch_offset,
        partition.last_fetched_epoch,
        partition.log_start_offset,
        partition.partition_max_bytes,
        message.replica_state.replica_id,
        message.replica_state.replica_epoch,
    )


@given(
    version=st.sampled_from(VERSIONS),
    numbers=st.tuples(INT32, INT32, INT32, st.integers(-128, 127), INT32, INT32),
    place=st.tuples(INT32, INT32, INT64, INT32, INT64, INT32),
    topic_id=st.uuids(),
    # Its defaults are not sent, and then there is no tagged field.
    replica=st.tuples(st.integers(0, 2**31 - 1), INT64),
)
def test_it_is_read_as_the_codec_reads_it(version, numbers, place, topic_id, replica):
    max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch = numbers
    partition, leader_epoch, offset, fetched_epoch, start, most = place
    message = FetchRequest(
        max_wait_ms=max_wait_ms,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        isolation_level=isolation_level,
        session_id=session_id,
        session_epoch=session_epoch,
        topics=[
            topic(
                FetchPartition(
                    partition=partition,
                    current_leader_epoch=leader_epoch,
                    fetch_offset=offset,
                    last_fetched_epoch=fetched_epoch,
                    log_start_offset=start,
                    partition_max_bytes=most,
                ),
                topic_id=topic_id,
            )
        ],
        replica_state=ReplicaState(replica_id=replica[0], replica_epoch=replica[1]),
    )
    assert lone_fetch(version, body(message, version)) == told(message)
    whole = b"".join(codec.encode_request(message, version, session_id, "broker-7"))
    assert written(message, version, session_id, b"broker-7") == whole


PARTITION = FetchPartition(partition=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"topics": []},
        {"topics": [topic(PARTITION, FetchPartition(partition=4))]},
        {"topics": [topic(PARTITION), topic(PARTITION, topic_id=uuid.uuid4())]},
        {"topics": [topic()]},
        {"forgotten_topics_data": [ForgottenTopic(topic_id=TOPIC, partitions=[1])]},
        {"rack_id": "r"},
        {"cluster_id": "c"},
        {"replica_state": ReplicaState()},
    ],
)
def test_any_other_is_left_to_the_codec(changes):
    assert lone_fetch(17, body(request())) is not None
    assert lone_fetch(17, body(request(**changes))) is None
    assert written(request(), 17, 1, b"me") is not None
    assert written(request(**changes), 17, 1, b"me") is None


@pytest.mark.parametrize("version", [4, 12, 13, 14, 18])
def test_other_versions_are_left_to_the_codec(version):
    assert lone_fetch(version, body(request())) is None
    assert written(request(), version, 1, b"me") is None


def test_what_does_not_fit_is_left_to_the_codec():
    named = FetchPartition(replica_directory_id=uuid.uuid4())
    assert written(request(topics=[topic(named)]), 17, 1, b"me") is None
    assert written(request(max_wait_ms=2**31), 17, 1, b"me") is None
    assert written(request(), 17, 1, b"m" * 40_000) is None


@given(st.data())
def test_what_is_broken_is_refused_or_read_as_the_codec_reads_it(data):
    broken = bytearray(body(request()))
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    broken = broken[: data.draw(st.integers(len(broken) - 3, len(broken)))]
    found = lone_fetch(17, memoryview(broken))
    try:
        message = codec.decode(FetchRequest, 17, bytes(broken))
    except RemoteProtocolError:
        assert found is None
    else:
        assert found is None or found == told(message)


@given(
    version=st.sampled_from(VERSIONS),
    ids=st.tuples(INT32, INT32, INT32, st.uuids()),
    offsets=st.tuples(INT64, INT64, INT64),
    size=st.one_of(st.integers(0, 300), st.sampled_from([16_382, 16_383, 70_000, 3_000_000])),
)
def test_the_answer_is_what_the_codec_writes(version, ids, offsets, size):
    correlation_id, session_id, partition, topic_id = ids
    high_watermark, last_stable_offset, log_start_offset = offsets
    head, end = answer(
        correlation_id, session_id, topic_id.bytes, partition, high_watermark, last_stable_offset,
        log_start_offset, size,
    )  # fmt: skip
    response = FetchResponse(
        session_id=session_id,
        responses=[
            FetchableTopicResponse(
                topic_id=topic_id,
                partitions=[
                    PartitionData(
                        partition_index=partition,
                        high_watermark=high_watermark,
                        last_stable_offset=last_stable_offset,
                        log_start_offset=log_start_offset,
                        aborted_transactions=None,
                        records=bytes(size),
                    )
                ],
            )
        ],
    )
    whole = b"".join(codec.encode_response(response, version, correlation_id))
    assert head + bytes(size) + end == whole
    assert whole_response(version, memoryview(whole)[4:], by_hand=size < 16_383) == (
        correlation_id,
        response,
    )


def whole_response(version, frame, *, by_hand=True):
    """The response in a frame, read by hand, or by the codec; their records are alike."""
    found = answered(version, frame)
    assert (found is not None) == by_hand
    return found or codec.decode_response(FetchResponse, version, frame)


@pytest.mark.parametrize(
    "response",
    [
        FetchResponse(session_id=5),
        FetchResponse(error_code=71),
        FetchResponse(responses=[FetchableTopicResponse(topic_id=TOPIC)] * 2),
        FetchResponse(
            responses=[FetchableTopicResponse(topic_id=TOPIC, partitions=[PartitionData()] * 2)]
        ),
        *(
            FetchResponse(
                responses=[
                    FetchableTopicResponse(topic_id=TOPIC, partitions=[PartitionData(**said)])
                ]
            )
            for said in (
                {"error_code": 6, "records": b""},
                {"records": None},
                {"aborted_transactions": [AbortedTransaction()], "records": b""},
                {"diverging_epoch": EpochEndOffset(epoch=1, end_offset=2), "records": b"r"},
                {"current_leader": LeaderIdAndEpoch(leader_id=1, leader_epoch=2), "records": b"r"},
            )
        ),
    ],
)
def test_any_other_answer_is_left_to_the_codec(response):
    frame = memoryview(b"".join(codec.encode_response(response, 17, 3)))[4:]
    assert answered(17, frame) is None


@given(st.data())
def test_a_broken_answer_is_refused_or_read_as_the_codec_reads_it(data):
    partition = PartitionData(aborted_transactions=None, records=b"records" * 30)
    whole = FetchResponse(
        responses=[FetchableTopicResponse(topic_id=TOPIC, partitions=[partition])]
    )
    broken = bytearray(b"".join(codec.encode_response(whole, 17, 3))[4:])
    for _ in range(data.draw(st.integers(0, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    broken = broken[: data.draw(st.integers(0, len(broken)))]
    found = answered(17, memoryview(broken))
    try:
        expected = codec.decode_response(FetchResponse, 17, bytes(broken))
    except RemoteProtocolError:
        assert found is None
    else:
        assert found is None or found == expected
