"""A ZooKeeper of dictionaries, and sessions with it that a test can break.

It speaks the words of `zk/operations.py`, so that the real `Store` runs on it: versions, czxids,
ephemerals, sequential nodes, transactions, one-shot watches. `unit/zk/test_session_contract.py`
holds it to the promises of a real ZooKeeper, so what is tested over it is tested over something
true. No time passes in it; `now_ms` is the servers' clock.

What can go wrong, besides what a test writes behind a session's back (`put`, `apply`, `multi`):

- `suspend()`, `reconnect()`, `expire()`, `renew()`: what kazoo would report;
- `fail_next("request")`: the next write is not carried out, its caller sees `SessionSuspended`;
- `fail_next("reply")`: it is carried out, and its caller sees `SessionSuspended` all the same;
- `lose_reply_of_next_multi`: the same for a transaction, and the session stays suspended;
- `before`: a rival gets in, once, before the next write is carried out.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import attrs
import trio

from zkafka.errors import (
    CoordinationError,
    NodeExists,
    NoNode,
    SessionLost,
    SessionSuspended,
    StaleVersion,
)
from zkafka.zk.operations import (
    ANY_VERSION,
    Check,
    Create,
    Delete,
    Hint,
    HintKind,
    MultiFailed,
    NodeStat,
    NotEmpty,
    Operation,
    SessionState,
    Set,
    check_size,
)


@attrs.define
class Node:
    """One znode; `owner` is the session of an ephemeral one."""

    data: bytes
    czxid: int
    mzxid: int = 0
    ctime_ms: int = 0
    mtime_ms: int = 0
    version: int = 0
    cversion: int = 0
    owner: int = 0


def parent_of(path: str) -> str:
    """`/a` of `/a/b`."""
    return path.rpartition("/")[0] or "/"


class FakeZooKeeper:
    """The servers: a tree, who is connected, and who watches what."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms
        self.zxid = 0
        self.nodes: dict[str, Node] = {"/": Node(b"", 0)}
        self.sessions: dict[int, FakeSession] = {}
        self.session_ids = itertools.count(1001)
        # (path, whether its children) -> sessions to be told, once.
        self.watches: dict[tuple[str, bool], set[FakeSession]] = {}
        self.requests: Counter[str] = Counter()

    def session(self) -> "FakeSession":
        """Another client."""
        return FakeSession(self)

    def open_session(self, session: "FakeSession") -> int:
        """A new session id for a client."""
        session_id = next(self.session_ids)
        self.sessions[session_id] = session
        return session_id

    def end_session(self, session_id: int) -> None:
        """The session is over: its ephemerals go. Its client is not told here."""
        self.sessions.pop(session_id, None)
        for path in [p for p, node in self.nodes.items() if node.owner == session_id]:
            self.apply(Delete(path), 0)

    def children(self, path: str) -> list[str]:
        """Names of the node's children."""
        return sorted(p.rpartition("/")[2] for p in self.nodes if p != "/" and parent_of(p) == path)

    def stat(self, path: str) -> NodeStat:
        """The node's bookkeeping."""
        node = self.nodes[path]
        return NodeStat(
            czxid=node.czxid,
            mzxid=node.mzxid,
            ctime_ms=node.ctime_ms,
            mtime_ms=node.mtime_ms,
            version=node.version,
            cversion=node.cversion,
            ephemeral_owner=node.owner,
            data_length=len(node.data),
            children_count=len(self.children(path)),
        )

    def apply(self, operation: Operation, session_id: int):
        """Carry out one operation."""
        try:
            return self.multi([operation], session_id)[0]
        except MultiFailed as failure:
            raise failure.error from failure

    def multi(self, operations: Sequence[Operation], session_id: int):
        """All or nothing; watches fire after it is done."""
        before = {path: attrs.evolve(node) for path, node in self.nodes.items()}
        self.zxid += 1
        events: list[tuple[str, bool, HintKind]] = []
        outcomes = []
        for index, operation in enumerate(operations):
            try:
                outcomes.append(self._apply(operation, session_id, events))
            except CoordinationError as error:
                self.nodes = before
                raise MultiFailed(index, operation, error) from error
        for event in events:
            self.fire(*event)
        return outcomes

    def _apply(self, operation: Operation, session_id: int, events: list):
        path = operation.path
        match operation:
            case Create():
                return self._create(operation, session_id, events)
            case Check():
                self._expect(path, operation.version)
                return True
            case Set():
                node = self._expect(path, operation.version)
                node.data, node.version = operation.data, node.version + 1
                node.mzxid, node.mtime_ms = self.zxid, self.now_ms
                events.append((path, False, HintKind.DATA))
                return self.stat(path)
            case Delete():
                self._expect(path, operation.version)
                if self.children(path):
                    raise NotEmpty(f"{path} has children")
                del self.nodes[path]
                self.nodes[parent_of(path)].cversion += 1
                events.append((path, False, HintKind.DELETED))
                events.append((path, True, HintKind.DELETED))
                events.append((parent_of(path), True, HintKind.CHILDREN))
                return True

    def _create(self, operation: Create, session_id: int, events: list) -> str:
        path, parent = operation.path, parent_of(operation.path)
        if parent not in self.nodes:
            raise NoNode(f"no node {path}")
        above = self.nodes[parent]
        if operation.sequential:
            path = f"{path}{above.cversion:010d}"
        if path in self.nodes:
            raise NodeExists(f"{path} exists already")
        if above.owner:
            raise CoordinationError(f"{parent} is ephemeral and has no children")
        self.nodes[path] = Node(
            operation.data,
            czxid=self.zxid,
            mzxid=self.zxid,
            ctime_ms=self.now_ms,
            mtime_ms=self.now_ms,
            owner=session_id if operation.ephemeral else 0,
        )
        above.cversion += 1
        events.append((path, False, HintKind.CREATED))
        events.append((parent, True, HintKind.CHILDREN))
        return path

    def _expect(self, path: str, version: int) -> Node:
        node = self.nodes.get(path)
        if node is None:
            raise NoNode(f"no node {path}")
        if version not in (ANY_VERSION, node.version):
            raise StaleVersion(f"{path} has another version")
        return node

    def fire(self, path: str, children: bool, kind: HintKind) -> None:
        """Tell those who watch, once."""
        for session in self.watches.pop((path, children), set()):
            session.publish(Hint(kind, path))

    def put(self, path: str, data: bytes) -> None:
        """Write as an operator would: the node and its parents."""
        parent = path.rpartition("/")[0]
        if parent and parent not in self.nodes:
            self.put(parent, b"")
        operation = Set(path, data) if path in self.nodes else Create(path, data)
        self.apply(operation, 0)


class FakeSession:
    """A client's session; connected from the start, until a test says otherwise."""

    timeout_ms = 6000

    def __init__(self, zookeeper: FakeZooKeeper) -> None:
        self.zookeeper = zookeeper
        self.session_id = zookeeper.open_session(self)
        self.state = SessionState.CONNECTED
        self.before: Callable[[Sequence[Operation]], None] | None = None
        self.lose_reply_of_next_multi = False
        self.writes: list[Sequence[Operation]] = []
        self.multis: list[Sequence[Operation]] = []
        self._failures: list[str | None] = []
        self._subscribers: list[trio.MemorySendChannel[Hint]] = []
        self._changed = trio.Event()

    @property
    def password(self) -> bytes:
        return self.session_id.to_bytes(16, "big")

    def subscribe(self):
        send, receive = trio.open_memory_channel(float("inf"))
        self._subscribers.append(send)
        return receive

    def publish(self, hint: Hint) -> None:
        for subscriber in self._subscribers:
            subscriber.send_nowait(hint)

    async def wait_connected(self) -> None:
        while self.state is not SessionState.CONNECTED:
            await self._changed.wait()

    def _become(self, state: SessionState, hint: Hint) -> None:
        self.state = state
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        self.publish(hint)

    # What a test does to it.

    def fail_next(self, *what: Literal["request", "reply", None]) -> None:
        """What happens to the next writes, in order; None lets one through."""
        self._failures.extend(what)

    def _forget_watches(self) -> None:
        for watchers in self.zookeeper.watches.values():
            watchers.discard(self)

    def suspend(self) -> None:
        """The connection is lost, and with it all watches."""
        self._forget_watches()
        self._become(SessionState.SUSPENDED, Hint(HintKind.SUSPENDED))

    def reconnect(self) -> None:
        """The same session goes on; if it has ended meanwhile, we hear that, and another opens."""
        if self.session_id not in self.zookeeper.sessions:
            if self.state is not SessionState.LOST:
                self._become(SessionState.LOST, Hint(HintKind.EXPIRED))
            self.session_id = self.zookeeper.open_session(self)
        self._become(SessionState.CONNECTED, Hint(HintKind.CONNECTED, session_id=self.session_id))

    def expire(self) -> None:
        """The session ends, with its ephemerals; `renew` opens another one."""
        self._forget_watches()
        self.zookeeper.end_session(self.session_id)
        self._become(SessionState.LOST, Hint(HintKind.EXPIRED))

    def renew(self) -> None:
        """Another session opens."""
        self.session_id = self.zookeeper.open_session(self)
        self.reconnect()

    # What the broker asks of it.

    async def _ask(self, name: str) -> None:
        self.zookeeper.requests[name] += 1
        await trio.lowlevel.checkpoint()
        if self.state is SessionState.SUSPENDED:
            raise SessionSuspended("suspended")
        if self.state is SessionState.LOST:
            raise SessionLost("lost")

    async def _write(self, name: str, operations: Sequence[Operation]):
        check_size(*operations)
        await self._ask(name)
        if self.before is not None:
            before, self.before = self.before, None
            before(operations)
            await self._ask(name)
        self.writes.append(operations)
        failure = self._failures.pop(0) if self._failures else None
        if failure == "request":
            raise SessionSuspended("connection lost, and nothing was done")
        outcomes = self.zookeeper.multi(operations, self.session_id)
        if failure == "reply":
            raise SessionSuspended("connection lost, and it was done")
        return outcomes

    async def _one(self, name: str, operation: Operation):
        try:
            return (await self._write(name, [operation]))[0]
        except MultiFailed as failure:
            raise failure.error from failure

    def _watch(self, path: str, children: bool, watch: bool) -> None:
        if watch:
            self.zookeeper.watches.setdefault((path, children), set()).add(self)

    async def get(self, path: str, *, watch: bool = False):
        await self._ask("get")
        if path not in self.zookeeper.nodes:
            raise NoNode(f"no node {path}")
        self._watch(path, False, watch)
        return self.zookeeper.nodes[path].data, self.zookeeper.stat(path)

    async def children(self, path: str, *, watch: bool = False):
        await self._ask("children")
        if path not in self.zookeeper.nodes:
            raise NoNode(f"no node {path}")
        self._watch(path, True, watch)
        return self.zookeeper.children(path)

    async def exists(self, path: str, *, watch: bool = False):
        await self._ask("exists")
        self._watch(path, False, watch)
        return self.zookeeper.stat(path) if path in self.zookeeper.nodes else None

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequential: bool = False
    ):
        return await self._one("create", Create(path, data, ephemeral, sequential))

    async def set(self, path: str, data: bytes, version: int = ANY_VERSION):
        return await self._one("set", Set(path, data, version))

    async def delete(self, path: str, version: int = ANY_VERSION) -> None:
        await self._one("delete", Delete(path, version))

    async def multi(self, operations: Sequence[Operation]):
        self.multis.append(operations)
        outcomes = await self._write("multi", operations)
        if self.lose_reply_of_next_multi:
            self.lose_reply_of_next_multi = False
            self.suspend()
            raise SessionSuspended("the reply was lost")
        return outcomes

    async def resume_and_close(self, session_id: int, password: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        known = session_id in self.zookeeper.sessions
        if not known or password != session_id.to_bytes(16, "big"):
            return False
        self.zookeeper.end_session(session_id)
        return True
