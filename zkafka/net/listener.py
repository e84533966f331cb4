"""One endpoint of the broker: bound, then served; each connection a task that owns it.

`bind` takes the address and lets the kernel queue connections, so that a broker can register
knowing that it can be reached; `serve` accepts them. `stop` accepts no more, lets the requests that
were begun be answered, and closes.

Limits: max.connections over all listeners (at the limit none is accepted until one closes),
max.connections.per.ip with its overrides (above it a connection is closed at once),
connections.max.idle.ms. When file descriptors run out the listener pauses, says so once, and goes
on when there are some again; connections leave a reserve of them to the rest of the broker, since
a log that cannot roll takes its directory offline. One task sweeps over all connections each
second; there are no timers per connection or request.

Where we differ from Kafka: with several listeners, at max.connections, Kafka lets the inter-broker
listener in by closing the longest idle connection of another; we let it in without closing one. The
time a client may take nothing of its answer (30 s) is ours; Kafka leaves it to the idle limit. So
is the reserve of file descriptors; Kafka accepts to the last one.

Source: KIP-402 (connection limits); `SocketServer` of Apache Kafka 3.9.
"""

import errno
import itertools
import logging
import os
import resource
import socket
from collections.abc import Iterator, Mapping

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errands import Errands
from zkafka.errors import StartupError
from zkafka.model import Endpoint
from zkafka.net.conversation import Conversation, MemoryWait, Traffic
from zkafka.net.poller import Poller
from zkafka.net.transport import RunInThread, SocketTransport, StreamTransport, Transport
from zkafka.protocol.connection import Budget, ConnectionInfo, Dispatcher

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
SEND_STALL_SECONDS = 30.0
"""A client that takes no byte of its answer for so long is dropped. Ours: as long as a client's own
request.timeout.ms by default, so whoever is dropped has given up on the answer."""
FRAME_STALL_MS = 30_000
"""While memory is scarce: a frame that has been coming in for so long gives way. Ours."""
PAUSE_SECONDS = 0.1
"""Between tries to accept while there are no file descriptors."""

FD_RESERVE_MAX = 1024
"""Descriptors that connections leave alone, or a quarter of all where that is less: for segments (a
roll takes three), checkpoints, ZooKeeper and the other brokers."""
FD_LIMIT_MAX = 1 << 20
"""More than that is asked from nobody, and costs whoever closes all that a child might inherit."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# The connection that waited was gone, or a firewall was against it (accept(2)); the next may do.
_LOST_IN_QUEUE = {
    errno.ECONNABORTED,
    errno.EPERM,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENONET,
}
_IPV4_IN_IPV6 = "::ffff:"


@attrs.frozen(kw_only=True)
class Limits:
    """What a listener takes from the configuration; -1 for a socket buffer leaves it alone."""

    request_max_bytes: int = 100 << 20
    requests_max: int = 500
    """Produces of one connection that may wait for their replicas."""
    request_bytes_max: int = 100 << 20
    send_buffer_bytes: int = -1
    receive_buffer_bytes: int = -1
    backlog: int = 50
    idle_max_ms: int | None = 600_000

    @classmethod
    def of(cls, config: BrokerConfig) -> "Limits":
        """The limits that `config` sets."""
        queued = config.queued_max_request_bytes
        return cls(
            request_max_bytes=config.socket_request_max_bytes,
            requests_max=config.queued_max_requests,
            request_bytes_max=queued if queued > 0 else config.socket_request_max_bytes,
            send_buffer_bytes=config.socket_send_buffer_bytes,
            receive_buffer_bytes=config.socket_receive_buffer_bytes,
            backlog=config.socket_listen_backlog_size,
            idle_max_ms=config.connections_max_idle_ms,
        )


class Admission:
    """How many connections the broker has, in all and by address; shared by its listeners.

    It also numbers them: `ConnectionInfo.connection_id` is unique within the broker.
    """

    def __init__(
        self,
        *,
        connections_max: int = 2**31 - 1,
        per_ip_max: int = 2**31 - 1,
        per_ip_overrides: Mapping[str, int] | None = None,
    ) -> None:
        self._connections_max = connections_max
        self._per_ip_max = per_ip_max
        self._per_ip_overrides = dict(per_ip_overrides or {})
        self._by_ip: dict[str, int] = {}
        self._freed = trio.lowlevel.ParkingLot()
        self._ids = itertools.count(1)
        self.open = 0

    @classmethod
    def of(cls, config: BrokerConfig) -> "Admission":
        """The limits that `config` sets."""
        return cls(
            connections_max=config.max_connections,
            per_ip_max=config.max_connections_per_ip,
            per_ip_overrides=config.max_connections_per_ip_overrides,
        )

    @property
    def full(self) -> bool:
        """Whether max.connections is reached."""
        return self.open >= self._connections_max

    async def wait_for_room(self) -> None:
        """Until the broker has fewer connections than it may."""
        while self.full:
            await self._freed.park()

    def try_enter(self, host: str) -> int | None:
        """Count a connection from `host` and give its id; None if it has too many."""
        count = self._by_ip.get(host, 0)
        if count >= self._per_ip_overrides.get(host, self._per_ip_max):
            return None
        self._by_ip[host] = count + 1
        self.open += 1
        return next(self._ids)

    def leave(self, host: str) -> None:
        """One that `try_enter` counted is closed."""
        count = self._by_ip[host] - 1
        if count:
            self._by_ip[host] = count
        else:
            del self._by_ip[host]
        self.open -= 1
        self._freed.unpark()


@attrs.frozen(kw_only=True)
class ListenerStatistics:
    """`open` connections now; the others count since the start."""

    listener: str
    open: int
    accepted: int
    refused: int
    """Closed at once, for max.connections.per.ip."""
    dropped: int
    """Closed by the sweep: idle, not reading, or in the way."""
    requests: int
    answers: int
    bytes_in: int


class Listener:
    """See the head of this file. `endpoint.host` may be empty for every interface, `port` 0 for
    any free one.

    Ownership: whoever called `bind` sees to it that `serve` runs or `aclose` is called.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        dispatcher: Dispatcher,
        *,
        limits: Limits,
        budget: Budget,
        admission: Admission,
        clock: Clock,
        run_in_thread: RunInThread,
        errands: Errands,
        exempt: bool = False,
    ) -> None:
        """`exempt`: max.connections does not hold this listener up (the inter-broker one, where
        there are others)."""
        self.endpoint = endpoint
        self._dispatcher = dispatcher
        self._limits = limits
        self._memory = MemoryWait(budget)
        self._poller = Poller(errands)
        self._admission = admission
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._exempt = exempt
        self._socket: socket.socket | None = None
        self._accepting: trio.CancelScope | None = None
        self._stopping = False
        self._conversations: dict[int, Conversation] = {}
        self._closed = trio.lowlevel.ParkingLot()
        self._traffic = Traffic()
        self._accepted = 0
        self._refused = 0
        self._dropped = 0

    @property
    def port(self) -> int:
        """The port bound, also where the endpoint asked for any."""
        assert self._socket is not None, "not bound"
        port: int = self._socket.getsockname()[1]
        return port

    def bind(self) -> None:
        """Take the address. Connections may come from here on; `serve` accepts them.

        Errors: StartupError naming the address.
        """
        assert self._socket is None, "bound already"
        try:
            self._socket = self._bound_socket()
        except OSError as error:
            raise StartupError(
                f"listeners={self.endpoint} cannot be bound: {error.strerror}"
            ) from error

    def _bound_socket(self) -> socket.socket:
        if self.endpoint.host:
            found = socket.getaddrinfo(
                self.endpoint.host, self.endpoint.port, type=socket.SOCK_STREAM
            )
            # As Java does by default: of a name's addresses the first of IPv4.
            found.sort(key=lambda entry: entry[0] != socket.AF_INET)
            return self._listening(found[0][0], found[0][4])
        try:
            return self._listening(socket.AF_INET6, ("::", self.endpoint.port))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return self._listening(socket.AF_INET, ("0.0.0.0", self.endpoint.port))

    def _listening(self, family: int, address: object) -> socket.socket:
        """Options set here are inherited by the connections accepted."""
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bool(self.endpoint.host))
            for option, size in (
                (socket.SO_SNDBUF, self._limits.send_buffer_bytes),
                (socket.SO_RCVBUF, self._limits.receive_buffer_bytes),
            ):
                if size > 0:
                    sock.setsockopt(socket.SOL_SOCKET, option, size)
            sock.bind(address)  # type: ignore[arg-type]
            sock.listen(self._limits.backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections and converse, until `stop` or a cancellation; it frees the address.

        Errors: what the dispatcher lets escape.
        """
        assert self._socket is not None, "not bound"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._poller.run)
                with trio.CancelScope() as self._accepting:
                    if self._stopping:
                        self._accepting.cancel()
                    task_status.started()
                    await self._accept(self._socket, nursery)
                self._close_socket()
                while self._conversations:
                    await self._closed.park()
                nursery.cancel_scope.cancel()
        finally:
            self._close_socket()
            self._poller.close()

    def stop(self) -> None:
        """Accept no more, and let each connection end when the requests it began are answered;
        `serve` returns after the last. To bound that time, cancel `serve`."""
        self._stopping = True
        if self._accepting is not None:
            self._accepting.cancel()
        for conversation in list(self._conversations.values()):
            conversation.stop()

    async def aclose(self) -> None:
        """Free the address of a listener that was bound and never served."""
        self._close_socket()
        self._poller.close()

    def _close_socket(self) -> None:
        if self._socket is not None and self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def serve_stream(self, stream: trio.abc.Stream, host: str, port: int = 0) -> None:
        """Converse over a stream that did not come from our socket: a simulated network's. Returns
        when the connection is closed."""
        connection_id = self._admission.try_enter(host)
        if connection_id is None:
            self._refused += 1
            await trio.aclose_forcefully(stream)
            return
        await self._converse(StreamTransport(stream), connection_id, host, port)

    async def _accept(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        paused = held = False

        async def pause(why: str) -> None:
            nonlocal paused
            if not paused:
                paused = True
                logger.warning(
                    "cannot accept, trying again until it works listener=%s error=%s",
                    self.endpoint.listener,
                    why,
                )
            await trio.sleep(PAUSE_SECONDS)

        while True:
            if not self._exempt and self._admission.full:
                if not held:
                    logger.warning(
                        "max.connections reached, accepting one when one closes listener=%s",
                        self.endpoint.listener,
                    )
                held = True
                await self._admission.wait_for_room()
            # The kernel gives the lowest number that is free, so a high one tells of many in use.
            if _lowest_free_fd(listening) >= (end := _connections_end()):
                await pause(f"no file descriptor below {end} is free, the rest is for logs")
                continue
            try:
                sock, address = listening.accept()
            except BlockingIOError:
                held = False
                if paused:
                    # Not at the first that succeeds: at the edge they come and go one by one.
                    paused = False
                    logger.warning(
                        "accepting again, nobody waits listener=%s", self.endpoint.listener
                    )
                await trio.lowlevel.wait_readable(listening)
                continue
            except OSError as error:
                if error.errno in _LOST_IN_QUEUE:
                    continue
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                await pause(error.strerror or str(error))
                continue
            self._admit(sock, address, nursery)

    def _admit(self, sock: socket.socket, address: tuple[str, int], nursery: trio.Nursery) -> None:
        host, port = address[0].removeprefix(_IPV4_IN_IPV6), address[1]
        connection_id = self._admission.try_enter(host)
        if connection_id is None:
            self._refused += 1
            logger.info("refusing connection peer=%s:%d: max.connections.per.ip", host, port)
            sock.close()
            return
        self._accepted += 1
        transport = SocketTransport(sock, self._run_in_thread, self._poller)
        nursery.start_soon(self._converse, transport, connection_id, host, port)

    async def _converse(
        self, transport: Transport, connection_id: int, host: str, port: int
    ) -> None:
        conversation = Conversation(
            transport,
            self._dispatcher,
            ConnectionInfo(connection_id, host, port, self.endpoint.listener),
            memory=self._memory,
            clock=self._clock,
            traffic=self._traffic,
            request_max_bytes=self._limits.request_max_bytes,
            requests_max=self._limits.requests_max,
            request_bytes_max=self._limits.request_bytes_max,
        )
        self._conversations[connection_id] = conversation
        if self._stopping:
            conversation.stop()
        try:
            await conversation.run()
        finally:
            del self._conversations[connection_id]
            self._admission.leave(host)
            self._closed.unpark_all()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_SECONDS)
            now, now_ms = trio.current_time(), self._clock.monotonic_ms()
            for conversation, reason in list(self._in_the_way(now, now_ms)):
                self._dropped += 1
                conversation.drop(reason)

    def _in_the_way(self, now: float, now_ms: int) -> Iterator[tuple[Conversation, str]]:
        idle_max_ms = self._limits.idle_max_ms
        scarce = self._memory.budget.waiting > 0
        for conversation in self._conversations.values():
            blocked = conversation.blocked_since
            if blocked is not None:
                if now - blocked >= SEND_STALL_SECONDS:
                    yield conversation, "it does not read its answer"
                continue
            idle = conversation.idle_since_ms
            if idle_max_ms is not None and idle is not None and now_ms - idle >= idle_max_ms:
                yield conversation, "idle for connections.max.idle.ms"
                continue
            frame = conversation.frame_since_ms
            if scarce and frame is not None and now_ms - frame >= FRAME_STALL_MS:
                yield conversation, "its request comes in too slowly while memory is scarce"

    def statistics(self) -> ListenerStatistics:
        """How many connections there are and were, and what they brought."""
        return ListenerStatistics(
            listener=self.endpoint.listener,
            open=len(self._conversations),
            accepted=self._accepted,
            refused=self._refused,
            dropped=self._dropped,
            requests=self._traffic.requests,
            answers=self._traffic.answers,
            bytes_in=self._traffic.bytes_in,
        )


def _fd_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FD_LIMIT_MAX if soft == resource.RLIM_INFINITY else soft


def _connections_end() -> int:
    """The lowest descriptor that is of the reserve."""
    limit = _fd_limit()
    return limit - min(FD_RESERVE_MAX, limit // 4)


def _lowest_free_fd(listening: socket.socket) -> int:
    """The descriptor that the next connection would get, or one beyond all if there is none."""
    try:
        fd = os.dup(listening.fileno())
    except OSError as error:
        if error.errno not in _OUT_OF_RESOURCES:
            raise
        return _fd_limit()
    os.close(fd)
    return fd


def raise_fd_limit() -> int:
    """Let this process open as many files as it may ever; the number it is now.

    A broker needs one for each connection and three for each open segment, far beyond the usual
    soft limit of 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FD_LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, FD_LIMIT_MAX)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    logger.info("raised the limit of open files from=%d to=%d", soft, wanted)
    return wanted
