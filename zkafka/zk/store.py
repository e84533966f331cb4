"""What the broker keeps in ZooKeeper, typed: reads, conditional writes, fenced transactions.

Laws:

- A controller's write is a transaction whose first part checks the version of `/controller_epoch`.
  When that check fails, another controller was elected: `FencedEpoch`, whatever else was asked.
- A partition's state is replaced only on the version that its writer saw; otherwise `StaleVersion`
  for that partition, while the others are written.
- After a lost reply the outcome is read back. A write that finds its own success has succeeded.
- The one retry loop is `_retrying`: it waits for the connection, up to `retry_ms`, then raises
  `SessionSuspended`. It does not outlive the session: `SessionLost` is for the caller, whose
  ephemerals are gone. Reads are retried as they are; each write says what a retry must look at.

With `watch`, a read arms one-shot watches on what it read; see `zk/session.py` for the hints.

Bulk work is cut into transactions of `_BATCH_OPERATIONS`, of which `_IN_FLIGHT` run at a time. A
thousand states are then some ten to twenty requests; one by one they would be a thousand round
trips. A transaction stands or falls as a whole, so a batch that meets a conflict is done again one
by one, and only what conflicts is refused.

Source: `KafkaZkClient` of Apache Kafka 3.9.
"""

import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import trio

from zkafka.errors import (
    CoordinationError,
    FencedEpoch,
    NodeExists,
    NoNode,
    SessionLost,
    SessionSuspended,
    StaleVersion,
    excerpt,
)
from zkafka.model import (
    NO_BROKER,
    BrokerEpoch,
    BrokerId,
    ControllerEpoch,
    PartitionState,
    ReplicaAssignment,
    TopicPartition,
)
from zkafka.zk import znodes
from zkafka.zk.operations import (
    ANY_VERSION,
    MAX_REQUEST_BYTES,
    Check,
    Create,
    Delete,
    MultiFailed,
    NodeStat,
    Operation,
    Outcome,
    Set,
    size_of,
)
from zkafka.zk.znodes import (
    BrokerRegistration,
    ConfigChange,
    Fence,
    ProducerIdBlock,
    RegisteredBroker,
    TopicZnode,
)

if TYPE_CHECKING:
    from zkafka.zk.session import Session

log = logging.getLogger(__name__)

T = TypeVar("T")
K = TypeVar("K")

_BATCH_OPERATIONS: Final = 100
"""Parts of one transaction. A thousand creates took ZooKeeper 3.8 0.6 s one by one, 0.2 s pipelined
and 0.02 s in transactions of this size; a larger one would only stall others for longer."""

_IN_FLIGHT: Final = 64
"""Requests of one bulk call on their way at a time: enough to hide the round trip, few enough that
a heartbeat, or another part's request, is not stuck behind thousands."""

CONFIG_CHANGE_LIFE_MS: Final = 15 * 60 * 1000
"""How long a notification stays under /config/changes."""


class BrokerIdTaken(NodeExists):
    """Another session holds the broker id; `holder` is what it registered."""

    def __init__(self, holder: RegisteredBroker) -> None:
        addresses = ", ".join(str(endpoint) for endpoint in holder.registration.endpoints)
        super().__init__(
            f"broker id {holder.registration.broker_id} is registered by {addresses} "
            f"in session 0x{holder.session_id:x}"
        )
        self.holder = holder


class AddressTaken(NodeExists):
    """Another registered broker advertises one of our addresses."""


class Store:
    """Everything the broker reads and writes in ZooKeeper; called from any task."""

    def __init__(self, session: "Session", *, retry_ms: int = 30_000) -> None:
        self._session = session
        self._retry_ms = retry_ms
        self._not_brokers: set[str] = set()
        """Nodes among the registrations that are none, and were complained of."""

    # --------------------------------------------------------------------- how it is asked

    async def _retrying(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, tried again whenever the connection was lost meanwhile.

        Waits: for the connection, until `retry_ms` from now. Errors: `SessionSuspended` when the
        time is up, `SessionLost` when the session ended, and those of `attempt`.
        """
        session_id = self._session.session_id
        deadline = trio.current_time() + self._retry_ms / 1000
        while True:
            try:
                return await attempt()
            except SessionSuspended:
                with trio.move_on_at(deadline) as scope:
                    await self._session.wait_connected()
                if scope.cancelled_caught:
                    raise
                if self._session.session_id != session_id:
                    raise SessionLost("the session ended before a request was answered") from None

    async def _pipelined(
        self, calls: Mapping[K, Callable[[], Awaitable[T]]]
    ) -> dict[K, T | CoordinationError]:
        """Each call's result, or its error; `_IN_FLIGHT` of them at a time."""
        results: dict[K, T | CoordinationError] = {}
        remaining = iter(calls.items())

        async def work() -> None:
            for key, call in remaining:
                try:
                    results[key] = await call()
                except CoordinationError as error:
                    results[key] = error

        async with trio.open_nursery() as nursery:
            for _ in range(min(_IN_FLIGHT, len(calls))):
                nursery.start_soon(work)
        return {key: results[key] for key in calls}

    async def _all(self, calls: Mapping[K, Callable[[], Awaitable[T]]]) -> dict[K, T]:
        """As `_pipelined`, where any error is everybody's."""
        results = await self._pipelined(calls)
        found: dict[K, T] = {}
        for key, result in results.items():
            if isinstance(result, CoordinationError):
                raise result
            found[key] = result
        return found

    async def _fenced(self, fence: Fence, operations: Sequence[Operation]) -> list[Outcome]:
        """One transaction of the controller; outcomes of `operations`.

        Errors: `FencedEpoch`, or the error of the operation that was refused.
        """
        check = Check(znodes.CONTROLLER_EPOCH, fence.zk_version)
        try:
            outcomes = await self._session.multi([check, *operations])
        except MultiFailed as failure:
            if failure.index == 0:
                raise FencedEpoch(
                    f"another controller was elected after epoch {fence.controller_epoch}"
                ) from failure
            raise failure.error from failure
        return outcomes[1:]

    async def _get(self, path: str, *, watch: bool = False) -> tuple[bytes, NodeStat] | None:
        """A node's data, None where it is missing. Retried. The watch is set on an existing node
        only; `_get_or_watch` also notices its creation."""

        async def attempt() -> tuple[bytes, NodeStat] | None:
            try:
                return await self._session.get(path, watch=watch)
            except NoNode:
                return None

        return await self._retrying(attempt)

    async def _get_or_watch(self, path: str, watch: bool) -> tuple[bytes, NodeStat] | None:
        """As `_get`, with a watch that also fires when a missing node is created."""
        if not watch:
            return await self._get(path)

        async def attempt() -> bool:
            return await self._session.exists(path, watch=True) is not None

        return await self._get(path) if await self._retrying(attempt) else None

    async def _get_each(
        self, paths: Mapping[K, str], *, watch: bool = False
    ) -> dict[K, tuple[bytes, NodeStat]]:
        """Data of many nodes; missing ones are left out."""
        found = await self._all(
            {key: functools.partial(self._get, path, watch=watch) for key, path in paths.items()}
        )
        return {key: node for key, node in found.items() if node is not None}

    async def _children(self, path: str, *, watch: bool = False) -> list[str]:
        async def attempt() -> list[str]:
            try:
                return await self._session.children(path, watch=watch)
            except NoNode:
                return []

        return await self._retrying(attempt)

    async def _ensure(self, path: str, data: bytes = b"") -> bool:
        """Make a node if it is missing, and its parents; whether this call made it, as far as one
        can tell after a lost reply."""

        async def attempt() -> bool:
            try:
                await self._session.create(path, data)
            except NodeExists:
                return False
            return True

        try:
            return await self._retrying(attempt)
        except NoNode:
            await self._ensure(path.rpartition("/")[0])
            return await self._retrying(attempt)

    async def _create_sequential(self, prefix: str, data: bytes) -> None:
        """A notification. After a lost reply there may be two of them, which is harmless: a
        notification asks to read again."""

        async def attempt() -> None:
            await self._session.create(prefix, data, sequential=True)

        await self._retrying(attempt)

    async def _delete_fenced(self, fence: Fence, paths: Iterable[str]) -> None:
        """Delete nodes without children, in order; those that are gone are fine."""
        for batch in _batches([Delete(path) for path in paths], lambda operation: [operation]):

            async def attempt(batch: Sequence[Delete] = batch) -> None:
                await self._fenced(fence, batch)

            try:
                await self._retrying(attempt)
            except NoNode:
                # One of them is gone already (perhaps by our own lost reply): one by one.
                for operation in batch if len(batch) > 1 else ():
                    await self._delete_fenced(fence, [operation.path])

    # --------------------------------------------------------------------------- the cluster

    async def create_base_paths(self) -> None:
        """Make what every broker expects to be there."""
        await self._all({path: functools.partial(self._ensure, path) for path in znodes.BASE_PATHS})

    async def cluster_id(self, create: bool) -> str | None:
        """The cluster's id; with `create`, the first broker to ask makes one up."""
        node = await self._get(znodes.CLUSTER_ID)
        if node is None and create:
            made_up = znodes.encode_uuid(_random_id())
            await self._ensure(znodes.CLUSTER_ID, znodes.encode_cluster_id(made_up))
            node = await self._get(znodes.CLUSTER_ID)
        return None if node is None else znodes.decode_cluster_id(node[0])

    async def ensure_feature(self) -> None:
        """Make /feature where it is missing, as a 3.9 controller does; it finalizes nothing."""
        await self._ensure(znodes.FEATURE, znodes.encode_feature())

    # --------------------------------------------------------------------------- brokers

    async def next_broker_id(self, reserved_max: int) -> BrokerId:
        """An id that no broker had before, above `reserved_max`. A lost reply skips one."""

        async def attempt() -> BrokerId:
            stat = await self._session.set(znodes.SEQUENCE_ID, b"")
            return stat.version + reserved_max

        return await self._retrying(attempt)

    async def register_broker(
        self, registration: BrokerRegistration, *, previous_session_id: int = 0
    ) -> BrokerEpoch:
        """Register this broker in the current session; its epoch is the node's czxid.

        `previous_session_id` is that of this broker's last registration, whose node it may take
        away. Errors: `AddressTaken`; `BrokerIdTaken` names who holds the id: another process, or
        a former one of this broker whose session has not ended.
        """
        broker_id = registration.broker_id
        self._refuse_shared_addresses(registration, await self.brokers(watch=False))
        path = znodes.broker_path(broker_id)
        data = znodes.encode_broker(registration)

        async def attempt() -> BrokerEpoch | None:
            try:
                _, stat = await self._session.multi(
                    [Create(path, ephemeral=True), Set(path, data, version=0)]
                )
            except MultiFailed as failure:
                if not isinstance(failure.error, NodeExists):
                    raise failure.error from failure
            else:
                assert isinstance(stat, NodeStat)
                return stat.czxid
            return await self._settle_registration(registration, previous_session_id)

        while True:
            epoch = await self._retrying(attempt)
            if epoch is not None:
                return epoch

    async def _settle_registration(
        self, registration: BrokerRegistration, previous_session_id: int
    ) -> BrokerEpoch | None:
        """The id's node is there: ours by a lost reply (its epoch), that of our last session
        (removed: None, try again), gone meanwhile (None), or another's (`BrokerIdTaken`)."""
        path = znodes.broker_path(registration.broker_id)
        try:
            data, stat = await self._session.get(path)
        except NoNode:
            return None
        if stat.ephemeral_owner == self._session.session_id:
            await self._session.set(path, znodes.encode_broker(registration))
            return stat.czxid
        if previous_session_id and stat.ephemeral_owner == previous_session_id:
            try:
                await self._session.delete(path, stat.version)
            except (NoNode, StaleVersion):
                return None
            return None
        holder = znodes.decode_broker(registration.broker_id, data)
        raise BrokerIdTaken(
            RegisteredBroker(
                registration=holder, broker_epoch=stat.czxid, session_id=stat.ephemeral_owner
            )
        )

    def _refuse_shared_addresses(
        self, registration: BrokerRegistration, brokers: Mapping[BrokerId, RegisteredBroker]
    ) -> None:
        ours = {(endpoint.host, endpoint.port): endpoint for endpoint in registration.endpoints}
        for broker_id, broker in brokers.items():
            if broker_id == registration.broker_id:
                continue
            for endpoint in broker.registration.endpoints:
                if (endpoint.host, endpoint.port) in ours:
                    raise AddressTaken(
                        f"{endpoint.address} is advertised by broker {broker_id} already, "
                        f"in session 0x{broker.session_id:x}"
                    )

    async def brokers(self, watch: bool = True) -> dict[BrokerId, RegisteredBroker]:
        """The live brokers by id. Watches the list, and each registration.

        A node that is not named by a number is nobody's registration, and passed over.
        """
        names = await self._children(znodes.BROKER_IDS, watch=watch)
        ids = sorted(int(name) for name in names if self._is_broker_id(name))
        nodes = await self._get_each({i: znodes.broker_path(i) for i in ids}, watch=watch)
        return {
            broker_id: RegisteredBroker(
                registration=znodes.decode_broker(broker_id, data),
                broker_epoch=stat.czxid,
                session_id=stat.ephemeral_owner,
            )
            for broker_id, (data, stat) in nodes.items()
        }

    def _is_broker_id(self, name: str) -> bool:
        if name.isascii() and name.isdigit():
            return True
        if name not in self._not_brokers:
            self._not_brokers.add(name)
            log.warning("not a broker id, passed over path=%s/%s", znodes.BROKER_IDS, excerpt(name))
        return False

    # ------------------------------------------------------------------------ the controller

    async def controller(self, watch: bool = False) -> BrokerId | None:
        """Who is the controller; None while nobody is. Watches for its coming and going."""
        node = await self._get_or_watch(znodes.CONTROLLER, watch)
        return None if node is None else znodes.decode_controller(node[0])

    async def elect(self, broker_id: BrokerId, now_ms: int) -> Fence | None:
        """Try to become the controller; the term of office, or None where another one is it.

        A /controller that this very session holds is an election won, whose reply may have been
        lost: nobody else can have written it.
        """

        async def attempt() -> Fence | None:
            holder = await self._get(znodes.CONTROLLER)
            epoch, version = await self._controller_epoch()
            if holder is not None:
                ours = holder[1].ephemeral_owner == self._session.session_id
                return Fence(epoch, version) if ours else None
            try:
                _, stat = await self._session.multi(
                    [
                        Create(
                            znodes.CONTROLLER,
                            znodes.encode_controller(broker_id, now_ms),
                            ephemeral=True,
                        ),
                        Set(
                            znodes.CONTROLLER_EPOCH,
                            znodes.encode_controller_epoch(epoch + 1),
                            version,
                        ),
                    ]
                )
            except MultiFailed as failure:
                if isinstance(failure.error, NodeExists | StaleVersion):
                    return None
                raise failure.error from failure
            assert isinstance(stat, NodeStat)
            return Fence(epoch + 1, stat.version)

        return await self._retrying(attempt)

    async def _controller_epoch(self) -> tuple[ControllerEpoch, int]:
        node = await self._get(znodes.CONTROLLER_EPOCH)
        if node is None:
            await self._ensure(znodes.CONTROLLER_EPOCH, znodes.encode_controller_epoch(0))
            node = await self._get(znodes.CONTROLLER_EPOCH)
            if node is None:
                raise CoordinationError(f"{znodes.CONTROLLER_EPOCH} vanished")
        return znodes.decode_controller_epoch(node[0]), node[1].version

    async def resign(self, fence: Fence) -> None:
        """Give the office up, so that another can be elected; nothing, if another was already."""
        await self._vacate(fence)

    async def _vacate(self, fence: Fence, version: int = ANY_VERSION) -> None:
        """Remove /controller as it was in that term; nothing, if the term is over."""

        async def attempt() -> None:
            try:
                await self._fenced(fence, [Delete(znodes.CONTROLLER, version)])
            except (FencedEpoch, NoNode):
                return

        await self._retrying(attempt)

    async def depose(self, broker_id: BrokerId, broker_epoch: BrokerEpoch) -> bool:
        """Take the office from the controller, if it is the broker registered under that epoch, so
        that another can be elected; False, and nothing done, if it is not.

        Nobody but that very term is ended, however late the request arrives: any later election
        changes the epoch that the transaction checks, which is read before the holder is. A lost
        reply is not made up for by deposing somebody else: once more against the same term, or not.
        """
        epoch, version = await self._controller_epoch()
        holder = await self._get(znodes.CONTROLLER)
        registration = await self._get(znodes.broker_path(broker_id))
        if (
            holder is None
            or registration is None
            or znodes.decode_controller(holder[0]) != broker_id
            or registration[1].czxid != broker_epoch
            or registration[1].ephemeral_owner != holder[1].ephemeral_owner
        ):
            return False
        await self._vacate(Fence(epoch, version), holder[1].version)
        return True

    # ---------------------------------------------------------------------------- topics

    async def topics(self, watch: bool = False) -> set[str]:
        """Names of all topics. Watches the list."""
        return set(await self._children(znodes.TOPICS, watch=watch))

    async def read_topics(self, names: Iterable[str], watch: bool = False) -> dict[str, TopicZnode]:
        """The topics' nodes; those that do not exist are left out. Watches each that does."""
        paths = {name: znodes.topic_path(name) for name in sorted(names)}
        nodes = await self._get_each(paths, watch=watch)
        return {
            name: znodes.decode_topic(name, data, stat.version)
            for name, (data, stat) in nodes.items()
        }

    async def create_topic(
        self,
        name: str,
        topic_id: uuid.UUID,
        assignments: Mapping[int, ReplicaAssignment],
        configs: Mapping[str, str],
    ) -> None:
        """Make a topic: its configuration first, so that whoever sees the topic can read it.

        Errors: `NodeExists` when another made a topic of that name. `topic_id` is random, so a node
        that carries it is ours, whatever became of the reply.
        """
        path = znodes.topic_path(name)
        data = znodes.encode_topic(topic_id, assignments)
        if await self._is_other_topic(name, topic_id):
            raise NodeExists(f"topic {name} exists already")
        await self._put_config("topics", name, configs)

        async def attempt() -> None:
            try:
                await self._session.create(path, data)
            except NodeExists:
                if await self._is_other_topic(name, topic_id):
                    raise

        await self._retrying(attempt)

    async def _is_other_topic(self, name: str, topic_id: uuid.UUID) -> bool:
        found = await self.read_topics([name])
        return name in found and found[name].topic_id != topic_id

    async def add_partitions(self, name: str, added: Mapping[int, ReplicaAssignment]) -> TopicZnode:
        """Give a topic more partitions; the topic as written.

        Kafka rewrites the node unconditionally; we name the version we read, so that two
        additions, or one beside a controller's write, cannot undo each other. Errors: `NoNode`;
        `NodeExists` when one of the partitions exists with other replicas.
        """
        path = znodes.topic_path(name)

        async def attempt() -> TopicZnode | None:
            data, stat = await self._session.get(path)
            topic = znodes.decode_topic(name, data, stat.version)
            present = {p: topic.assignments[p] for p in added if p in topic.assignments}
            if present == dict(added):
                return topic
            if present:
                raise NodeExists(f"topic {name} has partition {min(present)} already")
            assignments = {**topic.assignments, **added}
            try:
                written = await self._session.set(
                    path, znodes.encode_topic(topic.topic_id, assignments), stat.version
                )
            except StaleVersion:
                return None
            return attrs.evolve(topic, assignments=assignments, version=written.version)

        while True:
            topic = await self._retrying(attempt)
            if topic is not None:
                return topic

    async def rewrite_topic(
        self,
        fence: Fence,
        name: str,
        topic_id: uuid.UUID | None,
        assignments: Mapping[int, ReplicaAssignment],
    ) -> None:
        """Replace a topic's node, fenced. Errors: `FencedEpoch`, `NoNode`."""
        operation = Set(znodes.topic_path(name), znodes.encode_topic(topic_id, assignments))
        await self._retrying(functools.partial(self._fenced, fence, [operation]))

    # ------------------------------------------------------------------- partition states

    async def partition_states(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, PartitionState]:
        """The states as they are; a partition without one is left out."""
        nodes = await self._get_each({tp: znodes.state_path(tp) for tp in sorted(partitions)})
        return {
            tp: znodes.decode_partition_state(tp, data, stat.version)
            for tp, (data, stat) in nodes.items()
        }

    async def create_partition_states(
        self, fence: Fence, states: Mapping[TopicPartition, PartitionState]
    ) -> dict[TopicPartition, PartitionState | CoordinationError]:
        """Make the states of new partitions: each as written, with partition epoch 0, or why not
        (`NodeExists`; `NoNode` when the topic is gone).

        Errors: `FencedEpoch`, `SessionLost`, `SessionSuspended` when time is up: for all of them,
        and some may be written.
        """
        topics = sorted({tp.topic for tp in states})
        await self._pipelined(
            {topic: functools.partial(self._make_parent, fence, topic) for topic in topics}
        )
        return await self._in_batches(
            fence, states, self._operations_of_creation, self._create_state
        )

    def _operations_of_creation(self, tp: TopicPartition, state: PartitionState) -> list[Operation]:
        data = znodes.encode_partition_state(state)
        return [Create(znodes.partition_path(tp)), Create(znodes.state_path(tp), data)]

    async def _make_parent(self, fence: Fence, topic: str) -> None:
        """/brokers/topics/T/partitions. What is wrong with it shows with the partitions."""

        async def attempt() -> None:
            try:
                await self._fenced(fence, [Create(znodes.partitions_path(topic))])
            except NodeExists:
                return

        await self._retrying(attempt)

    async def _create_state(
        self, fence: Fence, tp: TopicPartition, state: PartitionState
    ) -> PartitionState:
        """One state, where the batch met a conflict or lost its reply."""
        operations = self._operations_of_creation(tp, state)

        async def attempt() -> PartitionState:
            try:
                await self._fenced(fence, operations)
            except NodeExists:
                try:
                    await self._fenced(fence, operations[1:])
                except NodeExists:
                    found = (await self.partition_states([tp])).get(tp)
                    if found != attrs.evolve(state, partition_epoch=0):
                        raise
            return attrs.evolve(state, partition_epoch=0)

        return await self._retrying(attempt)

    async def write_partition_states(
        self, fence: Fence, states: Mapping[TopicPartition, PartitionState]
    ) -> dict[TopicPartition, PartitionState | CoordinationError]:
        """Replace states: each as written, with its new partition epoch, or `StaleVersion` where
        the node no longer has the partition epoch that the given state names, or is gone.

        Errors: as `create_partition_states`.
        """
        return await self._in_batches(
            fence,
            states,
            lambda tp, state: [
                Set(
                    znodes.state_path(tp),
                    znodes.encode_partition_state(state),
                    state.partition_epoch,
                )
            ],
            self._write_state,
        )

    async def _write_state(
        self, fence: Fence, tp: TopicPartition, state: PartitionState
    ) -> PartitionState:
        """One state, where the batch met a conflict or lost its reply."""
        data = znodes.encode_partition_state(state)
        written = attrs.evolve(state, partition_epoch=state.partition_epoch + 1)

        async def attempt() -> PartitionState:
            try:
                await self._fenced(fence, [Set(znodes.state_path(tp), data, state.partition_epoch)])
            except StaleVersion:
                # By our own hand, if it holds just what we wrote, one version further.
                if (await self.partition_states([tp])).get(tp) != written:
                    raise
            except NoNode as error:
                raise StaleVersion(f"{znodes.state_path(tp)} is gone") from error
            return written

        return await self._retrying(attempt)

    async def _in_batches(
        self,
        fence: Fence,
        states: Mapping[TopicPartition, PartitionState],
        operations_of: Callable[[TopicPartition, PartitionState], Sequence[Operation]],
        one: Callable[[Fence, TopicPartition, PartitionState], Awaitable[PartitionState]],
    ) -> dict[TopicPartition, PartitionState | CoordinationError]:
        """Carry out many states' operations in fenced transactions; by `one` where that fails."""

        async def whole(batch: Sequence[TopicPartition]) -> dict[TopicPartition, PartitionState]:
            operations = [op for tp in batch for op in operations_of(tp, states[tp])]
            outcomes = await self._fenced(fence, operations)
            share = len(outcomes) // len(batch)
            return {
                tp: attrs.evolve(states[tp], partition_epoch=_version_of(last))
                for tp, last in zip(batch, outcomes[share - 1 :: share], strict=True)
            }

        batches = _batches(sorted(states), lambda tp: operations_of(tp, states[tp]))
        attempts = await self._pipelined(
            {index: functools.partial(whole, batch) for index, batch in enumerate(batches)}
        )
        results: dict[TopicPartition, PartitionState | CoordinationError] = {}
        again: list[TopicPartition] = []
        for index, attempt in attempts.items():
            if isinstance(attempt, NodeExists | NoNode | StaleVersion | SessionSuspended):
                again.extend(batches[index])
            elif isinstance(attempt, CoordinationError):
                raise attempt
            else:
                results.update(attempt)
        singles = await self._pipelined(
            {tp: functools.partial(one, fence, tp, states[tp]) for tp in again}
        )
        for single in singles.values():
            if isinstance(single, FencedEpoch | SessionLost | SessionSuspended):
                raise single
        results.update(singles)
        return {tp: results[tp] for tp in states}

    # --------------------------------------------------------------------- deleting topics

    async def topic_deletions(self, watch: bool = False) -> set[str]:
        """Topics marked for deletion. Watches the list."""
        return set(await self._children(znodes.TOPIC_DELETIONS, watch=watch))

    async def mark_topic_deletion(self, topic: str) -> None:
        """Ask the controller to delete a topic; nothing, if that was asked before."""
        await self._ensure(znodes.topic_deletion_path(topic))

    async def delete_topic_nodes(self, fence: Fence, topic: str) -> None:
        """Remove a topic's nodes, children first, then its configuration. Errors: `FencedEpoch`."""
        parent = znodes.partitions_path(topic)
        partitions = [TopicPartition(topic, int(name)) for name in await self._children(parent)]
        paths = [
            path
            for tp in sorted(partitions)
            for path in (znodes.state_path(tp), znodes.partition_path(tp))
        ]
        await self._delete_fenced(fence, [*paths, parent, znodes.topic_path(topic)])
        await self._delete_fenced(fence, [znodes.entity_path("topics", topic)])

    async def clear_topic_deletion(self, fence: Fence, topic: str) -> None:
        """Remove the marker. Errors: `FencedEpoch`."""
        await self._delete_fenced(fence, [znodes.topic_deletion_path(topic)])

    # ------------------------------------------------------- requests and notifications

    async def preferred_elections(self, watch: bool = False) -> frozenset[TopicPartition] | None:
        """What a legacy tool asks elections for; None where it asks for nothing. Watches for the
        request to come. A request that cannot be read asks for none, and is there to be cleared."""
        node = await self._get_or_watch(znodes.PREFERRED_ELECTION, watch)
        if node is None:
            return None
        try:
            return znodes.decode_partitions(znodes.PREFERRED_ELECTION, node[0])
        except CoordinationError:
            return frozenset()

    async def clear_preferred_elections(self, fence: Fence) -> None:
        """Remove that request. Errors: `FencedEpoch`."""
        await self._delete_fenced(fence, [znodes.PREFERRED_ELECTION])

    async def log_dir_events(self, watch: bool = False) -> dict[str, BrokerId]:
        """Node name -> broker whose log directory failed (-1 where it cannot be read, and is to be
        deleted). Watches the list."""
        names = await self._children(znodes.LOG_DIR_EVENTS, watch=watch)
        nodes = await self._get_each({n: f"{znodes.LOG_DIR_EVENTS}/{n}" for n in names})
        events: dict[str, BrokerId] = {}
        for name, (data, _) in nodes.items():
            try:
                events[name] = znodes.decode_log_dir_event(name, data)
            except CoordinationError:
                events[name] = NO_BROKER
        return events

    async def delete_log_dir_events(self, fence: Fence, names: Iterable[str]) -> None:
        """Remove handled notifications. Errors: `FencedEpoch`."""
        await self._delete_fenced(fence, [f"{znodes.LOG_DIR_EVENTS}/{n}" for n in names])

    async def notify_log_dir_failure(self, broker_id: BrokerId) -> None:
        """Tell the controller that a log directory of ours failed."""
        await self._create_sequential(
            f"{znodes.LOG_DIR_EVENTS}/{znodes.LOG_DIR_EVENT_PREFIX}",
            znodes.encode_log_dir_event(broker_id),
        )

    async def isr_change_notifications(
        self, watch: bool = False
    ) -> dict[str, frozenset[TopicPartition]]:
        """Node name -> partitions whose leaders wrote their ISR themselves, as brokers with an
        older inter.broker.protocol.version do. Watches the list."""
        names = await self._children(znodes.ISR_CHANGES, watch=watch)
        nodes = await self._get_each({n: f"{znodes.ISR_CHANGES}/{n}" for n in names})
        changes: dict[str, frozenset[TopicPartition]] = {}
        for name, (data, _) in nodes.items():
            try:
                changes[name] = znodes.decode_partitions(f"{znodes.ISR_CHANGES}/{name}", data)
            except CoordinationError:
                changes[name] = frozenset()
        return changes

    async def delete_isr_change_notifications(self, fence: Fence, names: Iterable[str]) -> None:
        """Remove handled notifications. Errors: `FencedEpoch`."""
        await self._delete_fenced(fence, [f"{znodes.ISR_CHANGES}/{n}" for n in names])

    # ------------------------------------------------------------------------ configuration

    async def entity_config(self, kind: str, name: str) -> dict[str, str]:
        """An entity's overrides; none where it has no node."""
        path = znodes.entity_path(kind, name)
        node = await self._get(path)
        return {} if node is None else znodes.decode_config(path, node[0])

    async def all_entity_configs(self, kind: str) -> dict[str, dict[str, str]]:
        """Overrides of every entity of a kind that has a node."""
        names = await self._children(f"{znodes.CONFIG}/{kind}")
        paths = {name: znodes.entity_path(kind, name) for name in names}
        nodes = await self._get_each(paths)
        return {name: znodes.decode_config(paths[name], node[0]) for name, node in nodes.items()}

    async def write_entity_config(self, kind: str, name: str, config: Mapping[str, str]) -> None:
        """Replace an entity's overrides, then notify every broker. The last writer wins."""
        await self._put_config(kind, name, config)
        await self._create_sequential(
            f"{znodes.CONFIG_CHANGES}/{znodes.CONFIG_CHANGE_PREFIX}",
            znodes.encode_config_change(kind, name),
        )

    async def _put_config(self, kind: str, name: str, config: Mapping[str, str]) -> None:
        """Set or make the entity's node, in a transaction that checks that /controller did not
        change hands, as Kafka does (it guards against a KRaft controller taking over)."""
        path = znodes.entity_path(kind, name)
        data = znodes.encode_config(config)

        async def attempt() -> bool:
            controller = await self._session.exists(znodes.CONTROLLER)
            guard = [] if controller is None else [Check(znodes.CONTROLLER, controller.version)]
            write: Operation = Set(path, data)
            if await self._session.exists(path) is None:
                write = Create(path, data)
            try:
                await self._session.multi([*guard, write])
            except MultiFailed as failure:
                raced = isinstance(failure.error, NodeExists | NoNode | StaleVersion)
                if raced and (failure.operation is not write or await self._has_parent(path)):
                    return False
                raise failure.error from failure
            return True

        while not await self._retrying(attempt):
            continue

    async def _has_parent(self, path: str) -> bool:
        return await self._session.exists(path.rpartition("/")[0]) is not None

    async def config_changes(self, watch: bool = False, after: int = -1) -> list[ConfigChange]:
        """Notifications numbered above `after`, in order. Watches the list. What cannot be read is
        left out."""
        numbered: dict[str, str] = {}
        for name in await self._children(znodes.CONFIG_CHANGES, watch=watch):
            if _number_of(name) > after:
                numbered[name] = f"{znodes.CONFIG_CHANGES}/{name}"
        nodes = await self._get_each(numbered)
        changes = [znodes.decode_config_change(name, data) for name, (data, _) in nodes.items()]
        return sorted(
            (change for change in changes if change is not None), key=lambda change: change.number
        )

    async def delete_old_config_changes(self, now_ms: int) -> None:
        """Remove notifications that every broker has had `CONFIG_CHANGE_LIFE_MS` to read. Any
        broker may do it, and several may at once."""

        async def attempt(path: str) -> None:
            try:
                stat = await self._session.exists(path)
                if stat is not None and stat.ctime_ms < now_ms - CONFIG_CHANGE_LIFE_MS:
                    await self._session.delete(path)
            except NoNode:
                return

        names = await self._children(znodes.CONFIG_CHANGES)
        paths = [f"{znodes.CONFIG_CHANGES}/{name}" for name in names]
        await self._all(
            {
                path: functools.partial(self._retrying, functools.partial(attempt, path))
                for path in paths
            }
        )

    # -------------------------------------------------------------------------- producer ids

    async def allocate_producer_id_block(self, broker_id: BrokerId) -> ProducerIdBlock:
        """Take the next thousand producer ids for a broker. They are nobody else's for ever; a
        lost reply, or a broker that stops, loses its block, of which there are plenty."""

        async def attempt() -> ProducerIdBlock | None:
            data, stat = await self._session.get(znodes.PRODUCER_ID_BLOCK)
            last = znodes.decode_producer_id_block(data)
            first = 0 if last is None else last.last + 1
            block = ProducerIdBlock(broker_id, first, first + znodes.PRODUCER_ID_BLOCK_SIZE - 1)
            if block.last >= 2**63:
                raise CoordinationError("there are no producer ids left")
            try:
                await self._session.set(
                    znodes.PRODUCER_ID_BLOCK, znodes.encode_producer_id_block(block), stat.version
                )
            except StaleVersion:
                return None
            return block

        while True:
            block = await self._retrying(attempt)
            if block is not None:
                return block


def _batches(
    items: Sequence[T], operations_of: Callable[[T], Sequence[Operation]]
) -> list[list[T]]:
    """The items in order, cut so that each run's operations fit one transaction."""
    batches: list[list[T]] = []
    count, size = 0, 0
    for item in items:
        operations = operations_of(item)
        item_size = sum(size_of(operation) for operation in operations)
        full = count + len(operations) > _BATCH_OPERATIONS or size + item_size > _BATCH_BYTES
        if not batches or full:
            batches.append([])
            count, size = 0, 0
        batches[-1].append(item)
        count += len(operations)
        size += item_size
    return batches


_BATCH_BYTES: Final = MAX_REQUEST_BYTES // 2
"""Half of what may be sent: the fence, and headers we do not count, have their room."""


def _version_of(outcome: Outcome) -> int:
    """The version of a node just written: 0 where it was created."""
    return outcome.version if isinstance(outcome, NodeStat) else 0


def _number_of(name: str) -> int:
    try:
        return znodes.sequence_number(name)
    except ValueError:
        return -1


def _random_id() -> uuid.UUID:
    while True:
        candidate = uuid.uuid4()
        if znodes.is_valid_topic_id(candidate):
            return candidate
