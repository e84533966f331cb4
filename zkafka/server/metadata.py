"""The cluster as the controller last described it: an immutable picture, replaced whole.

Law: a `MetadataImage` never changes. `MetadataCache.apply` builds the next one from an
UpdateMetadata request and swaps it in with one assignment, so whoever took `cache.image` reads
one consistent state however often it waits.

Live brokers are replaced by each request; partitions are merged, without an epoch check of their
own (the controller's epoch fences the request as a whole, its handler sees to that). A partition
whose leader is -2 is being deleted and is dropped; with its last partition a topic goes.

Until the first UpdateMetadata the picture is empty: no brokers, no topics, controller -1.

Source: UpdateMetadata (API key 6), KIP-516 for topic ids; `ZkMetadataCache` of Apache Kafka 3.9.
"""

import uuid
from collections.abc import Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType

import attrs

from zkafka.model import (
    NO_BROKER,
    NO_EPOCH,
    BrokerId,
    BrokerInfo,
    ControllerEpoch,
    Endpoint,
    LeaderEpoch,
    PartitionEpoch,
    TopicPartition,
)
from zkafka.protocol.codec import Prepared
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.messages.update_metadata import (
    UpdateMetadataBroker,
    UpdateMetadataPartitionState,
    UpdateMetadataRequest,
)

LEADER_DURING_DELETION = -2
"""The leader that the controller announces for a partition whose topic is being deleted."""

SECURITY_PROTOCOLS = {0: "PLAINTEXT", 1: "SSL", 2: "SASL_PLAINTEXT", 3: "SASL_SSL"}


@attrs.frozen
class PartitionImage:
    """One partition; `leader` is -1 while nobody leads. `offline_replicas` are those the
    controller knows to be on failed log directories or dead brokers."""

    leader: BrokerId
    leader_epoch: LeaderEpoch
    isr: tuple[BrokerId, ...]
    replicas: tuple[BrokerId, ...]
    offline_replicas: tuple[BrokerId, ...] = ()
    partition_epoch: PartitionEpoch = 0


@attrs.frozen
class TopicImage:
    """One topic; `topic_id` is all zero for a topic created before topic ids."""

    name: str
    topic_id: uuid.UUID
    partitions: Mapping[int, PartitionImage]


@attrs.frozen(kw_only=True)
class MetadataImage:
    """What a broker knows of its cluster at one moment.

    Holds: `topic_names[t.topic_id] == t.name` for each topic `t` with an id, and nothing else.
    """

    cluster_id: str | None
    controller_id: BrokerId = NO_BROKER
    controller_epoch: ControllerEpoch = NO_EPOCH
    """Epoch of the controller that described this state; older ones are refused."""
    brokers: Mapping[BrokerId, BrokerInfo] = MappingProxyType({})
    """The live brokers (alive or shutting down)."""
    topics: Mapping[str, TopicImage] = MappingProxyType({})
    topic_names: Mapping[uuid.UUID, str] = MappingProxyType({})
    avoided: frozenset[BrokerId] = frozenset()
    """Brokers that have just hung up on us (`controller.suspicion`): whether or not they are dead,
    clients are sent to none of them."""
    received: bool = False
    """Whether any controller has described the cluster to us yet."""

    def partition(self, tp: TopicPartition) -> PartitionImage | None:
        """The partition's picture, or None where it does not exist."""
        topic = self.topics.get(tp.topic)
        return None if topic is None else topic.partitions.get(tp.partition)

    def topic_id(self, name: str) -> uuid.UUID:
        """The topic's id; all zero where the topic, or its id, is not known."""
        topic = self.topics.get(name)
        return NULL_UUID if topic is None else topic.topic_id

    def endpoint(self, broker_id: BrokerId, listener: str) -> Endpoint | None:
        """Where a live broker listens under that listener's name."""
        broker = self.brokers.get(broker_id) if self.is_alive(broker_id) else None
        return None if broker is None else broker.endpoints.get(listener)

    def is_alive(self, broker_id: BrokerId) -> bool:
        """Whether the controller counts the broker among the living, and it is not avoided."""
        return broker_id in self.brokers and broker_id not in self.avoided

    def partition_count(self) -> int:
        """Partitions in the whole cluster."""
        return sum(len(topic.partitions) for topic in self.topics.values())

    def check(self) -> None:
        """Assert what the class promises."""
        ids = {t.topic_id: t.name for t in self.topics.values() if t.topic_id != NULL_UUID}
        assert ids == dict(self.topic_names), "topic ids and names disagree"
        for name, topic in self.topics.items():
            assert topic.name == name
            assert topic.partitions, f"topic without partitions: {name}"


@attrs.frozen(kw_only=True)
class MetadataChanges:
    """What an UpdateMetadata changed, for those who must react."""

    deleted_topics: frozenset[str]
    """Topics that are gone, or were replaced by one of the same name and another id."""
    deleted_partitions: frozenset[TopicPartition]
    new_brokers: frozenset[BrokerId]
    lost_brokers: frozenset[BrokerId]


class MetadataCache:
    """Holds the newest `MetadataImage`; only `apply` and `avoid` replace it."""

    def __init__(self, cluster_id: str | None = None) -> None:
        self._image = MetadataImage(cluster_id=cluster_id)
        self._answers: dict[Hashable, Prepared] = {}

    def _replace(self, image: MetadataImage) -> None:
        self._image = image
        self._answers = {}

    def answers(self, image: MetadataImage) -> dict[Hashable, Prepared]:
        """Long answers made from `image`, to be given again while it is the newest; kept for
        nobody once it is not."""
        return self._answers if image is self._image else {}

    @property
    def image(self) -> MetadataImage:
        """The newest picture; take it once and read all from it."""
        return self._image

    def avoid(self, avoided: frozenset[BrokerId]) -> None:
        """Name these brokers to nobody as leaders or coordinators, and all others again."""
        self._replace(attrs.evolve(self._image, avoided=avoided))

    def apply(self, request: UpdateMetadataRequest) -> MetadataChanges:
        """Replace the picture by what the controller says; the caller has checked its epoch.

        Costs a copy of the topic map and of the partition maps of the topics named, whatever the
        number of partitions elsewhere.
        """
        old = self._image
        assert request.controller_epoch >= old.controller_epoch, "stale controller epoch"
        brokers = {broker.id: _broker(broker) for broker in request.live_brokers}
        topics = dict(old.topics)
        names = dict(old.topic_names)
        deleted: set[TopicPartition] = set()
        replaced: set[str] = set()

        for name, topic_id, states in _by_topic(request):
            known = topics.get(name)
            partitions: dict[int, PartitionImage] = {}
            if known is not None:
                if topic_id == NULL_UUID:
                    topic_id = known.topic_id
                if known.topic_id in (topic_id, NULL_UUID):
                    partitions.update(known.partitions)
                else:
                    # Deleted and created anew between two requests that reached us: nothing of
                    # the old topic may shine through.
                    replaced.add(name)
                    deleted.update(TopicPartition(name, p) for p in known.partitions)
                    names.pop(known.topic_id, None)
            for state in states:
                index = state.partition_index
                if state.leader == LEADER_DURING_DELETION:
                    if partitions.pop(index, None) is not None:
                        deleted.add(TopicPartition(name, index))
                else:
                    partitions[index] = _partition(state)
                    deleted.discard(TopicPartition(name, index))
            if partitions:
                topics[name] = TopicImage(name, topic_id, MappingProxyType(partitions))
                if topic_id != NULL_UUID:
                    names[topic_id] = name
            elif known is not None:
                del topics[name]
                names.pop(known.topic_id, None)

        self._replace(
            MetadataImage(
                cluster_id=old.cluster_id,
                controller_id=request.controller_id,
                controller_epoch=request.controller_epoch,
                brokers=MappingProxyType(brokers),
                topics=MappingProxyType(topics),
                topic_names=MappingProxyType(names),
                avoided=old.avoided,
                received=True,
            )
        )
        return MetadataChanges(
            deleted_topics=frozenset(old.topics.keys() - topics.keys()) | replaced,
            deleted_partitions=frozenset(deleted),
            new_brokers=frozenset(brokers.keys() - old.brokers.keys()),
            lost_brokers=frozenset(old.brokers.keys() - brokers.keys()),
        )


def _by_topic(
    request: UpdateMetadataRequest,
) -> Iterator[tuple[str, uuid.UUID, Iterable[UpdateMetadataPartitionState]]]:
    """The request's partitions per topic, whichever way its version carries them."""
    for topic in request.topic_states:
        yield topic.topic_name, topic.topic_id, topic.partition_states
    ungrouped: dict[str, list[UpdateMetadataPartitionState]] = {}
    for state in request.ungrouped_partition_states:
        ungrouped.setdefault(state.topic_name, []).append(state)
    for name, states in ungrouped.items():
        yield name, NULL_UUID, states


def _partition(state: UpdateMetadataPartitionState) -> PartitionImage:
    return PartitionImage(
        leader=state.leader,
        leader_epoch=state.leader_epoch,
        isr=tuple(state.isr),
        replicas=tuple(state.replicas),
        offline_replicas=tuple(state.offline_replicas),
        partition_epoch=state.zk_version,
    )


def _broker(broker: UpdateMetadataBroker) -> BrokerInfo:
    endpoints = {}
    for endpoint in broker.endpoints:
        protocol = SECURITY_PROTOCOLS.get(endpoint.security_protocol, "PLAINTEXT")
        # Versions below 3 name no listener: it is then called as its protocol (KIP-103).
        listener = endpoint.listener or protocol
        endpoints[listener] = Endpoint(listener, endpoint.host, endpoint.port, protocol)
    if not endpoints and broker.v0_host:
        endpoints["PLAINTEXT"] = Endpoint("PLAINTEXT", broker.v0_host, broker.v0_port)
    # The message's default for an absent rack is "", which is no rack either.
    return BrokerInfo(broker.id, MappingProxyType(endpoints), broker.rack or None)
