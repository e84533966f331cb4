"""Segments, and the indexes of offsets and of times, are what plain lists of the same would be.

The machine of segments does what a log does to its own, one level below it: a file of batches that
is appended to, asked, cut, sealed and begun anew, closed and opened again, with index files that
are late, missing or damaged. Its model is a list of batches per segment. The machine of index files
has a list of entries beside either index.
"""

import bisect
from itertools import pairwise
from random import Random
from typing import NamedTuple

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from log_disks import ForgetfulFiles

from zkafka.config import LogConfig
from zkafka.errors import StorageError
from zkafka.log.disk import Disk
from zkafka.log.index import OffsetIndex, TimeIndex
from zkafka.log.segment import Extent, Segment
from zkafka.protocol.records import Record, build_batch

QUICK = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
LONG = settings(QUICK, max_examples=300, stateful_step_count=60)

CONFIG = LogConfig(
    segment_bytes=3000, index_interval_bytes=150, segment_index_bytes=60, segment_ms=2000
)
"""Five entries of time and seven of offsets make an index full."""
REBUILT_INTERVAL = 4096
"""Between the entries of an index that was found to be missing or damaged long after."""
NEVER = 2**62
BIG_GAP = 2**30


class Kept(NamedTuple):
    """A batch as the list has it."""

    position: int
    base: int
    last: int
    timestamp: int
    raw: bytes

    @property
    def end(self):
        return self.position + len(self.raw)


@attrs.define
class Model:
    """A segment and the list of its batches; `interval` is what its index may leave out."""

    segment: Segment
    batches: list[Kept] = attrs.field(factory=list)
    interval: int = CONFIG.index_interval_bytes

    @property
    def size(self):
        return self.batches[-1].end if self.batches else 0

    @property
    def end_offset(self):
        return self.batches[-1].last + 1 if self.batches else self.segment.base_offset

    def must_roll(self, size, timestamp, last_offset, count):
        """As the configuration words it; the indexes' fill is asked of them. `count` batches of
        `size` bytes together may make an entry each, but one per interval."""
        if last_offset - self.segment.base_offset >= 2**31:
            return True
        offset_bytes, time_bytes = self.segment.index_sizes
        entries = min(count, 1 + size // (CONFIG.index_interval_bytes + 1))
        overflows = (
            offset_bytes + 8 * entries > CONFIG.segment_index_bytes
            # One is kept free for the seal.
            or time_bytes + 12 * (entries + 1) > CONFIG.segment_index_bytes
        )
        if not self.batches:
            return count > 1 and overflows
        first = self.batches[0].timestamp
        return (
            overflows
            or self.size + size > CONFIG.segment_bytes
            or (first >= 0 and timestamp - first > CONFIG.segment_ms)
        )


def batch_of(base, count, padding, timestamp):
    return bytes(
        build_batch(
            [Record(None, b"%d" % base + b"x" * padding, timestamp)] * count, base_offset=base
        )
    )


chances = st.integers(0, 2**16).map(Random)

batches = st.tuples(
    st.sampled_from([0, 0, 0, 0, 1, 5, BIG_GAP]),  # offsets left out before it
    st.integers(1, 4),  # records
    st.integers(0, 150),  # bytes in each
    st.one_of(
        st.integers(1, 50), st.integers(-200, 200), st.just(2500), st.none()
    ),  # ms after the last
)


class Segments(RuleBasedStateMachine):
    """A run of segments, the last one active, as a log holds them."""

    def __init__(self):
        super().__init__()
        self.files = ForgetfulFiles()
        self.files.make_directories("/data/t-0")
        self.disk = Disk("/data", self.files)
        self.slices = []  # (slice, its bytes, whether what it holds was cut)
        self.sealed = []
        self.active = None
        self.now = 1000
        self.begin(100)

    def begin(self, base_offset):
        segment = Segment(self.disk, "/data/t-0", base_offset, new=True)
        segment.create()
        self.active = Model(segment)

    @property
    def models(self):
        return [*self.sealed, self.active]

    # What is done to it.

    @rule(wanted=st.lists(batches, min_size=1, max_size=6))
    def append(self, wanted):
        """One write for as many as fit into the segment."""
        pending = []
        end = self.active.end_offset
        for gap, count, padding, later in wanted:
            self.now += max(0, later or 0)
            timestamp = self.now + min(0, later) if later is not None else -1
            raw = batch_of(end + gap, count, padding, timestamp)
            last = end + gap + count - 1
            pending_size = sum(len(kept.raw) for kept in pending)
            asked = pending_size + len(raw), timestamp, last
            batch_count = len(pending) + 1
            rolls = self.active.must_roll(*asked, batch_count)
            assert rolls == self.active.segment.must_roll(
                *asked, CONFIG, None, 0, batch_count=batch_count
            )
            if rolls or (pending and pending_size + len(raw) > CONFIG.segment_bytes):
                self.write(pending)
                pending = []
                if self.active.batches or last - self.active.segment.base_offset >= 2**31:
                    self.roll_at(end + gap)
            position = self.active.size + sum(len(kept.raw) for kept in pending)
            pending.append(Kept(position, end + gap, last, timestamp, raw))
            end = last + 1
        self.write(pending)

    def write(self, pending):
        if pending:
            self.active.segment.append(
                [kept.raw for kept in pending],
                [Extent(len(kept.raw), kept.last, kept.timestamp) for kept in pending],
                CONFIG,
            )
            self.active.batches += pending

    def roll_at(self, base_offset):
        if self.active.batches:
            self.active.segment.seal()
            self.sealed.append(self.active)
        else:
            self.active.segment.discard(0)
        self.begin(base_offset)

    @precondition(lambda self: self.active.batches)
    @rule()
    def roll(self):
        self.roll_at(self.active.end_offset)

    @rule(chance=chances)
    def truncate(self, chance):
        """At the start of any batch; the segments behind it go."""
        places = [(model, kept) for model in self.models for kept in model.batches]
        if not places:
            return
        model, kept = chance.choice(places[-20:])
        keep = self.models.index(model)
        for gone in self.models[keep + 1 :]:
            gone.segment.mark_cut()
            gone.segment.discard(0)
        self.slices = [
            (part, data, cut or part._segment not in self.kept_segments(keep)
             or (part._segment is model.segment and part.position + part.size > kept.position))
            for part, data, cut in self.slices
        ]  # fmt: skip
        model.segment.truncate_at(kept.position, kept.base)
        model.batches = [each for each in model.batches if each.last < kept.base]
        self.sealed, self.active = self.sealed[:keep], model

    def kept_segments(self, keep):
        """Those up to the one that is cut, and those that were gone before."""
        return {part._segment for part, _, _ in self.slices} - {
            model.segment for model in self.models[keep + 1 :]
        }

    @rule()
    def save(self):
        self.active.segment.fsync(indexes=True)

    @rule()
    def unload(self):
        for model in self.sealed:
            model.segment.unload_indexes()

    @rule(chance=chances)
    def rebuild(self, chance):
        model = chance.choice(self.models)
        model.segment.rebuild_indexes(CONFIG.index_interval_bytes)
        model.segment.save_indexes()
        model.interval = CONFIG.index_interval_bytes

    @rule()
    def close_and_open(self):
        """As after a clean stop: everything has its last entry, and the files are trusted."""
        self.active.segment.seal()
        self.open_again()
        self.active.segment.resume_at(self.active.end_offset)

    @rule(torn=st.binary(max_size=200), lost=st.integers(0, 60))
    def die_and_recover(self, torn, lost):
        """The process is killed in the middle of a write. What the index files of the active
        segment hold is any number of its entries."""
        raw = batch_of(self.active.end_offset, 2, 30, 7)
        tail = torn or raw[: len(raw) - 1 - lost]
        segment = self.active.segment
        self.files.write(segment.fd, [tail], segment.size)
        self.open_again(extra=len(tail))
        segment = self.active.segment
        segment.begin_rebuild()
        valid = 0
        for position, size, batch in segment.scan_verified():
            segment.rebuild_with(
                position,
                Extent(size, batch.last_offset, batch.max_timestamp),
                CONFIG.index_interval_bytes,
            )
            valid = position + size
        assert valid == self.active.size
        segment.truncate_at(valid, self.active.end_offset)
        self.active.interval = CONFIG.index_interval_bytes

    def open_again(self, extra=0):
        for part, data, cut in self.slices:
            assert cut or part.read() == data
            part.release()
        self.slices = []
        for model in self.models:
            base, size = model.segment.base_offset, model.size
            model.segment.close()
            if model is self.active:
                size += extra
            model.segment = Segment(self.disk, "/data/t-0", base, size=size)
        assert not self.files.open_files

    @precondition(lambda self: self.sealed)
    @rule(chance=chances, flips=st.booleans())
    def damage(self, chance, flips):
        """An index file is lost, cut anywhere or has a wrong bit, while nobody has it in memory."""
        model = chance.choice(self.sealed)
        segment = model.segment
        segment.save_indexes()
        segment.unload_indexes()
        path = chance.choice([segment.offset_index, segment.time_index]).file.path
        data = bytearray(self.files.read_file(path))
        if flips and data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            self.files.write_file(path, data)
            # Which look-up meets the wrong entry, and has all made anew, is not said.
            self.ask_for_offsets(model)
            self.ask_for_times(model)
            segment.rebuild_indexes(CONFIG.index_interval_bytes)
            segment.save_indexes()
            model.interval = CONFIG.index_interval_bytes
            return
        if len(data) % segment.time_index.ENTRY.size == 1 or not data or chance.random() < 0.3:
            self.files.unlink(path)
        else:
            self.files.write_file(path, data[: -chance.choice([1, 3, 5, 7])])
        model.interval = REBUILT_INTERVAL

    @rule(chance=chances)
    def take_a_slice(self, chance):
        places = [(model, kept) for model in self.models for kept in model.batches]
        if not places:
            return
        model, kept = chance.choice(places)
        size = chance.randint(1, model.size - kept.position)
        data = b"".join(each.raw for each in model.batches)[kept.position : kept.position + size]
        self.slices.append((model.segment.slice(kept.position, size), data, False))

    @precondition(lambda self: self.sealed)
    @rule()
    def let_the_oldest_go(self):
        """As retention does; who is at it reads on."""
        self.sealed.pop(0).segment.discard(0)
        self.disk.purge(0)
        self.disk.purge(1)

    def teardown(self):
        for part, _, _ in self.slices:
            part.release()
        for model in self.models:
            model.segment.close()
        assert not self.files.open_files

    # What must hold.

    @invariant()
    def slices_are_what_they_were_or_say_that_they_are_not(self):
        for part, data, cut in self.slices:
            assert part.intact == (not cut)
            assert cut or part.read() == data

    @invariant()
    def every_segment_is_its_list(self):
        for model in self.models:
            assert model.segment.size == model.size
            found = list(model.segment.scan(0, model.segment.size))
            assert [found_at.position for found_at in found] == [b.position for b in model.batches]
            self.ask_for_offsets(model)
            self.ask_for_times(model)

    def ask_for_offsets(self, model):
        segment, base = model.segment, model.segment.base_offset
        ends = [kept.last for kept in model.batches]
        asked = {base, model.end_offset, model.end_offset + 1}
        for kept in model.batches:
            asked |= {kept.base - 1, kept.base, kept.last, kept.last + 1}
        for offset in asked:
            number = bisect.bisect_left(ends, offset)
            if number == len(ends):
                assert segment.locate(offset) is None
                assert segment.position_of(offset) == model.size
            else:
                kept = model.batches[number]
                assert segment.locate(offset) == (kept.position, len(kept.raw))
                assert segment.position_of(offset) == kept.position
                assert bytes(segment.batch_at(kept.position, len(kept.raw)).view) == kept.raw
        boundaries = {kept.position for kept in model.batches} | {model.size}
        for kept in model.batches:
            for position in (kept.position, kept.end - 1, kept.end):
                found = segment.boundary_before(position, 0)
                assert found in boundaries
                assert found <= position

    def ask_for_times(self, model):
        segment = model.segment
        times = [kept.timestamp for kept in model.batches]
        assert segment.largest[0] == max(times, default=-1)
        if segment.largest[0] >= 0:
            first = model.batches[times.index(segment.largest[0])]
            assert segment.largest[1] == first.last
        assert segment.first_timestamp == (times[0] if times else -1)
        for timestamp in {0, *times, *(time + 1 for time in times)}:
            floor = segment.time_floor(timestamp)
            assert all(kept.timestamp < timestamp for kept in model.batches if kept.last < floor)

    @invariant()
    def the_indexes_are_sound_small_and_of_use(self):
        for model in self.models:
            segment = model.segment
            offset_bytes, time_bytes = segment.index_sizes
            assert max(offset_bytes, time_bytes) <= CONFIG.segment_index_bytes
            by_last = {kept.last: kept for kept in model.batches}
            entries = entries_of(segment.offset_index)
            for last, position in entries:
                assert by_last[last].position == position
            assert all(low < high for low, high in pairwise(entries))
            times = entries_of(segment.time_index)
            for timestamp, last in times:
                assert by_last[last].timestamp == timestamp
            assert all(low[0] < high[0] and low[1] < high[1] for low, high in pairwise(times))
            if model in self.sealed and segment.largest[0] >= 0:
                assert times[-1] == segment.largest
            for kept in model.batches:
                floor = segment.offset_index.floor(kept.last)[1]
                between = [each for each in model.batches if floor <= each.position < kept.position]
                # All but the last of these did not yet make an entry due.
                assert sum(len(each.raw) for each in between[:-1]) <= model.interval
                assert floor <= segment.approximate_position(kept.last) <= kept.position


def entries_of(index):
    """Its entries, with whichever field is an offset no longer relative."""
    base, unpack = index._base, index.ENTRY.iter_unpack
    if isinstance(index, OffsetIndex):
        return [(base + offset, position) for offset, position in unpack(index.file.contents)]
    return [(timestamp, base + offset) for timestamp, offset in unpack(index.file.contents)]


class Indexes(RuleBasedStateMachine):
    """Both indexes of one segment, and two lists."""

    BASE = 1000

    def __init__(self):
        super().__init__()
        self.files = ForgetfulFiles()
        self.files.make_directories("/data")
        self.disk = Disk("/data", self.files)
        self.offsets, self.saved_offsets = [], None
        self.times, self.saved_times = [], None
        self.open(new=True)

    def open(self, *, new):
        self.offset_index = OffsetIndex(self.disk, "/data/i", self.BASE, new=new)
        self.time_index = TimeIndex(self.disk, "/data/t", self.BASE, new=new)

    @rule(by=st.integers(1, 2**27), size=st.integers(1, 2**27))
    def append_offset(self, by, size):
        last, position = self.offsets[-1] if self.offsets else (self.BASE, 0)
        if last + by - self.BASE < 2**31 and position + size < 2**31:
            self.offset_index.append(last + by, position + size)
            self.offsets.append((last + by, position + size))

    @rule(timestamp=st.one_of(st.integers(0, 300), st.integers(0, NEVER)), by=st.integers(0, 100))
    def append_time(self, timestamp, by):
        latest, offset = self.times[-1] if self.times else (-1, self.BASE)
        self.time_index.append_if_later(timestamp, offset + by)
        if timestamp > latest:
            self.times.append((timestamp, offset + by))

    @rule(chance=chances)
    def truncate(self, chance):
        position = chance.randint(0, 1 + (self.offsets[-1][1] if self.offsets else 0))
        self.offset_index.truncate(position)
        self.offsets = [entry for entry in self.offsets if entry[1] < position]
        offset = chance.randint(self.BASE, 1 + (self.times[-1][1] if self.times else self.BASE))
        self.time_index.truncate(offset)
        self.times = [entry for entry in self.times if entry[1] < offset]
        # What the files had of it is gone from them, too.
        if self.saved_offsets is not None:
            self.saved_offsets = [entry for entry in self.saved_offsets if entry in self.offsets]
            self.saved_times = [entry for entry in self.saved_times if entry in self.times]

    @rule()
    def save(self):
        self.offset_index.file.save()
        self.time_index.file.save()
        self.saved_offsets, self.saved_times = list(self.offsets), list(self.times)

    @precondition(lambda self: self.saved_offsets is not None)
    @rule()
    def unload(self):
        """Harmless once there are files: what is not in them stays in memory."""
        self.offset_index.file.unload()
        self.time_index.file.unload()

    @rule()
    def rebuild(self):
        """Cleared and filled again; what the files hold counts for nothing until the next save."""
        self.saved_offsets = self.saved_times = None
        for index, entries in ((self.offset_index, self.offsets), (self.time_index, self.times)):
            index.file.clear()
            for entry in entries:
                index.append(*entry) if index is self.offset_index else index.append_if_later(
                    *entry
                )

    @precondition(lambda self: self.saved_offsets is not None)
    @rule()
    def die(self):
        """What was saved is found again."""
        self.open(new=False)
        self.offsets, self.times = list(self.saved_offsets), list(self.saved_times)

    @precondition(lambda self: self.saved_offsets)
    @rule(excess=st.integers(1, 7), missing=st.booleans())
    def be_damaged(self, excess, missing):
        """A file that is not whole entries, or is not there, is refused; there is no half of it."""
        self.save()
        if missing:
            self.files.unlink("/data/i")
        else:
            self.files.write_file("/data/i", self.files.read_file("/data/i") + bytes(excess))
        self.open(new=False)
        assert not self.offset_index.file.load()
        with pytest.raises(StorageError):
            self.offset_index.floor(self.BASE)
        self.rebuild()
        self.save()

    @invariant()
    def both_are_the_lists(self):
        start = (self.BASE, 0)
        assert self.offset_index.last() == (self.offsets[-1] if self.offsets else start)
        assert self.time_index.last() == (self.times[-1] if self.times else (-1, self.BASE))
        assert len(self.offset_index.file) == len(self.offsets)
        assert len(self.time_index.file) == len(self.times)
        assert self.offset_index.file.is_sorted()
        assert self.time_index.file.is_sorted()
        for offset, position in [start, *self.offsets]:
            for asked in (offset - 1, offset, offset + 1):
                below = [entry for entry in self.offsets if entry[0] <= asked]
                assert self.offset_index.floor(asked) == (below[-1] if below else start)
            for asked in (position, position + 1):
                below = [entry[1] for entry in self.offsets if entry[1] <= asked]
                assert self.offset_index.position_floor(asked) == (below[-1] if below else 0)
        for timestamp, _ in [(0, 0), *self.times]:
            for asked in (timestamp, timestamp + 1):
                below = [entry for entry in self.times if entry[0] < asked]
                assert self.time_index.floor(asked) == (below[-1] if below else (-1, self.BASE))

    def teardown(self):
        assert not self.files.open_files


class TestSegments(Segments.TestCase):
    settings = QUICK


class TestIndexes(Indexes.TestCase):
    settings = QUICK


@pytest.mark.long
class TestSegmentsForLong(Segments.TestCase):
    settings = LONG


@pytest.mark.long
class TestIndexesForLong(Indexes.TestCase):
    settings = LONG
