"""A compacted log beside a plain list of its records, and the whole of a cleaning in one call.

`expected_after` is compaction as one would tell it to somebody: what it makes of the list must be
what a cleaning leaves in the log.
"""

from typing import NamedTuple

import attrs

from zkafka.config import LogConfig
from zkafka.log.cleaner import CleanerLimits, Cleaning, find_dirt
from zkafka.log.directory import LogDirectory
from zkafka.log.partition_log import PartitionLog
from zkafka.model import TopicPartition
from zkafka.protocol.records import Batch, Record, build_batch, iter_records, parse_batches

TP = TopicPartition("t", 0)
RETENTION = 1000
CONFIG = LogConfig(
    cleanup_policy=("compact",),
    segment_bytes=700,
    index_interval_bytes=150,
    file_delete_delay_ms=10,
    delete_retention_ms=RETENTION,
    min_cleanable_dirty_ratio=0.0,
)


class Kept(NamedTuple):
    key: bytes | None
    value: bytes | None
    timestamp: int


def start_cleaning(log, now_ms, *, keys=1000, io_bytes=4096, stable=None, checkpoint=None):
    stable = log.log_end_offset if stable is None else stable
    return Cleaning(
        log,
        find_dirt(log, stable, now_ms),
        now_ms=now_ms,
        limits=CleanerLimits(keys, io_bytes),
        checkpoint=checkpoint or log._disk.write_cleaned_offsets,
    )


def clean(log: PartitionLog, now_ms: int, **limits) -> Cleaning:
    """A cleaning from its beginning to its end, whatever there is to clean."""
    cleaning = start_cleaning(log, now_ms, **limits)
    for job in cleaning.steps():
        job()
    return cleaning


def batches_in(log):
    """Every batch, segment by segment."""
    found = []
    for segment in log.segments:
        whole = segment.read(0, segment.size) if segment.size else b""
        found += parse_batches(whole)
    return found


def records_in(log) -> dict[int, Kept]:
    return {
        record.offset: Kept(record.key, record.value, record.timestamp)
        for batch in batches_in(log)
        for record in iter_records(batch)
    }


@attrs.define
class Model:
    """The records of the log by offset; and from when on a tombstone may go."""

    records: dict[int, Kept] = attrs.field(factory=dict)
    horizons: dict[int, int] = attrs.field(factory=dict)

    def copy(self):
        return Model(dict(self.records), dict(self.horizons))

    def truncate(self, end):
        for known in (self.records, self.horizons):
            for offset in [offset for offset in known if offset >= end]:
                del known[offset]

    def clean(self, start, cleaned_to, touched_end, now):
        """Keys were noted from `start` up to `cleaned_to`; segments rewritten to `touched_end`."""
        last = {
            kept.key: offset
            for offset, kept in sorted(self.records.items())
            if start <= offset < cleaned_to and kept.key is not None
        }
        for offset, kept in sorted(self.records.items()):
            if offset >= touched_end:
                break
            if offset < cleaned_to and (
                kept.key is None
                or last.get(kept.key, -1) > offset
                or (kept.value is None and self.horizons.get(offset, now + 1) <= now)
            ):
                del self.records[offset]
                self.horizons.pop(offset, None)
            elif kept.value is None:
                self.horizons.setdefault(offset, now + RETENTION)


class World:
    """The log in a directory on `files`, driven by `rng`."""

    def __init__(self, files, rng, config=CONFIG):
        self.files, self.rng, self.config = files, rng, config
        self.model = Model()
        self.now = 1_000_000
        self.epoch = 0
        self.counter = 0
        self.sequences = {}  # producer id -> (next sequence, last offset)
        self.first_producer_id = 1
        self.end_when_cleaned = 0
        files.make_directories("/data")
        files.fsync_path("/")
        self.directory = LogDirectory.open("/data", files)
        self.directory.load(lambda topic: config)
        self.log = self.directory.create(TP, None, config)
        self.directory.sync()

    def append(self):
        rng = self.rng
        records = []
        for _ in range(rng.choice([1, 1, 2, 5])):
            self.counter += 1
            key = rng.choice([None, b"a", b"b", b"c", b"d", b"a long key, which is digested"])
            value = (
                None if rng.random() < 0.25 else b"%d" % self.counter + b"." * rng.choice([9, 70])
            )
            records.append(Record(key, value, self.now + rng.randint(-20, 20)))
        producer = {}
        if rng.random() < 0.3:
            producer_id = self.first_producer_id + rng.randint(0, 1)
            sequence, _ = self.sequences.get(producer_id, (0, 0))
            producer = {"producer_id": producer_id, "producer_epoch": 0, "base_sequence": sequence}
            after = sequence + len(records), self.log.log_end_offset + len(records) - 1
            self.sequences[producer_id] = after
        raw = build_batch(records, codec=rng.choice([0, 0, 1, 3, 4]), **producer)
        at = self.log.append_as_leader(Batch(memoryview(raw)), self.epoch, self.now)
        for offset, record in enumerate(records, at.base_offset):
            self.model.records[offset] = Kept(record.key, record.value, record.timestamp)

    def clean(self):
        self.log.flush()
        self.end_when_cleaned = self.log.log_end_offset
        segments = self.log.segments
        stable = self.log.log_end_offset
        if self.rng.random() < 0.2:
            stable = self.rng.randint(self.log.log_start_offset, stable)
        keys = self.rng.choice([1, 2, 1000, 1000])
        cleaning = clean(self.log, self.now, keys=keys, stable=stable)
        dirt = cleaning._dirt
        if cleaning.cleaned_to > dirt.start:
            ends = [*(s.base_offset for s in segments[1:]), self.log.log_end_offset]
            touched = max(
                end
                for segment, end in zip(segments, ends, strict=True)
                if segment.base_offset < cleaning.cleaned_to
            )
            assert cleaning.cleaned_to == dirt.bound or keys < 1000
            assert cleaning.cleaned_to <= stable
            self.model.clean(dirt.start, cleaning.cleaned_to, touched, self.now)
        else:
            assert not dirt.dirty_bytes
        assert not self.log.is_being_cleaned

    def truncate(self):
        end = self.log.log_end_offset
        offset = self.rng.randint(max(self.log.log_start_offset, end - 12), end)
        end = self.log.truncate_to(offset)
        self.model.truncate(end)
        self.epoch += 1
        self.sequences = {
            producer_id: (known.last_sequence + 1, known.last_offset)
            for producer_id, known in self.log.producers
        }
        if end < self.end_when_cleaned:
            # A cleaning may have taken what tells of producers below what was truncated: where it
            # was not above the high watermark, no replica would have truncated it.
            self.sequences = {}
            self.first_producer_id += 2

    def advance(self):
        self.log.advance_log_start_offset(
            self.rng.randint(self.log.log_start_offset, self.log.log_end_offset)
        )

    def retain(self):
        self.log.delete_old_segments(self.now, self.log.log_end_offset)

    def purge(self):
        self.directory.purge_deleted(self.now)

    def wait(self):
        self.now += self.rng.choice([10, RETENTION // 2, RETENTION])

    def reopen(self):
        clean_stop, cleaned_to = self.rng.random() < 0.5, self.log.cleaned_to
        self.directory.write_recovery_points()
        self.directory.write_log_start_offsets()
        self.directory.close(clean=clean_stop)
        self.files._locked.clear()
        self.directory = LogDirectory.open("/data", self.files)
        self.log = self.directory.load(lambda topic: self.config)[TP]
        if cleaned_to is not None:
            assert self.log.cleaned_to == min(cleaned_to, self.log.log_end_offset)

    def verify(self):
        """The log and the list are the same."""
        self.log.check()
        # Below the log start nothing is promised.
        base = self.log.segments[0].base_offset
        self.model.records = {o: kept for o, kept in self.model.records.items() if o >= base}
        assert records_in(self.log) == self.model.records
        for producer_id, (sequence, last_offset) in self.sequences.items():
            producer = self.log.producers.get(producer_id)
            if producer is None:
                assert last_offset < self.log.segments[0].base_offset, "deleted with its batches"
            else:
                assert producer.last_sequence == sequence - 1
        cleaned_to = self.log.cleaned_to
        assert cleaned_to is None or cleaned_to <= self.log.log_end_offset
