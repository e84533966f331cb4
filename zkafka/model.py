"""The nouns that every part shares.

Numbers of different nature have names of their own, for the reader: the names are aliases of
`int`, since distinct types want a cast at every addition (docs/decisions.md, 2).
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import attrs

BrokerId: TypeAlias = int
Offset: TypeAlias = int
LeaderEpoch: TypeAlias = int
"""How often the partition changed leader; 0 at its creation."""
ControllerEpoch: TypeAlias = int
BrokerEpoch: TypeAlias = int
"""The czxid of a registration under /brokers/ids (KIP-380)."""
PartitionEpoch: TypeAlias = int
"""The znode version of a partition's state, which a conditional write names."""
ProducerId: TypeAlias = int
Generation: TypeAlias = int

NO_LEADER = -1
NO_EPOCH = -1
NO_OFFSET = -1
NO_BROKER = -1
NO_PRODUCER = -1

OFFSETS_TOPIC = "__consumer_offsets"
TRANSACTIONS_TOPIC = "__transaction_state"
INTERNAL_TOPICS = frozenset({OFFSETS_TOPIC, TRANSACTIONS_TOPIC})


class TopicPartition(NamedTuple):
    """One partition of one topic; ordered, and written as Kafka writes it: `orders-3`."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class EpochEndOffset(NamedTuple):
    """The end (exclusive) of what was written in `leader_epoch`; (-1, -1) where unknown."""

    leader_epoch: LeaderEpoch
    end_offset: Offset


UNDEFINED_EPOCH_END = EpochEndOffset(NO_EPOCH, NO_OFFSET)


@attrs.frozen
class Endpoint:
    """Where a broker listens, as told to clients; `protocol` is PLAINTEXT, SSL, ..."""

    listener: str
    host: str
    port: int
    protocol: str = "PLAINTEXT"

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.listener}://{self.address}"


@attrs.frozen
class BrokerInfo:
    """One broker as its peers and clients see it; `endpoints` by listener name."""

    broker_id: BrokerId
    endpoints: Mapping[str, Endpoint]
    rack: str | None = None


@attrs.frozen(kw_only=True)
class PartitionState:
    """What is decided for one partition: who leads, in which epochs, who is in sync.

    Stored in /brokers/topics/T/partitions/P/state; `partition_epoch` is that znode's version and
    is not part of its body. `recovering` is true from an unclean election until the new leader's
    first AlterPartition (leader_recovery_state 1).
    """

    leader: BrokerId
    leader_epoch: LeaderEpoch
    isr: tuple[BrokerId, ...]
    controller_epoch: ControllerEpoch
    partition_epoch: PartitionEpoch = 0
    recovering: bool = False


@attrs.frozen(kw_only=True)
class ReplicaAssignment:
    """Which brokers hold a partition, preferred first. `adding` and `removing` list those that a
    reassignment (KIP-455) is moving; both are in `replicas` while it lasts."""

    replicas: tuple[BrokerId, ...]
    adding: tuple[BrokerId, ...] = ()
    removing: tuple[BrokerId, ...] = ()


class BrokerState(enum.IntEnum):
    """What a broker is doing, as Kafka's gauge `BrokerState` numbers it."""

    NOT_RUNNING = 0
    STARTING = 1
    RECOVERY = 2
    RUNNING = 3
    PENDING_CONTROLLED_SHUTDOWN = 6
    SHUTTING_DOWN = 7
