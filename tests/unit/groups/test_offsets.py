import pytest

from zkafka.groups.offsets import CommittedOffsets, GroupLife, metadata_fits
from zkafka.groups.records import OffsetValue
from zkafka.model import TopicPartition

A0 = TopicPartition("a", 0)
A1 = TopicPartition("a", 1)
B0 = TopicPartition("b", 0)
DAY = 86_400_000
WEEK = 7 * DAY

SIMPLE = GroupLife(is_empty=True, is_stable=False, protocol_type=None)


def value(offset, *, at=0, expires=-1):
    return OffsetValue(offset=offset, metadata="", commit_timestamp=at, expire_timestamp=expires)


def consumers(*topics, stable=True):
    return GroupLife(
        is_empty=False,
        is_stable=stable,
        protocol_type="consumer",
        subscribed_topics=frozenset(topics),
    )


def emptied(at):
    return GroupLife(
        is_empty=True, is_stable=False, protocol_type="consumer", empty_since_ms=at,
        subscribed_topics=frozenset(),
    )  # fmt: skip


@pytest.fixture
def offsets():
    return CommittedOffsets()


def test_the_last_commit_in_the_log_counts(offsets):
    offsets.replay(A0, value(1), 10)
    offsets.replay(A0, value(2), 11)
    assert offsets.get(A0).offset == 2
    assert offsets.get(A1) is None
    assert (len(offsets), bool(offsets)) == (1, True)
    offsets.check()


def test_a_commit_may_go_back(offsets):
    offsets.replay(A0, value(9), 10)
    offsets.replay(A0, value(1), 11)
    assert offsets.get(A0).offset == 1


def test_a_tombstone_forgets(offsets):
    offsets.replay(A0, value(1), 10)
    offsets.replay(A0, None, 11)
    assert not offsets
    offsets.replay(A0, None, 12)
    assert not offsets


def test_a_transactional_commit_waits_for_its_end(offsets):
    offsets.replay(A0, value(1), 10)
    offsets.replay(A0, value(2), 11, 77)
    assert offsets.get(A0).offset == 1
    assert offsets.is_pending(A0)
    assert not offsets.is_pending(A1)
    offsets.end_transaction(77, committed=True)
    assert offsets.get(A0).offset == 2
    assert not offsets.is_pending(A0)


def test_an_aborted_commit_never_happened(offsets):
    offsets.replay(A0, value(2), 11, 77)
    assert offsets
    assert offsets.has_transactions
    offsets.end_transaction(77, committed=False)
    assert not offsets


def test_of_competing_commits_the_one_further_down_the_log_wins(offsets):
    offsets.replay(A0, value(1), 10, 77)
    offsets.replay(A0, value(2), 11)
    offsets.end_transaction(77, committed=True)
    assert offsets.get(A0).offset == 2


def test_two_transactions_are_kept_apart(offsets):
    offsets.replay(A0, value(1), 10, 77)
    offsets.replay(A0, value(2), 11, 78)
    offsets.end_transaction(78, committed=False)
    offsets.end_transaction(77, committed=True)
    assert offsets.get(A0).offset == 1


def test_a_tombstone_takes_undecided_commits_along(offsets):
    offsets.replay(A0, value(1), 10, 77)
    offsets.replay(A0, None, 11)
    offsets.end_transaction(77, committed=True)
    assert not offsets
    offsets.check()


def test_the_end_of_an_unknown_transaction_is_nothing(offsets):
    offsets.end_transaction(5, committed=True)
    assert not offsets


def test_partitions_are_told_in_order_undecided_ones_included(offsets):
    offsets.replay(B0, value(1), 1)
    offsets.replay(A1, value(1), 2)
    offsets.replay(A0, value(1), 3, 77)
    assert offsets.partitions() == [A0, A1, B0]
    assert offsets.of_topics({"a"}) == [A0, A1]
    assert list(offsets) == [B0, A1]


# Expiry: the table of semantics, row by row.


@pytest.mark.parametrize(
    ("group", "commit", "now", "expired"),
    [
        # A group that never had members: from the commit on.
        (SIMPLE, value(1, at=DAY), DAY + WEEK - 1, False),
        (SIMPLE, value(1, at=DAY), DAY + WEEK, True),
        # An empty group: from when it became empty.
        (emptied(at=2 * DAY), value(1, at=DAY), DAY + WEEK, False),
        (emptied(at=2 * DAY), value(1, at=DAY), 2 * DAY + WEEK, True),
        (emptied(at=None), value(1, at=DAY), DAY + WEEK, True),
        # A stable group of consumers: only topics that nobody subscribes to.
        (consumers("b"), value(1, at=DAY), DAY + WEEK, True),
        (consumers("b"), value(1, at=DAY), DAY + WEEK - 1, False),
        (consumers("a"), value(1, at=DAY), DAY + WEEK, False),
        # Any other: never.
        (consumers("b", stable=False), value(1, at=DAY), DAY + 9 * WEEK, False),
        # Its own expiry overrides, both ways.
        (SIMPLE, value(1, at=DAY, expires=2 * DAY), 2 * DAY - 1, False),
        (SIMPLE, value(1, at=DAY, expires=2 * DAY), 2 * DAY, True),
        (SIMPLE, value(1, at=DAY, expires=9 * WEEK), DAY + WEEK, False),
        (emptied(at=DAY), value(1, at=DAY, expires=9 * WEEK), 5 * WEEK, False),
        (consumers("a"), value(1, at=DAY, expires=2 * DAY), 3 * DAY, False),
    ],
)
def test_offsets_expire_when_it_is_time(offsets, group, commit, now, expired):
    offsets.replay(A0, commit, 1)
    found = offsets.expired(group, now_ms=now, retention_ms=WEEK)
    assert found == ([A0] if expired else [])


@pytest.mark.parametrize(
    "group",
    [
        GroupLife(is_empty=False, is_stable=True, protocol_type="consumer"),
        GroupLife(is_empty=False, is_stable=True, protocol_type="connect"),
    ],
)
def test_while_subscriptions_cannot_be_read_nothing_expires(offsets, group):
    offsets.replay(A0, value(1), 1)
    assert offsets.expired(group, now_ms=9 * WEEK, retention_ms=WEEK) == []


def test_a_partition_with_a_commit_on_its_way_does_not_expire(offsets):
    offsets.replay(A0, value(1), 1)
    offsets.replay(A1, value(1), 2)
    found = offsets.expired(SIMPLE, now_ms=9 * WEEK, retention_ms=WEEK, busy={A0})
    assert found == [A1]


@pytest.mark.parametrize(
    ("metadata", "limit", "fits"),
    [
        (None, 0, True),
        ("", 0, True),
        ("x", 0, False),
        ("é" * 4096, 4096, True),
        ("é" * 4097, 4096, False),
        ("é" * 20_000, 100_000, False),
        ("x" * 32_767, 100_000, True),
    ],
)
def test_metadata_fits_by_characters_and_by_what_a_record_can_hold(metadata, limit, fits):
    assert metadata_fits(metadata, limit) is fits
