"""WriteTxnMarkers (API key 27, versions 0 to 1): end transactions in the partitions led here.

A marker is a control batch of the producer, appended by the leader and answered when the in-sync
replicas have it, as with acks=all, within request.timeout.ms. From then on readers of committed
records get past the transaction. Kafka's transaction coordinator sends this, and
`kafka-transactions.sh abort`, the way out of a transaction whose coordinator has forgotten it, or
which Kafka had open when it handed over to us.

A marker is refused with INVALID_PRODUCER_EPOCH where the partition has seen a newer epoch of the
producer, with TRANSACTION_COORDINATOR_FENCED where it has a marker of a newer coordinator. One that
finds no transaction is written all the same: it fences older epochs. In `__consumer_offsets` what
groups committed in the transaction counts from then on, or never happened.

Where we differ from Kafka: a partition that is known but not hosted here is NOT_LEADER_OR_FOLLOWER
and one on a failed disk KAFKA_STORAGE_ERROR, where Kafka says UNKNOWN_TOPIC_OR_PARTITION of both.
A partition of `__consumer_offsets` that is being loaded is NOT_LEADER_OR_FOLLOWER for the moment,
which has the asker come again. Negative producer ids and epochs are INVALID_REQUEST instead of an
unknown error. A partition named twice in a marker gets it once; Kafka never answers. In
`__transaction_state` nobody has a transaction: INVALID_TOPIC_EXCEPTION instead of a marker.

Version history: 0 (KIP-98); 1 flexible.
"""

import itertools

from zkafka.errors import ApiError, ErrorCode
from zkafka.groups.shard import EndedTransaction
from zkafka.log.transactions import build_marker
from zkafka.model import OFFSETS_TOPIC, TRANSACTIONS_TOPIC, ProducerId, TopicPartition
from zkafka.protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from zkafka.replication.replicas import AppendResult
from zkafka.server.context import Parts, RequestContext
from zkafka.turns import pause_now_and_then


async def handle(
    request: WriteTxnMarkersRequest, context: RequestContext
) -> WriteTxnMarkersResponse:
    """What became of each marker in each of its partitions."""
    parts = context.parts
    deadline_ms = parts.clock.monotonic_ms() + parts.config.request_timeout_ms
    codes: dict[ProducerId, dict[TopicPartition, ErrorCode]] = {}
    appended: list[tuple[ProducerId, AppendResult]] = []
    done = itertools.count()
    for marker in request.markers:
        partitions = [
            TopicPartition(topic.name, number)
            for topic in marker.topics
            for number in topic.partition_indexes
        ]
        for tp in dict.fromkeys(partitions):
            await pause_now_and_then(next(done))
            code = ErrorCode.REQUEST_TIMED_OUT
            try:
                appended.append((marker.producer_id, _append(tp, marker, parts)))
            except ApiError as refusal:
                code = refusal.code
            codes.setdefault(marker.producer_id, {})[tp] = code
    verdicts = await parts.replicas.wait_replicated([at for _, at in appended], deadline_ms)
    for (producer_id, result), verdict in zip(appended, verdicts, strict=True):
        codes[producer_id][result.topic_partition] = verdict
    return WriteTxnMarkersResponse(
        markers=[
            WritableTxnMarkerResult(producer_id=producer_id, topics=_by_topic(found))
            for producer_id, found in codes.items()
        ]
    )


def _append(tp: TopicPartition, marker: WritableTxnMarker, parts: Parts) -> AppendResult:
    """Errors: `ApiError`, with nothing written."""
    if tp.topic == TRANSACTIONS_TOPIC:
        raise ApiError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"no transactions in {tp}")
    if marker.producer_id < 0 or marker.producer_epoch < 0:
        raise ApiError(ErrorCode.INVALID_REQUEST, "a marker of no producer")
    batch = build_marker(
        marker.producer_id,
        marker.producer_epoch,
        committed=marker.transaction_result,
        coordinator_epoch=marker.coordinator_epoch,
        timestamp=parts.clock.wall_ms(),
    )
    if tp.topic == OFFSETS_TOPIC:
        ended = EndedTransaction(marker.producer_id, marker.transaction_result)
        return parts.groups.append_marker(tp.partition, batch, ended)
    return parts.replicas.append_as_coordinator(tp, batch)


def _by_topic(
    codes: dict[TopicPartition, ErrorCode],
) -> list[WritableTxnMarkerTopicResult]:
    topics: dict[str, list[WritableTxnMarkerPartitionResult]] = {}
    for tp, code in codes.items():
        topics.setdefault(tp.topic, []).append(
            WritableTxnMarkerPartitionResult(partition_index=tp.partition, error_code=code)
        )
    return [
        WritableTxnMarkerTopicResult(name=name, partitions=partitions)
        for name, partitions in topics.items()
    ]
