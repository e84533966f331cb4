"""The judge: each anomaly planted in a clean history is found, and a clean history passes."""

from collections.abc import Iterable

import attrs
import pytest

from zkafka.model import TopicPartition
from zkafka.testing.checker import Kind, Verdict, check
from zkafka.testing.history import (
    Assigned,
    Committed,
    Event,
    HighWatermarkObserved,
    History,
    LeaderObserved,
    Polled,
    ProduceAcknowledged,
    ProduceAttempted,
    ProduceFailed,
    ProduceUnknown,
    Read,
    ReplicaContents,
    Value,
)

TP = TopicPartition("orders", 0)


def value(sequence: int, producer: str = "p") -> Value:
    return Value(producer, sequence)


def reads(*pairs: tuple[int, int], epoch: int = 0) -> tuple[Read, ...]:
    """(offset, sequence) pairs as records."""
    return tuple(Read(offset, value(sequence), epoch) for offset, sequence in pairs)


def produced(*pairs: tuple[int, int]) -> list[Event]:
    """(sequence, offset) pairs, attempted at 10 x sequence and acknowledged 5 later."""
    events: list[Event] = []
    for sequence, offset in pairs:
        events.append(ProduceAttempted(10 * sequence, TP, value(sequence)))
        events.append(ProduceAcknowledged(10 * sequence + 5, TP, value(sequence), offset))
    return events


def polled(*pairs: tuple[int, int], consumer: str = "c", at_ms: int = 1000) -> Polled:
    return Polled(at_ms, consumer, TP, reads(*pairs))


def replica(broker: int, *pairs: tuple[int, int], start: int = 0, end: int | None = None) -> Event:
    end = pairs[-1][0] + 1 if end is None else end
    return ReplicaContents(2000, broker, TP, start, end, reads(*pairs))


CLEAN: list[Event] = [
    *produced((0, 0), (1, 1), (2, 2)),
    Assigned(500, "c", "g", TP),
    polled((0, 0), (1, 1)),
    Committed(1100, "g", TP, 2),
    Assigned(1200, "d", "g", TP),
    polled((2, 2), consumer="d", at_ms=1300),
    LeaderObserved(100, 1, TP, leader=1, leader_epoch=0),
    LeaderObserved(200, 2, TP, leader=1, leader_epoch=0),
    LeaderObserved(300, 2, TP, leader=-1, leader_epoch=1),
    LeaderObserved(400, 2, TP, leader=2, leader_epoch=1),
    HighWatermarkObserved(100, TP, 1, 0, 2),
    HighWatermarkObserved(200, TP, 1, 0, 3),
    HighWatermarkObserved(400, TP, 2, 1, 2),
    replica(1, (0, 0), (1, 1), (2, 2)),
    replica(2, (0, 0), (1, 1), (2, 2)),
]


def kinds(verdict: Verdict) -> set[Kind]:
    return {anomaly.kind for anomaly in verdict.anomalies}


def without(events: Iterable[Event], kind: type) -> list[Event]:
    return [event for event in events if not isinstance(event, kind)]


def test_a_clean_history_passes_and_is_counted() -> None:
    verdict = check(CLEAN)
    assert verdict.valid, verdict.report()
    assert (verdict.attempted_count, verdict.acknowledged_count) == (3, 3)
    assert (verdict.read_count, verdict.unread_count) == (3, 0)
    assert verdict.longest_pause_ms == 10


def test_an_empty_history_passes() -> None:
    assert check([]).valid


def test_an_acknowledged_value_missing_in_the_end_is_lost() -> None:
    replicas = [replica(1, (0, 0), (1, 1)), replica(2, (0, 0), (1, 1))]
    events = [*without(CLEAN, ReplicaContents), *replicas]
    verdict = check(without(events, Polled))
    assert kinds(verdict) == {Kind.LOST_WRITE}
    assert "p:2, acknowledged at offset 2" in verdict.report()


def test_a_read_value_that_was_never_acknowledged_must_stay_too() -> None:
    events = [
        *CLEAN,
        ProduceAttempted(50, TP, value(3)),
        ProduceUnknown(60, TP, value(3), "timed out"),
        Polled(1400, "d", TP, reads((3, 3))),
    ]
    verdict = check(events)
    assert kinds(verdict) == {Kind.LOST_WRITE}
    assert "read at offset 3 by consumer d" in verdict.report()


def test_without_replicas_a_value_is_lost_when_consumers_have_read_past_it() -> None:
    events = [*produced((0, 0), (1, 1), (2, 2)), polled((0, 0), (2, 2))]
    assert kinds(check(events)) == {Kind.LOST_WRITE}


def test_without_replicas_a_value_beyond_all_reads_is_not_judged() -> None:
    verdict = check([*produced((0, 0), (1, 1)), polled((0, 0))])
    assert verdict.valid
    assert verdict.unread_count == 1


def test_what_lies_below_the_log_start_was_deleted_as_agreed() -> None:
    events = [*produced((0, 0), (1, 1)), replica(1, (1, 1), start=1), replica(2, (1, 1), start=1)]
    assert check(events).valid


def test_an_unknown_outcome_may_be_in_the_log_or_not() -> None:
    attempt = [ProduceAttempted(50, TP, value(3)), ProduceUnknown(60, TP, value(3), "timed out")]
    assert check([*CLEAN, *attempt]).valid
    longer = [(0, 0), (1, 1), (2, 2), (3, 3)]
    replicas = [replica(1, *longer), replica(2, *longer)]
    assert check([*without(CLEAN, ReplicaContents), *attempt, *replicas]).valid


def test_a_value_at_two_offsets_is_a_duplicate() -> None:
    doubled = [(0, 0), (1, 1), (2, 2), (3, 1)]
    events = [*without(CLEAN, ReplicaContents), replica(1, *doubled), replica(2, *doubled)]
    verdict = check(events)
    assert kinds(verdict) == {Kind.DUPLICATE}
    assert "p:1 at offsets [1, 3]" in verdict.report()


def test_a_duplicate_is_found_by_consumers_alone() -> None:
    events = [*produced((0, 0), (1, 1)), polled((0, 0), (1, 1), (2, 1))]
    assert kinds(check(events)) == {Kind.DUPLICATE}


def test_being_given_a_record_again_after_a_rebalance_is_no_duplicate() -> None:
    again = [Assigned(1400, "c", "h", TP), polled((0, 0), (1, 1), (2, 2), at_ms=1500)]
    assert check([*CLEAN, *again]).valid


def test_a_value_nobody_sent_is_invented() -> None:
    events = [*CLEAN, Polled(1400, "d", TP, reads((3, 9)))]
    assert Kind.INVENTED_READ in kinds(check(events))


def test_bytes_that_are_no_value_of_ours_are_invented() -> None:
    alien = Value.decode(b"\xff\x00 not ours")
    contents = ReplicaContents(2000, 1, TP, 0, 1, (Read(0, alien, 0),))
    assert kinds(check([contents])) == {Kind.INVENTED_READ}


def test_a_value_read_before_it_was_sent_is_invented() -> None:
    events = [*produced((0, 0), (1, 1)), polled((0, 0), (1, 1), at_ms=5)]
    assert kinds(check(events)) == {Kind.INVENTED_READ}


def test_a_failed_value_that_is_read_is_an_aborted_read() -> None:
    events = [
        *produced((0, 0)),
        ProduceAttempted(20, TP, value(1)),
        ProduceFailed(25, TP, value(1), "too large"),
        polled((0, 0), (1, 1)),
    ]
    assert kinds(check(events)) == {Kind.ABORTED_READ}


def test_replicas_that_disagree_at_an_offset_diverge() -> None:
    events = [*without(CLEAN, ReplicaContents), replica(1, (0, 0), (1, 1), (2, 2))]
    verdict = check([*events, replica(2, (0, 0), (1, 2), (2, 2))])
    assert Kind.DIVERGENCE in kinds(verdict)
    assert "offset 1 holds p:1 (the replica on broker 1), p:2" in verdict.report()


def test_an_acknowledgement_at_another_offset_is_divergence() -> None:
    events = [*produced((0, 0), (1, 1)), replica(1, (0, 1), (1, 0))]
    assert Kind.DIVERGENCE in kinds(check(events))


def test_one_record_with_two_leader_epochs_is_divergence() -> None:
    first = ReplicaContents(2000, 1, TP, 0, 1, reads((0, 0), epoch=3))
    second = ReplicaContents(2000, 2, TP, 0, 1, reads((0, 0), epoch=4))
    assert kinds(check([*produced((0, 0)), first, second])) == {Kind.DIVERGENCE}


def test_replicas_that_end_apart_diverge() -> None:
    full = replica(1, (0, 0), (1, 1))
    verdict = check([*produced((0, 0), (1, 1)), full, replica(2, (0, 0))])
    assert kinds(verdict) == {Kind.DIVERGENCE}


def test_a_replica_with_a_hole_diverges() -> None:
    full = replica(1, (0, 0), (1, 1), (2, 2))
    verdict = check([*produced((0, 0), (1, 1), (2, 2)), full, replica(2, (0, 0), (2, 2))])
    assert kinds(verdict) == {Kind.DIVERGENCE}
    assert "offset 1 is on broker 1 and not on [2]" in verdict.report()


def test_values_in_another_order_than_sent_are_inverted() -> None:
    swapped = [(0, 0), (1, 2), (2, 1)]
    events = [*produced((0, 0), (2, 1), (1, 2)), replica(1, *swapped), replica(2, *swapped)]
    assert kinds(check(events)) == {Kind.ORDER_INVERSION}


def test_two_producers_have_no_order_between_them() -> None:
    other = Value("q", 0)
    events: list[Event] = [
        *produced((5, 0)),
        ProduceAttempted(60, TP, other),
        ProduceAcknowledged(65, TP, other, 1),
        ReplicaContents(2000, 1, TP, 0, 2, (Read(0, value(5), 0), Read(1, other, 0))),
    ]
    assert check(events).valid


def test_a_consumer_going_back_without_a_new_assignment_is_an_inversion() -> None:
    events = [*CLEAN, polled((1, 1), consumer="d", at_ms=1400)]
    assert kinds(check(events)) == {Kind.ORDER_INVERSION}


def test_a_consumer_that_jumps_over_a_record_skipped_it() -> None:
    events = [*without(CLEAN, Polled), polled((0, 0), (2, 2))]
    verdict = check(events)
    assert kinds(verdict) == {Kind.SKIPPED_READ}
    assert "past 1 records, the first p:1" in verdict.report()


def test_a_gap_where_no_record_stood_is_not_a_skip() -> None:
    """Control batches and compaction leave offsets that carry no record."""
    gap = [(0, 0), (2, 1)]
    events = [*produced((0, 0), (1, 2)), polled(*gap), replica(1, *gap), replica(2, *gap)]
    assert check(events).valid


def test_a_high_watermark_that_goes_back_within_an_epoch_is_found() -> None:
    events = [*CLEAN, HighWatermarkObserved(500, TP, 2, 1, 1)]
    verdict = check(events)
    assert kinds(verdict) == {Kind.HIGH_WATERMARK_WENT_BACK}
    assert "from 2 to 1 on broker 2 in leader epoch 1" in verdict.report()


def test_two_leaders_in_one_epoch_are_found() -> None:
    assert kinds(check([*CLEAN, LeaderObserved(500, 3, TP, leader=3, leader_epoch=1)])) == {
        Kind.TWO_LEADERS_IN_ONE_EPOCH
    }


def test_a_broker_that_answers_as_leader_counts_as_one() -> None:
    assert kinds(check([*CLEAN, HighWatermarkObserved(500, TP, 3, 1, 9)])) == {
        Kind.TWO_LEADERS_IN_ONE_EPOCH
    }


def test_beginning_below_what_the_group_had_committed_is_a_forgotten_commit() -> None:
    events = [*CLEAN, Assigned(1400, "e", "g", TP), polled((1, 1), consumer="e", at_ms=1500)]
    assert kinds(check(events)) == {Kind.FORGOTTEN_COMMIT}


@pytest.mark.parametrize(
    "assigned", [Assigned(1050, "e", "g", TP), Assigned(1400, "e", "another group", TP)]
)
def test_a_commit_binds_only_its_group_and_only_afterwards(assigned: Assigned) -> None:
    events = [*CLEAN, assigned, polled((1, 1), (2, 2), consumer="e", at_ms=1500)]
    assert check(events).valid


def test_partitions_are_judged_apart() -> None:
    other = TopicPartition("orders", 1)
    moved = [attrs.evolve(event, topic_partition=other) for event in CLEAN]
    verdict = check([*CLEAN, *moved])
    assert verdict.valid
    assert verdict.acknowledged_count == 6


def test_the_longest_pause_is_between_acknowledgements() -> None:
    late = ProduceAcknowledged(900, TP, value(3), 3)
    events = [*produced((0, 0), (1, 1), (2, 2)), ProduceAttempted(30, TP, value(3)), late]
    assert check(events).longest_pause_ms == 900 - 25


def test_a_history_survives_being_kept_as_lines() -> None:
    events = [
        *CLEAN,
        ProduceUnknown(60, TP, value(3), "two\nlines"),
        ProduceFailed(1, TP, value(4), "x"),
    ]
    history = History(events)
    text = history.to_json_lines()
    assert len(text.splitlines()) == len(events)
    assert History.from_json_lines(text.splitlines()).events == events


def test_a_line_that_is_no_event_is_refused() -> None:
    with pytest.raises(ValueError, match="no such event"):
        History.from_json_lines(['{"event": "Rumour"}'])
