"""The client journey with aiokafka: see journey.md."""

import asyncio
import json
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

bootstrap, topic = sys.argv[1:]
PER_CODEC, LATER = 20, 10
PATIENCE_S = 120


async def until(holds, what):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"timed out: {what}")
        await asyncio.sleep(0.02)


async def produce(prefix, count, codec=None):
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        acks="all",
        compression_type=codec,
        linger_ms=50,
    )
    await producer.start()
    sent = [
        await producer.send(topic, f"{prefix}-{i}".encode(), f"k{i}".encode()) for i in range(count)
    ]
    await asyncio.gather(*sent)
    await producer.stop()


class Member:
    """One consumer in a group, read by a task of its own until told to leave."""

    def __init__(self, sink):
        self.sink = sink

    @property
    def held(self):
        return {p.partition for p in self.consumer.assignment()}

    async def join(self):
        self.consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id="g-" + topic,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=10000,
            heartbeat_interval_ms=300,
            metadata_max_age_ms=1000,  # the broker asked may hear of the topic a moment later
        )
        await self.consumer.start()
        self.task = asyncio.create_task(self.read())
        return self

    async def read(self):
        async for record in self.consumer:
            self.sink.append(record.value.decode())

    async def commit(self):
        """Read no more, and commit: before anybody leaves, since then the others join anew."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.consumer.commit()

    async def leave(self):
        await self.consumer.stop()


async def main():
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 3, 3)])

    seen = []
    first = await Member(seen).join()
    await until(lambda: len(first.held) == 3, "the first member gets every partition")
    second = await Member(seen).join()
    await until(
        lambda: first.held and second.held and len(first.held) + len(second.held) == 3,
        "the rebalance shares them out",
    )
    for codec in (None, "gzip", "snappy", "lz4", "zstd"):
        await produce(codec or "none", PER_CODEC, codec)
    await until(lambda: len(set(seen)) == 5 * PER_CODEC, "everything is consumed")
    shares = [len(first.held), len(second.held)]
    await first.commit()
    await second.commit()
    await first.leave()
    await second.leave()

    await asyncio.sleep(0.02)  # the clock the records carry must move on
    between = int(time.time() * 1000)
    await asyncio.sleep(0.02)
    await produce("later", LATER)
    resumed = []
    third = await Member(resumed).join()
    await until(lambda: len(resumed) >= LATER, "the group resumes")
    await third.commit()
    await third.leave()

    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await reader.start()
    partitions = [TopicPartition(topic, p) for p in range(3)]
    reader.assign(partitions)
    found = await reader.offsets_for_times(dict.fromkeys(partitions, between))
    for partition in partitions:
        if found.get(partition) is None:
            await reader.seek_to_end(partition)
        else:
            reader.seek(partition, found[partition].offset)
    by_time = []
    deadline = time.monotonic() + PATIENCE_S
    while len(by_time) < LATER and time.monotonic() < deadline:
        for records in (await reader.getmany(timeout_ms=500)).values():
            by_time.extend(record.value.decode() for record in records)
    await reader.stop()
    await admin.close()
    print(json.dumps({"seen": seen, "shares": shares, "resumed": resumed, "by_time": by_time}))


asyncio.run(main())
