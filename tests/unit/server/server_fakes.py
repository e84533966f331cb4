"""Stand-ins for the parts that handlers call, each as small as its use here."""

import random
import uuid
from types import SimpleNamespace

import trio
import trio.lowlevel

from zkafka.clock import Clock
from zkafka.config import LogConfig
from zkafka.errors import ApiError, ErrorCode
from zkafka.model import EpochEndOffset, TopicPartition
from zkafka.protocol.codec import RequestHeader
from zkafka.protocol.messages.update_metadata import (
    UpdateMetadataBroker,
    UpdateMetadataEndpoint,
    UpdateMetadataPartitionState,
    UpdateMetadataRequest,
    UpdateMetadataTopicState,
)
from zkafka.replication.purgatory import Purgatory
from zkafka.replication.replicas import AppendResult, OffsetFound, Opening, PartitionRead
from zkafka.server.context import Parts, RequestContext
from zkafka.server.fetch_sessions import FetchSessions
from zkafka.server.metadata import MetadataCache

TOPIC_ID = uuid.UUID(int=42)
LISTENER = "PLAINTEXT"


def update_metadata(
    *, topics=("t",), partitions=2, leader=1, brokers=(1, 2), controller=1, epoch=1
):
    return UpdateMetadataRequest(
        controller_id=controller,
        controller_epoch=epoch,
        topic_states=[
            UpdateMetadataTopicState(
                topic_name=name,
                topic_id=uuid.UUID(int=TOPIC_ID.int + i),
                partition_states=[
                    UpdateMetadataPartitionState(
                        partition_index=p, leader=leader, leader_epoch=3, isr=[1, 2],
                        replicas=[1, 2],
                    )
                    for p in range(partitions)
                ],
            )
            for i, name in enumerate(topics)
        ],
        live_brokers=[
            UpdateMetadataBroker(
                id=b,
                endpoints=[UpdateMetadataEndpoint(host=f"h{b}", port=9090 + b, listener=LISTENER)],
                rack=f"r{b}",
            )
            for b in brokers
        ],
    )  # fmt: skip


class FakeSlice:
    """Records in a file, of which only the size matters; knows who still holds it."""

    def __init__(self, size):
        self.size = size
        self.holders = 1

    def release(self):
        assert self.holders == 1, "released twice"
        self.holders = 0


class FakeReplicas:
    """Partitions as lists of batch sizes; offsets count batches, all are below the watermark."""

    def __init__(self, purgatory):
        self.purgatory = purgatory
        self.logs: dict[TopicPartition, list[int]] = {}
        self.errors: dict[TopicPartition, ErrorCode] = {}
        self.aborted = {}
        self.slices: list[FakeSlice] = []
        self.reads: list[tuple[TopicPartition, bool]] = []
        self.appended = []
        self.opens: dict[TopicPartition, Exception | None] = {}
        """Partitions whose batches must be opened first, and what comes of that."""
        self.opened: list[TopicPartition] = []
        self.replicated = True
        self.crash: Exception | None = None
        self.controller_epoch = 1
        self.lag_checks = 0

    @property
    def hosted(self):
        unassigned = SimpleNamespace(leader=-1, leader_epoch=-1)
        return {tp: SimpleNamespace(machine=unassigned) for tp in self.logs}

    async def check_lag(self):
        self.lag_checks += 1

    def put(self, tp, *sizes):
        self.logs.setdefault(tp, []).extend(sizes)
        self.purgatory.wake(tp)

    def append(self, tp, records, *, required_acks):
        if self.crash is not None:
            raise self.crash
        if tp in self.errors:
            raise ApiError(self.errors[tp], "because")
        if tp in self.opens:
            batch = SimpleNamespace(view=records, size=len(records))
            return Opening(tp, batch, LogConfig(), required_acks)
        return self._take(tp, records, required_acks)

    async def append_opened(self, opening):
        self.opened.append(opening.topic_partition)
        outcome = self.opens[opening.topic_partition]
        if isinstance(outcome, Exception):
            raise outcome
        return self._take(opening.topic_partition, opening.batch.view, opening.required_acks)

    def _take(self, tp, records, required_acks):
        log = self.logs.setdefault(tp, [])
        self.appended.append((tp, bytes(records), required_acks))
        self.put(tp, len(records))
        return AppendResult(tp, len(log) - 1, len(log) - 1, 3, 0, False, None)

    def verdict(self, result, required_acks=-1):
        if required_acks != -1:
            return ErrorCode.NONE
        return ErrorCode.NONE if self.replicated else None

    def verdicts(self, results, required_acks):
        return [self.verdict(result, required_acks) for result in results]

    def call_when_replicated(self, results, deadline_ms, required_acks, call):
        def over():
            code = ErrorCode.NONE if self.replicated else ErrorCode.REQUEST_TIMED_OUT
            call([code for _ in results])

        return self.purgatory.call_after_wake(
            ["replicated"], lambda _key: self.replicated, deadline_ms, over
        )

    def read(
        self, fetch, *, replica_id=-1, replica_epoch=-1, isolation=0, max_bytes, at_least_one,
        first_pass=True, leader_only=False,
    ):  # fmt: skip
        tp = fetch.topic_partition
        self.reads.append((tp, first_pass))
        if tp in self.errors:
            return PartitionRead(self.errors[tp])
        log = self.logs.get(tp)
        if log is None:
            return PartitionRead(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        limit, size = min(fetch.max_bytes, max_bytes), 0
        for batch in log[fetch.fetch_offset :]:
            if size + batch > limit and not (at_least_one and size == 0):
                break
            size += batch
        found = None
        if size:
            found = FakeSlice(size)
            self.slices.append(found)
        aborted = self.aborted.get(tp, ()) if isolation else ()
        return PartitionRead(ErrorCode.NONE, len(log), len(log), 0, found, aborted=aborted)

    def bytes_available(self, fetch, *, replica_id=-1, isolation=0, wanted=1, leader_only=False):
        if fetch.topic_partition in self.errors:
            return None
        return sum(self.logs.get(fetch.topic_partition, [])[fetch.fetch_offset :])

    async def offset_for_timestamp(
        self, tp, timestamp, *, current_leader_epoch=-1, replica_id=-1, isolation=0
    ):
        if tp in self.errors:
            return OffsetFound(self.errors[tp])
        return OffsetFound(ErrorCode.NONE, timestamp, len(self.logs[tp]), 3)

    def end_offset_for_epoch(self, tp, current_leader_epoch, leader_epoch):
        if tp in self.errors:
            return self.errors[tp], EpochEndOffset(-1, -1)
        return ErrorCode.NONE, EpochEndOffset(leader_epoch, len(self.logs[tp]))

    async def delete_records(self, tp, offset, deadline_ms):
        await trio.lowlevel.checkpoint()
        if tp in self.errors:
            return self.errors[tp], -1
        return ErrorCode.NONE, offset

    @property
    def held(self):
        """Slices that nobody has released."""
        return [s for s in self.slices if s.holders]


class FakeGroups:
    def __init__(self):
        self.events = []

    def append_marker(self, partition, batch, ended):
        self.events.append(("ended", partition, *ended))
        raise ApiError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "loading")

    def partition_led(self, partition, leader_epoch):
        self.events.append(("led", partition, leader_epoch))

    def partition_resigned(self, partition):
        self.events.append(("resigned", partition))

    def topics_deleted(self, topics):
        self.events.append(("deleted", sorted(topics)))


class FakeTopics:
    def __init__(self):
        self.created = []
        self.code = ErrorCode.LEADER_NOT_AVAILABLE

    async def auto_create(self, name):
        await trio.lowlevel.checkpoint()
        self.created.append(name)
        return self.code


class FakeConfigs:
    """`learned` are the topics whose settings were read before their first log."""

    def __init__(self):
        self.learned = []
        self.compression_type = "producer"

    def config_for(self, topic):
        return SimpleNamespace(compression_type=self.compression_type)

    async def learn(self, topics):
        await trio.lowlevel.checkpoint()
        self.learned.extend(sorted(topics))


def parts(**changes):
    """One broker's parts, with fakes where a handler of ours looks."""
    purgatory = Purgatory()
    metadata = MetadataCache("cluster")
    values = {
        "broker_id": 1,
        "broker_epoch": lambda: 100,
        "config": SimpleNamespace(fetch_max_bytes=55 << 20, auto_create_topics_enable=True),
        "clock": Clock(),
        "metadata": metadata,
        "purgatory": purgatory,
        "offload": None,
        "replicas": FakeReplicas(purgatory),
        "groups": FakeGroups(),
        "controller": None,
        "topics": FakeTopics(),
        "configs": FakeConfigs(),
        "producer_ids": None,
        "fetch_sessions": FetchSessions(watch=purgatory.watch, rng=random.Random(3)),
        "store": None,
        "log_dirs": [],
    }
    return Parts(**(values | changes))


def context(parts, version, *, api_key=0, client_id="client", listener=LISTENER):
    return RequestContext(
        parts=parts,
        header=RequestHeader(api_key, version, 1, client_id),
        connection_id=1,
        peer_host="127.0.0.1",
        listener_name=listener,
    )
