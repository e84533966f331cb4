"""The part of `Replicas` that a coordinator sees, over logs in memory.

A log outlives its broker: hand it to another `FakeReplicas` to see what a failover finds. A broker
can lose its leadership, its replicas can lag, and an append can be refused with any code.
"""

import itertools

from zkafka.errors import ApiError, ErrorCode
from zkafka.model import OFFSETS_TOPIC, TopicPartition
from zkafka.protocol.records import iter_records, parse_batches, stamp
from zkafka.replication.replicas import AppendResult


class FakeSlice:
    def __init__(self, log, data):
        self.log = log
        self.data = data
        self.size = len(data)
        log.readers += 1

    def read(self):
        return self.data

    def release(self):
        self.log.readers -= 1


class FakeLog:
    """Batches in memory. `read` gives whole batches, and with `torn_reads` a piece of one more."""

    def __init__(self):
        self.batches = []
        self.log_start_offset = 0
        self.log_end_offset = 0
        self.high_watermark = 0
        self.readers = 0
        self.torn_reads = False
        self.broken = None

    def append(self, data, leader_epoch=0):
        stamp(data, self.log_end_offset, leader_epoch)
        (batch,) = parse_batches(bytes(data))
        self.batches.append(batch)
        self.log_end_offset = batch.last_offset + 1
        return batch

    def read(self, offset, max_bytes, *, upper_bound, at_least_one):
        assert self.log_start_offset <= offset <= self.log_end_offset
        if self.broken is not None:
            raise self.broken
        data = b""
        for batch in self.batches:
            if batch.last_offset < offset or batch.base_offset >= upper_bound:
                continue
            if data and len(data) + batch.size > max_bytes:
                if self.torn_reads:
                    data += bytes(batch.view[: batch.size // 2])
                break
            data += bytes(batch.view)
        return FakeSlice(self, data) if data else None

    def truncate_to(self, offset):
        self.batches = [b for b in self.batches if b.last_offset < offset]
        self.log_end_offset = self.batches[-1].last_offset + 1 if self.batches else 0
        self.high_watermark = min(self.high_watermark, self.log_end_offset)

    def records(self):
        return list(itertools.chain.from_iterable(iter_records(b) for b in self.batches))


class FakeReplicas:
    """One broker's replicas of `__consumer_offsets`; `lag` holds the high watermark back."""

    def __init__(self, purgatory, logs=None):
        self.purgatory = purgatory
        self.logs = {} if logs is None else logs
        self.leading = {}
        self.lag = False
        self.refusal = None
        self.after_append = None
        self.storage_errors = []

    def lead(self, partition, leader_epoch=0):
        tp = TopicPartition(OFFSETS_TOPIC, partition)
        self.logs.setdefault(tp, FakeLog())
        self.leading[tp] = leader_epoch
        return self.logs[tp]

    def lose(self, partition):
        tp = TopicPartition(OFFSETS_TOPIC, partition)
        self.leading.pop(tp, None)
        self.purgatory.wake(tp)

    def replicate(self, partition, upto=None):
        tp = TopicPartition(OFFSETS_TOPIC, partition)
        log = self.logs[tp]
        log.high_watermark = log.log_end_offset if upto is None else upto
        self.purgatory.wake(tp)

    def leader_epoch(self, tp):
        return self.leading.get(tp)

    def leader_log(self, tp):
        if tp not in self.leading:
            raise ApiError(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        return self.logs[tp]

    def high_watermark(self, tp):
        return self.leader_log(tp).high_watermark

    def storage_failed(self, error):
        self.storage_errors.append(error)

    def append_as_coordinator(self, tp, batch):
        if self.refusal is not None:
            raise ApiError(self.refusal)
        log = self.leader_log(tp)
        appended = log.append(batch, self.leading[tp])
        if not self.lag:
            self.replicate(tp.partition)
        return AppendResult(
            topic_partition=tp,
            base_offset=appended.base_offset,
            last_offset=appended.last_offset,
            leader_epoch=self.leading[tp],
            log_start_offset=0,
            duplicate=False,
            replica=None,
        )

    def verdict(self, result):
        tp = result.topic_partition
        if self.leading.get(tp) != result.leader_epoch:
            return ErrorCode.NOT_LEADER_OR_FOLLOWER
        if self.logs[tp].high_watermark <= result.last_offset:
            return None
        return self.after_append or ErrorCode.NONE

    async def wait_replicated(self, results, deadline_ms):
        results = list(results)
        await self.purgatory.wait_until(
            [r.topic_partition for r in results],
            lambda: all(self.verdict(r) is not None for r in results),
            deadline_ms,
        )
        verdicts = [self.verdict(r) for r in results]
        return [ErrorCode.REQUEST_TIMED_OUT if v is None else v for v in verdicts]
