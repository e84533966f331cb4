"""Produce (API key 0, versions 3 to 11): append batches to the partitions we lead.

`begin` appends every partition's batch, in the order of the request and before anything waits, so
that the order in the log is the order of arrival; with acks=-1 the answer waits until the in-sync
replicas have them. Each partition succeeds or fails for itself. A batch that must be opened first,
in a worker thread (`replication/opening.py`), is appended by `open`, which comes in between and
before anything else of the connection is begun.

acks=0 has no answer at all: if any partition failed, the connection is closed, so that the
producer notices and asks for new metadata. acks=1 answers after the append, or after the flush that
flush.messages asks for. Any other value than these and -1 is INVALID_REQUIRED_ACKS.

One batch of message format 2 per partition; anything else is INVALID_RECORD (`replicas.append`).
The internal topics may be written by nobody but a client that calls itself `__admin_client`.

Where we differ from Kafka: transactions are not supported yet. A transactional id, or a batch with
the transactional bit, is refused with INVALID_TXN_STATE, fatal for a producer; it cannot get
this far by itself, since no transaction coordinator is found for it. There are no quotas.

Versions 0 to 2 are advertised and not served, see `protocol/apis.py`.

Version history: 3 transactional id, message format 2 (KIP-98); 4 storage errors; 5 log start
offset; 6 throttling after the answer; 7 zstd (KIP-110); 8 record errors, error message (KIP-467);
9 flexible; 10 leader hints (KIP-951); 11 TRANSACTION_ABORTABLE (KIP-890).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import attrs

from zkafka.errors import ApiError, ErrorCode
from zkafka.model import INTERNAL_TOPICS, BrokerId, TopicPartition
from zkafka.protocol.hot import Target
from zkafka.protocol.messages.produce import (
    BatchIndexAndErrorMessage,
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from zkafka.replication.opening import RecordsRefused
from zkafka.replication.purgatory import Sleep
from zkafka.replication.replicas import AppendResult, Opening
from zkafka.server.context import RequestContext

ALL_IN_SYNC = -1
ADMIN_CLIENT = "__admin_client"

# Where a batch of format 2 keeps the low byte of its attributes, and what is in it. The batch is
# checked by `replicas.append`; these are only what depends on the request that carries it.
_ATTRIBUTES = 22
_CODEC_MASK = 0x07
_ZSTD = 4


class _Outcome(NamedTuple):
    """What became of one partition's batch: `result`, or `code`."""

    topic_partition: TopicPartition
    result: AppendResult | None
    code: ErrorCode = ErrorCode.NONE
    message: str = ""
    record_errors: Sequence[tuple[int, str]] = ()
    """Index in the batch and fault, where single records were."""


@attrs.define(kw_only=True)
class PendingProduce:
    """A produce whose batches are in the log, or were refused. Nothing of the request's bytes is
    kept, but for those of `openings`: (place among the outcomes, what to open), until `open`."""

    acks: int
    context: RequestContext
    deadline_ms: int
    outcomes: list[_Outcome]
    openings: Sequence[tuple[int, Opening]] = ()
    target: Target | None = None
    """Of a lone batch, which is answered by hand if all went well."""
    _sleep: Sleep | None = attrs.field(default=None, init=False)
    _verdicts: list[ErrorCode] | None = attrs.field(default=None, init=False)
    """Of what was appended, when this has waited."""

    async def open(self) -> None:
        """Append what had to be opened first; before anything else is asked of this.

        Waits: for worker threads.
        """
        openings, self.openings = self.openings, ()
        replicas, traffic = self.context.parts.replicas, self.context.parts.traffic
        for place, opening in openings:
            tp, size = opening.topic_partition, opening.batch.size
            try:
                result = await replicas.append_opened(opening)
            except ApiError as error:
                self.outcomes[place] = _refused(tp, error)
                traffic.produce_failed(tp.topic, size=size)
            else:
                self.outcomes[place] = _Outcome(tp, result)
                traffic.produced(tp.topic, messages=result.message_count, size=size)

    @property
    def failure(self) -> str:
        """What went wrong first, for the log; empty if nothing did."""
        for tp, _, code, message, _ in self.outcomes:
            if code is not ErrorCode.NONE:
                return f"{code.name}, {tp} {message}".rstrip()
        return ""

    @property
    def is_waiting(self) -> bool:
        """Whether there are replicas, or a flush, to wait for, and time left."""
        if self.acks == 0 or self._verdicts is not None:
            return False
        verdict = self.context.parts.replicas.verdict
        return any(
            o.result is not None and verdict(o.result, self.acks) is None for o in self.outcomes
        )

    def when_over(self, call: Callable[[], None]) -> None:
        """Have it called when this waits no longer."""

        def over(verdicts: list[ErrorCode]) -> None:
            self._verdicts = verdicts
            call()

        self._sleep = self.context.parts.replicas.call_when_replicated(
            self._appended(), self.deadline_ms, self.acks, over
        )

    def _appended(self) -> list[AppendResult]:
        return [outcome.result for outcome in self.outcomes if outcome.result is not None]

    def answer(self) -> ProduceResponse | bytes:
        """The answer, now that it waits no longer; bytes are the whole of it."""
        assert self.acks != 0, "nothing answers acks=0"
        outcomes, verdicts = self.outcomes, self._verdicts
        if verdicts is None:
            verdicts = self.context.parts.replicas.verdicts(self._appended(), self.acks)
        if self.target is not None and verdicts == [ErrorCode.NONE]:
            [lone] = self._appended()
            return self.target.answer(
                self.context.header.correlation_id,
                lone.base_offset,
                lone.log_append_time_ms,
                lone.log_start_offset,
            )
        decided = iter(verdicts)
        for place, outcome in enumerate(outcomes):
            if outcome.result is not None:
                outcomes[place] = outcome._replace(code=next(decided))
        return _response(outcomes, self.context)

    def give_up(self) -> None:
        """Wait no longer. What was appended stays."""
        if self._sleep is not None:
            self._sleep.cancel()

    def refusal(self, code: ErrorCode) -> ProduceResponse:
        """The answer that says `code` for everything that was appended."""
        outcomes = [o if o.result is None else o._replace(code=code) for o in self.outcomes]
        return _response(outcomes, self.context)


def begin(request: ProduceRequest, context: RequestContext) -> PendingProduce:
    """Append what can be appended. Synchronous: nothing else runs in between."""
    parts = context.parts
    outcomes: list[_Outcome] = []
    openings: list[tuple[int, Opening]] = []
    for topic in request.topic_data:
        for data in topic.partition_data:
            tp = TopicPartition(topic.name, data.index)
            records = data.records
            assert records is None or isinstance(records, memoryview), "codec's promise"
            size = 0 if records is None else len(records)
            try:
                checked = _checked(request, tp, records, context)
                result = parts.replicas.append(tp, checked, required_acks=request.acks)
            except ApiError as error:
                outcomes.append(_refused(tp, error))
                parts.traffic.produce_failed(topic.name, size=size)
            else:
                if isinstance(result, Opening):
                    openings.append((len(outcomes), result))
                    outcomes.append(_Outcome(tp, None, ErrorCode.UNKNOWN_SERVER_ERROR))
                    continue
                outcomes.append(_Outcome(tp, result))
                parts.traffic.produced(topic.name, messages=result.message_count, size=size)
    deadline_ms = parts.clock.monotonic_ms() + request.timeout_ms
    return PendingProduce(
        acks=request.acks,
        context=context,
        deadline_ms=deadline_ms,
        outcomes=outcomes,
        openings=openings,
    )


def _refused(tp: TopicPartition, error: ApiError) -> _Outcome:
    record_errors = error.record_errors if isinstance(error, RecordsRefused) else ()
    return _Outcome(tp, None, error.code, error.message, record_errors)


def appended(target: Target, result: AppendResult, context: RequestContext) -> PendingProduce:
    """A lone batch that is in the log already."""
    return PendingProduce(
        acks=target.acks,
        context=context,
        deadline_ms=context.parts.clock.monotonic_ms() + target.timeout_ms,
        outcomes=[_Outcome(target.topic_partition, result)],
        target=target,
    )


def _checked(
    request: ProduceRequest,
    tp: TopicPartition,
    records: memoryview | None,
    context: RequestContext,
) -> memoryview:
    """The records; ApiError where the request, rather than the partition, has something wrong."""
    if request.acks not in (0, 1, ALL_IN_SYNC):
        raise ApiError(ErrorCode.INVALID_REQUIRED_ACKS, f"acks={request.acks}")
    if records is None:
        raise ApiError(ErrorCode.INVALID_RECORD, "no records for this partition")
    attributes = records[_ATTRIBUTES] if len(records) > _ATTRIBUTES else 0
    if request.transactional_id is not None:
        raise ApiError(ErrorCode.INVALID_TXN_STATE, "transactions are not supported yet")
    if attributes & _CODEC_MASK == _ZSTD and context.version < 7:
        raise ApiError(
            ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs version 7 of Produce or later"
        )
    if tp.topic in INTERNAL_TOPICS and context.client_id != ADMIN_CLIENT:
        raise ApiError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{tp.topic} is internal")
    return records


def _response(outcomes: Sequence[_Outcome], context: RequestContext) -> ProduceResponse:
    image = context.parts.metadata.image
    topics: dict[str, list[PartitionProduceResponse]] = {}
    hinted: set[BrokerId] = set()
    for tp, result, code, message, record_errors in outcomes:
        partitions = topics.setdefault(tp.topic, [])
        if code is ErrorCode.NONE:
            assert result is not None
            partitions.append(
                PartitionProduceResponse(
                    index=tp.partition,
                    base_offset=result.base_offset,
                    log_append_time_ms=result.log_append_time_ms,
                    log_start_offset=result.log_start_offset,
                )
            )
            continue
        leader = LeaderIdAndEpoch()
        if code is ErrorCode.NOT_LEADER_OR_FOLLOWER and context.version >= 10:
            known = context.parts.leader_of(tp)
            if known is not None:
                leader = LeaderIdAndEpoch(leader_id=known[0], leader_epoch=known[1])
                hinted.add(known[0])
        partitions.append(
            PartitionProduceResponse(
                index=tp.partition,
                error_code=code,
                base_offset=-1,
                record_errors=[
                    BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=fault)
                    for index, fault in record_errors
                ],
                error_message=message or None,
                current_leader=leader,
            )
        )
    return ProduceResponse(
        responses=[
            TopicProduceResponse(name=name, partition_responses=partitions)
            for name, partitions in topics.items()
        ],
        node_endpoints=[
            NodeEndpoint(
                node_id=leader, host=at.host, port=at.port, rack=image.brokers[leader].rack
            )
            for leader in sorted(hinted)
            if (at := image.endpoint(leader, context.listener_name)) is not None
        ],
    )
