"""One cleaning of one log: its files, its readers, and whoever comes in between."""

import errno
import os
import struct

import pytest
from cleaner_world import clean, records_in, start_cleaning
from log_builders import ABORT, COMMIT, TP, everything, load_log, marker, new_log, read
from log_disks import FaultyFiles
from log_world import verify_places

from zkafka.errors import ApiError, ErrorCode, StorageError
from zkafka.log.cleaner import CleanerLimits, CleaningAborted, find_dirt
from zkafka.log.cleaner_records import RECORDS_PER_TURN
from zkafka.protocol.records import Batch, Record, build_batch, seal

NOW = 1_000_000
COMPACT = {"cleanup_policy": ("compact",), "segment_bytes": 300, "index_interval_bytes": 100}


def put(log, *keys, value=b"v" * 20, timestamp=1000, **fields):
    """One batch of a record for each key, its value ending with the offset."""
    end = log.log_end_offset
    records = [
        Record(key, None if value is None else value + b"%d" % offset, timestamp)
        for offset, key in enumerate(keys, end)
    ]
    batch = Batch(memoryview(build_batch(records, **fields)))
    return log.append_as_leader(batch, 0, NOW)


def filled(directory, count=20, *, files=None, **config):
    """A log of single records of the keys 0 to 4, several segments."""
    log = new_log(directory, files, **(COMPACT | config))
    for n in range(count):
        put(log, b"%d" % (n % 5))
    log.flush()
    # From now on all sealed ones fit into one.
    log.reconfigure(log.config.with_overrides({"segment.bytes": "100000"}))
    return log


@pytest.fixture
def log(tmp_path):
    return filled(tmp_path)


def names(log, suffix):
    return [name for name in os.listdir(log.path) if name.endswith(suffix)]


def offsets(log):
    return sorted(records_in(log))


def run(jobs, turns=None):
    """The next `turns` jobs, or all."""
    for number, job in enumerate(jobs, 1):
        job()
        if number == turns:
            return


# The sequence.


def test_the_last_of_each_key_is_left_in_fewer_segments(log):
    active = log.segment_bases[-1]
    size = log.size
    cleaning = clean(log, NOW)
    assert offsets(log) == [*range(active - 5, active), *range(active, 20)]
    assert log.segment_bases == (0, active)
    assert cleaning.cleaned_to == log.cleaned_to == active
    assert log.size < size
    assert log.size == sum(os.path.getsize(segment.path) for segment in log.segments)
    log.check()
    verify_places(log, [])
    found = cleaning.statistics
    assert (found.records_read, found.records_written, found.keys) == (active, 5, 5)
    assert found.bytes_read > found.bytes_written > 0


def test_offsets_in_the_holes_lead_to_the_next_record(log):
    active = log.segment_bases[-1]
    clean(log, NOW)
    assert read(log, 0)[0] == read(log, active - 6)[0] == (active - 5, active - 5)
    assert [base for base, _ in everything(log)] == offsets(log)


def test_a_log_without_anything_dirty_is_left_alone(log):
    clean(log, NOW)
    before = log.segments
    cleaning = start_cleaning(log, NOW)
    assert list(cleaning.steps()) == []
    assert log.segments == before


def test_nothing_above_the_stable_offset_is_touched(log):
    bases = log.segment_bases
    assert clean(log, NOW, stable=bases[2]).cleaned_to == bases[2]
    assert log.segment_bases == (0, *bases[2:])
    assert offsets(log)[-(20 - bases[2]) :] == list(range(bases[2], 20))


def test_what_is_not_flushed_is_not_touched(tmp_path):
    log = new_log(tmp_path, **COMPACT)
    for _ in range(20):
        put(log, b"k")
    assert find_dirt(log, 20, NOW).bound == 0
    log.flush()
    assert find_dirt(log, 20, NOW).bound == log.segment_bases[-1]


def test_old_files_go_after_their_delay(log):
    disk = log._disk
    count = len(log.segments) - 1
    clean(log, NOW)
    assert len(names(log, ".log.deleted")) == count
    assert not names(log, ".cleaned")
    assert not names(log, ".swap")
    disk.purge(0)
    disk.purge(log.config.file_delete_delay_ms - 1)
    assert names(log, ".deleted")
    disk.purge(log.config.file_delete_delay_ms)
    assert not names(log, ".deleted")
    assert offsets(log)


def test_snapshots_stay_for_the_segments_that_do(log):
    assert len(names(log, ".snapshot")) == len(log.segments) - 1
    clean(log, NOW)
    assert names(log, ".snapshot") == [f"{log.segment_bases[-1]:020d}.snapshot"]


def test_what_was_cleaned_is_found_again(log):
    clean(log, NOW)
    before = records_in(log), log.segment_bases
    for stop_is_clean in (True, False):
        log = load_log(log, clean=stop_is_clean, **COMPACT)
        assert (records_in(log), log.segment_bases) == before
        log.flush()


def test_holes_do_not_look_like_losses_when_the_topic_is_compacted_no_more(log):
    clean(log, NOW)
    before = records_in(log)
    log.close(clean=False)
    again = log.load(
        log._disk, log.path, TP, log.config.with_overrides({"cleanup.policy": "delete"}),
        clean=False, recovery_point=0, log_start_offset=0, cleaned_to=log.cleaned_to,
    )  # fmt: skip
    assert records_in(again) == before
    assert again.log_end_offset == 20


def test_a_file_without_timestamps_keeps_its_age(tmp_path):
    log = new_log(tmp_path, **COMPACT)
    for _ in range(10):
        put(log, b"k", timestamp=-1)
    log.flush()
    for n, segment in enumerate(log.segments[:-1]):
        os.utime(segment.path, (1000 + n, 1000 + n))
    log.reconfigure(log.config.with_overrides({"segment.bytes": "100000"}))
    last = 1000 + len(log.segments) - 2
    clean(log, NOW)
    assert log.segments[0].retention_timestamp == last * 1000


def test_segments_that_cannot_be_one_stay_apart(tmp_path):
    log = new_log(tmp_path, **COMPACT)
    far = 2**31
    for base in (0, 1, 2, far + 5, far + 6, far + 7):
        log.append_as_follower(
            [
                Batch(
                    memoryview(build_batch([Record(b"%d" % base, b"v" * 200, 1)], base_offset=base))
                )
            ]
        )
    log.flush()
    log.reconfigure(log.config.with_overrides({"segment.bytes": "10000"}))
    clean(log, NOW)
    # For all that is known of it, what begins at 2 may reach up to where the next begins.
    assert log.segment_bases == (0, 2, far + 5, far + 7)
    assert offsets(log) == [0, 1, 2, far + 5, far + 6, far + 7]


def test_a_segment_of_which_nothing_is_left_is_empty_and_joins_the_next(tmp_path):
    log = new_log(tmp_path, **COMPACT)
    for _ in range(6):
        put(log, b"old", value=b"v" * 200)
    log.flush()
    log.reconfigure(log.config.with_overrides({"segment.bytes": "400"}))
    clean(log, NOW)
    assert [segment.size > 0 for segment in log.segments] == [False] * 4 + [True] * 2
    assert read(log, 0) == [(4, 4)]
    put(log, b"new", value=b"v" * 300)
    log.flush()
    clean(log, NOW)
    assert [segment.size > 0 for segment in log.segments] == [False, True, True]
    assert offsets(log) == [5, 6]


# In short turns, with bounded memory.


def test_a_large_batch_is_gone_through_in_many_turns(tmp_path):
    log = new_log(tmp_path, cleanup_policy=("compact",))
    put(log, *(b"%d" % n for n in range(3000)))
    log.roll()
    log.flush()
    turns = sum(1 for job in start_cleaning(log, NOW, keys=5000).steps() if job() is not None)
    assert turns > 2 * 3000 // RECORDS_PER_TURN


def test_a_map_that_is_full_ends_a_round_and_the_next_goes_on(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = filled(tmp_path / "whole", 60)
    clean(whole, NOW)
    log = filled(tmp_path, 60)
    rounds = 0
    while find_dirt(log, 60, NOW).dirty_bytes:
        before = log.cleaned_to or 0
        cleaning = clean(log, NOW, keys=4)
        assert before < cleaning.cleaned_to <= find_dirt(log, 60, NOW).bound
        rounds += 1
    assert rounds > 5
    # Rounds of four keys cannot see that the fifth was written again; each keeps more than one of
    # some key, and never loses the last.
    assert records_in(whole).items() <= records_in(log).items()


def test_limits_are_each_cleaners_share():
    limits = CleanerLimits.of(128 << 20, 0.9, 512 << 10, 2)
    assert (limits.keys, limits.io_bytes) == (int(64 * 2**20 * 0.9) // 176, 128 << 10)
    assert CleanerLimits.of(1, 0.1, 0, 1) == CleanerLimits(1, 4096)


# Transactions.


def test_a_transaction_without_an_end_stops_the_round_before_it(tmp_path):
    log = new_log(tmp_path, cleanup_policy=("compact",))
    transactional = {"producer_id": 7, "producer_epoch": 0, "transactional": True}
    put(log, b"a")
    put(log, b"a")
    put(log, b"a", **transactional, base_sequence=0)
    log.roll()
    log.flush()
    assert clean(log, NOW).cleaned_to == 2
    assert offsets(log) == [1, 2]
    assert clean(log, NOW).cleaned_to == 2, "no progress, no harm"
    log.append_as_leader(marker(COMMIT, producer=7), 0, NOW)
    put(log, b"b")
    log.roll()
    log.flush()
    assert clean(log, NOW).cleaned_to == 5
    assert offsets(log) == [2, 3, 4]


def test_data_of_an_aborted_transaction_go(tmp_path):
    log = new_log(tmp_path, cleanup_policy=("compact",))
    transactional = {"producer_id": 7, "producer_epoch": 0, "transactional": True}
    put(log, b"a")
    put(log, b"a", **transactional, base_sequence=0)
    log.append_as_leader(marker(ABORT, producer=7), 0, NOW)
    put(log, b"a", **transactional, base_sequence=1)
    log.append_as_leader(marker(COMMIT, producer=7), 0, NOW)
    put(log, b"b")
    log.roll()
    log.flush()
    assert len(list(log.segments[0].transaction_index)) == 1
    clean(log, NOW)
    assert offsets(log) == [2, 3, 4, 5]
    assert not list(log.segments[0].transaction_index), "nothing to pass over is left"
    assert not names(log, ".txnindex")


def test_of_an_aborted_transaction_is_known_what_is_left_of_it(tmp_path):
    """Where the keys are too many for one round, it stops before its data."""
    log = new_log(tmp_path, cleanup_policy=("compact",))
    put(log, b"a")
    put(log, b"b")
    put(log, b"a", producer_id=7, producer_epoch=0, base_sequence=0, transactional=True)
    log.append_as_leader(marker(ABORT, producer=7), 0, NOW)
    log.roll()
    log.flush()
    clean(log, NOW, keys=1)
    assert offsets(log) == [0, 1, 2, 3]
    assert list(log.segments[0].transaction_index) == [(7, 2, 3, 4)]
    again = load_log(log, clean=True, cleanup_policy=("compact",))
    assert list(again.segments[0].transaction_index) == [(7, 2, 3, 4)]
    clean(again, NOW)
    assert offsets(again) == [0, 1, 3]
    assert not list(again.segments[0].transaction_index)


# Readers.


def test_readers_of_the_old_segments_go_on(log):
    expected = log.segments[0].read(0, log.segments[0].size)
    part = log.read(0, 1 << 20, upper_bound=20, at_least_one=True)
    clean(log, NOW)
    log._disk.purge(0)
    log._disk.purge(log.config.file_delete_delay_ms)
    assert part.intact
    assert part.read() == expected[: part.size]
    assert os.pread(part.fileno(), part.size, part.position) == expected[: part.size]
    part.release()


def test_look_ups_by_time_that_met_the_swap_find_the_rest(log):
    segments = log.segments
    clean(log, NOW)
    assert not segments[0].try_acquire()
    assert log.offset_for_timestamp(1000, upper_bound=20).offset == offsets(log)[0]
    assert log.max_timestamp_offset().offset == offsets(log)[0]


# Who comes in between.


@pytest.mark.parametrize("turns", range(1, 9))
def test_a_truncation_ends_the_cleaning(log, turns):
    jobs = start_cleaning(log, NOW).steps()
    run(jobs, turns)
    log.truncate_to(3)
    before = records_in(log)
    with pytest.raises(CleaningAborted):
        run(jobs)
    assert records_in(log) == before
    assert not log.is_being_cleaned
    assert not names(log, ".cleaned")
    assert not names(log, ".swap")


@pytest.mark.parametrize("turns", range(1, 9))
def test_a_closed_log_is_left_alone(log, turns):
    before = sorted(names(log, ".log"))
    jobs = start_cleaning(log, NOW).steps()
    run(jobs, turns)
    log.close(clean=False)
    with pytest.raises((CleaningAborted, StorageError)):
        run(jobs)
    assert sorted(names(log, ".log")) == before
    assert not log._disk.files._paths, "every file was closed"


def test_whoever_stops_early_leaves_no_file(log):
    before = records_in(log)
    jobs = start_cleaning(log, NOW).steps()
    for job in jobs:
        job()
        if names(log, ".cleaned"):
            break
    else:
        pytest.fail("nothing was begun")
    jobs.close()
    assert not names(log, ".cleaned")
    assert records_in(log) == before
    clean(log, NOW)
    log._disk.purge(0)
    assert len(records_in(log)) < len(before)


def test_appends_and_rolls_do_not_disturb(log):
    for number, job in enumerate(start_cleaning(log, NOW).steps()):
        job()
        put(log, b"new-%d" % number)
    found = records_in(log)
    assert {kept.key for kept in found.values()} >= {b"new-0", b"new-1", b"0", b"4"}
    log.check()
    verify_places(log, [])


def test_retention_waits_for_the_cleaning(tmp_path):
    log = filled(tmp_path, cleanup_policy=("compact", "delete"), retention_ms=1)
    jobs = start_cleaning(log, NOW).steps()
    run(jobs, 2)
    assert log.delete_old_segments(NOW, 20) == 0
    run(jobs)
    assert log.delete_old_segments(NOW, 20) == 2
    assert log.log_start_offset == 20


def test_below_the_log_start_goes_even_what_is_compacted_only(log):
    clean(log, NOW)
    active = log.segment_bases[-1]
    log.advance_log_start_offset(active)
    assert log.delete_old_segments(NOW, 20) == 1
    assert log.segment_bases == (active,)


# What is not as it should be.


def test_a_batch_that_is_not_sound_is_not_rewritten(log):
    segment = log.segments[1]
    with open(segment.path, "r+b") as file:
        file.seek(70)
        file.write(b"\xff")
    before = [segment.read(0, segment.size) for segment in log.segments]
    with pytest.raises(ApiError) as caught:
        clean(log, NOW)
    assert caught.value.code is ErrorCode.CORRUPT_MESSAGE
    assert segment.path in caught.value.message
    assert [segment.read(0, segment.size) for segment in log.segments] == before
    assert (log.cleaned_to, log.is_being_cleaned) == (None, False)
    assert not names(log, ".cleaned")


def test_records_that_are_none_are_not_rewritten(tmp_path):
    log = new_log(tmp_path, **COMPACT)
    raw = build_batch([Record(b"k", b"v", 1)] * 2)
    struct.pack_into(">i", raw, 57, 1)
    good = build_batch([Record(b"k", b"v", 1)])
    seal(raw)
    log.append_as_leader(Batch(memoryview(raw)), 0, NOW)
    log.append_as_leader(Batch(memoryview(good)), 0, NOW)
    log.roll()
    log.flush()
    with pytest.raises(ApiError):
        clean(log, NOW)
    assert log.cleaned_to is None


FAULTS = [
    (operation, n, fault)
    for operation, fault, count in (
        ("write", errno.ENOSPC, 4),
        ("write", FaultyFiles.SHORT, 2),
        ("open", errno.EMFILE, 6),
        ("read", errno.EIO, 3),
        ("fsync", errno.EIO, 5),
        ("rename", errno.EIO, 12),
        ("utime", errno.EIO, 1),
    )
    for n in range(1, count + 1)
]


@pytest.mark.parametrize(("operation", "n", "fault"), FAULTS)
def test_a_disk_that_fails_leaves_the_old_or_the_new(tmp_path, operation, n, fault):
    files = FaultyFiles()
    log = filled(tmp_path, files=files)
    before = records_in(log)
    files.arm(**{operation: [None] * (n - 1) + [fault]})
    try:
        clean(log, NOW)
    except StorageError:
        assert fault != FaultyFiles.SHORT
        if log._disk.offline is None:
            assert records_in(log) == before
            assert not names(log, ".cleaned")
            assert not names(log, ".swap")
            files.arm()
            clean(log, NOW)
    files.arm()
    again = load_log(log, files=files, **COMPACT)
    active = again.segment_bases[-1]
    after = {o: kept for o, kept in before.items() if o >= active - 5}
    assert after.items() <= records_in(again).items() <= before.items()
    again.flush()
    clean(again, NOW)
    assert records_in(again) == after
