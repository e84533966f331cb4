"""Control requests: the controller says what each replica here is to be.

LeaderAndIsr gives roles, StopReplica takes them away. What of a request to obey is decided in
`roles.py`, partition by partition; here it is carried out, on logs, machines and fetchers.

Requests wait for the disk in the middle, when logs are created or deleted. They take turns, in
order of arrival, since each must see what the last one did; while one waits, the partitions it has
not come to yet are as they were. Logs are created in the loop (a directory and an empty file each)
and made durable in worker threads, all of a request together, before any of them gets its role.

Where we differ from Kafka: a LeaderAndIsr that names a leader which is not alive, or none (-1), is
obeyed. The replica steps down and, given a leader, keeps trying to reach it; Kafka would go on
leading until told again.

Sources: KIP-101, KIP-112 (JBOD), KIP-380 (broker epochs), KIP-516 (topic ids), KIP-570; Kafka's
`ReplicaManager`.
"""

import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import LogConfig
from zkafka.errors import ErrorCode, StorageError
from zkafka.log.directory import LogDirectory
from zkafka.model import (
    NO_EPOCH,
    BrokerEpoch,
    BrokerId,
    ControllerEpoch,
    LeaderEpoch,
    TopicPartition,
)
from zkafka.offload import Offload
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.messages.leader_and_isr import LeaderAndIsrRequest, LeaderAndIsrResponse
from zkafka.protocol.messages.stop_replica import StopReplicaRequest, StopReplicaResponse
from zkafka.replication.partition import (
    BecameFollower,
    BecameLeader,
    ReplicaStopped,
    StartFollowing,
)
from zkafka.replication.replica import Replica
from zkafka.replication.roles import (
    RoleOrder,
    assignment_of,
    brings_topic_id,
    judge_role,
    judge_stop,
    leader_and_isr_response,
    role_orders,
    stop_orders,
    stop_replica_response,
)
from zkafka.replication.truncation import TruncateTo

if TYPE_CHECKING:
    from zkafka.replication.replicas import Replicas

state_change = logging.getLogger("zkafka.state_change")

YIELD_EVERY = 100
"""Partitions created or given a role before other tasks get their turn: some 10 ms."""


@attrs.frozen(kw_only=True)
class LeadershipChanges:
    """What a LeaderAndIsr did here; the handler tells the coordinators."""

    response: LeaderAndIsrResponse
    became_leader: Sequence[tuple[TopicPartition, LeaderEpoch]]
    became_follower: Sequence[TopicPartition]


class ControlRequests:
    """Carries out what the controller says, one request after the other."""

    def __init__(
        self,
        replicas: "Replicas",
        *,
        broker_id: BrokerId,
        broker_epoch: Callable[[], BrokerEpoch],
        config_for: Callable[[str], LogConfig],
        offload: Offload,
        clock: Clock,
    ) -> None:
        self._replicas = replicas
        self._broker_id = broker_id
        self._broker_epoch = broker_epoch
        self._config_for = config_for
        self._offload = offload
        self._clock = clock
        self.controller_epoch: ControllerEpoch = NO_EPOCH
        """That of the last request obeyed."""
        self.turn = trio.Lock()
        """Held by whoever changes what is hosted, and where."""

    async def apply_leader_and_isr(self, request: LeaderAndIsrRequest) -> LeadershipChanges:
        """Take the roles that the controller gives, where they are news (`roles.py`).

        Waits: for control requests before it, and for the disk where logs are created. A
        cancellation in the middle leaves logs without a role, which a repetition finds.
        """
        async with self.turn:
            error = self._fence(request.broker_epoch, request.controller_epoch)
            if error is not ErrorCode.NONE:
                return LeadershipChanges(
                    response=LeaderAndIsrResponse(error_code=error),
                    became_leader=[],
                    became_follower=[],
                )
            self.controller_epoch = request.controller_epoch
            return await self._take_roles(list(role_orders(request)))

    def _fence(self, broker_epoch: BrokerEpoch, controller_epoch: ControllerEpoch) -> ErrorCode:
        """Whether a control request is meant for this registration, by the present controller."""
        if NO_EPOCH < broker_epoch < self._broker_epoch():
            return ErrorCode.STALE_BROKER_EPOCH
        if controller_epoch < self._replicas.controller_epoch:
            return ErrorCode.STALE_CONTROLLER_EPOCH
        return ErrorCode.NONE

    async def _take_roles(self, orders: Sequence[RoleOrder]) -> LeadershipChanges:
        outcomes: dict[TopicPartition, tuple[uuid.UUID, ErrorCode]] = {}
        obeyed: dict[TopicPartition, RoleOrder] = {}
        for order in orders:
            verdict = self._judge_role(order)
            outcomes[order.topic_partition] = (order.topic_id, verdict or ErrorCode.NONE)
            if verdict is None:
                obeyed[order.topic_partition] = order

        missing = [order for tp, order in obeyed.items() if tp not in self._replicas.hosted]
        unsafe = await self._create_logs(missing) if missing else set()

        became_leader: list[tuple[TopicPartition, LeaderEpoch]] = []
        became_follower: list[TopicPartition] = []
        following: list[tuple[Replica, StartFollowing]] = []
        for count, (tp, order) in enumerate(obeyed.items(), 1):
            replica = self._replicas.hosted.get(tp)
            if replica is None or replica.is_offline or tp in unsafe:
                outcomes[tp] = (order.topic_id, ErrorCode.KAFKA_STORAGE_ERROR)
                continue
            try:
                follow = self._take_role(replica, order)
            except StorageError as error:
                self._replicas.storage_failed(error)
                outcomes[tp] = (order.topic_id, ErrorCode.KAFKA_STORAGE_ERROR)
                continue
            if replica.machine.is_leader:
                became_leader.append((tp, replica.machine.leader_epoch))
            else:
                became_follower.append(tp)
            if follow is not None:
                following.append((replica, follow))
            if count % YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()
        # All at once, in one step: a fetcher asks for them in one request.
        for replica, follow in following:
            if replica.machine.leader_epoch == follow.leader_epoch and not replica.is_offline:
                self._replicas.carry_out(replica, [follow])
        return LeadershipChanges(
            response=leader_and_isr_response(outcomes),
            became_leader=became_leader,
            became_follower=became_follower,
        )

    def _judge_role(self, order: RoleOrder) -> ErrorCode | None:
        replica = self._replicas.hosted.get(order.topic_partition)
        if replica is None:
            verdict = judge_role(order, self._broker_id, None, NULL_UUID)
            if verdict is None and self._replicas.failed_dirs and not order.state.is_new:
                # It may well be on the directory that failed: an empty log in its place, counted
                # as in sync, would lose what was acknowledged.
                return ErrorCode.KAFKA_STORAGE_ERROR
            return verdict
        verdict = judge_role(order, self._broker_id, replica.machine, replica.topic_id)
        if verdict is ErrorCode.STALE_CONTROLLER_EPOCH and brings_topic_id(
            order, replica.machine, replica.topic_id
        ):
            return self._assign_topic_id(replica, order.topic_id)
        return verdict

    def _assign_topic_id(self, replica: Replica, topic_id: uuid.UUID) -> ErrorCode:
        try:
            replica.log.assign_topic_id(topic_id)
        except StorageError as error:
            self._replicas.storage_failed(error)
            return ErrorCode.KAFKA_STORAGE_ERROR
        return ErrorCode.NONE

    async def _create_logs(self, orders: Sequence[RoleOrder]) -> set[TopicPartition]:
        """Logs for partitions that are new here, on the disk before anybody is told of them.

        Where that fails the partition is not hosted, or offline, afterwards, or among those
        answered: they are here, and may be gone after a power cut.
        """
        created: dict[TopicPartition, LogDirectory] = {}
        configs: dict[str, LogConfig] = {}
        counts = {
            d: len(d.logs) + len(d.futures) for d in self._replicas.log_dirs if d.offline is None
        }
        for count, order in enumerate(orders, 1):
            tp = order.topic_partition
            online = [d for d in counts if d.offline is None]
            if not online:
                break
            # The one asked for; else the emptiest; of several the one configured first.
            directory = self._replicas.moves.take_preferred(tp)
            if directory is None:
                directory = min(online, key=lambda d: counts[d])
            if tp.topic not in configs:
                configs[tp.topic] = self._config_for(tp.topic)
            topic_id = None if order.topic_id == NULL_UUID else order.topic_id
            try:
                log = directory.create(tp, topic_id, configs[tp.topic])
            except StorageError as error:
                self._replicas.storage_failed(error)
                continue
            counts[directory] += 1
            created[tp] = directory
            self._replicas.host(log, directory, 0)
            if count % YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()
        failed = await self.sync(set(created.values()))
        return {tp for tp, directory in created.items() if directory in failed}

    async def sync(self, directories: Iterable[LogDirectory]) -> set[LogDirectory]:
        """Make creations and deletions durable, all directories at the same time; where it
        failed."""
        failed: set[LogDirectory] = set()

        async def sync_one(directory: LogDirectory) -> None:
            try:
                await self._offload.run(directory.sync)
            except StorageError as error:
                failed.add(directory)
                self._replicas.storage_failed(error)

        async with trio.open_nursery() as nursery:
            for directory in directories:
                if directory.offline is None:
                    nursery.start_soon(sync_one, directory)
        return failed

    def _take_role(self, replica: Replica, order: RoleOrder) -> StartFollowing | None:
        """Step the machine and do what it says; the following is for the caller to begin."""
        machine, log = replica.machine, replica.log
        if order.topic_id != NULL_UUID and log.topic_id is None:
            log.assign_topic_id(order.topic_id)
        assignment = assignment_of(order.state)
        now_ms = self._clock.monotonic_ms()
        follow = None
        if assignment.leader == self._broker_id:
            before = machine.role
            effects = machine.step(BecameLeader(assignment, self._replicas.alive), now_ms)
            self._replicas.carry_out(replica, effects)
            state_change.info(
                "became leader broker=%d partition=%s leader_epoch=%d partition_epoch=%d isr=%s"
                " replicas=%s log_end_offset=%d high_watermark=%d from=%s",
                self._broker_id,
                replica.topic_partition,
                machine.leader_epoch,
                machine.partition_epoch,
                ids(machine.in_sync_set.committed),
                ",".join(map(str, machine.replicas)),
                machine.log_end_offset,
                machine.high_watermark,
                before.value,
            )
        else:
            # What is still being fetched from the last leader is dropped from here on.
            self._replicas.fetchers.unfollow(replica.topic_partition)
            before = machine.role
            effects = machine.step(BecameFollower(assignment), now_ms)
            for effect in effects:
                if isinstance(effect, StartFollowing):
                    follow = effect
                else:
                    self._replicas.carry_out(replica, [effect])
            state_change.info(
                "became follower broker=%d partition=%s leader_epoch=%d partition_epoch=%d"
                " leader=%d log_end_offset=%d high_watermark=%d from=%s",
                self._broker_id,
                replica.topic_partition,
                machine.leader_epoch,
                machine.partition_epoch,
                machine.leader,
                machine.log_end_offset,
                machine.high_watermark,
                before.value,
            )
            unsure = machine.high_watermark < log.log_end_offset
            if follow is not None and unsure and log.epochs.latest == NO_EPOCH:
                # Without epochs there is nothing to compare: only what was committed is sure.
                self._replicas.cut(replica, TruncateTo(machine.high_watermark))
        self._replicas.wake_all(replica)
        return follow

    async def apply_stop_replica(
        self, request: StopReplicaRequest
    ) -> tuple[StopReplicaResponse, list[TopicPartition]]:
        """Stop, and where asked delete, replicas; the second value lists those stopped.

        Waits: for control requests before it, and for the disk where logs are deleted.
        """
        async with self.turn:
            error = self._fence(request.broker_epoch, request.controller_epoch)
            if error is not ErrorCode.NONE:
                return StopReplicaResponse(error_code=error), []
            self.controller_epoch = request.controller_epoch
            outcomes: dict[TopicPartition, ErrorCode] = {}
            stopped: list[TopicPartition] = []
            touched: dict[TopicPartition, LogDirectory] = {}
            abandoned: set[LogDirectory] = set()
            for count, order in enumerate(stop_orders(request), 1):
                tp = order.topic_partition
                replica = self._replicas.hosted.get(tp)
                if replica is None:
                    # Nothing to stop; but it may lie on a directory that failed.
                    lost = self._replicas.failed_dirs and order.delete
                    outcomes[tp] = ErrorCode.KAFKA_STORAGE_ERROR if lost else ErrorCode.NONE
                    continue
                verdict = judge_stop(order, replica.machine)
                if verdict is None and order.delete:
                    target = await self._replicas.moves.abandon(tp)
                    abandoned |= set() if target is None else {target}
                    verdict = judge_stop(order, replica.machine)  # It may have failed meanwhile.
                if verdict is None:
                    verdict = self._stop(replica, delete=order.delete)
                    stopped.append(tp)
                    if order.delete:
                        touched[tp] = replica.directory
                outcomes[tp] = verdict
                if count % YIELD_EVERY == 0:
                    await trio.lowlevel.checkpoint()
            await self.sync({*touched.values(), *abandoned})
            for tp, directory in touched.items():
                if directory.offline is not None:
                    outcomes[tp] = ErrorCode.KAFKA_STORAGE_ERROR
            return stop_replica_response(outcomes.items()), stopped

    def _stop(self, replica: Replica, *, delete: bool) -> ErrorCode:
        machine = replica.machine
        self._replicas.step(replica, ReplicaStopped())
        # Also one that was given up, or follows nobody.
        self._replicas.fetchers.unfollow(replica.topic_partition)
        state_change.info(
            "stopped replica broker=%d partition=%s leader_epoch=%d delete=%s",
            self._broker_id,
            replica.topic_partition,
            machine.leader_epoch,
            str(delete).lower(),
        )
        error = ErrorCode.NONE
        if delete:
            self._replicas.unhost(replica.topic_partition)
            try:
                replica.directory.schedule_delete(replica.log)
            except StorageError as failure:
                self._replicas.storage_failed(failure)
                error = ErrorCode.KAFKA_STORAGE_ERROR
        self._replicas.wake_all(replica)
        return error


def ids(brokers: Collection[BrokerId]) -> str:
    """For the log."""
    return ",".join(map(str, sorted(brokers)))
