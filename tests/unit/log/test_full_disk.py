"""A disk that is full: nothing is lost or half written, and it goes on when there is room again."""

import errno
import logging
import uuid
from random import Random

import pytest
from log_builders import append, batch_of, everything, fill, load_log, new_log, sized
from log_disks import FaultyFiles, ForgetfulFiles
from log_world import World, verify_recovered

from zkafka.config import LogConfig
from zkafka.errors import DiskFull, StorageError
from zkafka.log.directory import LogDirectory
from zkafka.model import TopicPartition

A0 = TopicPartition("a", 0)
SMALL = {"segment_bytes": 300, "index_interval_bytes": 0}
FULL = [errno.ENOSPC]


@pytest.mark.parametrize("seed", range(40))
def test_a_log_on_a_disk_that_fills_up_is_the_list_of_what_was_taken(seed):
    """Room comes and goes, in the middle of any write; what was refused is not there."""
    rng = Random(seed)
    world = World(ForgetfulFiles(), rng)
    for _ in range(40):
        if rng.random() < 0.2:
            world.files.room = None if world.files.room is not None else rng.randint(0, 500)
        try:
            world.step()
        except DiskFull:
            if world.directory.offline is not None or world.log.closed:
                break  # A truncation that could not be written down; a stop that was not clean.
            world.take_over()
        world.verify()
    verify_recovered(world, world.files.after_power_cut(rng))


@pytest.fixture
def files():
    return FaultyFiles()


@pytest.fixture
def directory(tmp_path, files):
    directory = LogDirectory.open(str(tmp_path), files)
    directory.load(lambda topic: LogConfig(**SMALL))
    yield directory
    files.arm()
    directory.close(clean=False)


@pytest.mark.parametrize("faults", [FULL, [FaultyFiles.SHORT, errno.ENOSPC], [errno.EDQUOT]])
def test_a_batch_that_does_not_fit_is_cut_off_and_the_next_one_taken(tmp_path, files, faults):
    log = new_log(tmp_path, files, **SMALL)
    fill(log, 2)
    files.arm(write=faults)
    batch = sized(100)
    sent = bytes(batch.view)
    with pytest.raises(DiskFull):
        append(log, batch)
    assert batch.view == sent
    assert everything(log) == [(0, 0), (1, 0)]
    append(log, sized(100), epoch=3)
    assert everything(load_log(log, **SMALL)) == [(0, 0), (1, 0), (2, 3)]


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_segment_that_cannot_be_begun_is_begun_later(tmp_path, files, nth):
    """Of a roll: the two indexes, the snapshot, the first batch in the new file."""
    log = new_log(tmp_path, files, **SMALL)
    fill(log, 3)
    files.arm(write=[*[None] * (nth - 1), errno.ENOSPC])
    refused = 0
    while log.log_end_offset < 4:
        try:
            append(log, sized(100))
        except DiskFull:
            refused += 1
    assert refused == 1
    log.check()
    assert log.segment_bases == (0, 3)
    assert everything(load_log(log, clean=True, **SMALL)) == [(n, 0) for n in range(4)]


def test_a_flush_without_room_promises_nothing_and_is_repeated(tmp_path, files):
    log = new_log(tmp_path, files, **SMALL)
    fill(log, 5)
    files.arm(write=FULL)
    with pytest.raises(DiskFull):
        log.flush()
    assert log.recovery_point == 0
    log.flush()
    assert log.recovery_point == 5


def test_an_fsync_without_room_has_lost_what_was_written(directory, files):
    log = directory.create(A0, None, LogConfig(**SMALL))
    fill(log, 1)
    files.arm(fsync=FULL)
    with pytest.raises(StorageError):
        log.flush()
    assert directory.offline is not None


def test_a_checkpoint_without_room_keeps_the_one_before(directory, files):
    directory.write_high_watermarks({A0: 3})
    files.arm(write=FULL)
    with pytest.raises(DiskFull):
        directory.write_high_watermarks({A0: 4})
    assert directory.offline is None
    assert directory.read_high_watermarks() == {A0: 3}
    directory.write_high_watermarks({A0: 4})
    assert directory.read_high_watermarks() == {A0: 4}


@pytest.mark.parametrize("plan", [{"mkdir": FULL}, {"open": FULL}, {"write": FULL}])
def test_a_partition_that_could_not_be_made_can_be_made_later(directory, files, plan):
    files.arm(**plan)
    with pytest.raises(DiskFull):
        directory.create(A0, uuid.UUID(int=1), LogConfig())
    assert directory.offline is None
    files.arm()
    append(directory.create(A0, uuid.UUID(int=1), LogConfig()), batch_of(b"a"))
    assert directory.sync() == 1


def test_a_sync_without_room_is_done_whole_the_next_time(directory, files):
    """Of a topic created anew: the checkpoint must forget the old one first."""
    log = directory.create(A0, None, LogConfig())
    fill(log, 4)
    log.flush()
    directory.write_recovery_points()
    directory.schedule_delete(log)
    directory.create(A0, None, LogConfig())
    files.arm(write=FULL)
    with pytest.raises(DiskFull):
        directory.sync()
    assert directory.offline is None
    assert directory.sync() == 2
    path = f"{directory.path}/recovery-point-offset-checkpoint"
    assert files.read_file(path) == b"0\n0\n"


def test_a_log_start_that_could_not_be_written_is_still_corrected(directory, files):
    """The checkpoint on disk says 2; that a later one could not be written must not hide it."""
    log = directory.create(A0, None, LogConfig(segment_bytes=300))
    fill(log, 7)
    log.advance_log_start_offset(2)
    directory.write_log_start_offsets()
    log.advance_log_start_offset(3)
    log.delete_old_segments(0, 7)
    files.arm(write=FULL)
    with pytest.raises(DiskFull):
        directory.write_log_start_offsets()
    log.truncate_fully_and_start_at(1)
    text = files.read_file(f"{directory.path}/log-start-offset-checkpoint")
    assert text == b"0\n0\n"


def test_retention_frees_a_full_disk(directory, files):
    log = directory.create(A0, None, LogConfig(**SMALL, retention_bytes=300, retention_ms=None))
    fill(log, 10)
    files.arm(write=[errno.ENOSPC] * 20)
    assert log.delete_old_segments(0, 10) == 2
    assert directory.offline is None


def test_retention_that_needs_room_for_an_empty_segment_waits(directory, files):
    log = directory.create(A0, None, LogConfig(**SMALL, retention_ms=10))
    append(log, sized(100, timestamp=5))
    files.arm(write=FULL)
    with pytest.raises(DiskFull):
        log.delete_old_segments(1000, 1)
    assert directory.offline is None
    assert log.delete_old_segments(1000, 1) == 1
    assert (log.log_start_offset, log.log_end_offset) == (1, 1)


def test_a_start_on_a_full_disk_reads_everything(directory, files, tmp_path, caplog):
    log = directory.create(A0, None, LogConfig(**SMALL))
    fill(log, 10)
    gone = directory.create(TopicPartition("gone", 0), None, LogConfig())
    gone.flush()
    directory.write_recovery_points()
    directory.schedule_delete(gone)
    directory.close(clean=False)
    again = LogDirectory.open(str(tmp_path), files)
    files.arm(write=[errno.ENOSPC] * 20)
    with caplog.at_level(logging.WARNING):
        log = again.load(lambda topic: LogConfig(**SMALL))[A0]
    assert everything(log) == [(n, 0) for n in range(10)]
    assert "indexes not saved" in caplog.text
    assert "checkpoints not cleaned" in caplog.text
    with pytest.raises(DiskFull):
        append(log, sized(100))
    files.arm()
    append(log, sized(100))
    again.sync()
    assert files.read_file(f"{again.path}/recovery-point-offset-checkpoint") == b"0\n1\na 0 0\n"
    again.close(clean=True)
    assert again.offline is None


def test_a_stop_on_a_full_disk_leaves_no_mark(directory, files, tmp_path):
    fill(directory.create(A0, None, LogConfig(**SMALL)), 4)
    files.arm(write=FULL)
    with pytest.raises(DiskFull):
        directory.close(clean=True)
    files.arm()
    again = LogDirectory.open(str(tmp_path), files)
    assert not again.clean
    assert again.load(lambda topic: LogConfig(**SMALL))[A0].log_end_offset == 4
    again.close(clean=False)
