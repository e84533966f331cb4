"""Fetch (API key 1, versions 4 to 17): records from an offset on, for consumers and followers.

A consumer reads below the high watermark, a follower to the log end; a follower's fetch offset is
its acknowledgement (`replication.replicas` records it). Answers are whole batches, as slices of the
segment files, from the batch that contains the offset on. The first partition with data returns at
least one batch however large; otherwise the limits of the request, of the partition and of
`fetch.max.bytes` hold.

The answer waits until `min_bytes` are there, an error or a divergence is to be told, or
`max_wait_ms` is over. Partitions that do not exist do not end the wait, unless there are no others:
a client that keeps asking for one would otherwise spin. What was read before the wait is kept; only
the partitions that moved are read again.

Sessions (version 7 and later) are `server.fetch_sessions`.

Where we differ from Kafka: records are never down-converted (there are no message formats 0 and 1);
no follower is preferred for reading (`replica.selector.class` has no effect), though one that is
asked, by version 11 or later, answers; there are no quotas. Transactions are not supported yet, so
the last stable offset is the high watermark and no transaction is ever aborted.

Version history: 4 isolation level, last stable offset (KIP-98); 5 log start offset; 6 storage
errors told as such; 7 sessions (KIP-227); 8 throttling after the answer; 9 leader epoch (KIP-320);
10 zstd (KIP-110; before, a topic that asks for it is UNSUPPORTED_COMPRESSION_TYPE); 11 rack,
followers answer consumers (KIP-392); 12 flexible, last fetched and diverging epoch (KIP-595); 13
topic ids (KIP-516); 14 tiered storage (KIP-405; never answered here); 15 replica state (KIP-903);
16 leader hints (KIP-951); 17 directory id (KIP-853; ignored).
"""

from collections.abc import Sequence
from types import TracebackType

from zkafka.errors import ErrorCode
from zkafka.model import BrokerEpoch, BrokerId, TopicPartition
from zkafka.protocol.messages.fetch import (
    AbortedTransaction,
    EpochEndOffset,
    FetchableTopicResponse,
    FetchRequest,
    FetchResponse,
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionData,
)
from zkafka.replication.replicas import Isolation, PartitionRead
from zkafka.server.context import Parts, RequestContext
from zkafka.server.fetch_sessions import FetchContext, FetchedPartition

_UNKNOWN = frozenset({ErrorCode.UNKNOWN_TOPIC_ID, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION})
_HINTED = frozenset({ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH})


async def handle(request: FetchRequest, context: RequestContext) -> FetchResponse:
    """The records; the response's slices belong to whoever sends it."""
    parts, version = context.parts, context.version
    if version >= 15:
        replica_id = request.replica_state.replica_id
        replica_epoch = request.replica_state.replica_epoch
    else:
        replica_id, replica_epoch = request.replica_id, -1
    names = parts.metadata.image.topic_names
    now_ms = parts.clock.monotonic_ms()
    begun = parts.fetch_sessions.begin(
        request,
        uses_topic_ids=version >= 13,
        topic_names=names.get,
        privileged=replica_id >= 0,
        now_ms=now_ms,
    )
    if isinstance(begun, ErrorCode):
        return FetchResponse(error_code=begun)
    reading = _Reading(
        parts, request, replica_id=replica_id, replica_epoch=replica_epoch, version=version
    )
    with reading:
        await _gather(request, begun, reading, context, now_ms)
        return _answer(begun, reading, context)


async def _gather(
    request: FetchRequest,
    begun: FetchContext,
    reading: "_Reading",
    context: RequestContext,
    now_ms: int,
) -> None:
    """Read what there is; then, if it is too little, sleep until there may be enough."""
    parts, session = context.parts, begun.session
    if session is None:
        due = list(begun.partitions.values())
        everything = len(due)
    else:
        due = session.due(now_ms, parts.fetch_sessions.sweep_ms)
        everything = len(session)
    for fetched in due:
        reading.look(fetched, begun, first_pass=True)
    if request.max_wait_ms <= 0 or reading.is_enough or reading.unknown_count >= everything:
        return

    deadline_ms = now_ms + request.max_wait_ms
    if session is not None:
        await session.watch.wait(lambda name: reading.judge(session.find(name)), deadline_ms)
        for fetched in session.moved():
            reading.look(fetched, begun, first_pass=False)
        return
    by_name = {fetched.topic_partition: fetched for fetched in due if fetched.is_named}
    watch = parts.purgatory.watch()
    try:
        for name in by_name:
            watch.add(name)
        await watch.wait(lambda name: reading.judge(by_name.get(name)), deadline_ms)
        for name in watch.take():
            reading.look(by_name[name], begun, first_pass=False)
    finally:
        watch.close()


def _answer(begun: FetchContext, reading: "_Reading", context: RequestContext) -> FetchResponse:
    """The response, and the session brought up to what it tells. No checkpoint in here."""
    stale = begun.verdict()
    if stale is not ErrorCode.NONE:
        return FetchResponse(error_code=stale)
    parts, session = context.parts, begun.session
    if session is None and begun.wants_session:
        session = parts.fetch_sessions.create(begun, parts.clock.monotonic_ms())
    topics: dict[int | str, tuple[FetchedPartition, list[PartitionData]]] = {}
    hinted: set[BrokerId] = set()
    traffic, replica_id = parts.traffic, reading.replica_id
    for fetched, (read, settled) in reading.looks.items():
        size = read.size
        failed = read.error is not ErrorCode.NONE or read.diverging is not None
        told = fetched.told(
            read.high_watermark, read.log_start_offset, failed=failed, urgent=size > 0
        )
        if session is not None:
            session.settled(fetched, sent=size > 0, settled=settled)
        if told or not begun.incremental:
            data = (
                _failure(fetched, read, reading, context, hinted)
                if failed
                else PartitionData(
                    partition_index=fetched.topic_partition.partition,
                    high_watermark=read.high_watermark,
                    last_stable_offset=read.last_stable_offset,
                    log_start_offset=read.log_start_offset,
                    aborted_transactions=reading.none_aborted,
                    records=b"" if read.slice is None else read.slice,
                )
            )
            topics.setdefault(fetched.key[0], (fetched, []))[1].append(data)
            if not fetched.is_named:
                continue
            topic = fetched.topic_partition.topic
            if read.error is not ErrorCode.NONE:
                traffic.fetch_failed(topic)
            else:
                traffic.fetched(topic, size=size, replica_id=replica_id)
    reading.hand_over()
    return FetchResponse(
        session_id=0 if session is None else session.session_id,
        responses=[
            FetchableTopicResponse(
                topic=topic if isinstance(topic, str) else "",
                topic_id=first.topic_id,
                partitions=partitions,
            )
            for topic, (first, partitions) in topics.items()
        ],
        node_endpoints=_endpoints(hinted, context) if hinted else [],
    )


def _failure(
    fetched: FetchedPartition,
    read: PartitionRead,
    reading: "_Reading",
    context: RequestContext,
    hinted: set[BrokerId],
) -> PartitionData:
    """The answer about a partition that has an error, or whose fetcher's log diverges."""
    error = read.error
    diverging, leader = EpochEndOffset(), LeaderIdAndEpoch()
    if read.diverging is not None:
        diverging = EpochEndOffset(
            epoch=read.diverging.leader_epoch, end_offset=read.diverging.end_offset
        )
    if error in _HINTED and context.version >= 16 and fetched.is_named:
        known = context.parts.leader_of(fetched.topic_partition)
        if known is not None:
            leader = LeaderIdAndEpoch(leader_id=known[0], leader_epoch=known[1])
            hinted.add(known[0])
    if error is ErrorCode.KAFKA_STORAGE_ERROR and context.version <= 5:
        # Clients of those versions know no storage error, and ask for the new leader on this.
        error = ErrorCode.NOT_LEADER_OR_FOLLOWER
    return PartitionData(
        partition_index=fetched.partition,
        error_code=error,
        high_watermark=read.high_watermark,
        last_stable_offset=read.last_stable_offset,
        log_start_offset=read.log_start_offset,
        diverging_epoch=diverging,
        current_leader=leader,
        aborted_transactions=reading.none_aborted,
        records=b"",
    )


def _endpoints(leaders: set[BrokerId], context: RequestContext) -> list[NodeEndpoint]:
    image = context.parts.metadata.image
    return [
        NodeEndpoint(
            node_id=leader,
            host=endpoint.host,
            port=endpoint.port,
            rack=image.brokers[leader].rack,
        )
        for leader in sorted(leaders)
        if (endpoint := image.endpoint(leader, context.listener_name)) is not None
    ]


_Look = tuple[PartitionRead, bool]
"""What was found in one partition, and whether it needs no second look until it moves."""


class _Reading:
    """What one Fetch has read so far.

    Ownership: a context manager that releases its slices, unless they were handed over.
    """

    __slots__ = (
        "_configs",
        "_isolation",
        "_leader_only",
        "_max_bytes",
        "_metadata",
        "_min_bytes",
        "_more",
        "_more_size",
        "_replica_epoch",
        "_replicas",
        "_size",
        "_urgent",
        "_version",
        "looks",
        "none_aborted",
        "replica_id",
        "unknown_count",
    )

    def __init__(
        self,
        parts: Parts,
        request: FetchRequest,
        *,
        replica_id: BrokerId,
        replica_epoch: BrokerEpoch,
        version: int,
    ) -> None:
        self._replicas = parts.replicas
        self._configs = parts.configs
        self._metadata = parts.metadata
        self.replica_id = replica_id
        self._replica_epoch = replica_epoch
        self._isolation = request.isolation_level
        self._max_bytes = min(request.max_bytes, parts.config.fetch_max_bytes)
        self._min_bytes = request.min_bytes
        self._version = version
        self._leader_only = version < 11
        self.none_aborted: Sequence[AbortedTransaction] | None = (
            [] if request.isolation_level == Isolation.READ_COMMITTED else None
        )
        self.looks: dict[FetchedPartition, _Look] = {}
        self._size = 0
        self._urgent = False
        self._more: dict[FetchedPartition, int] = {}
        self._more_size = 0
        self.unknown_count = 0

    def __enter__(self) -> "_Reading":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for read, _ in self.looks.values():
            if read.slice is not None:
                read.slice.release()
        self.looks = {}

    def hand_over(self) -> None:
        """The slices belong to the response from here on."""
        self.looks = {}

    @property
    def is_enough(self) -> bool:
        """Whether the answer need not wait: enough bytes, or something that cannot wait."""
        return self._urgent or self._size >= self._min_bytes

    def look(self, fetched: FetchedPartition, begun: FetchContext, *, first_pass: bool) -> None:
        """Read the partition, in place of what was read of it before."""
        before = self.looks.pop(fetched, None)
        if before is not None and before[0].slice is not None:
            self._size -= before[0].size
            before[0].slice.release()
        if self._version >= 13 and not self._is_known(fetched, begun):
            self._note(fetched, PartitionRead(ErrorCode.UNKNOWN_TOPIC_ID), settled=False)
            return
        if self._version < 10 and self._is_zstd(fetched.topic_partition.topic):
            # Clients of those versions cannot read it (KIP-110).
            refused = PartitionRead(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
            self._note(fetched, refused, settled=False)
            return
        alone = self._size == 0
        read = self._replicas.read(
            fetched,
            replica_id=self.replica_id,
            replica_epoch=self._replica_epoch,
            isolation=self._isolation,
            max_bytes=max(0, self._max_bytes - self._size),
            at_least_one=alone,
            first_pass=first_pass,
            leader_only=self._leader_only,
        )
        empty = read.error is ErrorCode.NONE and read.slice is None and read.diverging is None
        if empty and not alone:
            # Nothing there, or no room for it: only the first data in an answer may exceed the
            # limits, by one batch.
            empty = self._available(fetched) == 0
        self._note(fetched, read, settled=empty)

    def judge(self, fetched: FetchedPartition | None) -> bool:
        """Whether the wait is over, now that this partition moved. Called by whoever moved it."""
        if fetched is None:
            return False
        wanted = self._min_bytes - self._size
        available = self._available(fetched, wanted)
        if available is None:
            return True
        look = self.looks.get(fetched)
        more = available - (0 if look is None else look[0].size)
        self._more_size += more - self._more.get(fetched, 0)
        self._more[fetched] = more
        return self._more_size >= wanted

    def _available(self, fetched: FetchedPartition, wanted: int = 1) -> int | None:
        return self._replicas.bytes_available(
            fetched,
            replica_id=self.replica_id,
            isolation=self._isolation,
            wanted=wanted,
            leader_only=self._leader_only,
        )

    def _is_known(self, fetched: FetchedPartition, begun: FetchContext) -> bool:
        """Whether the topic of that id has a name now; it may have become known, or have gone,
        since the session began."""
        image = self._metadata.image
        if fetched.named_in is image:
            return True
        name = image.topic_names.get(fetched.topic_id)
        if name is None:
            return False
        fetched.named_in = image
        if name != fetched.topic_partition.topic:
            if begun.session is not None:
                begun.session.named(fetched, name)
            else:
                fetched.topic_partition = TopicPartition(name, fetched.partition)
        return True

    def _is_zstd(self, topic: str) -> bool:
        return self._configs.config_for(topic).compression_type == "zstd"

    def _note(self, fetched: FetchedPartition, read: PartitionRead, *, settled: bool) -> None:
        self.looks[fetched] = (read, settled)
        self._size += read.size
        if read.error in _UNKNOWN:
            self.unknown_count += 1
        elif read.error is not ErrorCode.NONE or read.diverging is not None:
            self._urgent = True
