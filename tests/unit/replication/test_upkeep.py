"""What happens to logs in time."""

import os

import attrs
import pytest
import trio
from replication_world import EPOCH_S, TP, World, records

from zkafka.errors import StorageError
from zkafka.log.directory import HIGH_WATERMARKS_FILE, LOG_STARTS_FILE, RECOVERY_POINTS_FILE
from zkafka.model import TopicPartition


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, 1)


def checkpoint(world, name):
    path = os.path.join(world[1].dirs[0], name)
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in list(file)[2:]}


def configured(world, **changes):
    config = attrs.evolve(world[1].config.log_defaults, **changes)
    world[1].topic_configs["orders"] = config


async def test_high_watermarks_are_written_down_every_five_seconds(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        world[1].produce("m1", "m2")
        await trio.sleep(4.9)
        assert checkpoint(world, HIGH_WATERMARKS_FILE) is None
        await trio.sleep(0.2)
        assert checkpoint(world, HIGH_WATERMARKS_FILE) == {"orders 0": 2}


async def test_a_deleted_partition_leaves_the_checkpoint(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        await trio.sleep(6)
        await world.stop(1, leader_epoch=-2, delete=True)
        await trio.sleep(6)
        assert checkpoint(world, HIGH_WATERMARKS_FILE) == {}


async def test_a_log_is_flushed_after_so_many_messages(world, autojump_clock):
    configured(world, flush_messages=3)
    async with world.running():
        await world.assign(1)
        world[1].produce("m1", "m2")
        await trio.sleep(5)
        assert world[1].log().recovery_point == 0
        world[1].produce("m3")
        await trio.sleep(0.1)
        assert world[1].log().recovery_point == 3


async def test_a_log_is_flushed_after_so_long(world, autojump_clock):
    configured(world, flush_ms=10_000)
    async with world.running():
        await world.assign(1)
        world[1].produce("m1")
        await trio.sleep(5)
        assert world[1].log().recovery_point == 0
        await trio.sleep(10)
        assert world[1].log().recovery_point == 1


async def test_a_log_that_is_flushed_all_the_time_does_not_keep_others_from_it(
    world, autojump_clock
):
    busy, quiet = TopicPartition("orders", 0), TopicPartition("payments", 0)
    config = world[1].config.log_defaults
    world[1].topic_configs["orders"] = attrs.evolve(config, flush_messages=1)
    world[1].topic_configs["payments"] = attrs.evolve(config, flush_ms=2_000)
    async with world.running():
        await world.assign(1, tp=busy)
        await world.assign(1, tp=quiet)
        world[1].produce("m1", tp=quiet)
        for _ in range(50):
            world[1].produce("m", tp=busy)
            await trio.sleep(0.1)
        assert world[1].log(quiet).recovery_point == 1


async def test_sealed_segments_are_flushed_and_the_recovery_point_written_down(
    world, autojump_clock
):
    configured(world, segment_bytes=len(records("m")) * 2)
    async with world.running():
        await world.assign(1)
        for _ in range(5):
            world[1].produce("m")
        await trio.sleep(2)
        assert world[1].log().recovery_point >= 4
        await trio.sleep(60)
        assert checkpoint(world, RECOVERY_POINTS_FILE)["orders 0"] >= 4


async def test_retention_deletes_old_segments_below_the_high_watermark(world, autojump_clock):
    configured(world, segment_bytes=len(records("m")) * 2, retention_ms=100_000)
    async with world.running():
        await world.assign(1)
        for n in range(6):
            world[1].produce("m", timestamp=(EPOCH_S + n) * 1000)
        await trio.sleep(40)
        assert world[1].log().log_start_offset == 0
        await trio.sleep(300)
        assert world[1].log().log_start_offset == 6
        assert world[1].machine().log_start_offset == 6


async def test_what_is_not_committed_is_not_deleted(tmp_path, autojump_clock):
    world = World(tmp_path, 2)
    for broker in world.brokers.values():
        broker.topic_configs["orders"] = attrs.evolve(
            broker.config.log_defaults, segment_bytes=len(records("m")) * 2, retention_ms=1
        )
    async with world.running():
        world.cut(1, 2)
        await world.assign(1)
        world[1].session_stands = False  # so that 2 cannot be dropped from the ISR
        for _ in range(6):
            world[1].produce("m", acks=1)
        await trio.sleep(40)
        assert world[1].log().log_start_offset == 0


async def test_a_log_start_inside_a_segment_is_written_down(world, autojump_clock):
    async with world.running():
        await world.assign(1)
        for n in range(4):
            world[1].produce(n)
        await world[1].replicas.delete_records(TP, 2, 0)
        await trio.sleep(61)
        assert checkpoint(world, LOG_STARTS_FILE) == {"orders 0": 2}


async def test_files_of_a_deleted_partition_go_after_their_delay(world, autojump_clock):
    configured(world, file_delete_delay_ms=30_000)
    async with world.running():
        await world.assign(1)
        await world.stop(1, leader_epoch=-2, delete=True)
        await trio.sleep(20)
        left = [name for name in os.listdir(world[1].dirs[0]) if name.endswith("-delete")]
        assert len(left) == 1
        await trio.sleep(40)
        assert not any(name.endswith("-delete") for name in os.listdir(world[1].dirs[0]))


async def test_idle_producers_are_forgotten(tmp_path, autojump_clock):
    world = World(tmp_path, 1, producer_id_expiration_ms=300_000)
    async with world.running():
        await world.assign(1)
        world[1].produce("m", producer_id=5, producer_epoch=0, base_sequence=0)
        assert world[1].replicas.statistics().producer_id_count == 1
        await trio.sleep(650)
        assert world[1].replicas.statistics().producer_id_count == 0


async def test_a_failed_flush_takes_the_directory_offline_and_nothing_else(
    tmp_path, autojump_clock, monkeypatch
):
    world = World(tmp_path, 1, dir_names=("a", "b"))
    other = TopicPartition("orders", 1)
    configured(world, flush_messages=1)
    async with world.running():
        await world.assign(1)
        await world.assign(1, tp=other)
        broker = world[1]
        directory = broker.replicas.hosted[TP].directory
        files = broker.log()._files
        fsync = files.fsync

        def failing(fd):
            if files._paths[fd].startswith(directory.path):
                raise StorageError("input/output error", directory.path)
            fsync(fd)

        monkeypatch.setattr(files, "fsync", failing)
        broker.produce("m", acks=1)
        broker.produce("m", tp=other)
        await trio.sleep(1)
        assert broker.failed_dirs == [directory.path]
        assert broker.replicas.hosted[TP].is_offline
        assert broker.log(other).recovery_point == 1
        await trio.sleep(600)
        assert broker.failed_dirs == [directory.path], "told once"
