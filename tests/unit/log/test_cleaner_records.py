"""What survives compaction, told of single batches."""

import tracemalloc

import pytest
from log_builders import ABORT, COMMIT, marker

from zkafka.errors import ApiError
from zkafka.log.cleaner_records import (
    BYTES_PER_KEY,
    Endings,
    KeyOffsets,
    LastOfProducer,
    RecordFilter,
    note_keys,
)
from zkafka.log.transactions import Marker, marker_of
from zkafka.model import NO_OFFSET
from zkafka.protocol.compression import Codec
from zkafka.protocol.records import CONTROL, Batch, Record, build_batch, iter_records, restamp
from zkafka.protocol.spans import delete_horizon_ms

NOW = 1_000_000
RETENTION = 5_000


def batch_at(base_offset, *pairs, **fields):
    """A batch of (key, value) pairs."""
    records = [Record(key, value, 1000 + n) for n, (key, value) in enumerate(pairs)]
    return Batch(memoryview(build_batch(records, base_offset=base_offset, **fields)))


def data(base_offset, *pairs, producer=7):
    return batch_at(
        base_offset, *pairs, producer_id=producer, producer_epoch=0, base_sequence=0,
        transactional=True,
    )  # fmt: skip


def marker_at(offset, kind, *, producer=7, epoch=0):
    return marker(kind, base_offset=offset, producer=producer, epoch=epoch)


def result_of(work):
    """What a generator returns at its end."""
    while True:
        try:
            assert next(work) == 0
        except StopIteration as end:
            return end.value


def compact(batches, *, start=0, bound=None, now=NOW, capacity=1000, last=None):
    """A whole cleaning of a log that has these batches; the batches left."""
    keys, endings = KeyOffsets(capacity), Endings()
    for batch in batches:
        if batch.is_control and (found := marker_of(batch)) is not None:
            endings.add(batch.producer_id, found)
    for batch in batches:
        if batch.last_offset < start or batch.is_control:
            continue
        if batch.is_transactional and not endings.committed(batch):
            continue
        full = result_of(note_keys(batch, keys, start))
        if full is not None:
            keys.latest = full - 1
            break
        keys.latest = batch.last_offset
    record_filter = RecordFilter(
        keys=keys,
        bound=batches[-1].last_offset + 2 if bound is None else bound,
        now_ms=now,
        delete_retention_ms=RETENTION,
        last_of_producers=last or {},
        is_aborted=lambda batch: endings.committed(batch) is False,
    )
    survivors = [result_of(record_filter.survivor(batch)) for batch in batches]
    return [batch for batch in survivors if batch is not None]


def records_of(batches):
    return [(r.offset, r.key, r.value) for batch in batches for r in iter_records(batch)]


def places_of(batches):
    return [(batch.base_offset, batch.last_offset, batch.record_count) for batch in batches]


def test_the_last_record_of_each_key_stays_where_it_was():
    left = compact(
        [
            batch_at(10, (b"a", b"1"), (b"b", b"2")),
            batch_at(12, (b"a", b"3")),
            batch_at(13, (b"c", b"4"), (b"a", b"5")),
        ]
    )
    assert records_of(left) == [(11, b"b", b"2"), (13, b"c", b"4"), (14, b"a", b"5")]
    assert places_of(left) == [(10, 11, 1), (13, 14, 2)]


def test_a_batch_of_which_all_stays_is_the_same_to_the_byte():
    batch = batch_at(0, (b"a", b"1"), (b"b", b"2"), codec=Codec.GZIP)
    [left] = compact([batch])
    assert left is batch


@pytest.mark.parametrize("codec", Codec)
def test_what_is_left_is_compressed_as_before(codec):
    [left] = compact([batch_at(0, (b"a", b"1"), (b"a", b"2" * 500), codec=codec)])
    assert left.codec == codec
    assert records_of([left]) == [(1, b"a", b"2" * 500)]


def test_records_without_key_go():
    left = compact([batch_at(0, (None, b"1"), (b"a", b"2")), batch_at(2, (None, b"3"))])
    assert records_of(left) == [(1, b"a", b"2")]


def test_what_the_map_did_not_reach_stays():
    batches = [batch_at(n, (key, b"v")) for n, key in enumerate([b"a", b"b", b"a", b"c", b"a"])]
    batches.append(batch_at(5, (None, b"keyless")))
    assert [offset for offset, _, _ in records_of(compact(batches, capacity=2))] == [1, 2, 3, 4, 5]


def test_a_full_map_still_takes_later_offsets_of_its_keys():
    keys = KeyOffsets(2)
    assert all(keys.put(key, n) for n, key in enumerate([b"a", b"b" * 40, b"a", b"b" * 40]))
    assert not keys.put(b"c", 4)
    assert (keys.get(b"a"), keys.get(b"b" * 40), keys.get(b"c"), len(keys)) == (2, 3, NO_OFFSET, 2)


def test_a_long_key_is_not_mistaken_for_a_short_one():
    keys = KeyOffsets(10)
    keys.put(b"k" * 16, 1)
    assert [keys.get(b"k" * n) for n in (15, 16, 17)] == [NO_OFFSET, 1, NO_OFFSET]


@pytest.mark.parametrize("count", [10_923, 21_846])  # A dict's table has just grown.
def test_a_key_costs_no_more_than_is_said(count):
    keys = KeyOffsets(count)
    tracemalloc.start()
    for n in range(count):
        keys.put(b"a key of some length %d" % n, 10**12 + n)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / count <= BYTES_PER_KEY


def test_keys_below_the_dirty_part_are_not_noted():
    left = compact([batch_at(0, (b"a", b"1"), (b"a", b"2")), batch_at(2, (b"b", b"3"))], start=1)
    assert records_of(left) == [(1, b"a", b"2"), (2, b"b", b"3")]


# Tombstones.


def test_a_tombstone_gets_a_delete_horizon_and_goes_when_that_is_past():
    batch = batch_at(0, (b"a", None), (b"b", b"2"))
    first = compact([batch])
    assert records_of(first) == records_of([batch])
    assert [r.timestamp for r in iter_records(first[0])] == [1000, 1001]
    assert delete_horizon_ms(first[0]) == NOW + RETENTION

    assert compact(first, now=NOW + RETENTION - 1) == first, "the horizon does not move"

    [last] = compact(first, now=NOW + RETENTION)
    assert records_of([last]) == [(1, b"b", b"2")]
    assert delete_horizon_ms(last) == NOW + RETENTION
    assert (last.base_offset, last.last_offset) == (0, 1)


def test_a_tombstone_takes_what_it_buries_with_the_first_cleaning():
    left = compact([batch_at(0, (b"a", b"1")), batch_at(1, (b"a", None))])
    assert records_of(left) == [(1, b"a", None)]


def test_a_tombstone_that_was_written_over_goes_at_once():
    left = compact([batch_at(0, (b"a", None)), batch_at(1, (b"a", b"1"))])
    assert records_of(left) == [(1, b"a", b"1")]
    assert delete_horizon_ms(left[0]) is None


# Batches without records.


def test_the_last_batch_of_a_round_stays_without_records():
    batches = [batch_at(0, (b"a", b"1")), batch_at(1, (None, b"2"), (None, b"3"))]
    left = compact(batches, bound=3)
    assert places_of(left) == [(0, 0, 1), (1, 2, 0)]
    assert places_of(compact(left, bound=3)) == places_of(left)
    assert places_of(compact(left, bound=9)) == [(0, 0, 1)]


def test_the_last_sequence_of_a_known_producer_stays():
    written = {"producer_id": 5, "producer_epoch": 1, "base_sequence": 4}
    batches = [
        batch_at(0, (b"a", b"1"), **written),
        batch_at(1, (b"a", b"2"), (b"b", b"3"), **written | {"base_sequence": 5}),
        batch_at(3, (b"a", b"4"), (b"b", b"5")),
    ]
    known = compact(batches, last={5: LastOfProducer(2, 1)})
    assert places_of(known) == [(1, 2, 0), (3, 4, 2)]
    assert (known[0].producer_id, known[0].producer_epoch, known[0].last_sequence) == (5, 1, 6)
    assert places_of(compact(known)) == [(3, 4, 2)], "forgotten by now"


# Transactions.


def test_data_of_an_aborted_transaction_go_and_bury_nothing():
    left = compact(
        [
            batch_at(0, (b"a", b"1")),
            data(1, (b"a", b"2")),
            data(2, (b"a", b"3"), producer=8),
            marker_at(3, ABORT),
            data(4, (b"b", b"4")),
            marker_at(5, ABORT, producer=8),
            marker_at(6, COMMIT),
        ]
    )
    assert [offset for offset, _, _ in records_of(left)] == [0, 3, 4, 5, 6]


@pytest.mark.parametrize("kind", [ABORT, COMMIT])
def test_a_marker_stays_for_delete_retention_after_the_last_of_its_data(kind):
    batches = [data(0, (b"a", b"1")), marker_at(1, kind), batch_at(2, (b"a", b"2"))]
    first = compact(batches)
    assert places_of(first) == [(1, 1, 1), (2, 2, 1)]
    assert delete_horizon_ms(first[0]) is None, "its data were still there"
    second = compact(first)
    assert delete_horizon_ms(second[0]) == NOW + RETENTION
    assert marker_of(second[0]) == Marker(1, kind == COMMIT, 3)
    assert compact(second, now=NOW + RETENTION - 1) == second
    assert places_of(compact(second, now=NOW + RETENTION)) == [(2, 2, 1)]


def test_a_marker_stays_while_its_data_do():
    batches = [data(0, (b"a", b"1")), marker_at(1, COMMIT)]
    left = compact(compact(batches, now=0), now=NOW)
    assert left == batches


def test_the_marker_that_alone_tells_a_producers_epoch_stays_empty():
    last = {7: LastOfProducer(NO_OFFSET, 3)}
    with_horizon = compact([marker_at(1, ABORT, epoch=3)], last=last)
    left = compact(with_horizon, now=NOW + RETENTION, last=last)
    assert places_of(left) == [(1, 1, 0)]
    assert left[0].is_control
    assert compact(left, last=last)[0].view == left[0].view
    assert compact(left) == []


def test_a_control_batch_of_another_kind_is_left_alone():
    batch = marker_at(0, 4)
    assert compact([batch]) == [batch]


def test_a_batch_whose_transaction_has_no_end_yet():
    endings = Endings()
    endings.add(7, Marker(3, committed=True, coordinator_epoch=0))
    assert endings.committed(data(2, (b"a", b"1"))) is True
    assert endings.committed(data(4, (b"a", b"1"))) is None
    assert endings.committed(data(2, (b"a", b"1"), producer=8)) is None


# Nonsense.


def test_records_that_are_none_are_refused():
    raw = build_batch([Record(b"a", b"1", 1)])
    raw[-1] = 0x55
    raw[-3] = 0x7F
    with pytest.raises(ApiError):
        compact([Batch(memoryview(raw))])


def test_an_empty_marker_is_none():
    raw = build_batch([], producer_id=7, producer_epoch=0, transactional=True)
    batch = restamp(memoryview(raw), CONTROL, 5)
    assert marker_of(batch) is None
