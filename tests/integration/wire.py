"""Kafka's protocol over a plain socket, for tests that say what no client would.

`Wire` is one connection; `Victim` is a broker under test, and what can be read of its health from
outside: its log, its memory, its answers.
"""

import errno
import os
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from zkafka.errors import ErrorCode
from zkafka.protocol.apis import APIS
from zkafka.protocol.codec import decode_response, encode_request
from zkafka.protocol.fields import schema_of
from zkafka.protocol.messages.api_versions import ApiVersionsRequest
from zkafka.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from zkafka.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from zkafka.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from zkafka.protocol.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    TopicProduceData,
)
from zkafka.testing.cluster import ClusterBroker

PATIENCE_S = 60.0
"""How long an answer may take on a busy machine before it is missing."""

_SIZE = struct.Struct(">i")
_GONE = (errno.ECONNRESET, errno.EPIPE)
_CALLS_SOMEBODY = re.compile(r"^\S+ \S+ (ERROR|CRITICAL)", re.MULTILINE)
_BEGINS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ +zkafka")
LATEST = -1


def frame(body: bytes) -> bytes:
    """`body` with its size before it."""
    return _SIZE.pack(len(body)) + body


def header(api_key: int, version: int, *, client_id: str | None = "", flexible: bool) -> bytes:
    """A request's header with correlation id 1."""
    name = b"" if client_id is None else client_id.encode()
    size = -1 if client_id is None else len(name)
    return struct.pack(">hhih", api_key, version, 1, size) + name + (b"\0" if flexible else b"")


class Wire:
    """One connection to a broker, closed at the end of a `with`."""

    def __init__(self, port: int, *, client_id: str = "wire", receive_buffer: int = 0) -> None:
        self.client_id = client_id
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE_S)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.peer = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self._correlation_id = 0

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """All of `data`; that the broker hangs up in the middle is for `ends` to see."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def request(self, message: Any, version: int) -> bytes:
        """A whole request as bytes."""
        self._correlation_id += 1
        parts = encode_request(message, version, self._correlation_id, self.client_id)
        return b"".join(bytes(part) for part in parts)

    def receive(self, response_class: type[Any], version: int) -> Any:
        """The next answer."""
        (size,) = _SIZE.unpack(self._exactly(4))
        _, response = decode_response(response_class, version, self._exactly(size))
        return response

    def ask(self, message: Any, version: int) -> Any:
        """The answer to a request, in the same version."""
        self.send(self.request(message, version))
        api_key = schema_of(type(message)).api_key
        assert api_key is not None
        return self.receive(APIS[api_key].response_class, version)

    def _exactly(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            data = self.socket.recv(size - len(received))
            assert data, f"the broker hung up after {len(received)} of {size} bytes"
            received += data
        return bytes(received)

    def ends(self) -> bool:
        """Whether the broker hangs up without another byte; waits for it to do either."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes, neither bytes nor the end."""
        return not select.select([self.socket], [], [], seconds)[0]

    # What tests ask again and again.

    def produce(
        self,
        topic: str,
        records: bytes | None,
        *,
        partition: int = 0,
        acks: int = -1,
        version: int = 9,
    ) -> PartitionProduceResponse:
        """What became of one partition's records."""
        response = self.ask(produce_request(topic, records, partition, acks), version)
        answer: PartitionProduceResponse = response.responses[0].partition_responses[0]
        return answer

    def end_offset(self, topic: str, partition: int = 0, *, timestamp: int = LATEST) -> int:
        """Where the partition ends for consumers."""
        asked = ListOffsetsPartition(partition_index=partition, timestamp=timestamp)
        wanted = ListOffsetsTopic(name=topic, partitions=[asked])
        response = self.ask(ListOffsetsRequest(replica_id=-1, topics=[wanted]), 4)
        answer = response.topics[0].partitions[0]
        assert answer.error_code == ErrorCode.NONE, ErrorCode(answer.error_code).name
        offset: int = answer.offset
        return offset

    def fetch(self, topic: str, offset: int = 0, **partition: int) -> Any:
        """What one partition answers to a fetch that does not wait."""
        wanted = FetchPartition(
            **{"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20} | partition
        )
        request = FetchRequest(
            max_wait_ms=0, min_bytes=0, topics=[FetchTopic(topic=topic, partitions=[wanted])]
        )
        return self.ask(request, 12).responses[0].partitions[0]

    def topics(self, *names: str, version: int = 9) -> Any:
        """What the broker says of these topics, or of all; it must not create any."""
        wanted = [MetadataRequestTopic(name=name) for name in names] if names else None
        request = MetadataRequest(topics=wanted, allow_auto_topic_creation=False)
        return self.ask(request, version).topics


def produce_request(
    topic: str, records: bytes | None, partition: int = 0, acks: int = -1
) -> ProduceRequest:
    """Records for one partition."""
    data = PartitionProduceData(index=partition, records=records)
    topics = [TopicProduceData(name=topic, partition_data=[data])]
    return ProduceRequest(acks=acks, timeout_ms=10_000, topic_data=topics)


@attrs.define
class Victim:
    """A broker that bad input is sent to; it leads `topic`, which has one partition and replica."""

    broker: ClusterBroker
    topic: str

    @property
    def port(self) -> int:
        return self.broker.port

    def wire(self, **arguments: Any) -> Wire:
        return Wire(self.port, **arguments)

    def log(self, since: int = 0) -> str:
        """What it printed since the log had `since` bytes."""
        with self.broker.log_path.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    @property
    def log_size(self) -> int:
        return self.broker.log_path.stat().st_size

    def lines(self, *words: str, since: int = 0) -> list[str]:
        """The lines of its log that hold all `words`."""
        return [line for line in self.log(since).splitlines() if all(w in line for w in words)]

    @property
    def resident_bytes(self) -> int:
        """Its resident set."""
        for line in Path(f"/proc/{self.broker.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    @property
    def cpu_seconds(self) -> float:
        """Processor time it has taken so far, in steps of some 10 ms. Source: proc(5)."""
        stat = Path(f"/proc/{self.broker.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def assert_hangs_up(self, wire: Wire, *, saying: str = "", since: int = 0) -> None:
        """The broker closes this connection, and tells so in exactly one line with its address.

        `since`: an ephemeral port comes round again, and its former holder may have had a line.
        """
        assert wire.ends()
        lines = wait_for(lambda: self.lines(f"peer={wire.peer}", since=since))
        time.sleep(0.02)  # for a second line, if there is one
        lines = self.lines(f"peer={wire.peer}", since=since)
        assert len(lines) == 1, lines
        assert " INFO " in lines[0], lines
        assert saying in lines[0]

    def assert_no_complaint(self, since: int = 0) -> None:
        """No traceback, no line of a level that calls somebody, no line that another one wrote."""
        logged = self.log(since)
        assert "Traceback" not in logged, logged
        assert not _CALLS_SOMEBODY.search(logged), logged
        assert not [line for line in logged.splitlines() if not _BEGINS.match(line)], logged
        assert max(map(len, logged.splitlines()), default=0) < 4_000, "no place for messages"

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """A connection from before goes on working, nothing is written to `topic`, nothing escapes.

        It was made and used before whatever happens inside, so that it has state to be harmed.
        """
        log_size, pid = self.log_size, self.broker.pid
        with self.wire(client_id="bystander") as bystander:
            end = bystander.end_offset(self.topic)
            yield
            assert bystander.ask(ApiVersionsRequest(), 0).error_code == ErrorCode.NONE
            assert bystander.end_offset(self.topic) == end
            assert bystander.topics(self.topic)[0].error_code == ErrorCode.NONE
        assert self.broker.running
        assert self.broker.pid == pid
        self.assert_no_complaint(log_size)


def wait_for(question: Callable[[], Any], *, seconds: float = PATIENCE_S, what: str = "") -> Any:
    """The first answer that is true; an assertion fails when none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or question}"
        time.sleep(0.02)


def codes(items: Sequence[Any]) -> list[ErrorCode]:
    """The error codes of a response's items."""
    return [ErrorCode(item.error_code) for item in items]
