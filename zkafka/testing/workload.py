"""Idempotent producers and a consumer group at work, writing down what they see.

    async with Workload(cluster.bootstrap, "orders", partitions=3, history=history) as workload:
        await workload.wait_acknowledged(200)      # things go well
        await cluster.kill(1)
        await workload.wait_acknowledged(200)      # 200 more: writing goes on
        await workload.finish()                    # all answered, all read, all committed

Each client is a process of its own (`python -m zkafka.testing.workload`, confluent-kafka inside):
it feels nothing of the loop of the test, and a client that dies is a process that dies. It prints
one event of `zkafka.testing.history` per line, and ends its work when its standard input closes.

Producers: `acks=all`, idempotent, one sequence each, dealt over the partitions in turn. A value
whose fate is not certain is written down as unknown. Consumers: one group, no automatic commits;
they commit what they have been given twice a second, and write down what was confirmed. One commit
at a time: the client sends again what is not answered in time, and after a newer one that would
take the group back.
"""

import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
import trio

from zkafka.model import TopicPartition
from zkafka.testing.history import (
    Assigned,
    Committed,
    Event,
    History,
    Polled,
    ProduceAcknowledged,
    ProduceAttempted,
    ProduceFailed,
    ProduceUnknown,
    Read,
    Value,
    event_from_json,
    event_to_json,
)
from zkafka.testing.processes import log_tail

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message
    from confluent_kafka import TopicPartition as ClientPartition

WAIT_SECONDS = 60.0
"""How long a busy machine may take for what is only waited for."""

PATIENCE: Mapping[str, Any] = {
    # A paused or cut-off leader answers nothing: find out soon, and ask around.
    "socket.timeout.ms": 4000,
    "socket.connection.setup.timeout.ms": 3000,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    "metadata.max.age.ms": 1000,
    "topic.metadata.refresh.interval.ms": 1000,
}


class WorkloadFailed(Exception):
    """A client ended by itself, or the work did not go on in time."""


@attrs.define(eq=False)
class Client:
    """One producing or consuming process."""

    name: str
    role: str
    settings: Mapping[str, Any]
    log_path: Path
    process: trio.Process | None = None
    finishing: bool = False

    async def start(self) -> None:
        """Start the process; it works until `finish`."""
        with self.log_path.open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [
                    sys.executable,
                    "-m",
                    "zkafka.testing.workload",
                    self.role,
                    json.dumps(self.settings),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    async def events(self, write_down: Callable[[Event], None]) -> None:
        """Hand on what it sees, until it ends. Errors: WorkloadFailed if it was not to end yet."""
        assert self.process is not None
        assert self.process.stdout is not None
        rest = b""
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                write_down(event_from_json(line.decode()))
        code = await self.process.wait()
        if code != 0 or not self.finishing:
            raise WorkloadFailed(f"{self.name} ended with {code}\n{log_tail(self.log_path)}")

    async def finish(self) -> None:
        """Tell it that no more is wanted; it ends when its last work is done."""
        self.finishing = True
        assert self.process is not None
        assert self.process.stdin is not None
        await self.process.stdin.aclose()


class Workload:
    """Some producers and one consumer group on one topic, for the length of an `async with`.

    Left by an exception, or without `finish`, the clients are killed where they stand.
    `rate` is values per second and producer; `directory` keeps the clients' own logs.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        partitions: int,
        history: History | None = None,
        producers: int = 2,
        consumers: int = 2,
        group: str = "workload",
        rate: float = 150.0,
        producer_config: Mapping[str, Any] | None = None,
        consumer_config: Mapping[str, Any] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.history = History() if history is None else history
        self.topic = topic
        self.partitions = partitions
        self._acknowledged: set[Value] = set()
        self._consumed: set[Value] = set()
        self._outstanding: set[Value] = set()
        self._assigned: set[str] = set()
        self._committed: set[TopicPartition] = set()
        self._changed = trio.Event()
        self._stack = AsyncExitStack()
        self._directory = Path(directory or tempfile.mkdtemp(prefix="zkafka-workload-"))
        common = {"topic": topic, "partitions": partitions, "rate": rate, "group": group}
        producing = {"bootstrap.servers": bootstrap, **PATIENCE, **(producer_config or {})}
        consuming = {"bootstrap.servers": bootstrap, **PATIENCE, **(consumer_config or {})}
        self._producers = [
            self._client("produce", f"producer-{i}", {**common, "client": producing})
            for i in range(1, producers + 1)
        ]
        self._consumers = [
            self._client("consume", f"consumer-{i}", {**common, "client": consuming})
            for i in range(1, consumers + 1)
        ]
        self._ended = {client.name: trio.Event() for client in self._clients}

    def _client(self, role: str, name: str, settings: dict[str, Any]) -> Client:
        log_path = self._directory / f"{name}.log"
        return Client(name, role, {**settings, "name": name}, log_path)

    @property
    def _clients(self) -> list[Client]:
        return [*self._producers, *self._consumers]

    @property
    def acknowledged_count(self) -> int:
        """Values the cluster has promised to keep, so far."""
        return len(self._acknowledged)

    @property
    def unread_count(self) -> int:
        """Values acknowledged and given to no consumer yet."""
        return len(self._acknowledged - self._consumed)

    async def __aenter__(self) -> "Workload":
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._nursery = nursery
        for client in self._clients:
            await client.start()
            nursery.start_soon(self._follow, client, name=client.name)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in self._clients:
            if client.process is not None and client.process.returncode is None:
                client.process.kill()
                client.finishing = True
        self._nursery.cancel_scope.cancel()
        await self._stack.__aexit__(None, None, None)
        for client in self._clients:
            if client.process is not None:
                with trio.CancelScope(shield=True):
                    await client.process.wait()

    async def _follow(self, client: Client) -> None:
        await client.events(self._write_down)
        self._ended[client.name].set()

    def _write_down(self, event: Event) -> None:
        self.history.add(event)
        match event:
            case ProduceAttempted():
                self._outstanding.add(event.value)
            case ProduceAcknowledged():
                self._acknowledged.add(event.value)
                self._outstanding.discard(event.value)
            case ProduceFailed() | ProduceUnknown():
                self._outstanding.discard(event.value)
            case Assigned():
                self._assigned.add(event.consumer)
            case Polled():
                self._consumed.update(read.value for read in event.records)
            case Committed():
                self._committed.add(event.topic_partition)
        self._changed.set()
        self._changed = trio.Event()

    async def wait_acknowledged(self, more: int, *, timeout: float = WAIT_SECONDS) -> None:
        """Wait until `more` values than now are acknowledged: the cluster accepts writes."""
        goal = self.acknowledged_count + more
        await self._wait(
            lambda: self.acknowledged_count >= goal,
            lambda: f"{goal - self.acknowledged_count} of {more} acknowledgements are missing",
            timeout,
        )

    async def wait_quiet(self, *, seconds: float = 1.0, timeout: float = WAIT_SECONDS) -> None:
        """Wait until nothing has been acknowledged for some time: the cluster accepts no writes."""
        with trio.move_on_after(timeout):
            while True:
                before = self.acknowledged_count
                await trio.sleep(seconds)  # that nothing happens is not told by any event
                if self.acknowledged_count == before:
                    return
        raise WorkloadFailed(f"acknowledgements went on for {timeout:g} s\n{self._logs()}")

    async def wait_consuming(self, *, timeout: float = WAIT_SECONDS) -> None:
        """Wait until the group has formed, and has committed something of every partition."""
        members = min(len(self._consumers), self.partitions)
        await self._wait(
            lambda: len(self._assigned) >= members and len(self._committed) == self.partitions,
            lambda: f"assigned are {sorted(self._assigned)}, committed {sorted(self._committed)}",
            timeout,
        )

    async def wait_read(self, *, timeout: float = WAIT_SECONDS) -> None:
        """Wait until consumers have been given everything acknowledged."""
        await self._wait(
            lambda: self.unread_count == 0,
            lambda: f"{self.unread_count} acknowledged values were given to no consumer",
            timeout,
        )

    async def finish(self, *, timeout: float = WAIT_SECONDS) -> None:
        """Stop producing, wait until all is answered, read and committed, and end the clients."""
        with trio.move_on_after(timeout) as patience:
            for client in self._producers:
                await client.finish()
            for client in self._producers:
                await self._ended[client.name].wait()
        if patience.cancelled_caught:
            raise WorkloadFailed(
                f"not within {timeout:g} s: {len(self._outstanding)} values without an answer\n"
                f"{self._logs()}"
            )
        if self._consumers:
            await self.wait_read(timeout=timeout)
        with trio.move_on_after(timeout) as patience:
            for client in self._consumers:
                await client.finish()
            for client in self._consumers:
                await self._ended[client.name].wait()
        if patience.cancelled_caught:
            raise WorkloadFailed(f"the consumers did not leave in {timeout:g} s\n{self._logs()}")

    async def _wait(
        self, condition: Callable[[], bool], lack: Callable[[], str], timeout: float
    ) -> None:
        with trio.move_on_after(timeout):
            while not condition():
                await self._changed.wait()
            return
        raise WorkloadFailed(f"not within {timeout:g} s: {lack()}\n{self._logs()}")

    def _logs(self) -> str:
        return "\n".join(f"{c.name}:\n{log_tail(c.log_path, 8)}" for c in self._clients)


# --- Inside the clients' processes --------------------------------------------------------------


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _print_event(event: Event) -> None:
    sys.stdout.write(event_to_json(event) + "\n")


def _finish_asked() -> bool:
    """Whether our standard input was closed."""
    return bool(select.select([0], [], [], 0)[0])


def produce(settings: Mapping[str, Any]) -> int:
    """A producer's life: values at a steady rate until asked to finish, then a flush."""
    from confluent_kafka import KafkaError, Producer

    # Refused before anything was appended, and not retried by the client.
    certain = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.TOPIC_AUTHORIZATION_FAILED}
    name, topic = settings["name"], settings["topic"]
    outstanding: dict[Value, TopicPartition] = {}
    fatal: list[str] = []

    def on_error(error: "KafkaError") -> None:
        if error.fatal():
            fatal.append(str(error))
            sys.stderr.write(f"fatal: {error}\n")

    def on_delivery(value: Value, error: "KafkaError | None", message: "Message") -> None:
        place, now_ms = outstanding.pop(value), _now_ms()
        if error is None:
            # None: a retry that the broker knows to be in its log, and no longer where.
            offset = message.offset()
            _print_event(
                ProduceAcknowledged(now_ms, place, value, -1 if offset is None else offset)
            )
        elif error.code() in certain:
            _print_event(ProduceFailed(now_ms, place, value, str(error)))
        else:
            _print_event(ProduceUnknown(now_ms, place, value, str(error)))

    producer = Producer(
        {
            "client.id": name,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 2,
            "request.timeout.ms": 3000,
            "delivery.timeout.ms": 90_000,
            "retry.backoff.ms": 50,
            "retry.backoff.max.ms": 300,
            "error_cb": on_error,
            **settings["client"],
        }
    )
    sequence, due = 0, time.monotonic()
    while not _finish_asked() and not fatal:
        value = Value(name, sequence)
        place = TopicPartition(topic, sequence % settings["partitions"])
        outstanding[value] = place
        _print_event(ProduceAttempted(_now_ms(), place, value))
        while True:
            try:
                producer.produce(
                    topic,
                    value.encode(),
                    partition=place.partition,
                    on_delivery=partial(on_delivery, value),
                )
                break
            except BufferError:
                producer.poll(0.05)  # its queue is full, while nobody answers
        sequence += 1
        due = max(due + 1 / settings["rate"], time.monotonic() - 1)
        producer.poll(max(0.0, due - time.monotonic()))
        sys.stdout.flush()
    producer.flush(90)
    for value, place in outstanding.items():
        _print_event(ProduceUnknown(_now_ms(), place, value, "no answer before the end"))
    return 1 if fatal else 0


def consume(settings: Mapping[str, Any]) -> int:
    """A group member's life: poll and commit until asked to finish, then leave the group."""
    from confluent_kafka import Consumer, KafkaError, KafkaException

    # What librdkafka says of positions it asked a former coordinator for.
    moved = {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE}
    name, group = settings["name"], settings["group"]
    committing = False

    def on_assign(_: Consumer, assigned: "list[ClientPartition]") -> None:
        nonlocal committing
        committing = False  # what a former generation has not had answered is refused by now
        for each in assigned:
            place = TopicPartition(each.topic, each.partition)
            _print_event(Assigned(_now_ms(), name, group, place))

    def on_commit(error: "KafkaError | None", committed: "list[ClientPartition]") -> None:
        nonlocal committing
        committing = False
        for each in committed:
            if error is None and each.error is None and each.offset >= 0:
                place = TopicPartition(each.topic, each.partition)
                _print_event(Committed(_now_ms(), group, place, each.offset))

    consumer = Consumer(
        {
            "client.id": name,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1000,
            "fetch.wait.max.ms": 100,
            "fetch.error.backoff.ms": 100,
            "on_commit": on_commit,
            **settings["client"],
        }
    )
    consumer.subscribe([settings["topic"]], on_assign=on_assign)
    commit_due, uncommitted = time.monotonic() + 0.5, False
    while not _finish_asked():
        messages = consumer.consume(500, 0.1)
        polled: dict[TopicPartition, list[Read]] = {}
        astray = False
        for message in messages:
            error = message.error()
            if error is not None:
                sys.stderr.write(f"{error}\n")
                if error.fatal():
                    return 1
                astray = astray or error.code() in moved
                continue
            place, read = _read(message)
            polled.setdefault(place, []).append(read)
        now_ms = _now_ms()
        for place, reads in polled.items():
            _print_event(Polled(now_ms, name, place, tuple(reads)))
            uncommitted = True
        if astray:
            _assign_again(consumer, on_assign)
        if uncommitted and not committing and time.monotonic() >= commit_due:
            committing = _commit(consumer)
            commit_due, uncommitted = time.monotonic() + 0.5, False
        sys.stdout.flush()
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as error:
        sys.stderr.write(f"last commit: {error}\n")
    consumer.close()
    return 0


def _assign_again(consumer: Any, on_assign: "Callable[[Any, list[ClientPartition]], None]") -> None:
    """Have the client look for its positions once more.

    Where the coordinator has moved between the assignment and that, librdkafka finds the new one,
    does not ask it, and reads nothing until the next rebalance (its issue 5586, 2.16 and before).
    """
    assigned = consumer.assignment()
    if assigned:
        on_assign(consumer, assigned)
        consumer.assign(assigned)


def _commit(consumer: Any) -> bool:
    """Ask for the positions to be kept; whether an answer will come to on_commit."""
    from confluent_kafka import KafkaException

    try:
        consumer.commit(asynchronous=True)
    except KafkaException as error:
        sys.stderr.write(f"commit: {error}\n")  # nothing assigned at the moment
        return False
    return True


def _read(message: "Message") -> tuple[TopicPartition, Read]:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    epoch = message.leader_epoch()
    value = message.value()
    assert value is None or isinstance(value, bytes)
    place = TopicPartition(topic, partition)
    return place, Read(offset, Value.decode(value), -1 if epoch is None else epoch)


if __name__ == "__main__":
    role, settings_text = sys.argv[1:]
    work = {"produce": produce, "consume": consume}[role]
    sys.exit(work(json.loads(settings_text)))
