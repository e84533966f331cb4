"""What brokers say of themselves while things go wrong: leaders, epochs, high watermarks.

One task per broker asks it again and again, past all proxies, whom it believes to lead each
partition of a topic; and where it believes that it leads itself, up to where the partition may be
read (ListOffsets of the latest offset, fenced by the leader epoch it named). A broker that does not
answer is asked again; a fault is no reason to stop looking.
"""

import time

import trio

from zkafka.errors import ErrorCode
from zkafka.model import TopicPartition
from zkafka.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from zkafka.testing.cluster import Cluster
from zkafka.testing.history import HighWatermarkObserved, History, LeaderObserved
from zkafka.testing.inquiry import NoAnswer, ask

LATEST = -1
_INTERVAL_SECONDS = 0.1
_LIST_OFFSETS_VERSION = 6


async def observe(
    cluster: Cluster,
    topic: str,
    history: History,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Write down what every broker says of `topic`, until cancelled."""
    async with trio.open_nursery() as nursery:
        for broker_id in cluster.brokers:
            nursery.start_soon(_observe_broker, cluster, broker_id, topic, history)
        task_status.started()


async def _observe_broker(cluster: Cluster, broker_id: int, topic: str, history: History) -> None:
    said: dict[TopicPartition, tuple[int, int]] = {}
    while True:
        try:
            own = await _leaders(cluster, broker_id, topic, history, said)
            if own:
                await _high_watermarks(cluster, broker_id, topic, own, history)
        except NoAnswer:
            pass  # down, paused, or about to be: asked again
        await trio.sleep(_INTERVAL_SECONDS)


async def _leaders(
    cluster: Cluster,
    broker_id: int,
    topic: str,
    history: History,
    said: dict[TopicPartition, tuple[int, int]],
) -> dict[int, int]:
    """Leader epochs of the partitions the broker leads; what it says anew is written down."""
    answer = await cluster.metadata(broker_id, [topic])
    own: dict[int, int] = {}
    for partition in answer.topics[0].partitions:
        place = TopicPartition(topic, partition.partition_index)
        now = (partition.leader_id, partition.leader_epoch)
        if said.get(place) != now:
            said[place] = now
            history.add(LeaderObserved(_now_ms(), broker_id, place, *now))
        if partition.leader_id == broker_id:
            own[partition.partition_index] = partition.leader_epoch
    return own


async def _high_watermarks(
    cluster: Cluster, broker_id: int, topic: str, epochs: dict[int, int], history: History
) -> None:
    partitions = [
        ListOffsetsPartition(partition_index=index, current_leader_epoch=epoch, timestamp=LATEST)
        for index, epoch in sorted(epochs.items())
    ]
    request = ListOffsetsRequest(
        replica_id=-1, topics=[ListOffsetsTopic(name=topic, partitions=partitions)]
    )
    port = cluster.brokers[broker_id].port
    answer = await ask(port, request, ListOffsetsResponse, _LIST_OFFSETS_VERSION)
    for partition in answer.topics[0].partitions:
        if partition.error_code == ErrorCode.NONE:
            index = partition.partition_index
            place = TopicPartition(topic, index)
            history.add(
                HighWatermarkObserved(_now_ms(), place, broker_id, epochs[index], partition.offset)
            )


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
