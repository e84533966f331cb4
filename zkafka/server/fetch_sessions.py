"""Incremental fetch (KIP-227): a client names only the partitions whose request changed, and gets
only those whose answer did.

A session is what we remember of one client's fetch: each partition as last asked for, and the high
watermark and log start offset as last told. Its cost per fetch follows what moved, not what it
holds: a session watches its partitions (`Watch`), and a fetch looks at

- those whose last answer did not settle them: named in this request, answered with data or an
  error, or left out for want of room (`_unsettled`);
- those that moved since (`watch.take()`);
- and some of the others in turn, so that all have been looked at once in `sweep_ms`. That keeps the
  leader's notion of when a silent follower was last caught up from growing stale, and would heal
  a forgotten wake.

Laws:

- `epoch` is the one the next request must carry: 1 after creation, + 1 with each request that was
  let in, from 2^31 - 1 back to 1.
- A partition that returned data goes to the end of its session's order, so that no partition
  starves another behind the response's size limit.
- At most `slots` sessions. A new one takes the place of one unused for `eviction_ms`; else of a
  lesser one, where a follower's is greater than a consumer's and then more partitions than fewer.
  Nobody's session younger than `eviction_ms` yields, except a consumer's to a follower's.

Kafka divides the cache in eight shards to spread its locks; one loop needs none.

Source: KIP-227, KIP-516 (topic ids); `FetchSession` of Apache Kafka 3.9.
"""

import random
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import attrs

from zkafka.errors import ErrorCode
from zkafka.model import NO_EPOCH, NO_OFFSET, LeaderEpoch, Offset, TopicPartition
from zkafka.protocol.fields import NULL_UUID
from zkafka.protocol.hot_fetch import LoneFetch
from zkafka.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic

INITIAL_EPOCH = 0
"""Asks for a full fetch, and a session if there is room."""
FINAL_EPOCH = -1
"""Asks for a full fetch without session."""
NO_SESSION = 0

EVICTION_MS = 2 * 60_000
"""Kafka's; the setting `min.incremental.fetch.session.eviction.ms` names it."""
SWEEP_MS = 5_000
"""Ours: a small part of replica.lag.time.max.ms (30 s), which must hold for it."""


class Waiting(Protocol):
    """A wait that was begun."""

    def cancel(self) -> None:
        """Wait no longer, and call nobody."""


class Watch(Protocol):
    """Partitions somebody cares for, and which of them moved; `replication.purgatory` has it."""

    def add(self, key: TopicPartition) -> None:
        """Remember moves of `key` from now on."""

    def discard(self, key: TopicPartition) -> None:
        """Care for `key` no longer."""

    def take(self) -> set[TopicPartition]:
        """Those that moved since the last call."""

    def call_after(
        self, judge: Callable[[TopicPartition], bool], deadline_ms: int, call: Callable[[], None]
    ) -> "Waiting":
        """Have it called when `judge`, told what moved, says so, or time is up."""

    def close(self) -> None:
        """Care for nothing any longer, and let a waiter go."""


PartitionKey = tuple[int | str, int]
"""How a session tells partitions apart: by topic id from version 13 on, by name before. Of the id
the number: a UUID's own hash is computed in Python, each time."""

TopicNames = Callable[[uuid.UUID], str | None]
"""The name of the topic with that id; None where it is unknown."""

UNNAMED = ""
"""The topic of a partition whose topic id is unknown to us."""


@attrs.define(eq=False, kw_only=True)
class FetchedPartition:
    """One partition as a client asks for it, and what it was last told.

    `topic_partition` has the topic UNNAMED while the topic id is unknown to us; `named_in` is the
    metadata picture that it was last looked up in. `log_start_offset` is the fetcher's. `turn` is
    its place in the session's order.
    """

    key: PartitionKey
    topic_partition: TopicPartition
    topic_id: uuid.UUID
    named_in: object = None
    fetch_offset: Offset = 0
    max_bytes: int = 0
    current_leader_epoch: LeaderEpoch = NO_EPOCH
    last_fetched_epoch: LeaderEpoch = NO_EPOCH
    log_start_offset: Offset = NO_OFFSET
    sent_high_watermark: Offset = NO_OFFSET
    sent_log_start_offset: Offset = NO_OFFSET
    turn: int = 0

    @property
    def is_named(self) -> bool:
        """Whether its topic was known when it was last looked up."""
        return self.topic_partition.topic != UNNAMED

    @property
    def partition(self) -> int:
        """Its number in the topic."""
        return self.topic_partition.partition

    def ask(self, wanted: FetchPartition | LoneFetch) -> None:
        """Take over what a request says of this partition."""
        self.fetch_offset = wanted.fetch_offset
        self.max_bytes = wanted.partition_max_bytes
        self.current_leader_epoch = wanted.current_leader_epoch
        self.last_fetched_epoch = wanted.last_fetched_epoch
        self.log_start_offset = wanted.log_start_offset

    def told(
        self, high_watermark: Offset, log_start_offset: Offset, *, failed: bool, urgent: bool
    ) -> bool:
        """Whether an incremental answer must contain this partition; remembers that it did.

        `failed`: an error or a diverging epoch, which is repeated until it is over. `urgent`: it
        has records or a preferred replica.
        """
        changed = (
            failed
            or urgent
            or high_watermark != self.sent_high_watermark
            or log_start_offset != self.sent_log_start_offset
        )
        # After a failure the watermark is told again, even if it is the old one.
        self.sent_high_watermark = NO_OFFSET if failed else high_watermark
        self.sent_log_start_offset = log_start_offset
        return changed


class FetchSession:
    """What one client fetches; see the module's laws. Made and dropped by `FetchSessions`."""

    def __init__(
        self,
        session_id: int,
        *,
        privileged: bool,
        uses_topic_ids: bool,
        partitions: dict[PartitionKey, FetchedPartition],
        watch: Watch,
        now_ms: int,
    ) -> None:
        self.session_id = session_id
        self.privileged = privileged
        self.uses_topic_ids = uses_topic_ids
        self.epoch = 1
        self.created_ms = now_ms
        self.used_ms = now_ms
        self.watch = watch
        self._partitions = partitions
        self._by_name: dict[TopicPartition, FetchedPartition] = {}
        self._unsettled: set[FetchedPartition] = set()
        self._turn = 0
        self._sweep: deque[PartitionKey] = deque()
        self._swept_ms = now_ms
        for fetched in partitions.values():
            self._turn += 1
            fetched.turn = self._turn
            if fetched.is_named:
                self.named(fetched, fetched.topic_partition.topic)

    def __len__(self) -> int:
        return len(self._partitions)

    def named(self, fetched: FetchedPartition, topic: str) -> None:
        """The topic of `fetched` has this name: its moves are seen from now on."""
        name = fetched.topic_partition
        if name.topic != topic:
            name = fetched.topic_partition = TopicPartition(topic, name.partition)
        self._by_name[name] = fetched
        self.watch.add(name)

    def settled(self, fetched: FetchedPartition, *, sent: bool, settled: bool) -> None:
        """The partition was looked at: `sent` with data, and needing no look until it moves if
        `settled`."""
        if self._partitions.get(fetched.key) is not fetched:
            return
        if sent:
            self._turn += 1
            fetched.turn = self._turn
            self._partitions[fetched.key] = self._partitions.pop(fetched.key)
        if settled:
            self._unsettled.discard(fetched)
        else:
            self._unsettled.add(fetched)

    def due(self, now_ms: int, sweep_ms: int) -> list[FetchedPartition]:
        """The partitions a fetch must look at now, in the session's order."""
        self._note_moves()
        # All are looked at in the first fetch (which made the session), so that the sweep has the
        # whole of `sweep_ms` for its first round as for any other.
        count = len(self._partitions)
        share = count * (now_ms - self._swept_ms) // sweep_ms
        if share <= 0:
            return sorted(self._unsettled, key=_turn)
        # What is left of the time counts for the next share, else a sweep would take twice as long.
        self._swept_ms = now_ms if share >= count else self._swept_ms + share * sweep_ms // count
        due = set(self._unsettled)
        left = min(share, count)
        while left:
            if not self._sweep:
                self._sweep.extend(self._partitions)
            key = self._sweep.popleft()
            if (fetched := self._partitions.get(key)) is not None:
                due.add(fetched)
                left -= 1
        return sorted(due, key=_turn)

    def alone(
        self, key: PartitionKey, names: object, now_ms: int, sweep_ms: int
    ) -> FetchedPartition | None:
        """The partition of that key, if it is known by its name in the metadata picture `names` and
        no other than it is due; it is then. None otherwise, and `due` is to be asked."""
        fetched = self._partitions.get(key)
        if fetched is None or fetched.named_in is not names:
            return None
        self._note_moves()
        unsettled = self._unsettled
        if len(self._partitions) * (now_ms - self._swept_ms) >= sweep_ms or (
            unsettled and unsettled != {fetched}
        ):
            return None
        unsettled.add(fetched)
        return fetched

    def moved(self) -> list[FetchedPartition]:
        """Those that moved since anybody looked, in the session's order."""
        return sorted(self._note_moves(), key=_turn)

    def _note_moves(self) -> list[FetchedPartition]:
        # Unsettled until somebody says otherwise: a request that is cancelled between taking the
        # moves and answering must not take them along.
        moved = [self._by_name[n] for n in self.watch.take() if n in self._by_name]
        self._unsettled.update(moved)
        return moved

    def find(self, name: TopicPartition) -> FetchedPartition | None:
        """The partition of that name, if it is fetched here."""
        return self._by_name.get(name)

    def update(self, request: FetchRequest, topic_names: TopicNames) -> None:
        """Add or change what a request names, and drop what it forgets."""
        for topic, topic_key in _topics(request, self.uses_topic_ids):
            for wanted in topic.partitions:
                fetched = self._partitions.get((topic_key, wanted.partition))
                if fetched is None:
                    fetched = _fetched(topic, topic_key, wanted.partition, topic_names)
                    self._turn += 1
                    fetched.turn = self._turn
                    self._partitions[fetched.key] = fetched
                    if fetched.is_named:
                        self.named(fetched, fetched.topic_partition.topic)
                fetched.ask(wanted)
                self._unsettled.add(fetched)
        for forgotten in request.forgotten_topics_data:
            topic_key = forgotten.topic_id.int if self.uses_topic_ids else forgotten.topic
            for partition in forgotten.partitions:
                self._forget((topic_key, partition))

    def _forget(self, key: PartitionKey) -> None:
        dropped = self._partitions.pop(key, None)
        if dropped is None:
            return
        self._unsettled.discard(dropped)
        name = dropped.topic_partition
        if self._by_name.get(name) is dropped:
            del self._by_name[name]
            self.watch.discard(name)

    def check(self) -> None:
        """Assert that the indexes agree and that nothing unsettled was forgotten."""
        assert 1 <= self.epoch < 2**31, f"session epoch out of range: {self.epoch}"
        assert self._unsettled <= set(self._partitions.values())
        for name, fetched in self._by_name.items():
            assert fetched.topic_partition == name
            assert self._partitions[fetched.key] is fetched
        turns = [fetched.turn for fetched in self._partitions.values()]
        assert turns == sorted(turns), "session order and turns disagree"


def _turn(fetched: FetchedPartition) -> int:
    return fetched.turn


@attrs.define(eq=False, kw_only=True)
class FetchContext:
    """One Fetch request in the light of its session.

    `session` is set for an incremental fetch; a full one lists its partitions in `partitions` and
    may become a session when it is answered.
    """

    session: FetchSession | None
    partitions: dict[PartitionKey, FetchedPartition]
    expected_epoch: int = FINAL_EPOCH
    wants_session: bool = False
    privileged: bool = False
    uses_topic_ids: bool = False

    @property
    def incremental(self) -> bool:
        """Whether only changes are told."""
        return self.session is not None

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is asked for."""
        return not (self.partitions if self.session is None else len(self.session))

    def verdict(self) -> ErrorCode:
        """Whether the request is still the newest of its session: a client that lost its
        connection may have sent the next one on another while this one waited."""
        if self.session is not None and self.session.epoch != self.expected_epoch:
            return ErrorCode.INVALID_FETCH_SESSION_EPOCH
        return ErrorCode.NONE


@attrs.frozen(kw_only=True)
class FetchSessionStatistics:
    """The cache in numbers; `evictions` counts since the start."""

    sessions: int
    partitions: int
    evictions: int


class FetchSessions:
    """The sessions of one broker.

    `watch` makes a new `Watch`; a session owns its own and closes it when it goes. `rng` chooses
    session ids, which are unpredictable only so that two brokers' ids are not taken for each other.
    """

    def __init__(
        self,
        *,
        watch: Callable[[], Watch],
        rng: random.Random,
        slots: int = 1000,
        eviction_ms: int = EVICTION_MS,
        sweep_ms: int = SWEEP_MS,
    ) -> None:
        self._watch = watch
        self._rng = rng
        self._slots = slots
        self._eviction_ms = eviction_ms
        self.sweep_ms = sweep_ms
        # Least recently used first.
        self._sessions: dict[int, FetchSession] = {}
        self._evictions = 0

    def begin(
        self,
        request: FetchRequest,
        *,
        uses_topic_ids: bool,
        topic_names: TopicNames,
        privileged: bool,
        now_ms: int,
    ) -> FetchContext | ErrorCode:
        """What the request fetches; or why its session cannot be used, a top-level error."""
        session_id, epoch = request.session_id, request.session_epoch
        if epoch in (INITIAL_EPOCH, FINAL_EPOCH):
            if session_id != NO_SESSION:
                self._drop(session_id)
            partitions: dict[PartitionKey, FetchedPartition] = {}
            for topic, topic_key in _topics(request, uses_topic_ids):
                for wanted in topic.partitions:
                    fetched = _fetched(topic, topic_key, wanted.partition, topic_names)
                    fetched.ask(wanted)
                    partitions[fetched.key] = fetched
            return FetchContext(
                session=None,
                partitions=partitions,
                # A session for no partitions would be dropped at its first use.
                wants_session=epoch == INITIAL_EPOCH and bool(partitions),
                privileged=privileged,
                uses_topic_ids=uses_topic_ids,
            )

        session = self._sessions.get(session_id)
        if session is None:
            return ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        if session.uses_topic_ids != uses_topic_ids:
            return ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
        if session.epoch != epoch:
            return ErrorCode.INVALID_FETCH_SESSION_EPOCH
        session.update(request, topic_names)
        if not len(session):
            self._drop(session_id)
            return FetchContext(session=None, partitions={}, uses_topic_ids=uses_topic_ids)
        self._used(session, now_ms)
        return FetchContext(
            session=session,
            partitions={},
            expected_epoch=session.epoch,
            privileged=privileged,
            uses_topic_ids=uses_topic_ids,
        )

    def begin_alone(
        self, request: LoneFetch, names: object, now_ms: int
    ) -> tuple[FetchSession, FetchedPartition] | None:
        """As `begin` and `due`, for a request of one partition, where there is nothing else to look
        at. None, with nothing changed, where there is, or the session cannot be used."""
        session = self._sessions.get(request.session_id)
        if session is None or not session.uses_topic_ids or session.epoch != request.session_epoch:
            return None
        key = int.from_bytes(request.topic_id, "big"), request.partition
        fetched = session.alone(key, names, now_ms, self.sweep_ms)
        if fetched is None:
            return None
        fetched.ask(request)
        self._used(session, now_ms)
        return session, fetched

    def _used(self, session: FetchSession, now_ms: int) -> None:
        """A request was let in."""
        session.epoch = next_epoch(session.epoch)
        session.used_ms = now_ms
        self._sessions[session.session_id] = self._sessions.pop(session.session_id)

    def create(self, context: FetchContext, now_ms: int) -> FetchSession | None:
        """Make a full fetch that is being answered a session; None where there is no room."""
        assert context.session is None
        assert context.wants_session
        size = len(context.partitions)
        if not self._make_room(privileged=context.privileged, size=size, now_ms=now_ms):
            return None
        session_id = self._rng.randrange(1, 2**31)
        while session_id in self._sessions:
            session_id = self._rng.randrange(1, 2**31)
        session = FetchSession(
            session_id,
            privileged=context.privileged,
            uses_topic_ids=context.uses_topic_ids,
            partitions=context.partitions,
            watch=self._watch(),
            now_ms=now_ms,
        )
        self._sessions[session_id] = session
        return session

    def statistics(self) -> FetchSessionStatistics:
        """How full the cache is."""
        return FetchSessionStatistics(
            sessions=len(self._sessions),
            partitions=sum(len(session) for session in self._sessions.values()),
            evictions=self._evictions,
        )

    def check(self) -> None:
        """Assert what the module promises."""
        assert len(self._sessions) <= self._slots
        for session_id, session in self._sessions.items():
            assert session.session_id == session_id
            session.check()

    def _make_room(self, *, privileged: bool, size: int, now_ms: int) -> bool:
        if self._slots <= 0:
            return False
        if len(self._sessions) < self._slots:
            return True
        oldest = next(iter(self._sessions.values()))
        if now_ms - oldest.used_ms <= self._eviction_ms:
            # Only a full cache pays for this walk, and then once per session asked for.
            weakest = min(
                (s for s in self._sessions.values() if self._yields(s, privileged, now_ms)),
                key=lambda s: (s.privileged, len(s)),
                default=None,
            )
            if weakest is None or (weakest.privileged, len(weakest)) >= (privileged, size):
                return False
            oldest = weakest
        self._drop(oldest.session_id)
        self._evictions += 1
        return True

    def _yields(self, session: FetchSession, privileged: bool, now_ms: int) -> bool:
        if privileged and not session.privileged:
            return True
        return now_ms - session.created_ms > self._eviction_ms

    def _drop(self, session_id: int) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.watch.close()


def next_epoch(epoch: int) -> int:
    """The session epoch after `epoch`: 0 and -1 have meanings of their own and are skipped."""
    return 1 if epoch >= 2**31 - 1 else epoch + 1


def _topics(request: FetchRequest, uses_topic_ids: bool) -> Iterator[tuple[FetchTopic, int | str]]:
    """What a request names, each topic with its part of the partitions' keys."""
    for topic in request.topics:
        yield topic, topic.topic_id.int if uses_topic_ids else topic.topic


def _fetched(
    topic: FetchTopic, topic_key: int | str, partition: int, topic_names: TopicNames
) -> FetchedPartition:
    by_id = isinstance(topic_key, int)
    name = topic_names(topic.topic_id) if by_id else topic.topic
    return FetchedPartition(
        key=(topic_key, partition),
        topic_partition=TopicPartition(name or UNNAMED, partition),
        topic_id=topic.topic_id if by_id else NULL_UUID,
    )
