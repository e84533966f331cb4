"""Which log is compacted, how far, in which pieces."""

import attrs
import pytest

from zkafka.config import LogConfig
from zkafka.log.cleaner_choice import SEGMENTS_PER_GROUP, Dirt, dirt_in, grouped

NOW = 1_000_000
CONFIG = LogConfig(cleanup_policy=("compact",), segment_bytes=1000, segment_index_bytes=100)


@attrs.define
class Segment:
    base_offset: int
    size: int = 100
    retention_timestamp: int = 0
    first_timestamp: int = 0
    index_sizes: tuple[int, int] = (8, 12)


SEGMENTS = [Segment(base) for base in (0, 10, 20, 30, 40)]


def dirt(segments=SEGMENTS, *, start=0, stable_end=100, **config):
    return dirt_in(
        segments,
        start=start,
        stable_end=stable_end,
        now_ms=NOW,
        config=attrs.evolve(CONFIG, **config),
    )


@pytest.mark.parametrize(
    ("start", "stable_end", "bound", "clean_bytes", "dirty_bytes"),
    [
        (0, 100, 40, 0, 400),
        (20, 100, 40, 200, 200),
        # Inside a segment: that one counts on both sides, as in Kafka.
        (25, 100, 40, 300, 200),
        (0, 40, 40, 0, 400),
        (0, 39, 30, 0, 300),
        (0, 30, 30, 0, 300),
        (20, 29, 20, 200, 0),
        (25, 29, 25, 300, 0),
        (40, 100, 40, 400, 0),
        (47, 100, 47, 400, 0),
        (0, 5, 0, 0, 0),
    ],
)
def test_the_dirty_part(start, stable_end, bound, clean_bytes, dirty_bytes):
    found = dirt(start=start, stable_end=stable_end)
    assert (found.start, found.bound) == (start, bound)
    assert (found.clean_bytes, found.dirty_bytes) == (clean_bytes, dirty_bytes)


def test_one_active_segment_is_never_dirty():
    found = dirt([Segment(0)], stable_end=50)
    assert (found.bound, found.dirty_bytes, found.ratio) == (0, 0, 0)


def test_what_is_younger_than_the_lag_is_not_cleaned():
    segments = [Segment(base, retention_timestamp=NOW - 100 + base) for base in (0, 10, 20, 30)]
    assert dirt(segments, min_compaction_lag_ms=85).bound == 20
    assert dirt(segments, min_compaction_lag_ms=100).bound == 10
    assert dirt(segments, min_compaction_lag_ms=101).dirty_bytes == 0
    assert dirt(segments, min_compaction_lag_ms=0).bound == 30


def test_what_was_clean_already_does_not_count_as_too_young():
    segments = [Segment(base, retention_timestamp=NOW) for base in (0, 10, 20)]
    found = dirt(segments, start=10, min_compaction_lag_ms=5)
    assert (found.bound, found.dirty_bytes) == (10, 0)


def test_what_is_older_than_the_lag_is_overdue():
    segments = [Segment(base, first_timestamp=NOW - 100 + base) for base in (0, 10, 20)]
    assert dirt(segments, max_compaction_lag_ms=70).overdue_ms == 30
    assert dirt(segments, start=10, max_compaction_lag_ms=70).overdue_ms == 20
    assert dirt(segments, max_compaction_lag_ms=100).overdue_ms == 0
    assert dirt(max_compaction_lag_ms=1).overdue_ms == 0, "no timestamp, no age"


def test_enough_is_a_share_above_the_limit_or_something_overdue():
    def is_enough(dirty, overdue_ms=0):
        found = Dirt(
            start=0, bound=9, clean_bytes=100 - dirty, dirty_bytes=dirty, overdue_ms=overdue_ms
        )
        return found.is_enough(CONFIG)

    assert not is_enough(50)
    assert is_enough(51)
    assert is_enough(1, overdue_ms=1)
    assert not is_enough(0, overdue_ms=1)


def bases(groups):
    return [[segment.base_offset for segment in group] for group in groups]


def test_groups_fit_into_a_segment():
    segments = [Segment(n, size) for n, size in enumerate([600, 400, 1, 999, 2000, 5, 5])]
    assert bases(grouped(segments, bound=7, config=CONFIG)) == [[0, 1], [2, 3], [4], [5, 6]]


@pytest.mark.parametrize("index_sizes", [(40, 0), (0, 40)])
def test_groups_fit_into_an_index(index_sizes):
    segments = [Segment(n, 1, index_sizes=index_sizes) for n in range(5)]
    assert bases(grouped(segments, bound=5, config=CONFIG)) == [[0, 1], [2, 3], [4]]


def test_groups_fit_into_the_offsets_that_an_index_can_name():
    far = 2**31
    segments = [Segment(0), Segment(5), Segment(10, 0), Segment(far + 3), Segment(far + 4)]
    assert bases(grouped(segments, bound=far + 9, config=CONFIG)) == [
        [0, 5, 10],
        [far + 3, far + 4],
    ]
    # The last segment might reach up to the bound.
    segments = [Segment(0), Segment(5)]
    assert bases(grouped(segments, bound=far, config=CONFIG)) == [[0, 5]]
    assert bases(grouped(segments, bound=far + 1, config=CONFIG)) == [[0], [5]]


def test_groups_are_not_of_too_many():
    segments = [Segment(n, 1, index_sizes=(0, 0)) for n in range(SEGMENTS_PER_GROUP + 1)]
    sizes = [len(group) for group in grouped(segments, bound=1000, config=CONFIG)]
    assert sizes == [SEGMENTS_PER_GROUP, 1]
