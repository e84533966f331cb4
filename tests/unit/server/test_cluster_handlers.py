"""Metadata, DescribeCluster, ApiVersions, and what only the controller sends."""

import logging
import uuid

import pytest
import server_fakes as fakes
import trio

from zkafka.errors import ErrorCode
from zkafka.model import NO_LEADER, OFFSETS_TOPIC, TopicPartition
from zkafka.protocol.codec import decode_response, encode_response
from zkafka.protocol.messages.api_versions import ApiVersionsRequest
from zkafka.protocol.messages.describe_cluster import DescribeClusterRequest
from zkafka.protocol.messages.leader_and_isr import LeaderAndIsrRequest, LeaderAndIsrResponse
from zkafka.protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
)
from zkafka.protocol.messages.stop_replica import StopReplicaRequest, StopReplicaResponse
from zkafka.protocol.messages.update_metadata import UpdateMetadataRequest
from zkafka.replication.purgatory import METADATA
from zkafka.replication.replicas import LeadershipChanges
from zkafka.server.handlers import (
    api_versions,
    describe_cluster,
    leader_and_isr,
    metadata,
    stop_replica,
    update_metadata,
)
from zkafka.server.refusals import codes

NOT_ASKED = -(2**31)


@pytest.fixture
def parts():
    made = fakes.parts()
    made.metadata.apply(fakes.update_metadata(topics=("t", OFFSETS_TOPIC)))
    return made


# --- Metadata -----------------------------------------------------------------------------------


async def ask(parts, version, *names, listener=fakes.LISTENER, **extra):
    topics = [
        MetadataRequestTopic(topic_id=n, name=None)
        if isinstance(n, uuid.UUID)
        else MetadataRequestTopic(name=n)
        for n in names
    ]
    request = MetadataRequest(**{"topics": topics, **extra})
    return await metadata.handle(request, fakes.context(parts, version, listener=listener))


async def test_brokers_topics_and_controller_are_told(parts):
    response = await ask(parts, 12, "t")
    assert [(b.node_id, b.host, b.port, b.rack) for b in response.brokers] == [
        (1, "h1", 9091, "r1"),
        (2, "h2", 9092, "r2"),
    ]
    assert (response.cluster_id, response.controller_id) == ("cluster", 1)
    (topic,) = response.topics
    assert (topic.error_code, topic.name, topic.topic_id) == (0, "t", fakes.TOPIC_ID)
    assert [(p.partition_index, p.leader_id, p.leader_epoch) for p in topic.partitions] == [
        (0, 1, 3),
        (1, 1, 3),
    ]
    assert tuple(topic.partitions[0].isr_nodes) == (1, 2)


@pytest.mark.parametrize(
    ("version", "topics", "count"), [(0, [], 2), (1, [], 0), (1, None, 2), (12, None, 2)]
)
async def test_whether_an_empty_list_means_all_depends_on_the_version(
    parts, version, topics, count
):
    response = await ask(parts, version, topics=topics)
    assert len(response.topics) == count


async def test_internal_topics_are_marked(parts):
    response = await ask(parts, 12, topics=None)
    assert {t.name: t.is_internal for t in response.topics} == {"t": False, OFFSETS_TOPIC: True}


async def test_a_missing_topic_is_created_if_both_sides_allow(parts):
    response = await ask(parts, 12, "new", "t", "new")
    assert [(t.name, t.error_code) for t in response.topics] == [
        ("new", ErrorCode.LEADER_NOT_AVAILABLE),
        ("t", 0),
    ]
    assert parts.topics.created == ["new"]


@pytest.mark.parametrize(("client", "broker"), [(False, True), (True, False)])
async def test_a_missing_topic_is_unknown_if_one_side_does_not(parts, client, broker):
    parts.config.auto_create_topics_enable = broker
    response = await ask(parts, 12, "new", "bad name", allow_auto_topic_creation=client)
    assert [t.error_code for t in response.topics] == [
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.INVALID_TOPIC_EXCEPTION,
    ]
    assert parts.topics.created == []


async def test_a_topic_that_came_while_it_was_created_is_described(parts, monkeypatch):
    async def auto_create(name):
        parts.metadata.apply(fakes.update_metadata(topics=("t", OFFSETS_TOPIC, name)))
        return ErrorCode.LEADER_NOT_AVAILABLE

    monkeypatch.setattr(parts.topics, "auto_create", auto_create)
    response = await ask(parts, 12, "new")
    assert [(t.name, t.error_code, len(t.partitions)) for t in response.topics] == [("new", 0, 2)]


async def test_topics_by_id_are_found_and_never_created(parts):
    unknown = uuid.UUID(int=9)
    response = await ask(parts, 12, fakes.TOPIC_ID, unknown)
    assert [(t.name, t.topic_id, t.error_code) for t in response.topics] == [
        ("t", fakes.TOPIC_ID, 0),
        (None, unknown, ErrorCode.UNKNOWN_TOPIC_ID),
    ]
    assert parts.topics.created == []


@pytest.mark.parametrize("version", [10, 11])
async def test_a_topic_without_name_is_a_bad_request_before_version_12(parts, version):
    response = await ask(parts, version, fakes.TOPIC_ID)
    assert [(t.name, t.error_code) for t in response.topics] == [("", ErrorCode.INVALID_REQUEST)]


async def test_a_leader_that_refuses_connections_is_not_named_while_it_does(parts):
    """It may have died a moment ago: clients ask again soon, and find its successor."""
    parts.metadata.avoid(frozenset({1}))
    parts.metadata.apply(fakes.update_metadata(leader=1))
    response = await ask(parts, 12, "t")
    partition = response.topics[0].partitions[0]
    assert (partition.error_code, partition.leader_id) == (ErrorCode.LEADER_NOT_AVAILABLE, -1)
    parts.metadata.avoid(frozenset())
    response = await ask(parts, 12, "t")
    assert response.topics[0].partitions[0].leader_id == 1


async def test_a_leader_that_is_dead_is_not_named(parts):
    parts.metadata.apply(fakes.update_metadata(leader=3))
    response = await ask(parts, 12, "t")
    partition = response.topics[0].partitions[0]
    assert (partition.error_code, partition.leader_id) == (ErrorCode.LEADER_NOT_AVAILABLE, -1)
    assert partition.leader_epoch == 3


@pytest.mark.parametrize(
    ("version", "code"), [(5, ErrorCode.LEADER_NOT_AVAILABLE), (6, ErrorCode.LISTENER_NOT_FOUND)]
)
async def test_a_leader_without_the_clients_listener_is_not_named(parts, version, code):
    response = await ask(parts, version, "t", listener="OTHER")
    partition = response.topics[0].partitions[0]
    assert (partition.error_code, partition.leader_id) == (code, -1)
    assert response.brokers == []


async def test_version_0_leaves_dead_replicas_out(parts):
    parts.metadata.apply(fakes.update_metadata(brokers=(1,)))
    partition = (await ask(parts, 0, "t")).topics[0].partitions[0]
    assert partition.error_code == ErrorCode.REPLICA_NOT_AVAILABLE
    assert (list(partition.replica_nodes), list(partition.isr_nodes)) == ([1], [1])
    assert partition.leader_id == 1
    partition = (await ask(parts, 1, "t")).topics[0].partitions[0]
    assert (partition.error_code, tuple(partition.replica_nodes)) == (0, (1, 2))


async def test_authorized_operations_are_told_when_asked(parts):
    quiet = await ask(parts, 8, "t")
    assert quiet.cluster_authorized_operations == NOT_ASKED
    assert quiet.topics[0].topic_authorized_operations == NOT_ASKED
    asked = await ask(
        parts,
        8,
        "t",
        include_cluster_authorized_operations=True,
        include_topic_authorized_operations=True,
    )
    # READ 3, WRITE 4, CREATE 5, DELETE 6, ALTER 7, DESCRIBE 8, configs 10 and 11
    assert asked.topics[0].topic_authorized_operations == 0b1101_1111_1000
    # CREATE 5, ALTER 7, DESCRIBE 8, CLUSTER_ACTION 9, configs 10 and 11, IDEMPOTENT_WRITE 12
    assert asked.cluster_authorized_operations == 0b1_1111_1010_0000


async def test_before_any_controller_spoke_there_is_nothing(autojump_clock):
    empty = fakes.parts()
    response = await ask(empty, 12, topics=None)
    assert (response.brokers, response.topics, response.controller_id) == ([], [], -1)


async def test_before_any_controller_spoke_no_topic_is_missing_and_none_is_created(autojump_clock):
    empty = fakes.parts()
    response = await ask(empty, 12, "t")
    assert [topic.error_code for topic in response.topics] == [ErrorCode.LEADER_NOT_AVAILABLE]
    assert empty.topics.created == []


async def test_a_new_broker_answers_when_the_controller_has_described_the_cluster(autojump_clock):
    new = fakes.parts()
    answers = []

    async def client():
        answers.append(await ask(new, 12, "t"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        await trio.testing.wait_all_tasks_blocked()
        new.metadata.apply(fakes.update_metadata(topics=("t",)))
        new.purgatory.wake(METADATA)
    assert trio.current_time() == 0
    assert [topic.error_code for topic in answers[0].topics] == [ErrorCode.NONE]


async def test_a_long_answer_for_all_topics_is_kept_until_the_cluster_changes(parts):
    async def told(*names, **extra):
        answer = await ask(parts, 12, *names, **({} if names else {"topics": None, **extra}))
        return answer, b"".join(encode_response(answer, 12, 7))

    parts.metadata.apply(fakes.update_metadata(topics=("t", "u"), partitions=150))
    first, frame = await told()
    assert frame == (await told(*sorted(parts.metadata.image.topics)))[1]
    assert codes(first) == {0: 3 + 302}
    assert (await told())[0] is first
    assert (await told(include_topic_authorized_operations=True))[0] is not first

    parts.metadata.avoid(frozenset({1}))
    second, frame = await told()
    assert second is not first
    response = decode_response(MetadataResponse, 12, frame[4:])[1]
    assert {p.leader_id for t in response.topics for p in t.partitions} == {NO_LEADER}
    parts.metadata.apply(fakes.update_metadata(topics=("u",), leader=2))
    assert (await told())[0] is not second


async def test_an_answer_overtaken_while_it_was_made_is_not_kept(parts, monkeypatch):
    names = [f"t{number}" for number in range(300)]
    parts.metadata.apply(fakes.update_metadata(topics=names, partitions=1))

    async def overtake(done):
        if done == 299:
            parts.metadata.apply(fakes.update_metadata(topics=["late"], partitions=1))

    monkeypatch.setattr(metadata, "pause_now_and_then", overtake)
    assert b"late" not in (await ask(parts, 12, topics=None)).body
    monkeypatch.undo()
    assert b"late" in (await ask(parts, 12, topics=None)).body


# --- DescribeCluster, ApiVersions ---------------------------------------------------------------


async def test_the_cluster_is_described(parts):
    context = fakes.context(parts, 1)
    request = DescribeClusterRequest(include_cluster_authorized_operations=True)
    response = await describe_cluster.handle(request, context)
    assert (response.cluster_id, response.controller_id, response.error_code) == ("cluster", 1, 0)
    assert [b.broker_id for b in response.brokers] == [1, 2]
    assert response.cluster_authorized_operations > 0


@pytest.mark.parametrize(
    ("kind", "code"),
    [(2, ErrorCode.MISMATCHED_ENDPOINT_TYPE), (3, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE)],
)
async def test_endpoints_of_controllers_are_not_here(parts, kind, code):
    request = DescribeClusterRequest(endpoint_type=kind)
    response = await describe_cluster.handle(request, fakes.context(parts, 1))
    assert response.error_code == code
    assert response.error_message


@pytest.mark.parametrize(
    ("name", "good"),
    [("kafka-go", True), ("a", True), ("", False), ("-x", False), ("x-", False), ("a b", False)],
)
async def test_client_software_is_named_by_letters_digits_and_inner_signs(parts, name, good):
    request = ApiVersionsRequest(client_software_name=name, client_software_version="1.2.3")
    response = await api_versions.handle(request, fakes.context(parts, 3))
    assert response.error_code == (0 if good else ErrorCode.INVALID_REQUEST)
    assert bool(response.api_keys) == good


# --- From the controller ------------------------------------------------------------------------


@pytest.fixture
def roles(parts, monkeypatch):
    """What the replicas were asked to become."""
    asked = []

    async def apply_leader_and_isr(request):
        asked.append(request)
        return LeadershipChanges(
            response=LeaderAndIsrResponse(),
            became_leader=[(TopicPartition(OFFSETS_TOPIC, 4), 9), (TopicPartition("t", 0), 9)],
            became_follower=[TopicPartition(OFFSETS_TOPIC, 5), TopicPartition("t", 1)],
        )

    async def apply_stop_replica(request):
        asked.append(request)
        return StopReplicaResponse(), [TopicPartition(OFFSETS_TOPIC, 6), TopicPartition("t", 0)]

    replicas = parts.replicas
    monkeypatch.setattr(replicas, "apply_leader_and_isr", apply_leader_and_isr, raising=False)
    monkeypatch.setattr(replicas, "apply_stop_replica", apply_stop_replica, raising=False)
    return asked


@pytest.mark.parametrize(
    ("broker_epoch", "controller_epoch", "code"),
    [
        (99, 1, ErrorCode.STALE_BROKER_EPOCH),
        (100, 0, ErrorCode.STALE_CONTROLLER_EPOCH),
        (100, 1, ErrorCode.NONE),
        (101, 2, ErrorCode.NONE),
        (-1, 1, ErrorCode.NONE),
    ],
)
async def test_metadata_is_fenced_by_both_epochs(parts, broker_epoch, controller_epoch, code):
    request = UpdateMetadataRequest(
        controller_id=1, controller_epoch=controller_epoch, broker_epoch=broker_epoch
    )
    before = parts.metadata.image
    response = await update_metadata.handle(request, fakes.context(parts, 8))
    assert response.error_code == code
    assert (parts.metadata.image is before) == (code is not ErrorCode.NONE)


async def test_a_controller_known_from_a_role_is_known_to_metadata_as_well(parts):
    parts.replicas.controller_epoch = 5
    request = UpdateMetadataRequest(controller_id=1, controller_epoch=4, broker_epoch=100)
    response = await update_metadata.handle(request, fakes.context(parts, 8))
    assert response.error_code == ErrorCode.STALE_CONTROLLER_EPOCH


async def test_the_group_coordinator_learns_of_its_partitions(parts, roles):
    request = LeaderAndIsrRequest(controller_epoch=1, broker_epoch=100)
    await leader_and_isr.handle(request, fakes.context(parts, 7))
    assert parts.groups.events == [("resigned", 5), ("led", 4, 9)]
    parts.groups.events.clear()
    request = StopReplicaRequest(controller_epoch=1, broker_epoch=100)
    await stop_replica.handle(request, fakes.context(parts, 4))
    assert parts.groups.events == [("resigned", 6)]


async def test_new_metadata_wakes_those_who_wait_for_it(parts, autojump_clock):
    context = fakes.context(parts, 8)
    woken = []

    async def wait():
        image = parts.metadata.image
        woken.append(
            await parts.purgatory.wait_until(
                [METADATA], lambda: parts.metadata.image is not image, 10**6
            )
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(0.1)
        request = fakes.update_metadata(epoch=2)
        assert (await update_metadata.handle(request, context)).error_code == 0
    assert woken == [True]
    assert trio.current_time() == pytest.approx(0.1)


async def test_deleted_topics_are_told_and_their_traffic_forgotten(parts):
    parts.traffic.fetched("t", size=1, replica_id=-1)
    request = fakes.update_metadata(leader=-2, epoch=2)
    await update_metadata.handle(request, fakes.context(parts, 8))
    assert parts.groups.events == [("deleted", ["t"])]
    assert parts.traffic.statistics() == {}


async def test_another_controller_is_told_of_once():
    told = []
    parts = fakes.parts(controller_changed=lambda: told.append(1))
    for epoch in (2, 3):
        await update_metadata.handle(
            fakes.update_metadata(controller=epoch, epoch=epoch), fakes.context(parts, 8)
        )
        assert len(told) == epoch - 1
        await update_metadata.handle(
            fakes.update_metadata(controller=epoch, epoch=epoch), fakes.context(parts, 8)
        )
        assert len(told) == epoch - 1


async def test_a_change_of_controller_or_brokers_is_told_in_the_state_change_log(parts, caplog):
    caplog.set_level(logging.INFO, "zkafka.state_change")
    context = fakes.context(parts, 8)
    await update_metadata.handle(fakes.update_metadata(controller=2, epoch=2), context)
    await update_metadata.handle(fakes.update_metadata(controller=2, epoch=2), context)
    await update_metadata.handle(
        fakes.update_metadata(controller=2, epoch=2, brokers=(2,)), context
    )
    assert [r.getMessage() for r in caplog.records if r.name == "zkafka.state_change"] == [
        "follows controller broker=1 controller=2 controller_epoch=2",
        "live brokers changed broker=1 live=2",
    ]


async def test_nobody_waits_for_a_broker_that_was_lost(parts):
    """A high watermark may have waited for it to join, and nothing else would move it on."""
    context = fakes.context(parts, 8)
    await update_metadata.handle(fakes.update_metadata(brokers=(1, 2), epoch=2), context)
    before = parts.replicas.lag_checks
    await update_metadata.handle(fakes.update_metadata(brokers=(1, 2), epoch=2), context)
    assert parts.replicas.lag_checks == before
    await update_metadata.handle(fakes.update_metadata(brokers=(1,), epoch=2), context)
    assert parts.replicas.lag_checks == before + 1
