"""A history judged: what a replicated log promised, and whether it was so.

The terms are Jepsen's (jepsen/src/jepsen/tests/kafka.clj), for logs without transactions:

- **lost write**: an acknowledged value, or one that somebody read, is not in the log in the end.
- **duplicate**: one value stands at two offsets, although its producer was idempotent.
- **invented read**: a value was read that nobody had tried to produce by then.
- **aborted read**: a value was read whose producer had been told that it was not written.
- **divergence**: two observers (replicas, consumers, acknowledgements) know different values at
  one offset, or different leader epochs of one record; or replicas end at different offsets.
- **order inversion**: of two values of one producer in one partition, the one sent later stands
  first; or a consumer was given offsets that do not rise.
- **skipped read**: a consumer went past an offset at which, as it turned out, a record stood.
- **high watermark went back**, within one leader's epoch.
- **two leaders in one epoch** of a partition.
- **forgotten commit**: a member of a group began below what the group had committed before.

What stands in the log in the end is taken from `ReplicaContents` where the history has any of a
partition, otherwise from what consumers read: then a value counts as lost when consumers have read
past it. Below a log's start nothing is missed: it was deleted as agreed.

Anomalies are sorted by kind, then place, so that the same history gives the same report.
"""

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import NamedTuple

import attrs

from zkafka.model import TopicPartition
from zkafka.testing.history import (
    Assigned,
    Committed,
    Event,
    HighWatermarkObserved,
    LeaderObserved,
    Polled,
    ProduceAcknowledged,
    ProduceAttempted,
    ProduceFailed,
    ProduceUnknown,
    ReplicaContents,
    Value,
)


class Kind(enum.Enum):
    """What can be wrong with a history."""

    LOST_WRITE = "lost write"
    DUPLICATE = "duplicate"
    INVENTED_READ = "invented read"
    ABORTED_READ = "aborted read"
    DIVERGENCE = "divergence"
    ORDER_INVERSION = "order inversion"
    SKIPPED_READ = "skipped read"
    HIGH_WATERMARK_WENT_BACK = "high watermark went back"
    TWO_LEADERS_IN_ONE_EPOCH = "two leaders in one epoch"
    FORGOTTEN_COMMIT = "forgotten commit"


@attrs.frozen(order=False)
class Anomaly:
    """One broken promise, in one sentence."""

    kind: Kind
    topic_partition: TopicPartition
    sentence: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.topic_partition}: {self.sentence}"


@attrs.frozen
class Verdict:
    """What a history shows; `anomalies` is empty when every promise was kept."""

    anomalies: tuple[Anomaly, ...]
    attempted_count: int
    acknowledged_count: int
    failed_count: int
    unknown_count: int
    read_count: int
    """Distinct values that consumers were given."""
    unread_count: int
    """Acknowledged values that no consumer was given; no anomaly, they may have stopped early."""
    longest_pause_ms: int
    """The longest time between two acknowledgements that followed each other."""

    @property
    def valid(self) -> bool:
        """Whether nothing was lost, doubled, invented, reordered or disagreed upon."""
        return not self.anomalies

    def of_kind(self, kind: Kind) -> tuple[Anomaly, ...]:
        """The anomalies of one kind."""
        return tuple(anomaly for anomaly in self.anomalies if anomaly.kind is kind)

    def report(self, *, examples: int = 5) -> str:
        """A summary for people: counts, then up to `examples` anomalies of each kind."""
        lines = [
            f"{self.attempted_count} attempted, {self.acknowledged_count} acknowledged, "
            f"{self.failed_count} failed, {self.unknown_count} unknown; "
            f"{self.read_count} read, {self.unread_count} acknowledged but not read; "
            f"longest pause {self.longest_pause_ms} ms"
        ]
        for kind in Kind:
            found = self.of_kind(kind)
            if found:
                lines.append(f"{len(found)} x {kind.value}")
                lines += [f"  {a.topic_partition}: {a.sentence}" for a in found[:examples]]
        return "\n".join(lines)


def check(history: Iterable[Event]) -> Verdict:
    """Judge a whole history; see the module's head for what is looked for."""
    partitions: dict[TopicPartition, _Partition] = {}
    acknowledged_at: list[int] = []
    for event in history:
        of = partitions.setdefault(event.topic_partition, _Partition(event.topic_partition))
        of.note(event)
        if isinstance(event, ProduceAcknowledged):
            acknowledged_at.append(event.at_ms)
    acknowledged_at.sort()
    anomalies = [anomaly for partition in partitions.values() for anomaly in partition.anomalies()]
    order = list(Kind)
    anomalies.sort(key=lambda a: (order.index(a.kind), a.topic_partition, a.sentence))
    all_of = partitions.values()
    return Verdict(
        anomalies=tuple(anomalies),
        attempted_count=sum(len(partition.attempted) for partition in all_of),
        acknowledged_count=sum(len(partition.acknowledged) for partition in all_of),
        failed_count=sum(len(partition.failed) for partition in all_of),
        unknown_count=sum(len(partition.unknown) for partition in all_of),
        read_count=sum(len(partition.consumed()) for partition in all_of),
        unread_count=sum(
            len(partition.acknowledged.keys() - partition.consumed()) for partition in all_of
        ),
        longest_pause_ms=max((b - a for a, b in pairwise(acknowledged_at)), default=0),
    )


class _Sighting(NamedTuple):
    """Somebody knows what stands at an offset."""

    offset: int
    value: Value
    leader_epoch: int
    who: str


@attrs.define
class _Seen:
    """Who knows what stands at one offset; the first to say so is kept for each value."""

    values: dict[Value, str] = attrs.field(factory=dict)
    epochs: dict[int, str] = attrs.field(factory=dict)
    consumed: dict[Value, str] = attrs.field(factory=dict)


@attrs.define(eq=False)
class _Partition:
    """Everything the history says of one partition."""

    topic_partition: TopicPartition
    attempted: dict[Value, int] = attrs.field(factory=dict)
    """When each value was first tried."""
    acknowledged: dict[Value, int] = attrs.field(factory=dict)
    failed: dict[Value, str] = attrs.field(factory=dict)
    unknown: set[Value] = attrs.field(factory=set)
    polls: dict[str, list[Assigned | Polled]] = attrs.field(factory=lambda: defaultdict(list))
    committed: list[Committed] = attrs.field(factory=list)
    leaders: list[LeaderObserved] = attrs.field(factory=list)
    high_watermarks: list[HighWatermarkObserved] = attrs.field(factory=list)
    replicas: dict[int, ReplicaContents] = attrs.field(factory=dict)
    found: list[Anomaly] = attrs.field(factory=list)

    def note(self, event: Event) -> None:
        """Sort one event in."""
        match event:
            case ProduceAttempted():
                self.attempted.setdefault(event.value, event.at_ms)
            case ProduceAcknowledged():
                self.acknowledged[event.value] = event.offset
            case ProduceFailed():
                self.failed[event.value] = event.error
            case ProduceUnknown():
                self.unknown.add(event.value)
            case Assigned() | Polled():
                self.polls[event.consumer].append(event)
            case Committed():
                self.committed.append(event)
            case LeaderObserved():
                self.leaders.append(event)
            case HighWatermarkObserved():
                self.high_watermarks.append(event)
            case ReplicaContents():
                self.replicas[event.broker] = event

    def consumed(self) -> set[Value]:
        """Every value some consumer was given."""
        return {
            read.value
            for events in self.polls.values()
            for event in events
            if isinstance(event, Polled)
            for read in event.records
        }

    def anomalies(self) -> list[Anomaly]:
        """All that is wrong here."""
        self.found.clear()
        seen = self._agreement()
        self._replicas_end_together()
        log = self._final_log(seen)
        self._nothing_lost(log, seen)
        self._nothing_twice(log)
        self._sent_order(log)
        self._nothing_invented()
        for consumer, events in sorted(self.polls.items()):
            self._polled_order(consumer, events, log)
        self._commits_honoured()
        self._high_watermarks_rise()
        self._one_leader_per_epoch()
        return self.found

    def _anomaly(self, kind: Kind, sentence: str) -> None:
        self.found.append(Anomaly(kind, self.topic_partition, sentence))

    def _kept(self) -> Iterator[_Sighting]:
        for broker, contents in sorted(self.replicas.items()):
            for read in contents.records:
                yield _Sighting(
                    read.offset, read.value, read.leader_epoch, f"the replica on broker {broker}"
                )

    def _promised(self) -> Iterator[_Sighting]:
        for value, offset in self.acknowledged.items():
            if offset >= 0:
                yield _Sighting(offset, value, -1, "the acknowledgement")

    def _consumed(self) -> Iterator[_Sighting]:
        for consumer, events in sorted(self.polls.items()):
            for event in events:
                if isinstance(event, Polled):
                    for read in event.records:
                        yield _Sighting(
                            read.offset, read.value, read.leader_epoch, f"consumer {consumer}"
                        )

    def _agreement(self) -> dict[int, _Seen]:
        """One value and one leader epoch at every offset, whoever looked."""
        seen: dict[int, _Seen] = defaultdict(_Seen)
        for sighting in chain(self._kept(), self._promised(), self._consumed()):
            at = seen[sighting.offset]
            at.values.setdefault(sighting.value, sighting.who)
            if sighting.leader_epoch >= 0:
                at.epochs.setdefault(sighting.leader_epoch, sighting.who)
        for sighting in self._consumed():
            seen[sighting.offset].consumed.setdefault(sighting.value, sighting.who)
        for offset, at in sorted(seen.items()):
            if len(at.values) > 1:
                accounts = ", ".join(f"{value} ({who})" for value, who in at.values.items())
                self._anomaly(Kind.DIVERGENCE, f"offset {offset} holds {accounts}")
            elif len(at.epochs) > 1:
                accounts = ", ".join(f"{epoch} ({who})" for epoch, who in at.epochs.items())
                self._anomaly(Kind.DIVERGENCE, f"offset {offset} has leader epoch {accounts}")
        return seen

    def _replicas_end_together(self) -> None:
        ends = {contents.log_end_offset for contents in self.replicas.values()}
        if len(ends) > 1:
            accounts = ", ".join(
                f"{contents.log_end_offset} on broker {broker}"
                for broker, contents in sorted(self.replicas.items())
            )
            self._anomaly(Kind.DIVERGENCE, f"replicas end at {accounts}")
        # Between the latest start and the earliest end every replica has every record.
        if not self.replicas:
            return
        start = max(contents.log_start_offset for contents in self.replicas.values())
        end = min(ends)
        offsets = {
            broker: {read.offset for read in contents.records if start <= read.offset < end}
            for broker, contents in sorted(self.replicas.items())
        }
        everywhere = set.intersection(*offsets.values())
        for broker, own in offsets.items():
            for offset in sorted(own - everywhere):
                lacking = [other for other in offsets if offset not in offsets[other]]
                self._anomaly(
                    Kind.DIVERGENCE,
                    f"offset {offset} is on broker {broker} and not on {lacking}",
                )

    def _final_log(self, seen: dict[int, _Seen]) -> dict[int, Value]:
        """What stands at each offset in the end, in offset order.

        From the replicas together, or from the consumers where no replica was read; a disputed
        offset takes the first account, since the dispute itself has been reported.
        """
        log: dict[int, Value] = {}
        if self.replicas:
            for contents in self.replicas.values():
                for read in contents.records:
                    log.setdefault(read.offset, read.value)
        else:
            for offset, at in seen.items():
                for value in at.consumed:
                    log.setdefault(offset, value)
        return dict(sorted(log.items()))

    def _log_start_offset(self) -> int:
        return max((contents.log_start_offset for contents in self.replicas.values()), default=0)

    def _nothing_lost(self, log: dict[int, Value], seen: dict[int, _Seen]) -> None:
        present = set(log.values())
        start = self._log_start_offset()
        # Without replicas, only what consumers have read past can be called lost.
        horizon = None if self.replicas else max(log, default=-1)
        for value, offset in self.acknowledged.items():
            if value in present or 0 <= offset < start:
                continue
            if horizon is None or 0 <= offset <= horizon:
                self._anomaly(Kind.LOST_WRITE, f"{value}, acknowledged at offset {offset}")
        if not self.replicas:
            return
        for offset, at in sorted(seen.items()):
            for value, who in at.consumed.items():
                known = value in present or value in self.acknowledged
                if offset >= start and not known:
                    self._anomaly(Kind.LOST_WRITE, f"{value}, read at offset {offset} by {who}")

    def _nothing_twice(self, log: dict[int, Value]) -> None:
        places: dict[Value, set[int]] = defaultdict(set)
        for offset, value in log.items():
            places[value].add(offset)
        for sighting in chain(self._promised(), self._consumed()):
            if sighting.value in places:
                places[sighting.value].add(sighting.offset)
        for value, offsets in sorted(places.items()):
            if len(offsets) > 1:
                self._anomaly(Kind.DUPLICATE, f"{value} at offsets {sorted(offsets)}")

    def _sent_order(self, log: dict[int, Value]) -> None:
        last: dict[str, tuple[int, int]] = {}
        placed: set[Value] = set()
        for offset, value in log.items():
            if value in placed:
                continue  # a duplicate, and told as one
            placed.add(value)
            before = last.get(value.producer)
            if before is not None and value.sequence < before[0]:
                self._anomaly(
                    Kind.ORDER_INVERSION,
                    f"{value} at offset {offset} comes after {value.producer}:{before[0]} "
                    f"at offset {before[1]}",
                )
            last[value.producer] = (value.sequence, offset)

    def _nothing_invented(self) -> None:
        first_read: dict[Value, tuple[int, str]] = {}
        for consumer, events in sorted(self.polls.items()):
            for event in events:
                if isinstance(event, Polled):
                    for read in event.records:
                        sighting = (event.at_ms, f"consumer {consumer} at offset {read.offset}")
                        first_read[read.value] = min(first_read.get(read.value, sighting), sighting)
        for broker, contents in sorted(self.replicas.items()):
            for read in contents.records:
                where = f"the replica on broker {broker} at offset {read.offset}"
                first_read.setdefault(read.value, (contents.at_ms, where))
        for value, (at_ms, where) in sorted(first_read.items()):
            if value not in self.attempted:
                self._anomaly(Kind.INVENTED_READ, f"{value} in {where} was never produced")
            elif at_ms < self.attempted[value]:
                self._anomaly(Kind.INVENTED_READ, f"{value} in {where} before it was produced")
            elif value in self.failed:
                self._anomaly(
                    Kind.ABORTED_READ, f"{value} in {where} had failed: {self.failed[value]}"
                )

    def _polled_order(
        self, consumer: str, events: list[Assigned | Polled], log: dict[int, Value]
    ) -> None:
        last: int | None = None
        for event in events:
            if isinstance(event, Assigned):
                last = None
                continue
            for read in event.records:
                if last is not None and read.offset <= last:
                    self._anomaly(
                        Kind.ORDER_INVERSION,
                        f"consumer {consumer} was given offset {read.offset} after {last}",
                    )
                elif last is not None:
                    skipped = [o for o in range(last + 1, read.offset) if o in log]
                    if skipped:
                        self._anomaly(
                            Kind.SKIPPED_READ,
                            f"consumer {consumer} went from offset {last} to {read.offset} "
                            f"past {len(skipped)} records, the first {log[skipped[0]]}",
                        )
                last = read.offset

    def _commits_honoured(self) -> None:
        for consumer, events in sorted(self.polls.items()):
            for event, following in pairwise(events):
                if not (isinstance(event, Assigned) and isinstance(following, Polled)):
                    continue
                promised = max(
                    (
                        commit.offset
                        for commit in self.committed
                        if commit.group == event.group and commit.at_ms < event.at_ms
                    ),
                    default=0,
                )
                first = following.records[0].offset if following.records else promised
                if first < promised:
                    self._anomaly(
                        Kind.FORGOTTEN_COMMIT,
                        f"consumer {consumer} began at offset {first}, where group {event.group} "
                        f"had committed {promised}",
                    )

    def _high_watermarks_rise(self) -> None:
        highest: dict[tuple[int, int], int] = {}
        for seen in self.high_watermarks:
            reign = (seen.leader_epoch, seen.leader)
            before = highest.get(reign, -1)
            if seen.high_watermark < before:
                self._anomaly(
                    Kind.HIGH_WATERMARK_WENT_BACK,
                    f"from {before} to {seen.high_watermark} on broker {seen.leader} "
                    f"in leader epoch {seen.leader_epoch}",
                )
            highest[reign] = max(before, seen.high_watermark)

    def _one_leader_per_epoch(self) -> None:
        leaders: dict[int, set[int]] = defaultdict(set)
        for seen in self.leaders:
            if seen.leader >= 0:
                leaders[seen.leader_epoch].add(seen.leader)
        for watermark in self.high_watermarks:
            leaders[watermark.leader_epoch].add(watermark.leader)
        for epoch, brokers in sorted(leaders.items()):
            if len(brokers) > 1:
                self._anomaly(
                    Kind.TWO_LEADERS_IN_ONE_EPOCH,
                    f"brokers {sorted(brokers)} in leader epoch {epoch}",
                )
