"""flush.messages: what was acknowledged survives a power cut of every broker at once."""

import errno
import sys
from pathlib import Path, PurePosixPath
from random import Random
from types import SimpleNamespace

import attrs
import pytest
import trio
from answers import produced
from replication_world import TP, World, records

from zkafka.errors import ErrorCode, StorageError
from zkafka.log.directory import LogDirectory
from zkafka.log.files import storage_error
from zkafka.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from zkafka.protocol.records import iter_records
from zkafka.server.handlers import produce

sys.path.insert(0, str(Path(__file__).parent.parent / "log"))
from log_disks import Directory, ForgetfulFiles
from log_world import read_all

NONE = ErrorCode.NONE


def forgetful():
    files = ForgetfulFiles()
    files.make_directories("/data")
    return files


@pytest.fixture
def make_world():
    def make(count, **config):
        world = World(PurePosixPath("/data"), count, make_files=forgetful)
        for broker in world.brokers.values():
            broker.topic_configs["orders"] = attrs.evolve(broker.config.log_defaults, **config)
            make_durable(broker.files.root)
        return world

    return make


def make_durable(directory):
    """The directories of a broker, as an operator made them before its first start."""
    directory.fsync()
    for node in directory.entries.values():
        if isinstance(node, Directory):
            make_durable(node)


def after_power_cut(broker, seed):
    """The values that a restart finds."""
    files = broker.files.after_power_cut(Random(seed))
    directory = LogDirectory.open(broker.dirs[0], files)
    log = directory.load(broker.config_for)[TP]
    return [
        bytes(record.value).decode() for batch in read_all(log) for record in iter_records(batch)
    ]


@pytest.mark.parametrize("acks", [1, -1])
@pytest.mark.parametrize("seed", range(10))
async def test_an_acknowledged_record_survives_a_power_cut(make_world, autojump_clock, acks, seed):
    world = make_world(2, flush_messages=1, segment_bytes=400)
    async with world.running():
        await world.assign(1)
        acknowledged = []
        for number in range(12):
            result = world[1].produce(f"m{number}", acks=acks)
            assert world[1].replicas.verdict(result, acks) is None
            deadline_ms = world[1].clock.monotonic_ms() + 10_000
            assert await world[1].replicas.wait_replicated([result], deadline_ms, acks) == [NONE]
            acknowledged.append(f"m{number}")
            holders = [1, 2] if acks == -1 else [1]
            for broker_id in holders:
                found = after_power_cut(world[broker_id], 100 * seed + number)
                assert found[: len(acknowledged)] == acknowledged


async def test_without_flush_messages_a_record_is_acknowledged_before(make_world, autojump_clock):
    """Which shows that the test above could fail."""
    world = make_world(1)
    async with world.running():
        await world.assign(1)
        results = [world[1].produce(f"m{n}", acks=1) for n in range(5)]
        assert [world[1].replicas.verdict(result, 1) for result in results] == [NONE] * 5
        assert any(len(after_power_cut(world[1], seed)) < 5 for seed in range(20))


async def test_every_third_record_waits_where_three_are_to_be_flushed(make_world, autojump_clock):
    world = make_world(1, flush_messages=3)
    async with world.running():
        await world.assign(1)
        results = [world[1].produce(f"m{n}", acks=1) for n in range(3)]
        assert [world[1].replicas.verdict(result, 1) for result in results] == [NONE, NONE, None]
        assert await world[1].replicas.wait_replicated(results[2:], 10**9, 1) == [NONE]
        assert after_power_cut(world[1], 3) == ["m0", "m1", "m2"]


async def test_a_duplicate_waits_for_the_flush_of_the_first(make_world, autojump_clock):
    world = make_world(1, flush_messages=1)
    producer = {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0}
    async with world.running():
        await world.assign(1)
        world[1].produce("m0", acks=1, **producer)
        again = world[1].produce("m0", acks=1, **producer)
        assert again.duplicate
        assert world[1].replicas.verdict(again, 1) is None
        assert await world[1].replicas.wait_replicated([again], 10**9, 1) == [NONE]


@pytest.mark.parametrize("acks", [1, -1])
async def test_what_could_not_be_flushed_is_not_acknowledged(make_world, autojump_clock, acks):
    """The fsync fails once; it is not tried again, and the directory is gone."""
    world = make_world(1, flush_messages=1)
    files = world[1].files
    with pytest.RaisesGroup(StorageError, allow_unwrapped=True, flatten_subgroups=True):
        async with world.running():
            await world.assign(1)
            asked = 0

            def fsync(fd):
                nonlocal asked
                asked += 1
                raise storage_error("fsync", "a log", OSError(errno.EIO, "Input/output error"))

            files.fsync = fsync
            result = world[1].produce("m0", acks=acks)
            verdict = await world[1].replicas.wait_replicated([result], 10**9, acks)
            assert verdict == [ErrorCode.KAFKA_STORAGE_ERROR]
            assert asked == 1
            assert world[1].log_dirs[0].offline is not None
            world.close()
            await world[1].replicas.run()


@pytest.mark.parametrize("acks", [1, -1])
async def test_the_answer_to_a_produce_waits_for_the_flush(make_world, autojump_clock, acks):
    world = make_world(1, flush_messages=1)
    context = SimpleNamespace(parts=world[1].parts, version=9, client_id="", listener_name="")
    request = ProduceRequest(
        acks=acks,
        timeout_ms=10_000,
        topic_data=[
            TopicProduceData(
                name=TP.topic,
                partition_data=[PartitionProduceData(index=0, records=records("m0"))],
            )
        ],
    )
    async with world.running():
        await world.assign(1)
        pending = produce.begin(request, context)
        assert pending.is_waiting
        response = await produced(pending)
        assert response.responses[0].partition_responses[0].error_code == NONE
        assert not pending.is_waiting
        assert after_power_cut(world[1], 5) == ["m0"]


async def test_a_follower_fetches_no_further_before_it_has_flushed(make_world, autojump_clock):
    """Its next fetch would count as having it."""
    world = make_world(2, flush_messages=1)
    async with world.running():
        await world.assign(1)
        disk_answers = trio.Event()
        run = world[2].offload.run

        async def slow(fn, *args):
            await disk_answers.wait()
            return await run(fn, *args)

        world[2].offload.run = slow
        result = world[1].produce("m0")
        soon_ms = world[1].clock.monotonic_ms() + 5_000
        assert await world[1].replicas.wait_replicated([result], soon_ms) == [
            ErrorCode.REQUEST_TIMED_OUT
        ]
        assert world[2].log().log_end_offset == 1
        disk_answers.set()
        assert await world[1].replicas.wait_replicated([result], 10**9) == [NONE]
        assert after_power_cut(world[2], 4) == ["m0"]
