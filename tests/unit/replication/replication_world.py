"""Brokers of one trio loop that replicate among themselves, and a controller that obeys the test.

Real logs, machines, replicas, fetchers and Fetch handlers; between two brokers a link that encodes
and decodes what it carries. Files are worked on in place instead of in threads, so that a mocked
clock sees everything that happens.
"""

import contextlib
import random
import uuid
from types import SimpleNamespace

import attrs
import trio
from answers import fetched

from zkafka.clock import Clock
from zkafka.config import BrokerConfig, LogConfig
from zkafka.errors import ErrorCode, PeerUnreachable
from zkafka.log.directory import LogDirectory, settle
from zkafka.log.files import Files
from zkafka.model import TopicPartition
from zkafka.protocol import codec
from zkafka.protocol.apis import APIS
from zkafka.protocol.fields import NULL_UUID, schema_of
from zkafka.protocol.messages.alter_partition import (
    AlterPartitionRequest,
    AlterPartitionResponse,
    PartitionResult,
    TopicResult,
)
from zkafka.protocol.messages.fetch import FetchRequest
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrPartitionState,
    LeaderAndIsrRequest,
    LeaderAndIsrTopicState,
)
from zkafka.protocol.messages.list_offsets import ListOffsetsRequest
from zkafka.protocol.messages.stop_replica import (
    StopReplicaPartitionState,
    StopReplicaRequest,
    StopReplicaTopicState,
)
from zkafka.protocol.messages.update_metadata import (
    UpdateMetadataBroker,
    UpdateMetadataPartitionState,
    UpdateMetadataRequest,
    UpdateMetadataTopicState,
)
from zkafka.protocol.records import Record, build_batch, iter_records, parse_batches
from zkafka.replication.purgatory import Purgatory
from zkafka.replication.replicas import Replicas
from zkafka.server.context import Parts
from zkafka.server.fetch_sessions import FetchSessions
from zkafka.server.handlers import list_offsets as list_offsets_handler
from zkafka.server.metadata import MetadataCache

TP = TopicPartition("orders", 0)
EPOCH_S = 1_700_000_000


class InPlace:
    """An Offload without threads."""

    def __init__(self):
        self.count = 0

    async def run(self, fn, *args):
        await trio.lowlevel.checkpoint()
        self.count += 1
        return fn(*args)


def clock() -> Clock:
    return Clock(wall=lambda: EPOCH_S + trio.current_time())


def topic_id(name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_DNS, name)


def records(*values, producer_id=-1, producer_epoch=-1, base_sequence=-1, timestamp=None):
    """One batch as a client sends it, in a buffer that may be stamped."""
    timestamp = EPOCH_S * 1000 if timestamp is None else timestamp
    return memoryview(
        build_batch(
            [Record(None, str(value).encode(), timestamp) for value in values],
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
        )
    )


def values_of(data) -> list[str]:
    return [
        bytes(record.value).decode()
        for batch in parse_batches(data, partial_tail=True)
        for record in iter_records(batch)
    ]


@attrs.define
class PartitionFetch:
    """One partition of a Fetch."""

    topic_partition: TopicPartition
    fetch_offset: int
    max_bytes: int
    topic_id: uuid.UUID = NULL_UUID
    current_leader_epoch: int = -1
    last_fetched_epoch: int = -1
    log_start_offset: int = -1


class Broker:
    """One broker: its replicas, and what a Fetch handler needs around them."""

    def __init__(self, world, broker_id, path, **settings):
        self.world = world
        self.broker_id = broker_id
        self.broker_epoch = 100 + broker_id
        self.up = True
        self.session_stands = True
        self.failed_dirs = []
        self.requests = []
        self.dirs = [str(path / f"broker-{broker_id}" / name) for name in world.dir_names]
        properties = {
            "broker.id": str(broker_id),
            "listeners": f"PLAINTEXT://127.0.0.1:{9000 + broker_id}",
            "log.dirs": ",".join(self.dirs),
            "zookeeper.connect": "127.0.0.1:2181",
            "min.insync.replicas": "1",
        } | {key.replace("_", "."): str(value) for key, value in settings.items()}
        self.config = BrokerConfig.parse(properties)
        self.topic_configs: dict[str, LogConfig] = {}
        self.files = world.make_files()
        self.metadata = MetadataCache("cluster")
        self.start()

    def start(self):
        self.clock = clock()
        self.purgatory = Purgatory()
        self.offload = InPlace()
        self.log_dirs = [LogDirectory.open(path, self.files) for path in self.dirs]
        for directory in self.log_dirs:
            directory.load(self.config_for)
        logs = settle(self.log_dirs)
        self.replicas = Replicas(
            broker_id=self.broker_id,
            broker_epoch=lambda: self.broker_epoch,
            config=self.config,
            config_for=self.config_for,
            log_dirs=self.log_dirs,
            logs=logs,
            metadata=self.metadata,
            purgatory=self.purgatory,
            offload=self.offload,
            clock=self.clock,
            connect=lambda other: Link(self.world, self, other),
            controller=ControllerLink(self.world, self),
            may_propose=lambda: self.session_stands,
            on_log_dir_failure=self.failed_dirs.append,
        )
        self.parts = Parts(
            broker_id=self.broker_id,
            broker_epoch=lambda: self.broker_epoch,
            config=self.config,
            clock=self.clock,
            metadata=self.metadata,
            purgatory=self.purgatory,
            offload=self.offload,
            replicas=self.replicas,
            log_dirs=self.log_dirs,
            fetch_sessions=FetchSessions(
                watch=self.purgatory.watch, rng=random.Random(self.broker_id)
            ),
            **dict.fromkeys(["groups", "controller", "topics", "configs", "producer_ids", "store"]),
        )

    def config_for(self, topic):
        return self.topic_configs.get(topic, self.config.log_defaults)

    async def handle(self, message):
        """The handler's answer, through the wire's form and back."""
        api = APIS[schema_of(type(message)).api_key]
        context = SimpleNamespace(
            parts=self.parts, version=api.max_version, listener_name="PLAINTEXT", client_id=""
        )
        handle = fetched if isinstance(message, FetchRequest) else list_offsets_handler.handle
        self.requests.append(message)
        response = await handle(message, context)
        frame = bytearray()
        for part in codec.encode_response(response, api.max_version, 7):
            if hasattr(part, "release"):
                frame += part.read()
                part.release()
            else:
                frame += part
        _, decoded = codec.decode_response(
            api.response_class, api.max_version, memoryview(bytes(frame[4:]))
        )
        return decoded

    # What tests do.

    def machine(self, tp=TP):
        return self.replicas.hosted[tp].machine

    def log(self, tp=TP):
        return self.replicas.hosted[tp].log

    def produce(self, *values, tp=TP, acks=-1, **how):
        return self.replicas.append(tp, records(*values, **how), required_acks=acks)

    def fetch(self, offset=0, *, tp=TP, max_bytes=1 << 20, **how):
        """A consumer's read; (error, values)."""
        read = self.replicas.read(
            PartitionFetch(tp, offset, max_bytes), max_bytes=max_bytes, at_least_one=True, **how
        )
        if read.slice is None:
            return read.error, []
        try:
            return read.error, values_of(read.slice.read())
        finally:
            read.slice.release()

    def everything(self, tp=TP) -> list[str]:
        """What its log holds, committed or not."""
        log = self.log(tp)
        found, offset = [], log.log_start_offset
        while (
            piece := log.read(offset, 1 << 20, upper_bound=log.log_end_offset, at_least_one=True)
        ) is not None:
            try:
                for batch in parse_batches(piece.read()):
                    found += [bytes(record.value).decode() for record in iter_records(batch)]
                    offset = batch.last_offset + 1
            finally:
                piece.release()
        return found

    def close(self):
        for directory in self.log_dirs:
            directory.close(clean=False)


class Link:
    """From one broker to another, while both are up and nobody cut it."""

    def __init__(self, world, source, target_id):
        self.world, self.source, self.target_id = world, source, target_id
        self.closed_count = 0

    def _check(self):
        target = self.world.brokers.get(self.target_id)
        cut = frozenset({self.source.broker_id, self.target_id}) in self.world.cuts
        if target is None or not target.up or cut:
            raise PeerUnreachable(f"broker {self.target_id}")
        return target

    async def request(self, message, *, timeout_ms=None):
        assert isinstance(message, FetchRequest | ListOffsetsRequest)
        await trio.lowlevel.checkpoint()
        target = self._check()
        with trio.CancelScope() as scope:
            self.world.conversations[scope] = (self.source.broker_id, self.target_id)
            try:
                response = await target.handle(message)
            finally:
                del self.world.conversations[scope]
        if scope.cancelled_caught:
            raise PeerUnreachable(f"broker {self.target_id} went away")
        self._check()
        if self.world.on_answer is not None:
            response = self.world.on_answer(self.source, message, response)
        return response

    async def aclose(self):
        self.closed_count += 1
        await trio.lowlevel.checkpoint()


class ControllerLink:
    """To the controller, as far as a test lets it through."""

    def __init__(self, world, source):
        self.world, self.source = world, source

    async def request(self, message):
        assert isinstance(message, AlterPartitionRequest)
        await trio.lowlevel.checkpoint()
        return self.world.alter_partition(message)

    async def aclose(self):
        await trio.lowlevel.checkpoint()


class World:
    """Brokers 1..n, and the cluster's state as their controller has it."""

    def __init__(self, path, count=2, *, dir_names=("a",), make_files=Files, **settings):
        self.dir_names = dir_names
        self.make_files = make_files
        self.cuts = set()
        self.conversations = {}
        self.on_answer = None
        self.controller_epoch = 1
        self.states = {}
        self.proposals = []
        self.refuse_with = []  # errors for the next proposals; None for an unreachable controller
        self.brokers = {n: Broker(self, n, path, **settings) for n in range(1, count + 1)}
        self.alive = set(self.brokers)

    def __getitem__(self, broker_id):
        return self.brokers[broker_id]

    @contextlib.asynccontextmanager
    async def running(self):
        """All brokers' tasks, until the block ends."""
        async with trio.open_nursery() as nursery:
            for broker in self.brokers.values():
                await nursery.start(broker.replicas.run)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()
        self.close()

    def close(self):
        for broker in self.brokers.values():
            broker.close()

    def cut(self, one, other):
        self.cuts.add(frozenset({one, other}))
        for scope, ends in list(self.conversations.items()):
            if set(ends) == {one, other}:
                scope.cancel()

    def heal(self):
        self.cuts.clear()

    # The controller.

    async def assign(self, leader, *, tp=TP, replicas=None, isr=None, tell=None, **state):
        """A new leader epoch; tells the brokers, or those in `tell`, in this order."""
        known = self.states.get(tp)
        replicas = list(replicas or (known.replicas if known else sorted(self.brokers)))
        isr = list(isr or (known.isr if known else replicas))
        self.states[tp] = SimpleNamespace(
            leader=leader,
            leader_epoch=known.leader_epoch + 1 if known else 0,
            partition_epoch=known.partition_epoch + 1 if known else 0,
            isr=isr,
            replicas=replicas,
        )
        self.publish()
        answers = {}
        for broker_id in replicas if tell is None else tell:
            if self.brokers[broker_id].up:
                answers[broker_id] = await self.tell(broker_id, tp, **state)
        return answers

    async def tell(self, broker_id, tp=TP, *, controller_epoch=None, broker_epoch=-1, **state):
        """One LeaderAndIsr about one partition; the partition's code, or the request's."""
        broker = self.brokers[broker_id]
        known = self.states[tp]
        fields = {
            "partition_index": tp.partition,
            "leader": known.leader,
            "leader_epoch": known.leader_epoch,
            "isr": known.isr,
            "partition_epoch": known.partition_epoch,
            "replicas": known.replicas,
            "is_new": known.leader_epoch == 0,
        }
        identity = state.pop("topic_id", topic_id(tp.topic))
        changes = await broker.replicas.apply_leader_and_isr(
            LeaderAndIsrRequest(
                controller_epoch=controller_epoch or self.controller_epoch,
                broker_epoch=broker_epoch,
                topic_states=[
                    LeaderAndIsrTopicState(
                        topic_name=tp.topic,
                        topic_id=identity,
                        partition_states=[LeaderAndIsrPartitionState(**(fields | state))],
                    )
                ],
            )
        )
        response = changes.response
        if response.error_code:
            return ErrorCode(response.error_code)
        return ErrorCode(response.topics[0].partition_errors[0].error_code)

    async def stop(self, broker_id, tp=TP, *, leader_epoch=-1, delete=False, controller_epoch=None):
        """One StopReplica; the partition's code, or the request's."""
        response, _ = await self.brokers[broker_id].replicas.apply_stop_replica(
            StopReplicaRequest(
                controller_epoch=controller_epoch or self.controller_epoch,
                topic_states=[
                    StopReplicaTopicState(
                        topic_name=tp.topic,
                        partition_states=[
                            StopReplicaPartitionState(
                                partition_index=tp.partition,
                                leader_epoch=leader_epoch,
                                delete_partition=delete,
                            )
                        ],
                    )
                ],
            )
        )
        if response.error_code:
            return ErrorCode(response.error_code)
        return ErrorCode(response.partition_errors[0].error_code)

    def publish(self):
        """Metadata to everybody who is up."""
        topics = {}
        for tp, state in self.states.items():
            topics.setdefault(tp.topic, []).append(
                UpdateMetadataPartitionState(
                    partition_index=tp.partition,
                    controller_epoch=self.controller_epoch,
                    leader=state.leader,
                    leader_epoch=state.leader_epoch,
                    isr=state.isr,
                    zk_version=state.partition_epoch,
                    replicas=state.replicas,
                )
            )
        request = UpdateMetadataRequest(
            controller_id=1,
            controller_epoch=self.controller_epoch,
            topic_states=[
                UpdateMetadataTopicState(
                    topic_name=name, topic_id=topic_id(name), partition_states=partitions
                )
                for name, partitions in topics.items()
            ],
            live_brokers=[UpdateMetadataBroker(id=broker_id) for broker_id in sorted(self.alive)],
        )
        for broker in self.brokers.values():
            if broker.up:
                broker.metadata.apply(request)

    def alter_partition(self, request):
        names = {topic_id(tp.topic): tp.topic for tp in self.states}
        topics = []
        for topic in request.topics:
            results = []
            for data in topic.partitions:
                tp = TopicPartition(names[topic.topic_id], data.partition_index)
                isr = [member.broker_id for member in data.new_isr_with_epochs]
                self.proposals.append((tp, isr))
                results.append(self._altered(tp, data, isr))
            topics.append(TopicResult(topic_id=topic.topic_id, partitions=results))
        return AlterPartitionResponse(topics=topics)

    def _altered(self, tp, data, isr):
        refusal = self.refuse_with.pop(0) if self.refuse_with else ErrorCode.NONE
        if refusal is None:
            raise PeerUnreachable("controller")
        state = self.states[tp]
        if refusal is ErrorCode.NONE:
            if data.leader_epoch != state.leader_epoch:
                refusal = ErrorCode.FENCED_LEADER_EPOCH
            elif data.partition_epoch != state.partition_epoch and set(isr) != set(state.isr):
                refusal = ErrorCode.INVALID_UPDATE_VERSION
        if refusal is not ErrorCode.NONE:
            return PartitionResult(partition_index=tp.partition, error_code=refusal)
        if set(isr) != set(state.isr):
            state.isr = isr
            state.partition_epoch += 1
        return PartitionResult(
            partition_index=tp.partition,
            leader_id=state.leader,
            leader_epoch=state.leader_epoch,
            isr=state.isr,
            partition_epoch=state.partition_epoch,
        )
