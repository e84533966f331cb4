"""A whole log directory with anything wrong in it opens, or is refused as StorageError; never
anything else, and never with a record that was not written."""

import logging
from collections.abc import Iterator
from random import Random

import pytest
from log_disks import Directory, File, ForgetfulFiles
from log_world import TP, World, noted

from zkafka.errors import ApiError, ErrorCode, StartupError, StorageError
from zkafka.log.directory import LogDirectory
from zkafka.protocol.records import (
    Batch,
    Record,
    build_batch,
    iter_records,
    parse_batches,
    verify_crc,
)

SEEDS = 40
MUTANTS_EACH = 25
NO_RECORDS = (ErrorCode.CORRUPT_MESSAGE, ErrorCode.INVALID_RECORD)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What is found wrong is warned of, thousands of times."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def files_of(directory):
    """(its directory, name) of every file."""
    for name, node in directory.entries.items():
        if isinstance(node, Directory):
            yield from files_of(node)
        else:
            yield directory, name


def mutate(root, rng):
    """Damage one file as disks and people do."""
    directory, name = rng.choice(sorted(files_of(root), key=lambda found: found[1]))
    data = bytearray(directory.entries[name].data)
    match rng.randrange(8):
        case 0 | 1 | 2 if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 3:
            del data[rng.randint(0, len(data)) :]
        case 4:
            data += rng.choice([bytes(rng.randint(1, 300)), rng.randbytes(rng.randint(1, 300))])
        case 5 if data:
            at = rng.randrange(len(data))
            data[at : at + rng.randint(1, 64)] = rng.randbytes(rng.randint(0, 64))
        case 6:
            del directory.entries[name]
            return
        case 7:
            other = rng.choice([".deleted", ".cleaned", ".swap", ".tmp", "0"])
            directory.entries[name + other] = directory.entries.pop(name)
            return
    directory.entries[name] = File(bytes(data))


def written(world):
    """Every value that ever was in the log."""
    return {value for history in world.histories for value, _ in history.values()}


def open_and_use(world, files):
    """Everything a broker does with a directory; StorageError or StartupError if it cannot."""
    directory = LogDirectory.open("/data", files)
    _ = directory.meta
    _ = directory.read_high_watermarks()
    log = directory.load(lambda topic: world.config).get(TP)
    if log is None:
        directory.close(clean=True)
        return
    log.check()
    known = written(world)
    offset = log.log_start_offset
    while offset < log.log_end_offset:
        part = log.read(offset, 400, upper_bound=log.log_end_offset, at_least_one=True)
        if part is None:
            break
        try:
            batches = parse_batches(part.read(), partial_tail=True)
        finally:
            part.release()
        for batch in batches:
            if verify_crc(batch):
                # Where it lies is outside the checksum; what it holds is not.
                assert {bytes(record.value) for record in iter_records(batch)} <= known
        assert batches
        if batches[-1].last_offset < offset:
            break  # Trusted after a clean stop, and damaged: the same again for ever.
        offset = batches[-1].last_offset + 1
    log.offset_for_timestamp(1_000_000, upper_bound=log.log_end_offset)
    log.max_timestamp_offset()
    raw = build_batch([Record(None, b"afterwards", 1)])
    appended = log.append_as_leader(Batch(memoryview(raw)), 1_000_000, 1)
    assert appended.last_offset == log.log_end_offset - 1
    log.delete_old_segments(world.now, log.log_end_offset)
    log.truncate_to(max(log.log_start_offset, log.log_end_offset - 3))
    log.flush()
    directory.write_recovery_points()
    log.check()
    directory.close(clean=True)


def judge(seed, mutants):
    world = World(ForgetfulFiles(), Random(seed))
    for _ in range(45):
        world.step()
    rng = Random(seed)
    if rng.random() < 0.6:
        world.directory.close(clean=True)
    refused = 0
    for number in range(mutants):
        files = world.files.after_power_cut(None)
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            mutate(files.root, rng)
        with noted(f"seed {seed}, mutant {number}"):
            try:
                open_and_use(world, files)
            except (StorageError, StartupError):
                refused += 1
            except ApiError as error:
                # What a log of damaged batches gives out is no records, and they say so.
                if error.code not in NO_RECORDS:
                    raise
                refused += 1
    return refused


@pytest.mark.slow
def test_a_thousand_mutants_open_or_are_refused():
    refused = sum(judge(seed, MUTANTS_EACH) for seed in range(SEEDS))
    assert refused < SEEDS * MUTANTS_EACH / 2


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_and_so_do_many_more(seed):
    judge(seed, 400)
