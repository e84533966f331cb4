"""Where two logs part: how far a follower cuts its own log back.

A follower asks its leader for records after the last batch it holds, naming that batch's leader
epoch. If the leader's log has no such place (the epoch ended earlier there, or never was), it
answers with the end of the largest epoch it has that is not larger: the *diverging epoch*. Up to
there at most the logs can agree.

- We have that epoch too: it ends at the smaller of the two ends. There the logs agree, since one
  leader wrote each epoch and offsets within it are assigned once.
- We do not have it: our largest epoch below it ends where ours goes on with something the leader
  does not have. Cut there, and ask again with what is then the last epoch. Each round drops at
  least one epoch, so the rounds end (KIP-279: fast leader fail-overs).
- We know no epochs at all: the leader's word is all there is.

A leader that lost the place the follower asks for (OFFSET_OUT_OF_RANGE) gives no epoch. Then its
log ends below ours (an unclean election) or begins above it (retention): `resume_out_of_range`.

Cuts go through the high watermark only if what was acknowledged is already lost, that is, after an
unclean election.

Sources: KIP-101, KIP-279, KIP-320, KIP-595 (diverging epoch in Fetch); Kafka's
`AbstractFetcherThread`.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from zkafka.model import NO_EPOCH, EpochEndOffset, LeaderEpoch, Offset


class Epochs(Protocol):
    """What is asked of an epoch cache; satisfied by `log.epochs.EpochCache`."""

    def end_offset_for(self, leader_epoch: LeaderEpoch, log_end_offset: Offset) -> EpochEndOffset:
        """The end of `leader_epoch`, or of the largest epoch below it."""


class EpochTable(Epochs, Protocol):
    """And of one that is looked through."""

    @property
    def entries(self) -> Sequence[tuple[LeaderEpoch, Offset]]:
        """All (epoch, start offset), rising."""


def common_end(ours: EpochTable, our_end: Offset, theirs: EpochTable, their_end: Offset) -> Offset:
    """Up to where two logs of one partition agree, as far as their epochs can tell; 0 if they
    share none. Both are at hand, so that no rounds are needed."""
    known = {epoch for epoch, _ in theirs.entries}
    for epoch, _ in reversed(ours.entries):
        if epoch in known:
            return min(
                ours.end_offset_for(epoch, our_end).end_offset,
                theirs.end_offset_for(epoch, their_end).end_offset,
            )
    return 0


@attrs.frozen
class TruncateTo:
    """Cut the log so that it ends at `offset`, then fetch from its end."""

    offset: Offset


@attrs.frozen
class RestartAt:
    """Drop the whole log and begin an empty one at `offset`: the leader has nothing below."""

    offset: Offset


def truncation_point(
    epochs: Epochs, log_end_offset: Offset, diverging: EpochEndOffset
) -> TruncateTo:
    """How far to cut a log whose leader answered `diverging`.

    Holds: `0 <= offset <= log_end_offset`.
    """
    assert diverging.end_offset >= 0, "a divergence has a place"
    assert diverging.leader_epoch != NO_EPOCH, "a divergence has an epoch"
    ours = epochs.end_offset_for(diverging.leader_epoch, log_end_offset)
    if ours.leader_epoch == diverging.leader_epoch:
        offset = min(ours.end_offset, diverging.end_offset, log_end_offset)
    elif ours.end_offset >= 0:
        # Our epoch below theirs. The leader's answer bounds the cut too, but is not needed: the
        # next round asks with this smaller epoch, and gets its end over there.
        offset = min(ours.end_offset, log_end_offset)
    else:
        offset = min(diverging.end_offset, log_end_offset)
    assert 0 <= offset <= log_end_offset
    return TruncateTo(offset)


def resume_out_of_range(
    log_end_offset: Offset, leader_start_offset: Offset, leader_end_offset: Offset
) -> TruncateTo | RestartAt:
    """Where to go on when the leader has nothing at our log end.

    `TruncateTo(log_end_offset)` cuts nothing: the leader has caught up with us meanwhile.
    """
    assert leader_start_offset <= leader_end_offset
    if leader_end_offset < log_end_offset:
        return TruncateTo(leader_end_offset)
    if leader_start_offset > log_end_offset:
        return RestartAt(leader_start_offset)
    return TruncateTo(log_end_offset)
