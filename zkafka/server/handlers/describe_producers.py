"""DescribeProducers (API key 61, version 0): who writes to a partition, and in which transaction.

Each replica of the partition answers, leader or follower, with what its log has. A producer is told
until it expires (producer.id.expiration.ms); it has a transaction open in the partition if there is
an offset where that began, else -1. What such a transaction holds up `WriteTxnMarkers` can free.

Where we differ from Kafka: a name that no topic can have is unknown like any other.

Version history: 0 (KIP-664).
"""

import itertools

from zkafka.errors import ApiError
from zkafka.model import TopicPartition
from zkafka.protocol.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicResponse,
)
from zkafka.server.context import RequestContext
from zkafka.turns import pause_now_and_then


async def handle(
    request: DescribeProducersRequest, context: RequestContext
) -> DescribeProducersResponse:
    """The producers of each partition, or why they cannot be told."""
    done = itertools.count()
    topics = []
    for topic in request.topics:
        partitions = []
        for number in topic.partition_indexes:
            await pause_now_and_then(next(done))
            partition = PartitionResponse(partition_index=number)
            try:
                producers = context.parts.replicas.producers(TopicPartition(topic.name, number))
            except ApiError as refusal:
                partition.error_code, partition.error_message = refusal.code, refusal.message
            else:
                # In one step, so that they are of one moment.
                partition.active_producers = [
                    ProducerState(
                        producer_id=producer_id,
                        producer_epoch=producer.epoch,
                        last_sequence=producer.last_sequence,
                        last_timestamp=producer.last_timestamp,
                        coordinator_epoch=producer.coordinator_epoch,
                        current_txn_start_offset=producers.transactions.first_offset(producer_id),
                    )
                    for producer_id, producer in producers
                ]
            partitions.append(partition)
        topics.append(TopicResponse(name=topic.name, partitions=partitions))
    return DescribeProducersResponse(topics=topics)
