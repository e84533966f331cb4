"""Logs on their way between directories: what single steps do, and what a start makes of the rest.

That no kill between any two of them harms is `test_every_crash_point_of_a_move.py`."""

import os
import uuid

import pytest
from log_builders import ABORT, append, batch_of, everything, fill, marker

from zkafka.config import LogConfig
from zkafka.errors import StartupError
from zkafka.log.directory import LogDirectory, settle
from zkafka.log.files import Files
from zkafka.log.relocation import Relocation
from zkafka.model import TopicPartition

A0 = TopicPartition("a", 0)
CONFIG = LogConfig(segment_bytes=300, file_delete_delay_ms=50)
ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)


@pytest.fixture
def opened(tmp_path):
    """Opens the directories of these names."""
    found = []

    def open_all(*names):
        for directory in found:
            directory.close(clean=False)
        found[:] = [LogDirectory.open(str(tmp_path / name), Files()) for name in names]
        for directory in found:
            directory.load(lambda topic: CONFIG)
        return list(found)

    yield open_all
    for directory in found:
        directory.close(clean=False)


def copied(way):
    while way.must_copy:
        piece = way.next_piece()
        way.append(piece, 1000)
        piece.release()


def finished(way):
    """All steps of it, one after the other."""
    while way.parting():
        way.cut()
    copied(way)
    way.make_durable()
    assert way.swap(1000)
    way.leave_source()
    way.make_name_durable()
    way.remove_source()
    return way.future


def move(source, target):
    log = source.logs[A0]
    target.create_future(log)
    return finished(Relocation(log, source, target))


def names(directory):
    return [n for n in sorted(os.listdir(directory.path)) if n.startswith("a-0")]


def test_a_moved_log_is_the_same_log(opened):
    one, two = opened("one", "two")
    log = one.create(A0, ONE, CONFIG)
    fill(log, 7)
    append(log, batch_of(b"x", producer_id=5, producer_epoch=0, base_sequence=0), epoch=3)
    before = everything(log)
    moved = move(one, two)
    assert log.closed
    moved.check()
    assert everything(moved) == before
    assert moved.topic_id == ONE
    assert moved.producers.get(5).last_sequence == 0
    assert moved.epochs.entries == ((0, 0), (3, 7))
    fill(moved, 9)
    # Also its files, by their new names.
    one, two = opened("one", "two")
    [found] = settle([one, two]).values()
    assert two.logs[A0] is found
    assert everything(found)[:8] == before
    assert found.log_end_offset == 17


def test_of_transactions_a_future_log_knows_what_is_told_of_it(opened):
    one, two = opened("one", "two")
    log = one.create(A0, ONE, CONFIG)
    for number in range(20):
        written = {"producer_id": number, "producer_epoch": 0, "base_sequence": 0}
        append(log, batch_of(b"x", transactional=True, **written), marker(ABORT, producer=number))
    two.create_future(log)
    way = Relocation(log, one, two)
    copied(way)
    assert not way.future.producers.transactions, "nobody asks it meanwhile"
    before = [one for segment in log.segments for one in segment.transaction_index]
    moved = finished(way)
    assert [one for segment in moved.segments for one in segment.transaction_index] == before
    assert len(before) == 20


def with_a_deleted_producer(directory, count, *, start):
    """A log that remembers producer 5, of epoch 2, of whose batches none is left; `count` of
    others came after them."""
    log = directory.create(A0, ONE, CONFIG)
    append(log, batch_of(b"x", producer_id=5, producer_epoch=2, base_sequence=0))
    fill(log, count)
    log.advance_log_start_offset(start)
    log.delete_old_segments(1000, log.log_end_offset)
    return log


def test_a_producer_whose_batches_were_deleted_before_the_move_outlives_a_truncation(opened):
    one, two = opened("one", "two")
    with_a_deleted_producer(one, 6, start=5)
    moved = move(one, two)
    append(moved, batch_of(b"x", producer_id=6, producer_epoch=0, base_sequence=0))
    moved.truncate_to(7)
    assert moved.producers.get(6) is None
    assert moved.producers.get(5).epoch == 2


def test_a_producer_whose_batches_were_deleted_before_the_move_outlives_a_clean_stop(opened):
    one, two = opened("one", "two")
    with_a_deleted_producer(one, 0, start=1)
    assert move(one, two).size == 0
    two.close(clean=True)
    one, two = opened("one", "two")
    assert two.logs[A0].producers.get(5).epoch == 2


def test_a_snapshot_from_before_the_move_is_not_what_a_clean_stop_leaves(opened):
    one, two = opened("one", "two")
    log = with_a_deleted_producer(one, 4, start=4)
    two.create_future(log)
    way = Relocation(log, one, two)
    copied(way)
    way.future.roll()
    assert finished(way).segment_bases[-1] == 5
    two.close(clean=True)
    one, two = opened("one", "two")
    assert two.logs[A0].producers.get(5).epoch == 2


def test_segments_that_were_cut_off_on_the_way_are_removed_where_they_are_then(opened):
    one, two = opened("one", "two")
    log = one.create(A0, ONE, CONFIG)
    fill(log, 7)
    two.create_future(log)
    way = Relocation(log, one, two)
    copied(way)
    log.truncate_to(1)
    moved = finished(way)
    assert len([n for n in os.listdir(moved.path) if n.endswith(".deleted")]) > 0
    two.purge_deleted(0)
    two.purge_deleted(100)
    assert [n for n in os.listdir(moved.path) if n.endswith(".deleted")] == []


def test_the_swap_waits_for_what_is_missing(opened):
    one, two = opened("one", "two")
    log = one.create(A0, ONE, CONFIG)
    fill(log, 2)
    two.create_future(log)
    way = Relocation(log, one, two)
    assert not way.swap(1000)  # Nothing of it is durable.
    way.make_durable()
    fill(log, 3)
    log.truncate_to(1)
    fill(log, 3)
    assert way.swap(1000)
    assert everything(way.future) == everything(log)
    way.leave_source()


def test_flushed_is_flushed_after_the_swap(opened):
    one, two = opened("one", "two")
    log = one.create(A0, ONE, CONFIG)
    fill(log, 1)
    two.create_future(log)
    way = Relocation(log, one, two)
    way.make_durable()
    fill(log, 1)
    log.flush()
    assert way.must_flush
    assert way.swap(1000)
    assert way.future.recovery_point == 2
    way.leave_source()


def test_of_two_logs_that_moved_oftener_stays(opened):
    one, two = opened("one", "two")
    fill(one.create(A0, ONE, CONFIG), 3)
    move(one, two)
    back = move(two, one)
    fill(back, 1)
    assert back.moves == 2
    # As if the deletion of the one in between was undone by a power cut.
    [gone] = [n for n in names(two) if n.endswith("-delete")]
    os.rename(os.path.join(two.path, gone), os.path.join(two.path, "a-0"))
    for order in (("two", "one"), ("one", "two")):
        directories = opened(*order)
        [found] = settle(directories).values()
        assert found.log_end_offset == 4
        assert found.path == os.path.join(one.path, "a-0")
        # It is undone once more.
        [two] = [d for d in directories if d.path != one.path]
        gone = names(two)[-1]
        assert gone.endswith("-delete")
        os.rename(os.path.join(two.path, gone), os.path.join(two.path, "a-0"))


def test_two_logs_with_an_equal_claim_stop_the_start(opened):
    one, two = opened("one", "two")
    one.create(A0, ONE, CONFIG)
    two.create(A0, ONE, CONFIG)
    with pytest.raises(StartupError, match=r"a-0 is both in \S+/one and \S+/two"):
        settle([one, two])


def test_moves_of_one_topic_say_nothing_of_another(opened):
    """One directory was away while the topic was deleted and created again."""
    one, two, three = opened("one", "two", "three")
    fill(one.create(A0, ONE, CONFIG), 3)
    move(one, two)
    three.create(A0, TWO, CONFIG)
    with pytest.raises(StartupError, match="a-0 is both in"):
        settle([one, two, three])


def test_of_two_future_logs_one_goes_on(opened):
    one, two, three = opened("one", "two", "three")
    log = one.create(A0, ONE, CONFIG)
    two.create_future(log)
    three.create_future(log)
    directories = opened("one", "two", "three")
    settle(directories)
    assert [sorted(d.futures) for d in directories] == [[], [A0], []]
    assert names(directories[2])[0].endswith("-delete")


def test_a_future_log_beside_its_own_log_is_removed(opened):
    one, two = opened("one", "two")
    log = one.create(A0, ONE, CONFIG)
    two.create_future(log)
    [name] = names(two)
    assert name.endswith("-future")
    os.rename(os.path.join(two.path, name), os.path.join(one.path, name))
    directories = opened("one", "two")
    settle(directories)
    assert [sorted(d.futures) for d in directories] == [[], []]
    assert [n[-7:] for n in names(directories[0])] == ["a-0", "-delete"]


def test_a_future_log_that_kafka_began_goes_on(opened):
    """It has no count of moves, and gets one before it can take the log's place."""
    one, two = opened("one", "two")
    log = one.create(A0, ONE, CONFIG)
    fill(log, 3)
    future = two.create_future(log)
    os.unlink(os.path.join(future.path, "zkafka.moves"))
    one, two = opened("one", "two")
    [log] = settle([one, two]).values()
    assert two.futures[A0].moves == 0
    assert finished(Relocation(log, one, two)).moves == 1


@pytest.mark.parametrize("content", [b"", b"one\n", b"\xff"])
def test_a_count_that_makes_no_sense_is_none(opened, content):
    [one] = opened("one")
    log = one.create(A0, ONE, CONFIG)
    log.count_move(3)
    with open(os.path.join(log.path, "zkafka.moves"), "wb") as file:
        file.write(content)
    [one] = opened("one")
    assert one.logs[A0].moves == 0
