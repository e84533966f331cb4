"""Brokers that take every control request, beside a ZooKeeper of dictionaries.

The controllers and stores are real; what is behind a broker's listener is `FakePeer`, which does as
it is told and remembers it. For tests of the controller and of what waits for it.
"""

import random
import uuid

import trio
import trio.testing
from fake_zookeeper import FakeSession, FakeZooKeeper

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.controller.controller import Controller
from zkafka.errors import ErrorCode, PeerUnreachable
from zkafka.model import Endpoint, PartitionState, ReplicaAssignment, TopicPartition
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrPartitionError,
    LeaderAndIsrRequest,
    LeaderAndIsrResponse,
    LeaderAndIsrTopicError,
)
from zkafka.protocol.messages.stop_replica import StopReplicaRequest, StopReplicaResponse
from zkafka.protocol.messages.update_metadata import UpdateMetadataRequest, UpdateMetadataResponse
from zkafka.replication.purgatory import METADATA, Purgatory
from zkafka.server.metadata import MetadataCache
from zkafka.zk.store import Store
from zkafka.zk.znodes import BrokerRegistration

T0 = TopicPartition("t", 0)


class Cluster:
    """Brokers that take every control request, registered in one ZooKeeper."""

    def __init__(self) -> None:
        self.zookeeper = FakeZooKeeper()
        self.clock = Clock()
        self.received: dict[int, list] = {}
        self.unreachable: set[int] = set()
        self.storage_errors: dict[int, set[str]] = {}
        self.sessions: dict[int, FakeSession] = {}
        self.operator = Store(FakeSession(self.zookeeper))
        self.metadata: dict[int, MetadataCache] = {}
        self.purgatories: dict[int, Purgatory] = {}

    async def setup(self) -> None:
        await self.operator.create_base_paths()

    def connect(self, info):
        return FakePeer(self, info.broker_id)

    async def register(self, broker_id: int) -> int:
        """Open a session and register; the broker epoch."""
        session = self.sessions.get(broker_id) or FakeSession(self.zookeeper)
        self.sessions[broker_id] = session
        registration = BrokerRegistration(
            broker_id=broker_id,
            endpoints=(Endpoint("PLAINTEXT", f"host{broker_id}", 9092),),
        )
        return await Store(session).register_broker(registration)

    def controller(self, broker_id: int, **settings: str) -> Controller:
        session = self.sessions[broker_id]
        return Controller(
            broker_id=broker_id,
            store=Store(session),
            session=session,
            connect=self.connect,
            config=BrokerConfig.parse(
                {"zookeeper.connect": "fake", "log.dirs": "/nowhere", **settings}
            ),
            clock=self.clock,
            rng=random.Random(3),
        )

    async def create_topic(self, name: str, *replicas: tuple[int, ...], configs=None):
        topic_id = uuid.uuid4()
        await self.operator.create_topic(
            name,
            topic_id,
            {p: ReplicaAssignment(replicas=r) for p, r in enumerate(replicas)},
            configs or {},
        )
        return topic_id

    def metadata_of(self, broker_id: int) -> MetadataCache:
        """What the broker was told of the cluster."""
        return self.metadata.setdefault(broker_id, MetadataCache("cluster"))

    def purgatory_of(self, broker_id: int) -> Purgatory:
        """Where the broker's requests wait."""
        return self.purgatories.setdefault(broker_id, Purgatory())

    async def state(self, tp: TopicPartition = T0) -> PartitionState | None:
        return (await self.operator.partition_states([tp])).get(tp)

    def roles(self, broker_id: int) -> dict[str, tuple[int, int]]:
        """(leader, leader epoch) as the broker was told last, per partition."""
        return {
            f"{topic.topic_name}-{p.partition_index}": (p.leader, p.leader_epoch)
            for request in self.received.get(broker_id, ())
            if isinstance(request, LeaderAndIsrRequest)
            for topic in request.topic_states
            for p in topic.partition_states
        }


class FakePeer:
    """A connection to a broker that does as it is told."""

    def __init__(self, cluster: Cluster, broker_id: int) -> None:
        self.cluster = cluster
        self.broker_id = broker_id
        self.closed = False

    async def request(self, message, version=None):
        await trio.lowlevel.checkpoint()
        assert not self.closed
        if self.broker_id in self.cluster.unreachable:
            raise PeerUnreachable("black hole")
        self.cluster.received.setdefault(self.broker_id, []).append(message)
        match message:
            case UpdateMetadataRequest():
                assert version == 8
                self.cluster.metadata_of(self.broker_id).apply(message)
                self.cluster.purgatory_of(self.broker_id).wake(METADATA)
                return UpdateMetadataResponse()
            case StopReplicaRequest():
                assert version == 4
                return StopReplicaResponse()
            case LeaderAndIsrRequest():
                assert version == 7
                bad = self.cluster.storage_errors.get(self.broker_id, ())
                return LeaderAndIsrResponse(
                    topics=[
                        LeaderAndIsrTopicError(
                            topic_id=t.topic_id,
                            partition_errors=[
                                LeaderAndIsrPartitionError(
                                    partition_index=p.partition_index,
                                    error_code=ErrorCode.KAFKA_STORAGE_ERROR
                                    if t.topic_name in bad
                                    else ErrorCode.NONE,
                                )
                                for p in t.partition_states
                            ],
                        )
                        for t in message.topic_states
                    ]
                )

    async def aclose(self):
        await trio.lowlevel.checkpoint()
        self.closed = True


async def settle() -> None:
    """Let everything that can happen without time passing happen."""
    await trio.testing.wait_all_tasks_blocked(0.001)


async def start(nursery, cluster: Cluster, *ids: int, **settings: str) -> Controller:
    """Register brokers; the first of them runs a controller, which is elected."""
    await cluster.setup()
    for broker_id in ids:
        await cluster.register(broker_id)
    controller = cluster.controller(ids[0], **settings)
    await nursery.start(controller.run)
    await settle()
    return controller
