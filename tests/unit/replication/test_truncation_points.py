"""How far to cut: the cases one by one, and any two histories that share a beginning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkafka.log.epochs import EpochCache
from zkafka.model import EpochEndOffset
from zkafka.replication.truncation import (
    RestartAt,
    TruncateTo,
    resume_out_of_range,
    truncation_point,
)


@pytest.mark.parametrize(
    ("epochs", "end", "diverging", "cut"),
    [
        # Both have the epoch: the smaller of its two ends.
        ([(0, 0)], 10, (0, 7), 7),
        ([(0, 0), (2, 5)], 10, (0, 7), 5),
        ([(0, 0), (2, 5)], 10, (0, 3), 3),
        # Only the leader has it: the end of ours below it.
        ([(0, 0), (3, 6)], 10, (2, 8), 6),
        ([(0, 0), (1, 4), (3, 6)], 10, (2, 8), 6),
        # All of ours are newer: nothing agrees, and the leader's end bounds it.
        ([(4, 2)], 10, (3, 8), 2),
        ([(4, 2)], 10, (3, 1), 1),
        # We know no epochs: the leader's word.
        ([], 10, (3, 8), 8),
        ([], 10, (3, 12), 10),
        # Ours are all older than the epoch the leader names.
        ([(0, 0)], 10, (3, 8), 8),
    ],
)
def test_the_cut(epochs, end, diverging, cut):
    assert truncation_point(EpochCache(epochs), end, EpochEndOffset(*diverging)) == TruncateTo(cut)


@pytest.mark.parametrize(
    ("end", "leader_start", "leader_end", "place"),
    [
        (10, 0, 7, TruncateTo(7)),
        (10, 12, 20, RestartAt(12)),
        (10, 5, 20, TruncateTo(10)),
        (10, 10, 20, TruncateTo(10)),
        (10, 0, 10, TruncateTo(10)),
    ],
)
def test_the_place_to_resume(end, leader_start, leader_end, place):
    assert resume_out_of_range(end, leader_start, leader_end) == place


Log = list[int]
"""The epoch of the record at each offset: with one leader per epoch, there is no more to know."""


def cache(log: Log) -> EpochCache:
    entries = EpochCache()
    for offset, epoch in enumerate(log):
        entries.assign(epoch, offset)
    return entries


@st.composite
def histories(draw):
    """A leader's and a follower's log that may have come from leaders who came and went.

    The follower's tail and the leader's tail have no epoch in common: each epoch had one leader,
    and whoever has a record of it, has all of it below.
    """
    epochs = st.integers(0, 4)
    shared = sorted(draw(st.lists(epochs, max_size=8)))
    latest = shared[-1] if shared else 0
    later = draw(st.permutations(range(latest + 1, latest + 9)))
    ours = sorted(draw(st.lists(st.sampled_from(later[:4]), max_size=8)))
    theirs = sorted(draw(st.lists(st.sampled_from(later[4:]), max_size=8)))
    # The one that went on in the last shared epoch, if any: not both.
    goes_on = [latest] * draw(st.integers(0, 4)) if shared else []
    if draw(st.booleans()):
        return shared + theirs, shared + goes_on + ours, len(shared)
    return shared + goes_on + theirs, shared + ours, len(shared)


@given(histories())
def test_any_two_logs_meet_where_they_parted_within_a_round_per_epoch(history):
    leader, follower, parted = history
    leader_epochs = cache(leader)
    # A leader notes its own epoch when it is elected.
    leader_epochs.assign(max([*leader, *follower, 0]) + 1, len(leader))
    log = list(follower)
    for _ in range(len(set(follower)) + 1):
        epochs = cache(log)
        if not log:
            break
        last = epochs.latest
        there = leader_epochs.end_offset_for(last, len(leader))
        if not (there.leader_epoch < last or there.end_offset < len(log)):
            break
        cut = truncation_point(epochs, len(log), there)
        assert cut.offset < len(log), "each round removes something"
        log = log[: cut.offset]
    assert log == leader[: len(log)], "what is left agrees"
    assert len(log) >= parted, "and nothing that agreed was cut"
