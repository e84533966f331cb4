"""A queue and a connection for each live broker, the controller's own included.

One request is in flight per broker, sent again and again, 100 ms apart, until it is answered or
the channel is closed because the broker's registration is gone. So each broker hears everything in
the order in which it was decided; slowness of one does not hold up another.

A LeaderAndIsr or StopReplica that is refused as a whole is sent again too: nothing but the next
change would tell the broker its roles. Not where it has heard of a later controller, or of a later
registration of its own: the request is of no use then. And not for ever: what is wrong may be the
request, and all that comes after it, other partitions' news and the metadata, would wait behind it.
After `REFUSALS_MAX` times the refusal is the answer. UpdateMetadata is not repeated, since the next
one makes up for it.

How long a queue can grow. A broker that is registered but does not answer keeps its queue, for at
most its session timeout if it is dead, for ever if only its listener is. Beyond `COMPACT_ABOVE`
requests the queue is therefore compacted: between two StopReplicas, all UpdateMetadatas become one
and all LeaderAndIsrs become one, each partition as it was told last. What is left is bounded by
the partitions of the cluster and by the replicas this broker was told to stop.

Why that comes to the same. Both requests carry whole states, not differences: the last one about a
partition is all that counts, and a broker may miss any number of leader epochs (it does so whenever
it is down). UpdateMetadata goes first in what was merged, as for a broker that starts: a follower
must know its leader's address. The one thing lost is that a leader hears of its role before others
do, and here everybody has already been told by other channels. StopReplicas stay where they are,
because stopping and starting the same replica do not commute.

Source: `ControllerChannelManager` and `RequestSendThread` of Apache Kafka 3.9, whose queues are
unbounded.
"""

import collections
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import trio

from zkafka.controller.context import LiveBroker
from zkafka.controller.events import ControlRequest
from zkafka.errors import ErrorCode, PeerUnreachable, RemoteProtocolError
from zkafka.model import BrokerId, BrokerInfo
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrLiveLeader,
    LeaderAndIsrPartitionState,
    LeaderAndIsrRequest,
    LeaderAndIsrTopicState,
)
from zkafka.protocol.messages.stop_replica import StopReplicaRequest
from zkafka.protocol.messages.update_metadata import (
    UpdateMetadataPartitionState,
    UpdateMetadataRequest,
    UpdateMetadataTopicState,
)

if TYPE_CHECKING:
    from zkafka.net.peer import Peer

log = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.1
REFUSALS_MAX = 100
"""How often a request may be refused, a pause apart, before the next one has its turn."""
COMPACT_ABOVE = 64
"""Requests queued for one broker before they are merged; merging costs a pass over all of them."""

VERSIONS: Mapping[type[Any], int] = {
    LeaderAndIsrRequest: 7,
    UpdateMetadataRequest: 8,
    StopReplicaRequest: 4,
}
"""What a 3.9 controller sends with inter.broker.protocol.version=3.9."""

_FENCED = frozenset({ErrorCode.STALE_CONTROLLER_EPOCH, ErrorCode.STALE_BROKER_EPOCH})

Answered: TypeAlias = Callable[[BrokerId, ControlRequest, Any], None]


@attrs.frozen
class ChannelStatistics:
    """One broker's channel: requests waiting, requests answered, attempts that failed."""

    queue_size: int
    answered: int
    failures: int


class Channels:
    """The channels of one term of office.

    Ownership: `run` is the nursery that they live in; cancelling it closes all of them. The other
    methods are called from the controller's task and never wait. `answered(broker, request,
    response)` is called for each answer, in the order of the requests to that broker.
    """

    def __init__(self, connect: "Callable[[BrokerInfo], Peer]", answered: Answered) -> None:
        self._connect = connect
        self._answered = answered
        self._channels: dict[BrokerId, _Channel] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve all channels until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def open(self, broker: LiveBroker) -> None:
        """Have a channel for this life of the broker, empty; an older one is closed."""
        assert self._nursery is not None, "not running"
        self.close(broker.broker_id)
        channel = _Channel(broker, self._connect(broker.info), self._answered)
        self._channels[broker.broker_id] = channel
        self._nursery.start_soon(channel.run)

    def close(self, broker_id: BrokerId) -> None:
        """Drop what is queued for the broker, and its connection."""
        channel = self._channels.pop(broker_id, None)
        if channel is not None:
            channel.scope.cancel()

    def send(self, broker_id: BrokerId, request: ControlRequest) -> None:
        """Queue a request; for a broker without a channel it is dropped, as it is gone."""
        channel = self._channels.get(broker_id)
        if channel is not None:
            channel.put(request)

    def statistics(self) -> dict[BrokerId, ChannelStatistics]:
        """By broker."""
        return {
            broker_id: ChannelStatistics(len(c.queue), c.answered_count, c.failure_count)
            for broker_id, c in sorted(self._channels.items())
        }


class _Channel:
    """One broker's queue, and the task that empties it."""

    def __init__(self, broker: LiveBroker, peer: "Peer", answered: Answered) -> None:
        self.scope = trio.CancelScope()
        self.queue: collections.deque[ControlRequest] = collections.deque()
        self.answered_count = 0
        self.failure_count = 0
        self._broker = broker
        self._peer = peer
        self._answered = answered
        self._filled = trio.Event()

    def put(self, request: ControlRequest) -> None:
        self.queue.append(request)
        if len(self.queue) > COMPACT_ABOVE:
            self.queue = collections.deque(compact(self.queue))
        self._filled.set()

    async def run(self) -> None:
        with self.scope:
            try:
                while True:
                    while not self.queue:
                        self._filled = trio.Event()
                        await self._filled.wait()
                    request = self.queue.popleft()
                    response = await self._deliver(request)
                    self.answered_count += 1
                    self._answered(self._broker.broker_id, request, response)
            finally:
                with trio.CancelScope(shield=True):
                    await self._peer.aclose()

    async def _deliver(self, request: ControlRequest) -> Any:
        """Waits until the broker has taken it, or refused it for good, however long that takes."""
        complained = False
        refused, refusals = ErrorCode.NONE, 0
        while True:
            try:
                response = await self._peer.request(request, VERSIONS[type(request)])
                code = ErrorCode.of(response.error_code)
                if code is ErrorCode.NONE:
                    return response
                if code is not refused:
                    log.warning(
                        "control request refused broker=%d request=%s error=%s",
                        self._broker.broker_id,
                        type(request).__name__,
                        code.name,
                    )
                refused, refusals = code, refusals + 1
                final = code in _FENCED or refusals == REFUSALS_MAX
                if final or isinstance(request, UpdateMetadataRequest):
                    return response
                self.failure_count += 1
            except (PeerUnreachable, RemoteProtocolError) as error:
                self.failure_count += 1
                if not complained:
                    complained = True
                    log.warning(
                        "broker does not take control requests, trying on broker=%d error=%s",
                        self._broker.broker_id,
                        error,
                    )
            await trio.sleep(RETRY_PAUSE_S)


def compact(queue: Iterable[ControlRequest]) -> list[ControlRequest]:
    """The fewest requests with the same outcome; see the module's docstring."""
    compacted: list[ControlRequest] = []
    metadata: list[UpdateMetadataRequest] = []
    roles: list[LeaderAndIsrRequest] = []

    def settle() -> None:
        if metadata:
            compacted.append(_merge_metadata(metadata))
        if roles:
            compacted.append(_merge_roles(roles))
        metadata.clear()
        roles.clear()

    for request in queue:
        match request:
            case UpdateMetadataRequest():
                metadata.append(request)
            case LeaderAndIsrRequest():
                roles.append(request)
            case StopReplicaRequest():
                settle()
                compacted.append(request)
    settle()
    return compacted


def _merge_metadata(requests: list[UpdateMetadataRequest]) -> UpdateMetadataRequest:
    """The last one's brokers, and every partition as told last.

    A topic deleted and created anew has two ids: the entries stay apart, the later one later.
    """
    topics: dict[tuple[str, Any], dict[int, UpdateMetadataPartitionState]] = {}
    for request in requests:
        for topic in request.topic_states:
            key = (topic.topic_name, topic.topic_id)
            merged = topics.pop(key, {})
            merged.update({p.partition_index: p for p in topic.partition_states})
            topics[key] = merged
    last = requests[-1]
    return UpdateMetadataRequest(
        controller_id=last.controller_id,
        controller_epoch=last.controller_epoch,
        broker_epoch=last.broker_epoch,
        live_brokers=last.live_brokers,
        topic_states=[
            UpdateMetadataTopicState(
                topic_name=name, topic_id=topic_id, partition_states=list(partitions.values())
            )
            for (name, topic_id), partitions in topics.items()
        ],
    )


def _merge_roles(requests: list[LeaderAndIsrRequest]) -> LeaderAndIsrRequest:
    """Every partition as told last; new if it was told as new at all."""
    topics: dict[tuple[str, Any], dict[int, LeaderAndIsrPartitionState]] = {}
    leaders: dict[BrokerId, LeaderAndIsrLiveLeader] = {}
    for request in requests:
        leaders.update({leader.broker_id: leader for leader in request.live_leaders})
        for topic in request.topic_states:
            key = (topic.topic_name, topic.topic_id)
            merged = topics.pop(key, {})
            for partition in topic.partition_states:
                known = merged.get(partition.partition_index)
                merged[partition.partition_index] = (
                    _as_new(partition) if known is not None and known.is_new else partition
                )
            topics[key] = merged
    last = requests[-1]
    return LeaderAndIsrRequest(
        controller_id=last.controller_id,
        controller_epoch=last.controller_epoch,
        broker_epoch=last.broker_epoch,
        topic_states=[
            LeaderAndIsrTopicState(
                topic_name=name, topic_id=topic_id, partition_states=list(partitions.values())
            )
            for (name, topic_id), partitions in topics.items()
        ],
        live_leaders=[leaders[broker_id] for broker_id in sorted(leaders)],
    )


def _as_new(state: LeaderAndIsrPartitionState) -> LeaderAndIsrPartitionState:
    """The same, told as new: messages are not changed, and this one may be in others' requests."""
    return LeaderAndIsrPartitionState(
        partition_index=state.partition_index,
        controller_epoch=state.controller_epoch,
        leader=state.leader,
        leader_epoch=state.leader_epoch,
        isr=state.isr,
        partition_epoch=state.partition_epoch,
        replicas=state.replicas,
        adding_replicas=state.adding_replicas,
        removing_replicas=state.removing_replicas,
        is_new=True,
        leader_recovery_state=state.leader_recovery_state,
    )
