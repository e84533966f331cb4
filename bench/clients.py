"""What runs in a client process: `python -m bench.clients KIND JSON`; it ends with a line of JSON.

librdkafka does the work, with its default settings but for those a load is about (`acks`, codec,
`linger.ms`); what Python does for each record is one entry of a batch, or nothing.
"""

import json
import math
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from bench.results import percentile

_WORDS = ("account", "amount", "currency", "customer", "delivered", "order", "price", "quantity")
_SEND_SECONDS = 60.0
_BATCH = 500
_OUTAGE_SECONDS = 90.0
_CALM_SECONDS = 1.0
_STAMP = struct.Struct(">d")


def quiet(settings: dict[str, Any]) -> dict[str, Any]:
    """Without librdkafka's messages on stderr: what fails is seen by who asks for it."""
    logger = type("Quiet", (), {"log": staticmethod(lambda *_: None)})()
    return {**settings, "logger": logger, "error_cb": lambda _: None}


def payloads(size: int, count: int = _BATCH) -> list[bytes]:
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
    """As much as can be sent in `seconds`, or so many records, batched, until all is answered."""
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
        batch = batches[partition][: int(min(_BATCH, records - sent))]
        queued = producer.produce_batch(topic, batch, partition=partition)
        sent += queued
        turn += 1
        if queued < len(batch):
            producer.poll(0.002)
            for message in batch:
                message.pop("_error", None)
    left = producer.flush(_SEND_SECONDS)
    elapsed = time.perf_counter() - started
    patience = time.perf_counter() + _SEND_SECONDS
    while (written := _end_offsets(bootstrap, topic, partitions) - before) != sent:
        # With acks=1 followers may be behind, and nobody sees a record before they have it.
        if left or written > sent or time.perf_counter() > patience:
            raise SystemExit(f"{sent} records sent, {left} not answered, {written} written")
    return {"records": sent, "bytes": sent * size, "seconds": elapsed}


def closed_loop(
    bootstrap: str, topic: str, clients: int, window: int, size: int, seconds: float, acks: str
) -> dict[str, float]:
    """`clients` producers, each with `window` records under way, one record a request."""
    settings = {"bootstrap.servers": bootstrap, "acks": acks, "linger.ms": 0}
    loops = [
        _Loop(Producer(quiet({**settings, "batch.num.messages": 1})), topic) for _ in range(clients)
    ]
    value = payloads(size, 1)[0]
    for loop in loops:  # connect, and know the leader
        loop.send(value)
    for loop in loops:
        if loop.producer.flush(_SEND_SECONDS):
            raise SystemExit("the first record was not answered")
        loop.waits.clear()
    print("started", flush=True)
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
    bootstrap: str,
    topic: str,
    size: int,
    acks: str,
    seconds: float = math.inf,
    interval: float = 0.0,
) -> dict[str, float]:
    """One record at a time, the next when it is answered and `interval` has passed.

    Ends after `seconds`, or when it is told to by SIGTERM. Says `started` once it is connected.
    """
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    producer = Producer(quiet({"bootstrap.servers": bootstrap, "acks": acks, "linger.ms": 0}))
    loop = _Loop(producer, topic)
    value = payloads(size, 1)[0]
    loop.send(value)  # the first record is the one that connects
    if producer.flush(_SEND_SECONDS):
        raise SystemExit("the first record was not answered")
    loop.waits.clear()
    print("started", flush=True)
    due = time.perf_counter()
    deadline = due + seconds
    while not told and time.perf_counter() < deadline:
        loop.send(value)
        while loop.under_way:
            producer.poll(1.0)
        if interval:
            due = max(due + interval, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
    return {"requests": len(loop.waits), **_latencies(sorted(loop.waits))}


def paced(
    bootstrap: str, topic: str, partitions: int, size: int, seconds: float, rate: int
) -> dict[str, float]:
    """`rate` records a second over all partitions in turn, acks=all; a second before it counts."""
    producer = Producer(quiet({"bootstrap.servers": bootstrap, "acks": "all"}))
    loop = _Loop(producer, topic)
    value = payloads(size, 1)[0]
    for partition in range(partitions):  # every partition's leader is known and connected
        loop.send(value, partition)
    patience = _SEND_SECONDS + partitions / 20
    if left := producer.flush(patience):
        raise SystemExit(f"{left} of the first records were not answered")
    print("started", flush=True)
    loop.waits.clear()
    due = time.perf_counter()
    for turn in range(int(rate * seconds)):
        due += 1 / rate
        while (now := time.perf_counter()) < due:
            producer.poll(due - now)
        loop.send(value, turn * 7 % partitions)
    if left := producer.flush(patience):
        raise SystemExit(f"{left} records were not answered")
    return {"records": len(loop.waits), **_latencies(sorted(loop.waits))}


def outage(
    bootstrap: str, topic: str, partitions: int, pid: int, number: int, interval: float = 0.1
) -> dict[str, float]:
    """The longest that a record waited for its answer, acks=all, once `pid` got signal `number`.

    Every partition has a record under way each `interval`, and one right after the signal. It is
    over when the process is gone and no record has waited long for a second.
    """
    producer = Producer(quiet({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0}))
    sent: dict[int, float] = {}
    """By partition: when the record that is under way was sent."""
    waited = 0.0
    signalled = calm_since = math.inf

    def answered(error: KafkaError | None, message: Message) -> None:
        nonlocal waited, calm_since
        if error is not None:
            raise SystemExit(f"a record was lost: {error}")
        partition = message.partition()
        assert partition is not None
        now = time.perf_counter()
        wait = now - max(sent.pop(partition), signalled)
        if signalled <= now:
            waited = max(waited, wait)
            if wait > _CALM_SECONDS / 2:
                calm_since = now

    def send() -> None:
        for partition in range(partitions):
            if partition not in sent:
                sent[partition] = time.perf_counter()
                producer.produce(topic, b"x" * 100, partition=partition, on_delivery=answered)

    def poll(seconds: float) -> None:
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            producer.poll(left)

    send()
    if producer.flush(_SEND_SECONDS):
        raise SystemExit("nothing can be written before the kill")
    for _ in range(5):
        send()
        poll(interval)
    signalled = time.perf_counter()
    os.kill(pid, number)
    gone = False
    deadline = signalled + _OUTAGE_SECONDS
    while True:
        send()
        poll(interval)
        now = time.perf_counter()
        if not gone and not _runs(pid):
            gone, calm_since = True, max(now, signalled)
        longest = max((now - max(at, signalled) for at in sent.values()), default=0.0)
        if gone and longest < _CALM_SECONDS / 2 and now - calm_since > _CALM_SECONDS:
            return {"seconds": waited}
        if now > deadline:
            raise SystemExit(f"{len(sent)} partitions take no writes after {_OUTAGE_SECONDS:g} s")


def group(bootstrap: str, topic: str, partitions: int, members: int) -> dict[str, float]:
    """Seconds until so many consumers, started at once, share all partitions of a topic."""
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": f"of-{members}",
        "heartbeat.interval.ms": 500,
    }
    consumers = [Consumer(quiet(dict(settings))) for _ in range(members)]
    share = partitions // members
    started = time.perf_counter()
    for consumer in consumers:
        consumer.subscribe([topic])
    while time.perf_counter() - started < _SEND_SECONDS:
        for consumer in consumers:
            consumer.poll(0)
        held = [len(consumer.assignment()) for consumer in consumers]
        if sum(held) == partitions and set(held) == {share}:
            elapsed = time.perf_counter() - started
            print(json.dumps({"seconds": elapsed}), flush=True)
            os._exit(0)  # a hundred farewells, one by one, are not what is measured
    raise SystemExit(f"after {_SEND_SECONDS:g} s members hold {sorted(held)}")


def end_to_end(
    bootstrap: str, topic: str, size: int, seconds: float, rate: int
) -> dict[str, float]:
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
            # One at a time: asked for more, the consumer would wait until it had as many.
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                waits.append(time.perf_counter() - _STAMP.unpack_from(message.value() or b"")[0])

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

    def send(self, value: bytes, partition: int = -1) -> None:
        self.under_way += 1
        self.producer.produce(self.topic, value, partition=partition, on_delivery=self._answered)

    def _answered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise SystemExit(f"a record failed: {error}")
        self.under_way -= 1
        waited = message.latency()
        assert waited is not None
        self.waits.append(waited)


def _latencies(waits: list[float]) -> dict[str, float]:
    """Percentiles of sorted seconds, in milliseconds."""
    return {
        f"p{name}": percentile(waits, share) * 1000
        for name, share in (("50", 0.5), ("99", 0.99), ("99.9", 0.999))
    }


def _runs(pid: int) -> bool:
    """Whether a process has not ended; one that its parent has not waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _end_offsets(bootstrap: str, topic: str, partitions: int) -> int:
    consumer = Consumer(quiet({"bootstrap.servers": bootstrap, "group.id": "bench"}))
    ends = [
        consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30.0)
        for partition in range(partitions)
    ]
    consumer.close()
    return sum(high for _, high in ends)


KINDS: dict[str, Callable[..., dict[str, float]]] = {
    function.__name__: function
    for function in (produce, closed_loop, lone, paced, end_to_end, outage, group)
}


if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](**json.loads(sys.argv[2]))))
