"""One question to one broker, past all proxies: how the harness learns what a broker believes.

A connection per question, so that an answer never comes from before a fault.
"""

import struct
from typing import TypeVar

import trio

from zkafka.errors import RemoteProtocolError
from zkafka.protocol.codec import decode_response, encode_request

T = TypeVar("T")

_SIZE = struct.Struct(">i")
CLIENT_ID = "zkafka-testing"


class NoAnswer(Exception):
    """The broker could not be reached, went away, or did not answer in time."""


async def ask(
    port: int, request: object, response_class: type[T], version: int, *, timeout: float = 2.0
) -> T:
    """What the broker listening on this loopback port answers. Errors: NoAnswer."""
    with trio.move_on_after(timeout):
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"".join(encode_request(request, version, 1, CLIENT_ID)))
                [size] = _SIZE.unpack(await _receive_exactly(stream, _SIZE.size))
                answer = await _receive_exactly(stream, size)
            _, response = decode_response(response_class, version, answer)
        except (OSError, trio.BrokenResourceError, RemoteProtocolError) as error:
            raise NoAnswer(f"127.0.0.1:{port}: {error}") from error
        return response
    raise NoAnswer(f"127.0.0.1:{port} did not answer within {timeout:g} s")


async def _receive_exactly(stream: trio.SocketStream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = await stream.receive_some(size - len(received))
        if not data:
            raise RemoteProtocolError("closed the connection instead of answering")
        received += data
    return bytes(received)
