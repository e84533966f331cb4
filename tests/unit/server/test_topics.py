"""Topics created, grown and deleted: what is refused, what is written, what is waited for.

A real controller on a ZooKeeper of dictionaries does its part; broker 1 is the one that is asked,
and hears of leaders by UpdateMetadata as brokers do.
"""

import random
import types
import uuid

import pytest
import trio
from fake_cluster import Cluster, settle, start

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.controller.events import ElectionResult
from zkafka.errors import ApiError, ErrorCode
from zkafka.model import OFFSETS_TOPIC, TRANSACTIONS_TOPIC, ReplicaAssignment, TopicPartition
from zkafka.protocol.codec import RequestHeader, encode
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.messages.allocate_producer_ids import AllocateProducerIdsRequest
from zkafka.protocol.messages.alter_partition import AlterPartitionRequest
from zkafka.protocol.messages.controlled_shutdown import ControlledShutdownRequest
from zkafka.protocol.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from zkafka.protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from zkafka.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from zkafka.protocol.messages.elect_leaders import ElectLeadersRequest, TopicPartitions
from zkafka.server.configs import Configs
from zkafka.server.context import RequestContext
from zkafka.server.handlers import (
    allocate_producer_ids,
    alter_partition,
    controlled_shutdown,
    create_partitions,
    create_topics,
    delete_topics,
    elect_leaders,
)
from zkafka.server.topics import Topics, is_legal_topic_name, metric_name
from zkafka.zk import znodes
from zkafka.zk.store import Store
from zkafka.zk.znodes import TopicZnode

SETTINGS = {
    "zookeeper.connect": "fake",
    "log.dirs": "/nowhere",
    "num.partitions": "2",
    "default.replication.factor": "2",
    "offsets.topic.num.partitions": "4",
}


class Broker:
    """Broker 1 of a cluster: its topics, and the surroundings that handlers expect."""

    def __init__(self, cluster: Cluster, controller, **settings: str) -> None:
        self.cluster = cluster
        session = cluster.sessions[1]
        self.config = BrokerConfig.parse({**SETTINGS, **settings})
        self.metadata = cluster.metadata_of(1)
        self.topics = Topics(
            store=Store(session),
            metadata=self.metadata,
            purgatory=cluster.purgatory_of(1),
            config=self.config,
            clock=Clock(),
            is_controller=lambda: controller.is_active,
            rng=random.Random(5),
        )
        self.parts = types.SimpleNamespace(
            topics=self.topics,
            metadata=self.metadata,
            purgatory=cluster.purgatory_of(1),
            config=self.config,
            clock=Clock(),
            controller=controller,
            configs=Configs(
                broker_id=1,
                config=self.config,
                store=Store(session),
                session=session,
                clock=Clock(),
            ),
        )

    def context(self, version: int) -> RequestContext:
        return RequestContext(
            parts=self.parts,
            header=RequestHeader(0, version, 1, "client"),
            connection_id=1,
            peer_host="127.0.0.1",
            listener_name="PLAINTEXT",
        )

    async def create_one(self, topic: CreatableTopic, **more):
        [result] = await self.topics.create([topic], timeout_ms=1000, **more)
        return result

    async def read(self, name: str) -> TopicZnode | None:
        return (await self.cluster.operator.read_topics([name])).get(name)


@pytest.fixture
async def asked(nursery):
    cluster = Cluster()
    controller = await start(nursery, cluster, 1, 2, 3)
    return Broker(cluster, controller)


def counted(name: str, partitions: int = 1, factor: int = 1, **configs: str | None):
    return CreatableTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=factor,
        configs=[
            CreatableTopicConfig(name=key.replace("_", "."), value=value)
            for key, value in configs.items()
        ],
    )


def assigned(name: str, *replicas: list[int], first: int = 0, **counts: int):
    return CreatableTopic(
        name=name,
        num_partitions=counts.get("partitions", -1),
        replication_factor=counts.get("factor", -1),
        assignments=[
            CreatableReplicaAssignment(partition_index=first + p, broker_ids=r)
            for p, r in enumerate(replicas)
        ],
    )


class TestNames:
    @pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 249, "..."])
    def test_legal(self, name):
        assert is_legal_topic_name(name)

    @pytest.mark.parametrize("name", ["", ".", "..", "x" * 250, "a b", "a/b", "ä", "a\n", "a:b"])
    def test_illegal(self, name):
        assert not is_legal_topic_name(name)

    def test_collision(self):
        assert metric_name("a.b") == metric_name("a_b")
        assert metric_name("a.b") != metric_name("a-b")


class TestCreation:
    async def test_it_waits_until_every_partition_has_a_leader_here(self, asked):
        result = await asked.create_one(counted("t", 3, 2))
        assert result.error is ErrorCode.NONE
        image = asked.metadata.image.topics["t"]
        assert image.topic_id == result.topic_id
        assert {p.leader for p in image.partitions.values()} <= {1, 2, 3}
        written = await asked.read("t")
        assert written.assignments == result.assignments
        assert all(len(a.replicas) == 2 for a in written.assignments.values())

    async def test_counts_left_open_are_the_brokers(self, asked):
        result = await asked.create_one(counted("t", -1, -1))
        assert len(result.assignments) == 2
        assert len(result.assignments[0].replicas) == 2

    async def test_a_manual_assignment_is_taken_as_it_is(self, asked):
        result = await asked.create_one(assigned("t", [3, 1], [1, 2]))
        assert result.error is ErrorCode.NONE
        assert {p: a.replicas for p, a in result.assignments.items()} == {0: (3, 1), 1: (1, 2)}

    async def test_the_settings_are_there_before_the_topic(self, asked):
        order = []
        zookeeper = asked.cluster.zookeeper
        fire = zookeeper.fire
        zookeeper.fire = lambda path, children, kind: (
            order.append(path),
            fire(path, children, kind),
        )
        await asked.create_one(counted("t", retention_ms="1000"))
        assert order.index("/config/topics/t") < order.index("/brokers/topics/t")
        assert await asked.cluster.operator.entity_config("topics", "t") == {"retention.ms": "1000"}

    @pytest.mark.parametrize(
        ("topic", "code"),
        [
            (counted("t", retention_ms=None), ErrorCode.INVALID_CONFIG),
            (counted("t", retention_ms="soon"), ErrorCode.INVALID_CONFIG),
            (counted("t", no_such_setting="1"), ErrorCode.INVALID_CONFIG),
            (counted("t", 0), ErrorCode.INVALID_PARTITIONS),
            (counted("t", -2), ErrorCode.INVALID_PARTITIONS),
            (counted("t", 2**31 - 1), ErrorCode.INVALID_PARTITIONS),
            (counted("t", 1, 0), ErrorCode.INVALID_REPLICATION_FACTOR),
            (counted("t", 1, 4), ErrorCode.INVALID_REPLICATION_FACTOR),
            (counted("a/b"), ErrorCode.INVALID_TOPIC_EXCEPTION),
            (counted(""), ErrorCode.INVALID_TOPIC_EXCEPTION),
            (counted("__cluster_metadata"), ErrorCode.INVALID_REQUEST),
            (assigned("t", [1], partitions=1), ErrorCode.INVALID_REQUEST),
            (assigned("t", [1], factor=1), ErrorCode.INVALID_REQUEST),
            (assigned("t", [1, 1]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
            (assigned("t", [1, 2], [1]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
            (assigned("t", [1], [2], first=1), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
            (assigned("t", []), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
            (assigned("t", [-1]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ],
    )
    async def test_refusals_write_nothing(self, asked, topic, code):
        before = set(asked.cluster.zookeeper.nodes)
        for validate_only in (True, False):
            result = await asked.create_one(topic, validate_only=validate_only)
            assert result.error is code
            assert result.message
        assert set(asked.cluster.zookeeper.nodes) == before

    async def test_a_topic_that_exists_or_is_marked_is_refused(self, asked):
        await asked.create_one(counted("t"))
        assert (await asked.create_one(counted("t"))).error is ErrorCode.TOPIC_ALREADY_EXISTS
        asked.cluster.zookeeper.watches.clear()  # so that the controller does not see the marker
        asked.cluster.zookeeper.put(znodes.topic_deletion_path("going"), b"")
        assert (await asked.create_one(counted("going"))).error is ErrorCode.TOPIC_ALREADY_EXISTS

    async def test_a_topic_that_only_zookeeper_knows_is_refused(self, asked):
        """Created by another broker a moment ago: the metadata has not heard of it."""
        asked.cluster.zookeeper.watches.clear()
        await asked.cluster.create_topic("t", (1,))
        assert (await asked.create_one(counted("t"))).error is ErrorCode.TOPIC_ALREADY_EXISTS

    async def test_names_that_differ_in_dot_and_underscore_collide(self, asked):
        await asked.create_one(counted("a.b"))
        result = await asked.create_one(counted("a_b"))
        assert result.error is ErrorCode.INVALID_TOPIC_EXCEPTION
        both = await asked.topics.create([counted("c.d"), counted("c_d")], timeout_ms=1000)
        assert [r.error for r in both] == [ErrorCode.NONE, ErrorCode.INVALID_TOPIC_EXCEPTION]

    async def test_a_topic_named_twice_is_refused_and_the_others_are_not(self, asked):
        results = await asked.topics.create(
            [counted("t"), counted("u"), counted("t", 2)], timeout_ms=1000
        )
        assert {r.name: r.error for r in results} == {
            "t": ErrorCode.INVALID_REQUEST,
            "u": ErrorCode.NONE,
        }

    async def test_validating_only_writes_nothing(self, asked):
        result = await asked.create_one(counted("t", 3), validate_only=True)
        assert (result.error, len(result.assignments)) == (ErrorCode.NONE, 3)
        assert await asked.read("t") is None

    async def test_without_time_it_is_begun_but_times_out(self, asked):
        [result] = await asked.topics.create([counted("t")], timeout_ms=0)
        assert result.error is ErrorCode.REQUEST_TIMED_OUT
        await settle()
        assert "t" in asked.metadata.image.topics

    async def test_what_stays_without_a_leader_times_out(self, asked, autojump_clock):
        began = trio.current_time()
        results = await asked.topics.create([assigned("t", [9]), counted("u")], timeout_ms=2000)
        assert [r.error for r in results] == [ErrorCode.REQUEST_TIMED_OUT, ErrorCode.NONE]
        assert trio.current_time() - began == pytest.approx(2, abs=0.1)

    async def test_zookeeper_out_of_reach_is_told_as_a_timeout(self, asked, autojump_clock):
        asked.cluster.sessions[1].suspend()
        result = await asked.create_one(counted("t"))
        assert result.error is ErrorCode.REQUEST_TIMED_OUT

    async def test_a_lost_reply_is_no_second_topic(self, asked, autojump_clock):
        session = asked.cluster.sessions[1]
        session.lose_reply_of_next_multi = True

        async def come_back():
            await trio.sleep(1)
            session.reconnect()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            [result] = await asked.topics.create([counted("t")], timeout_ms=5000)
        assert result.error is ErrorCode.NONE

    async def test_a_hundred_topics_in_one_request(self, asked):
        results = await asked.topics.create([counted(f"t{i}") for i in range(100)], timeout_ms=9000)
        assert {r.error for r in results} == {ErrorCode.NONE}
        assert [r.name for r in results] == [f"t{i}" for i in range(100)]


class TestAutoCreation:
    async def test_it_begins_and_says_ask_again(self, asked):
        assert await asked.topics.auto_create("t") is ErrorCode.LEADER_NOT_AVAILABLE
        await settle()
        assert len(asked.metadata.image.topics["t"].partitions) == 2

    async def test_refusals(self, asked):
        assert await asked.topics.auto_create("a/b") is ErrorCode.INVALID_TOPIC_EXCEPTION
        few = Broker(asked.cluster, asked.parts.controller, **{"default.replication.factor": "4"})
        assert await few.topics.auto_create("t") is ErrorCode.INVALID_REPLICATION_FACTOR
        assert await asked.topics.auto_create("a.b") is ErrorCode.LEADER_NOT_AVAILABLE
        assert await asked.topics.auto_create("a_b") is ErrorCode.INVALID_TOPIC_EXCEPTION

    async def test_one_creation_of_a_name_at_a_time(self, asked):
        codes = []

        async def create():
            codes.append(await asked.topics.auto_create("t"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(create)
        assert sorted(codes) == [
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.LEADER_NOT_AVAILABLE,
        ]

    async def test_the_offsets_topic_has_its_own_settings(self, asked):
        assert await asked.topics.auto_create(OFFSETS_TOPIC) is ErrorCode.LEADER_NOT_AVAILABLE
        written = await asked.read(OFFSETS_TOPIC)
        assert len(written.assignments) == 4
        assert {len(a.replicas) for a in written.assignments.values()} == {3}
        assert await asked.cluster.operator.entity_config("topics", OFFSETS_TOPIC) == {
            "cleanup.policy": "compact",
            "compression.type": "producer",
            "segment.bytes": "104857600",
        }

    async def test_the_transactions_topic_never_loses_what_it_has(self, asked):
        await asked.topics.create_internal(TRANSACTIONS_TOPIC)
        config = await asked.cluster.operator.entity_config("topics", TRANSACTIONS_TOPIC)
        assert config["unclean.leader.election.enable"] == "false"
        assert config["min.insync.replicas"] == "2"

    async def test_a_broker_that_is_not_controller_may_do_it_too(self, asked):
        other = Broker(asked.cluster, types.SimpleNamespace(is_active=False))
        assert await other.topics.auto_create("t") is ErrorCode.LEADER_NOT_AVAILABLE


async def test_a_refusal_of_a_long_name_fits_the_oldest_response(asked):
    created = await create_topics.handle(
        CreateTopicsRequest(topics=[counted("n" * 32_767)], timeout_ms=1000), asked.context(2)
    )
    assert [t.error_code for t in created.topics] == [ErrorCode.INVALID_TOPIC_EXCEPTION]
    encode(created, 2)


class TestGrowing:
    async def grow(self, asked, count: int, assignments=None, name: str = "t", **more):
        topic = CreatePartitionsTopic(
            name=name,
            count=count,
            assignments=None
            if assignments is None
            else [CreatePartitionsAssignment(broker_ids=r) for r in assignments],
        )
        [result] = await asked.topics.add_partitions([topic], timeout_ms=1000, **more)
        return result

    async def test_new_partitions_follow_the_old_ones_and_have_leaders(self, asked):
        await asked.create_one(assigned("t", [2, 3], [3, 1]))
        result = await self.grow(asked, 4)
        assert result.error is ErrorCode.NONE
        written = (await asked.read("t")).assignments
        assert (written[0].replicas, written[1].replicas) == ((2, 3), (3, 1))
        assert [written[p].replicas[0] for p in (2, 3)] == [1, 2]
        assert len(asked.metadata.image.topics["t"].partitions) == 4

    async def test_a_manual_assignment(self, asked):
        await asked.create_one(assigned("t", [2, 3]))
        result = await self.grow(asked, 2, [[1, 2]])
        assert result.assignments[1].replicas == (1, 2)

    @pytest.mark.parametrize(
        ("count", "assignments", "code"),
        [
            (2, None, ErrorCode.INVALID_PARTITIONS),
            (1, None, ErrorCode.INVALID_PARTITIONS),
            (2**31 - 1, None, ErrorCode.INVALID_PARTITIONS),
            (3, [[1, 9]], ErrorCode.INVALID_REPLICA_ASSIGNMENT),
            (3, [[1, 2], [2, 3]], ErrorCode.INVALID_REPLICA_ASSIGNMENT),
            (3, [[1, 1]], ErrorCode.INVALID_REPLICA_ASSIGNMENT),
            (3, [[1]], ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ],
    )
    async def test_refusals(self, asked, count, assignments, code):
        await asked.create_one(assigned("t", [2, 3], [3, 1]))
        before = await asked.read("t")
        assert (await self.grow(asked, count, assignments)).error is code
        assert await asked.read("t") == before

    async def test_unknown_deleted_and_reassigned_topics(self, asked):
        assert (await self.grow(asked, 2)).error is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        moving = {0: ReplicaAssignment(replicas=(3, 1), adding=(3,), removing=(1,))}
        await asked.cluster.operator.create_topic("t", uuid.uuid4(), moving, {})
        assert (await self.grow(asked, 2)).error is ErrorCode.REASSIGNMENT_IN_PROGRESS
        asked.cluster.zookeeper.watches.clear()
        await asked.cluster.operator.mark_topic_deletion("t")
        assert (await self.grow(asked, 2)).error is ErrorCode.INVALID_TOPIC_EXCEPTION

    @pytest.mark.parametrize("name", ["", ".", "..", "t/partitions/0", "../ids", "a\0b", "n" * 250])
    async def test_a_name_that_none_can_have_is_unknown_and_no_path(self, asked, name):
        await asked.create_one(assigned("t", [2, 3]))
        assert (await self.grow(asked, 2, name=name)).error is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    async def test_validating_only_writes_nothing(self, asked):
        await asked.create_one(counted("t"))
        before = await asked.read("t")
        result = await self.grow(asked, 3, validate_only=True)
        assert (result.error, len(result.assignments)) == (ErrorCode.NONE, 3)
        assert await asked.read("t") == before

    async def test_a_topic_named_twice(self, asked):
        topic = CreatePartitionsTopic(name="t", count=2, assignments=None)
        [result] = await asked.topics.add_partitions([topic, topic], timeout_ms=1000)
        assert result.error is ErrorCode.INVALID_REQUEST


class TestDeletion:
    async def test_it_waits_until_the_topic_is_gone_here(self, asked):
        await asked.create_one(counted("t", 2, 3))
        [result] = await asked.topics.delete(["t"], timeout_ms=1000)
        assert result.error is ErrorCode.NONE
        assert "t" not in asked.metadata.image.topics
        await settle()
        assert await asked.read("t") is None

    async def test_the_name_can_be_used_again(self, asked):
        first = await asked.create_one(counted("t"))
        await asked.topics.delete(["t"], timeout_ms=1000)
        await settle()
        second = await asked.create_one(counted("t"))
        assert second.error is ErrorCode.NONE
        assert first.topic_id != second.topic_id

    async def test_unknown_topics(self, asked):
        results = await asked.topics.delete(["ghost", "a/b"], timeout_ms=1000)
        assert {r.error for r in results} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}

    async def test_without_time_it_is_begun_but_times_out(self, asked):
        await asked.create_one(counted("t"))
        [result] = await asked.topics.delete(["t"], timeout_ms=0)
        assert result.error is ErrorCode.REQUEST_TIMED_OUT
        await settle()
        assert await asked.read("t") is None


class TestHandlers:
    async def create(self, asked, version: int = 7, **more):
        request = CreateTopicsRequest(topics=[counted("t", 2, 3, retention_ms="5")], **more)
        return await create_topics.handle(request, asked.context(version))

    async def test_create_topics_tells_what_it_made(self, asked):
        [topic] = (await self.create(asked)).topics
        assert (topic.name, topic.error_code, topic.error_message) == ("t", 0, None)
        assert (topic.num_partitions, topic.replication_factor) == (2, 3)
        assert topic.topic_id == asked.metadata.image.topics["t"].topic_id
        settings = {entry.name: entry for entry in topic.configs}
        assert settings["retention.ms"].value == "5"
        assert settings["cleanup.policy"].value == "delete"
        assert settings["retention.ms"].config_source != settings["cleanup.policy"].config_source

    async def test_create_topics_that_only_validates_has_no_id(self, asked):
        [topic] = (await self.create(asked, validate_only=True)).topics
        assert (topic.error_code, topic.num_partitions) == (0, 2)
        assert topic.topic_id == NULL_UUID

    async def test_create_topics_refuses_per_topic(self, asked):
        await self.create(asked)
        [topic] = (await self.create(asked)).topics
        assert topic.error_code == ErrorCode.TOPIC_ALREADY_EXISTS
        assert topic.error_message == "Topic 't' already exists."

    async def test_create_partitions(self, asked):
        await self.create(asked)
        request = CreatePartitionsRequest(
            topics=[CreatePartitionsTopic(name="t", count=3, assignments=None)], timeout_ms=1000
        )
        response = await create_partitions.handle(request, asked.context(3))
        [result] = response.results
        assert (result.name, result.error_code, result.error_message) == ("t", 0, None)

    async def test_delete_topics_by_name_and_by_id(self, asked):
        for version in (5, 6, 6):
            await self.create(asked)
            topic_id = asked.metadata.image.topics["t"].topic_id
            by_id = DeleteTopicState(name=None, topic_id=topic_id)
            request = DeleteTopicsRequest(
                topics=[by_id] if version == 6 else [], topic_names=["t"], timeout_ms=1000
            )
            response = await delete_topics.handle(request, asked.context(version))
            [result] = response.responses
            assert (result.name, result.topic_id, result.error_code) == ("t", topic_id, 0)
            await settle()

    async def test_delete_topics_refusals(self, asked):
        unknown = uuid.uuid4()
        request = DeleteTopicsRequest(
            topics=[
                DeleteTopicState(name=None, topic_id=unknown),
                DeleteTopicState(name="ghost"),
            ],
            timeout_ms=100,
        )
        response = await delete_topics.handle(request, asked.context(6))
        assert [(r.name, r.error_code) for r in response.responses] == [
            (None, ErrorCode.UNKNOWN_TOPIC_ID),
            ("ghost", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ]
        both = DeleteTopicsRequest(topics=[DeleteTopicState(name="t", topic_id=unknown)])
        with pytest.raises(ApiError) as refused:
            await delete_topics.handle(both, asked.context(6))
        assert refused.value.code is ErrorCode.INVALID_REQUEST

    @pytest.mark.parametrize(
        ("version", "code"),
        [(3, ErrorCode.TOPIC_DELETION_DISABLED), (2, ErrorCode.INVALID_REQUEST)],
    )
    async def test_delete_topics_where_it_is_disabled(self, asked, version, code):
        settings = {"delete.topic.enable": "false"}
        broker = Broker(asked.cluster, asked.parts.controller, **settings)
        request = DeleteTopicsRequest(topic_names=["t"], timeout_ms=100)
        response = await delete_topics.handle(request, broker.context(version))
        assert [r.error_code for r in response.responses] == [code]

    async def test_elect_leaders_waits_until_the_leader_is_known_here(self, asked):
        await asked.create_one(assigned("t", [2, 1]))
        session = asked.cluster.sessions[2]
        session.expire()
        await settle()
        session.renew()
        await asked.cluster.register(2)
        await settle()
        state = await asked.cluster.state()
        path = znodes.state_path(TopicPartition("t", 0))
        back = znodes.encode_partition_state(
            znodes.decode_partition_state(
                TopicPartition("t", 0), asked.cluster.zookeeper.nodes[path].data, 0
            )
        ).replace(b'"isr":[1]', b'"isr":[1,2]')
        asked.cluster.zookeeper.put(path, back)
        asked.cluster.zookeeper.put(
            f"{znodes.ISR_CHANGES}/isr_change_0000000001",
            znodes.encode_partitions([TopicPartition("t", 0)]),
        )
        await settle()
        assert state.leader == 1
        request = ElectLeadersRequest(
            topic_partitions=[TopicPartitions(topic="t", partitions=[0, 7])], timeout_ms=1000
        )
        response = await elect_leaders.handle(request, asked.context(2))
        [topic] = response.replica_election_results
        assert [(p.partition_id, p.error_code) for p in topic.partition_result] == [
            (0, ErrorCode.NONE),
            (7, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ]
        image = asked.metadata.image.partition(TopicPartition("t", 0))
        assert image.leader == 2

    async def test_elect_leaders_for_all_is_silent_where_nothing_is_needed(self, asked):
        await asked.create_one(assigned("t", [2, 1]))
        request = ElectLeadersRequest(topic_partitions=None, timeout_ms=1000)
        response = await elect_leaders.handle(request, asked.context(2))
        assert (response.error_code, list(response.replica_election_results)) == (0, [])

    async def test_elect_leaders_that_is_not_heard_of_in_time(self, asked, autojump_clock):
        class Elsewhere:
            async def elect_leaders(self, partitions, *, unclean):
                return {tp: ElectionResult(ErrorCode.NONE, 2, 99) for tp in partitions}

        asked.parts.controller = Elsewhere()
        request = ElectLeadersRequest(
            topic_partitions=[TopicPartitions(topic="t", partitions=[0])], timeout_ms=500
        )
        response = await elect_leaders.handle(request, asked.context(2))
        [result] = response.replica_election_results[0].partition_result
        assert result.error_code == ErrorCode.REQUEST_TIMED_OUT

    async def test_elect_leaders_of_no_type(self, asked):
        with pytest.raises(ApiError) as refused:
            await elect_leaders.handle(ElectLeadersRequest(election_type=2), asked.context(2))
        assert refused.value.code is ErrorCode.INVALID_REQUEST

    async def test_whoever_is_not_controller_says_so(self, asked):
        controller = asked.cluster.controller(2)
        other = Broker(asked.cluster, controller)
        context = other.context(6)
        created = await create_topics.handle(
            CreateTopicsRequest(topics=[counted("t"), counted("u")]), context
        )
        assert [t.error_code for t in created.topics] == [ErrorCode.NOT_CONTROLLER] * 2
        grown = await create_partitions.handle(
            CreatePartitionsRequest(topics=[CreatePartitionsTopic(name="t", count=2)]), context
        )
        assert [t.error_code for t in grown.results] == [ErrorCode.NOT_CONTROLLER]
        gone = await delete_topics.handle(
            DeleteTopicsRequest(topics=[DeleteTopicState(name="t")]), context
        )
        assert [t.error_code for t in gone.responses] == [ErrorCode.NOT_CONTROLLER]
        elected = await elect_leaders.handle(
            ElectLeadersRequest(topic_partitions=[TopicPartitions(topic="t", partitions=[0])]),
            context,
        )
        assert elected.error_code == ErrorCode.NOT_CONTROLLER
        [topic] = elected.replica_election_results
        assert [p.error_code for p in topic.partition_result] == [ErrorCode.NOT_CONTROLLER]
        for handler, request in (
            (alter_partition, AlterPartitionRequest()),
            (allocate_producer_ids, AllocateProducerIdsRequest()),
            (controlled_shutdown, ControlledShutdownRequest()),
        ):
            answer = await handler.handle(request, context)
            assert answer.error_code == ErrorCode.NOT_CONTROLLER

    async def test_requests_of_brokers_reach_the_controller(self, asked):
        epoch = (await asked.cluster.operator.brokers())[2].broker_epoch
        context = asked.context(0)
        block = await allocate_producer_ids.handle(
            AllocateProducerIdsRequest(broker_id=2, broker_epoch=epoch), context
        )
        assert (block.error_code, block.producer_id_len) == (0, 1000)
        altered = await alter_partition.handle(
            AlterPartitionRequest(broker_id=2, broker_epoch=epoch), asked.context(3)
        )
        assert altered.error_code == 0
        left = await controlled_shutdown.handle(
            ControlledShutdownRequest(broker_id=2, broker_epoch=epoch), asked.context(3)
        )
        assert (left.error_code, list(left.remaining_partitions)) == (0, [])
