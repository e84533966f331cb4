"""The disk seam, and what a log does when the disk refuses: every kind of refusal, once."""

import errno
import os

import pytest
from log_builders import append, batch_of, everything, fill, load_log, new_log, read, sized
from log_disks import FaultyFiles

from zkafka.errors import StorageError
from zkafka.log.files import Files
from zkafka.log.partition_log import Appended
from zkafka.protocol.records import parse_batches

SHORT = FaultyFiles.SHORT


# The seam itself.


def test_buffers_are_written_back_to_back_however_many(tmp_path):
    files = Files()
    fd = files.open(str(tmp_path / "f"), create=True)
    buffers = [b"%d," % number for number in range(3000)]  # Three times IOV_MAX.
    files.write(fd, buffers, 5)
    assert files.read(fd, 100_000, 5) == b"".join(buffers)
    assert files.size(fd) == 5 + len(b"".join(buffers))
    files.close(fd)


def test_a_short_write_is_continued(tmp_path):
    files = FaultyFiles()
    fd = files.open(str(tmp_path / "f"), create=True)
    files.arm(write=[SHORT, SHORT])
    files.write(fd, [b"abc", b"defgh"], 0)
    assert files.read(fd, 100, 0) == b"abcdefgh"
    assert files.counts["write"] == 3
    files.close(fd)


def test_a_failure_names_the_path(tmp_path):
    files = Files()
    path = str(tmp_path / "missing" / "f")
    with pytest.raises(StorageError, match=r"open .*missing/f: No such file") as failed:
        files.open(path, create=True)
    assert failed.value.path == path
    assert isinstance(failed.value.__cause__, FileNotFoundError)


def test_what_is_not_there_is_an_ordinary_answer(tmp_path):
    files = Files()
    path = str(tmp_path / "f")
    assert files.read_file(path) is None
    assert not files.exists(path)
    files.unlink(path)
    files.remove_tree(path)


@pytest.mark.parametrize("operation", ["write", "fsync", "rename"])
def test_a_replacement_that_fails_leaves_the_old_content(tmp_path, operation):
    files = FaultyFiles()
    path = str(tmp_path / "f")
    files.replace(path, b"old")
    files.arm(**{operation: [errno.EIO]})
    with pytest.raises(StorageError):
        files.replace(path, b"new")
    files.arm()
    assert files.read_file(path) == b"old"
    files.replace(path, b"new")
    assert files.read_file(path) == b"new"
    assert files.list_names(str(tmp_path)) == ["f"]


def test_a_lock_has_one_holder_even_in_one_process(tmp_path):
    files = Files()
    path = str(tmp_path / ".lock")
    held = files.lock(path)
    assert files.lock(path) is None
    files.close(held)
    again = files.lock(path)
    assert again is not None
    files.close(again)


# A log on a disk that refuses.


@pytest.fixture
def files():
    return FaultyFiles()


@pytest.fixture
def log(tmp_path, files):
    log = new_log(tmp_path, files, segment_bytes=300, index_interval_bytes=0)
    fill(log, 2)
    return log


@pytest.mark.parametrize("faults", [[errno.ENOSPC], [SHORT, errno.ENOSPC], [errno.EIO]])
def test_an_append_that_fails_leaves_the_log_as_it_was(log, files, faults):
    files.arm(write=faults)
    with pytest.raises(StorageError):
        fill(log, 1)
    files.arm()
    assert os.path.getsize(log._active.path) == 200
    assert (log.log_end_offset, log.size) == (2, 200)
    log.check()
    assert append(log, batch_of(b"later")) == [Appended(2, 2)]
    assert load_log(log).log_end_offset == 3


def test_a_failed_append_leaves_the_producer_free_to_try_again(log, files):
    batch = {"producer_id": 5, "producer_epoch": 0, "base_sequence": 0}
    files.arm(write=[errno.ENOSPC])
    with pytest.raises(StorageError):
        append(log, batch_of(b"a", **batch), epoch=9)
    files.arm()
    assert log.epochs.latest == 0
    assert append(log, batch_of(b"a", **batch), epoch=9) == [Appended(2, 2)]


def test_a_follower_append_that_fails_leaves_nothing_of_it(log, files):
    batches = [sized(40 + 40, base_offset=2 + n) for n in range(1)]
    files.arm(write=[SHORT, errno.ENOSPC])
    with pytest.raises(StorageError):
        log.append_as_follower(batches)
    files.arm()
    assert everything(log) == [(0, 0), (1, 0)]
    log.append_as_follower(batches)
    assert log.log_end_offset == 3


def test_a_torn_tail_that_cannot_be_cut_off_takes_the_disk_offline(log, files):
    files.arm(write=[SHORT, errno.ENOSPC], truncate=[errno.EIO])
    with pytest.raises(StorageError):
        fill(log, 1)
    files.arm()
    assert log._disk.offline is not None
    with pytest.raises(StorageError, match="offline"):
        fill(log, 1)
    # The next start cuts it off.
    again = load_log(log)
    assert again.log_end_offset == 2
    assert os.path.getsize(again._active.path) == 200


@pytest.mark.parametrize("operation", ["open", "write", "truncate"])
def test_a_roll_that_fails_can_be_tried_again(log, files, operation):
    fill(log, 1)
    files.arm(**{operation: [errno.ENOSPC]})
    with pytest.raises(StorageError):
        fill(log, 1)
    files.arm()
    assert log.segment_bases == (0,)
    assert append(log, sized(100)) == [Appended(3, 3)]
    assert log.segment_bases == (0, 3)
    log.check()
    assert everything(load_log(log, segment_bytes=300)) == [(n, 0) for n in range(4)]


@pytest.mark.parametrize("n", range(1, 5))
def test_a_failed_fsync_is_final(tmp_path, files, n):
    log = new_log(tmp_path, files, segment_bytes=300)
    fill(log, 4)
    files.arm(fsync=[None] * (n - 1) + [errno.EIO])
    with pytest.raises(StorageError, match="fsync"):
        log.flush()
    files.arm()
    assert log.recovery_point == 0
    assert log._disk.offline is not None
    for attempt in (log.flush, log.roll, lambda: log.close(clean=True), lambda: fill(log, 1)):
        with pytest.raises(StorageError):
            attempt()
    assert "fsync" not in files.counts  # Never tried again.
    assert read(log, 0) == [(0, 0), (1, 0 + 1), (2, 2)]  # What is there can still be read.


@pytest.mark.parametrize("operation", ["rename", "truncate"])
def test_a_truncation_that_fails_takes_the_disk_offline(log, files, operation):
    fill(log, 3)
    files.arm(**{operation: [errno.EIO]})
    with pytest.raises(StorageError):
        log.truncate_to(1)
    assert log._disk.offline is not None


def test_a_read_that_fails_is_told_and_harms_nothing(log, files):
    part = log.read(0, 1000, upper_bound=2, at_least_one=True)
    files.arm(read=[errno.EIO])
    with pytest.raises(StorageError, match="read"):
        part.read()
    files.arm()
    assert len(parse_batches(part.read())) == 2
    part.release()


def test_a_file_shorter_than_it_was_is_told(log):
    part = log.read(0, 1000, upper_bound=2, at_least_one=True)
    os.truncate(log._active.path, 150)
    with pytest.raises(StorageError, match="150 of 200 bytes"):
        part.read()
    part.release()


def test_what_cannot_be_removed_is_left_for_the_next_start(log, files):
    fill(log, 5)
    log.advance_log_start_offset(3)
    log.delete_old_segments(0, 7)
    log._disk.purge(0)
    waiting = log._disk.waiting
    files.arm(unlink=[errno.EIO])
    assert log._disk.purge(10**9) == waiting - 1
    assert log._disk.offline is None
    [left] = [name for name in os.listdir(log.path) if name.endswith(".deleted")]
    again = load_log(log)
    assert left not in os.listdir(again.path)


def test_a_roll_for_which_there_is_no_room_can_be_tried_again(tmp_path):
    files = FaultyFiles()
    log = new_log(tmp_path, files, preallocate=True, segment_bytes=300)
    fill(log, 3)
    files.arm(allocate=[errno.ENOSPC])
    with pytest.raises(StorageError):
        fill(log, 1)
    assert os.path.getsize(f"{log.path}/{3:020d}.log") == 0
    assert (log.segment_bases, log.log_end_offset) == ((0,), 3)
    log.check()
    fill(log, 1)
    assert log.segment_bases == (0, 3)
    assert os.path.getsize(log._active.path) == 300
