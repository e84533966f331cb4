"""A coordinator on a stage: fake replicas, virtual time, and consumers that know the protocol."""

import contextlib
import itertools
import uuid

import trio
import trio.testing
from fake_replicas import FakeReplicas

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errors import ErrorCode
from zkafka.groups.coordinator import ClientContext, GroupCoordinator
from zkafka.model import OFFSETS_TOPIC
from zkafka.protocol.messages.heartbeat import HeartbeatRequest
from zkafka.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from zkafka.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from zkafka.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from zkafka.protocol.messages.offset_fetch import (
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)
from zkafka.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from zkafka.protocol.messages.update_metadata import (
    UpdateMetadataBroker,
    UpdateMetadataEndpoint,
    UpdateMetadataPartitionState,
    UpdateMetadataRequest,
    UpdateMetadataTopicState,
)
from zkafka.replication.purgatory import Purgatory
from zkafka.server.metadata import MetadataCache

EPOCH_S = 1_700_000_000
PARTITIONS = 4
GROUP = "readers"


class InlineOffload:
    """Runs in place what would go to a thread, after letting others run."""

    async def run(self, fn, *args):
        await trio.lowlevel.checkpoint()
        return fn(*args)


def clock():
    return Clock(wall=lambda: EPOCH_S + trio.current_time())


def config(**settings):
    properties = {
        "broker.id": "1",
        "zookeeper.connect": "localhost:2181",
        "listeners": "PLAINTEXT://localhost:9092",
        "log.dirs": "/nowhere",
        "offsets.topic.num.partitions": str(PARTITIONS),
        "group.initial.rebalance.delay.ms": "0",
        **{name.replace("_", "."): str(value) for name, value in settings.items()},
    }
    return BrokerConfig.parse(properties)


def metadata(**topics):
    """A cache that knows one broker and these topics, by their partition counts."""
    cache = MetadataCache("cluster")
    cache.apply(update_metadata(topics))
    return cache


def update_metadata(topics, leader=1):
    return UpdateMetadataRequest(
        controller_id=1,
        controller_epoch=1,
        live_brokers=[
            UpdateMetadataBroker(
                id=1,
                endpoints=[
                    UpdateMetadataEndpoint(host="localhost", port=9092, listener="PLAINTEXT")
                ],
            )
        ],
        topic_states=[
            UpdateMetadataTopicState(
                topic_name=name,
                topic_id=uuid.uuid5(uuid.NAMESPACE_DNS, name),
                partition_states=[
                    UpdateMetadataPartitionState(
                        partition_index=index, leader=leader, isr=[1], replicas=[1]
                    )
                    for index in range(count)
                ],
            )
            for name, count in topics.items()
        ],
    )


class CoordinatorScene:
    """One broker's coordinator, leading every partition; checked after each request."""

    def __init__(self, logs=None, **settings):
        self.purgatory = Purgatory()
        self.replicas = FakeReplicas(self.purgatory, logs)
        self.metadata = metadata(orders=3, bills=1)
        self.config = config(**settings)
        self.clock = clock()
        ids = itertools.count(1)
        self.groups = GroupCoordinator(
            replicas=self.replicas,
            metadata=self.metadata,
            purgatory=self.purgatory,
            offload=InlineOffload(),
            config=self.config,
            clock=self.clock,
            new_uuid=lambda: uuid.UUID(int=next(ids)),
        )

    @contextlib.asynccontextmanager
    async def running(self, *, lead=True, loaded=True):
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            await nursery.start(self.groups.run)
            if lead:
                for partition in range(PARTITIONS):
                    self.lead(partition)
                if loaded:
                    await self.loaded()
            yield self
            self.groups.check()
            nursery.cancel_scope.cancel()

    def lead(self, partition, leader_epoch=0):
        self.replicas.lead(partition, leader_epoch)
        self.groups.partition_led(partition, leader_epoch)

    def resign(self, partition):
        self.replicas.lose(partition)
        self.groups.partition_resigned(partition)

    async def loaded(self):
        while self.groups.statistics().partitions_loading:
            await trio.testing.wait_all_tasks_blocked()

    def partition(self, group=GROUP):
        return self.groups.partition_for(group)

    def log(self, group=GROUP):
        return self.replicas.lead(self.partition(group), 0)

    # Requests.

    async def join(self, member_id="", *, group=GROUP, version=9, speaks="range", topics=b"", **kw):
        request = JoinGroupRequest(
            group_id=group,
            member_id=member_id,
            **{
                "session_timeout_ms": 10_000,
                "rebalance_timeout_ms": 60_000,
                "protocol_type": "consumer",
                "protocols": [JoinGroupRequestProtocol(name=speaks, metadata=topics)],
                **kw,
            },
        )
        return await self.groups.join_group(request, ClientContext("client", "10.0.0.1", version))

    async def join_for_good(self, **kw):
        """As clients do since version 4: come again with the id that one is given."""
        first = await self.join(**kw)
        if first.error_code != ErrorCode.MEMBER_ID_REQUIRED:
            return first
        return await self.join(first.member_id, **kw)

    async def sync(self, member_id, generation, assignments=None, *, group=GROUP, **kw):
        return await self.groups.sync_group(
            SyncGroupRequest(
                group_id=group,
                member_id=member_id,
                generation_id=generation,
                assignments=[
                    SyncGroupRequestAssignment(member_id=m, assignment=a)
                    for m, a in (assignments or {}).items()
                ],
                **kw,
            )
        )

    def heartbeat(self, member_id, generation, *, group=GROUP, **kw):
        request = HeartbeatRequest(
            group_id=group, member_id=member_id, generation_id=generation, **kw
        )
        return ErrorCode(self.groups.heartbeat(request).error_code)

    def leave(self, *members, group=GROUP):
        identities = [MemberIdentity(member_id=m) if isinstance(m, str) else m for m in members]
        return self.groups.leave_group(LeaveGroupRequest(group_id=group, members=identities))

    async def member(self, *, group=GROUP, **kw):
        """One member, alone and stable: its id and generation."""
        joined = await self.join_for_good(group=group, **kw)
        assert not joined.error_code
        me, generation = joined.member_id, joined.generation_id
        synced = await self.sync(me, generation, {me: b"all"}, group=group)
        assert synced.error_code == ErrorCode.NONE
        return me, generation

    async def commit(self, offsets, member_id="", generation=-1, *, group=GROUP, **kw):
        """`offsets` by (topic, partition); the error codes, in order."""
        metadata = kw.pop("metadata", "")
        request = OffsetCommitRequest(
            group_id=group,
            member_id=member_id,
            generation_id_or_member_epoch=generation,
            topics=[
                OffsetCommitRequestTopic(
                    name=topic,
                    partitions=[
                        OffsetCommitRequestPartition(
                            partition_index=index,
                            committed_offset=offset,
                            committed_leader_epoch=5,
                            committed_metadata=metadata,
                        )
                    ],
                )
                for (topic, index), offset in offsets.items()
            ],
            **kw,
        )
        response = await self.groups.commit_offsets(request)
        return [ErrorCode(p.error_code) for t in response.topics for p in t.partitions]

    def fetch(self, *wanted, group=GROUP, require_stable=False):
        """The offsets (or error codes) by (topic, partition); nothing wanted is all."""
        topics = None
        if wanted:
            topics = [OffsetFetchRequestTopics(name=t, partition_indexes=[p]) for t, p in wanted]
        response = self.groups.fetch_offsets(
            OffsetFetchRequestGroup(group_id=group, topics=topics), require_stable=require_stable
        )
        if response.error_code:
            return ErrorCode(response.error_code)
        return {
            (topic.name, p.partition_index): ErrorCode(p.error_code)
            if p.error_code
            else p.committed_offset
            for topic in response.topics
            for p in topic.partitions
        }

    def describe(self, group=GROUP):
        return self.groups.describe_group(group, 0)

    def state(self, group=GROUP):
        return self.describe(group).group_state


OFFSETS = OFFSETS_TOPIC
