"""Path, encoding and decoding of each znode: Kafka 3.9's layout.

Everything is compact UTF-8 JSON but `/controller_epoch` (decimal text) and nodes without data.
Numbers that Kafka writes as text (`timestamp`, `block_start`, ...) are written as text. Readers
take every JSON version that Kafka 3.9 reads, and ignore keys they do not know; what they cannot
read raises `CoordinationError` naming the path, since it is the world's fault and not ours.

Paths are relative to the chroot of zookeeper.connect.

Source: `ZkData` of Apache Kafka 3.9; KIP-455 (reassignment), KIP-516 (topic ids), KIP-584
(features), KIP-704 (leader recovery state).
"""

import base64
import binascii
import json
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

import attrs

from zkafka.errors import CoordinationError
from zkafka.model import (
    BrokerEpoch,
    BrokerId,
    BrokerInfo,
    ControllerEpoch,
    Endpoint,
    PartitionState,
    ProducerId,
    ReplicaAssignment,
    TopicPartition,
)

T = TypeVar("T")

BROKER_IDS: Final = "/brokers/ids"
TOPICS: Final = "/brokers/topics"
SEQUENCE_ID: Final = "/brokers/seqid"
CONTROLLER: Final = "/controller"
CONTROLLER_EPOCH: Final = "/controller_epoch"
CLUSTER_ID: Final = "/cluster/id"
CONFIG: Final = "/config"
CONFIG_CHANGES: Final = "/config/changes"
CONFIG_CHANGE_PREFIX: Final = "config_change_"
TOPIC_DELETIONS: Final = "/admin/delete_topics"
PREFERRED_ELECTION: Final = "/admin/preferred_replica_election"
REASSIGNMENTS: Final = "/admin/reassign_partitions"
ISR_CHANGES: Final = "/isr_change_notification"
ISR_CHANGE_PREFIX: Final = "isr_change_"
LOG_DIR_EVENTS: Final = "/log_dir_event_notification"
LOG_DIR_EVENT_PREFIX: Final = "log_dir_event_"
PRODUCER_ID_BLOCK: Final = "/latest_producer_id_block"
FEATURE: Final = "/feature"

BASE_PATHS: Final = (
    "/consumers",
    BROKER_IDS,
    TOPICS,
    CONFIG_CHANGES,
    TOPIC_DELETIONS,
    SEQUENCE_ID,
    ISR_CHANGES,
    PRODUCER_ID_BLOCK,
    LOG_DIR_EVENTS,
    "/config/topics",
    "/config/clients",
    "/config/users",
    "/config/brokers",
    "/config/ips",
)
"""What every broker creates at its start, without data, where it is missing."""

DEFAULT_ENTITY: Final = "<default>"
"""Node name of the entity that stands for all others of its kind."""

PRODUCER_ID_BLOCK_SIZE: Final = 1000


# ---------------------------------------------------------------------------------------- JSON


def _encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def _decoded(path: str, data: bytes, read: Callable[[dict[str, Any]], T]) -> T:
    """`read` applied to the node's JSON object. Errors: `CoordinationError`, and no other."""
    try:
        body = json.loads(data)
        if not isinstance(body, dict):
            raise TypeError("not a JSON object")
        return read(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CoordinationError(f"{path} holds what we cannot read ({reason})") from error


def _whole(value: Any) -> int:
    """A JSON number that is whole; True and 1.5 are not."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def encode_uuid(value: uuid.UUID) -> str:
    """Kafka's text of a 128-bit id: 22 characters of URL-safe base64."""
    return base64.urlsafe_b64encode(value.bytes).rstrip(b"=").decode()


def decode_uuid(text: str) -> uuid.UUID:
    """The id that `encode_uuid` wrote. Errors: ValueError."""
    try:
        return uuid.UUID(bytes=base64.urlsafe_b64decode(text + "=="))
    except binascii.Error as error:
        raise ValueError(f"{text!r} is not an id") from error


def is_valid_topic_id(value: uuid.UUID) -> bool:
    """Whether a random id may name a topic: not reserved (0 or 1), and not beginning with a dash,
    which a command line would take for an option."""
    return value.int > 1 and not encode_uuid(value).startswith("-")


# ------------------------------------------------------------------------------------- brokers


@attrs.frozen(kw_only=True)
class BrokerRegistration:
    """What a broker says of itself under /brokers/ids: `endpoints` are the advertised ones."""

    broker_id: BrokerId
    endpoints: tuple[Endpoint, ...]
    rack: str | None = None
    timestamp_ms: int = 0
    jmx_port: int = -1

    @property
    def info(self) -> BrokerInfo:
        """The broker as its peers and clients see it."""
        return BrokerInfo(
            broker_id=self.broker_id,
            endpoints={endpoint.listener: endpoint for endpoint in self.endpoints},
            rack=self.rack,
        )


@attrs.frozen(kw_only=True)
class RegisteredBroker:
    """A live broker. `broker_epoch` is its node's czxid: another one for each registration."""

    registration: BrokerRegistration
    broker_epoch: BrokerEpoch
    session_id: int = 0
    """The session that holds the registration."""


def broker_path(broker_id: BrokerId) -> str:
    """The ephemeral node of one broker."""
    return f"{BROKER_IDS}/{broker_id}"


def encode_broker(registration: BrokerRegistration) -> bytes:
    """Version 5. Host and port repeat the first PLAINTEXT endpoint, for readers of version 1."""
    plain = [e for e in registration.endpoints if e.protocol == "PLAINTEXT"]
    body: dict[str, Any] = {
        "version": 5,
        "host": plain[0].host if plain else None,
        "port": plain[0].port if plain else -1,
        "endpoints": [str(endpoint) for endpoint in registration.endpoints],
        "jmx_port": registration.jmx_port,
        "timestamp": str(registration.timestamp_ms),
        "listener_security_protocol_map": {e.listener: e.protocol for e in registration.endpoints},
        "features": {},
    }
    if registration.rack is not None:
        body["rack"] = registration.rack
    return _encode(body)


def decode_broker(broker_id: BrokerId, data: bytes) -> BrokerRegistration:
    """Versions 1 to 5. Errors: `CoordinationError`."""

    def read(body: dict[str, Any]) -> BrokerRegistration:
        version = _whole(body["version"])
        if version < 1:
            raise ValueError(f"version {version}")
        if version == 1:
            endpoints: tuple[Endpoint, ...] = (
                Endpoint("PLAINTEXT", body["host"], _whole(body["port"])),
            )
        else:
            protocols = body.get("listener_security_protocol_map", {})
            endpoints = tuple(_parse_endpoint(text, protocols) for text in body["endpoints"])
        return BrokerRegistration(
            broker_id=broker_id,
            endpoints=endpoints,
            rack=body.get("rack"),
            timestamp_ms=int(body.get("timestamp", 0)),
            jmx_port=_whole(body.get("jmx_port", -1)),
        )

    return _decoded(broker_path(broker_id), data, read)


def _parse_endpoint(text: str, protocols: Mapping[str, str]) -> Endpoint:
    """`LISTENER://host:port`; before version 4 the listener's name is its protocol."""
    listener, _, address = text.partition("://")
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} is not an endpoint")
    return Endpoint(listener, host.strip("[]"), int(port), protocols.get(listener, listener))


# -------------------------------------------------------------------------------------- topics


@attrs.frozen(kw_only=True)
class TopicZnode:
    """A topic's node. `topic_id` is None for a topic that older brokers created."""

    topic_id: uuid.UUID | None
    assignments: Mapping[int, ReplicaAssignment]
    version: int = 0
    """The node's version; not a part of its body."""


def topic_path(topic: str) -> str:
    """The node that says where a topic's replicas are."""
    return f"{TOPICS}/{topic}"


def partitions_path(topic: str) -> str:
    """Parent of a topic's partitions."""
    return f"{TOPICS}/{topic}/partitions"


def partition_path(tp: TopicPartition) -> str:
    """Parent of one partition's state."""
    return f"{TOPICS}/{tp.topic}/partitions/{tp.partition}"


def state_path(tp: TopicPartition) -> str:
    """Who leads one partition, and who is in sync."""
    return f"{TOPICS}/{tp.topic}/partitions/{tp.partition}/state"


def encode_topic(topic_id: uuid.UUID | None, assignments: Mapping[int, ReplicaAssignment]) -> bytes:
    """Version 3. Only partitions under reassignment are listed as adding or removing."""

    def rows(of: Callable[[ReplicaAssignment], tuple[BrokerId, ...]]) -> dict[str, list[BrokerId]]:
        return {
            str(partition): list(of(assignment))
            for partition, assignment in sorted(assignments.items())
            if of(assignment)
        }

    body: dict[str, Any] = {"version": 3}
    if topic_id is not None:
        body["topic_id"] = encode_uuid(topic_id)
    body["partitions"] = {str(p): list(a.replicas) for p, a in sorted(assignments.items())}
    body["adding_replicas"] = rows(lambda assignment: assignment.adding)
    body["removing_replicas"] = rows(lambda assignment: assignment.removing)
    return _encode(body)


def decode_topic(topic: str, data: bytes, version: int = 0) -> TopicZnode:
    """Versions 1 to 3. Errors: `CoordinationError`."""

    def read(body: dict[str, Any]) -> TopicZnode:
        adding = body.get("adding_replicas") or {}
        removing = body.get("removing_replicas") or {}
        text = body.get("topic_id")
        return TopicZnode(
            topic_id=decode_uuid(text) if text is not None else None,
            assignments={
                int(partition): ReplicaAssignment(
                    replicas=tuple(_whole(r) for r in replicas),
                    adding=tuple(_whole(r) for r in adding.get(partition, ())),
                    removing=tuple(_whole(r) for r in removing.get(partition, ())),
                )
                for partition, replicas in body["partitions"].items()
            },
            version=version,
        )

    return _decoded(topic_path(topic), data, read)


def encode_partition_state(state: PartitionState) -> bytes:
    """Version 1. The recovery state is written only while the partition recovers."""
    body: dict[str, Any] = {
        "version": 1,
        "leader": state.leader,
        "leader_epoch": state.leader_epoch,
        "controller_epoch": state.controller_epoch,
        "isr": list(state.isr),
    }
    if state.recovering:
        body["leader_recovery_state"] = 1
    return _encode(body)


def decode_partition_state(tp: TopicPartition, data: bytes, version: int) -> PartitionState:
    """`version` is the node's, and becomes the partition epoch. Errors: `CoordinationError`."""

    def read(body: dict[str, Any]) -> PartitionState:
        return PartitionState(
            leader=_whole(body["leader"]),
            leader_epoch=_whole(body["leader_epoch"]),
            isr=tuple(_whole(replica) for replica in body["isr"]),
            controller_epoch=_whole(body["controller_epoch"]),
            partition_epoch=version,
            recovering=body.get("leader_recovery_state", 0) == 1,
        )

    return _decoded(state_path(tp), data, read)


# ---------------------------------------------------------------------------------- controller


@attrs.frozen
class Fence:
    """A term of office: its number, and the version of /controller_epoch that a controller's
    transactions check. While the check holds, nobody was elected since."""

    controller_epoch: ControllerEpoch
    zk_version: int


def encode_controller(broker_id: BrokerId, timestamp_ms: int) -> bytes:
    """Version 2; the KRaft epoch is -1 in every ZooKeeper cluster."""
    return _encode(
        {
            "version": 2,
            "brokerid": broker_id,
            "timestamp": str(timestamp_ms),
            "kraftControllerEpoch": -1,
        }
    )


def decode_controller(data: bytes) -> BrokerId:
    """Who holds /controller. Errors: `CoordinationError`."""
    return _decoded(CONTROLLER, data, lambda body: _whole(body["brokerid"]))


def encode_controller_epoch(epoch: ControllerEpoch) -> bytes:
    """Decimal text."""
    return str(epoch).encode()


def decode_controller_epoch(data: bytes) -> ControllerEpoch:
    """Errors: `CoordinationError`."""
    try:
        return int(data)
    except ValueError as error:
        raise CoordinationError(f"{CONTROLLER_EPOCH} holds what we cannot read") from error


def encode_cluster_id(cluster_id: str) -> bytes:
    """The version is text here, alone among all nodes."""
    return _encode({"version": "1", "id": cluster_id})


def decode_cluster_id(data: bytes) -> str:
    """Errors: `CoordinationError`."""
    return _decoded(CLUSTER_ID, data, lambda body: str(body["id"]))


def encode_feature() -> bytes:
    """Version 2, enabled, with no finalized features: what a 3.9 broker keeps beside ZooKeeper."""
    return _encode({"version": 2, "status": 1, "features": {}})


# --------------------------------------------------------------------------------------- config


@attrs.frozen
class ConfigChange:
    """One notification under /config/changes: which entity to read again.

    `kind` is `topics`, `brokers`, `clients`, `users` or `ips`; `name` is the rest of the entity's
    path as it is written there (percent-encoded where it is a user's or client's name).
    """

    number: int
    kind: str
    name: str


def entity_path(kind: str, name: str) -> str:
    """The node with an entity's overrides; `name` is a topic, a broker id or `<default>`."""
    return f"{CONFIG}/{kind}/{name}"


def encode_config(config: Mapping[str, str]) -> bytes:
    """Version 1; all values are text."""
    return _encode({"version": 1, "config": dict(sorted(config.items()))})


def decode_config(path: str, data: bytes) -> dict[str, str]:
    """The overrides; none where the node has no data. Errors: `CoordinationError`."""
    if not data:
        return {}

    def read(body: dict[str, Any]) -> dict[str, str]:
        return {str(key): str(value) for key, value in (body.get("config") or {}).items()}

    return _decoded(path, data, read)


def encode_config_change(kind: str, name: str) -> bytes:
    """Version 2."""
    return _encode({"version": 2, "entity_path": f"{kind}/{name}"})


def decode_config_change(node_name: str, data: bytes) -> ConfigChange | None:
    """Versions 1 and 2; None for what is no notification of these, which is to be ignored."""

    def read(body: dict[str, Any]) -> ConfigChange:
        if body["version"] == 1:
            return ConfigChange(number, body["entity_type"], body["entity_name"])
        kind, slash, name = body["entity_path"].partition("/")
        if not slash:
            raise ValueError("no entity")
        return ConfigChange(number, kind, name)

    try:
        number = sequence_number(node_name)
        return _decoded(f"{CONFIG_CHANGES}/{node_name}", data, read)
    except (ValueError, CoordinationError):
        return None


def sequence_number(node_name: str) -> int:
    """The counter that ZooKeeper appended to a sequential node. Errors: ValueError."""
    return int(node_name[-10:])


# ---------------------------------------------------------------------------------------- admin


def topic_deletion_path(topic: str) -> str:
    """The marker that asks for a topic's deletion."""
    return f"{TOPIC_DELETIONS}/{topic}"


def encode_partitions(partitions: Collection[TopicPartition]) -> bytes:
    """What /admin/preferred_replica_election and an ISR change notification hold."""
    rows = [{"topic": tp.topic, "partition": tp.partition} for tp in sorted(partitions)]
    return _encode({"version": 1, "partitions": rows})


def decode_partitions(path: str, data: bytes) -> frozenset[TopicPartition]:
    """Errors: `CoordinationError`."""

    def read(body: dict[str, Any]) -> frozenset[TopicPartition]:
        return frozenset(
            TopicPartition(row["topic"], _whole(row["partition"])) for row in body["partitions"]
        )

    return _decoded(path, data, read)


def encode_log_dir_event(broker_id: BrokerId) -> bytes:
    """A log directory of that broker failed (event 1, the only kind)."""
    return _encode({"version": 1, "broker": broker_id, "event": 1})


def decode_log_dir_event(node_name: str, data: bytes) -> BrokerId:
    """Errors: `CoordinationError`."""
    path = f"{LOG_DIR_EVENTS}/{node_name}"
    return _decoded(path, data, lambda body: _whole(body["broker"]))


@attrs.frozen
class ProducerIdBlock:
    """A run of producer ids given to one broker for good: `first` to `last`, both inclusive."""

    broker_id: BrokerId
    first: ProducerId
    last: ProducerId

    @property
    def size(self) -> int:
        """How many ids it holds."""
        return self.last - self.first + 1

    @property
    def ids(self) -> range:
        """The ids themselves."""
        return range(self.first, self.last + 1)


def encode_producer_id_block(block: ProducerIdBlock) -> bytes:
    """The bounds are text."""
    return _encode(
        {
            "version": 1,
            "broker": block.broker_id,
            "block_start": str(block.first),
            "block_end": str(block.last),
        }
    )


def decode_producer_id_block(data: bytes) -> ProducerIdBlock | None:
    """The last block given out; None where there was none yet. Errors: `CoordinationError`."""
    if not data:
        return None

    def read(body: dict[str, Any]) -> ProducerIdBlock:
        return ProducerIdBlock(
            _whole(body["broker"]), int(body["block_start"]), int(body["block_end"])
        )

    return _decoded(PRODUCER_ID_BLOCK, data, read)
