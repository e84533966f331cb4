"""What a group is told, and what it asks for in return.

Events are in the past tense: a request came in, a write came to its end, time passed. Effects are
in the imperative: send an answer, write the group to the log, tell the operator. `group.py` turns
the ones into the others; `coordinator.py` makes the events and carries out the effects.

A request is a `Token` here, chosen by the driver, which gets it back with the answer.
"""

import enum
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import attrs

from zkafka.errors import ErrorCode
from zkafka.groups.records import GroupValue
from zkafka.model import Generation

Token: TypeAlias = int
"""A request that the driver will answer."""
WriteId: TypeAlias = int
"""One write of this group to the log, in the order of their making."""

NO_GENERATION: Final = -1
UNKNOWN_MEMBER: Final = ""


class GroupState(enum.Enum):
    """Named as DescribeGroups names them."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@attrs.frozen
class MemberProtocol:
    """One way of assigning that a member knows, with what its assignor needs to know of it."""

    name: str
    metadata: bytes


# Events, in the past tense. `token` names the request that a later effect answers.


@attrs.frozen(kw_only=True)
class MemberJoined:
    """A JoinGroup came in. `member_id` is empty for who has none; `new_id` is for naming it then.

    `requires_known_id` is KIP-394 (v4+), `can_skip_assignment` KIP-814 (v9+).
    """

    token: Token
    member_id: str
    new_id: uuid.UUID
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: tuple[MemberProtocol, ...]
    group_instance_id: str | None = None
    requires_known_id: bool = False
    can_skip_assignment: bool = False
    reason: str = ""


@attrs.frozen(kw_only=True)
class MemberSynced:
    """A SyncGroup came in; the leader's has the assignments, by member id. The protocol's type and
    name are None below v5."""

    token: Token
    member_id: str
    generation: Generation
    group_instance_id: str | None = None
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignments: Mapping[str, bytes] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class HeartbeatReceived:
    """A Heartbeat came in."""

    token: Token
    member_id: str
    generation: Generation
    group_instance_id: str | None = None


@attrs.frozen
class LeavingMember:
    """Who leaves: by member id, or (an administrator's removal) by instance id alone."""

    member_id: str
    group_instance_id: str | None = None


@attrs.frozen(kw_only=True)
class MembersLeft:
    """A LeaveGroup came in, for some members at once."""

    token: Token
    members: tuple[LeavingMember, ...]
    reason: str = ""


@attrs.frozen(kw_only=True)
class CommitRequested:
    """An OffsetCommit came in: may it be written?"""

    token: Token
    member_id: str
    generation: Generation
    group_instance_id: str | None = None


@attrs.frozen
class GroupPersisted:
    """A `PersistGroup` came to its end: NONE when all in-sync replicas have it."""

    write: WriteId
    error: ErrorCode


@attrs.frozen
class TimePassed:
    """`next_deadline_ms` may have come."""


@attrs.frozen
class GroupDeleted:
    """The group, empty, was deleted from the log."""


@attrs.frozen
class CoordinatorResigned:
    """This broker is not the group's coordinator any more."""


Event = (
    MemberJoined
    | MemberSynced
    | HeartbeatReceived
    | MembersLeft
    | CommitRequested
    | GroupPersisted
    | TimePassed
    | GroupDeleted
    | CoordinatorResigned
)


# Effects, in the imperative.


@attrs.frozen
class JoinedMember:
    """A member as the leader is told of it."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


@attrs.frozen(kw_only=True)
class AnswerJoin:
    """Send the JoinGroup's response. `members` is for the leader only."""

    token: Token
    member_id: str
    error: ErrorCode = ErrorCode.NONE
    generation: Generation = NO_GENERATION
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader: str = UNKNOWN_MEMBER
    skip_assignment: bool = False
    members: tuple[JoinedMember, ...] = ()


@attrs.frozen(kw_only=True)
class AnswerSync:
    """Send the SyncGroup's response."""

    token: Token
    error: ErrorCode = ErrorCode.NONE
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


@attrs.frozen
class AnswerHeartbeat:
    """Send the Heartbeat's response."""

    token: Token
    error: ErrorCode


@attrs.frozen
class AnswerLeave:
    """Send the LeaveGroup's response: `error` for all, or one for each member, in order."""

    token: Token
    error: ErrorCode
    members: tuple[ErrorCode, ...] = ()


@attrs.frozen
class AnswerCommit:
    """Write the commit (NONE), or refuse it."""

    token: Token
    error: ErrorCode


@attrs.frozen
class PersistGroup:
    """Write the group to the log, then say how it went (`GroupPersisted`). The driver fills in the
    timestamp."""

    write: WriteId
    value: GroupValue


@attrs.frozen(kw_only=True)
class Announce:
    """Tell the operator that the group entered a state, or a generation, and why."""

    state: GroupState
    generation: Generation
    members: int
    reason: str


Answer = AnswerJoin | AnswerSync | AnswerHeartbeat | AnswerLeave | AnswerCommit
Effect = Answer | PersistGroup | Announce
