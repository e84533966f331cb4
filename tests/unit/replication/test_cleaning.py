"""Compaction in its time: which logs, how fast, and what happens to those that cannot be."""

import os
from pathlib import Path

import attrs
import pytest
import trio
from replication_world import EPOCH_S, TP, World

from zkafka.config import DOUBLE_MAX
from zkafka.errors import ApiError, ErrorCode, StorageError
from zkafka.log.cleaner_records import RECORDS_PER_TURN
from zkafka.log.directory import CLEANED_OFFSETS_FILE
from zkafka.log.files import storage_error
from zkafka.model import TopicPartition
from zkafka.protocol.records import Record, build_batch, iter_records, parse_batches
from zkafka.replication.throttle import Throttle

OTHER = TopicPartition("payments", 0)


def configured(world, *topics, broker=1, **changes):
    defaults = world[broker].config.log_defaults
    changes = {"cleanup_policy": ("compact",), "segment_bytes": 300} | changes
    for topic in topics or ("orders",):
        world[broker].topic_configs[topic] = attrs.evolve(defaults, **changes)


def put(world, *keys, tp=TP, acks=-1):
    """A batch of one record for each key."""
    for key in keys:
        record = Record(key.encode(), b"v" * 20, EPOCH_S * 1000)
        world[1].replicas.append(tp, memoryview(build_batch([record])), required_acks=acks)


def offsets(world, tp=TP, broker=1):
    found = []
    for segment in world[broker].log(tp).segments:
        data = segment.read(0, segment.size) if segment.size else b""
        found += [r.offset for batch in parse_batches(data) for r in iter_records(batch)]
    return found


def damage(path):
    with open(path, "r+b") as file:
        file.seek(70)
        file.write(b"\xff")


def statistics(world):
    return world[1].replicas.upkeep.cleaner.statistics()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, 1)


async def test_the_dirtiest_log_is_compacted_and_that_is_written_down(world, autojump_clock):
    configured(world)
    async with world.running():
        await world.assign(1)
        put(world, *"abcabcabcabcabcabc")
        active = world[1].log().segments[-1].base_offset
        await trio.sleep(40)
        assert offsets(world) == list(range(active - 3, 18))
        written = Path(world[1].dirs[0], CLEANED_OFFSETS_FILE).read_text()
        assert written == f"0\n1\norders 0 {active}\n"
        found = statistics(world)
        assert found.runs == 1
        assert 0 < found.recopy_percent < 50
        assert found.since_last_look_ms < 16_000
        assert found.max_dirty_percent == 0, "as it was looked at last"
        assert found.uncleanable == {world[1].dirs[0]: (0, 0)}


async def test_a_log_that_is_not_dirty_enough_waits(world, autojump_clock):
    configured(world, min_cleanable_dirty_ratio=1.0)
    async with world.running():
        await world.assign(1)
        put(world, *"abcabcabcabcabcabc")
        await trio.sleep(60)
        assert len(offsets(world)) == 18
        assert statistics(world).max_dirty_percent == 100
        config = attrs.evolve(world[1].log().config, min_cleanable_dirty_ratio=0.9)
        world[1].replicas.reconfigure("orders", config)
        await trio.sleep(20)
        assert len(offsets(world)) < 18


async def test_what_is_overdue_does_not_wait(world, autojump_clock):
    configured(world, min_cleanable_dirty_ratio=1.0, max_compaction_lag_ms=30_000)
    async with world.running():
        await world.assign(1)
        put(world, *"abcabcabcabcabcabc")
        await trio.sleep(29)
        assert len(offsets(world)) == 18
        assert statistics(world).max_compaction_delay_s == 0
        await trio.sleep(40)
        assert len(offsets(world)) < 18


async def test_the_policy_may_change_while_the_broker_runs(world, autojump_clock):
    configured(world, cleanup_policy=("delete",))
    async with world.running():
        await world.assign(1)
        put(world, *"abcabcabcabcabcabc")
        await trio.sleep(60)
        assert len(offsets(world)) == 18
        config = attrs.evolve(world[1].log().config, cleanup_policy=("compact", "delete"))
        world[1].replicas.reconfigure("orders", config)
        await trio.sleep(20)
        assert len(offsets(world)) < 18


async def test_nothing_above_the_high_watermark_is_compacted(tmp_path, autojump_clock):
    world = World(tmp_path, 2)
    configured(world)
    configured(world, broker=2)
    async with world.running():
        await world.assign(1)
        put(world, *"aaa")
        await trio.sleep(1)
        world.cut(1, 2)
        world[1].session_stands = False  # so that 2 cannot be dropped from the ISR
        put(world, *"aaaaaaaaaaaa", acks=1)
        await trio.sleep(60)
        assert offsets(world) == list(range(2, 15))
        world.heal()
        world[1].session_stands = True
        await trio.sleep(60)
        assert len(offsets(world)) < 6
        assert offsets(world, broker=2)[-1] == 14
        assert len(offsets(world, broker=2)) < 6, "a follower compacts its own"


async def test_compaction_may_be_turned_off(tmp_path, autojump_clock):
    world = World(tmp_path, 1, log_cleaner_enable="false")
    configured(world)
    async with world.running():
        await world.assign(1)
        put(world, *"abcabcabcabcabcabc")
        await trio.sleep(100)
        assert len(offsets(world)) == 18
        assert statistics(world).runs == 0


async def test_a_record_without_key_is_refused(world, autojump_clock):
    configured(world)
    async with world.running():
        await world.assign(1)
        with pytest.raises(ApiError) as caught:
            world[1].produce("m")
        assert caught.value.code is ErrorCode.INVALID_RECORD
        assert world[1].log().log_end_offset == 0


async def test_a_log_that_cannot_be_compacted_keeps_no_other_from_it(world, autojump_clock, caplog):
    configured(world, "orders", "payments")
    async with world.running():
        await world.assign(1)
        await world.assign(1, tp=OTHER)
        put(world, *"abcabcabcabcabcabc")
        put(world, *"abcabcabcabcabcabc", tp=OTHER)
        await trio.sleep(2)
        segment = world[1].log().segments[0]
        damage(segment.path)
        dirty = sum(s.size for s in world[1].log().segments[:-1])
        await trio.sleep(60)
        assert world[1].log().size > dirty
        assert len(offsets(world, OTHER)) < 18
        assert statistics(world).uncleanable == {world[1].dirs[0]: (1, dirty)}
        lines = [r.message for r in caplog.records if "not compacted any more" in r.message]
        assert len(lines) == 1, "told once"
        assert "orders-0" in lines[0]
        assert segment.path in lines[0]
        # A topic of the same name, later, is another.
        await world.stop(1, leader_epoch=-2, delete=True)
        await trio.sleep(20)
        assert statistics(world).uncleanable == {world[1].dirs[0]: (0, 0)}


async def test_want_of_room_is_tried_again(world, autojump_clock, monkeypatch):
    configured(world, "orders", "payments")
    async with world.running():
        await world.assign(1)
        await world.assign(1, tp=OTHER)
        put(world, *"abcabcabcabcabcabcabc")
        put(world, *"abcabcabcabcabcabc", tp=OTHER)
        await trio.sleep(2)
        files = world[1].log()._files
        write = files.write
        full = True

        def writing(fd, buffers, position):
            path = files._paths[fd]
            if full and path.endswith(".cleaned") and "orders" in path:
                raise storage_error("write", path, OSError(28, "no space"))
            write(fd, buffers, position)

        monkeypatch.setattr(files, "write", writing)
        await trio.sleep(60)
        assert world[1].log().cleaned_to is None
        assert len(offsets(world, OTHER)) < 18
        assert world[1].failed_dirs == []
        assert not [n for n in os.listdir(world[1].log().path) if n.endswith(".cleaned")]
        full = False
        await trio.sleep(40)
        assert world[1].log().cleaned_to == 18
        assert offsets(world) == list(range(15, 21))


async def test_a_failed_fsync_takes_the_directory_offline(tmp_path, autojump_clock, monkeypatch):
    world = World(tmp_path, 1, dir_names=("a", "b"))
    configured(world, "orders", "payments")
    async with world.running():
        await world.assign(1)
        await world.assign(1, tp=OTHER)
        put(world, *"abcabcabcabcabcabc")
        await trio.sleep(2)
        directory = world[1].replicas.hosted[TP].directory
        files = world[1].log()._files
        fsync = files.fsync

        def failing(fd):
            if files._paths[fd].endswith(".cleaned"):
                raise StorageError("input/output error", directory.path) from OSError(5, "io")
            fsync(fd)

        monkeypatch.setattr(files, "fsync", failing)
        await trio.sleep(40)
        assert world[1].failed_dirs == [directory.path]
        assert world[1].replicas.hosted[TP].is_offline
        assert not world[1].replicas.hosted[OTHER].is_offline


async def test_a_partition_deleted_in_the_middle_is_given_up(world, autojump_clock):
    configured(world)
    async with world.running():
        await world.assign(1)
        put(world, *"abcabcabcabcabcabc")
        await trio.sleep(2)
        cleaner = world[1].replicas.upkeep.cleaner
        log = world[1].log()
        run = world[1].offload.run

        async def deleting(fn, *args):
            result = await run(fn, *args)
            if log.is_being_cleaned and not log.closed:
                await world.stop(1, leader_epoch=-2, delete=True)
            return result

        world[1].offload.run = deleting
        assert await cleaner.clean_dirtiest()
        assert log.closed
        assert statistics(world).runs == 0
        assert not await cleaner.clean_dirtiest()


async def test_two_cleaners_take_two_logs(tmp_path, autojump_clock):
    world = World(tmp_path, 1, log_cleaner_threads=2)
    configured(world, "orders", "payments")
    async with world.running():
        await world.assign(1)
        await world.assign(1, tp=OTHER)
        put(world, *"abcabcabcabcabcabc")
        put(world, *"abcabcabcabcabcabc", tp=OTHER)
        await trio.sleep(2)
        cleaner = world[1].replicas.upkeep.cleaner
        at_once = []
        run = world[1].offload.run

        async def watching(fn, *args):
            logs = [world[1].log(), world[1].log(OTHER)]
            at_once.append(sum(log.is_being_cleaned for log in logs))
            return await run(fn, *args)

        world[1].offload.run = watching
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleaner.clean_dirtiest, 0)
            nursery.start_soon(cleaner.clean_dirtiest, 1)
        assert max(at_once) == 2
        assert statistics(world).runs == 2
        assert not await cleaner.clean_dirtiest()


def reconfigured(world, **changes):
    broker = world[1]
    broker.replicas.reconfigure_broker(attrs.evolve(broker.config, **changes))


async def test_the_pause_may_change_while_it_lasts(tmp_path, autojump_clock):
    world = World(tmp_path, 1, log_cleaner_backoff_ms=10**9)
    configured(world)
    async with world.running():
        await world.assign(1)
        await trio.sleep(1)
        put(world, *"abcabcabcabcabcabc")
        reconfigured(world)  # As whenever a topic's settings change.
        await trio.sleep(10**4)
        assert statistics(world).runs == 0
        reconfigured(world, log_cleaner_backoff_ms=5000)
        await trio.sleep(5.5)
        assert statistics(world).runs == 1
        put(world, *"abcabcabcabcabcabc")
        await trio.sleep(15)
        assert statistics(world).runs == 2


async def test_the_rate_and_the_buffers_may_change_while_a_log_is_compacted(
    tmp_path, autojump_clock
):
    world = World(tmp_path, 1, log_cleaner_io_max_bytes_per_second=0.001)
    configured(world)
    async with world.running():
        await world.assign(1)
        put(world, *"abcabcabcabcabcabc")
        await trio.sleep(1000)
        assert world[1].log().is_being_cleaned
        assert statistics(world).runs == 0
        reconfigured(
            world,
            log_cleaner_io_buffer_load_factor=0.0005,
            log_cleaner_io_max_bytes_per_second=DOUBLE_MAX,
        )
        await trio.sleep(1)
        assert statistics(world).runs == 1
        assert statistics(world).max_buffer_utilization_percent == 0, "the buffers of before"
        put(world, *"abcabcabcabcabcabc")
        await trio.sleep(20)
        found = statistics(world)
        assert (found.runs, found.max_buffer_utilization_percent) == (2, 100 * 3 // 381)


async def test_cleaners_come_and_go(tmp_path, autojump_clock):
    topics = ["orders", "payments", "refunds", "returns"]
    partitions = [TopicPartition(topic, 0) for topic in topics]
    # Nothing moves, so that whoever has begun stays at it.
    world = World(tmp_path, 1, log_cleaner_io_max_bytes_per_second=0)
    configured(world, *topics)

    def at_work():
        return sum(world[1].log(tp).is_being_cleaned for tp in partitions)

    async with world.running():
        for tp in partitions:
            await world.assign(1, tp=tp)
            put(world, *"abcabcabcabcabcabc", tp=tp)
        await trio.sleep(60)
        assert at_work() == 1
        for threads in (2, 4):
            reconfigured(world, log_cleaner_threads=threads, log_cleaner_io_max_bytes_per_second=0)
            await trio.sleep(60)
            assert at_work() == threads
        # Those who are at it are let finish.
        reconfigured(world, log_cleaner_threads=1)
        await trio.sleep(60)
        assert at_work() == 4
        reconfigured(world, log_cleaner_threads=1, log_cleaner_io_max_bytes_per_second=DOUBLE_MAX)
        await trio.sleep(60)
        assert (at_work(), statistics(world).runs) == (0, 4)
        for tp in partitions:
            put(world, *"abcabcabcabcabcabc", tp=tp)
        reconfigured(world, log_cleaner_threads=1)
        await trio.sleep(60)
        assert at_work() == 1
        reconfigured(world, log_cleaner_threads=2, log_cleaner_io_max_bytes_per_second=DOUBLE_MAX)
        await trio.sleep(60)
        assert (at_work(), statistics(world).runs) == (0, 8)


async def test_a_map_that_is_too_small_takes_several_rounds(tmp_path, autojump_clock):
    # The least buffer that is allowed has room for some thousand keys: so fill less of it.
    world = World(tmp_path, 1, log_cleaner_io_buffer_load_factor=0.0005)
    configured(world, segment_bytes=3000, min_cleanable_dirty_ratio=0.0)
    async with world.running():
        await world.assign(1)
        for first in range(0, 1000, 100):
            records = [Record(b"%d" % n, b"v", EPOCH_S * 1000) for n in range(first, first + 100)]
            world[1].replicas.append_as_coordinator(TP, build_batch(records))
        await trio.sleep(60)
        found = statistics(world)
        assert found.runs == 3
        assert 0 < found.max_buffer_utilization_percent < 100
        assert offsets(world) == list(range(1000))


async def test_jobs_are_short(world, autojump_clock):
    configured(world, segment_bytes=1 << 20)
    async with world.running():
        await world.assign(1)
        records = [Record(b"%d" % n, b"v", EPOCH_S * 1000) for n in range(20 * RECORDS_PER_TURN)]
        batch = build_batch(records)
        world[1].replicas.append_as_coordinator(TP, batch)
        world[1].log().roll()
        await trio.sleep(2)
        before = world[1].offload.count
        assert await world[1].replicas.upkeep.cleaner.clean_dirtiest()
        assert world[1].offload.count - before >= 2 * 20


async def test_the_throttle_holds_all_to_its_rate(autojump_clock):
    throttle = Throttle(1000.0)
    started = trio.current_time()

    async def move(count):
        for _ in range(count):
            await throttle.pay(100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move, 20)
        nursery.start_soon(move, 30)
    assert trio.current_time() - started == pytest.approx(5.0)
    # Time that was not used is not saved up.
    await trio.sleep(100)
    started = trio.current_time()
    await move(10)
    assert trio.current_time() - started == pytest.approx(1.0)


async def test_without_a_limit_nothing_waits(autojump_clock):
    started = trio.current_time()
    await Throttle(DOUBLE_MAX).pay(10**18)
    assert trio.current_time() == started
