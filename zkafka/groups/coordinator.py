"""Answers the requests of consumer groups, out of the shards that `runtime.py` keeps.

Whoever leads partition p of `__consumer_offsets` is the coordinator of the groups whose ids hash to
p. Each request finds its shard, or is told why not: NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS
while the log is being read, COORDINATOR_NOT_AVAILABLE while this broker starts or stops. Then it
becomes an event of its group's machine, and the machine's answer becomes the response.

Requests and responses are in the form of their newest version; handlers translate older ones. The
few differences that are behaviour come with `ClientContext.version`.

Source: `GroupCoordinator` of Apache Kafka 3.9.
"""

import collections
import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errors import ErrorCode
from zkafka.groups.events import (
    AnswerCommit,
    AnswerHeartbeat,
    AnswerJoin,
    AnswerLeave,
    AnswerSync,
    CommitRequested,
    GroupState,
    HeartbeatReceived,
    LeavingMember,
    MemberJoined,
    MemberProtocol,
    MembersLeft,
    MemberSynced,
)
from zkafka.groups.group import GroupSettings
from zkafka.groups.offsets import metadata_fits
from zkafka.groups.records import (
    CONSUMER_PROTOCOL,
    NO_TIMESTAMP,
    STRING_LIMIT,
    TIMESTAMP_MAX,
    OffsetKey,
    OffsetValue,
)
from zkafka.groups.runtime import Runtime, commit_write_error
from zkafka.groups.shard import EndedTransaction, Entry, Phase
from zkafka.model import NO_EPOCH, NO_OFFSET, LeaderEpoch, TopicPartition
from zkafka.offload import Offload
from zkafka.protocol.messages.delete_groups import DeletableGroupResult
from zkafka.protocol.messages.describe_groups import DescribedGroup, DescribedGroupMember
from zkafka.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from zkafka.protocol.messages.join_group import (
    JoinGroupRequest,
    JoinGroupResponse,
    JoinGroupResponseMember,
)
from zkafka.protocol.messages.leave_group import (
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberResponse,
)
from zkafka.protocol.messages.list_groups import ListedGroup
from zkafka.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from zkafka.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from zkafka.protocol.messages.offset_fetch import (
    OffsetFetchRequestGroup,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopics,
)
from zkafka.protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse
from zkafka.replication.purgatory import Purgatory
from zkafka.replication.replicas import AppendResult, Replicas
from zkafka.server.metadata import MetadataCache
from zkafka.turns import pause_now_and_then

log = logging.getLogger(__name__)
state_changes = logging.getLogger("zkafka.state_change")

CLASSIC = "classic"
"""The only type of group there is here (KIP-848 has another)."""
DEAD = GroupState.DEAD.value


@attrs.frozen
class ClientContext:
    """Who sent a request: what it calls itself, its textual address, and in which version of the
    API it speaks."""

    client_id: str
    host: str
    version: int


@attrs.frozen(kw_only=True)
class GroupStatistics:
    """What the coordinator holds now, and has done since the broker started."""

    groups: int
    groups_by_state: Mapping[GroupState, int]
    members: int
    offsets: int
    partitions_active: int
    partitions_loading: int
    partitions_failed: int
    requests_waiting: int
    """Joins and syncs that wait for other members."""
    writes_unreplicated: int
    commits: int
    """Offsets committed and acknowledged."""
    commit_failures: int
    """Offsets whose commit the log refused, or did not get replicated in time."""
    offsets_expired: int
    offsets_deleted: int
    rebalances: int
    """Rebalances begun."""
    generations: int
    """Rebalances that came to a new generation."""
    last_load_ms: int
    max_load_ms: int


class GroupCoordinator:
    """All group coordination of one broker; one per broker, used from its trio loop only."""

    def __init__(
        self,
        *,
        replicas: Replicas,
        metadata: MetadataCache,
        purgatory: Purgatory,
        offload: Offload,
        config: BrokerConfig,
        clock: Clock,
        new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        """`new_uuid` names new members; a test may count instead."""
        self._metadata = metadata
        self._config = config
        self._clock = clock
        self._new_uuid = new_uuid
        self._settings = GroupSettings(
            min_session_timeout_ms=config.group_min_session_timeout_ms,
            max_session_timeout_ms=config.group_max_session_timeout_ms,
            initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
            max_size=config.group_max_size,
        )
        self._runtime = Runtime(
            replicas=replicas,
            metadata=metadata,
            purgatory=purgatory,
            offload=offload,
            config=config,
            settings=self._settings,
            clock=clock,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, keep time and expire offsets, until cancelled.

        Partitions led before this runs are loaded once it does. Before and afterwards every
        request is answered COORDINATOR_NOT_AVAILABLE.
        """
        await self._runtime.run(task_status=task_status)

    def partition_led(self, partition: int, leader_epoch: LeaderEpoch) -> None:
        """This broker leads the partition of `__consumer_offsets`: load it, in the background."""
        self._runtime.partition_led(partition, leader_epoch)

    def partition_resigned(self, partition: int) -> None:
        """This broker does not lead the partition any more. Nothing, if it did not."""
        self._runtime.partition_resigned(partition)

    def topics_deleted(self, topics: Collection[str]) -> None:
        """Forget what groups have committed for topics that are no more; nobody waits for it."""
        self._runtime.topics_deleted(topics)

    def append_marker(
        self, partition: int, batch: bytearray, ended: EndedTransaction
    ) -> AppendResult:
        """Append a transaction's marker to the partition of `__consumer_offsets`. Once the replicas
        have it, what groups committed in the transaction counts, or never happened. Errors:
        `ApiError`, with nothing written; NOT_LEADER_OR_FOLLOWER also while it is being loaded."""
        return self._runtime.append_marker(partition, batch, ended)

    def partition_for(self, group_id: str) -> int:
        """The partition of `__consumer_offsets` that keeps the group."""
        return self._runtime.partition_for(group_id)

    # The requests about membership.

    async def join_group(
        self, request: JoinGroupRequest, client: ClientContext
    ) -> JoinGroupResponse:
        """Waits for the other members, as long as the rebalance timeout."""
        shard = self._runtime.find(request.group_id)
        if isinstance(shard, ErrorCode):
            return _join_refused(request, client, shard)
        names = [request.protocol_type, request.group_instance_id or ""]
        names += [protocol.name for protocol in request.protocols]
        if any(len(name.encode()) > STRING_LIMIT for name in names):
            return _join_refused(request, client, ErrorCode.INVALID_REQUEST)
        if request.group_instance_id == "":
            return _join_refused(request, client, ErrorCode.INVALID_REQUEST)
        group = shard.groups.get(request.group_id)
        created = group is None
        if group is None:
            if request.member_id and self._allows_session(request.session_timeout_ms):
                return _join_refused(request, client, ErrorCode.UNKNOWN_MEMBER_ID)
            group = shard.create_group(request.group_id)
        event = MemberJoined(
            token=self._runtime.new_token(),
            member_id=request.member_id,
            new_id=self._new_uuid(),
            client_id=client.client_id,
            client_host=f"/{client.host}",
            session_timeout_ms=request.session_timeout_ms,
            # Version 0 has none.
            rebalance_timeout_ms=(
                request.session_timeout_ms if client.version < 1 else request.rebalance_timeout_ms
            ),
            protocol_type=request.protocol_type,
            protocols=tuple(MemberProtocol(p.name, bytes(p.metadata)) for p in request.protocols),
            group_instance_id=request.group_instance_id,
            requires_known_id=client.version >= 4,
            can_skip_assignment=client.version >= 9,
            reason=request.reason or "",
        )
        answer = await self._runtime.ask(shard, group, event, AnswerJoin)
        if created and answer.error and group.is_vacant:
            # Refused at once: this must not leave a group behind.
            shard.drop_group(request.group_id)
        return JoinGroupResponse(
            error_code=answer.error,
            generation_id=answer.generation,
            protocol_type=answer.protocol_type,
            protocol_name=_nullable(answer.protocol_name, client.version),
            leader=answer.leader,
            skip_assignment=answer.skip_assignment,
            member_id=answer.member_id,
            members=[
                JoinGroupResponseMember(
                    member_id=member.member_id,
                    group_instance_id=member.group_instance_id,
                    metadata=member.metadata,
                )
                for member in answer.members
            ],
        )

    def _allows_session(self, timeout_ms: int) -> bool:
        settings = self._settings
        return settings.min_session_timeout_ms <= timeout_ms <= settings.max_session_timeout_ms

    async def sync_group(self, request: SyncGroupRequest) -> SyncGroupResponse:
        """Waits for the leader's assignment, and for the log to have it."""
        shard = self._runtime.find(request.group_id)
        if shard is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            # The group may be another when it is loaded: let the member join again.
            return SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS)
        if isinstance(shard, ErrorCode):
            return SyncGroupResponse(error_code=shard)
        group = shard.groups.get(request.group_id)
        if group is None:
            return SyncGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID)
        event = MemberSynced(
            token=self._runtime.new_token(),
            member_id=request.member_id,
            generation=request.generation_id,
            group_instance_id=request.group_instance_id,
            protocol_type=request.protocol_type,
            protocol_name=request.protocol_name,
            assignments={a.member_id: bytes(a.assignment) for a in request.assignments},
        )
        answer = await self._runtime.ask(shard, group, event, AnswerSync)
        return SyncGroupResponse(
            error_code=answer.error,
            protocol_type=answer.protocol_type,
            protocol_name=answer.protocol_name,
            assignment=answer.assignment,
        )

    def heartbeat(self, request: HeartbeatRequest) -> HeartbeatResponse:
        """Answered at once."""
        shard = self._runtime.find(request.group_id)
        if shard is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            # Nothing to tell yet, and no reason to alarm the member.
            return HeartbeatResponse(error_code=ErrorCode.NONE)
        if isinstance(shard, ErrorCode):
            return HeartbeatResponse(error_code=shard)
        group = shard.groups.get(request.group_id)
        if group is None:
            return HeartbeatResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID)
        event = HeartbeatReceived(
            token=self._runtime.new_token(),
            member_id=request.member_id,
            generation=request.generation_id,
            group_instance_id=request.group_instance_id,
        )
        answer = self._runtime.ask_nowait(shard, group, event, AnswerHeartbeat)
        return HeartbeatResponse(error_code=answer.error)

    def leave_group(self, request: LeaveGroupRequest) -> LeaveGroupResponse:
        """Answered at once, in the form of version 3 and later."""
        shard = self._runtime.find(request.group_id)
        if isinstance(shard, ErrorCode):
            return LeaveGroupResponse(error_code=shard)
        group = shard.groups.get(request.group_id)
        errors: Sequence[ErrorCode] = [ErrorCode.UNKNOWN_MEMBER_ID] * len(request.members)
        if group is not None:
            event = MembersLeft(
                token=self._runtime.new_token(),
                members=tuple(
                    LeavingMember(member.member_id, member.group_instance_id)
                    for member in request.members
                ),
                reason=next((m.reason for m in request.members if m.reason), ""),
            )
            answer = self._runtime.ask_nowait(shard, group, event, AnswerLeave)
            if answer.error:
                return LeaveGroupResponse(error_code=answer.error)
            errors = answer.members
        return LeaveGroupResponse(
            members=[
                MemberResponse(
                    member_id=member.member_id,
                    group_instance_id=member.group_instance_id,
                    error_code=error,
                )
                for member, error in zip(request.members, errors, strict=True)
            ]
        )

    def describe_group(self, group_id: str, authorized_operations: int) -> DescribedGroup:
        """The group as it is now. One that does not exist is "Dead", without error. Members'
        metadata and assignments are told of a stable group only: else they are about to change."""
        shard = self._runtime.find(group_id, empty_id=True)
        if isinstance(shard, ErrorCode):
            return DescribedGroup(error_code=shard, group_id=group_id)
        group = shard.groups.get(group_id)
        if group is None:
            return DescribedGroup(
                group_id=group_id, group_state=DEAD, authorized_operations=authorized_operations
            )
        stable = group.state is GroupState.STABLE
        protocol = group.protocol_name if stable else None
        return DescribedGroup(
            group_id=group_id,
            group_state=group.state.value,
            protocol_type=group.protocol_type or "",
            protocol_data=protocol or "",
            authorized_operations=authorized_operations,
            members=[
                DescribedGroupMember(
                    member_id=member.member_id,
                    group_instance_id=member.group_instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    member_metadata=member.metadata_for(protocol) if stable else b"",
                    member_assignment=member.assignment if stable else b"",
                )
                for member in group.members.values()
            ],
        )

    def list_groups(
        self, states: Iterable[str] = (), types: Iterable[str] = ()
    ) -> tuple[ErrorCode, list[ListedGroup]]:
        """The groups coordinated here in one of the states, whatever the case of their letters;
        no states are all. While a partition loads the list is short, and the error says so."""
        if not self._runtime.is_running:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE, []
        loading = any(shard.phase is Phase.LOADING for shard in self._runtime.shards.values())
        error = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if loading else ErrorCode.NONE
        wanted_states = {state.lower() for state in states}
        wanted_types = {group_type.lower() for group_type in types}
        if wanted_types and CLASSIC not in wanted_types:
            return error, []
        return error, [
            ListedGroup(
                group_id=group_id,
                protocol_type=group.protocol_type or "",
                group_state=group.state.value,
                group_type=CLASSIC,
            )
            for shard in self._runtime.active()
            for group_id, group in sorted(shard.groups.items())
            if not wanted_states or group.state.value.lower() in wanted_states
        ]

    async def delete_groups(self, group_ids: Sequence[str]) -> list[DeletableGroupResult]:
        """Forget groups without members, with all they committed. Waits for the replicas; each
        group once, however often it is named."""
        errors: dict[str, ErrorCode] = {}

        async def delete(group_id: str) -> None:
            errors[group_id] = await self._delete_group(group_id)

        async with trio.open_nursery() as nursery:
            for done, group_id in enumerate(dict.fromkeys(group_ids)):
                await pause_now_and_then(done)
                shard = self._runtime.find(group_id, empty_id=True)
                if isinstance(shard, ErrorCode):
                    errors[group_id] = shard
                elif group_id not in shard.groups:
                    # No task for what does not wait: a request may name very many.
                    errors[group_id] = ErrorCode.GROUP_ID_NOT_FOUND
                else:
                    nursery.start_soon(delete, group_id)
        return [
            DeletableGroupResult(group_id=group_id, error_code=errors[group_id])
            for group_id in dict.fromkeys(group_ids)
        ]

    async def _delete_group(self, group_id: str) -> ErrorCode:
        shard = self._runtime.find(group_id, empty_id=True)
        if isinstance(shard, ErrorCode):
            return shard
        group = shard.groups.get(group_id)
        if group is None:
            return ErrorCode.GROUP_ID_NOT_FOUND
        if group.state is not GroupState.EMPTY:
            return ErrorCode.NON_EMPTY_GROUP
        return commit_write_error(
            await self._runtime.write_purge(shard, shard.purge_group(group_id))
        )

    # The requests about offsets.

    async def commit_offsets(self, request: OffsetCommitRequest) -> OffsetCommitResponse:
        """Waits until all in-sync replicas have the commit, offsets.commit.timeout.ms at most."""
        shard = self._runtime.find(request.group_id, empty_id=True)
        if isinstance(shard, ErrorCode):
            return _committed(request, lambda *_: shard)
        group = shard.groups.get(request.group_id)
        generation = request.generation_id_or_member_epoch
        if group is None:
            if generation >= 0:
                # It speaks of a group that is long gone, or of another coordinator's.
                return _committed(request, lambda *_: ErrorCode.ILLEGAL_GENERATION)
            group = shard.create_group(request.group_id)
        event = CommitRequested(
            token=self._runtime.new_token(),
            member_id=request.member_id,
            generation=generation,
            group_instance_id=request.group_instance_id,
        )
        verdict = self._runtime.ask_nowait(shard, group, event, AnswerCommit).error
        if verdict:
            return _committed(request, lambda *_: verdict)

        entries: list[Entry] = []
        refused: dict[tuple[str, int], ErrorCode] = {}
        wall_ms = self._clock.wall_ms()
        expires_ms = NO_TIMESTAMP
        if request.retention_time_ms >= 0:
            # For ever is what some say with the largest number there is.
            expires_ms = min(wall_ms + request.retention_time_ms, TIMESTAMP_MAX)
        image = self._metadata.image
        for topic in request.topics:
            for partition in topic.partitions:
                tp = TopicPartition(topic.name, partition.partition_index)
                limit = self._config.offset_metadata_max_bytes
                if image.partition(tp) is None:
                    refused[tp] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                elif not metadata_fits(partition.committed_metadata, limit):
                    refused[tp] = ErrorCode.OFFSET_METADATA_TOO_LARGE
                else:
                    entries.append(_commit_entry(request, tp, partition, wall_ms, expires_ms))
        error = ErrorCode.NONE
        if entries:
            error = commit_write_error(await self._runtime.write(shard, entries))
            if error:
                self._runtime.counters.commit_failures += len(entries)
            else:
                self._runtime.counters.commits += len(entries)
        return _committed(request, lambda *tp: refused.get(tp, error))

    def fetch_offsets(
        self, wanted: OffsetFetchRequestGroup, *, require_stable: bool
    ) -> OffsetFetchResponseGroup:
        """What the group committed, of the topics named or (None) of all that it has committed.

        Without a commit the offset is -1, without error. With `require_stable` an offset that is
        about to change is UNSTABLE_OFFSET_COMMIT.
        """
        group_id = wanted.group_id
        shard = self._runtime.find(group_id, empty_id=True)
        if isinstance(shard, ErrorCode):
            return OffsetFetchResponseGroup(group_id=group_id, error_code=shard)
        topics: dict[str, list[int]] = {}
        if wanted.topics is None:
            for tp in shard.committed_partitions(group_id):
                topics.setdefault(tp.topic, []).append(tp.partition)
        else:
            for topic in wanted.topics:
                topics.setdefault(topic.name, []).extend(topic.partition_indexes)
        now_ms = self._clock.monotonic_ms()

        def fetched(tp: TopicPartition) -> OffsetFetchResponsePartitions:
            value = shard.committed(group_id, tp)
            if require_stable and shard.is_unstable(group_id, tp, now_ms):
                return OffsetFetchResponsePartitions(
                    partition_index=tp.partition,
                    committed_offset=NO_OFFSET,
                    error_code=ErrorCode.UNSTABLE_OFFSET_COMMIT,
                )
            return OffsetFetchResponsePartitions(
                partition_index=tp.partition,
                committed_offset=NO_OFFSET if value is None else value.offset,
                committed_leader_epoch=NO_EPOCH if value is None else value.leader_epoch,
                metadata="" if value is None else value.metadata,
            )

        return OffsetFetchResponseGroup(
            group_id=group_id,
            topics=[
                OffsetFetchResponseTopics(
                    name=name,
                    partitions=[fetched(TopicPartition(name, index)) for index in indexes],
                )
                for name, indexes in topics.items()
            ],
        )

    async def delete_offsets(self, request: OffsetDeleteRequest) -> OffsetDeleteResponse:
        """Forget single offsets, not of topics that a member subscribes to. Waits for the replicas.

        Only consumers' subscriptions can be read; another kind of group must be empty.
        """
        shard = self._runtime.find(request.group_id, empty_id=True)
        if isinstance(shard, ErrorCode):
            return OffsetDeleteResponse(error_code=shard)
        group = shard.groups.get(request.group_id)
        if group is None:
            return OffsetDeleteResponse(error_code=ErrorCode.GROUP_ID_NOT_FOUND)
        active = group.state is not GroupState.EMPTY
        if active and group.protocol_type != CONSUMER_PROTOCOL:
            return OffsetDeleteResponse(error_code=ErrorCode.NON_EMPTY_GROUP)
        image = self._metadata.image
        refused: dict[TopicPartition, ErrorCode] = {}
        wanted: list[TopicPartition] = []
        for topic in request.topics:
            # Where a subscription cannot be read it might be anything.
            subscribed = active and (
                group.subscribed_topics is None or topic.name in group.subscribed_topics
            )
            for partition in topic.partitions:
                tp = TopicPartition(topic.name, partition.partition_index)
                if image.partition(tp) is None:
                    refused[tp] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                elif subscribed:
                    refused[tp] = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
                else:
                    wanted.append(tp)
        purge = shard.purge_offsets(request.group_id, wanted)
        error = commit_write_error(await self._runtime.write_purge(shard, purge))
        if error:
            return OffsetDeleteResponse(error_code=error)
        return OffsetDeleteResponse(
            topics=[
                OffsetDeleteResponseTopic(
                    name=topic.name,
                    partitions=[
                        OffsetDeleteResponsePartition(
                            partition_index=p.partition_index,
                            error_code=refused.get(
                                TopicPartition(topic.name, p.partition_index), ErrorCode.NONE
                            ),
                        )
                        for p in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )

    # Looking.

    def statistics(self) -> GroupStatistics:
        """Counts, from looking at all groups."""
        by_state = dict.fromkeys(GroupState, 0)
        members = 0
        offsets = 0
        for shard in self._runtime.shards.values():
            for group in shard.groups.values():
                by_state[group.state] += 1
                members += len(group.members)
            offsets += sum(len(committed) for committed in shard.offsets.values())
        phases = collections.Counter(shard.phase for shard in self._runtime.shards.values())
        return GroupStatistics(
            groups=sum(by_state.values()),
            groups_by_state=by_state,
            members=members,
            offsets=offsets,
            partitions_active=phases[Phase.ACTIVE],
            partitions_loading=phases[Phase.LOADING],
            partitions_failed=phases[Phase.FAILED],
            requests_waiting=sum(t.arrived is not None for t in self._runtime.tickets.values()),
            writes_unreplicated=sum(len(s.unreplicated) for s in self._runtime.shards.values()),
            **attrs.asdict(self._runtime.counters),
        )

    def check(self) -> None:
        """Assert the invariants of everything held here."""
        self._runtime.check()


def _commit_entry(
    request: OffsetCommitRequest,
    tp: TopicPartition,
    partition: OffsetCommitRequestPartition,
    wall_ms: int,
    expires_ms: int,
) -> Entry:
    return Entry(
        OffsetKey(group=request.group_id, topic=tp.topic, partition=tp.partition),
        OffsetValue(
            offset=partition.committed_offset,
            leader_epoch=partition.committed_leader_epoch,
            metadata=partition.committed_metadata or "",
            commit_timestamp=wall_ms,
            expire_timestamp=expires_ms,
        ),
    )


def _committed(
    request: OffsetCommitRequest, error_of: Callable[[str, int], ErrorCode]
) -> OffsetCommitResponse:
    return OffsetCommitResponse(
        topics=[
            OffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetCommitResponsePartition(
                        partition_index=p.partition_index,
                        error_code=error_of(topic.name, p.partition_index),
                    )
                    for p in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def _join_refused(
    request: JoinGroupRequest, client: ClientContext, error: ErrorCode
) -> JoinGroupResponse:
    return JoinGroupResponse(
        error_code=error,
        protocol_name=_nullable(None, client.version),
        member_id=request.member_id,
    )


def _nullable(protocol_name: str | None, version: int) -> str | None:
    """Before version 7 of JoinGroup no protocol is an empty one."""
    return "" if protocol_name is None and version < 7 else protocol_name
