"""Keeps the shards of `__consumer_offsets` that this broker leads: loads, writes, keeps time.

On becoming leader of a partition its log is read in the background; on resigning all of it is
dropped, and whoever waits gets NOT_COORDINATOR.

A write has one way, whoever asks for it: the shard or the group says what to write, it is appended
as a batch, the replicas are waited for, what they have is applied (`Shard.apply`, the same code
that loading runs), and then the answer goes out. Nothing is acknowledged that a failover could
undo, and an answer waits for nothing but its own write.

Waiting requests: a join or a sync is a token in its group's machine and a task asleep here in
`ask`. Steps never await, so machines need no locks; commits of one group overlap and count in the
order of the log.

Time: one task and one heap of alarms for all groups. An alarm is a bound, as `next_deadline_ms` is;
an early one costs a look.

Every request asks the replicas first whether the partition is led here still. So a broker that has
lost a partition, but whose handler has not told us yet, answers NOT_COORDINATOR.

Where we differ from Kafka 3.9: having read its log, a new coordinator waits (up to
offsets.commit.timeout.ms) until the high watermark has reached the end of what it found, so that a
group is not shown offsets that another failover could take back; Kafka serves them at once. A
commit that timed out counts when the replicas get it after all; Kafka forgets it until the next
failover. Tombstones of expired offsets are written with acks=all like everything else.

Source: `CoordinatorRuntime` of Apache Kafka 3.9 for the way of a write, `GroupMetadataManager` for
loading and expiry.
"""

import collections
import heapq
import itertools
import logging
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, TypeVar

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errors import ApiError, ErrorCode, RemoteProtocolError, StorageError, excerpt
from zkafka.groups.events import (
    Announce,
    Answer,
    AnswerCommit,
    AnswerHeartbeat,
    AnswerJoin,
    AnswerLeave,
    AnswerSync,
    CoordinatorResigned,
    Event,
    GroupDeleted,
    GroupPersisted,
    GroupState,
    PersistGroup,
    TimePassed,
    Token,
    WriteId,
)
from zkafka.groups.group import Group, GroupSettings
from zkafka.groups.records import (
    STRING_LIMIT,
    GroupKey,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    partition_for,
    stamped,
)
from zkafka.groups.shard import (
    EndedTransaction,
    Entry,
    Phase,
    Purge,
    Shard,
    UnreplicatedWrite,
)
from zkafka.model import OFFSETS_TOPIC, LeaderEpoch, Offset, TopicPartition
from zkafka.offload import Offload
from zkafka.protocol.records import Batch, Record, build_batch, iter_records, parse_batches
from zkafka.replication.purgatory import Purgatory
from zkafka.replication.replicas import AppendResult, Replicas
from zkafka.server.metadata import MetadataCache

log = logging.getLogger(__name__)
state_changes = logging.getLogger("zkafka.state_change")

A = TypeVar("A", AnswerJoin, AnswerSync, AnswerHeartbeat, AnswerLeave, AnswerCommit)

_RECORDS_PER_STEP: Final = 500
"""How many records are replayed before others get their turn: some 5 ms."""
_TOMBSTONES_PER_BATCH: Final = 500
"""Keeps a batch of tombstones, each up to some 600 bytes, well below max.message.bytes."""
_MARKER: Final = struct.Struct(">hh")
_COMMIT_MARKER: Final = 1


SHOWN = 300
"""Characters of an id or a reason that a line of the log has; ids may have 32,767 bytes."""


@attrs.define
class Counters:
    """What was done since the broker started; see `GroupStatistics`."""

    commits: int = 0
    commit_failures: int = 0
    offsets_expired: int = 0
    offsets_deleted: int = 0
    rebalances: int = 0
    generations: int = 0
    last_load_ms: int = 0
    max_load_ms: int = 0


@attrs.define(eq=False)
class Ticket:
    """Somebody waits for an answer; `arrived` is made when it does not come at once."""

    answer: Answer | None = None
    arrived: trio.Event | None = None


class Runtime:
    """The shards of one broker; one per broker, used from its trio loop only."""

    def __init__(
        self,
        *,
        replicas: Replicas,
        metadata: MetadataCache,
        purgatory: Purgatory,
        offload: Offload,
        config: BrokerConfig,
        settings: GroupSettings,
        clock: Clock,
    ) -> None:
        self._replicas = replicas
        self._metadata = metadata
        self._purgatory = purgatory
        self._offload = offload
        self._config = config
        self._clock = clock
        self._settings = settings
        self.shards: dict[int, Shard] = {}
        self._loads: dict[int, trio.CancelScope] = {}
        self.tickets: dict[Token, Ticket] = {}
        self._next_token = itertools.count(1)
        self._alarms: list[tuple[int, int, Shard, str]] = []
        self._alarm_order = itertools.count()
        self._alarm_changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.counters = Counters()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, keep time and expire offsets, until cancelled.

        Partitions led before this runs are loaded once it does. Before and afterwards every
        request is answered COORDINATOR_NOT_AVAILABLE.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for shard in self.shards.values():
                    self._start_loading(shard)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._expire)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    @property
    def is_running(self) -> bool:
        """Whether requests may be served at all."""
        return self._nursery is not None

    # Partitions that come and go.

    def partition_led(self, partition: int, leader_epoch: LeaderEpoch) -> None:
        """This broker leads the partition of `__consumer_offsets` in `leader_epoch`: read it.

        A newer epoch without a resignation in between changes nothing: the log stayed ours.
        """
        shard = self.shards.get(partition)
        if shard is not None and shard.phase is not Phase.FAILED:
            shard.leader_epoch = max(shard.leader_epoch, leader_epoch)
            return
        shard = Shard(partition, leader_epoch, self._settings)
        self.shards[partition] = shard
        if self._nursery is not None:
            self._start_loading(shard)

    def partition_resigned(self, partition: int) -> None:
        """This broker does not lead the partition any more. Nothing, if it did not."""
        shard = self.shards.pop(partition, None)
        load = self._loads.pop(partition, None)
        if load is not None:
            load.cancel()
        if shard is None:
            return
        for group in list(shard.groups.values()):
            self._step(shard, group, CoordinatorResigned())
        state_changes.info(
            "resigned as coordinator broker=%d partition=%s leader_epoch=%d groups=%d",
            self._config.broker_id,
            shard.topic_partition,
            shard.leader_epoch,
            len(shard.groups),
        )

    def topics_deleted(self, topics: Collection[str]) -> None:
        """Forget what groups have committed for topics that are no more.

        If the log refuses the tombstones the offsets stay until they expire; nobody waits here.
        """
        for shard in list(self.shards.values()):
            if shard.phase is Phase.LOADING:
                shard.topics_deleted_meanwhile.update(topics)
            elif self.refresh(shard):
                self._purge_topics(shard, topics)

    def _purge_topics(self, shard: Shard, topics: Collection[str]) -> None:
        for purge in shard.purge_topics(topics):
            if not isinstance(self.append_purge(shard, purge), ErrorCode):
                self.counters.offsets_deleted += purge.offset_count

    def _start_loading(self, shard: Shard) -> None:
        assert self._nursery is not None
        scope = trio.CancelScope()
        self._loads[shard.partition] = scope
        self._nursery.start_soon(self._load, shard, scope)

    async def _load(self, shard: Shard, scope: trio.CancelScope) -> None:
        """Read the partition's log and make the groups of it.

        Waits: for the disk, then for the high watermark. Cancelled when the partition is resigned.
        """
        began_ms = self._clock.monotonic_ms()
        with scope:
            try:
                end = await self._read_log(shard)
            except StorageError as error:
                self._replicas.storage_failed(error)
                self._load_failed(shard, error)
                return
            except ApiError as error:
                self._load_failed(shard, error)
                return
            await self._wait_high_watermark(shard, end)
            if self.shards.get(shard.partition) is shard:
                self._finish_loading(shard, began_ms)
        if self._loads.get(shard.partition) is scope:
            del self._loads[shard.partition]

    def _load_failed(self, shard: Shard, error: Exception) -> None:
        """Whoever leads next reads another replica's log; until then clients are sent away."""
        log.error(
            "cannot load groups partition=%s leader_epoch=%d reason=%s",
            shard.topic_partition,
            shard.leader_epoch,
            error,
        )
        shard.phase = Phase.FAILED

    async def _read_log(self, shard: Shard) -> Offset:
        """Replay the whole log; where it ended."""
        tp = shard.topic_partition
        partition_log = self._replicas.leader_log(tp)
        offset: Offset = partition_log.log_start_offset
        # Nobody but us appends to this partition, and we refuse to while loading.
        end: Offset = partition_log.log_end_offset
        replayed = 0
        while offset < end:
            # Asked for each time: it may have been moved to another directory.
            piece = self._replicas.leader_log(tp).read(
                offset,
                self._config.offsets_load_buffer_size_bytes,
                upper_bound=end,
                at_least_one=True,
            )
            if piece is None:
                break
            try:
                data = await self._offload.run(piece.read)
            finally:
                piece.release()
            batches = parse_batches(data, partial_tail=True)
            if not batches or batches[-1].last_offset < offset:
                raise ApiError(ErrorCode.CORRUPT_MESSAGE, f"no whole batch at offset {offset}")
            for batch in batches:
                for record in _records(batch):
                    self._replay(shard, batch, record)
                    replayed += 1
                    if replayed % _RECORDS_PER_STEP == 0:
                        await trio.lowlevel.checkpoint()
            offset = batches[-1].last_offset + 1
        return end

    def _replay(self, shard: Shard, batch: Batch, record: Record) -> None:
        """One record of the log. One that cannot be read is reported and passed over: refusing
        the partition would take away all its other groups as well."""
        if batch.is_control:
            if record.key is not None and len(record.key) >= _MARKER.size:
                _, kind = _MARKER.unpack_from(record.key)
                shard.end_transaction(batch.producer_id, committed=kind == _COMMIT_MARKER)
            return
        try:
            key = decode_key(bytes(record.key or b""))
            if key is None:
                return
            value = None if record.value is None else decode_value(key, bytes(record.value))
        except RemoteProtocolError as error:
            log.error(
                "unreadable record in the offsets log partition=%s offset=%d reason=%s",
                shard.topic_partition,
                record.offset,
                error,
            )
            return
        producer_id = batch.producer_id if batch.is_transactional else -1
        shard.replay(Entry(key, value), record.offset, producer_id)

    async def _wait_high_watermark(self, shard: Shard, end: Offset) -> None:
        """Until the replicas have what was read, within offsets.commit.timeout.ms.

        If they are too few to have it, serving what there is beats serving nothing.
        """
        tp = shard.topic_partition
        deadline_ms = self._clock.monotonic_ms() + self._config.offsets_commit_timeout_ms

        def replicated() -> bool:
            high_watermark = self._high_watermark(tp)
            return high_watermark is None or high_watermark >= end

        if not await self._purgatory.wait_until([tp], replicated, deadline_ms):
            log.warning(
                "serving groups that are not replicated yet partition=%s leader_epoch=%d "
                "log_end_offset=%d high_watermark=%s",
                tp,
                shard.leader_epoch,
                end,
                self._high_watermark(tp),
            )

    def _finish_loading(self, shard: Shard, began_ms: int) -> None:
        now_ms = self._clock.monotonic_ms()
        shard.finish_loading(now_ms)
        for group in shard.groups.values():
            self._set_alarm(shard, group)
        self._purge_topics(shard, shard.topics_deleted_meanwhile)
        counters = self.counters
        counters.last_load_ms = now_ms - began_ms
        counters.max_load_ms = max(counters.max_load_ms, counters.last_load_ms)
        state_changes.info(
            "became coordinator broker=%d partition=%s leader_epoch=%d groups=%d load_ms=%d",
            self._config.broker_id,
            shard.topic_partition,
            shard.leader_epoch,
            len(shard.groups),
            counters.last_load_ms,
        )

    # Who is asked.

    def partition_for(self, group_id: str) -> int:
        """The partition of `__consumer_offsets` that keeps the group.

        By the topic's partitions if there are more than offsets.topic.num.partitions says. Fewer
        are not believed: while the topic is being created they become known bit by bit, and a
        group must not move. So that setting must not be raised once the topic exists.
        """
        topic = self._metadata.image.topics.get(OFFSETS_TOPIC)
        known = 0 if topic is None else len(topic.partitions)
        return partition_for(group_id, max(known, self._config.offsets_topic_num_partitions))

    def find(self, group_id: str, *, empty_id: bool = False) -> Shard | ErrorCode:
        """The group's shard, up to date, or why it cannot be asked.

        The order is Kafka's. An empty id is good enough for offsets, never for members.
        """
        if not group_id and not empty_id:
            return ErrorCode.INVALID_GROUP_ID
        if len(group_id.encode()) > STRING_LIMIT:
            return ErrorCode.INVALID_GROUP_ID
        if self._nursery is None:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        shard = self.shards.get(self.partition_for(group_id))
        if shard is None or shard.phase is Phase.FAILED:
            return ErrorCode.NOT_COORDINATOR
        if shard.phase is Phase.LOADING:
            return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        return shard if self.refresh(shard) else ErrorCode.NOT_COORDINATOR

    def refresh(self, shard: Shard) -> bool:
        """Apply what the replicas have; False if the partition is led here no longer, in which
        case its offsets may mean other records by now."""
        high_watermark = self._high_watermark(shard.topic_partition)
        if high_watermark is None or shard.phase is not Phase.ACTIVE:
            return False
        shard.apply(high_watermark)
        return True

    def _high_watermark(self, tp: TopicPartition) -> Offset | None:
        """Where it stands, None unless we lead."""
        if self._replicas.leader_epoch(tp) is None:
            return None
        return self._replicas.high_watermark(tp)

    def active(self) -> Iterator[Shard]:
        for partition in sorted(self.shards):
            shard = self.shards[partition]
            if shard.phase is Phase.ACTIVE and self.refresh(shard):
                yield shard

    # Steps of a group, and their effects.

    def new_token(self) -> Token:
        """A name for one more request."""
        return next(self._next_token)

    def _step(self, shard: Shard, group: Group, event: Event) -> None:
        """Tell the group what happened, and do what it wants. Never awaits."""
        now_ms = self._clock.monotonic_ms()
        events = collections.deque([event])
        while events:
            for effect in group.step(events.popleft(), now_ms):
                match effect:
                    case PersistGroup():
                        failed = self._persist(shard, group, effect)
                        if failed is not None:
                            events.append(failed)
                    case Announce():
                        self._announce(shard, group, effect)
                    case _:
                        self._answer(effect)
        self._set_alarm(shard, group)

    def _answer(self, answer: Answer) -> None:
        ticket = self.tickets.get(answer.token)
        if ticket is None:
            # Its connection is gone, and so is the task that waited.
            return
        ticket.answer = answer
        if ticket.arrived is not None:
            ticket.arrived.set()

    def ask_nowait(self, shard: Shard, group: Group, event: Any, of: type[A]) -> A:
        """The group's answer to an event that it answers at once."""
        ticket = self.tickets[event.token] = Ticket()
        try:
            self._step(shard, group, event)
        finally:
            del self.tickets[event.token]
        assert isinstance(ticket.answer, of)
        return ticket.answer

    async def ask(self, shard: Shard, group: Group, event: Any, of: type[A]) -> A:
        """The group's answer, when it comes.

        Waits: for the other members, or for the log. If cancelled (the client's connection is
        gone), the member stays as it is until its session expires.
        """
        ticket = self.tickets[event.token] = Ticket()
        try:
            self._step(shard, group, event)
            if ticket.answer is None:
                ticket.arrived = trio.Event()
                await ticket.arrived.wait()
        finally:
            del self.tickets[event.token]
        assert isinstance(ticket.answer, of)
        return ticket.answer

    def _announce(self, shard: Shard, group: Group, change: Announce) -> None:
        shard.state_changed(group.group_id, change.state, self._clock.wall_ms())
        if change.state is GroupState.PREPARING_REBALANCE:
            self.counters.rebalances += 1
        elif change.state is GroupState.COMPLETING_REBALANCE:
            self.counters.generations += 1
        # A resignation is one line for the partition, not one for each of its groups.
        level = logging.DEBUG if change.state is GroupState.DEAD else logging.INFO
        state_changes.log(
            level,
            "group changed broker=%d partition=%s group=%r leader_epoch=%d state=%s generation=%d "
            "members=%d reason=%r",
            self._config.broker_id,
            shard.topic_partition,
            excerpt(group.group_id, SHOWN),
            shard.leader_epoch,
            change.state.value,
            change.generation,
            change.members,
            excerpt(change.reason, SHOWN),
        )

    def _persist(self, shard: Shard, group: Group, effect: PersistGroup) -> GroupPersisted | None:
        """Write the group, and see to it that it hears how that went; at once if it failed."""
        assert self._nursery is not None
        key = GroupKey(group=group.group_id)
        try:
            result = self._append(shard, [Entry(key, stamped(effect.value, self._clock.wall_ms()))])
        except ApiError as error:
            return self._not_persisted(shard, group, effect.write, error.code)
        self._nursery.start_soon(self._await_persisted, shard, group, effect.write, result)
        return None

    async def _await_persisted(
        self, shard: Shard, group: Group, write: WriteId, result: AppendResult
    ) -> None:
        error = await self.wait_replicated(shard, [result])
        if self.shards.get(shard.partition) is not shard:
            return
        outcome = GroupPersisted(write, ErrorCode.NONE)
        if error:
            outcome = self._not_persisted(shard, group, write, error)
        self._step(shard, group, outcome)

    def _not_persisted(
        self, shard: Shard, group: Group, write: WriteId, error: ErrorCode
    ) -> GroupPersisted:
        log.warning(
            "group not written partition=%s group=%r generation=%d code=%s",
            shard.topic_partition,
            excerpt(group.group_id, SHOWN),
            group.generation,
            error.name,
        )
        return GroupPersisted(write, group_write_error(error))

    # Writing.

    def _append(self, shard: Shard, entries: Sequence[Entry]) -> AppendResult:
        """Append a batch. Errors: `ApiError`, with nothing written."""
        wall_ms = self._clock.wall_ms()
        batch = build_batch(
            [Record(encode_key(key), encode_value(value), wall_ms) for key, value in entries],
            codec=self._config.offsets_topic_compression_codec,
        )
        result = self._replicas.append_as_coordinator(shard.topic_partition, batch)
        assert result.last_offset == result.base_offset + len(entries) - 1
        shard.appended(UnreplicatedWrite(result.base_offset, entries, self._write_deadline_ms()))
        return result

    def append_marker(
        self, partition: int, batch: bytearray, ended: EndedTransaction
    ) -> AppendResult:
        """Append a transaction's marker; what it says counts once the replicas have it. Errors:
        `ApiError`, with nothing written; NOT_LEADER_OR_FOLLOWER also until the log has been read.
        """
        tp = TopicPartition(OFFSETS_TOPIC, partition)
        self._replicas.leader_log(tp)
        shard = self.shards.get(partition)
        if shard is None or not self.refresh(shard):
            raise ApiError(ErrorCode.NOT_LEADER_OR_FOLLOWER, f"{tp} is not loaded")
        result = self._replicas.append_as_coordinator(tp, batch)
        shard.appended(UnreplicatedWrite(result.base_offset, (), self._write_deadline_ms(), ended))
        return result

    def _write_deadline_ms(self) -> int:
        return self._clock.monotonic_ms() + self._config.offsets_commit_timeout_ms

    async def wait_replicated(self, shard: Shard, results: Sequence[AppendResult]) -> ErrorCode:
        """Wait until all in-sync replicas have the batches, and apply them; the first error.

        NONE means that no failover undoes them, even if the partition was lost since.
        """
        if not results:
            return ErrorCode.NONE
        errors = await self._replicas.wait_replicated(results, self._write_deadline_ms())
        if self.shards.get(shard.partition) is shard:
            self.refresh(shard)
        return next((error for error in errors if error), ErrorCode.NONE)

    async def write(self, shard: Shard, entries: Sequence[Entry]) -> ErrorCode:
        try:
            result = self._append(shard, entries)
        except ApiError as error:
            return error.code
        return await self.wait_replicated(shard, [result])

    def append_purge(self, shard: Shard, purge: Purge) -> list[AppendResult] | ErrorCode:
        """Append the tombstones, without waiting; the log's refusal if it refuses.

        What was appended before a refusal stands: those offsets go, the others stay.
        """
        results = []
        try:
            for start in range(0, len(purge.entries), _TOMBSTONES_PER_BATCH):
                piece = purge.entries[start : start + _TOMBSTONES_PER_BATCH]
                results.append(self._append(shard, piece))
        except ApiError as error:
            log.warning(
                "offsets not purged partition=%s group=%r code=%s",
                shard.topic_partition,
                excerpt(purge.group_id, SHOWN),
                error.code.name,
            )
            return error.code
        if purge.whole_group:
            self._step(shard, shard.groups[purge.group_id], GroupDeleted())
            shard.drop_group(purge.group_id)
        return results

    async def write_purge(self, shard: Shard, purge: Purge) -> ErrorCode:
        """Append the tombstones and wait for the replicas."""
        results = self.append_purge(shard, purge)
        if isinstance(results, ErrorCode):
            return results
        error = await self.wait_replicated(shard, results)
        if not error:
            self.counters.offsets_deleted += purge.offset_count
        return error

    # Time.

    def _set_alarm(self, shard: Shard, group: Group) -> None:
        deadline_ms = group.next_deadline_ms
        if deadline_ms is None:
            return
        alarm_ms = shard.alarms.get(group.group_id)
        if alarm_ms is not None and alarm_ms <= deadline_ms:
            return
        shard.alarms[group.group_id] = deadline_ms
        alarm = (deadline_ms, next(self._alarm_order), shard, group.group_id)
        heapq.heappush(self._alarms, alarm)
        if self._alarms[0] is alarm:
            self._alarm_changed.set()

    async def _keep_time(self) -> None:
        """Step each group when it is time. Its own task; the only one that waits for deadlines."""
        while True:
            self._ring(self._clock.monotonic_ms())
            self._alarm_changed = trio.Event()
            if self._alarms:
                # Half a millisecond late: the clock reads whole ones, and to come early would be
                # to come again at once.
                with trio.move_on_at((self._alarms[0][0] + 0.5) / 1000):
                    await self._alarm_changed.wait()
            else:
                await self._alarm_changed.wait()

    def _ring(self, now_ms: int) -> None:
        while self._alarms and self._alarms[0][0] <= now_ms:
            alarm_ms, _, shard, group_id = heapq.heappop(self._alarms)
            if shard.alarms.get(group_id) != alarm_ms:
                continue  # an earlier one has taken its place
            del shard.alarms[group_id]
            group = shard.groups.get(group_id)
            if group is None or self.shards.get(shard.partition) is not shard:
                continue
            self._step(shard, group, TimePassed())

    async def _expire(self) -> None:
        """Forget expired offsets, and groups without members and offsets, time and again."""
        retention_ms = self._config.offsets_retention_minutes * 60 * 1000
        while True:
            await trio.sleep(self._config.offsets_retention_check_interval_ms / 1000)
            for shard in list(self.shards.values()):
                if shard.phase is not Phase.ACTIVE:
                    continue
                if self.refresh(shard):
                    for purge in shard.purge_expired(self._clock.wall_ms(), retention_ms):
                        if not isinstance(self.append_purge(shard, purge), ErrorCode):
                            self.counters.offsets_expired += purge.offset_count
                elif self.shards.get(shard.partition) is shard:
                    # Its log directory failed, perhaps: no request of the controller's says so.
                    self.partition_resigned(shard.partition)
                await trio.lowlevel.checkpoint()

    def check(self) -> None:
        """Assert the invariants of everything held here."""
        for partition, shard in self.shards.items():
            assert shard.partition == partition
            shard.check()
            for group_id, group in shard.groups.items():
                deadline_ms = group.next_deadline_ms
                if deadline_ms is not None and shard.phase is Phase.ACTIVE:
                    assert shard.alarms[group_id] <= deadline_ms, "a deadline without an alarm"


def commit_write_error(error: ErrorCode) -> ErrorCode:
    """What a client is told when the log refused its commit, or the replicas did not get it."""
    match error:
        case (
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode.NOT_ENOUGH_REPLICAS
            | ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
        ):
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        case ErrorCode.NOT_LEADER_OR_FOLLOWER | ErrorCode.KAFKA_STORAGE_ERROR:
            return ErrorCode.NOT_COORDINATOR
        case (
            ErrorCode.MESSAGE_TOO_LARGE
            | ErrorCode.RECORD_LIST_TOO_LARGE
            | ErrorCode.INVALID_FETCH_SIZE
        ):
            return ErrorCode.INVALID_COMMIT_OFFSET_SIZE
        case _:
            return error


def group_write_error(error: ErrorCode) -> ErrorCode:
    """What members are told when their group could not be written."""
    match commit_write_error(error):
        case ErrorCode.REQUEST_TIMED_OUT:
            return ErrorCode.REBALANCE_IN_PROGRESS
        case ErrorCode.INVALID_COMMIT_OFFSET_SIZE:
            return ErrorCode.UNKNOWN_SERVER_ERROR
        case mapped:
            return mapped


def _records(batch: Batch) -> Iterator[Record]:
    # An empty batch is what compaction leaves of one whose producer is remembered.
    return iter_records(batch) if batch.record_count else iter(())
