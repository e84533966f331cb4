"""Logs and batches for the tests, short to say."""

import struct

from zkafka.config import LogConfig
from zkafka.log.disk import Disk
from zkafka.log.files import Files
from zkafka.log.partition_log import PartitionLog
from zkafka.model import TopicPartition
from zkafka.protocol.records import Batch, Record, build_batch, parse_batches

TP = TopicPartition("orders", 3)
ABORT, COMMIT = 0, 1


def new_log(directory, files=None, *, start_offset=0, topic_id=None, **config):
    disk = Disk(str(directory), files or Files())
    path = str(directory / str(TP))
    return PartitionLog.create(
        disk, path, TP, topic_id, LogConfig(**config), start_offset=start_offset
    )


def load_log(log, *, clean=False, recovery_point=0, log_start_offset=0, files=None, **config):
    """The log's directory, opened again."""
    log.close(clean=clean)
    return PartitionLog.load(
        Disk(log._disk.path, files or Files()),
        log.path,
        TP,
        LogConfig(**config),
        clean=clean,
        recovery_point=recovery_point,
        log_start_offset=log_start_offset,
    )


def batch_of(*values, timestamp=1000, **fields):
    """A batch as a producer sends it; one record per value, timestamps rising by one."""
    records = [
        Record(None, value, timestamp + number if timestamp >= 0 else -1)
        for number, value in enumerate(values)
    ]
    return Batch(memoryview(build_batch(records, **fields)))


def marker(kind, *, producer=9, epoch=0, base_offset=0):
    """The end of a transaction, as a coordinator of epoch 3 has it written."""
    record = Record(struct.pack(">hh", 0, kind), struct.pack(">hi", 0, 3), 1000)
    return Batch(
        memoryview(
            build_batch(
                [record], base_offset=base_offset, producer_id=producer, producer_epoch=epoch,
                transactional=True, control=True,
            )
        )
    )  # fmt: skip


def sized(size, **fields):
    """A batch of one record and exactly `size` bytes."""
    empty = batch_of(b"", **fields).size
    for padding in range(size - empty + 1):
        batch = batch_of(b"x" * (size - empty - padding), **fields)
        if batch.size == size:
            return batch
    raise AssertionError(f"no batch of {size} bytes")


def append(log, *batches, epoch=0, now_ms=1000):
    return [log.append_as_leader(batch, epoch, now_ms) for batch in batches]


def fill(log, count, size=100, **fields):
    """`count` batches of one record."""
    return append(log, *(sized(size, **fields) for _ in range(count)))


def read(log, offset, max_bytes=1 << 20, *, upper_bound=None, at_least_one=True):
    """(base offset, last offset) of each whole batch that a read gives, None for nothing."""
    upper_bound = log.log_end_offset if upper_bound is None else upper_bound
    part = log.read(offset, max_bytes, upper_bound=upper_bound, at_least_one=at_least_one)
    if part is None:
        return None
    try:
        batches = parse_batches(part.read(), partial_tail=True)
    finally:
        part.release()
    return [(batch.base_offset, batch.last_offset) for batch in batches]


def everything(log):
    """(base offset, leader epoch) of each batch in the log."""
    found = []
    offset = log.log_start_offset
    while offset < log.log_end_offset:
        part = log.read(offset, 1 << 20, upper_bound=log.log_end_offset, at_least_one=True)
        batches = parse_batches(part.read())
        part.release()
        found += [(batch.base_offset, batch.leader_epoch) for batch in batches]
        offset = batches[-1].last_offset + 1
    return found
