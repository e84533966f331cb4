"""Which segments may go."""

import attrs
import pytest

from zkafka.log.retention import deletable


@attrs.frozen
class Facts:
    size: int
    retention_timestamp: int


# Four segments of 100 bytes, ten offsets and 1,000 ms each; the last one active.
SEGMENTS = [Facts(100, 1000 * n) for n in (1, 2, 3, 4)]
ENDS = [10, 20, 30, 40]


def gone(segments=SEGMENTS, ends=ENDS, **changes):
    rules = {
        "log_start_offset": 0,
        "high_watermark": 40,
        "now_ms": 4000,
        "retention_ms": None,
        "retention_bytes": None,
        "delete": True,
    }
    return deletable(segments, ends, **{**rules, **changes})


def test_without_limits_everything_stays():
    assert gone() == 0


@pytest.mark.parametrize(("now_ms", "count"), [(6000, 0), (6001, 1), (7001, 2), (9001, 4)])
def test_a_segment_goes_when_its_newest_record_is_older_than_the_limit(now_ms, count):
    assert gone(now_ms=now_ms, retention_ms=5000) == count


@pytest.mark.parametrize(("limit", "count"), [(400, 0), (301, 0), (300, 1), (150, 2), (0, 4)])
def test_segments_go_while_enough_remains(limit, count):
    assert gone(retention_bytes=limit) == count


@pytest.mark.parametrize(("start", "count"), [(9, 0), (10, 1), (25, 2), (40, 4)])
def test_a_segment_below_the_log_start_goes_even_from_a_compacted_log(start, count):
    assert gone(log_start_offset=start, delete=False) == count


@pytest.mark.parametrize(("high_watermark", "count"), [(9, 0), (10, 1), (39, 3), (40, 4)])
def test_nothing_above_the_high_watermark_goes(high_watermark, count):
    assert gone(high_watermark=high_watermark, retention_bytes=0) == count


def test_a_compacted_log_does_not_age():
    assert gone(now_ms=10**9, retention_ms=1, retention_bytes=0, delete=False) == 0


def test_an_empty_active_segment_stays():
    assert gone([Facts(100, 1000), Facts(0, 0)], [10, 10], retention_bytes=0) == 1


def test_the_rules_add_up():
    # The log start takes one, the size another, and age then the third.
    assert gone(log_start_offset=10, retention_bytes=250, now_ms=4002, retention_ms=1001) == 3


def test_age_is_asked_for_only_where_it_decides():
    class Unread:
        size = 100

        @property
        def retention_timestamp(self):
            raise AssertionError("not to be read")

    segments = [Facts(100, 9000), Unread(), Unread()]
    assert gone(segments, [10, 20, 30], now_ms=9500, retention_ms=1000) == 0
