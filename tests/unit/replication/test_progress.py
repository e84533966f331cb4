import pytest

from zkafka.replication.progress import Progress

LAG_MS = 30_000


@pytest.fixture
def follower():
    return Progress(2)


def fetch(progress, offset, end, now_ms, *, epoch=100):
    progress.fetched(offset, 0, end, epoch, now_ms)


def test_nobody_is_caught_up_before_the_first_fetch(follower):
    assert not follower.is_caught_up(0, 0, LAG_MS)
    assert follower.lag(10) == 10


def test_a_follower_at_the_leaders_end_is_caught_up_now(follower):
    fetch(follower, 10, 10, 1000)
    assert follower.caught_up_ms == 1000
    assert follower.is_caught_up(15, 1000 + LAG_MS, LAG_MS)
    assert not follower.is_caught_up(15, 1001 + LAG_MS, LAG_MS)


def test_a_follower_at_the_end_stays_caught_up_however_long_ago(follower):
    fetch(follower, 10, 10, 0)
    assert follower.is_caught_up(10, 100 * LAG_MS, LAG_MS)


def test_reaching_the_end_of_the_previous_fetch_counts_as_caught_up_then(follower):
    fetch(follower, 5, 10, 1000)
    assert follower.caught_up_ms is None
    fetch(follower, 10, 20, 2000)
    assert follower.caught_up_ms == 1000
    fetch(follower, 15, 30, 3000)
    assert follower.caught_up_ms == 1000, "it did not reach 20"
    assert follower.lag(30) == 15


def test_the_time_of_being_caught_up_never_goes_back(follower):
    fetch(follower, 10, 10, 1000)
    fetch(follower, 10, 15, 1500)
    fetch(follower, 15, 20, 2000)
    assert follower.caught_up_ms == 1500
    follower.caught_up_ms = 1900
    fetch(follower, 20, 30, 2500)
    assert follower.caught_up_ms == 2000


def test_an_older_registration_is_stale_and_an_unknown_one_is_not(follower):
    fetch(follower, 0, 0, 0, epoch=50)
    assert follower.is_stale(49)
    assert not follower.is_stale(50)
    assert not follower.is_stale(-1)
    fetch(follower, 0, 0, 0, epoch=-1)
    assert follower.broker_epoch == 50


def test_a_new_leadership_gives_those_in_sync_the_benefit_of_the_doubt(follower):
    fetch(follower, 10, 10, 1000)
    follower.start_epoch(in_sync=True, new_leader=True, leader_end_offset=10, now_ms=5000)
    assert follower.log_end_offset == -1
    assert follower.is_caught_up(10, 5000 + LAG_MS, LAG_MS)
    follower.start_epoch(in_sync=False, new_leader=True, leader_end_offset=10, now_ms=6000)
    assert not follower.is_caught_up(10, 6000, LAG_MS)


def test_a_retained_leadership_keeps_the_offset(follower):
    fetch(follower, 7, 10, 1000)
    follower.start_epoch(in_sync=True, new_leader=False, leader_end_offset=10, now_ms=5000)
    assert follower.log_end_offset == 7
    assert follower.broker_epoch == 100


def test_a_follower_cannot_have_more_than_its_leader(follower):
    with pytest.raises(AssertionError):
        fetch(follower, 11, 10, 0)
