"""Bytes over a connection: from a real socket without a task switch while there is something to
do, or over any trio stream.

Both transports have the same seven calls. `receive_nowait` and `wait_readable` are apart, so that
a connection can give its buffer back before it sleeps, and `send_nowait` and `send`, so that an
answer that the socket has room for is one call and no more. `send` takes the parts of answers;
those that are large slices of a log go from the page cache to the socket inside the kernel.

Log slices: a slice is released when `send` is done with it, however it ends. Before and after each
piece the slice must be intact; where the log was truncated under it the bytes may be others, and
the connection is given up (`ConnectionLost`): there is no way to take back what was sent.

Errors of the file, unlike those of the socket, are told to the slice (`read_failed`): there is
nobody else to notice that the log's disk is failing, and its peers would only see a connection
that ends.

Cold reads: sendfile blocks the whole loop on a page that is not in memory, and it has no flag
against it. preadv has one (RWF_NOWAIT). Small slices are read with it and sent with the bytes
around them. Of large ones a byte in each 64 KiB is probed before sendfile. A slice that is not in
memory, or on a file system without the flag, is read in a worker thread, a piece at a time,
and sent from there. The probe can be wrong (a page between two probed ones, or dropped after it):
the loop then waits for the disk once. Reading everything to be sure would copy each byte twice.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeGuard

import trio

from zkafka.errors import StorageError
from zkafka.net.poller import Poller, Serve
from zkafka.protocol.codec import Part

RunInThread = Callable[..., Awaitable[Any]]
"""`Offload.run`: calls a blocking function in a worker thread."""

INLINE_MAX = 64 * 1024
"""Slices up to this size are read and joined with their neighbours: one system call for an answer
of many small partitions, where sendfile takes two for each."""
GATHER_MAX = 256 * 1024
PIECE = 1024 * 1024
"""Most bytes that one sendfile, or one cold read, takes. Others run in between."""
PROBE_STEP = 64 * 1024
PROBE_HOLDS_SECONDS = 1.0
"""How long what was in memory is taken to be there still, while the socket is full."""

_BYTES = (bytes, bytearray, memoryview)
_NOT_NOW = -1


class ConnectionLost(Exception):
    """The other side went away, or the connection cannot go on; nobody's fault."""


class Slice(Protocol):
    """What of `log.segment.LogSlice` a sender needs."""

    @property
    def size(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def intact(self) -> bool: ...
    def fileno(self) -> int: ...
    def read(self) -> bytes: ...
    def read_failed(self, error: OSError) -> None: ...
    def release(self) -> None: ...


class Transport(Protocol):
    """One connection's bytes. One task receives; one at a time sends."""

    @property
    def blocked_since(self) -> float | None:
        """When (trio's time) the send now waiting last made progress; None while none waits."""
        ...

    def receive_nowait(self, room: memoryview) -> int | None:
        """How many bytes were put into `room`; 0 at the end of the stream, None for none yet."""
        ...

    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` has something to say. A cancellation loses nothing."""
        ...

    async def wait_served(self, serve: Serve) -> None:
        """As `wait_readable`; a transport that can has `serve` called meanwhile, each time that
        there is something to receive, and goes on waiting until that answers True."""
        ...

    def send_nowait(self, parts: list[Part]) -> list[Part]:
        """What of the parts could not be sent without waiting; the slices of what was are
        released, and with ConnectionLost all."""
        ...

    async def send(self, parts: Sequence[Part]) -> None:
        """Send everything, and release the slices among `parts`, also when cancelled or failing;
        half an answer may be out by then, and the connection is of no use."""
        ...

    async def aclose(self) -> None:
        """Close at once, also when cancelled. Idempotent; a task that waits gets
        ConnectionLost."""
        ...


def is_slice(part: Part) -> TypeGuard[Slice]:
    """Whether a part of an answer is a log slice rather than bytes."""
    return not isinstance(part, _BYTES)


def release_slices(parts: Sequence[Part]) -> None:
    """Give up an answer that will not be sent."""
    for part in parts:
        if is_slice(part):
            part.release()


class SocketTransport:
    """A connected TCP socket, non-blocking. Owns the socket."""

    def __init__(
        self, sock: socket.socket, run_in_thread: RunInThread, poller: Poller | None = None
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._run_in_thread = run_in_thread
        self._poller = poller
        self.blocked_since: float | None = None

    def receive_nowait(self, room: memoryview) -> int | None:
        try:
            return self._sock.recv_into(room)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ConnectionLost(str(error)) from error

    def send_nowait(self, parts: list[Part]) -> list[Part]:
        data = parts[0] if len(parts) == 1 else _in_one_piece(parts)
        if type(data) is not bytes:
            return parts
        # From here on no slice is among what is to be sent: `_in_one_piece` has released them.
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        return [] if sent == len(data) else [memoryview(data)[sent:]]

    async def wait_readable(self) -> None:
        try:
            await trio.lowlevel.wait_readable(self._sock)
        except trio.ClosedResourceError as error:
            raise ConnectionLost("closed by us") from error

    async def wait_served(self, serve: Serve) -> None:
        if self._poller is None:
            await self.wait_readable()
            return
        try:
            await self._poller.wait(self._sock, serve)
        except trio.ClosedResourceError as error:
            raise ConnectionLost("closed by us") from error

    async def send(self, parts: Sequence[Part]) -> None:
        try:
            if len(parts) == 1 and isinstance(parts[0], bytes):
                await self._send_bytes(parts[0])
            else:
                await self._send_parts(parts)
        except trio.ClosedResourceError as error:
            raise ConnectionLost("closed by us") from error
        except StorageError as error:
            raise ConnectionLost(f"reading the log: {error}") from error
        finally:
            release_slices(parts)

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0:
            if self._poller is not None:
                self._poller.forget(self._sock)
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def _send_parts(self, parts: Sequence[Part]) -> None:
        gathered: list[bytes | memoryview] = []
        size = 0
        for part in parts:
            if not is_slice(part):
                gathered.append(part)
                size += len(part)
            elif part.size <= INLINE_MAX:
                gathered.append(await self._read(part, part.position, part.size))
                size += part.size
            else:
                if gathered:
                    await self._send_gathered(gathered, socket.MSG_MORE)
                    gathered, size = [], 0
                await self._send_slice(part)
            if size >= GATHER_MAX:
                await self._send_gathered(gathered, 0)
                gathered, size = [], 0
        if gathered:
            await self._send_gathered(gathered, 0)

    async def _send_gathered(self, gathered: list[bytes | memoryview], flags: int) -> None:
        if len(gathered) == 1:
            await self._send_bytes(gathered[0], flags)
            return
        sent = 0
        if len(gathered) <= 1024:  # IOV_MAX
            try:
                sent = self._sock.sendmsg(gathered, (), flags)
            except BlockingIOError:
                pass  # nothing sent: wait below
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            if sent == sum(map(len, gathered)):
                return
        # The socket's buffer is full, so there is time to copy what is left.
        await self._send_bytes(memoryview(b"".join(gathered))[sent:], flags)

    async def _send_bytes(self, data: bytes | bytearray | memoryview, flags: int = 0) -> None:
        while True:
            try:
                sent = self._sock.send(data, flags)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            if sent == len(data):
                return
            if sent:
                data = memoryview(data)[sent:]
                continue
            await self._wait_writable()

    async def _wait_writable(self) -> None:
        self.blocked_since = trio.current_time()
        try:
            await trio.lowlevel.wait_writable(self._sock)
        finally:
            self.blocked_since = None

    async def _send_slice(self, part: Slice) -> None:
        position, end = part.position, part.position + part.size
        while position < end:
            size = min(PIECE, end - position)
            _check_intact(part)
            if _in_page_cache(part.fileno(), position, size):
                position += await self._send_file(part, position, size)
            else:
                data = await self._read_cold(part, position, size)
                await self._send_bytes(data)
                position += size
            _check_intact(part)
            if position < end:
                await trio.lowlevel.checkpoint()

    async def _send_file(self, part: Slice, position: int, size: int) -> int:
        """The bytes, or some of them where the socket was full for so long that others may have
        taken their place in memory."""
        left = size
        while True:
            try:
                sent = os.sendfile(self._sock.fileno(), part.fileno(), position, left)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno == errno.EIO:  # The file's; a socket has no such error.
                    part.read_failed(error)
                raise ConnectionLost(f"sendfile: {error}") from error
            else:
                if sent == 0:
                    raise ConnectionLost("the log ends before its slice")
                position += sent
                left -= sent
            if not left:
                return size
            _check_intact(part)
            full_since = trio.current_time()
            await self._wait_writable()
            if trio.current_time() - full_since > PROBE_HOLDS_SECONDS:
                return size - left
            _check_intact(part)

    async def _read(self, part: Slice, position: int, size: int) -> bytes | memoryview:
        """The bytes of a small slice, without waiting if the page cache has them."""
        _check_intact(part)
        data = memoryview(bytearray(size))
        if _read_nowait(part.fileno(), data, position) != size:
            return await self._read_cold(part, position, size)
        _check_intact(part)
        return data

    async def _read_cold(self, part: Slice, position: int, size: int) -> bytes:
        try:
            data: bytes = await self._run_in_thread(os.pread, part.fileno(), size, position)
        except OSError as error:
            part.read_failed(error)
            raise ConnectionLost(f"reading the log: {error}") from error
        if len(data) != size:
            raise ConnectionLost("the log ends before its slice")
        _check_intact(part)
        return data


def _check_intact(part: Slice) -> None:
    if not part.intact:
        raise ConnectionLost("the log was truncated under a reader")


def _in_one_piece(parts: Sequence[Part]) -> bytes | None:
    """The bytes of all, the slices read and released; None if that would have to wait for the disk,
    or copy more than it saves."""
    if sum(part.size if is_slice(part) else len(part) for part in parts) > INLINE_MAX:
        return None
    pieces: list[bytes | bytearray | memoryview] = []
    for part in parts:
        if is_slice(part):
            data = bytearray(part.size)
            if _read_nowait(part.fileno(), data, part.position) != len(data) or not part.intact:
                return None
            pieces.append(data)
        else:
            pieces.append(part)
    release_slices(parts)
    return b"".join(pieces)


def _in_page_cache(fd: int, position: int, size: int) -> bool:
    """Whether each 64 KiB of the range has its first byte in memory, and the last byte is too."""
    byte = bytearray(1)
    last = position + size - 1
    return all(_read_nowait(fd, byte, at) == 1 for at in (*range(position, last, PROBE_STEP), last))


def _read_nowait(fd: int, into: bytearray | memoryview, position: int) -> int:
    """How many bytes the page cache gave; negative if none, or if it cannot be asked."""
    try:
        return os.preadv(fd, [into], position, os.RWF_NOWAIT)
    except OSError:  # EAGAIN: not in memory; EOPNOTSUPP: not on this file system
        return _NOT_NOW


class StreamTransport:
    """Any trio stream: memory streams in tests, the simulated network. Owns the stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._received: memoryview | None = None
        self.blocked_since: float | None = None

    def receive_nowait(self, room: memoryview) -> int | None:
        received = self._received
        if received is None:
            return None
        count = min(len(room), len(received))
        room[:count] = received[:count]
        if count:
            self._received = received[count:] if count < len(received) else None
        return count

    def send_nowait(self, parts: list[Part]) -> list[Part]:
        return parts

    async def wait_readable(self) -> None:
        if self._received is None:
            try:
                self._received = memoryview(await self._stream.receive_some())
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionLost(str(error)) from error

    async def wait_served(self, serve: Serve) -> None:
        await self.wait_readable()

    async def send(self, parts: Sequence[Part]) -> None:
        try:
            for part in parts:
                data = part.read() if is_slice(part) else part
                if is_slice(part):
                    _check_intact(part)
                self.blocked_since = trio.current_time()
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(str(error)) from error
        except StorageError as error:
            raise ConnectionLost(f"reading the log: {error}") from error
        finally:
            self.blocked_since = None
            release_slices(parts)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)
