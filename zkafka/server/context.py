"""What a handler is given: the broker's parts, and who asked."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from zkafka.clock import Clock
from zkafka.model import BrokerEpoch, BrokerId, LeaderEpoch, TopicPartition
from zkafka.server.metadata import MetadataCache
from zkafka.server.requests import RequestCounters
from zkafka.server.traffic import Traffic

if TYPE_CHECKING:
    from zkafka.config import BrokerConfig
    from zkafka.controller.controller import Controller
    from zkafka.groups.coordinator import GroupCoordinator
    from zkafka.log.directory import LogDirectory
    from zkafka.offload import Offload
    from zkafka.protocol.codec import RequestHeader
    from zkafka.replication.purgatory import Purgatory
    from zkafka.replication.replicas import Replicas
    from zkafka.server.configs import Configs
    from zkafka.server.fetch_sessions import FetchSessions
    from zkafka.server.topics import Topics
    from zkafka.transactions.producer_ids import ProducerIds
    from zkafka.zk.store import Store


@attrs.define(kw_only=True)
class Parts:
    """Everything a handler may need; one per broker, built by `broker.py`.

    Ownership: `broker.py` starts and stops the parts; handlers only call them.
    """

    broker_id: BrokerId
    broker_epoch: Callable[[], BrokerEpoch]
    """The epoch of this broker's current registration; -1 while it has none."""
    config: "BrokerConfig"
    clock: Clock
    metadata: MetadataCache
    purgatory: "Purgatory"
    offload: "Offload"
    replicas: "Replicas"
    groups: "GroupCoordinator"
    controller: "Controller"
    topics: "Topics"
    configs: "Configs"
    producer_ids: "ProducerIds"
    fetch_sessions: "FetchSessions"
    store: "Store"
    log_dirs: Sequence["LogDirectory"]
    controller_changed: Callable[[], None] = lambda: None
    """To be called once the metadata name another controller."""
    traffic: Traffic = attrs.Factory(Traffic)
    requests: RequestCounters = attrs.Factory(RequestCounters)

    def leader_of(self, tp: TopicPartition) -> tuple[BrokerId, LeaderEpoch] | None:
        """Who leads the partition, as far as we know, and since which epoch: our own role may be
        newer than the cluster's picture (the controller gives roles first)."""
        known = self.metadata.image.partition(tp)
        replica = self.replicas.hosted.get(tp)
        if replica is not None and (
            known is None or replica.machine.leader_epoch > known.leader_epoch
        ):
            return replica.machine.leader, replica.machine.leader_epoch
        return None if known is None else (known.leader, known.leader_epoch)


@attrs.define(kw_only=True)
class RequestContext:
    """One request's surroundings: its header, and the connection it came in on.

    `listener_name` decides which endpoints the client is told; `peer_host` is the textual address
    without port. Not frozen, only because there is one per request and that costs three times as
    much to make.
    """

    parts: Parts
    header: "RequestHeader"
    connection_id: int
    peer_host: str
    listener_name: str

    @property
    def version(self) -> int:
        """The request's API version."""
        return self.header.api_version

    @property
    def client_id(self) -> str:
        """What the client calls itself; empty where it says nothing."""
        return self.header.client_id or ""
