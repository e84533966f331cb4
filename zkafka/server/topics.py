"""Topics come, grow and go: what CreateTopics, Metadata's auto-creation, CreatePartitions and
DeleteTopics share.

What is written here are wishes: a topic's znode (its configuration first, so that whoever sees the
topic can read it), more partitions in it, or a marker for its deletion. The controller sees them by
its watches and does the rest. So a broker that dies in between leaves a wish that is either there
or not; and a request that runs out of time has not undone what it began.

Whoever waits, waits for the local metadata: that every partition has a leader, or that the topic is
gone, is known here when the controller's UpdateMetadata has come.

Validation, in Kafka's order, for a topic to be created:

1.  it is not in the metadata                       TOPIC_ALREADY_EXISTS
2.  no null among its settings                      INVALID_CONFIG
3.  counts or a manual assignment, not both         INVALID_REQUEST
4.  counts that can be placed on the live brokers   INVALID_PARTITIONS, INVALID_REPLICATION_FACTOR
5.  a legal name                                    INVALID_TOPIC_EXCEPTION
6.  neither in ZooKeeper nor marked for deletion    TOPIC_ALREADY_EXISTS
7.  no other name that differs only in . and _      INVALID_TOPIC_EXCEPTION
8.  an assignment without gaps, duplicates, and with one count of replicas
                                                    INVALID_REPLICA_ASSIGNMENT
9.  settings that are known and allowed             INVALID_CONFIG

Where we differ from Kafka: a count of partitions that would not fit into a topic's znode is
INVALID_PARTITIONS (Kafka places them first, and fails when it writes). A manual assignment may name
brokers that are not alive, as in Kafka, but none below zero.

Source: `ZkAdminManager`, `AdminZkClient` and `AutoTopicCreationManager` of Apache Kafka 3.9.
"""

import logging
import random
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import BrokerConfig, LogConfig
from zkafka.controller.placement import place, start_index_for
from zkafka.errors import (
    ApiError,
    ConfigError,
    CoordinationError,
    ErrorCode,
    NodeExists,
    NoNode,
    SessionLost,
    SessionSuspended,
    excerpt,
)
from zkafka.model import (
    INTERNAL_TOPICS,
    NO_LEADER,
    OFFSETS_TOPIC,
    TRANSACTIONS_TOPIC,
    BrokerId,
    ReplicaAssignment,
    TopicPartition,
)
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.messages.create_partitions import CreatePartitionsTopic
from zkafka.protocol.messages.create_topics import CreatableTopic, CreatableTopicConfig
from zkafka.replication.purgatory import METADATA, Purgatory
from zkafka.server.metadata import MetadataCache
from zkafka.zk.operations import MAX_REQUEST_BYTES
from zkafka.zk.store import Store
from zkafka.zk.znodes import is_valid_topic_id

log = logging.getLogger(__name__)

T = TypeVar("T")

NAME_MAX_LENGTH: Final = 249
"""So that `<topic>-<partition>` with a suffix is still a file name of 255 bytes."""
METADATA_TOPIC: Final = "__cluster_metadata"
"""KRaft's own log; nobody may create a topic of that name."""
LEFT_OPEN: Final = -1
"""A count that the creator leaves to the broker's settings."""
AT_A_TIME: Final = 32
"""Topics of one request written at a time: enough to hide the round trips to ZooKeeper."""

_LEGAL_NAME = re.compile(r"[a-zA-Z0-9._-]+\Z")


@attrs.frozen(kw_only=True)
class TopicResult:
    """What became of one topic of a request; the rest is set where `error` is NONE, or where only
    time ran out."""

    name: str | None
    error: ErrorCode = ErrorCode.NONE
    message: str | None = attrs.field(default=None, converter=attrs.converters.optional(excerpt))
    topic_id: uuid.UUID = NULL_UUID
    assignments: Mapping[int, ReplicaAssignment] = attrs.field(factory=dict)
    configs: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class _Wish:
    """A valid topic to be created."""

    name: str
    assignments: Mapping[int, ReplicaAssignment]
    configs: Mapping[str, str]


def is_legal_topic_name(name: str) -> bool:
    """Whether a topic may be called so: up to 249 letters, digits, `.`, `_`, `-`; not `.`, `..`."""
    return _name_fault(name) is None


def _name_fault(name: str) -> str | None:
    if not name:
        return "the empty string is not allowed"
    if name in (".", ".."):
        return "'.' or '..' is not allowed"
    if len(name) > NAME_MAX_LENGTH:
        return f"the length of '{name}' is longer than the max allowed length {NAME_MAX_LENGTH}"
    if not _LEGAL_NAME.match(name):
        return (
            f"'{name}' contains one or more characters other than ASCII alphanumerics, "
            "'.', '_' and '-'"
        )
    return None


def metric_name(topic: str) -> str:
    """The topic as metrics name it, `.` and `_` alike: no two topics may share that name."""
    return topic.replace(".", "_")


class Topics:
    """The wishes of clients and of this broker's own parts; called from any task."""

    def __init__(
        self,
        *,
        store: Store,
        metadata: MetadataCache,
        purgatory: Purgatory,
        config: BrokerConfig,
        clock: Clock,
        is_controller: Callable[[], bool],
        log_defaults: Callable[[], LogConfig] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._metadata = metadata
        self._purgatory = purgatory
        self._config = config
        self._clock = clock
        self._is_controller = is_controller
        self._log_defaults = log_defaults or (lambda: config.log_defaults)
        self._rng = rng or random.Random()
        self._being_created: set[str] = set()

    # Creating.

    async def create(
        self, topics: Sequence[CreatableTopic], *, timeout_ms: int, validate_only: bool = False
    ) -> list[TopicResult]:
        """Create topics, one result each in the order of the request.

        Waits: until every partition has a leader here, or `timeout_ms` is over; then
        REQUEST_TIMED_OUT for those that are not complete, though they will be. At once, with the
        same code, if `timeout_ms` is not positive.
        """
        if not self._is_controller():
            return [_not_controller(topic.name) for topic in topics]
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        named: dict[str, list[CreatableTopic]] = {}
        for topic in topics:
            named.setdefault(topic.name, []).append(topic)
        results: dict[str, TopicResult] = {}
        to_create: list[CreatableTopic] = []
        for name, same in named.items():
            if len(same) > 1:
                results[name] = TopicResult(
                    name=name,
                    error=ErrorCode.INVALID_REQUEST,
                    message="Found multiple entries for this topic.",
                )
            elif name == METADATA_TOPIC:
                results[name] = TopicResult(
                    name=name,
                    error=ErrorCode.INVALID_REQUEST,
                    message=f"Creation of internal topic {name} is prohibited.",
                )
            else:
                to_create.append(same[0])
        created = await self._create_valid(to_create, validate_only)
        results.update(created)
        if not validate_only:
            await self._await_leaders(results, deadline_ms, timeout_ms)
        return [results[name] for name in named]

    async def _create_valid(
        self, topics: Sequence[CreatableTopic], validate_only: bool
    ) -> dict[str, TopicResult]:
        """Judge all topics against what exists and against each other, then write the good ones."""
        if not topics:
            return {}
        results: dict[str, TopicResult] = {}
        wishes: list[_Wish] = []
        try:
            names = set(await self._store.topics())
            marked = await self._store.topic_deletions()
        except CoordinationError as error:
            return {topic.name: _refused(topic.name, error) for topic in topics}
        taken = names | marked
        collisions = {metric_name(name): name for name in taken}
        for topic in topics:
            try:
                wish = self._judge(topic, names, marked, collisions)
            except (ApiError, ConfigError) as error:
                results[topic.name] = _refused(topic.name, error)
                continue
            wishes.append(wish)
            names.add(wish.name)
            collisions.setdefault(metric_name(wish.name), wish.name)
        if validate_only:
            for wish in wishes:
                results[wish.name] = TopicResult(
                    name=wish.name, assignments=wish.assignments, configs=wish.configs
                )
            return results

        async def write(wish: _Wish) -> None:
            results[wish.name] = await self._write(wish)

        await _at_a_time(write, wishes)
        return results

    def _judge(
        self,
        topic: CreatableTopic,
        names: set[str],
        marked: set[str],
        collisions: Mapping[str, str],
    ) -> _Wish:
        """The topic as it is to be written. Errors: ApiError, ConfigError; see the table above."""
        name = topic.name
        if name in self._metadata.image.topics:
            raise ApiError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
        nulls = [entry.name for entry in topic.configs if entry.value is None]
        if nulls:
            raise ApiError(
                ErrorCode.INVALID_CONFIG,
                f"Null value not supported for topic configs: {','.join(nulls)}",
            )
        counted = topic.num_partitions != LEFT_OPEN or topic.replication_factor != LEFT_OPEN
        if counted and topic.assignments:
            raise ApiError(
                ErrorCode.INVALID_REQUEST,
                "Both numPartitions or replicationFactor and replicasAssignments were set. "
                "Both cannot be used at the same time.",
            )
        if topic.assignments:
            assignments = [(a.partition_index, tuple(a.broker_ids)) for a in topic.assignments]
        else:
            assignments = list(self._place(topic.num_partitions, topic.replication_factor).items())
        fault = _name_fault(name)
        if fault is not None:
            raise ApiError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {fault}")
        if name in names:
            raise ApiError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
        if name in marked:
            raise ApiError(
                ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' is marked for deletion."
            )
        other = collisions.get(metric_name(name))
        if other is not None:
            raise ApiError(
                ErrorCode.INVALID_TOPIC_EXCEPTION,
                f"Topic '{name}' collides with existing topics: {other}",
            )
        if topic.assignments:
            _check_assignments(assignments)
        configs = {entry.name: entry.value for entry in topic.configs if entry.value is not None}
        self._log_defaults().with_overrides(configs)
        return _Wish(
            name=name,
            assignments={p: ReplicaAssignment(replicas=r) for p, r in assignments},
            configs=configs,
        )

    def _place(self, partitions: int, replication_factor: int) -> dict[int, tuple[BrokerId, ...]]:
        if partitions == LEFT_OPEN:
            partitions = self._config.num_partitions
        if replication_factor == LEFT_OPEN:
            replication_factor = self._config.default_replication_factor
        _refuse_too_many(partitions, replication_factor)
        return place(
            self._racks(),
            partitions=partitions,
            replication_factor=replication_factor,
            rng=self._rng,
        )

    def _racks(self) -> dict[BrokerId, str | None]:
        """The brokers alive by the metadata, each with its rack."""
        return {broker.broker_id: broker.rack for broker in self._metadata.image.brokers.values()}

    async def _write(self, wish: _Wish) -> TopicResult:
        topic_id = self._new_topic_id()
        try:
            await self._store.create_topic(wish.name, topic_id, wish.assignments, wish.configs)
        except CoordinationError as error:
            return _refused(wish.name, error)
        log.info(
            "topic created topic=%s topic_id=%s partitions=%d",
            wish.name,
            topic_id,
            len(wish.assignments),
        )
        return TopicResult(
            name=wish.name, topic_id=topic_id, assignments=wish.assignments, configs=wish.configs
        )

    def _new_topic_id(self) -> uuid.UUID:
        while True:
            candidate = uuid.UUID(int=self._rng.getrandbits(128), version=4)
            if is_valid_topic_id(candidate):
                return candidate

    # Creating what nobody asked for by name.

    async def auto_create(self, name: str) -> ErrorCode:
        """Create a topic because somebody asked for its metadata; an internal one in its own way.

        LEADER_NOT_AVAILABLE: its creation has begun (here or elsewhere), ask again. Else why not:
        UNKNOWN_TOPIC_OR_PARTITION while another request of this broker is creating it,
        INVALID_TOPIC_EXCEPTION, INVALID_REPLICATION_FACTOR. Any broker may do this.
        """
        if name in INTERNAL_TOPICS:
            return await self.create_internal(name)
        if not is_legal_topic_name(name):
            return ErrorCode.INVALID_TOPIC_EXCEPTION
        return await self._create_once(
            CreatableTopic(
                name=name,
                num_partitions=self._config.num_partitions,
                replication_factor=self._config.default_replication_factor,
            )
        )

    async def create_internal(self, name: str) -> ErrorCode:
        """Create the topic that a coordinator keeps its records in; codes as `auto_create`."""
        config = self._config
        if name == OFFSETS_TOPIC:
            partitions = config.offsets_topic_num_partitions
            factor = config.offsets_topic_replication_factor
            settings = {
                "cleanup.policy": "compact",
                "compression.type": "producer",
                "segment.bytes": str(config.offsets_topic_segment_bytes),
            }
        else:
            assert name == TRANSACTIONS_TOPIC, name
            partitions = config.transaction_state_log_num_partitions
            factor = config.transaction_state_log_replication_factor
            settings = {
                "cleanup.policy": "compact",
                "compression.type": "uncompressed",
                "min.insync.replicas": str(config.transaction_state_log_min_isr),
                "segment.bytes": str(config.transaction_state_log_segment_bytes),
                "unclean.leader.election.enable": "false",
            }
        return await self._create_once(
            CreatableTopic(
                name=name,
                num_partitions=partitions,
                replication_factor=factor,
                configs=_entries(settings),
            )
        )

    async def _create_once(self, topic: CreatableTopic) -> ErrorCode:
        """One creation of a name at a time, not waited for."""
        name = topic.name
        if len(self._metadata.image.brokers) < topic.replication_factor:
            log.warning(
                "topic not created yet topic=%s replication_factor=%d live_brokers=%d",
                name,
                topic.replication_factor,
                len(self._metadata.image.brokers),
            )
            return ErrorCode.INVALID_REPLICATION_FACTOR
        if name in self._being_created:
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        self._being_created.add(name)
        try:
            result = (await self._create_valid([topic], validate_only=False))[name]
        finally:
            self._being_created.discard(name)
        if result.error in (
            ErrorCode.NONE,
            ErrorCode.TOPIC_ALREADY_EXISTS,
            ErrorCode.REQUEST_TIMED_OUT,
        ):
            return ErrorCode.LEADER_NOT_AVAILABLE
        return result.error

    # Growing.

    async def add_partitions(
        self,
        topics: Sequence[CreatePartitionsTopic],
        *,
        timeout_ms: int,
        validate_only: bool = False,
    ) -> list[TopicResult]:
        """Grow topics to the counts given; one result each. Waits, and times out, as `create`."""
        if not self._is_controller():
            return [_not_controller(topic.name) for topic in topics]
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        named: dict[str, list[CreatePartitionsTopic]] = {}
        for topic in topics:
            named.setdefault(topic.name, []).append(topic)
        results = {
            name: TopicResult(
                name=name, error=ErrorCode.INVALID_REQUEST, message="Duplicate topic in request."
            )
            for name, same in named.items()
            if len(same) > 1
        }

        async def grow(topic: CreatePartitionsTopic) -> None:
            try:
                results[topic.name] = await self._grow(topic, validate_only)
            except (ApiError, CoordinationError) as error:
                results[topic.name] = _refused(topic.name, error)

        await _at_a_time(grow, [same[0] for same in named.values() if len(same) == 1])
        if not validate_only:
            await self._await_leaders(results, deadline_ms, timeout_ms)
        return [results[name] for name in named]

    async def _grow(self, topic: CreatePartitionsTopic, validate_only: bool) -> TopicResult:
        name = topic.name
        if name in await self._store.topic_deletions():
            raise ApiError(ErrorCode.INVALID_TOPIC_EXCEPTION, "The topic is queued for deletion.")
        # A name that none can have would be a path to somewhere else in ZooKeeper.
        found = None
        if is_legal_topic_name(name):
            found = (await self._store.read_topics([name])).get(name)
        if found is None or not found.assignments:
            raise ApiError(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist."
            )
        existing = found.assignments
        if any(a.adding or a.removing for a in existing.values()):
            raise ApiError(
                ErrorCode.REASSIGNMENT_IN_PROGRESS,
                f"A partition reassignment is in progress for the topic '{name}'.",
            )
        more = topic.count - len(existing)
        if more < 0:
            raise ApiError(
                ErrorCode.INVALID_PARTITIONS,
                f"Topic currently has {len(existing)} partitions, which is higher than the "
                f"requested {topic.count}.",
            )
        if more == 0:
            raise ApiError(
                ErrorCode.INVALID_PARTITIONS, f"Topic already has {len(existing)} partitions."
            )
        first = existing[min(existing)].replicas
        _refuse_too_many(topic.count, len(first))
        racks = self._racks()
        if topic.assignments is None:
            placed = place(
                racks,
                partitions=more,
                replication_factor=len(first),
                rng=self._rng,
                first_partition=len(existing),
                start_index=start_index_for(first[0], racks),
            )
        else:
            given = [tuple(a.broker_ids) for a in topic.assignments]
            _check_added_assignments(given, more, len(first), racks.keys())
            placed = {len(existing) + index: replicas for index, replicas in enumerate(given)}
        added = {p: ReplicaAssignment(replicas=replicas) for p, replicas in placed.items()}
        if validate_only:
            return TopicResult(name=name, assignments={**existing, **added})
        try:
            grown = await self._store.add_partitions(name, added)
        except NoNode:
            raise ApiError(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist."
            ) from None
        except NodeExists:
            raise ApiError(
                ErrorCode.INVALID_PARTITIONS, f"Topic '{name}' was grown by somebody else."
            ) from None
        log.info("partitions added topic=%s partitions=%d", name, len(grown.assignments))
        return TopicResult(name=name, assignments=grown.assignments)

    # Deleting.

    async def delete(self, names: Sequence[str], *, timeout_ms: int) -> list[TopicResult]:
        """Mark topics for deletion; one result each. One that is marked already is no error.

        Waits: until they are gone from the local metadata, or REQUEST_TIMED_OUT as `create`.
        """
        if not self._is_controller():
            return [_not_controller(name) for name in names]
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        results: dict[str, TopicResult] = {}

        async def mark(name: str) -> None:
            try:
                if is_legal_topic_name(name) and await self._store.read_topics([name]):
                    await self._store.mark_topic_deletion(name)
                    log.info("topic marked for deletion topic=%s", name)
                    results[name] = TopicResult(name=name)
                else:
                    results[name] = TopicResult(
                        name=name,
                        error=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                        message=f"The topic '{name}' does not exist.",
                    )
            except CoordinationError as error:
                results[name] = _refused(name, error)

        await _at_a_time(mark, list(dict.fromkeys(names)))
        waiting = {name for name, result in results.items() if result.error is ErrorCode.NONE}

        def gone() -> bool:
            waiting.intersection_update(self._metadata.image.topics)
            return not waiting

        if timeout_ms > 0:
            await self._purgatory.wait_until([METADATA], gone, deadline_ms)
        for name in waiting:
            results[name] = attrs.evolve(results[name], error=ErrorCode.REQUEST_TIMED_OUT)
        return [results[name] for name in names]

    # Waiting.

    async def _await_leaders(
        self, results: dict[str, TopicResult], deadline_ms: int, timeout_ms: int
    ) -> None:
        """Wait for leaders of all partitions of the successes; those that lack one time out."""
        waiting = {
            TopicPartition(name, index)
            for name, result in results.items()
            if result.error is ErrorCode.NONE
            for index in result.assignments
        }

        def led() -> bool:
            image = self._metadata.image
            for tp in list(waiting):
                partition = image.partition(tp)
                if partition is not None and partition.leader > NO_LEADER:
                    waiting.discard(tp)
            return not waiting

        if timeout_ms > 0:
            await self._purgatory.wait_until([METADATA], led, deadline_ms)
        for name in {tp.topic for tp in waiting}:
            results[name] = attrs.evolve(results[name], error=ErrorCode.REQUEST_TIMED_OUT)


def _not_controller(name: str | None) -> TopicResult:
    return TopicResult(
        name=name,
        error=ErrorCode.NOT_CONTROLLER,
        message="This is not the correct controller for this cluster.",
    )


def _refused(name: str, error: ApiError | ConfigError | CoordinationError) -> TopicResult:
    """An exception as a topic's result: ours to explain, or ZooKeeper's to try again."""
    match error:
        case ApiError():
            return TopicResult(name=name, error=error.code, message=error.message)
        case ConfigError():
            return TopicResult(name=name, error=ErrorCode.INVALID_CONFIG, message=str(error))
        case NodeExists():
            return TopicResult(
                name=name,
                error=ErrorCode.TOPIC_ALREADY_EXISTS,
                message=f"Topic '{name}' already exists.",
            )
        case SessionSuspended() | SessionLost():
            # It may have been done; whoever asks again learns that it exists.
            return TopicResult(name=name, error=ErrorCode.REQUEST_TIMED_OUT, message=str(error))
        case _:
            log.error("topic not written topic=%s error=%s", name, error)
            return TopicResult(name=name, error=ErrorCode.UNKNOWN_SERVER_ERROR, message=str(error))


def _check_assignments(assignments: Sequence[tuple[int, tuple[BrokerId, ...]]]) -> None:
    """Manual assignments: as many replicas everywhere, no broker twice, partitions 0 to n - 1."""
    for partition, replicas in assignments:
        if len(set(replicas)) != len(replicas):
            raise ApiError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Duplicate replica assignment found: partition {partition} on {list(replicas)}",
            )
        if not replicas or min(replicas) < 0:
            raise ApiError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Partition {partition} has no replicas, or one on a broker that cannot be",
            )
    if len({len(replicas) for _, replicas in assignments}) != 1:
        raise ApiError(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "All partitions should have the same number of replicas",
        )
    if sorted(partition for partition, _ in assignments) != list(range(len(assignments))):
        raise ApiError(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "partitions should be a consecutive 0-based integer sequence",
        )


def _check_added_assignments(
    given: Sequence[tuple[BrokerId, ...]],
    more: int,
    replication_factor: int,
    live: Iterable[BrokerId],
) -> None:
    """Manual assignments of added partitions, which unlike new topics' must be on live brokers."""
    alive = set(live)
    unknown = sorted({broker for replicas in given for broker in replicas} - alive)
    if unknown:
        raise ApiError(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"Unknown broker(s) in replica assignment: {', '.join(map(str, unknown))}.",
        )
    if len(given) != more:
        raise ApiError(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"Increasing the number of partitions by {more} but {len(given)} assignments provided.",
        )
    for replicas in given:
        if len(set(replicas)) != len(replicas):
            raise ApiError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Duplicate brokers not allowed in replica assignment: {list(replicas)}",
            )
        if len(replicas) != replication_factor:
            raise ApiError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                "Inconsistent replication factor between partitions, partition 0 has "
                f"{replication_factor} while a new one has {len(replicas)}.",
            )


def _refuse_too_many(partitions: int, replication_factor: int) -> None:
    """Refuse before placing what a topic's znode cannot hold anyway: `"p":[r,r],` per partition."""
    smallest = partitions * (6 + 2 * max(replication_factor, 1))
    if smallest > MAX_REQUEST_BYTES:
        raise ApiError(
            ErrorCode.INVALID_PARTITIONS,
            f"{partitions} partitions are more than a topic's znode can hold.",
        )


def _entries(settings: Mapping[str, str]) -> list[CreatableTopicConfig]:
    return [CreatableTopicConfig(name=key, value=value) for key, value in settings.items()]


async def _at_a_time(work: Callable[[T], Awaitable[None]], items: Sequence[T]) -> None:
    """`work` on all items, `AT_A_TIME` of them at a time."""
    remaining = iter(items)

    async def some() -> None:
        for item in remaining:
            await work(item)

    async with trio.open_nursery() as nursery:
        for _ in range(min(AT_A_TIME, len(items))):
            nursery.start_soon(some)
