"""A group on a stage: members by short names, a clock, and a log that writes when told to."""

import itertools
import uuid

from zkafka.errors import ErrorCode
from zkafka.groups.events import (
    Announce,
    CommitRequested,
    GroupPersisted,
    HeartbeatReceived,
    LeavingMember,
    MemberJoined,
    MemberProtocol,
    MembersLeft,
    MemberSynced,
    PersistGroup,
    TimePassed,
)
from zkafka.groups.group import Group, GroupSettings

SESSION_MS = 10_000
REBALANCE_MS = 60_000
DELAY_MS = 3_000


def protocols(**metadata):
    return tuple(MemberProtocol(name, value) for name, value in metadata.items())


RANGE = protocols(range=b"topics")


class Scene:
    """Steps one group, checks it after each step, and keeps what came out of it.

    `answers` maps tokens to answers; `written` lists the writes asked for. With `log_works` writes
    succeed at once; otherwise `persist(error)` ends the oldest.
    """

    def __init__(self, group=None, *, log_works=True, **settings):
        settings.setdefault("initial_rebalance_delay_ms", 0)
        self.group = group or Group("readers", GroupSettings(**settings))
        self.now_ms = 1_000
        self.log_works = log_works
        self.answers = {}
        self.written = []
        self.unwritten = []
        self.announced = []
        self.tokens = itertools.count(1)
        self.ids = itertools.count(1)
        self.given = set()

    def step(self, event):
        generation = self.group.generation
        effects = self.group.step(event, self.now_ms)
        self.group.check()
        assert self.group.generation - generation in (0, 1)
        for effect in effects:
            if isinstance(effect, PersistGroup):
                self.written.append(effect.value)
                self.unwritten.append(effect.write)
            elif isinstance(effect, Announce):
                self.announced.append(effect)
            else:
                assert effect.token in self.given, "an answer to nobody"
                assert effect.token not in self.answers, "answered twice"
                self.answers[effect.token] = effect
        if self.log_works:
            self.persist()
        return effects

    def persist(self, error=ErrorCode.NONE):
        """All writes in flight come to their end."""
        writes, self.unwritten = self.unwritten, []
        for write in writes:
            self.step(GroupPersisted(write, error))

    def token(self):
        token = next(self.tokens)
        self.given.add(token)
        return token

    def waits(self, token):
        return token not in self.answers

    def error(self, token):
        return self.answers[token].error

    def pass_ms(self, ms):
        """Time goes by; the group is looked at whenever it said so."""
        until = self.now_ms + ms
        while True:
            deadline = self.group.next_deadline_ms
            if deadline is None or deadline > until:
                break
            self.now_ms = max(self.now_ms, deadline)
            self.step(TimePassed())
        self.now_ms = until

    # Requests; each returns its token.

    def join(self, member_id="", *, client="c", speaks=RANGE, kind="consumer", version=3, **event):
        token = self.token()
        event = {
            "session_timeout_ms": SESSION_MS,
            "rebalance_timeout_ms": REBALANCE_MS,
            **event,
        }
        self.step(
            MemberJoined(
                token=token,
                member_id=member_id,
                new_id=uuid.UUID(int=next(self.ids)),
                client_id=client,
                client_host="/10.0.0.1",
                protocol_type=kind,
                protocols=speaks,
                requires_known_id=version >= 4,
                can_skip_assignment=version >= 9,
                **event,
            )
        )
        return token

    def sync(self, member_id, generation=None, *, assignments=None, **event):
        token = self.token()
        self.step(
            MemberSynced(
                token=token,
                member_id=member_id,
                generation=self.group.generation if generation is None else generation,
                assignments=assignments or {},
                **event,
            )
        )
        return token

    def heartbeat(self, member_id, generation=None, **event):
        token = self.token()
        generation = self.group.generation if generation is None else generation
        self.step(
            HeartbeatReceived(token=token, member_id=member_id, generation=generation, **event)
        )
        return self.error(token)

    def commit(self, member_id="", generation=-1, **event):
        token = self.token()
        self.step(CommitRequested(token=token, member_id=member_id, generation=generation, **event))
        return self.error(token)

    def leave(self, *members):
        token = self.token()
        leaving = tuple(LeavingMember(m) if isinstance(m, str) else m for m in members)
        self.step(MembersLeft(token=token, members=leaving))
        return self.answers[token]

    # Whole passages.

    def stable(self, *clients, **join):
        """A stable group of dynamic members, one per client name; their ids, the leader's first.
        The assignment of a member is its client's name."""
        ids = []
        for client in clients:
            token = self.join(client=client, **join)
            for member_id in ids:
                self.join(member_id, **join)
            ids.append(self.answers[token].member_id)
        self.sync_all(dict(zip(ids, clients, strict=True)))
        leader = self.group.leader
        return sorted(ids, key=lambda member_id: member_id != leader)

    def sync_all(self, assignments):
        """Everybody syncs, the leader with these assignments (as text)."""
        encoded = {member_id: text.encode() for member_id, text in assignments.items()}
        leader = self.group.leader
        return {
            member_id: self.sync(member_id, assignments=encoded if member_id == leader else None)
            for member_id in list(self.group.members)
        }
