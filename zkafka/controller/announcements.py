"""What brokers must be told after a decision, gathered into as few requests as can carry it.

One `Announcements` is filled while an event is handled, then flushed: LeaderAndIsr to all who need
it, then UpdateMetadata, then StopReplica, so that a leader learns of its role before the others
learn of it, and a replica stops after it knows who took over.

An UpdateMetadata always lists all reachable brokers with all their endpoints, and only the
partitions that changed; a partition that is being deleted is announced with leader -2.

Source: `AbstractControllerBrokerRequestBatch` of Apache Kafka 3.9; LeaderAndIsr v7, UpdateMetadata
v8, StopReplica v4. The `type` of the first two stays 0: Kafka's ZooKeeper controller sets it only
while it migrates to KRaft.
"""

from collections.abc import Iterable

import attrs

from zkafka.controller.context import ClusterContext, LiveBroker
from zkafka.controller.events import SendRequest
from zkafka.model import (
    BrokerId,
    ControllerEpoch,
    PartitionState,
    TopicPartition,
)
from zkafka.protocol.messages.leader_and_isr import (
    LeaderAndIsrLiveLeader,
    LeaderAndIsrPartitionState,
    LeaderAndIsrRequest,
    LeaderAndIsrTopicState,
)
from zkafka.protocol.messages.stop_replica import (
    StopReplicaPartitionState,
    StopReplicaRequest,
    StopReplicaTopicState,
)
from zkafka.protocol.messages.update_metadata import (
    UpdateMetadataBroker,
    UpdateMetadataEndpoint,
    UpdateMetadataPartitionState,
    UpdateMetadataRequest,
    UpdateMetadataTopicState,
)

LEADER_DURING_DELETION = -2
EPOCH_DURING_DELETION = -2
NO_LEADER_EPOCH = -1

SECURITY_PROTOCOL_IDS = {"PLAINTEXT": 0, "SSL": 1, "SASL_PLAINTEXT": 2, "SASL_SSL": 3}


@attrs.frozen
class _Role:
    """One partition's entry in a LeaderAndIsr, once for all its receivers."""

    state: PartitionState
    is_new: bool


class Announcements:
    """Collects, then makes the requests; empty again after `flush`.

    A partition announced twice before a flush is told once, as it is last.
    """

    def __init__(
        self,
        context: ClusterContext,
        *,
        controller_id: BrokerId,
        controller_epoch: ControllerEpoch,
        inter_broker_listener: str,
    ) -> None:
        self._context = context
        self._controller_id = controller_id
        self._controller_epoch = controller_epoch
        self._listener = inter_broker_listener
        self._roles: dict[TopicPartition, _Role] = {}
        self._receivers: dict[BrokerId, set[TopicPartition]] = {}
        self._metadata_of: set[TopicPartition] | None = None
        self._metadata_only_to: dict[BrokerId, set[TopicPartition]] = {}
        self._stops: dict[BrokerId, dict[TopicPartition, bool]] = {}

    def lead_and_follow(
        self, tp: TopicPartition, brokers: Iterable[BrokerId], *, is_new: bool = False
    ) -> None:
        """Tell `brokers` (those that are reachable) the partition's state, and everybody of it."""
        known = self._roles.get(tp)
        is_new = is_new or (known is not None and known.is_new)
        self._roles[tp] = _Role(self._context.states[tp], is_new)
        for broker_id in brokers:
            if broker_id in self._context.brokers:
                self._receivers.setdefault(broker_id, set()).add(tp)
        self.metadata([tp])

    def metadata(self, partitions: Iterable[TopicPartition] = ()) -> None:
        """Tell every broker who lives, and these partitions' leaders."""
        if self._metadata_of is None:
            self._metadata_of = set()
        self._metadata_of.update(partitions)

    def metadata_only_to(self, broker_id: BrokerId, partitions: Iterable[TopicPartition]) -> None:
        """Tell one broker these partitions too, besides what everybody is told."""
        self._metadata_only_to.setdefault(broker_id, set()).update(partitions)

    def stop(self, broker_id: BrokerId, tp: TopicPartition, *, delete: bool) -> None:
        """Have a broker (if reachable) stop its replica, and delete it if asked."""
        if broker_id in self._context.brokers:
            stops = self._stops.setdefault(broker_id, {})
            stops[tp] = delete or stops.get(tp, False)

    def flush(self) -> list[SendRequest]:
        """The requests for all that was gathered, in the order in which to queue them."""
        requests: list[SendRequest] = []
        requests.extend(self._leader_and_isr_requests())
        requests.extend(self._update_metadata_requests())
        requests.extend(self._stop_replica_requests())
        self._roles.clear()
        self._receivers.clear()
        self._metadata_of = None
        self._metadata_only_to.clear()
        self._stops.clear()
        return requests

    def _leader_and_isr_requests(self) -> Iterable[SendRequest]:
        entries = {tp: self._role_entry(tp, role) for tp, role in self._roles.items()}
        for broker_id in sorted(self._receivers):
            broker = self._context.brokers.get(broker_id)
            if broker is None:
                continue
            partitions = sorted(self._receivers[broker_id])
            by_topic: dict[str, list[LeaderAndIsrPartitionState]] = {}
            for tp in partitions:
                by_topic.setdefault(tp.topic, []).append(entries[tp])
            leaders = {self._roles[tp].state.leader for tp in partitions}
            request = LeaderAndIsrRequest(
                controller_id=self._controller_id,
                controller_epoch=self._controller_epoch,
                broker_epoch=broker.epoch,
                topic_states=[
                    LeaderAndIsrTopicState(
                        topic_name=topic,
                        topic_id=self._context.topic_ids[topic],
                        partition_states=states,
                    )
                    for topic, states in by_topic.items()
                ],
                live_leaders=self._live_leaders(leaders),
            )
            yield SendRequest(broker_id, request)

    def _role_entry(self, tp: TopicPartition, role: _Role) -> LeaderAndIsrPartitionState:
        assignment = self._context.assignments[tp]
        return LeaderAndIsrPartitionState(
            partition_index=tp.partition,
            controller_epoch=role.state.controller_epoch,
            leader=role.state.leader,
            leader_epoch=role.state.leader_epoch,
            isr=list(role.state.isr),
            partition_epoch=role.state.partition_epoch,
            replicas=list(assignment.replicas),
            adding_replicas=list(assignment.adding),
            removing_replicas=list(assignment.removing),
            is_new=role.is_new,
            leader_recovery_state=int(role.state.recovering),
        )

    def _live_leaders(self, leaders: Iterable[BrokerId]) -> list[LeaderAndIsrLiveLeader]:
        """Where followers fetch from; a broker without the inter-broker listener is left out."""
        live: list[LeaderAndIsrLiveLeader] = []
        for leader in sorted(leaders):
            broker = self._context.brokers.get(leader)
            endpoint = None if broker is None else broker.info.endpoints.get(self._listener)
            if endpoint is not None:
                live.append(
                    LeaderAndIsrLiveLeader(
                        broker_id=leader, host_name=endpoint.host, port=endpoint.port
                    )
                )
        return live

    def _update_metadata_requests(self) -> Iterable[SendRequest]:
        if self._metadata_of is None and not self._metadata_only_to:
            return
        brokers = [
            _broker_entry(self._context.brokers[broker_id])
            for broker_id in sorted(self._context.brokers)
        ]
        to_all = self._topic_entries(self._metadata_of or ())
        for broker_id in sorted(self._context.brokers):
            more = self._metadata_only_to.get(broker_id)
            if more is None and self._metadata_of is None:
                continue
            topics = (
                to_all if more is None else self._topic_entries(more | (self._metadata_of or set()))
            )
            request = UpdateMetadataRequest(
                controller_id=self._controller_id,
                controller_epoch=self._controller_epoch,
                broker_epoch=self._context.brokers[broker_id].epoch,
                topic_states=topics,
                live_brokers=brokers,
            )
            yield SendRequest(broker_id, request)

    def _topic_entries(
        self, partitions: Iterable[TopicPartition]
    ) -> list[UpdateMetadataTopicState]:
        """Entries of the partitions that were ever led; of others there is nothing to say."""
        by_topic: dict[str, list[UpdateMetadataPartitionState]] = {}
        for tp in sorted(partitions):
            state = self._context.states.get(tp)
            if state is not None:
                entry = self._metadata_entry(tp, state)
                by_topic.setdefault(tp.topic, []).append(entry)
        return [
            UpdateMetadataTopicState(
                topic_name=topic,
                topic_id=self._context.topic_ids[topic],
                partition_states=entries,
            )
            for topic, entries in by_topic.items()
        ]

    def _metadata_entry(
        self, tp: TopicPartition, state: PartitionState
    ) -> UpdateMetadataPartitionState:
        replicas = self._context.replicas(tp)
        if self._context.is_being_deleted(tp.topic):
            return UpdateMetadataPartitionState(
                partition_index=tp.partition,
                controller_epoch=self._controller_epoch,
                leader=LEADER_DURING_DELETION,
                isr=list(state.isr),
                replicas=list(replicas),
                offline_replicas=[r for r in replicas if not self._context.is_online(r, tp)],
            )
        return UpdateMetadataPartitionState(
            partition_index=tp.partition,
            controller_epoch=state.controller_epoch,
            leader=state.leader,
            leader_epoch=state.leader_epoch,
            isr=list(state.isr),
            zk_version=state.partition_epoch,
            replicas=list(replicas),
            offline_replicas=[r for r in replicas if not self._context.is_online(r, tp)],
        )

    def _stop_replica_requests(self) -> Iterable[SendRequest]:
        for broker_id in sorted(self._stops):
            broker = self._context.brokers.get(broker_id)
            if broker is None:
                continue
            by_topic: dict[str, list[StopReplicaPartitionState]] = {}
            for tp, delete in sorted(self._stops[broker_id].items()):
                by_topic.setdefault(tp.topic, []).append(
                    StopReplicaPartitionState(
                        partition_index=tp.partition,
                        leader_epoch=self._stop_epoch(tp),
                        delete_partition=delete,
                    )
                )
            request = StopReplicaRequest(
                controller_id=self._controller_id,
                controller_epoch=self._controller_epoch,
                broker_epoch=broker.epoch,
                topic_states=[
                    StopReplicaTopicState(topic_name=topic, partition_states=states)
                    for topic, states in by_topic.items()
                ],
            )
            yield SendRequest(broker_id, request)

    def _stop_epoch(self, tp: TopicPartition) -> int:
        if self._context.is_being_deleted(tp.topic):
            return EPOCH_DURING_DELETION
        state = self._context.states.get(tp)
        return NO_LEADER_EPOCH if state is None else state.leader_epoch


def _broker_entry(broker: LiveBroker) -> UpdateMetadataBroker:
    return UpdateMetadataBroker(
        id=broker.broker_id,
        endpoints=[
            UpdateMetadataEndpoint(
                port=endpoint.port,
                host=endpoint.host,
                listener=endpoint.listener,
                security_protocol=SECURITY_PROTOCOL_IDS.get(endpoint.protocol, 0),
            )
            for endpoint in broker.info.endpoints.values()
        ],
        rack=broker.info.rack,
    )
