"""Replicas move between the directories of a broker while they are written, read and cut."""

import errno
import logging
import os
import re

import pytest
import trio
from replication_world import TP, InPlace, World, topic_id

from zkafka.config import DOUBLE_MAX, LogConfig
from zkafka.errors import ErrorCode, StorageError
from zkafka.log.checkpoint import read_offsets
from zkafka.log.files import Files
from zkafka.model import TopicPartition
from zkafka.protocol.records import Record, build_batch

NONE = ErrorCode.NONE
OTHER = TopicPartition("orders", 1)
FUTURE = re.compile(r"orders-0\.[0-9a-f]{32}-future")
BIG = 60_000
"""Bytes of a record: five of them are more than a piece."""


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, 1, dir_names=("a", "b", "c"))
    yield world
    world.close()


async def ask(broker, directory, tp=TP):
    """The answer to an AlterReplicaLogDirs to one of its directories."""
    return (await broker.replicas.moves.alter({tp: broker.dirs[directory]}))[tp]


def produce_much(broker, count=20):
    """Records of several pieces; their values."""
    values = [f"{n}-" + "x" * BIG for n in range(count)]
    for value in values:
        broker.produce(value)
    return values


async def until(condition):
    """When it holds, by the test's clock."""
    while not condition():  # noqa: ASYNC110 (many things change, of which nobody tells)
        await trio.sleep(0.01)


async def moved(broker, directory=1):
    """When the partition's log is there, and nowhere else."""
    there = [["orders-0"] if number == directory else [] for number in range(3)]
    replica = broker.replicas.hosted[TP]
    await until(lambda: replica.directory is broker.log_dirs[directory] and names(broker) == there)


async def copied(broker, offset):
    """When its future log holds everything below `offset`."""
    future = broker.replicas.moves.get(TP).way.future
    await until(lambda: future.log_end_offset >= offset)


async def given_up(broker):
    """When nothing moves any more."""
    await until(lambda: not len(broker.replicas.moves))


def names(broker, tp=TP):
    """The directories of the partition, by log directory, but those being deleted."""
    return [
        [
            name
            for name in sorted(os.listdir(path))
            if name.startswith(str(tp)) and not name.endswith("-delete")
        ]
        for path in broker.dirs
    ]


async def described(broker):
    """(directory, is it the future one, lag) of each log."""
    found = await broker.replicas.describe_log_dirs()
    return [
        (number, partition.is_future, partition.offset_lag)
        for number, directory in enumerate(found)
        for partition in directory.partitions
    ]


async def restart(world, broker):
    """As after a kill."""
    broker.close()
    broker.start()
    await world.assign(1)


def damage(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(b"!!!!")


# What a move is.


async def test_a_replica_moves_whole_and_goes_on(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        assert await ask(broker, 1) is NONE
        assert FUTURE.fullmatch(names(broker)[1][0])
        await moved(broker)
        assert broker.everything() == values
        assert broker.machine().high_watermark == 20
        assert broker.produce("after").base_offset == 20
        assert broker.everything() == [*values, "after"]
        assert broker.log().topic_id == topic_id("orders")
        broker.log().check()
        assert await described(broker) == [(1, False, 0)]


async def test_nothing_is_lost_or_doubled_of_what_is_written_meanwhile(world, autojump_clock):
    broker = world[1]
    written, read = [], []

    async def write():
        while broker.replicas.hosted[TP].directory is broker.log_dirs[0] or len(written) < 200:
            value = f"{len(written)}-" + "y" * 20_000
            broker.produce(value, producer_id=7, producer_epoch=0, base_sequence=len(written))
            written.append(value)
            await trio.lowlevel.checkpoint()

    async def follow():
        while len(read) < 200 or len(read) < len(written):
            error, found = broker.fetch(len(read))
            assert error is NONE
            read.extend(found)
            await trio.lowlevel.checkpoint()

    async with world.running():
        await world.assign(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(follow)
            assert await ask(broker, 1) is NONE
        await moved(broker)
        assert read == written == broker.everything()
        # Its producer is known, with its last five batches: a repetition is none.
        last = len(written) - 1
        for sequence in range(last - 4, last + 1):
            again = broker.produce("?", producer_id=7, producer_epoch=0, base_sequence=sequence)
            assert (again.duplicate, again.base_offset) == (True, sequence)


async def test_a_future_replica_is_described_with_its_lag(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
        await trio.sleep(3600)
        (_, current, _), (directory, is_future, lag) = await described(broker)
        assert (current, directory, is_future) == (False, 1, True)
        assert 0 < lag <= 16
        assert lag == 20 - broker.log_dirs[1].futures[TP].log_end_offset
        told = broker.replicas.statistics()
        assert (told.moves, told.max_move_lag) == (1, lag)
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await moved(broker)


async def test_moves_keep_to_their_rate_together(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(100_000)
        started = trio.current_time()
        await ask(broker, 1)
        await moved(broker)
        # But for the last piece, for which nobody waits.
        assert trio.current_time() - started >= (20 * BIG - (256 << 10)) / 100_000
        assert broker.everything() == values


async def test_the_epochs_of_leaders_that_wrote_nothing_go_along(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        broker.produce("m")
        await world.assign(1)
        await world.assign(1)
        before = broker.log().epochs.entries
        await ask(broker, 1)
        await moved(broker)
        assert broker.log().epochs.entries == before
        assert before[-1] == (2, 1)


async def test_flushed_is_flushed_after_the_move(world, autojump_clock):
    broker = world[1]
    broker.topic_configs["orders"] = LogConfig(flush_messages=1)
    async with world.running():
        await world.assign(1)
        results = []
        await ask(broker, 1)
        for n in range(30):
            results.append(broker.produce(f"{n}"))
            await trio.lowlevel.checkpoint()
        await moved(broker)
        deadline_ms = broker.clock.monotonic_ms() + 10_000
        verdicts = await broker.replicas.wait_replicated(results, deadline_ms)
        assert verdicts == [NONE] * 30
        assert broker.log().recovery_point == 30


async def test_checkpoints_name_it_where_it_is(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
        await broker.replicas.delete_records(TP, 2, 10_000)
        for job in ("recovery_points", "log_starts", "high_watermarks"):
            await getattr(broker.replicas.upkeep, f"checkpoint_{job}")()
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await moved(broker)
        broker.log().flush()
        await broker.replicas.upkeep.checkpoint_recovery_points()
        await broker.replicas.checkpoint()

        def found(directory, name):
            return read_offsets(broker.files, os.path.join(broker.dirs[directory], name))

        for name, offset in (
            ("recovery-point-offset-checkpoint", 20),
            ("log-start-offset-checkpoint", 2),
            ("replication-offset-checkpoint", 20),
        ):
            assert TP not in found(0, name)
            assert found(1, name)[TP] == offset


async def test_a_compacted_log_keeps_its_holes_and_how_far_it_was_compacted(world, autojump_clock):
    broker = world[1]
    broker.topic_configs["orders"] = LogConfig(
        cleanup_policy=("compact",), segment_bytes=20_000, min_cleanable_dirty_ratio=0.0
    )
    async with world.running():
        await world.assign(1)
        for n in range(60):
            batch = build_batch([Record(b"key", b"%d" % n + b"z" * 1000, 1_700_000_000_000)])
            broker.replicas.append_as_coordinator(TP, batch)
        broker.log().roll()
        await trio.sleep(3)
        broker.log().flush()
        while await broker.replicas.upkeep.cleaner.clean_dirtiest():
            pass
        before, cleaned_to = broker.everything(), broker.log().cleaned_to
        assert len(before) < 10
        assert cleaned_to == 60
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        for n in range(60):
            batch = build_batch([Record(b"key", b"%d" % n + b"z" * 9000, 1_700_000_000_000)])
            broker.replicas.append_as_coordinator(TP, batch)
        broker.log().flush()
        await copied(broker, 60)
        # Compaction waits for it.
        assert not await broker.replicas.upkeep.cleaner.clean_dirtiest()
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await moved(broker)
        assert broker.log().cleaned_to == cleaned_to
        assert broker.log().log_end_offset == 120
        assert broker.everything()[: len(before)] == before
        assert await broker.replicas.upkeep.cleaner.clean_dirtiest()
        await restart(world, broker)
        assert broker.log().log_end_offset == 120


async def test_a_log_of_which_compaction_left_nothing_at_the_end_keeps_its_end(
    world, autojump_clock
):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        broker.produce("m")
        # As a start makes one whose last segment is empty.
        broker.log().skip_to(50)
        await ask(broker, 1)
        await moved(broker)
        assert broker.log().log_end_offset == 50
        assert broker.everything() == ["m"]
        assert broker.produce("after").base_offset == 50


async def test_a_look_up_by_time_finds_its_record_though_the_log_moved_away(world, autojump_clock):
    broker = world[1]

    class Late(InPlace):
        """The look-up gets its thread when the move is over."""

        async def run(self, fn, *args):
            if "_find_offset" in getattr(fn, "__qualname__", ""):
                with trio.fail_after(60):
                    await moved(broker)
            return await super().run(fn, *args)

    async with world.running():
        await world.assign(1)
        for n in range(10):
            broker.produce(f"{n}", timestamp=1000 + n)
        broker.replicas._offload = Late()
        await ask(broker, 1)
        found = await broker.replicas.offset_for_timestamp(TP, 1005)
        assert (found.error, found.offset, found.timestamp) == (NONE, 5, 1005)


# What the log goes through meanwhile.


@pytest.mark.parametrize("shared", [0, 2, 10, 19])
async def test_a_truncation_is_followed(tmp_path, autojump_clock, shared):
    """A leader moves its replica; another one is elected uncleanly, and what was copied already of
    what only the old one had goes from the future log as well."""
    world = World(tmp_path, 2, dir_names=("a", "b", "c"))
    old, new = world[1], world[2]
    async with world.running():
        await world.assign(1)
        values = produce_much(old, shared)
        await until(lambda: new.log().log_end_offset >= shared)
        world.cut(1, 2)
        await world.assign(1, isr=[1])
        produce_much(old, 20)
        old.replicas.throttle_moves(0)
        await ask(old, 1)
        await copied(old, 3)
        old.replicas.throttle_moves(400_000)
        await copied(old, shared + 3)
        old.replicas.throttle_moves(0)
        world.heal()
        await world.assign(2, isr=[2])
        for n in range(30):
            new.produce(f"new {n}")
        await until(lambda: old.log().log_end_offset >= shared + 30)
        future = old.replicas.moves.get(TP).way.future
        assert future.epochs.latest == 1
        old.replicas.throttle_moves(DOUBLE_MAX)
        await moved(old)
        assert old.log() is future
        assert old.everything() == new.everything() == values + [f"new {n}" for n in range(30)]
        assert old.log().epochs.entries == new.log().epochs.entries
        new.produce("after")
        await until(lambda: old.log().log_end_offset >= shared + 31)


async def test_records_deleted_below_it_are_not_copied(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
        await broker.replicas.delete_records(TP, 15, 10_000)
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await moved(broker)
        assert broker.log().log_start_offset == broker.machine().log_start_offset == 15
        assert broker.everything() == values[15:]


async def test_a_log_that_starts_inside_a_batch_does_so_after_the_move(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        broker.produce("a", "b", "c", "d")
        broker.produce("e")
        await broker.replicas.delete_records(TP, 2, 10_000)
        await ask(broker, 1)
        await moved(broker)
        assert broker.log().log_start_offset == 2
        assert broker.log().log_end_offset == 5
        assert broker.fetch(2)[1] == ["a", "b", "c", "d", "e"]
        broker.log().check()


async def test_a_piece_cut_off_while_it_is_read_is_not_copied(world, autojump_clock):
    broker = world[1]

    class Cutting(InPlace):
        """The log is truncated before the first piece of it is read."""

        async def run(self, fn, *args):
            if getattr(fn, "__name__", "") == "append" and not self.done:
                self.done = True
                broker.log().truncate_to(1)
                broker.log().append_as_follower([])
            return await super().run(fn, *args)

        done = False

    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.moves._offload = Cutting()
        await ask(broker, 1)
        await moved(broker)
        assert broker.everything() == values[:1]


# Another mind, and ends of other kinds.


async def test_asked_back_where_it_is_the_move_ends(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
        assert await ask(broker, 0) is NONE
        assert names(broker) == [["orders-0"], [], []]
        assert await described(broker) == [(0, False, 0)]
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await trio.sleep(10)
        assert names(broker) == [["orders-0"], [], []]
        assert broker.everything() == values
        # And once more; there and back.
        for directory in (1, 0, 1):
            await ask(broker, directory)
            await moved(broker, directory)
        assert broker.log().moves == 3


async def test_asked_elsewhere_it_starts_anew(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
        assert await ask(broker, 1) is NONE  # Said before: nothing changes.
        assert broker.replicas.moves.get(TP).way.future.log_end_offset >= 4
        assert await ask(broker, 2) is NONE
        assert [len(found) for found in names(broker)] == [1, 0, 1]
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await moved(broker, 2)
        assert broker.everything() == values


async def test_a_deleted_replica_takes_its_future_one_along(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
        assert await world.stop(1, delete=True) is NONE
        assert names(broker) == [[], [], []]
        assert len(broker.replicas.moves) == 0
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await trio.sleep(20)
        # The files as well, after file.delete.delay.ms.
        await trio.sleep(70)
        assert [n for path in broker.dirs for n in os.listdir(path) if "orders" in n] == []


async def test_a_stopped_replica_may_go_on_moving(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        assert await world.stop(1) is NONE
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await moved(broker)
        await world.assign(1)
        assert broker.everything() == values


async def test_codes(world):
    broker = world[1]
    await world.assign(1)
    replicas = broker.replicas
    gone = TopicPartition("nosuch", 0)
    long = TopicPartition("x" * 215, 0)
    answers = await replicas.moves.alter({TP: "/nowhere"})
    assert answers == {TP: ErrorCode.LOG_DIR_NOT_FOUND}
    answers = await replicas.moves.alter({gone: broker.dirs[1], long: broker.dirs[1]})
    assert answers[gone] is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert answers[long] is ErrorCode.INVALID_TOPIC_EXCEPTION
    world.states[OTHER] = world.states[TP]
    world.publish()
    assert await ask(broker, 1, tp=OTHER) is ErrorCode.REPLICA_NOT_AVAILABLE
    fail(broker, 2)
    assert await ask(broker, 2) is ErrorCode.KAFKA_STORAGE_ERROR
    fail(broker, 0)
    assert await ask(broker, 1) is ErrorCode.KAFKA_STORAGE_ERROR


async def test_a_directory_asked_for_before_the_replica_is_here_is_taken(world):
    broker = world[1]
    assert await ask(broker, 2) is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    await world.assign(1)
    await world.assign(1, tp=OTHER)
    assert names(broker) == [[], [], ["orders-0"]]
    assert names(broker, tp=OTHER) == [["orders-1"], [], []]


async def test_a_future_log_counts_where_the_emptiest_directory_is_looked_for(world):
    broker = world[1]
    await world.assign(1)
    await ask(broker, 1)
    await world.assign(1, tp=OTHER)
    assert names(broker, tp=OTHER) == [[], [], ["orders-1"]]


# What goes wrong.


def fail(broker, directory):
    """As if an fsync in a worker thread had failed."""
    error = StorageError("input/output error", broker.dirs[directory])
    broker.log_dirs[directory].fail(error)
    broker.replicas.storage_failed(error)


async def test_the_directory_moved_to_fails(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
        fail(broker, 1)
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await trio.sleep(10)
        assert broker.replicas.moves.get(TP) is None
        assert broker.everything() == values
        broker.produce("after")
        assert (await described(broker))[0] == (0, False, 0)
        assert await ask(broker, 2) is NONE
        replica = broker.replicas.hosted[TP]
        await until(lambda: replica.directory is broker.log_dirs[2] and not names(broker)[0])
        assert broker.everything() == [*values, "after"]
    # It comes back at a start, with what was copied: the replica has been moved since.
    broker.start()
    assert [sorted(d.logs) for d in broker.log_dirs] == [[], [], [TP]]
    assert all(not directory.futures for directory in broker.log_dirs)
    assert names(broker) == [[], [], ["orders-0"]]


async def test_the_directory_moved_from_fails(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
        broker.log().flush()
        fail(broker, 0)
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await trio.sleep(10)
        assert [len(found) for found in names(broker)] == [1, 1, 0]
        assert (await broker.replicas.moves.alter({TP: broker.dirs[1]}))[TP] is (
            ErrorCode.KAFKA_STORAGE_ERROR
        )
    # At a start it is back, and the move goes on.
    broker.start()
    async with world.running():
        await world.assign(1)
        await moved(broker)
        assert broker.everything() == values


async def test_no_room_ends_the_move_and_nothing_else(tmp_path, autojump_clock, caplog):
    class Full(Files):
        """No room in directory b."""

        full = False

        def _do(self, operation, path, call, *args, **kwargs):
            if self.full and operation == "write" and "/b/" in path:
                return super()._do(operation, path, refuse)
            return super()._do(operation, path, call, *args, **kwargs)

    def refuse():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    world = World(tmp_path, 1, dir_names=("a", "b", "c"), make_files=Full)
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
        broker.files.full = True
        broker.replicas.throttle_moves(DOUBLE_MAX)
        await given_up(broker)
        assert names(broker) == [["orders-0"], [], []]
        assert broker.everything() == values
        assert broker.failed_dirs == []
        assert "move given up partition=orders-0" in caplog.text
        broker.files.full = False
        await ask(broker, 1)
        await moved(broker)


@pytest.mark.parametrize("write", [1, 2])
async def test_no_room_to_begin_is_a_refusal(world, autojump_clock, write):
    """Of the topic's id, or of the count of moves."""
    broker = world[1]
    count = 0

    def do(operation, path, call, *args, **kwargs):
        nonlocal count
        if operation == "write" and "-future" in path:
            count += 1
            if count == write:
                return Files._do(files, operation, path, refuse)
        return Files._do(files, operation, path, call, *args, **kwargs)

    def refuse():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files = broker.files
    async with world.running():
        await world.assign(1)
        files._do = do
        assert await ask(broker, 1) is ErrorCode.KAFKA_STORAGE_ERROR
        assert names(broker) == [["orders-0"], [], []]
        assert broker.failed_dirs == []
        assert await ask(broker, 1) is NONE
        await moved(broker)


async def test_who_asks_may_hang_up_in_the_middle(world, autojump_clock):
    broker = world[1]

    class HangingUp(InPlace):
        async def run(self, fn, *args):
            if getattr(fn, "__name__", "") == "sync":
                asking.cancel()
            return await super().run(fn, *args)

    async with world.running():
        await world.assign(1)
        broker.replicas._control._offload = HangingUp()
        with trio.CancelScope() as asking:
            await ask(broker, 1)
        assert asking.cancel_called
        await moved(broker)


async def test_a_log_that_is_not_sound_is_not_moved(world, autojump_clock, caplog):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        produce_much(broker)
        path = os.path.join(broker.dirs[0], "orders-0", f"{0:020d}.log")
        damage(path, 11 * BIG)
        await ask(broker, 1)
        await given_up(broker)
        assert names(broker) == [["orders-0"], [], []]
        assert "checksum" in caplog.text
        assert broker.produce("after").base_offset == 20


# Starts in the middle.


async def test_a_start_goes_on_where_the_last_run_ended(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
    broker.start()
    async with world.running():
        future = broker.replicas.moves.get(TP).way.future
        assert future.log_end_offset >= 4
        await world.assign(1)
        broker.produce("after")
        await moved(broker)
        assert broker.log() is future
        assert broker.everything() == [*values, "after"]


async def test_a_start_cuts_what_only_the_future_log_has(world, autojump_clock):
    """The end of the log was lost with the power, that of the future one was not."""
    broker = world[1]
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
    path = os.path.join(broker.dirs[0], "orders-0", f"{0:020d}.log")
    os.truncate(path, 3 * BIG)
    broker.start()
    async with world.running():
        await world.assign(1)
        assert broker.log().log_end_offset == 2
        broker.produce("other")
        await moved(broker)
        assert broker.everything() == [*values[:2], "other"]


async def test_a_kill_just_after_the_swap_leaves_one_log(world, autojump_clock):
    broker = world[1]
    offload = broker.offload

    class Killed(InPlace):
        async def run(self, fn, *args):
            if getattr(fn, "__name__", "") == "make_name_durable":
                swapped.set()
                await trio.sleep_forever()
            return await super().run(fn, *args)

    swapped = trio.Event()
    async with world.running():
        await world.assign(1)
        values = produce_much(broker)
        broker.replicas.moves._offload = Killed()
        await ask(broker, 1)
        await swapped.wait()
        broker.produce("after")
        assert names(broker) == [["orders-0"], ["orders-0"], []]
    assert offload is broker.offload
    broker.start()
    assert names(broker) == [[], ["orders-0"], []]
    async with world.running():
        await world.assign(1)
        assert broker.everything() == [*values, "after"]


async def test_a_future_log_of_a_partition_that_is_another_now_is_removed(world, autojump_clock):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
    [future] = names(broker)[1]
    aside = os.path.join(broker.dirs[2], "aside")
    os.rename(os.path.join(broker.dirs[1], future), aside)
    broker.start()
    async with world.running():
        await world.assign(1)
        assert await world.stop(1, delete=True) is NONE
        del world.states[TP]
        await world.assign(1, topic_id=topic_id("another"))
        broker.produce("m")
    os.rename(aside, os.path.join(broker.dirs[1], future))
    broker.start()
    assert len(broker.replicas.moves) == 0
    assert names(broker) == [["orders-0"], [], []]
    assert broker.everything() == ["m"]


async def test_a_future_log_without_its_replica_is_left_alone(world, autojump_clock, caplog):
    broker = world[1]
    async with world.running():
        await world.assign(1)
        produce_much(broker)
        broker.replicas.throttle_moves(0)
        await ask(broker, 1)
        await copied(broker, 4)
    aside = os.path.join(broker.dirs[2], "aside")
    os.rename(os.path.join(broker.dirs[0], "orders-0"), aside)
    before = names(broker)
    broker.start()
    assert len(broker.replicas.moves) == 0
    assert names(broker) == before
    assert "a move without its source is left alone" in caplog.text
    broker.close()
    os.rename(aside, os.path.join(broker.dirs[0], "orders-0"))
    broker.start()
    async with world.running():
        await world.assign(1)
        await moved(broker)


async def test_the_log_says_what_moves(world, autojump_clock, caplog):
    caplog.set_level(logging.INFO)
    broker = world[1]
    async with world.running():
        await world.assign(1)
        produce_much(broker, 5)
        await ask(broker, 1)
        await moved(broker)
    lines = [r.getMessage() for r in caplog.records if r.name.endswith("moving")]
    assert re.match(r"move begun partition=orders-0 from=\S+/a to=\S+/b ", lines[0])
    assert re.match(r"moved partition=orders-0 from=\S+/a to=\S+/b size=\d+ ", lines[1])
