"""Kafka's election rules, row by row."""

from hypothesis import given
from hypothesis import strategies as st

from zkafka.controller.election import (
    Election,
    elect_for_shutdown,
    elect_offline,
    elect_preferred,
)

ids = st.lists(st.integers(1, 6), unique=True, max_size=6)


def test_offline_takes_the_first_assigned_replica_that_is_live_and_in_sync():
    assert elect_offline([1, 2, 3], [3, 2], {2, 3}, unclean_allowed=False) == Election(2, (3, 2))


def test_offline_filters_the_isr_to_those_alive():
    assert elect_offline([1, 2, 3], [1, 2, 3], {2}, unclean_allowed=False) == Election(2, (2,))


def test_offline_without_a_live_isr_member_elects_nobody_unless_allowed():
    assert elect_offline([1, 2], [1], {2}, unclean_allowed=False) is None
    assert elect_offline([1, 2], [1], {2}, unclean_allowed=True) == Election(2, (2,), unclean=True)


def test_an_allowed_unclean_election_is_still_clean_where_it_can_be():
    elected = elect_offline([1, 2, 3], [3], {1, 3}, unclean_allowed=True)
    assert elected == Election(3, (3,), unclean=False)


def test_preferred_is_the_first_replica_or_nobody():
    assert elect_preferred([1, 2], [2, 1], {1, 2}) == Election(1, (2, 1))
    assert elect_preferred([1, 2], [2], {1, 2}) is None
    assert elect_preferred([1, 2], [1, 2], {2}) is None


def test_shutdown_elects_one_that_stays_and_drops_all_that_leave():
    assert elect_for_shutdown([1, 2, 3], [1, 2, 3], {1, 2, 3}, {1, 2}) == Election(3, (3,))
    assert elect_for_shutdown([1, 2], [1], {1, 2}, {1}) is None


@given(replicas=ids, isr=ids, live=ids, unclean=st.booleans())
def test_a_leader_is_live_assigned_and_in_the_new_isr(replicas, isr, live, unclean):
    election = elect_offline(replicas, isr, live, unclean_allowed=unclean)
    if election is None:
        assert unclean is False or not set(replicas) & set(live)
        assert not set(replicas) & set(live) & set(isr)
        return
    assert election.leader in live
    assert election.leader in replicas
    assert election.leader in election.isr
    assert election.unclean == (election.leader not in isr)
    if not election.unclean:
        assert set(election.isr) <= set(isr) & set(live)
