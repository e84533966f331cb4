"""What we serve: API key -> messages, versions, handler.

The answer to ApiVersions, the README's table and the dispatcher's choice of a handler are all
computed from `APIS`. An API that is not here is not advertised, and asking for it closes the
connection, as Kafka does.

**Where we differ from Kafka 3.9**: the lowest versions are those of Kafka 4 (KIP-896) where Kafka
4 dropped some: Produce from 3, Fetch from 4, ListOffsets from 1, OffsetCommit from 2, OffsetFetch
from 1, CreateTopics from 2, DeleteTopics from 1, OffsetForLeaderEpoch from 2, DescribeConfigs from
1, AlterReplicaLogDirs and DescribeLogDirs from 1; WriteTxnMarkers keeps its 0. Produce is
nevertheless advertised from 0: released librdkafka versions compress only where Produce v0 is on
offer (KAFKA-18659); asking for 0 to 2 closes the connection.
ControlledShutdown starts at 1 (version 0 has a request header of its own, last used by 0.8) and
AlterPartition at 2 (the first with topic ids).

Source: the version table of Apache Kafka 3.9 in ZooKeeper mode.
"""

import enum
import functools
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from zkafka.protocol.fields import schema_of


class ApiKey(enum.IntEnum):
    """The number that opens a request's header."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    LEADER_AND_ISR = 4
    STOP_REPLICA = 5
    UPDATE_METADATA = 6
    CONTROLLED_SHUTDOWN = 7
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    WRITE_TXN_MARKERS = 27
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    ALTER_REPLICA_LOG_DIRS = 34
    DESCRIBE_LOG_DIRS = 35
    CREATE_PARTITIONS = 37
    DELETE_GROUPS = 42
    ELECT_LEADERS = 43
    INCREMENTAL_ALTER_CONFIGS = 44
    OFFSET_DELETE = 47
    ALTER_PARTITION = 56
    DESCRIBE_CLUSTER = 60
    DESCRIBE_PRODUCERS = 61
    ALLOCATE_PRODUCER_IDS = 67


@attrs.frozen(eq=False)
class Api:
    """One API: `name` is its message module's and its handler module's; versions are inclusive.

    `advertised_min` is what ApiVersions tells, `min_version` what is served. The message classes
    are imported when first asked for: all of them together cost a third of a second at start.
    """

    key: ApiKey
    min_version: int
    max_version: int
    advertised_min: int
    flexible: int
    """First version with compact lengths and tagged fields; beyond `max_version` for never."""
    inter_broker: bool
    """Only brokers send it."""

    @property
    def name(self) -> str:
        """`offset_for_leader_epoch`."""
        return self.key.name.lower()

    @property
    def request_class(self) -> type[Any]:
        """The request's message class."""
        return _message_class(self.name, "Request")

    @property
    def response_class(self) -> type[Any]:
        """The response's message class."""
        return _message_class(self.name, "Response")

    def serves(self, version: int) -> bool:
        """Whether a request of this version gets an answer."""
        return self.min_version <= version <= self.max_version


@functools.cache
def _message_class(name: str, suffix: str) -> type[Any]:
    module = importlib.import_module(f"zkafka.protocol.messages.{name}")
    cls: type[Any] = getattr(module, "".join(map(str.capitalize, name.split("_"))) + suffix)
    return cls


_NEVER = 32767


def _api(
    key: ApiKey,
    min_version: int,
    max_version: int,
    flexible: int,
    *,
    advertised_min: int | None = None,
    inter_broker: bool = False,
) -> tuple[int, Api]:
    advertised = min_version if advertised_min is None else advertised_min
    return int(key), Api(key, min_version, max_version, advertised, flexible, inter_broker)


APIS: Mapping[int, Api] = MappingProxyType(
    dict(
        [
            _api(ApiKey.PRODUCE, 3, 11, 9, advertised_min=0),
            _api(ApiKey.FETCH, 4, 17, 12),
            _api(ApiKey.LIST_OFFSETS, 1, 9, 6),
            _api(ApiKey.METADATA, 0, 12, 9),
            _api(ApiKey.LEADER_AND_ISR, 0, 7, 4, inter_broker=True),
            _api(ApiKey.STOP_REPLICA, 0, 4, 2, inter_broker=True),
            _api(ApiKey.UPDATE_METADATA, 0, 8, 6, inter_broker=True),
            _api(ApiKey.CONTROLLED_SHUTDOWN, 1, 3, 3, inter_broker=True),
            _api(ApiKey.OFFSET_COMMIT, 2, 9, 8),
            _api(ApiKey.OFFSET_FETCH, 1, 9, 6),
            _api(ApiKey.FIND_COORDINATOR, 0, 6, 3),
            _api(ApiKey.JOIN_GROUP, 0, 9, 6),
            _api(ApiKey.HEARTBEAT, 0, 4, 4),
            _api(ApiKey.LEAVE_GROUP, 0, 5, 4),
            _api(ApiKey.SYNC_GROUP, 0, 5, 4),
            _api(ApiKey.DESCRIBE_GROUPS, 0, 5, 5),
            _api(ApiKey.LIST_GROUPS, 0, 5, 3),
            _api(ApiKey.API_VERSIONS, 0, 4, 3),
            _api(ApiKey.CREATE_TOPICS, 2, 7, 5),
            _api(ApiKey.DELETE_TOPICS, 1, 6, 4),
            _api(ApiKey.DELETE_RECORDS, 0, 2, 2),
            _api(ApiKey.INIT_PRODUCER_ID, 0, 5, 2),
            _api(ApiKey.OFFSET_FOR_LEADER_EPOCH, 2, 4, 4),
            _api(ApiKey.WRITE_TXN_MARKERS, 0, 1, 1),
            _api(ApiKey.DESCRIBE_CONFIGS, 1, 4, 4),
            _api(ApiKey.ALTER_CONFIGS, 0, 2, 2),
            _api(ApiKey.ALTER_REPLICA_LOG_DIRS, 1, 2, 2),
            _api(ApiKey.DESCRIBE_LOG_DIRS, 1, 4, 2),
            _api(ApiKey.CREATE_PARTITIONS, 0, 3, 2),
            _api(ApiKey.DELETE_GROUPS, 0, 2, 2),
            _api(ApiKey.ELECT_LEADERS, 0, 2, 2),
            _api(ApiKey.INCREMENTAL_ALTER_CONFIGS, 0, 1, 1),
            _api(ApiKey.OFFSET_DELETE, 0, 0, _NEVER),
            _api(ApiKey.ALTER_PARTITION, 2, 3, 0, inter_broker=True),
            _api(ApiKey.DESCRIBE_CLUSTER, 0, 1, 0),
            _api(ApiKey.DESCRIBE_PRODUCERS, 0, 0, 0),
            _api(ApiKey.ALLOCATE_PRODUCER_IDS, 0, 0, 0, inter_broker=True),
        ]
    )
)
"""Every API served, by key, in the order of the keys."""


def check() -> None:
    """Assert that the table says what the message classes say."""
    for key, api in APIS.items():
        assert key == api.key
        for cls in (api.request_class, api.response_class):
            schema = schema_of(cls)
            assert schema.api_key == key, cls
            assert schema.versions == (api.min_version, api.max_version), cls
            assert schema.flexible == api.flexible, cls
