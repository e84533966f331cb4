"""A log directory: whose it is, what it loads, what it remembers, what it forgets."""

import errno
import os
import threading
import uuid
from pathlib import Path

import pytest
from log_builders import append, batch_of, everything, fill
from log_disks import FaultyFiles

from zkafka.config import LogConfig
from zkafka.errors import StartupError, StorageError
from zkafka.log.directory import LogDirectory, MetaProperties
from zkafka.log.files import Files
from zkafka.model import TopicPartition
from zkafka.offload import in_threads

A0, A1, DASHED = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b-2", 7)
CONFIG = LogConfig(segment_bytes=300, file_delete_delay_ms=50)


def open_directory(tmp_path, files=None):
    directory = LogDirectory.open(str(tmp_path / "data"), files or Files())
    directory.load(lambda topic: CONFIG)
    return directory


@pytest.fixture
def files():
    return FaultyFiles()


@pytest.fixture
def directory(tmp_path, files):
    directory = open_directory(tmp_path, files)
    yield directory
    files.arm()
    directory.close(clean=False)


def names(directory):
    return sorted(os.listdir(directory.path))


# Whose it is.


def test_a_directory_has_one_broker(directory, tmp_path):
    with pytest.raises(StartupError, match=r"/data is in use"):
        LogDirectory.open(str(tmp_path / "data"), Files())
    directory.close(clean=True)
    open_directory(tmp_path).close(clean=True)


def test_meta_properties_are_kafkas(directory):
    assert directory.meta is None
    directory.write_meta(MetaProperties(4, "kVr_2wEcTIyTxwb9CbjkHg"))
    text = Path(directory.path, "meta.properties").read_text()
    assert text.splitlines()[1:] == [
        "version=0",
        "broker.id=4",
        "cluster.id=kVr_2wEcTIyTxwb9CbjkHg",
    ]
    assert directory.meta == MetaProperties(4, "kVr_2wEcTIyTxwb9CbjkHg")


@pytest.mark.parametrize(
    "text", ["version=1\nbroker.id=1\ncluster.id=x\n", "version=0\nbroker.id=one\n", "\\u00zz"]
)
def test_meta_properties_that_make_no_sense_stop_the_start(directory, text):
    Path(directory.path, "meta.properties").write_text(text)
    with pytest.raises(StartupError, match=r"meta\.properties"):
        _ = directory.meta


# Clean and unclean stops.


def test_a_clean_stop_is_marked_and_the_mark_used_up(directory, tmp_path):
    assert not directory.clean
    log = directory.create(A0, None, CONFIG)
    append(log, batch_of(b"a"))
    directory.close(clean=True, broker_epoch=123)
    mark = Path(directory.path, ".kafka_cleanshutdown")
    assert mark.read_text() == '{"version":0,"brokerEpoch":123}'
    again = LogDirectory.open(directory.path, Files())
    assert (again.clean, again.last_broker_epoch) == (True, 123)
    assert again.load(lambda topic: CONFIG)[A0].log_end_offset == 1
    assert not mark.exists()
    again.close(clean=False)
    last = open_directory(tmp_path)
    assert not last.clean
    assert last.logs[A0].log_end_offset == 1
    last.close(clean=False)


def test_the_empty_mark_of_an_older_broker_is_a_mark(directory, tmp_path):
    directory.close(clean=False)
    Path(directory.path, ".kafka_cleanshutdown").write_bytes(b"")
    again = open_directory(tmp_path)
    assert (again.clean, again.last_broker_epoch) == (True, -1)
    again.close(clean=False)


def test_no_mark_if_anything_could_not_be_flushed(directory, files):
    append(directory.create(A0, None, CONFIG), batch_of(b"a"))
    files.arm(fsync=[None, None, errno.EIO])
    with pytest.raises(StorageError):
        directory.close(clean=True)
    files.arm()
    assert ".kafka_cleanshutdown" not in names(directory)
    assert directory.offline is not None
    LogDirectory.open(directory.path, Files()).close(clean=False)  # It was given back.


def test_an_offline_directory_is_not_marked(directory):
    directory.fail(StorageError("gone", directory.path))
    directory.close(clean=True)
    assert ".kafka_cleanshutdown" not in names(directory)


# Failing reads.


@pytest.fixture
def sealed(directory):
    """A log of several segments, whose indexes are not in memory."""
    log = directory.create(A0, None, LogConfig(segment_bytes=300, index_interval_bytes=0))
    fill(log, 10)
    for segment in log._segments:
        segment.unload_indexes()
    return log


def look_up(log):
    log.offset_for_timestamp(0, upper_bound=log.log_end_offset)


def read_slice(log):
    part = log.read(9, 1000, upper_bound=10, at_least_one=True)
    try:
        part.read()
    finally:
        part.release()


@pytest.mark.parametrize("reading", [look_up, read_slice])
@pytest.mark.parametrize(
    ("fault", "offline"), [(errno.EIO, True), (errno.EMFILE, False), (errno.ENOMEM, False)]
)
def test_a_disk_that_refuses_a_read_takes_the_directory_offline(
    directory, files, sealed, reading, fault, offline
):
    files.arm(read=[fault])
    with pytest.raises(StorageError):
        reading(sealed)
    files.arm()
    assert (directory.offline is not None) is offline


def test_what_a_sender_met_takes_the_directory_offline(directory, sealed):
    part = sealed.read(0, 1000, upper_bound=10, at_least_one=True)
    part.read_failed(OSError(errno.EIO, "Input/output error"))
    part.release()
    assert "Input/output error" in str(directory.offline)


def test_a_file_shorter_than_expected_is_not_the_disks_failure(directory, sealed):
    """Perhaps it was truncated meanwhile."""
    part = sealed.read(9, 1000, upper_bound=10, at_least_one=True)
    os.truncate(part.fileno(), 0)
    with pytest.raises(StorageError, match="0 of 100 bytes"):
        part.read()
    part.release()
    assert directory.offline is None


# Loading.


def test_partitions_are_found_by_their_directories(directory, tmp_path):
    for tp in (A0, A1, DASHED):
        append(directory.create(tp, uuid.UUID(int=5), CONFIG), batch_of(str(tp).encode()))
    directory.close(clean=True)
    for name in ("lost+found", "x-0-future", "x-0.abc-stray", "no-number-"):
        os.mkdir(os.path.join(directory.path, name))
    Path(directory.path, "y-0").write_bytes(b"a file")
    told = []
    again = LogDirectory.open(directory.path, Files())
    logs = again.load(lambda topic: CONFIG, on_loaded=lambda done, of: told.append((done, of)))
    assert set(logs) == {A0, A1, DASHED}
    assert logs[DASHED].topic_id == uuid.UUID(int=5)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert again.statistics().log_count == 3
    again.close(clean=False)


def test_each_topic_gets_its_configuration(directory):
    for tp in (A0, DASHED):
        directory.create(tp, None, CONFIG)
    directory.close(clean=True)
    again = LogDirectory.open(directory.path, Files())
    logs = again.load(lambda topic: LogConfig(segment_bytes=100 + len(topic)))
    assert [logs[tp].config.segment_bytes for tp in (A0, DASHED)] == [101, 103]
    again.close(clean=False)


def test_a_log_that_cannot_be_loaded_takes_the_directory_offline(directory):
    directory.create(A0, None, CONFIG)
    directory.close(clean=True)
    files = FaultyFiles()
    again = LogDirectory.open(directory.path, files)
    files.arm(read=[errno.EIO])
    with pytest.raises(StorageError):
        again.load(lambda topic: CONFIG)
    files.arm()
    assert again.offline is not None
    with pytest.raises(StorageError):
        again.create(A1, None, CONFIG)
    again.close(clean=True)


@pytest.mark.parametrize("threads", [1, 3])
def test_logs_are_recovered_in_so_many_threads(directory, tmp_path, threads):
    """All of them at work at the same time, and the table of logs as ever."""
    for partition in range(9):
        fill(directory.create(TopicPartition("c", partition), None, CONFIG), partition)
    directory.close(clean=False)
    together = threading.Barrier(threads, timeout=30)
    told = []

    def on_loaded(done, total):
        told.append((done, total))

    class Files3(Files):
        def list_names(self, path):
            together.wait()
            return super().list_names(path)

    again = LogDirectory.open(directory.path, Files3(), each=in_threads, recovery_threads=threads)
    logs = again.load(lambda topic: CONFIG, on_loaded=on_loaded)
    assert [(tp.partition, log.log_end_offset) for tp, log in logs.items()] == [
        (n, n) for n in range(9)
    ]
    assert told == [(n, 9) for n in range(1, 10)]
    assert again.statistics().to_recover == 0
    again.close(clean=True)
    assert LogDirectory.open(directory.path, Files()).clean


def test_a_log_that_fails_among_others_takes_the_directory_offline(directory):
    for partition in range(9):
        directory.create(TopicPartition("c", partition), None, CONFIG)
    directory.close(clean=False)
    files = FaultyFiles()
    again = LogDirectory.open(directory.path, files, each=in_threads, recovery_threads=4)
    files.arm(list=[None, None, None, errno.EIO])
    with pytest.raises(StorageError):
        again.load(lambda topic: CONFIG)
    assert again.offline is not None
    again.close(clean=False)


# Creating and deleting.


def test_creating_costs_no_fsync_and_sync_two_each(directory, files):
    files.arm()
    for partition in range(20):
        directory.create(TopicPartition("c", partition), uuid.uuid4(), CONFIG)
    assert "fsync" not in files.counts
    assert directory.sync() == 20
    assert files.counts["fsync"] == 1 + 2 * 20  # The parent; each topic id and directory.
    assert directory.sync() == 0
    assert files.counts["fsync"] == 41


def test_a_deleted_partition_is_gone_by_name_at_once_and_from_disk_later(directory):
    log = directory.create(A0, None, CONFIG)
    append(log, batch_of(b"a"))
    part = log.read(0, 100, upper_bound=1, at_least_one=True)
    directory.schedule_delete(log)
    assert A0 not in directory.logs
    [renamed] = [name for name in names(directory) if name.endswith("-delete")]
    assert renamed.startswith("a-0.")
    assert len(renamed) == len("a-0.") + 32 + len("-delete")
    with pytest.raises(StorageError, match="closed"):
        append(log, batch_of(b"b"))
    append(directory.create(A0, None, CONFIG), batch_of(b"another"))
    directory.sync()
    assert directory.purge_deleted(1000) == 0
    assert directory.purge_deleted(1049) == 0
    assert directory.purge_deleted(1050) == 1
    assert [name for name in names(directory) if name.endswith("-delete")] == []
    assert part.read()  # Whoever reads it may finish.
    part.release()
    assert directory.logs[A0].log_end_offset == 1


def test_the_name_of_a_deleted_partition_fits_the_file_system(directory):
    long = TopicPartition("t" * 249, 123)
    directory.schedule_delete(directory.create(long, None, CONFIG))
    [renamed] = [name for name in names(directory) if name.endswith("-delete")]
    assert len(renamed) == 255


def test_a_deletion_that_was_interrupted_is_finished(directory, tmp_path):
    directory.schedule_delete(directory.create(A0, None, CONFIG))
    directory.close(clean=True)
    again = open_directory(tmp_path)
    assert again.logs == {}
    assert again.statistics().waiting_for_removal == 1
    assert again.purge_deleted(0) == 1
    assert [name for name in names(again) if name.endswith("-delete")] == []
    again.close(clean=True)


# Checkpoints.


def test_checkpoints_are_kafkas_text(directory):
    log = directory.create(A0, None, CONFIG)
    directory.create(DASHED, None, CONFIG)
    fill(log, 4)
    log.flush()
    log.advance_log_start_offset(2)
    directory.write_recovery_points()
    directory.write_high_watermarks({A0: 3, DASHED: 0})
    directory.write_log_start_offsets()
    read = {
        name: Path(directory.path, name).read_text()
        for name in names(directory)
        if name.endswith("-checkpoint")
    }
    assert read == {
        "recovery-point-offset-checkpoint": "0\n2\na 0 4\nb-2 7 0\n",
        "replication-offset-checkpoint": "0\n2\na 0 3\nb-2 7 0\n",
        "log-start-offset-checkpoint": "0\n1\na 0 2\n",
    }
    assert directory.read_high_watermarks() == {A0: 3, DASHED: 0}


def test_a_log_start_at_a_segments_base_needs_no_checkpoint(directory):
    log = directory.create(A0, None, CONFIG)
    fill(log, 4)
    log.advance_log_start_offset(3)
    directory.write_log_start_offsets()
    log.delete_old_segments(0, 4)
    directory.write_log_start_offsets()
    text = Path(directory.path, "log-start-offset-checkpoint").read_text()
    assert text == "0\n0\n"


def test_a_log_start_survives_a_crash_once_written(directory, tmp_path):
    log = directory.create(A0, None, CONFIG)
    fill(log, 4)
    log.advance_log_start_offset(2)
    directory.write_log_start_offsets()
    directory.close(clean=False)
    again = open_directory(tmp_path)
    assert again.logs[A0].log_start_offset == 2
    again.close(clean=False)


def test_a_truncation_below_a_written_log_start_rewrites_it(directory, tmp_path):
    log = directory.create(A0, None, CONFIG)
    fill(log, 4)
    log.advance_log_start_offset(2)
    directory.write_log_start_offsets()
    log.truncate_to(1)
    fill(log, 2)
    directory.close(clean=False)
    again = open_directory(tmp_path)
    assert everything(again.logs[A0]) == [(1, 0), (2, 0)]
    again.close(clean=False)


@pytest.mark.parametrize("crash", ["after the deletion", "in the middle of it"])
def test_nothing_of_a_deleted_partition_is_believed_of_the_next_of_its_name(
    directory, tmp_path, crash
):
    """Of a topic deleted and created anew: the old log start would have the new records thrown
    away as deleted, the old recovery point would have them trusted unread."""
    log = directory.create(A0, None, CONFIG)
    fill(log, 6)
    log.flush()
    log.advance_log_start_offset(5)
    directory.write_recovery_points()
    directory.write_log_start_offsets()
    directory.write_high_watermarks({A0: 6})
    directory.schedule_delete(log)
    if crash == "in the middle of it":
        directory.close(clean=False)
        directory = open_directory(tmp_path)
    else:
        directory.sync()
        assert directory.read_high_watermarks() == {}
    log = directory.create(A0, None, CONFIG)
    directory.sync()
    fill(log, 2)
    directory.close(clean=False)
    again = open_directory(tmp_path)
    log = again.logs[A0]
    assert (log.log_start_offset, log.log_end_offset, log.recovery_point) == (0, 2, 0)
    again.close(clean=False)


def test_an_unchanged_checkpoint_is_not_written_again(directory, files):
    directory.write_high_watermarks({A0: 3})
    files.arm()
    directory.write_high_watermarks({A0: 3})
    assert files.counts == {}
    directory.write_high_watermarks({A0: 4})
    assert files.counts["rename"] == 1


@pytest.mark.parametrize("operation", ["write", "fsync", "rename"])
def test_a_checkpoint_that_fails_takes_the_directory_offline(directory, files, operation):
    directory.write_high_watermarks({A0: 3})
    files.arm(**{operation: [errno.EIO]})
    with pytest.raises(StorageError):
        directory.write_high_watermarks({A0: 4})
    files.arm()
    assert directory.offline is not None
    assert directory.read_high_watermarks() == {A0: 3}
    assert not directory.statistics().online


CHECKPOINTS = [
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
]
NOT_CHECKPOINTS = [
    "0\n1\na 0\n",
    "0\n2\na 0 4\n",
    "1\n0\n",
    "0\n1\na 0 -4\n",
    "0\n1\na 0 " + "9" * 5000,
]


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("text", NOT_CHECKPOINTS)
def test_a_damaged_checkpoint_costs_what_it_said_and_nothing_else(
    directory, tmp_path, caplog, name, text
):
    log = directory.create(A0, None, CONFIG)
    fill(log, 5)
    log.flush()
    log.advance_log_start_offset(2)
    directory.write_recovery_points()
    directory.write_log_start_offsets()
    directory.write_high_watermarks({A0: 4})
    directory.close(clean=False)
    Path(directory.path, name).write_text(text)
    again = open_directory(tmp_path)
    marks = again.read_high_watermarks()
    log = again.logs[A0]
    found = (log.recovery_point, log.log_start_offset, marks)
    whole = [5, 2, {A0: 4}]
    whole[CHECKPOINTS.index(name)] = [0, 0, {}][CHECKPOINTS.index(name)]
    assert found == tuple(whole)
    assert log.log_end_offset == 5
    assert name in caplog.text
    again.write_recovery_points()
    again.write_high_watermarks({A0: 4})
    again.close(clean=True)
    assert open_directory(tmp_path).read_high_watermarks() == {A0: 4}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("what", ["missing", "empty"])
def test_a_missing_or_empty_checkpoint_says_nothing(directory, tmp_path, name, what):
    log = directory.create(A0, None, CONFIG)
    fill(log, 5)
    directory.close(clean=True)
    path = Path(directory.path, name)
    path.write_bytes(b"")
    if what == "missing":
        path.unlink()
    again = open_directory(tmp_path)
    assert again.logs[A0].log_end_offset == 5
    assert again.read_high_watermarks() == {}
    again.close(clean=True)


def test_a_checkpoint_that_cannot_be_read_takes_the_directory_offline(directory):
    directory.close(clean=False)
    path = Path(directory.path, "recovery-point-offset-checkpoint")
    path.mkdir()
    again = LogDirectory.open(directory.path, Files())
    with pytest.raises(StorageError, match="recovery-point-offset-checkpoint"):
        again.load(lambda topic: CONFIG)
    assert again.offline is not None
    again.close(clean=False)


def test_the_failure_of_one_log_stops_the_others(directory, files):
    first, second = (directory.create(tp, None, CONFIG) for tp in (A0, A1))
    fill(first, 1)
    files.arm(fsync=[errno.EIO])
    with pytest.raises(StorageError):
        first.flush()
    with pytest.raises(StorageError, match="offline"):
        fill(second, 1)
