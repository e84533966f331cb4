"""`zkafka-cluster demo`: traffic through the cluster while its leader is killed, and the account.

An idempotent `acks=all` producer writes numbered values to a topic of one partition (so that one
kill stops all writing), a group of two consumers reads them, the leader gets SIGKILL half-way, and
is started again. Then the log is read from its beginning: what was acknowledged and is not there is
lost, what is there twice is doubled. The topic stays, to be looked at.
"""

import itertools
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import attrs
import click
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient, NewTopic

from zkafka.cli import client
from zkafka.cli.output import as_json, fail, say

if TYPE_CHECKING:
    from zkafka.cli.cluster import LocalCluster

RATE = 2000
"""Records a second: enough to be in the middle of something when the leader dies."""


FAILOVER_S = 30.0
"""More than enough for a session of six seconds to expire and a leader to be elected."""


@attrs.define
class Account:
    """What the clients saw. Written by client threads, read when they have ended."""

    acknowledged: set[int] = attrs.field(factory=set)
    failed: set[str] = attrs.field(factory=set)
    consumed: set[int] = attrs.field(factory=set)
    last_ack_at: float = 0.0
    pause_s: float = 0.0

    def on_delivery(self, error: KafkaError | None, message: Message) -> None:
        """Note an acknowledgement and the time since the last."""
        if error is not None:
            self.failed.add(error.str())
            return
        now = time.monotonic()
        if self.last_ack_at:
            self.pause_s = max(self.pause_s, now - self.last_ack_at)
        self.last_ack_at = now
        self.acknowledged.add(_number(message))


def _number(message: Message) -> int:
    value = message.value()
    assert value is not None, "the demo's records all have a value"
    return int(value)


def run(cluster: "LocalCluster", seconds: float, json_output: bool) -> None:
    """Do it all and report; the command fails if a record was lost or doubled."""
    topic = f"demo-{uuid.uuid4().hex[:8]}"

    def progress(line: str) -> None:
        if not json_output:
            say(line)

    admin = AdminClient(client.settings(cluster.bootstrap))
    new = NewTopic(
        topic,
        1,
        cluster.replicas,
        config={"min.insync.replicas": str(min(2, cluster.replicas - 1))},
    )
    client.settled(f"topic {topic}", admin.create_topics([new])[topic])
    leader = _leader(admin, topic)
    progress(f"topic {topic}: {cluster.replicas} replicas, leader is broker {leader}")

    victim = cluster.broker(leader)
    account = Account()
    done = threading.Event()
    readers = [
        threading.Thread(target=_read, args=(cluster.bootstrap, topic, account, done))
        for _ in range(2)
    ]
    for reader in readers:
        reader.start()
    try:
        producer = Producer(
            client.settings(
                cluster.bootstrap,
                **{
                    "acks": "all",
                    "enable.idempotence": True,
                    "linger.ms": 5,
                    "message.timeout.ms": 60_000,
                },
            )
        )
        progress(f"writing {RATE} records/s with acks=all, two consumers in a group reading")
        sent = _write(producer, topic, account, 0, seconds / 2)
        assert victim.process is not None
        progress(f"killing broker {leader} (SIGKILL), the leader")
        victim.process.signal(signal.SIGKILL)
        sent = _write(producer, topic, account, sent, seconds / 2)
        # Back too early it would go on leading, and nothing would have been shown.
        patience = time.monotonic() + FAILOVER_S
        while (successor := _leader(admin, topic)) == leader and time.monotonic() < patience:
            sent = _write(producer, topic, account, sent, 0.2)
        progress(f"starting broker {leader} again")
        cluster.start_broker(leader, detached=True)
        unanswered = producer.flush(65)
        cluster.wait_ready([victim])
        final = _log(cluster.bootstrap, topic)
        deadline = time.monotonic() + 30
        while not account.consumed >= account.acknowledged and time.monotonic() < deadline:
            time.sleep(0.1)  # the readers are threads of their own; they stop by our word only
    finally:
        done.set()
        for reader in readers:
            reader.join()
        cluster.start_broker(leader, detached=True)  # if we were interrupted before

    report = {
        "sent": sent,
        "acknowledged": len(account.acknowledged),
        "unanswered": unanswered,
        "consumed": len(account.consumed),
        "lost": len(account.acknowledged - set(final)),
        "not_consumed": len(account.acknowledged - account.consumed),
        "doubled": len(final) - len(set(final)),
        "out_of_order": sum(a > b for a, b in itertools.pairwise(final)),
        "longest_pause_s": round(account.pause_s, 2),
        "leader_before": leader,
        "leader_after": successor,
        "errors": sorted(account.failed),
    }
    if json_output:
        as_json(report)
    else:
        _tell(report)
    complaint = complaint_about(report)
    if complaint:
        fail(complaint)
    if not json_output:
        click.secho("nothing was lost, nothing was doubled", fg="green")


def complaint_about(report: dict[str, Any]) -> str:
    """What is wrong with an account; empty when nothing is."""
    if not report["acknowledged"]:
        return "nothing was acknowledged, so nothing was shown: see 'logs' of the brokers"
    if report["lost"] or report["doubled"] or report["not_consumed"] or report["out_of_order"]:
        return (
            "records were lost, doubled or out of order: this must never happen; "
            "keep .zkafka and report it"
        )
    return ""


def _tell(report: dict[str, Any]) -> None:
    """The account for people."""
    unanswered = f", {report['unanswered']} unanswered" if report["unanswered"] else ""
    facts: list[tuple[str, str]] = [
        ("acknowledged", f"{report['acknowledged']} of {report['sent']} sent{unanswered}"),
        ("consumed", f"{report['consumed']}"),
        ("lost", f"{report['lost']}"),
        ("doubled", f"{report['doubled']}"),
        ("out of order", f"{report['out_of_order']}"),
        ("writing paused", f"{report['longest_pause_s']:.1f} s"),
        ("leader", f"broker {report['leader_before']}, then {report['leader_after']}"),
    ]
    if report["not_consumed"]:
        facts.append(("not consumed", f"{report['not_consumed']}"))
    facts += [("error", error) for error in report["errors"]]
    say()
    for name, fact in facts:
        say(f"  [dim]{name:<14}[/dim]  {fact}")
    say()


def _leader(admin: AdminClient, topic: str) -> int:
    deadline = time.monotonic() + client.TIMEOUT_S
    while time.monotonic() < deadline:
        metadata = client.call("metadata", lambda: admin.list_topics(topic, timeout=10))
        # The broker that was asked may not know of the topic yet.
        partition = metadata.topics[topic].partitions.get(0)
        if partition is not None and partition.leader >= 0:
            return int(partition.leader)
        time.sleep(0.05)  # between two leaders; metadata is asked for, nobody tells
    fail(f"{topic} has no leader")


def _write(producer: Producer, topic: str, account: Account, first: int, seconds: float) -> int:
    """Write numbers from `first` at RATE for `seconds`; the next number. The queue bounds us: while
    nobody acknowledges, nothing more is sent than it holds."""
    started = time.monotonic()
    number = first
    while (elapsed := time.monotonic() - started) < seconds:
        due = first + int(elapsed * RATE)
        while number < due:
            try:
                producer.produce(topic, str(number), on_delivery=account.on_delivery)
            except BufferError:
                break
            number += 1
        producer.poll(0.01)
    return number


def _read(bootstrap: str, topic: str, account: Account, done: threading.Event) -> None:
    consumer = Consumer(
        client.settings(
            bootstrap,
            **{
                "group.id": topic,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": 10_000,
                "topic.metadata.refresh.interval.ms": 1000,
            },
        )
    )
    consumer.subscribe([topic])
    while not done.is_set():
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            account.consumed.add(_number(message))
    consumer.close()


def _log(bootstrap: str, topic: str) -> list[int]:
    """Every number in the log, in order, read without a group from its beginning."""
    consumer = Consumer(
        client.settings(
            bootstrap,
            **{
                "group.id": topic + "-audit",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            },
        )
    )
    consumer.assign([ClientPartition(topic, 0, OFFSET_BEGINNING)])
    numbers: list[int] = []
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                numbers.append(_number(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                return numbers
    finally:
        consumer.close()
    fail("the log could not be read to its end within a minute")
