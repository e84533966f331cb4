"""What was seen of a cluster: by its clients, by an observer, and in the end on its disks.

A history is a list of events in the order in which they were written down, each with the time at
which it happened. Times are milliseconds of one clock shared by all who write (the machine's
monotonic clock), so that "before" means something between two processes.

Values carry who produced them and in which order: `producer` and `sequence`, the latter counted
per producer over all partitions. Whoever reads a value can therefore tell where it came from.

A history can be kept as JSON lines and judged later, elsewhere: `to_json_lines`,
`from_json_lines`. The judge is `zkafka.testing.checker`.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import attrs

from zkafka.model import TopicPartition


class Value(NamedTuple):
    """What one record carries."""

    producer: str
    sequence: int

    def encode(self) -> bytes:
        """The record's value."""
        return f"{self.producer}:{self.sequence}".encode()

    @classmethod
    def decode(cls, data: bytes | None) -> "Value":
        """The value of a record; what no producer of ours wrote becomes a value of nobody's."""
        producer, colon, sequence = (data or b"").decode(errors="replace").rpartition(":")
        if not colon or not sequence.isdecimal():
            return cls(f"nobody ({data!r})", -1)
        return cls(producer, int(sequence))

    def __str__(self) -> str:
        return f"{self.producer}:{self.sequence}"


@attrs.frozen
class ProduceAttempted:
    """A producer is about to hand over a value: from now on it may be in the log."""

    at_ms: int
    topic_partition: TopicPartition
    value: Value


@attrs.frozen
class ProduceAcknowledged:
    """The cluster promised to keep the value, at this offset; -1 where it did not say which."""

    at_ms: int
    topic_partition: TopicPartition
    value: Value
    offset: int


@attrs.frozen
class ProduceFailed:
    """The value is certainly not in the log, and never will be."""

    at_ms: int
    topic_partition: TopicPartition
    value: Value
    error: str


@attrs.frozen
class ProduceUnknown:
    """The producer gave up; the value may be in the log or not."""

    at_ms: int
    topic_partition: TopicPartition
    value: Value
    error: str


@attrs.frozen
class Assigned:
    """A member of a group got a partition, and will ask where the group stood.

    What the member polls before the next `Assigned` of this partition is one stretch: offsets rise
    in it. `at_ms` is before the question, so what was committed by then must be honoured.
    """

    at_ms: int
    consumer: str
    group: str
    topic_partition: TopicPartition


@attrs.frozen
class Read:
    """One record, as somebody read it. `leader_epoch` is -1 where the reader is not told."""

    offset: int
    value: Value
    leader_epoch: int = -1


@attrs.frozen
class Polled:
    """Records of one partition that a consumer was given, in the order in which it was."""

    at_ms: int
    consumer: str
    topic_partition: TopicPartition
    records: tuple[Read, ...]


@attrs.frozen
class Committed:
    """The cluster promised to remember that the group goes on at `offset`."""

    at_ms: int
    group: str
    topic_partition: TopicPartition
    offset: int


@attrs.frozen
class LeaderObserved:
    """Broker `observer` said that `leader` leads the partition in `leader_epoch`."""

    at_ms: int
    observer: int
    topic_partition: TopicPartition
    leader: int
    leader_epoch: int


@attrs.frozen
class HighWatermarkObserved:
    """`leader` said, while leading in `leader_epoch`, how far the partition may be read.

    Observations of one leader and epoch are written in the order in which they were asked for, each
    asked after the one before was answered.
    """

    at_ms: int
    topic_partition: TopicPartition
    leader: int
    leader_epoch: int
    high_watermark: int


@attrs.frozen
class ReplicaContents:
    """Everything a broker keeps of a partition, read when all writing had ended.

    Written by brokers that are in sync; `log_start_offset <= offset of each record`, in order.
    """

    at_ms: int
    broker: int
    topic_partition: TopicPartition
    log_start_offset: int
    log_end_offset: int
    records: tuple[Read, ...]


Event: TypeAlias = (
    ProduceAttempted
    | ProduceAcknowledged
    | ProduceFailed
    | ProduceUnknown
    | Assigned
    | Polled
    | Committed
    | LeaderObserved
    | HighWatermarkObserved
    | ReplicaContents
)

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        ProduceAttempted,
        ProduceAcknowledged,
        ProduceFailed,
        ProduceUnknown,
        Assigned,
        Polled,
        Committed,
        LeaderObserved,
        HighWatermarkObserved,
        ReplicaContents,
    )
}


@attrs.define
class History:
    """Events in the order in which they were written down; grows while a test runs."""

    events: list[Event] = attrs.field(factory=list)

    def add(self, event: Event) -> None:
        """Write one event down."""
        self.events.append(event)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def to_json_lines(self) -> str:
        """One line per event; `from_json_lines` reads it back unchanged."""
        return "".join(f"{event_to_json(event)}\n" for event in self.events)

    @classmethod
    def from_json_lines(cls, lines: Iterable[str]) -> "History":
        """The history that `to_json_lines` wrote."""
        return cls([event_from_json(line) for line in lines if line.strip()])


def event_to_json(event: Event) -> str:
    """One line without a line break: `{"event": <name>, <its fields>}`."""
    fields: dict[str, Any] = {"event": type(event).__name__}
    for field in attrs.fields(type(event)):
        value = getattr(event, field.name)
        if field.name == "records":
            value = [(read.offset, str(read.value), read.leader_epoch) for read in value]
        elif isinstance(value, Value):
            value = str(value)
        fields[field.name] = value
    return json.dumps(fields, separators=(",", ":"))


def event_from_json(line: str) -> Event:
    """The event of one line; ValueError or TypeError if it is not one of ours."""
    fields = json.loads(line)
    name = fields.pop("event", None)
    if name not in _KINDS:
        raise ValueError(f"no such event: {line[:200]!r}")
    if "topic_partition" in fields:
        fields["topic_partition"] = TopicPartition(*fields["topic_partition"])
    if "value" in fields:
        fields["value"] = Value.decode(fields["value"].encode())
    if "records" in fields:
        fields["records"] = tuple(
            Read(offset, Value.decode(value.encode()), epoch)
            for offset, value, epoch in fields["records"]
        )
    event: Event = _KINDS[name](**fields)
    return event
