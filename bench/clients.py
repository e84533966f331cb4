"""What runs in a client process: `python -m bench.clients KIND JSON` prints one JSON object.

librdkafka does the work, with its default settings but for those a load is about (`acks`, `linger.ms`,
codec); what Python does for each record is one entry of a batch, or nothing.
"""

import json
import math
import struct
import sys
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from bench.results import percentile

_WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike".split()
_SEND_SECONDS = 60.0
_STAMP = struct.Struct(">d")


def quiet(settings: dict[str, Any]) -> dict[str, Any]:
    """Without librdkafka's messages on stderr: what fails is seen by who asks for it."""
    logger = type("Quiet", (), {"log": staticmethod(lambda *_: None)})()
    return {**settings, "logger": logger, "error_cb": lambda _: None}


def payloads(size: int, count: int = 500) -> list[bytes]:
    """Records as applications send them: words and numbers, which shrink to about a third."""
    random = Random(size)
    found = []
    for _ in range(count):
        text = ""
        while len(text) < size:
            text += f'"{random.choice(_WORDS)}":{random.randrange(10**9)},'
        found.append(text[:size].encode())
    return found


def produce(
    bootstrap: str,
    topic: str,
    partitions: int,
    size: int,
    acks: str = "all",
    codec: str = "none",
    seconds: float = math.inf,
    records: float = math.inf,
) -> dict[str, float]:
    """As much as can be sent in `seconds`, or so many records, batched; ends when all is acknowledged."""
    producer = Producer(
        quiet(
            {
                "bootstrap.servers": bootstrap,
                "acks": acks,
                "compression.type": codec,
                "queue.buffering.max.kbytes": 65536,  # or seconds of it would be left to flush
            }
        )
    )
    batches = [[{"value": value} for value in payloads(size)] for _ in range(partitions)]
    before = _end_offsets(bootstrap, topic, partitions)
    sent = turn = 0
    started = time.perf_counter()
    while sent < records and time.perf_counter() - started < seconds:
        partition = turn % partitions
        batch = batches[partition]
        queued = producer.produce_batch(topic, batch, partition=partition)
        sent += queued
        turn += 1
        if queued < len(batch):
            producer.poll(0.002)
            for message in batch:
                message.pop("_error", None)
    left = producer.flush(_SEND_SECONDS)
    elapsed = time.perf_counter() - started
    written = _end_offsets(bootstrap, topic, partitions) - before
    if left or written != sent:
        raise SystemExit(f"{sent} records sent, {left} of them not answered, {written} written")
    return {"records": sent, "bytes": sent * size, "seconds": elapsed}


def closed_loop(
    bootstrap: str, topic: str, clients: int, window: int, size: int, seconds: float, acks: str
) -> dict[str, float]:
    """`clients` producers, each with `window` records under way, one record a request."""
    settings = {"bootstrap.servers": bootstrap, "acks": acks, "linger.ms": 0}
    loops = [_Loop(Producer(quiet({**settings, "batch.num.messages": 1})), topic) for _ in range(clients)]
    value = payloads(size, 1)[0]
    for loop in loops:  # connect, and know the leader
        loop.send(value)
    for loop in loops:
        if loop.producer.flush(_SEND_SECONDS):
            raise SystemExit("the first record was not answered")
        loop.waits.clear()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        moved = 0
        for loop in loops:
            moved += loop.producer.poll(0)
            while loop.under_way < window:
                loop.send(value)
        if not moved:
            loops[0].producer.poll(0.0005)
    waits = sorted(wait for loop in loops for wait in loop.waits)
    elapsed = time.perf_counter() - started
    for loop in loops:
        if loop.producer.flush(_SEND_SECONDS):
            raise SystemExit("a record was not answered")
    return {"requests": len(waits), "seconds": elapsed, **_latencies(waits)}


def lone(
    bootstrap: str, topic: str, size: int, seconds: float, acks: str, interval: float = 0.0
) -> dict[str, float]:
    """One record at a time, the next when it is answered and `interval` has passed."""
    producer = Producer(quiet({"bootstrap.servers": bootstrap, "acks": acks, "linger.ms": 0}))
    loop = _Loop(producer, topic)
    value = payloads(size, 1)[0]
    deadline = 0.0
    due = time.perf_counter()
    while True:
        loop.send(value)
        while loop.under_way:
            producer.poll(1.0)
        now = time.perf_counter()
        if not deadline:  # the first record is the one that connects
            loop.waits.clear()
            deadline = now + seconds
        if now > deadline:
            break
        if interval:
            due = max(due + interval, now)
            time.sleep(max(0.0, due - now))
    return {"requests": len(loop.waits), **_latencies(sorted(loop.waits))}


def end_to_end(bootstrap: str, topic: str, size: int, seconds: float, rate: int) -> dict[str, float]:
    """From produce() to the consumer that gets the record, `rate` a second, acks=all."""
    producer = Producer(quiet({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0}))
    consumer = Consumer(
        quiet(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "end-to-end",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
    )
    parts = consumer.list_topics(topic, _SEND_SECONDS).topics[topic].partitions
    ends = [(p, consumer.get_watermark_offsets(TopicPartition(topic, p))[1]) for p in sorted(parts)]
    consumer.assign([TopicPartition(topic, p, end) for p, end in ends])
    total = int(rate * seconds)
    filler = payloads(size, 1)[0][_STAMP.size :]
    waits: list[float] = []

    def read() -> None:
        deadline = time.perf_counter() + seconds + _SEND_SECONDS
        while len(waits) < total + rate and time.perf_counter() < deadline:
            for message in consumer.consume(100, 0.2):
                if message.error() is None:
                    waits.append(time.perf_counter() - _STAMP.unpack_from(message.value())[0])

    reader = threading.Thread(target=read)
    reader.start()
    due = time.perf_counter()
    for _ in range(total + rate):  # the first second connects and finds its pace
        due += 1 / rate
        producer.poll(max(0.0, due - time.perf_counter()))
        while (now := time.perf_counter()) < due:
            time.sleep(due - now)
        producer.produce(topic, _STAMP.pack(time.perf_counter()) + filler)
    producer.flush(_SEND_SECONDS)
    reader.join()
    consumer.close()
    if len(waits) != total + rate:
        raise SystemExit(f"{len(waits)} of {total + rate} records arrived")
    return {"records": total, **_latencies(sorted(waits[rate:]))}


class _Loop:
    """One producer's records under way, and how long the answered ones took."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self.producer = producer
        self.topic = topic
        self.under_way = 0
        self.waits: list[float] = []

    def send(self, value: bytes) -> None:
        self.under_way += 1
        self.producer.produce(self.topic, value, on_delivery=self._answered)

    def _answered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise SystemExit(f"a record failed: {error}")
        self.under_way -= 1
        self.waits.append(message.latency())


def _latencies(waits: list[float]) -> dict[str, float]:
    """Percentiles of sorted seconds, in milliseconds."""
    return {
        f"p{name}": percentile(waits, share) * 1000
        for name, share in (("50", 0.5), ("99", 0.99), ("99.9", 0.999))
    }


def _end_offsets(bootstrap: str, topic: str, partitions: int) -> int:
    consumer = Consumer(quiet({"bootstrap.servers": bootstrap, "group.id": "bench"}))
    ends = [
        consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30.0)
        for partition in range(partitions)
    ]
    consumer.close()
    return sum(high for _, high in ends)


KINDS: dict[str, Callable[..., dict[str, float]]] = {
    function.__name__: function for function in (produce, closed_loop, lone, end_to_end)
}


if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](**json.loads(sys.argv[2]))))
