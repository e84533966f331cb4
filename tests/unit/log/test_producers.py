"""What makes a producer's retry harmless: KIP-98 and KIP-360, and Kafka's snapshot of it."""

from typing import NamedTuple

import crc32c
import pytest
from log_builders import ABORT, COMMIT, batch_of, marker

from zkafka.errors import ApiError, ErrorCode
from zkafka.log.files import Files
from zkafka.log.producers import ProducerStates, SnapshotCorrupt, Snapshots
from zkafka.log.transactions import build_marker, marker_of
from zkafka.protocol.records import Batch, Record, build_batch

LAST_SEQUENCE = 2**31 - 1


class Sent(NamedTuple):
    base_sequence: int
    count: int = 1
    producer_id: int = 9
    producer_epoch: int = 0
    max_timestamp: int = 1000
    is_control = is_transactional = False
    attributes = 0

    @property
    def last_offset_delta(self):
        return self.count - 1


def states_after(*batches, offset=100):
    states = ProducerStates()
    for batch in batches:
        states.update(batch, offset)
        offset += batch.last_offset_delta + 1
    return states


def refusal(states, batch):
    with pytest.raises(ApiError) as refused:
        states.check(batch)
    return refused.value.code


def test_the_next_sequence_is_accepted():
    states = states_after(Sent(0, 3))
    assert states.check(Sent(3)) is None


def test_a_gap_is_out_of_order():
    states = states_after(Sent(0, 3))
    assert refusal(states, Sent(4)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


@pytest.mark.parametrize("back", range(1, 6))
def test_each_of_the_last_five_batches_is_known_again(back):
    states = states_after(*(Sent(2 * n, 2) for n in range(10)), offset=0)
    written = states.check(Sent(2 * (10 - back), 2))
    assert (written.base_offset, written.last_offset) == (20 - 2 * back, 21 - 2 * back)


def test_a_repeat_older_than_five_batches_is_out_of_order():
    states = states_after(*(Sent(n) for n in range(6)))
    assert refusal(states, Sent(0)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_the_same_sequence_with_another_length_is_no_repeat():
    states = states_after(Sent(0, 3))
    assert refusal(states, Sent(0, 2)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_an_unknown_producer_may_begin_anywhere():
    assert ProducerStates().check(Sent(77)) is None


def test_an_old_epoch_is_fenced():
    states = states_after(Sent(0, producer_epoch=2))
    stale = Sent(1, producer_epoch=1)
    assert refusal(states, stale) is ErrorCode.INVALID_PRODUCER_EPOCH


def test_a_new_epoch_begins_at_zero():
    states = states_after(Sent(0, 3))
    assert states.check(Sent(0, producer_epoch=1)) is None
    beyond = Sent(3, producer_epoch=1)
    assert refusal(states, beyond) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_after_a_marker_of_a_new_epoch_that_epoch_begins_at_zero():
    states = states_after(Sent(0, 3), marker(ABORT, epoch=1))
    assert states.check(Sent(0, producer_epoch=1)) is None
    beyond = Sent(3, producer_epoch=1)
    assert refusal(states, beyond) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_a_marker_of_the_same_epoch_keeps_the_sequence():
    states = states_after(Sent(0, 3), marker(COMMIT))
    assert states.check(Sent(3)) is None


def test_sequences_wrap_from_their_largest_to_zero():
    states = states_after(Sent(LAST_SEQUENCE - 1, 2))
    assert states.check(Sent(0)) is None
    states = states_after(Sent(LAST_SEQUENCE, 3))  # ..., 0, 1
    assert states.get(9).last_sequence == 1
    assert states.check(Sent(LAST_SEQUENCE, 3)).base_sequence == LAST_SEQUENCE
    assert states.check(Sent(2)) is None


def test_what_another_leader_accepted_is_never_refused():
    states = states_after(Sent(0, 3, producer_epoch=4), Sent(70, producer_epoch=3))
    assert (states.get(9).epoch, states.get(9).last_sequence) == (3, 70)


def test_the_idle_are_forgotten_after_their_time():
    states = states_after(Sent(0, producer_id=1, max_timestamp=1000), Sent(0, max_timestamp=5000))
    assert states.expire(6000, 5000) == 1
    assert states.get(1) is None
    assert states.check(Sent(1)) is None
    assert refusal(states, Sent(7)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_truncation_takes_batches_back():
    states = states_after(Sent(0), Sent(1), Sent(2))  # offsets 100, 101, 102
    assert states.truncate_to(102)
    assert states.get(9).last_sequence == 1
    assert states.check(Sent(2)) is None


def test_truncation_below_all_that_is_known_of_a_producer_says_so():
    assert not states_after(Sent(0), Sent(1)).truncate_to(100)
    assert not states_after(Sent(0), Sent(0, producer_epoch=1)).truncate_to(101)


# Transactions.


def in_transaction(producer_id=9, base_sequence=0):
    return batch_of(
        b"", b"", producer_id=producer_id, producer_epoch=0, base_sequence=base_sequence,
        transactional=True,
    )  # fmt: skip


def test_readers_of_committed_records_wait_for_the_first_open_transaction():
    states = states_after(Sent(0), in_transaction(1), in_transaction(2), marker(COMMIT, producer=1))
    assert states.transactions.last_stable_offset(104) == 101, "its marker is not replicated"
    assert states.transactions.last_stable_offset(106) == 103, "the other is open"
    assert states.transactions.last_stable_offset(102) == 102


def test_who_was_decided_inside_of_another_holds_up_nobody():
    begun = [in_transaction(n) for n in (1, 2, 3)]
    states = states_after(*begun, marker(COMMIT, producer=3), marker(ABORT, producer=2))
    states.update(marker(COMMIT, producer=1), 108)
    states.update(in_transaction(4), 109)
    states.update(marker(COMMIT, producer=4), 111)
    assert len(states.transactions._decided) == 2
    for high_watermark, stable in ((107, 100), (108, 100), (109, 109), (111, 109), (112, 112)):
        assert states.transactions.last_stable_offset(high_watermark) == stable


def test_an_aborted_transaction_is_told_with_what_was_stable_then():
    states = states_after(in_transaction(1), in_transaction(2), in_transaction(1, 2))
    assert states.update(marker(ABORT, producer=1), 106) == (1, 100, 106, 102)
    assert states.update(marker(ABORT, producer=2), 107) == (2, 102, 107, 108)
    assert states.update(marker(ABORT, producer=2), 108) is None, "of nothing"
    assert states.transactions.last_stable_offset(109) == 109
    assert not states.transactions


def test_what_is_no_marker_ends_no_transaction():
    states = states_after(in_transaction())
    damaged = marker(ABORT)
    damaged.view[-10:] = bytes(10)
    keyless = [
        Batch(
            memoryview(
                build_batch(
                    [Record(key, b"", 1000)], producer_id=9, transactional=True, control=True
                )
            )
        )
        for key in (None, b"", bytes(3), b"\xff\xff\0\0")
    ]
    for batch in (damaged, marker(7), *keyless):
        assert states.update(batch, 102) is None
    assert states.transactions.last_stable_offset(103) == 100


def test_a_marker_is_laid_out_as_kafka_does():
    fields = {"coordinator_epoch": 3, "timestamp": 1000}
    for kind, committed in ((COMMIT, True), (ABORT, False)):
        made = build_marker(9, 4, committed=committed, **fields)
        assert made == bytes(marker(kind, epoch=4).view)
        assert marker_of(Batch(memoryview(made))) == (0, committed, 3)


def test_a_marker_of_a_replaced_producer_is_refused():
    states = states_after(in_transaction(), marker(ABORT, epoch=2))
    with pytest.raises(ApiError) as refused:
        states.check_marker(marker(COMMIT, epoch=1))
    assert refused.value.code is ErrorCode.INVALID_PRODUCER_EPOCH
    states.check_marker(marker(COMMIT, epoch=2))
    states.check_marker(marker(COMMIT, epoch=3))
    states.check_marker(marker(COMMIT, epoch=0, producer=10))  # of nobody known


def test_a_marker_of_a_replaced_coordinator_is_refused():
    states = states_after(in_transaction(), marker(ABORT))  # of coordinator epoch 3
    states.update(in_transaction(base_sequence=2), 103)

    def check(coordinator_epoch):
        made = build_marker(
            9, 0, committed=True, coordinator_epoch=coordinator_epoch, timestamp=1000
        )
        states.check_marker(Batch(memoryview(made)))

    with pytest.raises(ApiError) as refused:
        check(2)
    assert refused.value.code is ErrorCode.TRANSACTION_COORDINATOR_FENCED
    check(3)
    check(4)


def test_nothing_else_of_a_producer_comes_in_the_middle_of_its_transaction():
    states = states_after(in_transaction())
    assert refusal(states, Sent(2)) is ErrorCode.INVALID_TXN_STATE
    assert states.check(in_transaction(base_sequence=2)) is None
    states.update(marker(COMMIT), 102)
    assert states.check(Sent(2)) is None


def test_a_snapshot_keeps_open_transactions_and_their_order():
    states = states_after(in_transaction(5), in_transaction(4), Sent(0), marker(ABORT, producer=5))
    states.update(in_transaction(5, 2), 106)
    again = ProducerStates.from_snapshot(states.to_snapshot(), 108)
    assert again.transactions.last_stable_offset(108) == 102
    assert again.update(marker(ABORT, producer=4), 108) == (4, 102, 108, 106)
    assert again.get(5).coordinator_epoch == 3
    assert again.expire(10**12, 1) == 2, "all but the one with the open transaction"


def test_a_transaction_is_late_that_had_nothing_written_for_long():
    states = states_after(Sent(0), in_transaction(1), in_transaction(2))  # last at 1001
    assert not states.has_late_transaction(1101, 100)
    assert states.has_late_transaction(1102, 100)
    states.update(marker(ABORT, producer=1), 105)
    states.update(marker(ABORT, producer=2), 106)
    assert not states.has_late_transaction(10**12, 100)


def test_truncation_below_anything_said_of_transactions_says_so():
    states = states_after(Sent(0, producer_id=3), in_transaction(), Sent(1, producer_id=3))
    assert states.truncate_to(103)
    assert not states.truncate_to(102)
    again = ProducerStates.from_snapshot(states.to_snapshot(), 103)
    assert not again.truncate_to(102)
    assert states_after(Sent(0), Sent(1)).truncate_to(101)


# Kafka 3.9's layout, by hand: version 1, checksum, one entry.
ENTRY = (
    b"\x00\x00\x00\x00\x00\x00\x00\x09"  # producer id
    b"\x00\x02"  # epoch
    b"\x00\x00\x00\x04"  # last sequence
    b"\x00\x00\x00\x00\x00\x00\x00\x68"  # last offset
    b"\x00\x00\x00\x02"  # offset delta
    b"\x00\x00\x00\x00\x00\x00\x03\xe8"  # timestamp
    b"\xff\xff\xff\xff"  # coordinator epoch
    b"\xff\xff\xff\xff\xff\xff\xff\xff"  # current transaction's first offset
)


def test_a_snapshot_is_kafkas():
    data = states_after(Sent(0, 2, producer_epoch=2), Sent(2, 3, producer_epoch=2)).to_snapshot()
    assert data[:2] == b"\x00\x01"
    assert data[6:10] == b"\x00\x00\x00\x02"
    assert data[-46:] == ENTRY, "the last batch comes last: it is the one that Kafka keeps"
    assert len(data) == 10 + 2 * 46


def test_a_snapshot_keeps_all_batches_that_a_producer_may_repeat():
    """All of them may be unacknowledged when the broker stops, and are then sent again in order."""
    sent = [Sent(n) for n in range(7)]
    before = states_after(*sent)
    states = ProducerStates.from_snapshot(before.to_snapshot(), 107)
    for batch in sent[2:]:
        assert states.check(batch) == before.check(batch)
    assert states.check(Sent(7)) is None
    assert refusal(states, sent[1]) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_a_snapshot_with_the_last_batch_alone_is_read_as_kafka_wrote_it():
    data = b"\x00\x00\x00\x01" + ENTRY
    crc = crc32c.crc32c(data).to_bytes(4, "big")
    states = ProducerStates.from_snapshot(b"\x00\x01" + crc + data, 200)
    assert states.get(9).epoch == 2
    assert len(states.get(9).batches) == 1


def test_a_producer_without_batches_survives_a_snapshot():
    states = states_after(marker(ABORT, epoch=3))
    again = ProducerStates.from_snapshot(states.to_snapshot(), 200)
    assert again.get(9).epoch == 3
    assert again.check(Sent(0, producer_epoch=3)) is None


def test_no_damaged_snapshot_is_believed():
    data = states_after(Sent(0), Sent(0, producer_id=4)).to_snapshot()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(SnapshotCorrupt):
            ProducerStates.from_snapshot(bytes(damaged), 200)
    for size in range(len(data)):
        with pytest.raises(SnapshotCorrupt):
            ProducerStates.from_snapshot(data[:size], 200)


def test_the_newest_sound_snapshot_is_used_and_the_unsound_removed(tmp_path):
    snapshots = Snapshots(Files(), str(tmp_path))
    snapshots.write(10, states_after(Sent(0)))
    snapshots.write(20, states_after(Sent(1)))
    snapshots.write(30, states_after(Sent(2)))
    with open(snapshots.path(20), "r+b") as file:
        file.truncate(30)
    offset, states = snapshots.newest(29)
    assert (offset, states.get(9).last_sequence) == (10, 0)
    assert snapshots.offsets == (10, 30)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000000000000000010.snapshot",
        "00000000000000000030.snapshot",
    ]


def test_snapshots_beside_no_segment_go_but_the_newest(tmp_path):
    snapshots = Snapshots(Files(), str(tmp_path))
    for offset in (5, 10, 17, 20, 23):
        snapshots.write(offset, ProducerStates())
    snapshots.keep_bases([10, 20])
    assert snapshots.offsets == (10, 20, 23)
    snapshots.keep_between(11, 22)
    assert snapshots.offsets == (20,)
    assert snapshots.newest(19) is None
