"""One partition's log: what is appended is read, where segments begin, what a truncation leaves."""

import os
import uuid
from pathlib import Path

import pytest
from log_builders import (
    TP,
    append,
    batch_of,
    everything,
    fill,
    load_log,
    new_log,
    read,
    sized,
)

from zkafka.errors import ApiError, ErrorCode
from zkafka.log.partition_log import Appended
from zkafka.protocol.records import Record, build_batch, iter_records, parse_batches, verify_crc

BASES = [0, 3, 6, 9]
"""Of the segments after ten batches of 100 bytes in segments of 300."""


@pytest.fixture
def log(tmp_path):
    return new_log(tmp_path, segment_bytes=300, index_interval_bytes=0)


def names(log, suffix=".log"):
    return sorted(path.name for path in Path(log.path).iterdir() if path.name.endswith(suffix))


# Appending.


def test_a_leader_stamps_offsets_and_epoch_and_leaves_the_checksum_right(log):
    batch = batch_of(b"a", b"b")
    assert append(log, batch, epoch=7) == [Appended(0, 1)]
    assert append(log, batch_of(b"c"), epoch=7) == [Appended(2, 2)]
    part = log.read(0, 1000, upper_bound=3, at_least_one=True)
    first, second = parse_batches(part.read())
    part.release()
    assert (first.base_offset, first.leader_epoch) == (0, 7)
    assert (second.base_offset, second.leader_epoch) == (2, 7)
    assert verify_crc(first)
    assert [record.value for record in iter_records(first)] == [b"a", b"b"]
    assert log.epochs.entries == ((7, 0),)


def test_a_follower_writes_what_it_gets_and_takes_epochs_from_it(log):
    data = build_batch_bytes(0, 4, epoch=2) + build_batch_bytes(4, 1, epoch=5)
    assert log.append_as_follower(parse_batches(data)) == Appended(0, 4)
    part = log.read(0, 1000, upper_bound=5, at_least_one=True)
    assert part.read() == data
    part.release()
    assert log.epochs.entries == ((2, 0), (5, 4))
    assert log.append_as_follower([]) is None


def build_batch_bytes(base_offset, count, *, epoch=0):
    records = [Record(None, b"value", 1000 + n) for n in range(count)]
    return bytes(build_batch(records, base_offset=base_offset, leader_epoch=epoch))


@pytest.mark.parametrize("second", [3, 4, 0])
def test_a_follower_refuses_offsets_that_do_not_rise_and_writes_nothing(log, second):
    data = build_batch_bytes(0, 5) + build_batch_bytes(second, 1)
    with pytest.raises(ApiError) as refused:
        log.append_as_follower(parse_batches(data))
    assert refused.value.code is ErrorCode.CORRUPT_MESSAGE
    assert (log.log_end_offset, log.size) == (0, 0)


def test_a_follower_of_a_compacted_leader_may_skip_offsets(log):
    log.append_as_follower(parse_batches(build_batch_bytes(0, 2) + build_batch_bytes(7, 1)))
    assert log.log_end_offset == 8
    assert read(log, 3) == [(7, 7)]


def test_an_empty_log_takes_a_batch_that_begins_below_its_start(tmp_path):
    # The leader's log start lies inside a batch, by DeleteRecords.
    log = new_log(tmp_path, start_offset=12)
    log.append_as_follower(parse_batches(build_batch_bytes(10, 5)))
    assert (log.log_start_offset, log.log_end_offset) == (12, 15)
    assert log.segment_bases == (10,)
    assert read(log, 12) == [(10, 14)]
    log.check()


def test_a_repeated_batch_is_answered_and_not_written(log):
    first = append(log, batch_of(b"a", b"b", producer_id=5, producer_epoch=0, base_sequence=0))
    size = log.size
    again = append(log, batch_of(b"a", b"b", producer_id=5, producer_epoch=0, base_sequence=0))
    assert again == [Appended(0, 1, duplicate=True)]
    assert first == [Appended(0, 1)]
    assert (log.log_end_offset, log.size) == (2, size)


def test_a_follower_knows_the_repeats_of_what_its_leader_accepted(log):
    batch = batch_of(b"a", producer_id=5, producer_epoch=0, base_sequence=0)
    log.append_as_follower([batch])
    again = batch_of(b"a", producer_id=5, producer_epoch=0, base_sequence=0)
    assert append(log, again) == [Appended(0, 0, duplicate=True)]


def test_a_refused_batch_changes_nothing(log):
    append(log, batch_of(b"a", producer_id=5, producer_epoch=0, base_sequence=0))
    with pytest.raises(ApiError) as refused:
        append(log, batch_of(b"a", producer_id=5, producer_epoch=0, base_sequence=9))
    assert refused.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert log.log_end_offset == 1


def test_a_batch_larger_than_a_segment_is_refused(log):
    with pytest.raises(ApiError) as refused:
        append(log, sized(301))
    assert refused.value.code is ErrorCode.RECORD_LIST_TOO_LARGE
    assert append(log, sized(300)) == [Appended(0, 0)]


# Rolling.


def test_a_segment_ends_before_it_grows_above_its_limit(log):
    fill(log, 10)
    assert list(log.segment_bases) == BASES
    assert names(log) == [f"{base:020d}.log" for base in BASES]
    log.check()


def test_a_follower_rolls_in_the_middle_of_what_it_got(tmp_path):
    log = new_log(tmp_path, segment_bytes=300)
    batches = [sized(100, base_offset=offset) for offset in range(10)]
    assert log.append_as_follower(batches) == Appended(0, 9)
    assert list(log.segment_bases) == BASES
    assert everything(log) == [(offset, -1) for offset in range(10)]


def test_what_is_larger_than_a_segment_gets_one_of_its_own_on_a_follower(log):
    batches = [sized(100, base_offset=0), sized(500, base_offset=1), sized(100, base_offset=2)]
    log.append_as_follower(batches)
    assert log.segment_bases == (0, 1, 2)


def test_a_segment_ages_by_the_timestamps_of_its_records(tmp_path):
    log = new_log(tmp_path, segment_ms=1000)
    append(log, batch_of(b"a", timestamp=5000), now_ms=0)
    append(log, batch_of(b"b", timestamp=6000), now_ms=10**9)
    assert log.segment_bases == (0,)
    append(log, batch_of(b"c", timestamp=6001), now_ms=10**9)
    assert log.segment_bases == (0, 2)


def test_a_compacted_segment_is_closed_before_its_records_are_overdue(tmp_path):
    log = new_log(tmp_path, cleanup_policy=("compact",), max_compaction_lag_ms=1000)
    append(log, batch_of(b"a", timestamp=5000), batch_of(b"b", timestamp=6000))
    assert log.segment_bases == (0,)
    append(log, batch_of(b"c", timestamp=6001))
    assert log.segment_bases == (0, 2)


def test_a_segment_without_timestamps_ages_from_its_first_append(tmp_path):
    log = new_log(tmp_path, segment_ms=1000)
    append(log, batch_of(b"a", timestamp=-1), now_ms=50_000)
    append(log, batch_of(b"b", timestamp=-1), now_ms=51_000)
    assert log.segment_bases == (0,)
    append(log, batch_of(b"c", timestamp=-1), now_ms=51_001)
    assert log.segment_bases == (0, 2)


def test_a_record_without_timestamp_ages_no_segment_that_has_them(tmp_path):
    log = new_log(tmp_path, segment_ms=1000)
    append(log, batch_of(b"a", timestamp=5000), now_ms=50_000)
    append(log, batch_of(b"b", timestamp=-1), now_ms=10**9)
    assert log.segment_bases == (0,)


def test_jitter_rolls_early_and_never_late(tmp_path):
    log = new_log(tmp_path, segment_ms=1000, segment_jitter_ms=1000)
    append(log, batch_of(b"a", timestamp=5000))
    append(log, batch_of(b"b", timestamp=6000))
    assert log.segment_bases == (0, 1)


def test_a_full_index_ends_a_segment(tmp_path):
    log = new_log(tmp_path, index_interval_bytes=0, segment_index_bytes=24)
    for n in range(9):
        append(log, sized(100, timestamp=1000 + n))
    # Of two entries of 12 bytes in the time index the seal has one, and the first batch gets none.
    assert log.segment_bases == (0, 2, 4, 6, 8)


def test_the_indexes_of_what_is_written_at_once_do_not_overflow(tmp_path):
    log = new_log(tmp_path, index_interval_bytes=150, segment_index_bytes=60)
    raw = [sized(100, base_offset=n, timestamp=1000 + n) for n in range(60)]
    log.append_as_follower(raw)
    log.roll()
    sizes = [path.stat().st_size for path in Path(log.path).glob("*.timeindex")]
    assert len(everything(log)) == 60
    assert 24 < max(sizes) <= 60


def sizes(log):
    """Of the `.log` files, as they are on disk."""
    return [path.stat().st_size for path in sorted(Path(log.path).glob("*.log"))]


def test_a_preallocated_segment_has_room_until_it_is_sealed_or_closed(tmp_path):
    log = new_log(tmp_path, preallocate=True, segment_bytes=1000)
    assert sizes(log) == [1000]
    for _ in range(5):
        append(log, sized(300))
    assert (sizes(log), log.size) == ([900, 1000], 1500)
    assert len(everything(log)) == 5
    again = load_log(log, clean=True)
    assert sizes(again) == [900, 600]
    assert len(everything(again)) == 5


def test_an_empty_preallocated_segment_is_closed_empty(tmp_path):
    log = new_log(tmp_path, preallocate=True, segment_bytes=1000)
    assert sizes(load_log(log, clean=True)) == [0]


@pytest.mark.parametrize("count", [0, 2])
def test_after_a_crash_the_room_in_a_preallocated_segment_holds_nothing(tmp_path, count):
    log = new_log(tmp_path, preallocate=True, segment_bytes=1000)
    for _ in range(count):
        append(log, sized(300))
    again = load_log(log, clean=False)
    assert again.log_end_offset == count
    assert sizes(again) == [300 * count]
    append(again, sized(300))
    assert everything(again)[-1] == (count, 0)


def test_offsets_too_far_from_the_base_end_a_segment(log):
    log.append_as_follower([sized(100, base_offset=0)])
    log.append_as_follower([sized(100, base_offset=2**31)])
    assert log.segment_bases == (0, 2**31)


def test_an_empty_segment_too_far_below_makes_room(log):
    log.append_as_follower([sized(100, base_offset=2**31)])
    assert log.segment_bases == (2**31,)
    assert names(log) == [f"{2**31:020d}.log"]
    assert log.log_start_offset == 2**31
    assert read(log, 2**31) == [(2**31, 2**31)]
    log.check()


def test_rolling_an_empty_segment_does_nothing(log):
    log.roll()
    assert log.segment_bases == (0,)
    fill(log, 1)
    log.roll()
    log.roll()
    assert log.segment_bases == (0, 1)


# Reading.


def test_a_read_begins_with_the_batch_that_holds_the_offset(log):
    append(log, batch_of(b"a", b"b", b"c"))
    assert read(log, 1) == [(0, 2)]


def test_a_read_ends_at_the_bound(log):
    append(log, batch_of(b"a"), batch_of(b"b", b"c"), batch_of(b"d"))
    assert read(log, 0, upper_bound=3) == [(0, 0), (1, 2)]
    assert read(log, 0, upper_bound=1) == [(0, 0)]
    assert read(log, 3, upper_bound=3) is None
    assert read(log, 4) is None


def test_a_bound_inside_a_batch_leaves_the_batch_out(log):
    append(log, batch_of(b"a"), batch_of(b"b", b"c"))
    assert read(log, 0, upper_bound=2) == [(0, 0)]
    assert read(log, 1, upper_bound=2) is None


def test_a_read_stays_in_one_segment(log):
    fill(log, 10)
    assert read(log, 0) == [(0, 0), (1, 1), (2, 2)]
    assert read(log, 2) == [(2, 2)]
    assert read(log, 3) == [(3, 3), (4, 4), (5, 5)]


@pytest.mark.parametrize(("max_bytes", "count"), [(100, 1), (199, 1), (200, 2), (300, 3), (999, 3)])
def test_a_read_ends_with_a_batch(log, max_bytes, count):
    fill(log, 10)
    part = log.read(3, max_bytes, upper_bound=10, at_least_one=False)
    assert part.size == 100 * count
    part.release()


def test_a_batch_larger_than_the_limit_is_given_only_as_the_one_at_least(log):
    fill(log, 2)
    assert read(log, 0, 99, at_least_one=True) == [(0, 0)]
    assert read(log, 0, 99, at_least_one=False) is None
    assert read(log, 0, 0, at_least_one=True) == [(0, 0)]


@pytest.mark.parametrize("offset", [1, 6])
def test_outside_the_log_is_out_of_range(tmp_path, offset):
    log = new_log(tmp_path, start_offset=2)
    fill(log, 3)
    with pytest.raises(ApiError) as refused:
        read(log, offset, upper_bound=9)
    assert refused.value.code is ErrorCode.OFFSET_OUT_OF_RANGE


def test_a_hole_that_compaction_left_at_the_end_of_a_segment_is_stepped_over(log):
    log.append_as_follower([sized(100, base_offset=offset) for offset in (0, 1)])
    log.roll()
    log.append_as_follower([sized(100, base_offset=9)])
    assert log.segment_bases == (0, 2)
    assert read(log, 5) == [(9, 9)]
    assert read(log, 5, upper_bound=7) is None


@pytest.mark.parametrize("reopened", [False, True])
def test_every_offset_is_found_with_every_limit(tmp_path, reopened):
    log = new_log(tmp_path, segment_bytes=2000, index_interval_bytes=300)
    for n in range(60):
        append(log, batch_of(*[b"x" * (n * 7 % 50)] * (1 + n % 4)))
    if reopened:
        log = load_log(log, clean=True)
    batches = everything(log)
    starts = [base for base, _ in batches]
    for offset in range(log.log_end_offset):
        for bound in (offset + 1, offset + 7, log.log_end_offset):
            found = read(log, offset, 300, upper_bound=bound)
            first = max(start for start in starts if start <= offset)
            if found is None:
                assert min([*(s for s in starts if s > offset), log.log_end_offset]) > bound
            else:
                assert found[0][0] == first
                assert found[-1][1] < bound


def test_what_is_available_is_what_a_read_gives_near_the_end(log):
    append(log, sized(100), sized(120), sized(80))
    assert log.available(0, 3) == 300
    assert log.available(1, 3) == 200
    assert log.available(1, 2) == 120
    assert log.available(3, 3) == log.available(2, 1) == 0


def test_what_is_available_adds_up_over_segments(log):
    fill(log, 10)
    assert log.available(9, 10) == 100
    assert log.available(3, 10) == 700
    assert log.available(0, 10) == 1000


# Slices.


def test_a_slice_outlives_the_segment_it_is_of(log):
    fill(log, 10)
    part = log.read(0, 100, upper_bound=10, at_least_one=True)
    log.advance_log_start_offset(9)
    assert log.delete_old_segments(0, 10) == 3
    log._disk.purge(0)
    log._disk.purge(10**9)
    log.close(clean=False)
    assert part.intact  # Deleted data was valid data.
    assert parse_batches(part.read())[0].base_offset == 0
    fd = part.fileno()
    part.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_truncation_below_its_end_breaks_a_slice(log):
    fill(log, 3)
    first, last = (log.read(offset, 100, upper_bound=3, at_least_one=True) for offset in (0, 2))
    log.truncate_to(2)
    assert first.intact
    assert not last.intact
    fill(log, 1)
    assert not last.intact  # Though there are as many bytes again.
    fresh = log.read(2, 100, upper_bound=3, at_least_one=True)
    assert fresh.intact
    for part in (first, last, fresh):
        part.release()


def test_a_truncation_of_the_whole_segment_breaks_its_slices(log):
    fill(log, 10)
    parts = [log.read(offset, 100, upper_bound=10, at_least_one=True) for offset in (4, 9)]
    log.truncate_to(6)
    assert [part.intact for part in parts] == [True, False]
    log.truncate_fully_and_start_at(50)
    assert [part.intact for part in parts] == [False, False]
    for part in parts:
        part.release()


# Truncating.


@pytest.mark.parametrize(("offset", "end", "bases"), [(9, 9, 4), (8, 8, 3), (6, 6, 3), (3, 3, 2)])
def test_truncating_leaves_what_is_below(log, offset, end, bases):
    fill(log, 10)
    assert log.truncate_to(offset) == end
    assert log.log_end_offset == end
    assert list(log.segment_bases) == BASES[:bases]
    assert [base for base, _ in everything(log)] == list(range(end))
    log.check()
    assert append(log, sized(100)) == [Appended(end, end)]


def test_a_batch_cut_in_its_middle_goes_whole(log):
    append(log, batch_of(b"a"), batch_of(b"b", b"c", b"d"))
    assert log.truncate_to(3) == 1
    assert log.log_end_offset == 1


def test_truncating_at_or_above_the_end_does_nothing(log):
    fill(log, 2)
    assert log.truncate_to(2) == 2
    assert log.truncate_to(99) == 2


def test_truncating_takes_epochs_and_sequences_back(log):
    sequence = {"producer_id": 5, "producer_epoch": 0}
    append(log, batch_of(b"a", base_sequence=0, **sequence), epoch=1)
    append(log, batch_of(b"b", base_sequence=1, **sequence), epoch=2)
    log.truncate_to(1)
    assert log.epochs.entries == ((1, 0),)
    assert append(log, batch_of(b"c", base_sequence=1, **sequence), epoch=3) == [Appended(1, 1)]


def test_truncating_below_all_that_is_known_of_a_producer_replays_the_log(tmp_path):
    log = new_log(tmp_path, segment_bytes=400)
    for epoch in range(3):
        for n in range(3):
            producer = {"producer_id": 5, "producer_epoch": epoch, "base_sequence": n}
            append(log, sized(100, **producer))
    log.truncate_to(5)
    producer = log.producers.get(5)
    assert (producer.epoch, producer.last_sequence, producer.last_offset) == (1, 1, 4)


def test_truncating_below_the_first_segment_starts_anew(tmp_path):
    log = new_log(tmp_path, start_offset=10)
    fill(log, 3)
    log.truncate_to(5)
    assert (log.log_start_offset, log.log_end_offset) == (5, 5)
    log.check()


def test_starting_anew_leaves_an_empty_log_at_the_offset(log):
    append(log, batch_of(b"a", producer_id=5, producer_epoch=0, base_sequence=0), epoch=4)
    log.truncate_fully_and_start_at(77)
    assert (log.log_start_offset, log.log_end_offset, log.size) == (77, 77, 0)
    assert log.epochs.entries == ()
    assert len(log.producers) == 0
    assert names(log) == [f"{77:020d}.log"]
    assert append(log, batch_of(b"b"), epoch=5) == [Appended(77, 77)]


def test_truncating_lowers_the_recovery_point(log):
    fill(log, 10)
    log.flush()
    assert log.recovery_point == 10
    log.truncate_to(4)
    assert log.recovery_point == 4


# The start of the log, and retention.


def test_the_log_start_moves_up_only(log):
    fill(log, 10)
    log.advance_log_start_offset(4)
    log.advance_log_start_offset(2)
    assert log.log_start_offset == 4
    with pytest.raises(ApiError) as refused:
        read(log, 3)
    assert refused.value.code is ErrorCode.OFFSET_OUT_OF_RANGE
    with pytest.raises(ApiError):
        log.advance_log_start_offset(11)


def test_old_segments_are_renamed_and_go_after_the_delay(tmp_path):
    log = new_log(tmp_path, segment_bytes=300, retention_bytes=400, file_delete_delay_ms=50)
    fill(log, 10)
    assert log.delete_old_segments(0, 10) == 2
    assert (log.log_start_offset, log.size) == (6, 400)
    assert names(log) == [f"{base:020d}.log" for base in (6, 9)]
    assert len(names(log, ".log.deleted")) == 2
    log._disk.purge(1000)
    assert len(names(log, ".log.deleted")) == 2
    log._disk.purge(1050)
    assert names(log, ".deleted") == []
    log.check()


def test_when_all_may_go_an_empty_segment_is_left(tmp_path):
    log = new_log(tmp_path, segment_bytes=300, retention_ms=1000)
    fill(log, 4, timestamp=5000)
    assert log.delete_old_segments(6000, 4) == 0
    assert log.delete_old_segments(6001, 4) == 2
    assert log.segment_bases == (4,)
    assert (log.log_start_offset, log.log_end_offset) == (4, 4)
    assert log.delete_old_segments(10**9, 4) == 0
    log.check()


def test_retention_without_timestamps_goes_by_the_file(tmp_path):
    log = new_log(tmp_path, segment_bytes=300, retention_ms=1000)
    fill(log, 1, timestamp=-1)
    assert log.delete_old_segments(1001, 1) == 0
    assert log.delete_old_segments(2**50, 1) == 1


def test_deleting_forgets_epochs_below_the_start(tmp_path):
    log = new_log(tmp_path, segment_bytes=300, retention_bytes=400)
    for epoch in range(10):
        append(log, sized(100), epoch=epoch)
    log.delete_old_segments(0, 10)
    assert log.epochs.entries[0] == (6, 6)


# Times.


def test_the_first_record_with_at_least_the_timestamp_is_found(tmp_path):
    log = new_log(tmp_path, segment_bytes=600, index_interval_bytes=0)
    for start in (1000, 3000, 2000, 4000):  # Timestamps need not rise.
        append(log, batch_of(b"a", b"b", b"c", timestamp=start), epoch=start)
    find = log.offset_for_timestamp
    assert find(0, upper_bound=12) == (1000, 0, 1000)
    assert find(1001, upper_bound=12) == (1001, 1, 1000)
    assert find(1003, upper_bound=12) == (3000, 3, 3000)
    assert find(3003, upper_bound=12) == (4000, 9, 4000)
    assert find(4002, upper_bound=12) == (4002, 11, 4000)
    assert find(4003, upper_bound=12) is None
    assert find(4002, upper_bound=11) is None
    log.advance_log_start_offset(4)
    assert find(0, upper_bound=12) == (3001, 4, 3000)


def test_the_largest_timestamp_is_found(tmp_path):
    log = new_log(tmp_path, segment_bytes=300)
    assert log.max_timestamp_offset() is None
    append(log, batch_of(b"a", timestamp=-1))
    assert log.max_timestamp_offset() is None
    append(log, batch_of(b"a", b"b", timestamp=3000), epoch=2)
    for _ in range(5):
        append(log, sized(100, timestamp=2000), epoch=3)
    assert log.max_timestamp_offset() == (3001, 2, 2)


# Beside the batches.


def test_the_topic_id_is_written_as_kafka_does(tmp_path):
    topic_id = uuid.UUID("a7a1f3c6-5a0b-4f4e-9a1d-2b3c4d5e6f70")
    log = new_log(tmp_path, topic_id=topic_id)
    assert Path(log.path, "partition.metadata").read_text() == (
        "version: 0\ntopic_id: p6HzxloLT06aHSs8TV5vcA"
    )
    again = load_log(log, clean=True)
    assert again.topic_id == topic_id


def test_a_missing_topic_id_may_be_filled_in(log):
    assert log.topic_id is None
    log.assign_topic_id(uuid.UUID(int=9))
    assert load_log(log, clean=True).topic_id == uuid.UUID(int=9)


def test_statistics_tell_the_extent(log):
    fill(log, 10)
    log.flush()
    fill(log, 1)
    assert log.statistics().size == 1100
    assert log.statistics().segment_count == 4
    assert log.statistics().log_end_offset == 11
    assert log.statistics().unflushed == 1
    assert repr(log) == f"<PartitionLog {TP} 0..11>"


def test_a_flush_is_due_by_count_by_age_and_for_sealed_segments(tmp_path):
    log = new_log(tmp_path, flush_messages=3, flush_ms=500, segment_bytes=300)
    assert not log.flush_due(0)
    fill(log, 2)
    assert not log.flush_due(1000)
    assert not log.flush_due(1499)
    assert log.flush_due(1500)
    log.flush()
    assert not log.flush_due(9000)
    fill(log, 1)
    assert not log.flush_due(9000)
    log.roll()
    assert log.flush_due(9000)
    log.flush()
    fill(log, 3)
    assert log.flush_due(9000)
