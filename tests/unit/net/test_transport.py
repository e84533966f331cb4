"""Bytes and log slices over real sockets on loopback, and over memory streams."""

import errno
import math
import os
import random
import socket

import pytest
import trio
import trio.testing
from net_world import Slice, receive_exactly

from zkafka.errors import StorageError
from zkafka.net import transport as transport_module
from zkafka.net.transport import (
    INLINE_MAX,
    PIECE,
    PROBE_STEP,
    ConnectionLost,
    SocketTransport,
    StreamTransport,
)

settle = trio.testing.wait_all_tasks_blocked


class Link:
    """A transport and the socket at its other end; counts what went to a worker thread."""

    def __init__(self, *, buffer=None):
        with socket.create_server(("127.0.0.1", 0)) as server:
            far = socket.socket()
            if buffer:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            far.connect(server.getsockname())
            near, _ = server.accept()
        if buffer:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        far.setblocking(False)
        self.near = near
        self.far = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        self.threaded = []
        self.transport = SocketTransport(near, self._run)

    async def _run(self, fn, *args):
        self.threaded.append(args)
        return await trio.to_thread.run_sync(fn, *args)

    async def exchange(self, parts):
        """What arrives at the other end."""
        size = sum(p.size if isinstance(p, Slice) else len(p) for p in parts)
        received = []

        async def receive():
            received.append(await receive_exactly(self.far, size))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await self.transport.send(parts)
        return received[0]


@pytest.fixture
async def link():
    made = Link()
    yield made
    await made.transport.aclose()
    await made.far.aclose()


@pytest.fixture
async def small_link():
    """With socket buffers that little fits into."""
    made = Link(buffer=8192)
    yield made
    await made.transport.aclose()
    await made.far.aclose()


@pytest.fixture
def file(tmp_path):
    """Three MiB and a bit of a log."""
    path = tmp_path / "00.log"
    path.write_bytes(random.Random(1).randbytes(3 * PIECE + 12_345))
    return path


def whole(parts, file):
    data = file.read_bytes()
    return b"".join(
        data[p.position : p.position + p.size] if isinstance(p, Slice) else bytes(p) for p in parts
    )


# --- Receiving ----------------------------------------------------------------------------------


async def test_receiving_does_not_wait_until_asked_to(link):
    room = memoryview(bytearray(100))
    assert link.transport.receive_nowait(room) is None
    await link.far.send_all(b"hello")
    await link.transport.wait_readable()
    assert link.transport.receive_nowait(room) == 5
    assert bytes(room[:5]) == b"hello"
    await link.far.send_eof()
    await link.transport.wait_readable()
    assert link.transport.receive_nowait(room) == 0


async def test_a_reset_is_a_lost_connection(link):
    link.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    await link.far.aclose()
    await link.transport.wait_readable()
    with pytest.raises(ConnectionLost):
        link.transport.receive_nowait(memoryview(bytearray(10)))


async def test_closing_wakes_whoever_waits(link):
    async def wait():
        with pytest.raises(ConnectionLost):
            await link.transport.wait_readable()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await settle()
        await link.transport.aclose()
    await link.transport.aclose()


# --- Sending bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [b"one"],
        [b"one", b"two", memoryview(b"three")],
        [b""],
        [b"", b"x"],
        [bytearray(b"mutable")],
        [b"x" * 5_000_000],
        [b"y" * 100_000] * 30,
        [b"z"] * 3000,
    ],
    ids=["one", "several", "nothing", "empty and not", "bytearray", "large", "thirty", "many"],
)
async def test_parts_of_bytes_arrive_in_order(link, parts):
    assert await link.exchange(parts) == b"".join(parts)


async def test_a_small_socket_buffer_only_takes_longer(small_link):
    parts = [b"a" * 50_000, b"b" * 300_000, b"c"]
    assert await small_link.exchange(parts) == b"".join(parts)


async def test_sending_to_one_who_does_not_read_is_noticed_in_blocked_since(link, mock_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.transport.send, [bytes(50_000_000)])
        while link.transport.blocked_since is None:  # the kernel takes what it likes first
            await trio.lowlevel.checkpoint()
        since = link.transport.blocked_since
        mock_clock.jump(10)
        assert link.transport.blocked_since == since
        nursery.cancel_scope.cancel()
    assert link.transport.blocked_since is None


async def test_sending_to_one_who_went_away(link):
    await link.far.aclose()

    async def send_on():
        for _ in range(100):
            await link.transport.send([bytes(100_000)])

    with pytest.raises(ConnectionLost):
        await send_on()


# --- Sending slices -----------------------------------------------------------------------------


SIZES = [1, 1000, INLINE_MAX, INLINE_MAX + 1, PIECE, PIECE + 1, 3 * PIECE + 5]


@pytest.mark.parametrize("size", SIZES)
async def test_slices_arrive_between_bytes_from_the_page_cache(link, file, size):
    parts = [b"header", Slice(file, 7, size), b"between", Slice(file, 100, size), b"trailer"]
    assert await link.exchange(parts) == whole(parts, file)
    assert [p.readers for p in parts if isinstance(p, Slice)] == [0, 0]
    assert link.threaded == []


async def test_many_small_slices(link, file):
    parts = []
    for index in range(200):
        parts += [b"partition %d" % index, Slice(file, index * 11, 3000)]
    assert await link.exchange(parts) == whole(parts, file)


@pytest.mark.parametrize("size", SIZES)
async def test_cold_slices_are_read_in_a_thread_a_piece_at_a_time(link, file, size, monkeypatch):
    monkeypatch.setattr(transport_module, "_read_nowait", lambda *_: -1)
    parts = [b"header", Slice(file, 7, size), b"trailer"]
    assert await link.exchange(parts) == whole(parts, file)
    assert len(link.threaded) == -(-size // PIECE)
    assert max(args[1] for args in link.threaded) <= PIECE


async def test_a_slice_that_turns_cold_in_the_middle(link, file, monkeypatch):
    real = transport_module._read_nowait
    cold = range(PIECE, 2 * PIECE)
    monkeypatch.setattr(
        transport_module, "_read_nowait", lambda fd, b, at: -1 if at in cold else real(fd, b, at)
    )
    parts = [Slice(file, 0, 3 * PIECE)]
    assert await link.exchange(parts) == whole(parts, file)
    assert [args[1:] for args in link.threaded] == [(PIECE, PIECE)]


@pytest.mark.parametrize(("holds", "again"), [(math.inf, False), (-1, True)])
async def test_memory_is_probed_again_after_the_socket_was_full_for_long(
    small_link, file, monkeypatch, holds, again
):
    probed = []
    monkeypatch.setattr(transport_module, "PROBE_HOLDS_SECONDS", holds)
    monkeypatch.setattr(
        transport_module, "_in_page_cache", lambda fd, at, size: not probed.append((at, size))
    )
    parts = [Slice(file, 0, PIECE)]
    assert await small_link.exchange(parts) == whole(parts, file)
    assert (len(probed) > 1) is again
    assert {at + size for at, size in probed} == {PIECE}


def test_the_probe_sees_missing_pages(monkeypatch):
    asked, missing = [], set()

    def read_nowait(fd, buffer, at):
        asked.append(at)
        return -1 if at in missing else 1

    monkeypatch.setattr(transport_module, "_read_nowait", read_nowait)
    assert transport_module._in_page_cache(0, 100, 3 * PROBE_STEP)
    assert asked == [100, 100 + PROBE_STEP, 100 + 2 * PROBE_STEP, 99 + 3 * PROBE_STEP]
    for at in asked[:4]:
        missing = {at}
        assert not transport_module._in_page_cache(0, 100, 3 * PROBE_STEP)


def test_what_was_written_just_now_is_in_the_page_cache(file):
    with open(file, "rb") as opened:
        assert transport_module._in_page_cache(opened.fileno(), 0, 2 * PIECE)


def test_bytes_beyond_the_file_are_not_in_the_page_cache(file):
    with open(file, "rb") as opened:
        assert not transport_module._in_page_cache(opened.fileno(), 3 * PIECE, 2 * PIECE)


@pytest.mark.parametrize("size", [1000, 2 * PIECE])
async def test_a_slice_truncated_before_it_is_sent(link, file, size):
    piece = Slice(file, 0, size)
    piece.intact = False
    with pytest.raises(ConnectionLost):
        await link.transport.send([b"header", piece])
    assert piece.readers == 0


@pytest.mark.parametrize("size", [1000, 2 * PIECE])
@pytest.mark.parametrize("cold", [True, False])
async def test_a_file_shorter_than_its_slice(link, file, size, cold, monkeypatch):
    if cold:
        monkeypatch.setattr(transport_module, "_read_nowait", lambda *_: -1)
    else:
        monkeypatch.setattr(transport_module, "_in_page_cache", lambda *_: True)
    piece = Slice(file, 0, size)
    os.truncate(file, 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, link.far)
        with pytest.raises(ConnectionLost):
            await link.transport.send([piece])
        nursery.cancel_scope.cancel()
    assert piece.readers == 0


async def drain(stream):
    while await stream.receive_some():
        pass


async def test_a_slice_truncated_while_it_is_sent(small_link, file):
    """The check after each piece catches it, before the next one is sent."""
    link = small_link
    piece = Slice(file, 0, 3 * PIECE)
    received = 0

    async def receive():
        nonlocal received
        while data := await link.far.receive_some(100_000):
            received += len(data)
            if received > PIECE // 2:
                piece.intact = False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        with pytest.raises(ConnectionLost, match="truncated"):
            await link.transport.send([piece])
        await link.transport.aclose()
    assert received < 3 * PIECE
    assert piece.readers == 0


async def test_slices_are_released_when_sending_is_cancelled(link, file):
    slices = [Slice(file) for _ in range(5)]
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.transport.send, [b"header", *slices])
            while link.transport.blocked_since is None:
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert [s.readers for s in slices] == [0] * 5


async def test_slices_are_released_when_the_other_side_went_away(link, file):
    await link.far.aclose()
    slices = [Slice(file) for _ in range(3)]
    with pytest.raises(ConnectionLost):
        await link.transport.send(slices)
    assert [s.readers for s in slices] == [0] * 3


class Broken(Slice):
    """On a disk that failed."""

    def fileno(self):
        raise StorageError("no such file", "/data")

    read = fileno


async def test_a_failing_disk_ends_the_connection(link, file):
    piece = Broken(file)
    with pytest.raises(ConnectionLost, match="reading the log"):
        await link.transport.send([piece])
    assert piece.readers == 0
    stream, _ = trio.testing.memory_stream_pair()
    again = Broken(file)
    with pytest.raises(ConnectionLost, match="reading the log"):
        await StreamTransport(stream).send([again])
    assert again.readers == 0


async def test_an_error_of_a_cold_read_ends_the_connection_and_is_told_to_the_log(
    link, file, monkeypatch
):
    monkeypatch.setattr(transport_module, "_read_nowait", lambda *_: -1)

    def failing(fd, size, position):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    piece = Slice(file)
    with pytest.raises(ConnectionLost, match="Input/output error"):
        await link.transport.send([piece])
    assert piece.failures == [errno.EIO]


@pytest.mark.parametrize(
    ("number", "told"), [(errno.EIO, [errno.EIO]), (errno.EPIPE, []), (errno.ECONNRESET, [])]
)
async def test_of_sendfiles_errors_the_log_is_told_its_own(link, file, monkeypatch, number, told):
    def failing(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(transport_module, "_in_page_cache", lambda *_: True)
    monkeypatch.setattr(os, "sendfile", failing)
    piece = Slice(file)
    with pytest.raises(ConnectionLost, match="sendfile"):
        await link.transport.send([piece])
    assert piece.failures == told


# --- Over any stream ----------------------------------------------------------------------------


async def test_a_stream_gives_what_it_received_piece_by_piece():
    near, far = trio.testing.memory_stream_pair()
    transport = StreamTransport(near)
    room = memoryview(bytearray(3))
    assert transport.receive_nowait(room) is None
    await far.send_all(b"hello")
    await transport.wait_readable()
    await transport.wait_readable()
    assert transport.receive_nowait(room) == 3
    assert bytes(room) == b"hel"
    assert transport.receive_nowait(room) == 2
    assert transport.receive_nowait(room) is None
    await far.send_eof()
    await transport.wait_readable()
    assert transport.receive_nowait(room) == 0


async def test_a_stream_sends_slices_as_bytes(file):
    near, far = trio.testing.memory_stream_pair()
    parts = [b"header", Slice(file, 5, 100), b"trailer"]
    await StreamTransport(near).send(parts)
    await near.send_eof()
    assert await receive_exactly(far, 113) == whole(parts, file)
    assert parts[1].readers == 0


async def test_a_stream_whose_other_side_went_away(file):
    near, far = trio.testing.memory_stream_pair()
    await far.aclose()
    transport = StreamTransport(near)
    piece = Slice(file)
    with pytest.raises(ConnectionLost):
        await transport.send([piece])
    assert piece.readers == 0
    await transport.aclose()
    with pytest.raises(ConnectionLost):
        await transport.wait_readable()


async def test_a_stream_does_not_send_a_slice_truncated_meanwhile(file):
    near, far = trio.testing.memory_stream_pair()
    piece = Slice(file, 0, 100)
    piece.intact = False
    with pytest.raises(ConnectionLost):
        await StreamTransport(near).send([piece])
    assert piece.readers == 0
    await near.send_eof()
    assert await far.receive_some() == b""
