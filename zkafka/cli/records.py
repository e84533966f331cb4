"""`zkafka produce` and `zkafka consume`: lines in, lines out."""

import json
import sys
import time
from typing import Any

import click
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, Message, Producer
from confluent_kafka import TopicPartition as ClientPartition

from zkafka.cli import client
from zkafka.cli.output import as_json, fail


@click.command()
@client.bootstrap_option
@client.json_option
@click.argument("topic")
@click.option("-k", "--key-separator", help="Split each line here into key and value.")
@click.option("-p", "--partition", type=int, help="Default: by key, or spread.")
@click.option(
    "-z",
    "--compression",
    type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]),
    default="none",
    show_default=True,
)
@click.option("--acks", type=click.Choice(["all", "1", "0"]), default="all", show_default=True)
@click.option("-f", "--file", "source", type=click.File("rb"), default="-", help="Default: stdin.")
def produce(
    bootstrap: str,
    json_output: bool,
    topic: str,
    key_separator: str | None,
    partition: int | None,
    compression: str,
    acks: str,
    source: Any,
) -> None:
    """Write each line of standard input to TOPIC as one record."""
    counts = {"acknowledged": 0, "failed": 0}
    errors: set[str] = set()

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is None:
            counts["acknowledged"] += 1
        else:
            counts["failed"] += 1
            errors.add(error.str())

    producer = Producer(
        client.settings(
            bootstrap,
            **{
                "acks": acks,
                "enable.idempotence": acks == "all",
                "compression.type": compression,
                "message.timeout.ms": 30_000,
            },
        )
    )
    place: dict[str, Any] = {} if partition is None else {"partition": partition}
    separator = key_separator.encode() if key_separator else None
    for line in source:
        value: bytes = line.rstrip(b"\n")
        key = None
        if separator is not None:
            key, found, rest = value.partition(separator)
            if not found:
                fail(f"a line has no {key_separator!r}: {value[:60]!r}")
            value = rest
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=delivered, **place)
                break
            except BufferError:  # the queue is full: let deliveries make room
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(35)
    waiting = len(producer)
    if json_output:
        as_json({**counts, "unanswered": waiting, "errors": sorted(errors)})
    else:
        click.echo(f"{counts['acknowledged']} acknowledged", err=True)
    if counts["failed"] or waiting:
        fail(
            f"{counts['failed']} records failed, {waiting} are unanswered: "
            + (", ".join(sorted(errors)) or "no broker answered")
        )


@click.command()
@client.bootstrap_option
@client.json_option
@click.argument("topic")
@click.option("-g", "--group", help="Join this group and commit; default: read alone.")
@click.option(
    "-o",
    "--offset",
    default="earliest",
    show_default=True,
    help="earliest, latest, or a number; a group uses it where it has committed nothing.",
)
@click.option("-p", "--partition", type=int, help="Only this one (without a group).")
@click.option("-n", "--count", type=int, help="Stop after so many records.")
@click.option("-e", "--exit-at-end", is_flag=True, help="Stop at the end of every partition.")
@click.option(
    "-F",
    "--format",
    "template",
    default="{value}",
    show_default=True,
    help="Of topic, partition, offset, key, value, timestamp.",
)
def consume(
    bootstrap: str,
    json_output: bool,
    topic: str,
    group: str | None,
    offset: str,
    partition: int | None,
    count: int | None,
    exit_at_end: bool,
    template: str,
) -> None:
    """Print the records of TOPIC, one a line (with --json: one object a line)."""
    if offset not in ("earliest", "latest") and not offset.isdigit():
        fail(f"--offset {offset}: earliest, latest or a number")
    if group is not None and (partition is not None or offset.isdigit()):
        fail("a group shares out the partitions and keeps the offsets: leave out -p and a number")
    consumer = Consumer(
        client.settings(
            bootstrap,
            **{
                "group.id": group or "zkafka-cli-reads-alone",
                "enable.auto.commit": group is not None,
                "auto.offset.reset": "earliest" if offset.isdigit() else offset,
                "enable.partition.eof": True,
                "allow.auto.create.topics": False,
            },
        )
    )
    try:
        ends = _start(consumer, topic, group, partition, offset)
        _print_records(consumer, ends, count, exit_at_end, template, json_output)
    except KeyboardInterrupt:
        pass  # the usual way out of a tail
    finally:
        consumer.close()


def _start(
    consumer: Consumer, topic: str, group: str | None, partition: int | None, offset: str
) -> int | None:
    """Subscribe or assign; how many partitions will reach their end, None if a group decides."""
    if group is not None:
        consumer.subscribe([topic])
        return None
    found = client.call(
        "no metadata", lambda: consumer.list_topics(topic, timeout=client.TIMEOUT_S)
    ).topics[topic]
    if found.error is not None:
        fail(f"topic {topic}: {found.error.str()}")
    wanted = sorted(found.partitions) if partition is None else [partition]
    if partition is not None and partition not in found.partitions:
        fail(f"topic {topic} has no partition {partition}")
    where = {"earliest": OFFSET_BEGINNING, "latest": OFFSET_END}.get(offset)
    start = int(offset) if where is None else where
    consumer.assign([ClientPartition(topic, p, start) for p in wanted])
    return len(wanted)


def _print_records(
    consumer: Consumer,
    ends: int | None,
    count: int | None,
    exit_at_end: bool,
    template: str,
    json_output: bool,
) -> None:
    ended: set[int] = set()
    printed = 0
    quiet_since = time.monotonic()
    while count is None or printed < count:
        message = consumer.poll(0.5)
        if message is None:
            if exit_at_end and ends is None and time.monotonic() - quiet_since > 5:
                return
            continue
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition() or 0)
                expected = ends if ends is not None else len(consumer.assignment())
                if exit_at_end and len(ended) >= expected:
                    return
                continue
            fail(error.str())
        ended.discard(message.partition() or 0)
        quiet_since = time.monotonic()
        printed += 1
        _print_record(message, template, json_output)


def _print_record(message: Message, template: str, json_output: bool) -> None:
    def text(data: str | bytes | None) -> str | None:
        return data.decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data

    fields = {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": message.timestamp()[1],
        "key": text(message.key()),
        "value": text(message.value()),
    }
    if json_output:
        headers: Any = message.headers() or []
        pairs = [[name, text(value)] for name, value in headers]
        line = json.dumps({**fields, "headers": pairs}, ensure_ascii=False)
    else:
        line = template.format(**fields)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
