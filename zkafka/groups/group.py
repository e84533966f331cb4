"""One consumer group: its members, its generations, and how it agrees on who reads what.

The classic group protocol. Members join; when all have, the group has a new generation and a
leader among them; the leader sends everybody's assignment with its SyncGroup, the others ask for
theirs; then they heartbeat, until somebody comes, goes or changes its mind.

    EMPTY --join--> PREPARING_REBALANCE --all joined, or time is up--> COMPLETING_REBALANCE
      ^                |     ^                                             |
      +--nobody left---+     +--join, leave, expiry--- STABLE <--assignment is in the log--+

Any state may become DEAD: the group was deleted, or this broker leads its log no longer.

Laws:

1. One entrance, `step(event, now_ms)`, never awaiting anything. Time, member ids and the fate of
   writes come in as events.
2. The generation only grows: by one at the end of each join phase.
3. An assignment is given to nobody before the log has it on all in-sync replicas. Between the
   leader's SyncGroup and that moment the group is COMPLETING_REBALANCE with a write in flight.
4. Who speaks with another generation than the current one is refused, always.
5. A request that waits (a join for the others, a sync for the leader) is a token here; each token
   that came in is answered once, at the latest when the group dies.

Members that wait have no session timer, since they cannot heartbeat; new ones, who may have gone
away unseen, are given five minutes. A dynamic member is asked to come again with the id it is given
(KIP-394), and until it does is pending: it holds up the join phase, for one session timeout at
most. A static member (KIP-345) is known by its instance id; when it comes back under a new member
id the old id is fenced, and in a stable group nothing needs to be agreed anew: the changed member
is written to the log and the join answered (`_Replacement` while the write is in flight).

Deadlines are values: `next_deadline_ms` is when `TimePassed` is due. It is a lower bound: a
heartbeat moves its member's deadline later without looking at all the others, so now and then the
driver comes early and is told the next moment.

Source: KIP-134 (initial delay), KIP-345, KIP-389 (maximum size), KIP-394, KIP-559, KIP-800, KIP-814
(skip_assignment); `GroupCoordinator` and `GroupMetadata` of Apache Kafka 3.9.
"""

import collections
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, assert_never

import attrs

from zkafka.errors import ErrorCode
from zkafka.groups.events import (
    UNKNOWN_MEMBER,
    Announce,
    Answer,
    AnswerCommit,
    AnswerHeartbeat,
    AnswerJoin,
    AnswerLeave,
    AnswerSync,
    CommitRequested,
    CoordinatorResigned,
    Effect,
    Event,
    GroupDeleted,
    GroupPersisted,
    GroupState,
    HeartbeatReceived,
    JoinedMember,
    LeavingMember,
    MemberJoined,
    MemberProtocol,
    MembersLeft,
    MemberSynced,
    PersistGroup,
    TimePassed,
    Token,
    WriteId,
)  # fmt: skip
from zkafka.groups.records import CONSUMER_PROTOCOL, GroupValue, MemberValue, subscribed_topics
from zkafka.model import Generation

NEW_MEMBER_JOIN_TIMEOUT_MS: Final = 5 * 60 * 1000
"""How long a new member may wait for the others, Kafka's number. It has no id yet, cannot
heartbeat, and its client may be gone."""

_NEVER: Final = 2**63
_HISTORY: Final = 64
"""Events remembered per group. Thousands of groups may live here, so fewer than elsewhere."""
_ID_PREFIX_BYTES: Final = 32_000
"""What a member id takes over from the client's name, so that the id fits a record's string."""

EMPTY = GroupState.EMPTY
PREPARING = GroupState.PREPARING_REBALANCE
COMPLETING = GroupState.COMPLETING_REBALANCE
STABLE = GroupState.STABLE
DEAD = GroupState.DEAD


@attrs.frozen(kw_only=True)
class GroupSettings:
    """The broker's settings that a group obeys; named as in Kafka, less `group.`."""

    min_session_timeout_ms: int = 6_000
    max_session_timeout_ms: int = 30 * 60 * 1000
    initial_rebalance_delay_ms: int = 3_000
    max_size: int = 2**31 - 1


@attrs.define(kw_only=True)
class Member:
    """One member. Only the group changes it.

    `join_token` and `sync_token` are its waiting requests. `owes_sync`: it was told the generation
    and has not sent its SyncGroup yet.
    """

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: tuple[MemberProtocol, ...]
    assignment: bytes = b""
    is_new: bool = False
    join_token: Token | None = None
    sync_token: Token | None = None
    owes_sync: bool = False
    session_deadline_ms: int = _NEVER

    @property
    def is_static(self) -> bool:
        """Whether it has an instance id (KIP-345)."""
        return self.group_instance_id is not None

    @property
    def deadline_ms(self) -> int:
        """When it expires unless heard of; a waiting one does not, new ones excepted."""
        waiting = self.join_token is not None or self.sync_token is not None
        return _NEVER if waiting and not self.is_new else self.session_deadline_ms

    def metadata_for(self, protocol: str | None) -> bytes:
        """What it said with that protocol; empty where it does not know it."""
        return next((p.metadata for p in self.protocols if p.name == protocol), b"")


# Writes in flight, with what to fall back on.


@attrs.frozen
class _AssignmentWrite:
    """The leader's assignment is on its way to the log; failing, all rejoin."""

    write: WriteId
    assignments: Mapping[str, bytes]


@attrs.frozen(kw_only=True)
class _Replacement:
    """A static member's new id is on its way to the log; failing, the old id is valid again."""

    write: WriteId
    token: Token
    member_id: str
    old: Member
    old_leader: str
    can_skip_assignment: bool


class Group:
    """One group's machine. A group begins EMPTY at generation 0, or as the log has it."""

    def __init__(self, group_id: str, settings: GroupSettings) -> None:
        self.group_id = group_id
        self._settings = settings
        self._state = EMPTY
        self._generation: Generation = 0
        self._protocol_type: str | None = None
        self._protocol_name: str | None = None
        self._leader: str | None = None
        # In the order of joining, which decides who leads.
        self._members: dict[str, Member] = {}
        self._instances: dict[str, str] = {}
        """Instance id -> member id, of static members."""
        self._pending: dict[str, int] = {}
        """Ids given out and not yet come back with, and until when they may."""
        self._subscribed: frozenset[str] | None = None
        self._join_deadline_ms = _NEVER
        self._initial_delay_left_ms: int | None = None
        """In the first join phase from EMPTY: by how much it may still be extended."""
        self._newcomers = False
        self._sync_deadline_ms = _NEVER
        self._assigning: _AssignmentWrite | None = None
        self._replacements: dict[WriteId, _Replacement] = {}
        self._writes = 0
        self._earliest_ms = _NEVER
        self._effects: list[Effect] = []
        self.history: collections.deque[tuple[int, Event]] = collections.deque(maxlen=_HISTORY)

    @classmethod
    def from_value(
        cls, group_id: str, value: GroupValue, settings: GroupSettings, now_ms: int
    ) -> "Group":
        """The group as the log has it: STABLE with fresh session timers if it has members, else
        EMPTY. Of each member's protocols only the chosen one is remembered."""
        group = cls(group_id, settings)
        group._generation = value.generation
        group._protocol_type = value.protocol_type or None
        for stored in value.members:
            member = Member(
                member_id=stored.member_id,
                group_instance_id=stored.group_instance_id,
                client_id=stored.client_id,
                client_host=stored.client_host,
                session_timeout_ms=stored.session_timeout,
                rebalance_timeout_ms=(
                    stored.session_timeout
                    if stored.rebalance_timeout < 0
                    else stored.rebalance_timeout
                ),
                protocols=(MemberProtocol(value.protocol or "", bytes(stored.subscription)),),
                assignment=bytes(stored.assignment),
            )
            group._put(member)
            group._heard_of(member, now_ms)
        if group._members:
            group._state = STABLE
            group._protocol_name = value.protocol or ""
            group._leader = value.leader if value.leader in group._members else None
            if group._leader is None:
                group._leader = next(iter(group._members))
        group._subscribed = group._read_subscriptions()
        return group

    # Reading.

    @property
    def state(self) -> GroupState:
        """Where it is in its rebalance."""
        return self._state

    @property
    def generation(self) -> Generation:
        """The current round; 0 before the first."""
        return self._generation

    @property
    def protocol_type(self) -> str | None:
        """What kind of group ("consumer", "connect"); None while it never had a member."""
        return self._protocol_type

    @property
    def protocol_name(self) -> str | None:
        """The protocol that this generation chose; None without members."""
        return self._protocol_name

    @property
    def leader(self) -> str | None:
        """The member that assigns."""
        return self._leader

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by id, in the order of joining. Not to be changed."""
        return MappingProxyType(self._members)

    @property
    def pending_members(self) -> Iterable[str]:
        """Member ids given out with MEMBER_ID_REQUIRED that have not come back."""
        return self._pending.keys()

    @property
    def subscribed_topics(self) -> frozenset[str] | None:
        """The topics that this generation of consumers reads; None where that cannot be told."""
        return self._subscribed

    @property
    def is_vacant(self) -> bool:
        """Whether nothing would be lost by forgetting it: never a generation, nobody about to be
        a member."""
        return self._state is EMPTY and self._generation == 0 and not self._pending

    @property
    def next_deadline_ms(self) -> int | None:
        """When to come with `TimePassed` at the latest; None for never."""
        return None if self._earliest_ms == _NEVER else self._earliest_ms

    # The entrance.

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """What follows from `event` at monotonic time `now_ms`; the effects are in order."""
        assert not self._effects, "step within a step"
        self.history.append((now_ms, event))
        match event:
            case MemberJoined():
                self._on_member_joined(event, now_ms)
            case MemberSynced():
                self._on_member_synced(event, now_ms)
            case HeartbeatReceived():
                self._on_heartbeat_received(event, now_ms)
            case MembersLeft():
                self._on_members_left(event, now_ms)
            case CommitRequested():
                self._on_commit_requested(event, now_ms)
            case GroupPersisted():
                self._on_group_persisted(event, now_ms)
            case TimePassed():
                self._on_time_passed(now_ms)
            case GroupDeleted():
                assert self._state is EMPTY, "only an empty group can be deleted"
                self._die("deleted")
            case CoordinatorResigned():
                self._die("coordinator resigned")
            case _:
                assert_never(event)
        effects, self._effects = self._effects, []
        return effects

    # Joining.

    def _on_member_joined(self, event: MemberJoined, now_ms: int) -> None:
        settings = self._settings
        timeout = event.session_timeout_ms
        if not settings.min_session_timeout_ms <= timeout <= settings.max_session_timeout_ms:
            self._refuse_join(event, ErrorCode.INVALID_SESSION_TIMEOUT)
        elif self._state is DEAD:
            self._refuse_join(event, ErrorCode.COORDINATOR_NOT_AVAILABLE)
        elif not self._has_room_for(event.member_id):
            # One that was a member and comes too late to rejoin loses its place at once.
            if event.member_id in self._members or event.member_id in self._pending:
                self._forget(event.member_id, ErrorCode.GROUP_MAX_SIZE_REACHED)
            self._send(
                AnswerJoin(
                    token=event.token,
                    member_id=UNKNOWN_MEMBER,
                    error=ErrorCode.GROUP_MAX_SIZE_REACHED,
                )
            )
        elif not self._supports(event):
            self._refuse_join(event, ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        elif event.member_id == UNKNOWN_MEMBER:
            self._welcome(event, now_ms)
        elif event.member_id in self._pending and event.group_instance_id is None:
            self._add_member(event, event.member_id, now_ms)
        else:
            error = self._validate(event.member_id, event.group_instance_id)
            if error:
                self._refuse_join(event, error)
            else:
                self._rejoin(self._members[event.member_id], event, now_ms)
        self._try_complete_join(now_ms)

    def _welcome(self, event: MemberJoined, now_ms: int) -> None:
        """A member without an id: new, or a static one that came back."""
        member_id = _member_id(event)
        if event.group_instance_id is not None:
            old_id = self._instances.get(event.group_instance_id)
            if old_id is None:
                self._add_member(event, member_id, now_ms)
            else:
                self._replace_static(old_id, member_id, event, now_ms)
        elif event.requires_known_id:
            self._pending[member_id] = now_ms + event.session_timeout_ms
            self._due(self._pending[member_id])
            self._send(
                AnswerJoin(
                    token=event.token, member_id=member_id, error=ErrorCode.MEMBER_ID_REQUIRED
                )
            )
        else:
            self._add_member(event, member_id, now_ms)

    def _add_member(self, event: MemberJoined, member_id: str, now_ms: int) -> None:
        self._pending.pop(member_id, None)
        if not self._members:
            self._protocol_type = event.protocol_type
        member = Member(
            member_id=member_id,
            group_instance_id=event.group_instance_id,
            client_id=event.client_id,
            client_host=event.client_host,
            session_timeout_ms=event.session_timeout_ms,
            rebalance_timeout_ms=event.rebalance_timeout_ms,
            protocols=event.protocols,
            is_new=True,
            join_token=event.token,
        )
        self._put(member)
        if self._leader is None:
            self._leader = member_id
        member.session_deadline_ms = now_ms + NEW_MEMBER_JOIN_TIMEOUT_MS
        self._due(member.session_deadline_ms)
        self._newcomers = True
        self._rebalance(f"new member {member_id}{_because(event.reason)}", now_ms)

    def _rejoin(self, member: Member, event: MemberJoined, now_ms: int) -> None:
        """A member that we know asks to join again."""
        unchanged = member.protocols == event.protocols
        if self._state is PREPARING:
            self._park_join(member, event)
        elif self._state is COMPLETING and unchanged:
            # Its response was lost: tell it again, the leader with the members.
            self._send(self._joined(member, event.token))
            self._heard_of(member, now_ms)
        elif self._state is STABLE and unchanged and member.member_id != self._leader:
            # Here the response carries no members: the assignment stands.
            self._send(self._joined(member, event.token, with_members=False))
            self._heard_of(member, now_ms)
        else:
            # A leader that rejoins a stable group wants another assignment (topics changed).
            assert self._state in (COMPLETING, STABLE)
            self._park_join(member, event)
            what = "changed metadata" if not unchanged else "leader rejoined"
            self._rebalance(f"{what} of {member.member_id}{_because(event.reason)}", now_ms)

    def _park_join(self, member: Member, event: MemberJoined) -> None:
        if member.join_token is not None:
            # A retry over another connection; whoever sent the first listens no longer.
            self._send(
                AnswerJoin(
                    token=member.join_token,
                    member_id=member.member_id,
                    error=ErrorCode.REBALANCE_IN_PROGRESS,
                )
            )
        member.join_token = event.token
        self._describe(member, event)

    def _describe(self, member: Member, event: MemberJoined) -> None:
        member.protocols = event.protocols
        member.session_timeout_ms = event.session_timeout_ms
        member.rebalance_timeout_ms = event.rebalance_timeout_ms

    def _replace_static(self, old_id: str, new_id: str, event: MemberJoined, now_ms: int) -> None:
        """A static member came back under a new member id; the old id is fenced from now on."""
        member = self._members[old_id]
        old = attrs.evolve(member, join_token=None, sync_token=None)
        old_leader = self._leader or UNKNOWN_MEMBER
        if member.join_token is not None:
            self._send(
                AnswerJoin(
                    token=member.join_token, member_id=old_id, error=ErrorCode.FENCED_INSTANCE_ID
                )
            )
        if member.sync_token is not None:
            self._send(AnswerSync(token=member.sync_token, error=ErrorCode.FENCED_INSTANCE_ID))
        member.join_token = member.sync_token = None
        self._rename(member, new_id)
        member.join_token = event.token
        member.client_id, member.client_host = event.client_id, event.client_host
        self._describe(member, event)
        self._heard_of(member, now_ms)

        if self._state is STABLE and self._vote() == self._protocol_name:
            write = self._persist({m.member_id: m.assignment for m in self._members.values()})
            self._replacements[write] = _Replacement(
                write=write,
                token=event.token,
                member_id=new_id,
                old=old,
                old_leader=old_leader,
                can_skip_assignment=event.can_skip_assignment,
            )
        else:
            # In COMPLETING_REBALANCE the leader may be assigning to the old id just now.
            assert self._state is not EMPTY, "a static member in an empty group"
            self._rebalance(
                f"static member {event.group_instance_id} came back{_because(event.reason)}", now_ms
            )

    def _on_replacement_persisted(
        self, replacement: _Replacement, error: ErrorCode, now_ms: int
    ) -> None:
        member = self._members.get(replacement.member_id)
        if member is None or member.join_token != replacement.token or self._state is not STABLE:
            # Replaced again, expired, or a rebalance has begun: then this join waits for its end.
            return
        member.join_token = None
        if error:
            self._rename(member, replacement.old.member_id)
            member.protocols = replacement.old.protocols
            member.session_timeout_ms = replacement.old.session_timeout_ms
            member.rebalance_timeout_ms = replacement.old.rebalance_timeout_ms
            member.client_id = replacement.old.client_id
            member.client_host = replacement.old.client_host
            self._send(
                AnswerJoin(
                    token=replacement.token,
                    member_id=UNKNOWN_MEMBER,
                    error=error,
                    generation=self._generation,
                    protocol_type=self._protocol_type,
                    protocol_name=self._protocol_name,
                    leader=replacement.old_leader,
                )
            )
        elif replacement.can_skip_assignment:
            leads = member.member_id == self._leader
            answer = self._joined(member, replacement.token)
            self._send(attrs.evolve(answer, skip_assignment=leads))
        else:
            # Told of the previous leader id, it does not take itself for the leader, and so does
            # not make an assignment that a stable group would not hear.
            answer = self._joined(member, replacement.token, with_members=False)
            self._send(attrs.evolve(answer, leader=replacement.old_leader))
        self._heard_of(member, now_ms)

    def _joined(self, member: Member, token: Token, *, with_members: bool = True) -> AnswerJoin:
        """The response that tells a member the current generation."""
        assert self._leader is not None
        members: tuple[JoinedMember, ...] = ()
        if with_members and member.member_id == self._leader:
            members = tuple(
                JoinedMember(m.member_id, m.group_instance_id, m.metadata_for(self._protocol_name))
                for m in self._members.values()
            )
        return AnswerJoin(
            token=token,
            member_id=member.member_id,
            generation=self._generation,
            protocol_type=self._protocol_type,
            protocol_name=self._protocol_name,
            leader=self._leader,
            members=members,
        )

    def _has_room_for(self, member_id: str) -> bool:
        """Whether group.max.size lets it join. While a rebalance is prepared those who have
        rejoined count, so that a size lowered meanwhile keeps the first to come."""
        member = self._members.get(member_id)
        if self._state is PREPARING:
            waiting = sum(m.join_token is not None for m in self._members.values())
            rejoined = member is not None and member.join_token is not None
            return rejoined or waiting < self._settings.max_size
        if self._state in (COMPLETING, STABLE):
            return member is not None or len(self._members) < self._settings.max_size
        return True

    def _supports(self, event: MemberJoined) -> bool:
        """Whether the newcomer speaks a protocol that everybody speaks."""
        if not event.protocol_type or not event.protocols:
            return False
        if self._state is EMPTY:
            return True
        if self._protocol_type != event.protocol_type:
            return False
        common = self._common_protocols()
        return common is None or any(p.name in common for p in event.protocols)

    def _common_protocols(self) -> set[str] | None:
        """What all members know; None without members."""
        common: set[str] | None = None
        for member in self._members.values():
            names = {p.name for p in member.protocols}
            common = names if common is None else common & names
        return common

    def _vote(self) -> str:
        """The protocol with most votes, each member voting for its first common one. Of equals the
        one that the longest-standing member prefers."""
        common = self._common_protocols()
        assert common, "members without a common protocol"
        votes = collections.Counter(
            next(p.name for p in member.protocols if p.name in common)
            for member in self._members.values()
        )
        # A Counter keeps the order of first votes, and max() takes the first of equals.
        return max(votes, key=votes.__getitem__)

    # The rebalance.

    def _rebalance(self, reason: str, now_ms: int) -> None:
        """Begin to prepare a rebalance, unless one is being prepared already."""
        if self._state in (PREPARING, DEAD):
            return
        if self._state is COMPLETING:
            self._refuse_syncs(ErrorCode.REBALANCE_IN_PROGRESS, now_ms)
        self._stop_syncing()
        if self._state is EMPTY:
            delay = self._settings.initial_rebalance_delay_ms
            self._initial_delay_left_ms = max(self._rebalance_timeout_ms() - delay, 0)
            self._newcomers = False
        else:
            delay = self._rebalance_timeout_ms()
            self._initial_delay_left_ms = None
        self._join_deadline_ms = now_ms + delay
        self._due(self._join_deadline_ms)
        self._enter(PREPARING, reason)
        if delay <= 0:
            self._complete_join(now_ms)
        else:
            self._try_complete_join(now_ms)

    def _try_complete_join(self, now_ms: int) -> None:
        """End the join phase if all have joined. The first one, from EMPTY, never ends early."""
        if self._state is not PREPARING or self._pending:
            return
        if self._initial_delay_left_ms is not None:
            return
        if all(member.join_token is not None for member in self._members.values()):
            self._complete_join(now_ms)

    def _on_join_deadline(self, now_ms: int) -> None:
        left = self._initial_delay_left_ms
        if left and self._newcomers:
            self._newcomers = False
            delay = min(self._settings.initial_rebalance_delay_ms, left)
            self._initial_delay_left_ms = left - delay
            self._join_deadline_ms = now_ms + delay
            self._due(self._join_deadline_ms)
        else:
            self._complete_join(now_ms)

    def _complete_join(self, now_ms: int) -> None:
        """The join phase is over: who did not come is out, static members excepted."""
        assert self._state is PREPARING
        for member in [m for m in self._members.values() if m.join_token is None]:
            if not member.is_static:
                self._forget(member.member_id, ErrorCode.UNKNOWN_MEMBER_ID)
        joined = [m.member_id for m in self._members.values() if m.join_token is not None]
        if self._members and not joined:
            # Static members only, none of which came: their sessions decide who stays. Not at once
            # again, whatever rebalance timeout they asked for.
            again_ms = max(self._rebalance_timeout_ms(), self._settings.min_session_timeout_ms)
            self._initial_delay_left_ms = None
            self._join_deadline_ms = now_ms + again_ms
            self._due(self._join_deadline_ms)
            return
        if self._leader not in joined:
            self._leader = joined[0] if joined else None
        self._generation += 1
        self._join_deadline_ms = _NEVER
        self._initial_delay_left_ms = None
        if not self._members:
            self._protocol_name = None
            self._subscribed = self._read_subscriptions()
            self._enter(EMPTY, "no members left")
            # If this write fails the log keeps an older generation, which is as good without
            # members: nobody can speak in its name.
            self._persist({})
            return
        self._protocol_name = self._vote()
        self._subscribed = self._read_subscriptions()
        self._enter(COMPLETING, "all members joined")
        for member in self._members.values():
            if member.join_token is not None:
                self._send(self._joined(member, member.join_token))
                member.join_token = None
            member.is_new = False
            member.owes_sync = True
            self._heard_of(member, now_ms)
        self._sync_deadline_ms = now_ms + self._rebalance_timeout_ms()
        self._due(self._sync_deadline_ms)

    def _rebalance_timeout_ms(self) -> int:
        return max((m.rebalance_timeout_ms for m in self._members.values()), default=0)

    def _read_subscriptions(self) -> frozenset[str] | None:
        if self._protocol_type != CONSUMER_PROTOCOL:
            return None
        topics: set[str] = set()
        for member in self._members.values():
            theirs = subscribed_topics(member.metadata_for(self._protocol_name))
            if theirs is None:
                return None
            topics |= theirs
        return frozenset(topics)

    # Syncing.

    def _on_member_synced(self, event: MemberSynced, now_ms: int) -> None:
        error = self._validate_generation(
            event.member_id, event.group_instance_id, event.generation
        )
        if not error and (
            event.protocol_type not in (None, self._protocol_type)
            or event.protocol_name not in (None, self._protocol_name)
        ):
            error = ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if not error and self._state is PREPARING:
            error = ErrorCode.REBALANCE_IN_PROGRESS
        if error:
            self._send(AnswerSync(token=event.token, error=error))
            return
        assert self._state in (COMPLETING, STABLE), "a member in an empty group"
        member = self._members[event.member_id]
        member.owes_sync = False
        if self._state is STABLE:
            self._send(self._synced(member, event.token))
            self._heard_of(member, now_ms)
        else:
            if member.sync_token is not None:
                # A retry, as in `_park_join`.
                self._send(
                    AnswerSync(token=member.sync_token, error=ErrorCode.REBALANCE_IN_PROGRESS)
                )
            member.sync_token = event.token
            if member.member_id == self._leader and self._assigning is None:
                assignments = {
                    member_id: event.assignments.get(member_id, b"") for member_id in self._members
                }
                self._assigning = _AssignmentWrite(self._persist(assignments), assignments)
        self._stop_syncing_if_done()

    def _on_group_persisted(self, event: GroupPersisted, now_ms: int) -> None:
        replacement = self._replacements.pop(event.write, None)
        if replacement is not None:
            self._on_replacement_persisted(replacement, event.error, now_ms)
            return
        assigning = self._assigning
        if assigning is None or assigning.write != event.write:
            # Of an empty group, or of a generation that another rebalance has overtaken.
            return
        assert self._state is COMPLETING
        self._assigning = None
        if event.error:
            self._refuse_syncs(event.error, now_ms)
            self._rebalance(f"assignment not written: {event.error.name}", now_ms)
            return
        for member in self._members.values():
            member.assignment = assigning.assignments.get(member.member_id, b"")
        self._enter(STABLE, "assignment written")
        for member in self._members.values():
            if member.sync_token is not None:
                self._send(self._synced(member, member.sync_token))
                member.sync_token = None
                self._heard_of(member, now_ms)

    def _synced(self, member: Member, token: Token) -> AnswerSync:
        return AnswerSync(
            token=token,
            protocol_type=self._protocol_type,
            protocol_name=self._protocol_name,
            assignment=member.assignment,
        )

    def _refuse_syncs(self, error: ErrorCode, now_ms: int) -> None:
        """No assignment this time: tell those who wait for one, whose sessions begin anew."""
        self._assigning = None
        for member in self._members.values():
            member.assignment = b""
            if member.sync_token is not None:
                self._send(AnswerSync(token=member.sync_token, error=error))
                member.sync_token = None
                self._heard_of(member, now_ms)

    def _stop_syncing(self) -> None:
        self._sync_deadline_ms = _NEVER
        for member in self._members.values():
            member.owes_sync = False

    def _stop_syncing_if_done(self) -> None:
        if not any(member.owes_sync for member in self._members.values()):
            self._sync_deadline_ms = _NEVER

    def _on_sync_deadline(self, now_ms: int) -> None:
        """Who joined and then did not sync holds up the others, or sits on partitions unread."""
        late = [m.member_id for m in self._members.values() if m.owes_sync]
        self._sync_deadline_ms = _NEVER
        for member_id in late:
            self._forget(member_id, ErrorCode.UNKNOWN_MEMBER_ID)
        if late:
            self._rebalance(f"no sync from {', '.join(late)}", now_ms)

    # Staying and leaving.

    def _on_heartbeat_received(self, event: HeartbeatReceived, now_ms: int) -> None:
        error = self._validate_generation(
            event.member_id, event.group_instance_id, event.generation
        )
        if not error:
            self._heard_of(self._members[event.member_id], now_ms)
            if self._state is PREPARING:
                error = ErrorCode.REBALANCE_IN_PROGRESS
        self._send(AnswerHeartbeat(event.token, error))

    def _on_commit_requested(self, event: CommitRequested, now_ms: int) -> None:
        anonymous = event.member_id == UNKNOWN_MEMBER and event.group_instance_id is None
        if self._state is DEAD:
            error = ErrorCode.COORDINATOR_NOT_AVAILABLE
        elif event.generation < 0 and self._state is EMPTY:
            # A consumer that assigns itself, or an administrator.
            error = ErrorCode.NONE
        elif event.generation < 0 and anonymous:
            error = ErrorCode.UNKNOWN_MEMBER_ID
        else:
            error = self._validate_generation(
                event.member_id, event.group_instance_id, event.generation
            )
            if not error and self._state is COMPLETING:
                # Its partitions are being given away at this moment.
                error = ErrorCode.REBALANCE_IN_PROGRESS
            if not error:
                self._heard_of(self._members[event.member_id], now_ms)
        self._send(AnswerCommit(event.token, error))

    def _on_members_left(self, event: MembersLeft, now_ms: int) -> None:
        if self._state is DEAD:
            self._send(AnswerLeave(event.token, ErrorCode.COORDINATOR_NOT_AVAILABLE))
            return
        before = len(self._members)
        errors = tuple(self._leave(member) for member in event.members)
        self._send(AnswerLeave(event.token, ErrorCode.NONE, errors))
        if len(self._members) < before:
            gone = ", ".join(
                member.group_instance_id or member.member_id
                for member, error in zip(event.members, errors, strict=True)
                if not error
            )
            self._rebalance(f"left: {gone}{_because(event.reason)}", now_ms)
        # A pending member that left held up the others too.
        self._try_complete_join(now_ms)

    def _leave(self, leaving: LeavingMember) -> ErrorCode:
        member_id = leaving.member_id
        if member_id == UNKNOWN_MEMBER:
            # Removal by an administrator, who knows the instance id only.
            known = self._instances.get(leaving.group_instance_id or "")
            if known is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            member_id = known
        elif member_id not in self._pending:
            error = self._validate(member_id, leaving.group_instance_id)
            if error:
                return error
        self._forget(member_id, ErrorCode.UNKNOWN_MEMBER_ID)
        return ErrorCode.NONE

    def _forget(self, member_id: str, error: ErrorCode) -> None:
        """Take out a member, or one that is pending; requests of its that wait get `error`."""
        self._pending.pop(member_id, None)
        member = self._members.pop(member_id, None)
        if member is None:
            return
        if member.group_instance_id is not None:
            del self._instances[member.group_instance_id]
        if member.join_token is not None:
            self._send(AnswerJoin(token=member.join_token, member_id=UNKNOWN_MEMBER, error=error))
        if member.sync_token is not None:
            self._send(AnswerSync(token=member.sync_token, error=error))
        if self._leader == member_id:
            self._leader = next(iter(self._members), None)

    # Time.

    def _on_time_passed(self, now_ms: int) -> None:
        if now_ms < self._earliest_ms:
            return
        # What begins in this step has its time yet, though it be none.
        sync_is_over = self._sync_deadline_ms <= now_ms
        for member_id in [m for m, deadline in self._pending.items() if deadline <= now_ms]:
            del self._pending[member_id]
        expired = [m.member_id for m in self._members.values() if m.deadline_ms <= now_ms]
        for member_id in expired:
            self._forget(member_id, ErrorCode.UNKNOWN_MEMBER_ID)
        if expired:
            self._rebalance(f"session expired: {', '.join(expired)}", now_ms)
        if self._join_deadline_ms <= now_ms:
            self._on_join_deadline(now_ms)
        else:
            self._try_complete_join(now_ms)
        if sync_is_over and self._sync_deadline_ms <= now_ms:
            self._on_sync_deadline(now_ms)
        self._earliest_ms = self._true_deadline_ms()

    def _heard_of(self, member: Member, now_ms: int) -> None:
        """The member lives: its session begins anew."""
        timeout = NEW_MEMBER_JOIN_TIMEOUT_MS if member.is_new else member.session_timeout_ms
        member.session_deadline_ms = now_ms + timeout
        self._due(member.session_deadline_ms)

    def _due(self, deadline_ms: int) -> None:
        self._earliest_ms = min(self._earliest_ms, deadline_ms)

    def _true_deadline_ms(self) -> int:
        """The earliest deadline there is, from looking at all of them."""
        return min(
            self._join_deadline_ms,
            self._sync_deadline_ms,
            min(self._pending.values(), default=_NEVER),
            min((m.deadline_ms for m in self._members.values()), default=_NEVER),
        )

    # What several of these need.

    def _validate(self, member_id: str, group_instance_id: str | None) -> ErrorCode:
        """Whether it is a member, and the one that its instance id belongs to now."""
        if group_instance_id is not None:
            owner = self._instances.get(group_instance_id)
            if owner is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if owner != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self._members else ErrorCode.UNKNOWN_MEMBER_ID

    def _validate_generation(
        self, member_id: str, group_instance_id: str | None, generation: Generation
    ) -> ErrorCode:
        if self._state is DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        error = self._validate(member_id, group_instance_id)
        if not error and generation != self._generation:
            return ErrorCode.ILLEGAL_GENERATION
        return error

    def _put(self, member: Member) -> None:
        assert member.member_id not in self._members
        self._members[member.member_id] = member
        if member.group_instance_id is not None:
            self._instances[member.group_instance_id] = member.member_id

    def _rename(self, member: Member, new_id: str) -> None:
        """Give a static member another id, its place in the order kept."""
        old_id = member.member_id
        assert member.group_instance_id is not None
        assert new_id not in self._members
        member.member_id = new_id
        self._members = {m.member_id: m for m in self._members.values()}
        self._instances[member.group_instance_id] = new_id
        if self._leader == old_id:
            self._leader = new_id

    def _persist(self, assignments: Mapping[str, bytes]) -> WriteId:
        self._writes += 1
        members = [
            MemberValue(
                member_id=m.member_id,
                group_instance_id=m.group_instance_id,
                client_id=m.client_id,
                client_host=m.client_host,
                rebalance_timeout=m.rebalance_timeout_ms,
                session_timeout=m.session_timeout_ms,
                subscription=m.metadata_for(self._protocol_name),
                assignment=assignments[m.member_id],
            )
            for m in self._members.values()
        ]
        value = GroupValue(
            protocol_type=self._protocol_type or "",
            generation=self._generation,
            protocol=self._protocol_name,
            leader=self._leader,
            members=members,
        )
        self._effects.append(PersistGroup(self._writes, value))
        return self._writes

    def _refuse_join(self, event: MemberJoined, error: ErrorCode) -> None:
        self._send(AnswerJoin(token=event.token, member_id=event.member_id, error=error))

    def _send(self, answer: Answer) -> None:
        self._effects.append(answer)

    def _enter(self, state: GroupState, reason: str) -> None:
        self._state = state
        self._effects.append(
            Announce(
                state=state,
                generation=self._generation,
                members=len(self._members),
                reason=reason,
            )
        )

    def _die(self, reason: str) -> None:
        for member in self._members.values():
            if member.join_token is not None:
                self._send(
                    AnswerJoin(
                        token=member.join_token,
                        member_id=member.member_id,
                        error=ErrorCode.NOT_COORDINATOR,
                    )
                )
            if member.sync_token is not None:
                self._send(AnswerSync(token=member.sync_token, error=ErrorCode.NOT_COORDINATOR))
            member.join_token = member.sync_token = None
        self._pending.clear()
        self._members.clear()
        self._instances.clear()
        self._replacements.clear()
        self._assigning = None
        self._leader = self._protocol_name = None
        self._join_deadline_ms = self._sync_deadline_ms = self._earliest_ms = _NEVER
        self._enter(DEAD, reason)

    def check(self) -> None:
        """Assert all invariants."""
        members = self._members
        state = self._state
        assert all(member_id == m.member_id for member_id, m in members.items())
        assert self._instances == {
            m.group_instance_id: m.member_id for m in members.values() if m.is_static
        }, "instance ids and members disagree"
        assert not self._pending.keys() & members.keys(), "pending and a member at once"
        assert (self._leader is None) == (not members), "a leader, and only among members"
        assert self._leader is None or self._leader in members
        assert self._earliest_ms <= self._true_deadline_ms(), "a deadline would be missed"
        assert (self._join_deadline_ms != _NEVER) == (state is PREPARING)
        tokens = [
            t for m in members.values() for t in (m.join_token, m.sync_token) if t is not None
        ]
        assert len(tokens) == len(set(tokens)), "one request waits twice"
        if members:
            assert self._common_protocols(), "members without a common protocol"
        if state in (EMPTY, DEAD):
            assert not members, f"members in {state.value}"
            assert self._protocol_name is None
        if state in (COMPLETING, STABLE):
            assert members, f"no members in {state.value}"
            assert self._protocol_name is not None
        replaced = {r.token for r in self._replacements.values()}
        for member in members.values():
            if member.join_token is not None and member.join_token not in replaced:
                assert state is PREPARING, "a join waits for nothing"
            if member.sync_token is not None:
                assert state is COMPLETING, "a sync waits for nothing"
            if member.owes_sync:
                assert self._sync_deadline_ms != _NEVER, "a sync is owed for ever"
            if member.is_new:
                assert state is PREPARING, "nobody is new after a join phase"
        assert self._assigning is None or state is COMPLETING
        if state is PREPARING and members and not self._pending:
            complete = all(m.join_token is not None for m in members.values())
            early = self._initial_delay_left_ms is not None
            assert not complete or early, "all have joined and nobody was told"


def _member_id(event: MemberJoined) -> str:
    """What a member without an id will be called, as in Kafka: its name and a random part."""
    prefix = event.client_id if event.group_instance_id is None else event.group_instance_id
    if len(prefix) > _ID_PREFIX_BYTES // 4:  # a character has up to four bytes
        prefix = prefix.encode()[:_ID_PREFIX_BYTES].decode(errors="ignore")
    return f"{prefix}-{event.new_id}"


def _because(reason: str) -> str:
    """What the client gave as its reason (KIP-800), shortened and on one line."""
    return f" ({' '.join(reason.split())[:120]})" if reason else ""
