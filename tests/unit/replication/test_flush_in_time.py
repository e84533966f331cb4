"""flush.ms: no record is on the way to the disk for longer, seen at the system calls."""

from itertools import pairwise

import attrs
import trio
from replication_world import TP, World

from zkafka.log.files import Files


class Watched(Files):
    """The file system, and when which `.log` was fsynced."""

    def __init__(self):
        super().__init__()
        self.fsyncs = []

    def fsync(self, fd):
        super().fsync(fd)
        path = self._paths[fd]
        if path.endswith(".log"):
            self.fsyncs.append((trio.current_time(), path))


def watched_world(tmp_path, **config):
    world = World(tmp_path, 1, make_files=Watched)
    world[1].topic_configs["orders"] = attrs.evolve(world[1].config.log_defaults, **config)
    return world


async def test_what_is_appended_is_fsynced_when_flush_ms_is_over(tmp_path, autojump_clock):
    flush_s, late_s = 2.0, 0.5  # A quarter of it: how often is looked.
    world = watched_world(tmp_path, flush_ms=2000)
    async with world.running():
        await world.assign(1)
        await trio.sleep(7.3)
        fsyncs = world[1].files.fsyncs
        assert fsyncs == [], "nothing was there to flush"
        path = world[1].log().segments[-1].path
        for number in range(20):
            appended_at = trio.current_time()
            world[1].produce(f"m{number}", acks=1)
            await trio.sleep(flush_s - late_s)
            assert fsyncs == [], "before its time"
            await trio.sleep(3 * late_s)
            ((flushed_at, flushed),) = fsyncs
            assert flushed == path
            # Its age is counted from the look that finds it.
            assert flush_s <= flushed_at - appended_at <= flush_s + 2 * late_s
            assert world[1].log().recovery_point == number + 1
            fsyncs.clear()
            await trio.sleep(0.13 * number)  # Not in step with the looks.
        await trio.sleep(60)
        assert fsyncs == [], "what is durable is not flushed again"


async def test_records_that_keep_coming_do_not_put_it_off(tmp_path, autojump_clock):
    world = watched_world(tmp_path, flush_ms=2000)
    async with world.running():
        await world.assign(1)
        began = trio.current_time()
        while trio.current_time() < began + 60:
            world[1].produce("m", acks=1)
            await trio.sleep(0.1)
        times = [began] + [time for time, _ in world[1].files.fsyncs]
        assert len(times) > 20
        assert max(b - a for a, b in pairwise(times)) <= 3.0


async def test_without_flush_ms_the_system_is_left_to_write(tmp_path, autojump_clock):
    """Which shows that the tests above could fail."""
    world = watched_world(tmp_path)
    async with world.running():
        await world.assign(1)
        world[1].produce("m", acks=1)
        await trio.sleep(3600)
        assert world[1].files.fsyncs == []
        assert world[1].log(TP).log_end_offset == 1
