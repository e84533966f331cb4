"""A flush runs in a worker thread while the loop goes on. Here the loop goes on inside an fsync of
our choice, which is every interleaving that matters: the rest of a flush shares nothing with the
loop."""

from pathlib import Path

import pytest
from log_builders import TP, append, everything, load_log, new_log, sized

from zkafka.config import LogConfig
from zkafka.log.directory import LogDirectory
from zkafka.log.files import Files


class MeanwhileFiles(Files):
    """Calls `meanwhile` once, in the nth fsync (or other operation), before it is done."""

    def __init__(self):
        super().__init__()
        self.meanwhile = None
        self.during = ""
        self.wait = 0

    def during_fsync(self, n, meanwhile):
        self.during_nth("fsync", n, meanwhile)

    def during_nth(self, operation, n, meanwhile):
        self.during, self.wait, self.meanwhile = operation, n, meanwhile

    def _do(self, operation, path, call, *args, **kwargs):
        if operation == self.during and self.meanwhile is not None:
            self.wait -= 1
            if not self.wait:
                meanwhile, self.meanwhile = self.meanwhile, None
                meanwhile()
        return super()._do(operation, path, call, *args, **kwargs)


def fill(log, count, *, epoch=0):
    append(log, *(sized(100) for _ in range(count)), epoch=epoch)


@pytest.fixture
def files():
    return MeanwhileFiles()


@pytest.fixture
def log(tmp_path, files):
    log = new_log(tmp_path, files, segment_bytes=300)
    fill(log, 5)
    log.flush()
    fill(log, 3)
    assert log.segment_bases == (0, 3, 6)
    return log


EVERY_FSYNC = pytest.mark.parametrize("n", range(1, 6))


@EVERY_FSYNC
def test_what_is_appended_meanwhile_is_not_called_durable(log, files, n):
    files.during_fsync(n, lambda: fill(log, 1))
    log.flush()
    assert files.meanwhile is None
    assert (log.log_end_offset, log.recovery_point) == (9, 8)


@EVERY_FSYNC
def test_a_segment_sealed_meanwhile_is_left_to_the_next_flush(log, files, n):
    files.during_fsync(n, lambda: fill(log, 2))  # The second one rolls.
    log.flush()
    assert log.segment_bases == (0, 3, 6, 9)
    assert log.recovery_point == 6  # Its batches are durable, but its indexes are not.
    assert log.flush_due(0)
    log.flush()
    assert log.recovery_point == 10


@EVERY_FSYNC
def test_a_truncation_meanwhile_is_not_overruled(log, files, n):
    files.during_fsync(n, lambda: log.truncate_to(6))
    log.flush()
    assert log.recovery_point <= 6
    fill(log, 2)
    log.flush()
    assert log.recovery_point == 8
    assert everything(load_log(log, recovery_point=8, segment_bytes=300))[-1] == (7, 0)


@EVERY_FSYNC
def test_a_truncation_and_new_data_meanwhile_are_not_called_durable(log, files, n):
    def rewrite():
        log.truncate_to(5)
        fill(log, 3)

    files.during_fsync(n, rewrite)
    log.flush()
    # Up to 6 it is: the roll there, after a truncation, did a flush of its own.
    assert (log.log_end_offset, log.recovery_point) == (8, 6)


@pytest.mark.parametrize(
    ("operation", "start_anew"),
    [("rename", False), ("fsync", False), ("truncate", False), ("rename", True)],
)
def test_a_flush_in_the_middle_of_a_truncation_calls_nothing_durable(
    log, files, operation, start_anew
):
    """The other way about: the loop truncates, and a worker begins to flush what is being cut."""
    fill(log, 1)
    files.during_nth(operation, 1, log.flush)
    if start_anew:
        log.truncate_fully_and_start_at(2)
    else:
        log.truncate_to(4)
    assert files.meanwhile is None
    log.check()
    assert log.recovery_point <= log.log_end_offset
    assert log._names_changed, "what was renamed after that flush looked waits for the next one"
    fill(log, 1)
    log.flush()
    assert log.recovery_point == log.log_end_offset


@EVERY_FSYNC
def test_segments_deleted_meanwhile_do_no_harm(log, files, n):
    def delete():
        log.advance_log_start_offset(6)
        assert log.delete_old_segments(0, 8) == 2
        log._disk.purge(0)
        log._disk.purge(10**9)

    files.during_fsync(n, delete)
    log.flush()
    assert log.recovery_point == 8
    assert log._disk.offline is None


@EVERY_FSYNC
def test_a_segment_of_the_same_name_is_left_alone(log, files, n):
    def replace():
        log.truncate_fully_and_start_at(3)
        fill(log, 1)

    files.during_fsync(n, replace)
    log.flush()
    log.roll()
    log.flush()
    assert Path(log._segments[0].offset_index.file.path).read_bytes() == b""
    assert everything(load_log(log, clean=True, segment_bytes=300)) == [(3, 0)]


@EVERY_FSYNC
def test_a_deletion_of_the_partition_meanwhile_does_no_harm(tmp_path, files, n):
    directory = LogDirectory.open(str(tmp_path / "data"), files)
    log = directory.create(TP, None, LogConfig(segment_bytes=300))
    fill(log, 4, epoch=5)
    again = []

    def delete():
        directory.schedule_delete(log)
        again.append(directory.create(TP, None, LogConfig()))

    files.during_fsync(n, delete)
    log.flush()
    assert directory.offline is None
    assert again[0].log_end_offset == 0
    directory.close(clean=False)


@EVERY_FSYNC
def test_a_close_meanwhile_does_no_harm(log, files, n):
    files.during_fsync(n, lambda: log.close(clean=False))
    log.flush()
    assert log._disk.offline is None
