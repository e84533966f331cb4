"""Questions to one broker over a socket of our own: no client's caches, retries or back-offs."""

import socket
import struct
import time
from collections.abc import Sequence
from typing import TypeVar

from zkafka.errors import RemoteProtocolError
from zkafka.protocol.codec import decode_response, encode_request
from zkafka.protocol.messages.elect_leaders import ElectLeadersRequest, ElectLeadersResponse
from zkafka.protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponsePartition,
)

T = TypeVar("T")

_SIZE = struct.Struct(">i")
_VERSION = 9
_POLL_SECONDS = 0.005
_ELECT_VERSION = 2
_PREFERRED = 0
_ELEMENTS = 10_000_000


class NoAnswer(Exception):
    """The broker could not be reached, or closed the connection."""


def metadata_frame(topics: Sequence[str] | None) -> bytes:
    """A whole Metadata request; of all topics when None."""
    wanted = None if topics is None else [MetadataRequestTopic(name=name) for name in topics]
    request = MetadataRequest(topics=wanted, allow_auto_topic_creation=False)
    return b"".join(encode_request(request, _VERSION, 1, "bench"))


def exchange(connection: socket.socket, frame: bytes) -> bytes:
    """The answer to one request, without its size. Errors: NoAnswer."""
    try:
        connection.sendall(frame)
        (size,) = _SIZE.unpack(_receive(connection, _SIZE.size))
        return _receive(connection, size)
    except OSError as error:
        raise NoAnswer(str(error)) from error


def connect(port: int, timeout: float = 30.0) -> socket.socket:
    """A connection to a broker on loopback. Errors: NoAnswer."""
    try:
        return socket.create_connection(("127.0.0.1", port), timeout)
    except OSError as error:
        raise NoAnswer(f"127.0.0.1:{port}: {error}") from error


def ask(port: int, frame: bytes, answer_class: type[T], version: int, timeout: float = 5.0) -> T:
    """What the broker on this port answers, over a connection of its own. Errors: NoAnswer."""
    with connect(port, timeout) as connection:
        answer = exchange(connection, frame)
    try:
        _, response = decode_response(answer_class, version, answer, element_budget=_ELEMENTS)
    except RemoteProtocolError as error:
        raise NoAnswer(str(error)) from error
    return response


def metadata(port: int, topics: Sequence[str] | None = ()) -> MetadataResponse:
    """What the broker on this port says of the cluster. Errors: NoAnswer."""
    return ask(port, metadata_frame(topics), MetadataResponse, _VERSION)


def elect_preferred(port: int) -> None:
    """Ask the controller on this port to give every partition to its preferred leader."""
    request = ElectLeadersRequest(election_type=_PREFERRED, topic_partitions=None)
    frame = b"".join(encode_request(request, _ELECT_VERSION, 1, "bench"))
    ask(port, frame, ElectLeadersResponse, _ELECT_VERSION, timeout=60.0)


def partitions(port: int, topic: str) -> list[MetadataResponsePartition]:
    """The partitions of a topic as one broker knows them; none if it does not know it."""
    [known] = metadata(port, [topic]).topics
    return sorted(known.partitions, key=lambda partition: partition.partition_index)


def pause() -> None:
    """Between two questions to somebody who tells nobody when he is ready."""
    time.sleep(_POLL_SECONDS)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = bytearray(size)
    view = memoryview(received)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise NoAnswer("closed the connection instead of answering")
        view = view[count:]
    return bytes(received)
