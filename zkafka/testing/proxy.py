"""Who can reach whom: TCP proxies that reset, fall silent and heal, for each pair of parties.

The parties are broker ids, `"zookeeper"` and `"clients"`. Every address a cluster tells anybody is
the address of a `Proxy`, which stands before one party and forwards to where that party really
listens:

    broker 1 --(from 127.0.0.11)--> proxy of broker 2 --> broker 2
    a client --(from 127.0.0.1)---> proxy of broker 2 --> broker 2
    broker 1 ---------------------> proxy of broker 1 to ZooKeeper --> ZooKeeper

Brokers learn each other's advertised addresses from ZooKeeper, so all of them and the clients meet
at the same proxy; who connects is told by the source address. Each broker makes its outgoing
connections from a loopback address of its own (`zkafka.bind.address`; the whole of 127.0.0.0/8 is
local on Linux). ZooKeeper's address is private to each broker, hence a proxy per broker is enough
there, whatever the source address.

What a fault looks like from the ends:

- `cut`: connections are reset at once, new ones right after they are accepted.
- `black_hole`: nothing arrives any more and nobody is told. Bytes on their way are kept, as TCP
  would go on sending them, and arrive when the hole is healed. One difference from a lost network:
  a new connection is established by the kernel (on loopback we cannot stop it) and then silent.
- `heal`: both again as if nothing had been, except that reset connections stay reset.

A proxy can also *refuse*, whoever connects: connections are reset, and new ones get what a port
has to say on which nobody listens. That is how a broker looks whose process is dead, or that is
behind a firewall which rejects; the port stays the proxy's own.
"""

import enum
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import attrs
import trio

Party: TypeAlias = int | Literal["zookeeper", "clients"]
Address: TypeAlias = tuple[str, int]

_CHUNK = 64 * 1024
_LOOK_SECONDS = 0.02
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Condition(enum.Enum):
    """What two parties can do with each other."""

    OPEN = "open"
    CUT = "cut"
    SILENT = "silent"


@attrs.define(eq=False)
class Link:
    """The network between two parties, in both directions."""

    condition: Condition = Condition.OPEN
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _connections: set[trio.CancelScope] = attrs.field(factory=set)

    @property
    def connection_count(self) -> int:
        """Connections open between the two."""
        return len(self._connections)

    def set(self, condition: Condition) -> None:
        """Change the weather; a cut resets what is open."""
        self.condition = condition
        if condition is Condition.CUT:
            for scope in self._connections:
                scope.cancel()
        self._changed.set()
        self._changed = trio.Event()

    @contextmanager
    def connection(self) -> Iterator[trio.CancelScope]:
        """The life of one connection; its scope is cancelled by a cut."""
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            if self.condition is Condition.CUT:
                scope.cancel()
            try:
                yield scope
            finally:
                self._connections.discard(scope)

    async def wait_passing(self) -> None:
        """Wait while the link is silent."""
        while self.condition is Condition.SILENT:
            await self._changed.wait()


@attrs.define(eq=False)
class Network:
    """The links between all parties of one cluster."""

    _links: dict[frozenset[Party], Link] = attrs.field(factory=dict)

    def link(self, a: Party, b: Party) -> Link:
        """The link between two parties; open until told otherwise."""
        return self._links.setdefault(frozenset((a, b)), Link())

    def cut(self, a: Party, b: Party) -> None:
        """Reset every connection between `a` and `b`, and every new one."""
        self.link(a, b).set(Condition.CUT)

    def black_hole(self, a: Party, b: Party) -> None:
        """Let nothing pass between `a` and `b`, and tell neither."""
        self.link(a, b).set(Condition.SILENT)

    def heal(self, a: Party | None = None, b: Party | None = None) -> None:
        """Open the link between two parties, all links of one, or all there are."""
        wanted = {party for party in (a, b) if party is not None}
        for pair, link in self._links.items():
            if wanted <= pair and link.condition is not Condition.OPEN:
                link.set(Condition.OPEN)

    def broken(self) -> dict[frozenset[Party], Condition]:
        """The links that are not open."""
        return {
            pair: link.condition
            for pair, link in self._links.items()
            if link.condition is not Condition.OPEN
        }


@attrs.define(eq=False)
class Proxy:
    """A listening port that stands before one party.

    The port is kept until `close`, so that an advertised address survives the party's restarts.
    """

    network: Network
    party: Party
    target: Address
    source_of: Callable[[str], Party]
    """Which party connects, by its IP address."""
    _place: socket.socket
    """Bound to the port and never listening: what keeps the port while nobody does."""
    _listening: trio.CancelScope | None = None
    _wanted: trio.Event = attrs.field(factory=trio.Event)
    """Set while connections are to be accepted."""
    _connections: set[trio.CancelScope] = attrs.field(factory=set)

    @classmethod
    async def open(
        cls, network: Network, party: Party, target: Address, source_of: Callable[[str], Party]
    ) -> "Proxy":
        """Bind a free loopback port; `run` begins to accept."""
        place = socket.socket()
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))
        proxy = cls(network, party, target, source_of, place)
        proxy.accept()
        return proxy

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        port: int = self._place.getsockname()[1]
        return port

    @property
    def address(self) -> str:
        """`host:port` to connect to."""
        return f"127.0.0.1:{self.port}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and forward until cancelled; then the port is closed."""
        with self._place:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._wanted.wait()
                    listeners = await trio.open_tcp_listeners(
                        self.port, host="127.0.0.1", backlog=512
                    )
                    with trio.CancelScope() as self._listening:
                        task_status.started()
                        task_status = trio.TASK_STATUS_IGNORED
                        await trio.serve_listeners(self._serve, listeners, handler_nursery=nursery)

    def accept(self) -> None:
        """Accept connections (again)."""
        self._wanted.set()

    def refuse(self) -> None:
        """Reset every connection, and have new ones refused, until `accept`."""
        if self._wanted.is_set():
            self._wanted = trio.Event()
        for scope in (self._listening, *self._connections):
            if scope is not None:
                scope.cancel()

    async def accept_with_target(self) -> None:
        """Accept again as soon as somebody listens at the target."""
        while True:
            try:
                stream = await trio.open_tcp_stream(*self.target)
            except OSError:
                await trio.sleep(_LOOK_SECONDS)
            else:
                await stream.aclose()
                return self.accept()

    async def _serve(self, near: trio.SocketStream) -> None:
        """One connection, from accept until both directions have ended or it is cut."""
        try:
            peer_host = near.socket.getpeername()[0]
        except OSError:
            return  # reset before we looked; trio closes it
        link = self.network.link(self.source_of(peer_host), self.party)
        ended_well = False
        with link.connection() as scope, self._of_ours(scope):
            try:
                await link.wait_passing()
                far = await trio.open_tcp_stream(*self.target)
            except OSError:
                _reset([near])  # nobody listens there now: say so as its kernel would
                return
            except trio.Cancelled:
                _reset([near])
                raise
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far, link, nursery.cancel_scope)
                    nursery.start_soon(self._pump, far, near, link, nursery.cancel_scope)
                ended_well = not nursery.cancel_scope.cancel_called
            finally:
                if not ended_well:
                    _reset([near, far])
                far.socket.close()

    @contextmanager
    def _of_ours(self, scope: trio.CancelScope) -> Iterator[None]:
        """While this lasts, `refuse` cancels the scope."""
        self._connections.add(scope)
        try:
            yield
        finally:
            self._connections.discard(scope)

    async def _pump(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        link: Link,
        both: trio.CancelScope,
    ) -> None:
        """Forward one direction up to its end of stream; a reset ends both directions."""
        try:
            while data := await source.receive_some(_CHUNK):
                await link.wait_passing()
                await sink.send_all(data)
            await link.wait_passing()
            await sink.send_eof()
        except trio.BrokenResourceError:
            await link.wait_passing()
            both.cancel()


def _reset(streams: Iterable[trio.SocketStream]) -> None:
    """Close so that the other end gets a reset, not an orderly end of stream."""
    for stream in streams:
        try:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:
            pass  # its end has closed it already
        stream.socket.close()
