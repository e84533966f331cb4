"""A partition log beside a plain list of batches, driven by chance, and what must hold of the two.

`World.step` does one thing to both. `World.verify` compares them whole. `verify_recovered` judges
what a restart found after the power went, against all that the list ever was.
"""

import struct
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

from log_builders import ABORT, COMMIT

from zkafka.config import LogConfig
from zkafka.log.directory import LogDirectory, settle
from zkafka.model import NO_OFFSET, TopicPartition
from zkafka.protocol.records import (
    Batch,
    Record,
    build_batch,
    iter_records,
    parse_batches,
    verify_crc,
)

TP = TopicPartition("t", 0)
CONFIG = LogConfig(
    segment_bytes=900,
    index_interval_bytes=150,
    retention_bytes=2500,
    retention_ms=None,
    file_delete_delay_ms=10,
)


@contextmanager
def noted(where):
    """Whatever is raised, and it is raised, says where that was: chance has no other name."""
    try:
        yield
    except Exception as error:
        error.add_note(where)
        raise


class Kept(NamedTuple):
    """A batch as the list has it."""

    base: int
    last: int
    epoch: int
    values: tuple[bytes, ...]
    timestamps: tuple[int, ...]
    producer: tuple[int, int, int]  # id, epoch, base sequence


class World:
    paths = ("/data",)
    """Of all directories that a restart finds."""
    topic_id = None

    def __init__(self, files, rng, config=CONFIG):
        self.files = files
        self.rng = rng
        self.config = config
        self.epoch = 0
        self.counter = 0
        self.now = 1_000_000
        self.sequences = {}  # producer id -> next sequence
        self.log_start = 0
        self.batches = []
        # What the log may be found to be after a crash: offset -> (value, epoch), now and earlier.
        self.histories = [{}]
        self.floor = 0  # everything below is durable
        self.may_be_absent = False
        files.make_directories("/data")
        files.fsync_path("/")  # As the operator made it.
        self.directory = LogDirectory.open("/data", files)
        self.directory.load(lambda topic: config)
        self.log = self.directory.create(TP, self.topic_id, config)
        self.directory.sync()

    @property
    def end(self):
        return self.batches[-1].last + 1 if self.batches else self._empty_end

    _empty_end = 0

    def step(self):
        rng = self.rng
        self.now += rng.randint(0, 50)
        [action] = rng.choices(
            [
                self.append_as_leader,
                self.append_as_follower,
                self.repeat,
                self.new_epoch,
                self.roll,
                self.truncate,
                self.start_anew,
                self.advance,
                self.retain,
                self.flush,
                self.checkpoint,
                self.purge,
                self.reopen,
                self.create_anew,
                self.truncate_below_start,
            ],
            [30, 14, 3, 4, 3, 3, 1, 3, 3, 10, 7, 2, 2, 1.5, 1.5],
        )
        action()

    def _make(self, base, epoch):
        rng = self.rng
        count = rng.randint(1, 4)
        values, timestamps = [], []
        for _ in range(count):
            self.counter += 1
            values.append(b"%d." % self.counter + b"x" * rng.randint(0, 60))
            timestamps.append(self.now + rng.randint(-30, 30))
        producer = (-1, -1, -1)
        key, flags = b"k", {}
        kind = rng.random()
        if kind < 0.6:
            producer_id = rng.randint(1, 3)
            if kind < 0.3:
                producer_id += 3
                flags = {"transactional": True}
            producer = (producer_id, 0, self.sequences.get(producer_id, 0))
            if kind < 0.1:
                count, key = 1, struct.pack(">hh", 0, rng.choice([ABORT, COMMIT]))
                values, timestamps = [struct.pack(">hi", 0, self.counter)], timestamps[:1]
                producer = (producer_id, 0, -1)
                flags["control"] = True
        raw = build_batch(
            [
                Record(key, value, timestamp)
                for value, timestamp in zip(values, timestamps, strict=True)
            ],
            base_offset=base,
            leader_epoch=epoch,
            producer_id=producer[0],
            producer_epoch=producer[1],
            base_sequence=producer[2],
            **flags,
        )
        kept = Kept(base, base + count - 1, epoch, tuple(values), tuple(timestamps), producer)
        return raw, kept

    def _remember(self, *added):
        """The list with `added`, before the disk sees them: they may be there after a crash."""
        for kept in added:
            for offset, value in enumerate(kept.values, kept.base):
                self.histories[-1][offset] = (value, kept.epoch)

    def _accept(self, *added):
        self.batches += added
        for kept in added:
            producer_id, _, sequence = kept.producer
            if sequence >= 0:
                self.sequences[producer_id] = sequence + len(kept.values)

    def append_as_leader(self):
        _, kept = made = self._make(self.end, self.epoch)
        raw = made[0]
        struct.pack_into(">qi", raw, 0, 0, 0)  # A producer knows neither offset
        struct.pack_into(">i", raw, 8, len(raw) - 12)
        struct.pack_into(">i", raw, 12, -1)  # nor epoch.
        self._remember(kept)
        appended = self.log.append_as_leader(Batch(memoryview(raw)), self.epoch, self.now)
        assert appended == (kept.base, kept.last, False)
        self._accept(kept)

    def append_as_follower(self):
        raws, batches, sequences, base = [], [], dict(self.sequences), self.end
        for _ in range(self.rng.randint(1, 4)):
            raw, kept = self._make(base, self.epoch)
            base = kept.last + 1
            raws.append(raw)
            batches.append(kept)
            if kept.producer[2] >= 0:
                self.sequences[kept.producer[0]] = kept.producer[2] + len(kept.values)
        self.sequences = sequences
        self._remember(*batches)
        appended = self.log.append_as_follower(parse_batches(b"".join(raws)))
        assert appended == (batches[0].base, batches[-1].last, False)
        self._accept(*batches)

    def repeat(self):
        """A producer sends its last batch once more."""
        for kept in reversed(self.batches):
            producer_id, producer_epoch, sequence = kept.producer
            if sequence < 0:
                continue
            raw = build_batch(
                [Record(b"k", value, 5) for value in kept.values],
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                base_sequence=sequence,
            )
            appended = self.log.append_as_leader(Batch(memoryview(raw)), self.epoch, self.now)
            assert appended == (kept.base, kept.last, True)
            return

    def take_over(self):
        """The last step failed in the middle, with the log online: what it did of it counts."""
        end = self.log.log_end_offset
        current = self.histories[-1]
        for batch in read_all(self.log):
            if batch.base_offset >= self.end:
                assert all(
                    current[record.offset][0] == record.value for record in iter_records(batch)
                )
                self._accept(kept_of(batch))
        assert self.end == end
        self._start_at(self.log.log_start_offset)

    def new_epoch(self):
        self.epoch += self.rng.randint(1, 3)

    def roll(self):
        self.log.roll()

    def truncate(self):
        if self.end == self.log_start:
            return
        offset = self.rng.randint(max(self.log_start, self.end - 12), self.end)
        cut = [kept for kept in self.batches if kept.last >= offset]
        kept = self.batches[: len(self.batches) - len(cut)]
        end = min([offset, *(batch.base for batch in cut)])
        self.floor = min(self.floor, end)
        self.histories.append({o: v for o, v in self.histories[-1].items() if o < end})
        assert self.log.truncate_to(offset) == (end if cut else self.end)
        self.log_start = min(self.log_start, end)
        self.batches, self._empty_end = kept, end
        self._rewind_sequences()

    def truncate_below_start(self):
        """As a follower may have to whose leader's log begins further down."""
        lowest = self.log.segment_bases[0]
        if lowest == self.log_start:
            return
        offset = self.rng.randint(lowest, self.log_start - 1)
        floor, self.floor = self.floor, 0
        self.histories.append({o: v for o, v in self.histories[-1].items() if o < offset})
        end = self.log.truncate_to(offset)
        assert end <= offset
        self.floor = min(floor, end)
        self.batches, self._empty_end, self.log_start = [], end, end
        self._rewind_sequences()

    def start_anew(self):
        offset = self.end + self.rng.randint(0, 20)
        self.floor = 0
        self.histories.append({})
        self.log.truncate_fully_and_start_at(offset)
        self.batches, self._empty_end, self.log_start = [], offset, offset
        self.floor = offset
        self._rewind_sequences()

    def create_anew(self):
        """The topic is deleted and created again: nothing of the old one is ever taken for the
        new one's."""
        self.floor = 0
        self.may_be_absent = True
        self.histories.append({})
        self.directory.schedule_delete(self.log)
        self.log = self.directory.create(TP, self.topic_id, self.config)
        self.batches, self._empty_end, self.log_start = [], 0, 0
        self.sequences = {}
        self.directory.sync()
        self.histories = [{}]
        self.may_be_absent = False

    def _rewind_sequences(self):
        """Producers go on behind what is left of them in the log; those forgotten begin at 0."""
        self.sequences = {
            producer_id: producer.last_sequence + 1 for producer_id, producer in self.log.producers
        }

    def advance(self):
        offset = self.rng.randint(self.log_start, self.end)
        self.log.advance_log_start_offset(offset)
        self._start_at(offset)

    def retain(self):
        before = self.log.log_start_offset
        removed = self.log.delete_old_segments(self.now, self.rng.randint(self.log_start, self.end))
        assert self.log.log_start_offset >= before
        assert removed or self.log.log_start_offset == before
        self._start_at(self.log.log_start_offset)

    def _start_at(self, offset):
        if self.batches and self.batches[-1].last < offset:
            self._empty_end = self.end
        self.batches = [kept for kept in self.batches if kept.last >= offset]
        self.log_start = offset

    def flush(self):
        self.log.flush()
        assert self.log.recovery_point == self.end
        self.floor = self.end

    def checkpoint(self):
        [write] = self.rng.choices(
            [self.directory.write_recovery_points, self.directory.write_log_start_offsets], [2, 1]
        )
        write()

    def purge(self):
        self.directory.purge_deleted(self.now)

    def go_on(self, directories, log):
        """A restart found this log; the one to go on with."""
        return log

    def reopen(self):
        self.directory.close(clean=True, broker_epoch=7)
        assert not self.files.open_files
        self.floor = self.end
        self.directory = LogDirectory.open("/data", self.files)
        assert self.directory.last_broker_epoch == 7
        self.log = self.directory.load(lambda topic: self.config)[TP]
        assert self.log.recovery_point == self.end

    # What must hold.

    def verify(self):
        log = self.log
        log.check()
        assert (log.log_start_offset, log.log_end_offset) == (self.log_start, self.end)
        found = read_all(log)
        assert [kept_of(batch) for batch in found] == self.batches
        verify_places(log, found)
        verify_transactions(log, found)
        for kept in self.batches:
            assert log.epochs.epoch_of(max(kept.base, self.log_start)) == kept.epoch
        for producer_id, sequence in self.sequences.items():
            assert log.producers.get(producer_id).last_sequence == sequence - 1
        timestamp = self.now + self.rng.randint(-800, 60)
        upper_bound = self.rng.randint(self.log_start, self.end)
        hit = log.offset_for_timestamp(timestamp, upper_bound=upper_bound)
        expected = next(
            (
                (stamp, offset, kept.epoch)
                for kept in self.batches
                for offset, stamp in enumerate(kept.timestamps, kept.base)
                if stamp >= timestamp and offset >= self.log_start
            ),
            None,
        )
        if expected is not None and expected[1] >= upper_bound:
            expected = None
        assert hit == expected


def verify_recovered(world, files, *, go_on=True):
    """Restart on what the power cut left in `files`; nothing durable is lost, nothing is
    invented. `go_on`: it is a log to go on with, and to close."""
    directories = [LogDirectory.open(path, files) for path in world.paths]
    for directory in directories:
        directory.load(lambda topic: world.config)
    log = settle(directories).get(TP)
    if log is None and world.may_be_absent:
        close(directories, clean=False)
        return
    assert log is not None, "its creation was made durable"
    log.check()
    found = read_all(log)
    for batch in found:
        assert verify_crc(batch)
    offsets = {
        record.offset: (record.value, batch.leader_epoch)
        for batch in found
        for record in iter_records(batch)
    }
    dense = (
        list(offsets) == list(range(found[0].base_offset, log.log_end_offset)) if found else True
    )
    assert dense, list(offsets)
    if not found:
        assert log.log_start_offset == log.log_end_offset
    matching = [
        history
        for history in world.histories
        if all(history.get(offset) == value for offset, value in offsets.items())
    ]
    assert matching, "a mixture of what never was together"
    # Retention moves the log's start before it removes what lies below.
    start = max(world.log_start, world.log.log_start_offset)
    if world.floor > start:
        assert log.log_start_offset <= start
        assert log.log_end_offset >= world.floor
        current = world.histories[-1]
        for offset in range(start, world.floor):
            assert offsets[offset] == current[offset]
    verify_places(log, found)
    verify_transactions(log, found)
    # A log start that was not checkpointed comes back lower; epochs below it may be forgotten. (Of
    # what the log was before a truncation, where it started then is not known here.)
    is_present = any(history is world.histories[-1] for history in matching)
    for batch in found:
        if batch.base_offset >= start and is_present and not world.may_be_absent:
            assert log.epochs.epoch_of(batch.base_offset) == batch.leader_epoch
    last = {}
    for batch in found:
        if batch.producer_id >= 0 and not batch.is_control:
            last[batch.producer_id] = batch.last_sequence
    for producer_id, sequence in last.items():
        assert log.producers.get(producer_id).last_sequence == sequence
    if not go_on:
        close(directories, clean=False)
        return
    log = world.go_on(directories, log)
    raw = build_batch([Record(None, b"afterwards", 1)])
    end = log.log_end_offset
    log.append_as_leader(Batch(memoryview(raw)), 1_000_000, 1)
    log.flush()
    for directory in directories:
        directory.write_recovery_points()
    assert read_all(log)[-1].base_offset == end
    close(directories, clean=True)
    assert not files.open_files


def close(directories, *, clean):
    for directory in directories:
        directory.close(clean=clean)


def read_all(log):
    """Every batch, through `read` with odd limits."""
    found = []
    offset = log.log_start_offset
    while offset < log.log_end_offset:
        part = log.read(
            offset, 100 + offset % 500, upper_bound=log.log_end_offset, at_least_one=True
        )
        assert part is not None
        data = part.read()
        assert part.intact
        part.release()
        batches = parse_batches(data, partial_tail=True)
        assert batches[0].base_offset <= offset <= batches[0].last_offset
        found += batches
        offset = batches[-1].last_offset + 1
    return found


def kept_of(batch):
    records = list(iter_records(batch))
    return Kept(
        batch.base_offset,
        batch.last_offset,
        batch.leader_epoch,
        tuple(record.value for record in records),
        tuple(record.timestamp for record in records),
        (batch.producer_id, batch.producer_epoch, batch.base_sequence),
    )


def verify_places(log, found):
    """Look-ups agree with the batches, from the tail table and from the indexes, and every index
    entry says of the files what Kafka's dump tool checks."""
    for segment in log._segments:
        segment.load_indexes()
        headers = {f.position: f.batch for f in segment.scan(0, segment.size)}
        offset_file, time_file = segment.offset_index.file, segment.time_index.file
        entries = list(segment.offset_index.ENTRY.iter_unpack(offset_file.entries))
        for relative, position in entries:
            assert headers[position].last_offset == segment.base_offset + relative
        assert all(low < high for low, high in pairwise(entries))
        times = list(segment.time_index.ENTRY.iter_unpack(time_file.entries))
        ends = {batch.last_offset: batch.max_timestamp for batch in headers.values()}
        for timestamp, relative in times:
            assert ends[segment.base_offset + relative] == timestamp
        assert all(low[0] < high[0] and low[1] <= high[1] for low, high in pairwise(times))
        assert segment.largest[0] == max(ends.values(), default=-1)
        for position, batch in headers.items():
            for offset in (batch.base_offset, batch.last_offset):
                assert segment.locate(offset) == (position, len(batch.view))
                floor = segment.offset_index.floor(offset)[1]
                assert floor <= position
                assert floor in headers


def verify_transactions(log, found):
    """A reader of committed records gets those, and no others, up to the first of an open
    transaction, whatever the pieces it reads in."""
    ended, open_from, committed = {}, log.log_end_offset, []
    for batch in reversed(found):
        if batch.is_control:
            ended[batch.producer_id] = kind_of(batch)
        elif batch.is_transactional and batch.producer_id not in ended:
            open_from = batch.base_offset
        elif not batch.is_transactional or ended[batch.producer_id] == COMMIT:
            committed.append(batch)
    stable = log.last_stable_offset(log.log_end_offset)
    start, transactions = log.log_start_offset, log.producers.transactions
    if not NO_OFFSET < transactions.first_offset(transactions.oldest) < start:
        assert stable == open_from
    else:
        assert stable == start
    committed = [batch.base_offset for batch in reversed(committed) if batch.last_offset < stable]
    for max_bytes in (200, 500, 1 << 20):
        assert committed_in(log, stable, max_bytes) == committed


def committed_in(log, stable, max_bytes):
    """The base offsets of the batches that a consumer with read_committed gives out."""
    offset, given = log.log_start_offset, []
    while offset < stable:
        part = log.read(offset, max_bytes, upper_bound=stable, at_least_one=True)
        aborted = sorted(log.aborted_in(part, offset), key=lambda one: one.first_offset)
        batches = parse_batches(part.read(), partial_tail=True)
        part.release()
        passed_over = set()
        for batch in batches:
            while aborted and aborted[0].first_offset <= batch.last_offset:
                passed_over.add(aborted.pop(0).producer_id)
            if batch.is_control:
                if kind_of(batch) == ABORT:
                    passed_over.discard(batch.producer_id)
            elif not batch.is_transactional or batch.producer_id not in passed_over:
                given.append(batch.base_offset)
        offset = batches[-1].last_offset + 1
    return given


def kind_of(marker):
    [record] = iter_records(marker)
    return struct.unpack(">hh", record.key)[1]
