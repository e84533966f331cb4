import logging
import struct

import pytest
import server_fakes as fakes
import trio
from answers import finished

from zkafka.errors import (
    ApiError,
    ErrorCode,
    RemoteProtocolError,
    SessionSuspended,
    StorageError,
)
from zkafka.model import TopicPartition
from zkafka.protocol import codec
from zkafka.protocol.apis import APIS, ApiKey
from zkafka.protocol.connection import CloseConnection, ConnectionInfo, Request
from zkafka.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from zkafka.protocol.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
)
from zkafka.protocol.messages.list_offsets import ListOffsetsRequest, ListOffsetsResponse
from zkafka.protocol.messages.metadata import MetadataRequest, MetadataResponse
from zkafka.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from zkafka.server.dispatch import Dispatcher

FROM = ConnectionInfo(7, "10.0.0.1", 4711, "PLAINTEXT")
TP = TopicPartition("t", 0)


@pytest.fixture
def parts():
    return fakes.parts()


@pytest.fixture
def dispatcher(parts):
    return Dispatcher(parts)


def arrived(message, version, correlation_id=5):
    """The request as `protocol.connection` hands it out."""
    frame = bytearray(b"".join(codec.encode_request(message, version, correlation_id, "me"))[4:])
    view = memoryview(frame)
    header, offset = codec.decode_request_header(view)
    return Request(header, view[offset:], len(frame))


def raw(api_key, version, body=b""):
    header = codec.RequestHeader(api_key, version, 5, "me")
    return Request(header, memoryview(bytearray(body)), len(body) + 10)


def read(cls, version, answer):
    frame = b"".join(answer)
    assert struct.unpack_from(">i", frame)[0] == len(frame) - 4
    correlation_id, message = codec.decode_response(cls, version, frame[4:])
    assert correlation_id == 5
    return message


def produce_request(acks=-1, *partitions, timeout_ms=1000):
    return ProduceRequest(
        acks=acks,
        timeout_ms=timeout_ms,
        topic_data=[
            TopicProduceData(
                name="t",
                partition_data=[
                    PartitionProduceData(index=p, records=b"x" * 100) for p in partitions or (0,)
                ],
            )
        ],
    )


async def test_a_request_is_answered_under_its_correlation_id(dispatcher):
    answer = await dispatcher.handle(arrived(MetadataRequest(topics=None), 12), FROM)
    response = read(MetadataResponse, 12, answer)
    assert response.cluster_id == "cluster"


@pytest.mark.parametrize(("key", "version"), [(999, 0), (52, 0), (3, 13), (3, -1), (0, 2), (1, 3)])
async def test_what_is_not_served_closes_the_connection(dispatcher, key, version):
    async def ask():
        if key == ApiKey.PRODUCE:
            return dispatcher.begin(raw(key, version), FROM)
        return await dispatcher.handle(raw(key, version), FROM)

    with pytest.raises(RemoteProtocolError, match="not served"):
        await ask()


async def test_a_request_with_bytes_behind_it_is_answered(dispatcher):
    """librdkafka's way of asking for all topics has three; see `codec.decode_request`."""
    request = raw(ApiKey.METADATA, 12, bytes.fromhex("00000000 01 00 00"))
    answer = await dispatcher.handle(request, FROM)
    assert read(MetadataResponse, 12, answer).cluster_id == "cluster"


async def test_a_body_that_cannot_be_read_closes_the_connection(dispatcher):
    with pytest.raises(RemoteProtocolError):
        await dispatcher.handle(raw(ApiKey.METADATA, 9, b"\xff\xff\xff\xff\x0f"), FROM)


@pytest.mark.parametrize("version", [5, 77, -1])
async def test_api_versions_answers_a_version_it_does_not_know_in_version_0(dispatcher, version):
    answer = await dispatcher.handle(raw(ApiKey.API_VERSIONS, version, b"?"), FROM)
    response = read(ApiVersionsResponse, 0, answer)
    assert response.error_code == ErrorCode.UNSUPPORTED_VERSION
    assert [(a.api_key, a.min_version, a.max_version) for a in response.api_keys] == [(18, 0, 4)]


@pytest.mark.parametrize("version", range(5))
async def test_api_versions_lists_what_the_table_serves(dispatcher, version):
    request = ApiVersionsRequest(client_software_name="a", client_software_version="1.0")
    answer = await dispatcher.handle(arrived(request, version), FROM)
    response = read(ApiVersionsResponse, version, answer)
    listed = {a.api_key: (a.min_version, a.max_version) for a in response.api_keys}
    assert listed == {k: (a.advertised_min, a.max_version) for k, a in APIS.items()}
    assert listed[ApiKey.PRODUCE] == (0, 11)


# --- What handlers let out ----------------------------------------------------------------------


@pytest.fixture
def failing(dispatcher):
    """The Metadata handler replaced by one that raises."""

    def fail_with(error):
        async def handle(request, context):
            raise error

        dispatcher._handlers[ApiKey.METADATA] = handle
        request = MetadataRequest(topics=[])
        request.topics = [type(request).__wire__.fields[0].type.element.struct(name="t")]
        return dispatcher.handle(arrived(request, 12), FROM)

    return fail_with


@pytest.mark.parametrize(
    ("error", "code", "level"),
    [
        (ApiError(ErrorCode.NOT_CONTROLLER, "no"), ErrorCode.NOT_CONTROLLER, None),
        (StorageError("gone", "/data"), ErrorCode.KAFKA_STORAGE_ERROR, logging.ERROR),
        (SessionSuspended("lost"), ErrorCode.REQUEST_TIMED_OUT, logging.WARNING),
        (KeyError("bug"), ErrorCode.UNKNOWN_SERVER_ERROR, logging.ERROR),
        (ExceptionGroup("x", [ValueError()]), ErrorCode.UNKNOWN_SERVER_ERROR, logging.ERROR),
    ],
)
async def test_what_a_handler_raises_becomes_a_code(failing, caplog, error, code, level):
    response = read(MetadataResponse, 12, await failing(error))
    assert [(t.name, t.error_code) for t in response.topics] == [("t", code)]
    assert [r.levelno for r in caplog.records] == ([] if level is None else [level])


async def test_the_unforeseen_leaves_a_traceback(failing, caplog):
    await failing(KeyError("bug"))
    assert "KeyError: 'bug'" in caplog.text
    assert "api=metadata version=12" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("law"),
        ExceptionGroup("x", [ExceptionGroup("y", [AssertionError("law"), ValueError()])]),
    ],
)
async def test_a_broken_law_is_not_contained(failing, error):
    with pytest.raises((AssertionError, ExceptionGroup)) as caught:
        await failing(error)
    assert caught.value is error


async def test_a_cancellation_is_not_contained(dispatcher):
    async def handle(request, context):
        await trio.sleep_forever()

    dispatcher._handlers[ApiKey.METADATA] = handle
    with trio.move_on_after(0) as scope:
        await dispatcher.handle(arrived(MetadataRequest(topics=None), 12), FROM)
    assert scope.cancelled_caught


async def test_a_response_that_cannot_be_written_is_refused_instead(dispatcher, caplog):
    async def handle(request, context):
        return MetadataResponse(cluster_id="x" * 40_000)

    dispatcher._handlers[ApiKey.METADATA] = handle
    answer = await dispatcher.handle(arrived(MetadataRequest(topics=None), 8), FROM)
    assert read(MetadataResponse, 8, answer).cluster_id is None
    assert "LocalProtocolError" in caplog.text


# --- Produce ------------------------------------------------------------------------------------


async def test_a_produce_is_in_the_log_when_begin_returns(dispatcher, parts):
    pending = dispatcher.begin(arrived(produce_request(1, 0, 1), 9), FROM)
    assert [tp.partition for tp, _, _ in parts.replicas.appended] == [0, 1]
    assert pending.ready
    response = read(ProduceResponse, 9, await finished(pending))
    assert [p.error_code for p in response.responses[0].partition_responses] == [0, 0]


async def test_acks_all_waits_for_the_replicas(dispatcher, parts, autojump_clock):
    parts.replicas.replicated = False
    pending = dispatcher.begin(arrived(produce_request(-1), 9), FROM)
    assert not pending.ready

    async def replicate():
        await trio.sleep(0.3)
        parts.replicas.replicated = True
        parts.purgatory.wake("replicated")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(replicate)
        response = read(ProduceResponse, 9, await finished(pending))
    assert trio.current_time() == pytest.approx(0.3)
    assert response.responses[0].partition_responses[0].error_code == 0


async def test_acks_all_says_when_time_is_up(dispatcher, parts, autojump_clock):
    parts.replicas.replicated = False
    pending = dispatcher.begin(arrived(produce_request(-1, timeout_ms=500), 9), FROM)
    response = read(ProduceResponse, 9, await finished(pending))
    code = response.responses[0].partition_responses[0].error_code
    assert code == ErrorCode.REQUEST_TIMED_OUT


async def test_acks_0_has_no_answer(dispatcher, parts):
    pending = dispatcher.begin(arrived(produce_request(0), 9), FROM)
    assert pending.ready
    assert await finished(pending) is None


async def test_acks_0_closes_the_connection_if_a_partition_failed(dispatcher, parts):
    parts.replicas.errors[TopicPartition("t", 1)] = ErrorCode.NOT_LEADER_OR_FOLLOWER
    pending = dispatcher.begin(arrived(produce_request(0, 0, 1), 9), FROM)
    answer = await finished(pending)
    assert isinstance(answer, CloseConnection)
    assert "NOT_LEADER_OR_FOLLOWER, t-1" in answer.reason


async def test_an_unforeseen_failure_of_a_produce_is_told_for_every_partition(dispatcher, parts):
    parts.replicas.crash = KeyError("bug")
    pending = dispatcher.begin(arrived(produce_request(1, 0, 1), 9), FROM)
    assert pending.ready
    response = read(ProduceResponse, 9, await finished(pending))
    assert [p.error_code for p in response.responses[0].partition_responses] == [-1, -1]
    closing = await finished(dispatcher.begin(arrived(produce_request(0), 9), FROM))
    assert isinstance(closing, CloseConnection)


async def test_a_failure_while_answering_is_told_as_well(dispatcher, parts, monkeypatch):
    def fail(results, required_acks):
        raise KeyError("bug")

    monkeypatch.setattr(parts.replicas, "verdicts", fail)
    pending = dispatcher.begin(arrived(produce_request(-1, 0, 1), 9), FROM)
    assert pending.ready
    response = read(ProduceResponse, 9, await finished(pending))
    assert response.responses[0].partition_responses[0].error_code == -1


@pytest.mark.parametrize("version", [4, 6, 7, 12])
async def test_a_failure_of_a_fetch_is_told_in_every_version(
    dispatcher, parts, monkeypatch, version
):
    def fail(fetch, **_):
        raise KeyError("bug")

    monkeypatch.setattr(parts.replicas, "read", fail)
    asked = FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=100)
    topic = FetchTopic(topic="t", topic_id=fakes.TOPIC_ID, partitions=[asked])
    request = FetchRequest(replica_id=-1, session_epoch=-1, topics=[topic])
    answer = dispatcher.begin(arrived(request, version), FROM)
    response = read(FetchResponse, version, answer)
    codes = [p.error_code for t in response.responses for p in t.partitions]
    assert (response.error_code, codes) == ((0, [-1]) if version < 7 else (-1, []))


async def test_the_bytes_of_what_is_opened_stay_until_it_is(dispatcher, parts):
    parts.replicas.opens[TopicPartition("t", 1)] = None
    request = arrived(produce_request(1, 0, 1), 9)
    pending = dispatcher.begin(request, FROM)
    assert pending.unopened
    assert len(request.body), "still lent"
    assert [tp.partition for tp, _, _ in parts.replicas.appended] == [0]
    await pending.open()
    assert not pending.unopened
    response = read(ProduceResponse, 9, await finished(pending))
    assert [p.error_code for p in response.responses[0].partition_responses] == [0, 0]


async def test_a_failure_while_opening_is_told_for_every_partition(dispatcher, parts):
    parts.replicas.opens[TopicPartition("t", 1)] = KeyError("bug")
    for acks in (1, -1):
        pending = dispatcher.begin(arrived(produce_request(acks, 0, 1), 9), FROM)
        await pending.open()
        assert pending.ready
        response = read(ProduceResponse, 9, await finished(pending))
        assert [p.error_code for p in response.responses[0].partition_responses] == [-1, -1]


async def test_a_broken_law_in_a_produce_is_not_contained(dispatcher, parts):
    parts.replicas.crash = AssertionError("law")
    with pytest.raises(AssertionError, match="law"):
        dispatcher.begin(arrived(produce_request(1), 9), FROM)


@pytest.mark.parametrize("version", [8, 9, 11])
@pytest.mark.parametrize("acks", [1, -1])
async def test_a_batch_alone_is_answered_alike_at_once_and_the_general_way(
    dispatcher, parts, version, acks
):
    """Versions from 9 on are read by hand and wait for nothing."""
    parts.replicas.put(TopicPartition("t", 5), 100, 100)
    begun = dispatcher.begin(arrived(produce_request(acks, 5), version), FROM)
    assert isinstance(begun, bytes) == (version >= 9)
    answer = await finished(begun)
    response = read(ProduceResponse, version, answer)
    [partition] = response.responses[0].partition_responses
    assert (response.responses[0].name, partition.index) == ("t", 5)
    assert (partition.error_code, partition.base_offset, partition.log_start_offset) == (0, 2, 0)
    assert parts.replicas.appended == [(TopicPartition("t", 5), b"x" * 100, acks)]
    counters = parts.requests.statistics()["Produce"]
    assert (counters.requests, counters.errors, counters.count) == ({version: 1}, {0: 1}, 1)
    traffic = parts.traffic.statistics()["t"]
    assert (traffic.produce_requests, traffic.messages_in, traffic.bytes_in) == (1, 1, 100)


@pytest.mark.parametrize("version", [8, 9])
async def test_a_batch_alone_that_is_refused_is_counted_once(dispatcher, parts, version):
    parts.replicas.errors[TP] = ErrorCode.NOT_LEADER_OR_FOLLOWER
    pending = dispatcher.begin(arrived(produce_request(-1), version), FROM)
    response = read(ProduceResponse, version, await finished(pending))
    [partition] = response.responses[0].partition_responses
    assert partition.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    counters = parts.requests.statistics()["Produce"]
    assert (counters.requests, counters.count) == ({version: 1}, 1)
    traffic = parts.traffic.statistics()["t"]
    assert (traffic.produce_requests, traffic.failed_produce_requests) == (1, 1)


@pytest.mark.parametrize("version", [8, 9])
async def test_an_unforeseen_failure_of_a_batch_alone_appends_it_once(
    dispatcher, parts, version, monkeypatch
):
    """It may have happened after the append."""
    append = parts.replicas.append

    def fail(tp, records, *, required_acks):
        append(tp, records, required_acks=required_acks)
        raise KeyError("bug")

    monkeypatch.setattr(parts.replicas, "append", fail)
    pending = dispatcher.begin(arrived(produce_request(-1), version), FROM)
    response = read(ProduceResponse, version, await finished(pending))
    assert response.responses[0].partition_responses[0].error_code == -1
    assert len(parts.replicas.appended) == 1


# --- Counting -----------------------------------------------------------------------------------


async def test_requests_are_counted_by_version_code_and_time(dispatcher, parts):
    parts.replicas.errors[TopicPartition("t", 1)] = ErrorCode.NOT_LEADER_OR_FOLLOWER
    await finished(dispatcher.begin(arrived(produce_request(1, 0, 1), 9), FROM))
    await finished(dispatcher.begin(arrived(produce_request(1, 0), 8), FROM))
    counters = parts.requests.statistics()["Produce"]
    assert dict(counters.requests) == {9: 1, 8: 1}
    assert dict(counters.errors) == {0: 2, ErrorCode.NOT_LEADER_OR_FOLLOWER: 1}
    assert counters.count == 2
    assert counters.request_bytes > 200


async def test_an_unknown_version_is_not_counted_as_a_request(dispatcher, parts):
    with pytest.raises(RemoteProtocolError):
        await dispatcher.handle(raw(ApiKey.METADATA, 99), FROM)
    assert parts.requests.statistics() == {}


async def test_each_api_has_a_handler_of_its_name(dispatcher):
    for api in APIS.values():
        if api.key not in (ApiKey.PRODUCE, ApiKey.FETCH):
            assert callable(dispatcher._handler(api)), api.name


async def test_list_offsets_goes_through(dispatcher, parts):
    answer = await dispatcher.handle(arrived(ListOffsetsRequest(replica_id=-1), 9), FROM)
    assert read(ListOffsetsResponse, 9, answer).topics == []
