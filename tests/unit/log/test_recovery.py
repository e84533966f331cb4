"""What a start makes of the files it finds."""

import errno
import os
import struct
import uuid
from pathlib import Path, PurePosixPath
from random import Random

import pytest
from log_builders import (
    ABORT,
    COMMIT,
    append,
    batch_of,
    everything,
    load_log,
    marker,
    new_log,
    read,
    sized,
)
from log_disks import FaultyFiles, ForgetfulFiles
from log_world import read_all, verify_transactions

from zkafka.errors import StorageError
from zkafka.log.recovery import format_metadata, parse_metadata

SMALL = {"segment_bytes": 300, "index_interval_bytes": 0}


@pytest.fixture
def log(tmp_path):
    log = new_log(tmp_path, **SMALL)
    for epoch in range(10):
        append(log, sized(100, timestamp=1000 + epoch), epoch=epoch)
    return log


def file(log, name):
    return Path(log.path, name)


def segment(log, base, suffix=".log"):
    return file(log, f"{base:020d}{suffix}")


def damage(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def test_after_a_clean_stop_everything_is_as_it_was(log):
    again = load_log(log, clean=True, **SMALL)
    assert everything(again) == [(n, n) for n in range(10)]
    assert again.recovery_point == 10
    assert again.epochs.entries == tuple((n, n) for n in range(10))
    assert append(again, sized(100), epoch=11)[0].base_offset == 10
    again.check()


def test_a_clean_stop_leaves_what_kafka_wants_to_find(log):
    log.close(clean=True)
    names = sorted(os.listdir(log.path))
    assert names == sorted(
        [f"{base:020d}{suffix}" for base in (0, 3, 6, 9) for suffix in SUFFIXES]
        + [f"{offset:020d}.snapshot" for offset in (3, 6, 9, 10)]
        + ["leader-epoch-checkpoint"]
    )
    # (last offset - base, position) of the second and third batch; the first needs none.
    assert segment(log, 3, ".index").read_bytes() == struct.pack(">iiii", 1, 100, 2, 200)
    # (largest timestamp, its offset - base), with an entry for the end.
    assert segment(log, 3, ".timeindex").read_bytes() == struct.pack(">qiqi", 1004, 1, 1005, 2)
    assert segment(log, 9, ".index").read_bytes() == b""
    assert segment(log, 9, ".timeindex").read_bytes() == struct.pack(">qi", 1009, 0)


SUFFIXES = (".log", ".index", ".timeindex")


def test_a_log_untouched_since_a_clean_start_is_closed_without_a_write(log):
    again = load_log(log, clean=True, **SMALL)
    before = {name: os.stat(file(log, name)).st_mtime_ns for name in os.listdir(log.path)}
    again.close(clean=True)
    after = {name: os.stat(file(log, name)).st_mtime_ns for name in os.listdir(log.path)}
    assert before == after


def test_after_a_crash_it_is_read_again_from_the_recovery_point(log):
    log.flush()
    damage(segment(log, 0), 90)
    # Below the recovery point nothing is read, and the damage not seen.
    again = load_log(log, recovery_point=10, **SMALL)
    assert again.log_end_offset == 10
    # From 4 on the segment that holds it is, but not the first one.
    again = load_log(again, recovery_point=4, **SMALL)
    assert again.log_end_offset == 10
    again = load_log(again, recovery_point=2, **SMALL)
    assert again.log_end_offset == 0


@pytest.mark.parametrize(("base", "position", "end"), [(0, 199, 1), (3, 170, 4), (9, 9, 9)])
def test_the_log_ends_before_the_first_damaged_batch(log, base, position, end):
    damage(segment(log, base), position)
    again = load_log(log, **SMALL)
    assert everything(again) == [(n, n) for n in range(end)]
    assert again.epochs.entries == tuple((n, n) for n in range(end))
    assert again.recovery_point == 0
    assert again.segment_bases[-1] <= end
    again.check()
    append(again, sized(100), epoch=20)
    assert everything(load_log(again, **SMALL))[-1] == (end, 20)


@pytest.mark.parametrize("kept", [0, 1, 16, 60, 61, 99])
def test_a_torn_batch_is_cut_off(log, kept):
    with segment(log, 9).open("ab") as active:
        active.write(sized(100, base_offset=10).view[:kept])
    again = load_log(log, **SMALL)
    assert again.log_end_offset == 10
    assert segment(log, 9).stat().st_size == 100


def test_zeros_at_the_end_are_cut_off(log):
    with segment(log, 9).open("ab") as active:
        active.write(bytes(5000))
    assert load_log(log, **SMALL).log_end_offset == 10
    assert segment(log, 9).stat().st_size == 100


@pytest.mark.parametrize("ahead", [1, 5, 2**31 - 10, 2**40])
def test_offsets_that_jump_ahead_end_the_log(log, ahead):
    """A base offset is outside the checksum: a flipped bit must not renumber records."""
    with segment(log, 9).open("ab") as active:
        active.write(sized(100, base_offset=10 + ahead, leader_epoch=9).view)
    again = load_log(log, recovery_point=10, **SMALL)
    assert again.log_end_offset == 10
    assert segment(again, 9).stat().st_size == 100


def test_offsets_that_jump_ahead_below_the_recovery_point_are_kept(log):
    """What was flushed is not thrown away for a gap: it may be a compacted leader's."""
    log.flush()
    with segment(log, 9).open("ab") as active:
        active.write(sized(100, base_offset=12, leader_epoch=9).view)
    assert load_log(log, recovery_point=13, **SMALL).log_end_offset == 13


def test_offsets_that_go_back_end_the_log(log):
    with segment(log, 9).open("ab") as active:
        active.write(sized(100, base_offset=9).view)
    assert load_log(log, **SMALL).log_end_offset == 10


def test_a_hole_between_segments_ends_the_log(log):
    with segment(log, 3).open("r+b") as middle:
        middle.truncate(200)
    again = load_log(log, **SMALL)
    assert again.log_end_offset == 5
    assert again.segment_bases == (0, 3)


def test_a_hole_that_compaction_left_does_not(log):
    with segment(log, 3).open("r+b") as middle:
        middle.truncate(200)
    again = load_log(log, cleanup_policy=("compact",), **SMALL)
    assert again.log_end_offset == 10
    assert read(again, 5) == [(6, 6), (7, 7), (8, 8)]


def test_a_stop_that_was_not_as_clean_as_it_says_is_recovered(log):
    log.close(clean=True)
    with segment(log, 9).open("ab") as active:
        active.write(b"not a batch")
    again = load_log(log, clean=True, **SMALL)
    assert again.log_end_offset == 10
    assert segment(log, 9).stat().st_size == 100


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize("damaged", [True, False])
def test_a_missing_or_damaged_index_is_rebuilt(log, suffix, damaged):
    log.close(clean=True)
    whole = {base: segment(log, base, suffix).read_bytes() for base in (0, 3, 6, 9)}
    for base in whole:
        path = segment(log, base, suffix)
        if damaged:
            path.write_bytes(b"odd")
        else:
            path.unlink()
    again = load_log(log, clean=True, **SMALL)
    assert [read(again, n, 1)[0] for n in range(10)] == [(n, n) for n in range(10)]
    assert again.offset_for_timestamp(1007, upper_bound=10) == (1007, 7, 7)
    for base in whole:
        found = next(s for s in again._segments if s.base_offset == base)
        found.load_indexes()
        found.save_indexes()
        rebuilt = segment(log, base, suffix).read_bytes()
        # A rebuild long after the start spaces entries as by default: the end is there in any case.
        assert whole[base].endswith(rebuilt)


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_a_bit_that_flips_in_an_index_is_never_believed(suffix):
    """Any bit, in a sealed segment and in the last one: look-ups answer as before."""
    files = ForgetfulFiles()
    files.make_directories("/data")
    settings = {"segment_bytes": 500, "index_interval_bytes": 0, "files": files}
    log = new_log(PurePosixPath("/data"), **settings)
    for n in range(9):
        append(log, sized(100, timestamp=1000 + 10 * n), epoch=n // 4)
    log.close(clean=True)
    for base in (0, 5):
        path = str(segment(log, base, suffix))
        whole = files.read_file(path)
        for bit in range(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            files.write_file(path, flipped)
            again = load_log(log, clean=True, **settings)
            assert again.log_end_offset == 9
            for n in range(base, min(base + 5, 9)):
                assert read(again, n, 1) == [(n, n)], bit
                found = again.offset_for_timestamp(1000 + 10 * n - 5, upper_bound=9)
                assert found == (1000 + 10 * n, n, n // 4), bit
            again.close(clean=False)
        files.write_file(path, whole)


def test_a_batch_that_is_damaged_below_the_recovery_point_is_an_error_not_a_gap(log):
    """A reader must not be led past records that are there."""
    log.close(clean=True)
    damage(segment(log, 3), 100 + 8)  # The length of the second of three.
    again = load_log(log, clean=True, **SMALL)
    assert read(again, 3, 1) == [(3, 3)]
    for offset in (4, 5):
        with pytest.raises(StorageError, match=r"damaged at position 100"):
            again.read(offset, 1, upper_bound=10, at_least_one=True)
    assert read(again, 6, 1) == [(6, 6)]


def test_recovery_builds_the_indexes_that_appending_did(log):
    log.close(clean=True)
    paths = [segment(log, base, suffix) for base in (0, 3, 6, 9) for suffix in SUFFIXES]
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        if path.suffix != ".log":
            path.unlink()
    again = load_log(log, **SMALL)
    again.close(clean=True)
    assert [path.read_bytes() for path in paths] == whole


@pytest.mark.parametrize("recovery_point", [0, 4, 9, 10])
def test_producers_are_known_after_a_crash(tmp_path, recovery_point):
    log = new_log(tmp_path, **SMALL)
    for n in range(10):
        producer = {"producer_id": n % 2, "producer_epoch": 0, "base_sequence": n // 2}
        append(log, sized(100, **producer))
    log.flush()
    again = load_log(log, recovery_point=recovery_point, **SMALL)
    assert [again.producers.get(n).last_sequence for n in (0, 1)] == [4, 4]
    repeat = batch_of(b"", producer_id=1, producer_epoch=0, base_sequence=4)
    assert append(again, repeat)[0] == (9, 9, True)


def test_producers_are_known_without_any_snapshot(tmp_path):
    log = new_log(tmp_path, **SMALL)
    for n in range(10):
        append(log, sized(100, producer_id=7, producer_epoch=0, base_sequence=n))
    log.close(clean=True)
    for snapshot in Path(log.path).glob("*.snapshot"):
        snapshot.unlink()
    assert load_log(log, clean=True, **SMALL).producers.get(7).last_sequence == 9


def test_a_log_start_inside_a_segment_comes_back_from_the_checkpoint(log):
    again = load_log(log, log_start_offset=4, **SMALL)
    assert again.log_start_offset == 4
    assert again.epochs.entries[0] == (4, 4)


def test_a_log_start_above_all_that_is_left_empties_the_log(log):
    again = load_log(log, log_start_offset=15, **SMALL)
    assert (again.log_start_offset, again.log_end_offset) == (15, 15)
    assert again.segment_bases == (15,)
    again.check()


def test_a_log_start_above_the_end_of_a_clean_stop_is_not_believed(log):
    """One flipped digit in a checkpoint must not empty the log."""
    again = load_log(log, clean=True, log_start_offset=15, **SMALL)
    assert (again.log_start_offset, again.log_end_offset) == (0, 10)


def test_a_directory_without_segments_is_an_empty_log(tmp_path):
    log = new_log(tmp_path)
    segment(log, 0).unlink()
    again = load_log(log, log_start_offset=5)
    assert (again.log_start_offset, again.log_end_offset) == (5, 5)


def test_damaged_epochs_are_built_from_the_batches(log):
    log.close(clean=True)
    file(log, "leader-epoch-checkpoint").write_text("0\n99\n0 0\n")
    again = load_log(log, clean=True, **SMALL)
    assert again.epochs.entries == tuple((n, n) for n in range(10))


@pytest.mark.parametrize("recovery_point", [0, 10])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("data", [None, b"", b"0\n0\n", b"\x00" * 30, b"0\n2\n5 0\n3 4\n"])
def test_lost_epochs_are_built_from_the_batches(log, clean, recovery_point, data):
    log.close(clean=True)
    path = file(log, "leader-epoch-checkpoint")
    path.unlink() if data is None else path.write_bytes(data)
    again = load_log(log, clean=clean, recovery_point=recovery_point, **SMALL)
    assert again.epochs.entries == tuple((n, n) for n in range(10))
    assert again.log_end_offset == 10


def test_epochs_that_do_not_know_the_last_batch_are_built_anew(log):
    log.close(clean=True)
    file(log, "leader-epoch-checkpoint").write_text("0\n1\n8 8\n")
    again = load_log(log, clean=True, recovery_point=10, **SMALL)
    assert again.epochs.entries == ((8, 8), (9, 9))


def test_epochs_beyond_the_end_are_forgotten(log):
    log.close(clean=True)
    entries = [(n, n) for n in range(10)]
    lines = "".join(f"{epoch} {start}\n" for epoch, start in [*entries, (12, 10)])
    file(log, "leader-epoch-checkpoint").write_text(f"0\n11\n{lines}")
    assert load_log(log, clean=True, **SMALL).epochs.entries == tuple(entries)


def test_leftovers_are_swept_up(log):
    log.close(clean=True)
    leftovers = [
        "00000000000000000000.log.deleted",
        "00000000000000000003.log.cleaned",
        "leader-epoch-checkpoint.tmp",
        "00000000000000000077.index",
        "00000000000000000077.timeindex",
        "00000000000000000002.snapshot",
        "00000000000000000099.snapshot",
    ]
    for name in leftovers:
        file(log, name).write_bytes(b"")
    load_log(log, clean=True, **SMALL)
    assert not set(leftovers) & set(os.listdir(log.path))


def test_a_finished_compaction_is_put_in_place(log):
    log.close(clean=True)
    # The first two segments, rewritten as one that keeps offsets 1 and 5.
    kept = b"".join(
        bytes(sized(100, base_offset=offset, leader_epoch=offset).view) for offset in (1, 5)
    )
    segment(log, 0, ".log.swap").write_bytes(kept)
    segment(log, 0, ".index.swap").write_bytes(b"")
    segment(log, 0, ".timeindex.swap").write_bytes(struct.pack(">qi", 1000, 1))
    again = load_log(log, clean=True, cleanup_policy=("compact",), **SMALL)
    assert again.segment_bases == (0, 6, 9)
    assert [base for base, _ in everything(again)] == [1, 5, 6, 7, 8, 9]


def test_of_a_replaced_segment_no_index_is_left(log):
    """The power went when its .log and all but one index were renamed."""
    log.close(clean=True)
    kept = b"".join(
        bytes(sized(100, base_offset=offset, leader_epoch=offset).view) for offset in (1, 5)
    )
    segment(log, 0, ".log.swap").write_bytes(kept)
    for suffix in (".log", ".index", ".timeindex"):
        segment(log, 0, suffix).rename(segment(log, 0, suffix + ".deleted"))
    segment(log, 0, ".txnindex").write_bytes(struct.pack(">hqqqq", 0, 9, 0, 1, 2))
    again = load_log(log, clean=True, cleanup_policy=("compact",), **SMALL)
    assert [base for base, _ in everything(again)] == [1, 5, 6, 7, 8, 9]
    assert not any(known(again).values())


def test_an_unfinished_split_is_dropped(log):
    log.close(clean=True)
    segment(log, 3, ".log.swap").write_bytes(bytes(sized(100, base_offset=3).view))
    segment(log, 0, ".log.cleaned").write_bytes(b"")
    again = load_log(log, clean=True, **SMALL)
    assert everything(again) == [(n, n) for n in range(10)]


def test_the_topic_id_file_is_read_as_kafka_writes_it():
    topic_id = uuid.uuid4()
    assert parse_metadata(format_metadata(topic_id)) == topic_id
    assert parse_metadata(b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAACQ\n") == uuid.UUID(int=9)


@pytest.mark.parametrize("data", [b"", b"version: 1\n", b"\xff\xfe", b"version: 0\ntopic_id: AAA"])
def test_an_unreadable_topic_id_is_none_and_may_be_assigned_again(tmp_path, data):
    log = new_log(tmp_path)
    file(log, "partition.metadata").write_bytes(data)
    again = load_log(log)
    assert again.topic_id is None
    again.assign_topic_id(uuid.UUID(int=7))
    assert load_log(again).topic_id == uuid.UUID(int=7)


@pytest.mark.parametrize("kind", ["missing", "empty", "flipped"])
@pytest.mark.parametrize("clean", [True, False])
def test_producers_survive_their_last_snapshot(tmp_path, kind, clean):
    log = new_log(tmp_path, **SMALL)
    for n in range(10):
        append(log, sized(100, producer_id=7, producer_epoch=0, base_sequence=n))
    log.close(clean=True)
    path = file(log, f"{10:020d}.snapshot")
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        damage(path, 20)
    again = load_log(log, clean=clean, recovery_point=10, **SMALL)
    assert [batch.last_sequence for batch in again.producers.get(7).batches] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("base", [0, 3, 9])
@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_segment_lost_in_a_crash_ends_the_log_before_it(log, base, kind):
    """All above the recovery point: what follows a hole is nobody's."""
    log.close(clean=False)
    path = segment(log, base)
    path.unlink() if kind == "missing" else path.write_bytes(b"")
    again = load_log(log, **SMALL)
    expected = [(n, n) for n in range(10)]
    if base == 0 and kind == "missing":
        # As retention leaves it: the log begins with the next one.
        assert everything(again) == expected[3:]
    else:
        assert everything(again) == expected[:base]
    again.check()


@pytest.mark.parametrize(
    "name", ["x.swap", "notes.log.cleaned", "notes.log.swap", "x.log", "1.snapshot"]
)
def test_files_of_others_are_left_alone(log, name):
    log.close(clean=True)
    file(log, name).write_bytes(b"whatever")
    again = load_log(log, clean=True, **SMALL)
    assert again.log_end_offset == 10
    assert file(log, name).exists()


def test_a_file_of_ours_that_cannot_be_read_stops_the_load(log):
    log.close(clean=True)
    segment(log, 9).unlink()
    segment(log, 9).mkdir()
    with pytest.raises(StorageError):
        load_log(log, clean=True, **SMALL)


@pytest.mark.parametrize("seed", range(20))
def test_a_flush_makes_a_cut_last_of_which_all_that_is_left_was_flushed_before(seed):
    """Else the power may bring back what was cut, and keep the segment that came after."""
    files = ForgetfulFiles()
    files.make_directories("/data")
    files.fsync_path("/")
    log = new_log(PurePosixPath("/data"), files, segment_bytes=500)
    append(log, *(sized(100) for _ in range(5)))
    log.flush()
    log.truncate_to(2)
    log.flush()
    append(log, *(sized(100) for _ in range(5)), epoch=1)
    assert log.segment_bases == (0, 5)
    again = load_log(log, files=files.after_power_cut(Random(seed)), segment_bytes=500)
    found = everything(again)
    assert found[:2] == [(0, 0), (1, 0)]
    assert {epoch for _, epoch in found[2:]} <= {1}


# Transactions.


def with_transactions(tmp_path):
    """Two batches a segment, and what is known of the aborted transactions in each."""
    log = new_log(tmp_path, index_interval_bytes=0)
    for pair in (
        (transactional(1, 0), transactional(2, 0)),
        (marker(COMMIT, producer=1), transactional(1, 1)),
        (marker(ABORT, producer=2), sized(100)),
        (marker(ABORT, producer=1), sized(100)),
        (transactional(3, 0),),
    ):
        log.roll()
        append(log, *pair)
    return log, {0: [], 2: [], 4: [(2, 1, 4, 3)], 6: [(1, 3, 6, 7)], 8: []}


def transactional(producer, sequence):
    return sized(
        100, producer_id=producer, producer_epoch=0, base_sequence=sequence, transactional=True
    )


def known(log):
    return {segment.base_offset: list(segment.transaction_index) for segment in log.segments}


def test_aborted_transactions_are_kept_as_kafka_keeps_them(tmp_path):
    log, aborted = with_transactions(tmp_path)
    log.flush()
    indexes = sorted(Path(log.path).glob("*.txnindex"))
    bases = [base for base, some in aborted.items() if some]
    assert [path.name for path in indexes] == [f"{base:020d}.txnindex" for base in bases]
    for path, base in zip(indexes, bases, strict=True):
        assert path.read_bytes() == struct.pack(">hqqqq", 0, *aborted[base][0])


@pytest.mark.parametrize(("clean", "recovery_point"), [(True, 0), (False, 0), (False, 5)])
@pytest.mark.parametrize("damage", [None, "cut", "zeros", "other version", "beyond"])
def test_aborted_transactions_are_known_again(tmp_path, caplog, clean, recovery_point, damage):
    log, aborted = with_transactions(tmp_path)
    assert known(log) == aborted
    log.flush()
    for path in Path(log.path).glob("*.txnindex"):
        match damage:
            case "cut":
                path.write_bytes(path.read_bytes()[:33])
            case "zeros":
                path.write_bytes(bytes(34))
            case "other version":
                path.write_bytes(b"\0\1" + path.read_bytes()[2:])
            case "beyond":
                path.write_bytes(struct.pack(">hqqqq", 0, 2, 1, 40, 3))
    again = load_log(log, clean=clean, recovery_point=recovery_point, index_interval_bytes=0)
    assert known(again) == aborted
    assert ("rebuilding the transaction index" in caplog.text) == (damage is not None)
    assert again.last_stable_offset(9) == 8
    verify_transactions(again, read_all(again))
    caplog.clear()
    last = load_log(again, clean=True, index_interval_bytes=0)
    assert known(last) == aborted
    assert "rebuilding" not in caplog.text, "once is enough"


def test_an_index_without_a_transaction_to_tell_of_is_emptied(tmp_path, caplog):
    log, aborted = with_transactions(tmp_path)
    log.close(clean=True)
    segment(log, 2, ".txnindex").write_bytes(b"?")
    again = load_log(log, clean=True, index_interval_bytes=0)
    assert known(again) == aborted
    assert segment(log, 2, ".txnindex").read_bytes() == b""


def test_on_a_full_disk_a_rebuilt_transaction_index_is_not_saved_and_no_harm(tmp_path, caplog):
    log, aborted = with_transactions(tmp_path)
    log.close(clean=True)
    segment(log, 4, ".txnindex").write_bytes(b"?")
    files = FaultyFiles()
    files.arm(write=[errno.ENOSPC])
    again = load_log(log, clean=True, files=files, index_interval_bytes=0)
    assert known(again) == aborted
    assert "transaction index not saved" in caplog.text
    assert segment(log, 4, ".txnindex").read_bytes() == b"?"


def test_transactions_are_as_they_were_after_a_truncation(tmp_path):
    log, aborted = with_transactions(tmp_path)
    log.truncate_to(6)
    assert known(log) == {base: aborted[base] for base in (0, 2, 4, 6)} | {6: []}
    assert log.last_stable_offset(6) == 3
    log.truncate_to(4)
    assert not any(known(log).values())
    assert log.last_stable_offset(4) == 1
    again = load_log(log, clean=True, index_interval_bytes=0)
    verify_transactions(again, read_all(again))
