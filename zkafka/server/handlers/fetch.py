"""Fetch (API key 1, versions 4 to 17): records from an offset on, for consumers and followers.

A consumer reads below the high watermark, a follower to the log end; a follower's fetch offset is
its acknowledgement (`replication.replicas` records it). Answers are whole batches, as slices of the
segment files, from the batch that contains the offset on. The first partition with data returns at
least one batch however large; otherwise the limits of the request, of the partition and of
`fetch.max.bytes` hold.

`begin` reads what there is, and answers unless it is to wait: until `min_bytes` are there, an error
or a divergence is to be told, or `max_wait_ms` is over. Partitions that do not exist do not end the
wait, unless there are no others: a client that keeps asking for one would otherwise spin. What was
read before the wait is kept; only the partitions that moved are read again.

Sessions (version 7 and later) are `server.fetch_sessions`.

Where we differ from Kafka: records are never down-converted (there are no message formats 0 and 1);
no follower is preferred for reading (`replica.selector.class` has no effect), though one that is
asked, by version 11 or later, answers; there are no quotas.

Version history: 4 isolation level, last stable offset (KIP-98); 5 log start offset; 6 storage
errors told as such; 7 sessions (KIP-227); 8 throttling after the answer; 9 leader epoch (KIP-320);
10 zstd (KIP-110; before, a topic that asks for it is UNSUPPORTED_COMPRESSION_TYPE); 11 rack,
followers answer consumers (KIP-392); 12 flexible, last fetched and diverging epoch (KIP-595); 13
topic ids (KIP-516); 14 tiered storage (KIP-405; never answered here); 15 replica state (KIP-903);
16 leader hints (KIP-951); 17 directory id (KIP-853; ignored).
"""

from collections.abc import Callable, Sequence
from types import TracebackType

from zkafka.errors import ErrorCode
from zkafka.model import BrokerEpoch, BrokerId, TopicPartition
from zkafka.protocol.hot_fetch import LoneFetch
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
from zkafka.server.fetch_sessions import (
    FetchContext,
    FetchedPartition,
    FetchSession,
    Waiting,
    Watch,
)

_UNKNOWN = frozenset({ErrorCode.UNKNOWN_TOPIC_ID, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION})
_HINTED = frozenset({ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH})


def begin(request: FetchRequest, context: RequestContext) -> "FetchResponse | WaitingFetch":
    """The records, or, where there are too few of them, a wait for more. The response's slices
    belong to whoever sends it."""
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
    waiting = WaitingFetch(request, context, begun, reading, now_ms + request.max_wait_ms)
    with waiting:
        session = begun.session
        if session is None:
            due = list(begun.partitions.values())
            everything = len(due)
        else:
            due = session.due(now_ms, parts.fetch_sessions.sweep_ms)
            everything = len(session)
        for fetched in due:
            reading.look(fetched, begun, first_pass=True)
        return waiting.conclude(everything)


def resumed(
    request: LoneFetch,
    context: RequestContext,
    session: FetchSession,
    epoch: int,
    fetched: FetchedPartition,
    read: PartitionRead | None,
    deadline_ms: int,
) -> "WaitingFetch":
    """The wait of a fetch in this session, in which so far one partition was read, if any. It owns
    what was read."""
    reading = _Reading(
        context.parts,
        request,
        replica_id=request.replica_id,
        replica_epoch=request.replica_epoch,
        version=context.version,
    )
    if read is not None:
        reading.note(fetched, read, settled=read.is_empty)
    begun = FetchContext(
        session=session, partitions={}, expected_epoch=epoch, privileged=True, uses_topic_ids=True
    )
    return WaitingFetch(request, context, begun, reading, deadline_ms)


class WaitingFetch:
    """A Fetch that found too little, and waits until there may be enough.

    Ownership: a context manager that closes it, unless `conclude` has it wait; then whoever has it
    does.
    """

    __slots__ = (
        "_begun", "_by_name", "_context", "_deadline_ms", "_kept", "_reading", "_sleep", "_watch",
        "request",
    )  # fmt: skip

    def __init__(
        self,
        request: FetchRequest | LoneFetch,
        context: RequestContext,
        begun: FetchContext,
        reading: "_Reading",
        deadline_ms: int,
    ) -> None:
        self.request = request
        self._context = context
        self._begun = begun
        self._reading = reading
        self._deadline_ms = deadline_ms
        self._kept = False
        self._sleep: Waiting | None = None
        # Without a session:
        self._watch: Watch | None = None
        self._by_name: dict[TopicPartition, FetchedPartition] = {}

    def __enter__(self) -> None:
        self._kept = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._kept:
            self.close()

    def conclude(self, everything: int) -> "FetchResponse | WaitingFetch":
        """The answer, if it need not wait; `everything` counts the partitions asked for."""
        request, reading = self.request, self._reading
        if request.max_wait_ms > 0 and not reading.is_enough and reading.unknown_count < everything:
            self._kept = True
            return self
        return _answer(self._begun, reading, self._context)

    def when_over(self, call: Callable[[], None]) -> None:
        """Have it called when there may be enough to answer, or time is up. Once, in the step of
        `begin`."""
        session = self._begun.session
        if session is not None:
            watch = session.watch
        else:
            watch = self._watch = self._context.parts.purgatory.watch()
            for fetched in self._begun.partitions.values():
                if fetched.is_named:
                    self._by_name[fetched.topic_partition] = fetched
                    watch.add(fetched.topic_partition)
        self._sleep = watch.call_after(self.judge, self._deadline_ms, call)

    def judge(self, name: TopicPartition) -> bool:
        """Whether the wait is over, now that this partition moved."""
        return self._reading.judge(self._find(name))

    def _find(self, name: TopicPartition) -> FetchedPartition | None:
        session = self._begun.session
        return self._by_name.get(name) if session is None else session.find(name)

    def answer(self, moved: Sequence[FetchedPartition] | None = None) -> FetchResponse:
        """What there is now, whether or not it is enough: what moved is read again. None: whatever
        did, and nobody has asked yet."""
        begun, session = self._begun, self._begun.session
        if moved is None and session is not None:
            moved = session.moved()
        elif moved is None:
            assert self._watch is not None
            moved = [self._by_name[name] for name in self._watch.take()]
        for fetched in moved:
            self._reading.look(fetched, begun, first_pass=False)
        return _answer(begun, self._reading, self._context)

    def close(self) -> None:
        """Wait no longer, and give back what was read."""
        if self._sleep is not None:
            self._sleep.cancel()
        if self._watch is not None:
            self._watch.close()
        self._reading.release()


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
                    aborted_transactions=_aborted(read) or reading.none_aborted,
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


def _aborted(read: PartitionRead) -> list[AbortedTransaction]:
    return [
        AbortedTransaction(producer_id=one.producer_id, first_offset=one.first_offset)
        for one in read.aborted
    ]


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

    Ownership: whoever made it calls `release`; the slices of an answer are handed over by then.
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
        request: FetchRequest | LoneFetch,
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

    def release(self) -> None:
        """Give back the slices that were not handed over."""
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
            self.note(fetched, PartitionRead(ErrorCode.UNKNOWN_TOPIC_ID), settled=False)
            return
        if self._version < 10 and self._is_zstd(fetched.topic_partition.topic):
            # Clients of those versions cannot read it (KIP-110).
            refused = PartitionRead(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
            self.note(fetched, refused, settled=False)
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
        empty = read.is_empty
        if empty and not alone:
            # Nothing there, or no room for it: only the first data in an answer may exceed the
            # limits, by one batch.
            empty = self._available(fetched) == 0
        self.note(fetched, read, settled=empty)

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

    def note(self, fetched: FetchedPartition, read: PartitionRead, *, settled: bool) -> None:
        self.looks[fetched] = (read, settled)
        self._size += read.size
        if read.error in _UNKNOWN:
            self.unknown_count += 1
        elif read.error is not ErrorCode.NONE or read.diverging is not None:
            self._urgent = True
