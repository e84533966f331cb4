"""Leader epochs: what two logs compare to find where they part. Cases of KIP-101 and KIP-279."""

import pytest

from zkafka.log.checkpoint import CheckpointDamaged, format_epochs, parse_epochs
from zkafka.log.epochs import EpochCache
from zkafka.model import UNDEFINED_EPOCH_END


def cache(*entries):
    return EpochCache(entries)


def test_an_epoch_ends_where_the_next_one_known_begins():
    epochs = cache((2, 0), (4, 10), (7, 25))
    assert epochs.end_offset_for(2, 40) == (2, 10)
    assert epochs.end_offset_for(4, 40) == (4, 25)


def test_the_latest_epoch_ends_at_the_log_end():
    assert cache((2, 0), (4, 10)).end_offset_for(4, 40) == (4, 40)


def test_an_epoch_not_here_is_answered_by_the_largest_below_it():
    # KIP-279: the follower then knows that it has to go below what it asked for.
    assert cache((2, 0), (4, 10), (7, 25)).end_offset_for(6, 40) == (4, 25)


def test_an_epoch_newer_than_all_known_or_none_is_undefined():
    epochs = cache((2, 0), (4, 10))
    assert epochs.end_offset_for(5, 40) == UNDEFINED_EPOCH_END
    assert epochs.end_offset_for(-1, 40) == UNDEFINED_EPOCH_END
    assert cache().end_offset_for(0, 0) == UNDEFINED_EPOCH_END


def test_an_epoch_older_than_all_known_ended_where_the_log_now_begins():
    assert cache((4, 10), (7, 25)).end_offset_for(1, 40) == (1, 10)


def test_assigning_the_latest_epoch_again_changes_nothing():
    epochs = cache((1, 0))
    before = epochs.entries
    epochs.assign(1, 7)
    assert epochs.entries is before
    assert epochs.latest == 1


def test_assigning_forgets_what_it_contradicts():
    epochs = cache((1, 0), (3, 10), (5, 20))
    epochs.assign(4, 15)
    assert epochs.entries == ((1, 0), (3, 10), (4, 15))
    epochs.assign(6, 15)  # The leader of 4 wrote nothing.
    assert epochs.entries == ((1, 0), (3, 10), (6, 15))


def test_cutting_the_end_forgets_epochs_that_begin_there():
    epochs = cache((1, 0), (3, 10), (5, 20))
    epochs.truncate_from_end(10)
    assert epochs.entries == ((1, 0),)


def test_cutting_the_start_keeps_the_epoch_in_which_the_log_now_begins():
    epochs = cache((1, 0), (3, 10), (5, 20))
    epochs.truncate_from_start(12)
    assert epochs.entries == ((3, 12), (5, 20))
    epochs.truncate_from_start(20)
    assert epochs.entries == ((5, 20),)
    epochs.truncate_from_start(99)
    assert epochs.entries == ((5, 99),)


def test_the_epoch_of_an_offset():
    epochs = cache((1, 5), (3, 10))
    assert [epochs.epoch_of(offset) for offset in (4, 5, 9, 10, 99)] == [-1, 1, 1, 3, 3]


def test_it_is_dirty_until_what_it_is_now_was_saved():
    epochs = cache((1, 0))
    assert not epochs.dirty
    epochs.assign(2, 5)
    entries = epochs.entries
    epochs.assign(3, 8)
    epochs.saved(entries)
    assert epochs.dirty
    epochs.saved(epochs.entries)
    assert not epochs.dirty


def test_the_checkpoint_is_kafkas():
    assert format_epochs([(0, 0), (3, 120)]) == b"0\n2\n0 0\n3 120\n"
    assert parse_epochs(b"0\n2\n0 0\n3 120\n", "f") == [(0, 0), (3, 120)]


@pytest.mark.parametrize(
    "data",
    [
        b"1\n0\n",
        b"0\n2\n0 0\n",
        b"0\n1\nzero 0\n",
        b"0\n1\n1 2 3\n",
        b"\xff",
        b"0\n",
        b"0\n2\n3 0\n3 5\n",
        b"0\n2\n3 5\n4 5\n",
        b"0\n1\n-1 0\n",
        b"0\n1\n1 \xd9\xa1\n",
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(data):
    with pytest.raises(CheckpointDamaged, match=r"leader-epoch"):
        parse_epochs(data, "/d/leader-epoch-checkpoint")
