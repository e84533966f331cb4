"""Placement compared with the outcomes of Kafka's own algorithm."""

import collections
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkafka.controller.placement import alternate_racks, place, start_index_for
from zkafka.errors import ApiError, ErrorCode

RACKS = {0: "rack1", 1: "rack3", 2: "rack3", 3: "rack2", 4: "rack2", 5: "rack1"}


def test_ten_partitions_on_five_brokers_as_kafka_places_them():
    """The table in the comment of Kafka's AdminUtils."""
    placed = place(
        dict.fromkeys(range(5)),
        partitions=10,
        replication_factor=3,
        rng=random.Random(0),
        start_index=0,
    )
    assert placed == {
        0: (0, 1, 2),
        1: (1, 2, 3),
        2: (2, 3, 4),
        3: (3, 4, 0),
        4: (4, 0, 1),
        5: (0, 2, 3),
        6: (1, 3, 4),
        7: (2, 4, 0),
        8: (3, 0, 1),
        9: (4, 1, 2),
    }


def test_brokers_alternate_over_racks():
    assert alternate_racks(RACKS) == [0, 3, 1, 5, 4, 2]
    assert alternate_racks({b: r for b, r in RACKS.items() if b != 5}) == [0, 3, 1, 4, 2]


def test_rack_aware_placement_as_kafka_places_it():
    """The outcome stated in Kafka's AdminUtilsTest for the same racks."""
    placed = place(RACKS, partitions=7, replication_factor=3, rng=random.Random(0), start_index=0)
    assert placed == {
        0: (0, 3, 1),
        1: (3, 1, 5),
        2: (1, 5, 4),
        3: (5, 4, 2),
        4: (4, 2, 0),
        5: (2, 0, 3),
        6: (0, 4, 2),
    }


def test_added_partitions_continue_where_the_first_ones_would_have_gone():
    """With one start index, placing 4 then 6 more is placing 10, up to the shift's own growth."""
    live = dict.fromkeys(range(5))
    everything = place(
        live, partitions=5, replication_factor=2, rng=random.Random(0), start_index=2
    )
    first = place(live, partitions=2, replication_factor=2, rng=random.Random(0), start_index=2)
    rest = place(
        live,
        partitions=3,
        replication_factor=2,
        rng=random.Random(0),
        first_partition=2,
        start_index=start_index_for(first[0][0], live),
    )
    assert {**first, **rest} == everything


def test_start_index_of_a_broker_that_is_gone_is_the_next_one():
    assert start_index_for(2, {1: None, 2: None, 3: None}) == 1
    assert start_index_for(2, {1: None, 3: None}) == 1
    assert start_index_for(9, {1: None, 3: None}) == 0


@pytest.mark.parametrize(
    ("live", "partitions", "factor", "code"),
    [
        ({1: None}, 0, 1, ErrorCode.INVALID_PARTITIONS),
        ({1: None}, 1, 0, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({1: None}, 1, 2, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({}, 1, 1, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({1: "a", 2: None}, 1, 1, ErrorCode.UNKNOWN_SERVER_ERROR),
    ],
)
def test_impossible_placements_are_refused(live, partitions, factor, code):
    with pytest.raises(ApiError) as refused:
        place(live, partitions=partitions, replication_factor=factor, rng=random.Random(0))
    assert refused.value.code is code


@given(
    st.dictionaries(st.integers(0, 30), st.sampled_from(["a", "b", "c"]), min_size=1, max_size=9),
    st.booleans(),
    st.integers(1, 30),
    st.data(),
)
def test_placement_spreads_leaders_replicas_and_racks(racks, with_racks, partitions, data):
    live = racks if with_racks else dict.fromkeys(racks)
    factor = data.draw(st.integers(1, len(live)))
    placed = place(
        live,
        partitions=partitions,
        replication_factor=factor,
        rng=random.Random(data.draw(st.integers(0, 99))),
    )
    assert sorted(placed) == list(range(partitions))
    leaders = collections.Counter(replicas[0] for replicas in placed.values())
    assert max(leaders.values()) - min(leaders[b] for b in live) <= 1
    for replicas in placed.values():
        assert len(set(replicas)) == factor
        assert set(replicas) <= live.keys()
        if with_racks:
            rack_count = len(set(racks.values()))
            assert len({racks[r] for r in replicas}) == min(factor, rack_count)
