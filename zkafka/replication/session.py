"""The follower's half of an incremental fetch session (KIP-227).

A leader remembers, per session, which partitions are fetched from where. A follower of thousands of
partitions then sends and receives only what changed; an idle one costs nothing.

    (id, epoch)      the request
    (0, 0)           everything; please open a session
    (id, n)          what changed since n - 1: listed anew, or forgotten
    (id, 0)          everything; close that session and open another

Law: after `next_request`, `told` is what the leader's session holds once it has the request. What
was answered is judged against it: it is the position that the answer is for.

A leader that refuses a session answers id 0. Then every request lists everything, and partitions
that returned data go to the end of the list, so that a busy one cannot starve the others: the
leader fills its answer in the order of the list. (In a session the leader does the rotating.)
"""

import uuid
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from zkafka.errors import ErrorCode
from zkafka.model import LeaderEpoch, Offset, TopicPartition

_LAST_EPOCH = 2**31 - 1


class FetchPosition(NamedTuple):
    """From where a partition is fetched, in which epoch; what a Fetch says of it."""

    topic_id: uuid.UUID
    leader_epoch: LeaderEpoch
    fetch_offset: Offset
    last_fetched_epoch: LeaderEpoch
    log_start_offset: Offset


@attrs.frozen
class SessionRequest:
    """What the next Fetch carries: `listed` in order, and `forgotten` with their topic ids."""

    session_id: int
    epoch: int
    listed: Mapping[TopicPartition, FetchPosition]
    forgotten: Mapping[TopicPartition, uuid.UUID]


class FetchSession:
    """What a follower wants of one leader, and what it has told it. One request at a time."""

    def __init__(self) -> None:
        self._id = 0
        self._epoch = 0
        self._wanted: dict[TopicPartition, FetchPosition] = {}
        self._told: dict[TopicPartition, FetchPosition] = {}
        # Differences between the two, so that a request costs what changed.
        self._changed: dict[TopicPartition, None] = {}
        self._dropped: dict[TopicPartition, uuid.UUID] = {}

    @property
    def wanted(self) -> Mapping[TopicPartition, FetchPosition]:
        """What is to be fetched."""
        return self._wanted

    @property
    def told(self) -> Mapping[TopicPartition, FetchPosition]:
        """What the leader was told to send."""
        return self._told

    def want(self, tp: TopicPartition, position: FetchPosition) -> None:
        """Fetch `tp` from `position` from now on."""
        if self._wanted.get(tp) != position:
            self._wanted[tp] = position
            self._changed[tp] = None
            told = self._told.get(tp)
            if told is not None and told.topic_id.int != position.topic_id.int:
                self._dropped[tp] = told.topic_id

    def drop(self, tp: TopicPartition) -> None:
        """Fetch `tp` no more, until it is wanted again."""
        if self._wanted.pop(tp, None) is not None:
            self._changed.pop(tp, None)
            told = self._told.get(tp)
            if told is not None:
                self._dropped[tp] = told.topic_id

    def to_end(self, tp: TopicPartition) -> None:
        """`tp` had its turn: where order is ours to choose, the others come first."""
        position = self._wanted.pop(tp, None)
        if position is not None:
            self._wanted[tp] = position

    def next_request(self) -> SessionRequest:
        """What to send now; from here on it counts as told."""
        if not self._epoch:
            listed = dict(self._wanted)
            forgotten = {}
            self._told = dict(listed)
        else:
            listed = {tp: self._wanted[tp] for tp in self._changed}
            forgotten = {tp: topic_id for tp, topic_id in self._dropped.items() if tp not in listed}
            for tp, topic_id in self._dropped.items():
                # Dropped and wanted again in between is a change; but a topic created anew under
                # its old name is another partition to the session.
                if tp in listed and listed[tp].topic_id != topic_id:
                    forgotten[tp] = topic_id
            for tp in forgotten:
                self._told.pop(tp, None)
            self._told.update(listed)
        self._changed.clear()
        self._dropped.clear()
        return SessionRequest(self._id, self._epoch, listed, forgotten)

    def answered(self, session_id: int) -> None:
        """The leader answered, without a top-level error, in this session."""
        if self._epoch:
            self._epoch = 1 if self._epoch == _LAST_EPOCH else self._epoch + 1
        else:
            self._id = session_id
            self._epoch = 1 if session_id else 0

    def refused(self, error: ErrorCode) -> None:
        """The leader answered with a top-level error: begin anew."""
        self._epoch = 0
        if error is ErrorCode.FETCH_SESSION_ID_NOT_FOUND:
            self._id = 0

    def lost(self) -> None:
        """No answer came. Whether the leader saw the request is unknown: begin anew, and have the
        old session closed."""
        self._epoch = 0
