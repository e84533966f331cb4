"""What answers and what is answered in the tests of `net`: a dispatcher told what to do, log slices
over real files, and requests as bytes."""

import os

from zkafka.protocol.apis import APIS, ApiKey
from zkafka.protocol.codec import decode, decode_response, encode_request, encode_response
from zkafka.protocol.messages.fetch import FetchRequest, FetchResponse
from zkafka.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from zkafka.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)


class Slice:
    """As `log.segment.LogSlice`, over a whole file or a part of it."""

    def __init__(self, path, position=0, size=None):
        self._file = open(path, "rb")  # noqa: SIM115, closed by the last release
        self.position = position
        self.size = os.path.getsize(path) - position if size is None else size
        self.readers = 1
        self.intact = True
        self.failures = []

    def fileno(self):
        return self._file.fileno()

    def read(self):
        return os.pread(self._file.fileno(), self.size, self.position)

    def read_failed(self, error):
        self.failures.append(error.errno)

    def release(self):
        assert self.readers > 0, "released twice"
        self.readers -= 1
        if not self.readers:
            self._file.close()


class Pending:
    """A Produce, or a Fetch, that answers when told."""

    def __init__(self, answer, ready, gate=None, *, overlaps=True):
        self._answer = answer
        self._gate = gate
        self.unopened = gate is not None
        self.ready = ready
        self.overlaps = overlaps
        self.given_up = False
        self._call = None

    def answer_now(self):
        self.ready = True
        if self._call is not None:
            call, self._call = self._call, None
            call()

    def when_ready(self, call):
        assert not self.ready
        assert self._call is None
        self._call = call

    async def open(self):
        await self._gate.wait()
        self.unopened = False

    def answer(self):
        assert self.ready
        assert not self.unopened
        return self._answer

    def give_up(self):
        self.given_up = True
        self._call = None


class ScriptedDispatcher:
    """Answers Produce with an empty response and Heartbeat with one whose throttle time is the
    request's generation, unless told otherwise; remembers what came."""

    def __init__(self):
        self.began = []
        """Correlation ids of the Produces begun."""
        self.handled = []
        self.bodies = []
        self.produce_ready = True
        self.fetch_ready = True
        self.at_once = set()
        """Correlation ids of the Produces answered by `begin` itself."""
        self.pending = {}
        self.answers = {}
        """Correlation id -> the answer to give instead."""
        self.errors = {}
        """Correlation id -> what to raise."""
        self.gates = {}
        """Correlation id -> an Event that `handle` waits for, or the opening of a Produce."""
        self.connections = []

    def begin(self, request, connection):
        header = request.header
        self.connections.append(connection)
        self.began.append(header.correlation_id)
        if header.correlation_id in self.errors:
            raise self.errors[header.correlation_id]
        if header.api_key == ApiKey.FETCH:
            return self._begin_fetch(header)
        decode(ProduceRequest, header.api_version, request.body)
        self.bodies.append(request.body)
        response = encode_response(ProduceResponse(), header.api_version, header.correlation_id)
        answer = self.answers.get(header.correlation_id, response)
        if header.correlation_id in self.at_once:
            return b"".join(answer)
        pending = self.pending[header.correlation_id] = Pending(
            answer, self.produce_ready, self.gates.get(header.correlation_id)
        )
        return pending

    def _begin_fetch(self, header):
        response = encode_response(FetchResponse(), header.api_version, header.correlation_id)
        answer = self.answers.get(header.correlation_id, response)
        if self.fetch_ready:
            return list(answer)
        pending = Pending(answer, ready=False, overlaps=False)
        self.pending[header.correlation_id] = pending
        return pending

    async def handle(self, request, connection):
        header = request.header
        self.connections.append(connection)
        self.handled.append(header.correlation_id)
        self.bodies.append(request.body)
        if header.correlation_id in self.errors:
            raise self.errors[header.correlation_id]
        message = decode(HeartbeatRequest, header.api_version, request.body)
        if header.correlation_id in self.gates:
            await self.gates[header.correlation_id].wait()
        response = HeartbeatResponse(throttle_time_ms=message.generation_id)
        return self.answers.get(
            header.correlation_id,
            encode_response(response, header.api_version, header.correlation_id),
        )


def produce(correlation_id, records=b""):
    data = [PartitionProduceData(records=records)]
    message = ProduceRequest(topic_data=[TopicProduceData(name="t", partition_data=data)])
    return b"".join(encode_request(message, 9, correlation_id, "test"))


def fetch(correlation_id):
    return b"".join(encode_request(FetchRequest(), 12, correlation_id, "test"))


def heartbeat(correlation_id, generation=0):
    message = HeartbeatRequest(generation_id=generation)
    return b"".join(encode_request(message, 4, correlation_id, "test"))


async def receive_exactly(stream, size):
    data = bytearray()
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        if not piece:
            raise EOFError(f"{len(data)} of {size} bytes")
        data += piece
    return bytes(data)


async def receive_frame(stream):
    size = int.from_bytes(await receive_exactly(stream, 4), "big")
    return await receive_exactly(stream, size)


async def receive_ids(stream, count):
    """The correlation ids of that many answers."""
    return [int.from_bytes((await receive_frame(stream))[:4], "big") for _ in range(count)]


async def receive_throttle(stream):
    """The throttle time in a Heartbeat's answer."""
    return decode_response(HeartbeatResponse, 4, await receive_frame(stream))[1].throttle_time_ms


def produce_version():
    return APIS[0].max_version
