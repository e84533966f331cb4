"""The bridge to ZooKeeper: kazoo's threads on one side, trio's loop on the other.

kazoo has a thread for the connection, one for watches, one for completions. They meet trio in
this module and nowhere else; nothing else imports kazoo.

Laws:

- What a kazoo thread hands over (`_soon`) cannot raise, since an exception inside
  `TrioToken.run_sync_soon` would end the process.
- A watch is a hint. kazoo delivers watches and results on different threads, so their order means
  nothing: on a hint, read again and set the watch again.
- A lost reply is not a failed write. `SessionSuspended` out of a write, and a cancellation while
  waiting for one, leave the outcome unknown: read back before deciding. A request refused because
  the session was suspended already was not sent; callers cannot tell and need not.
- Nothing is sent in another session than the loop knows of: between kazoo opening a new session
  and the loop hearing of it, requests are refused with `SessionLost`.

What the broker may rely on, as `state` says it:

| state     | since                                      | requests raise   | next              |
|-----------|--------------------------------------------|------------------|-------------------|
| CONNECTED | the session was opened, or resumed in time |                  | SUSPENDED, LOST   |
| SUSPENDED | the connection was lost                    | SessionSuspended | CONNECTED, LOST   |
| LOST      | the session is over; ephemerals are gone   | SessionLost      | CONNECTED (other) |

ZooKeeper tells that a session expired only when the client comes back, so SUSPENDED may last
long after the ephemerals went. The broker therefore decides nothing while SUSPENDED. After an
expiry kazoo opens a new session by itself: hints EXPIRED, then CONNECTED with its `session_id`.

The watchdog. kazoo's connection thread keeps a session alive on behalf of a loop that may stand
still (a disk that hangs, a debugger): a leader that answers nobody and that nobody replaces. So a
thread here looks whether the loop has turned within two thirds of the session timeout, and if not,
closes the session: the ephemerals go, others take over. When the loop wakes it finds `state` LOST
at once, before any hint is read, and a new session is opened. If the whole process stood still,
this thread did as well; then the loop finds its own pulse too old and draws the same conclusion.

Pipelining. Requests are written as they come, without waiting for earlier answers; answers come in
order. Kafka allows itself ten at a time, because its client blocks a thread for each; here one in
flight is a sleeping task, and `store.py` bounds its bulk work. A write above a megabyte is refused
here (`check_size`), since ZooKeeper would answer it by hanging up.
"""

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from kazoo import exceptions as kazoo_errors
from kazoo.client import KazooClient, TransactionRequest
from kazoo.protocol.states import EventType, KazooState, KeeperState, WatchedEvent, ZnodeStat
from kazoo.retry import KazooRetry

from zkafka.clock import Clock
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
    Outcome,
    SessionState,
    Set,
    check_size,
)

log = logging.getLogger(__name__)

_RECONNECT_DELAY_MAX_S = 1.0
"""Longest pause between attempts to connect. kazoo's own minute would leave a broker outside for
that long after ZooKeeper is back."""

_HINTS_OF_EVENTS = {
    EventType.CREATED: HintKind.CREATED,
    EventType.DELETED: HintKind.DELETED,
    EventType.CHANGED: HintKind.DATA,
    EventType.CHILD: HintKind.CHILDREN,
}

_STATE_OF_LINK = {
    KazooState.CONNECTED: SessionState.CONNECTED,
    KazooState.SUSPENDED: SessionState.SUSPENDED,
    KazooState.LOST: SessionState.LOST,
}


@attrs.frozen(kw_only=True)
class SessionStatistics:
    """For metrics: how the session fares. `requests_total` counts requests sent."""

    state: SessionState
    session_id: int
    negotiated_timeout_ms: int
    requests_total: int
    in_flight_count: int
    latency_ms_total: float
    suspensions_total: int
    expirations_total: int
    given_up_total: int


class Session:
    """One ZooKeeper session after another, for one broker.

    `run` is the task that keeps it; everything else may be called from any task of the loop.
    `hosts` is zookeeper.connect, with or without a chroot, which is created if it is missing;
    paths given and returned are relative to it.
    """

    def __init__(
        self,
        hosts: str,
        timeout_ms: int,
        clock: Clock,
        *,
        connection_timeout_ms: int | None = None,
    ) -> None:
        servers, slash, chroot = hosts.partition("/")
        self.hosts = servers
        self._chroot = f"/{chroot.strip('/')}" if slash and chroot.strip("/") else ""
        self._timeout_ms = timeout_ms
        self._connection_timeout_ms = connection_timeout_ms or timeout_ms
        self._clock = clock
        self._token: trio.lowlevel.TrioToken | None = None
        self._client: KazooClient | None = None
        self._subscribers: list[trio.MemorySendChannel[Hint]] = []

        # What the loop has been told. `_changed` is set and replaced at every change.
        self._seen = SessionState.LOST
        self._session_id = 0
        self._password = b""
        self._changed = trio.Event()
        self._closed = trio.Event()

        # Written by other threads, each in one assignment, and read by the loop.
        self._link = SessionState.LOST
        self._negotiated_timeout_ms = timeout_ms
        self._gave_up = False
        self._pulse_s = 0.0
        self._watchdog_wake = threading.Event()
        self._stopping = False
        # Held by whoever starts or shuts kazoo's threads.
        self._start_or_shut = threading.Lock()

        self._requests_total = 0
        self._in_flight_count = 0
        self._latency_ms_total = 0.0
        self._suspensions_total = 0
        self._expirations_total = 0
        self._given_up_total = 0

    # ----------------------------------------------------------------------------- life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the session, keep it, and close it when cancelled (its ephemerals go at once).

        `started()` is called once connected. Errors: `CoordinationError` naming the hosts when
        there is no connection within the connection timeout.
        """
        self._token = trio.lowlevel.current_trio_token()
        self._client = self._make_client()
        self._client.add_listener(self._on_link)
        self._learn_negotiated_timeout(self._client)
        self._pulse_s = time.monotonic()
        watchdog = threading.Thread(target=self._watch_loop, name="zk-watchdog", daemon=True)
        try:
            await self._open(self._client)
            await self._create_chroot()
            watchdog.start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._beat)
                nursery.start_soon(self._reopen)
                task_status.started()
        finally:
            self._stopping = True
            self._seen = SessionState.LOST
            self._watchdog_wake.set()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._shut)
                if watchdog.ident is not None:
                    await trio.to_thread.run_sync(watchdog.join)
            for subscriber in self._subscribers:
                subscriber.close()

    def _make_client(self, identity: tuple[int, bytes] | None = None) -> KazooClient:
        client = KazooClient(
            hosts=self.hosts,
            timeout=self._timeout_ms / 1000,
            client_id=identity,
            connection_retry=KazooRetry(
                max_tries=-1, delay=0.05, max_jitter=0.4, max_delay=_RECONNECT_DELAY_MAX_S
            ),
        )
        self._wait_less_to_connect(client)
        return client

    def _learn_negotiated_timeout(self, client: KazooClient) -> None:
        """Have the session timeout that the server granted written down.

        kazoo keeps it to itself: its connection returns two thirds of it to its own loop, and that
        is where we listen. A server may grant less than was asked, which the watchdog must know.
        """
        connection = client._connection
        connect = connection._connect

        def listening(*args: Any) -> Any:
            read_timeout_ms, connect_timeout_ms = connect(*args)
            self._negotiated_timeout_ms = round(read_timeout_ms * 3 / 2)
            return read_timeout_ms, connect_timeout_ms

        connection._connect = listening

    def _wait_less_to_connect(self, client: KazooClient) -> None:
        """Have a connection that nobody answers given up after a third of the session timeout.

        A ZooKeeper 3.8 that is just starting may take a connection and never answer nor close it
        (a NullPointerException while it closes one). kazoo waits for the whole session timeout,
        divided by the number of hosts: with one host, until the session is over. Its connection
        calls `_invoke` for what opens a connection, and nothing else.
        """
        connection = client._connection
        invoke = connection._invoke

        def impatient(timeout_s: float, *args: Any) -> Any:
            return invoke(min(timeout_s, self._timeout_ms / 1000 / 3), *args)

        connection._invoke = impatient

    async def _open(self, client: KazooClient) -> None:
        await trio.to_thread.run_sync(client.start_async)
        with trio.move_on_after(self._connection_timeout_ms / 1000):
            while self._seen is not SessionState.CONNECTED:
                await self._changed.wait()
            return
        raise CoordinationError(
            f"no ZooKeeper session with {self.hosts} within {self._connection_timeout_ms} ms"
        )

    async def _create_chroot(self) -> None:
        parts = self._chroot.split("/")[1:]
        chroot, self._chroot = self._chroot, ""
        for depth in range(len(parts)):
            try:
                await self.create("/" + "/".join(parts[: depth + 1]))
            except NodeExists:
                continue
        self._chroot = chroot

    async def _beat(self) -> None:
        """Show the watchdog that the loop turns; or find that it did not."""
        while True:
            self._note_stillness()
            self._pulse_s = time.monotonic()
            await trio.sleep(self._patience_s / 8)

    async def _reopen(self) -> None:
        """Start kazoo again after its connection thread has ended: because the watchdog closed the
        session, or because the thread broke on something kazoo did not foresee."""
        assert self._client is not None
        while True:
            await self._closed.wait()
            self._closed = trio.Event()
            log.warning("opening a new session hosts=%s", self.hosts)
            await trio.to_thread.run_sync(self._restart)

    def _restart(self) -> None:
        """In a worker thread: kazoo's threads anew."""
        assert self._client is not None
        with self._start_or_shut:
            _shut(self._client)
            self._pulse_s = time.monotonic()
            self._gave_up = False
            self._client.start_async()

    def _shut(self) -> None:
        """In a worker thread: end the session and kazoo's threads."""
        assert self._client is not None
        with self._start_or_shut:
            _shut(self._client)

    # -------------------------------------------------------------------- kazoo's threads

    def _soon(self, function: Callable[..., object], *args: object) -> None:
        """Have the loop call something that cannot raise; nobody, if the loop is over."""
        assert self._token is not None
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            return

    def _on_link(self, state: str) -> None:
        """On kazoo's connection thread: the connection came, went, or the session ended."""
        client = self._client
        assert client is not None
        self._link = _STATE_OF_LINK[state]
        if state == KazooState.CONNECTED:
            session_id, password = client.client_id
            self._soon(self._deliver_connected, session_id, password)
        elif state == KazooState.SUSPENDED:
            self._soon(self._deliver_suspended)
        else:
            # CLOSED: kazoo's loop has ended and will not open another session by itself. When the
            # watchdog closed it, the watchdog says so, once it is done.
            ended = client.client_state == KeeperState.CLOSED and not self._gave_up
            self._soon(self._deliver_lost, ended)

    def _on_watch(self, event: WatchedEvent) -> None:
        """On kazoo's watch thread. What tells of the session comes by `_on_link` instead."""
        kind = _HINTS_OF_EVENTS.get(event.type)
        if kind is not None:
            self._soon(self._publish, Hint(kind, self._relative(event.path)))

    def _watch_loop(self) -> None:
        """On the watchdog's thread: close the session of a loop that stands still."""
        while True:
            self._watchdog_wake.wait(self._patience_s / 8)
            self._watchdog_wake.clear()
            if self._stopping:
                return
            self._note_stillness()
            if self._gave_up:
                self._shut()
                self._soon(self._deliver_lost, True)
                # Until the loop has taken notice there is nothing more to do here.
                while self._gave_up and not self._stopping:
                    self._watchdog_wake.wait(self._patience_s / 8)
                    self._watchdog_wake.clear()

    @property
    def _patience_s(self) -> float:
        return self._negotiated_timeout_ms / 1000 * 2 / 3

    def _note_stillness(self) -> None:
        """Give the session up if the loop has not turned for too long. On the watchdog's thread,
        or in the loop, which may be awake again before the watchdog had its turn."""
        stillness_s = time.monotonic() - self._pulse_s
        if (
            stillness_s > self._patience_s
            and self._link is SessionState.CONNECTED
            and not self._gave_up
        ):
            self._gave_up = True
            self._given_up_total += 1
            log.error("the loop stood still, giving the session up for_ms=%d", stillness_s * 1000)
            self._watchdog_wake.set()

    # ------------------------------------------------------------- in the loop: the state

    def _deliver_connected(self, session_id: int, password: bytes) -> None:
        if self._gave_up:
            return  # Closed already; the end of it is on its way.
        log.info("session connected session_id=0x%x hosts=%s", session_id, self.hosts)
        self._seen = SessionState.CONNECTED
        self._session_id, self._password = session_id, password
        self._announce(Hint(HintKind.CONNECTED, session_id=session_id))

    def _deliver_suspended(self) -> None:
        log.warning("session suspended session_id=0x%x", self._session_id)
        self._seen = SessionState.SUSPENDED
        self._suspensions_total += 1
        self._announce(Hint(HintKind.SUSPENDED))

    def _deliver_lost(self, closed: bool) -> None:
        if self._seen is not SessionState.LOST:
            log.warning("session lost session_id=0x%x", self._session_id)
            self._seen = SessionState.LOST
            self._expirations_total += 1
            self._announce(Hint(HintKind.EXPIRED))
        if closed:
            self._closed.set()

    def _announce(self, hint: Hint) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        self._publish(hint)

    def _publish(self, hint: Hint) -> None:
        """Hand a hint to every subscriber; one that has closed its end is forgotten."""
        for subscriber in list(self._subscribers):
            try:
                subscriber.send_nowait(hint)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._subscribers.remove(subscriber)

    def subscribe(self) -> "trio.MemoryReceiveChannel[Hint]":
        """Every hint from now on; the channel ends when the session is closed for good.

        The channel has no size, and is bounded all the same: a watch fires once and is set again
        only by reading, so there are never more hints than watches set; and session states come
        no faster than reconnections. That holds for a subscriber that reads. Each is a task of the
        broker that lives as long as the session; whoever stops reading closes its end.
        """
        send, receive = trio.open_memory_channel[Hint](float("inf"))
        self._subscribers.append(send)
        return receive

    @property
    def state(self) -> SessionState:
        """What may be relied on now: the worse of what the loop was told and what other threads
        know already."""
        self._note_stillness()
        if self._gave_up or SessionState.LOST in (self._seen, self._link):
            return SessionState.LOST
        if SessionState.SUSPENDED in (self._seen, self._link):
            return SessionState.SUSPENDED
        if self._client is None or self._client._session_id != self._session_id:
            return SessionState.LOST  # kazoo is in the next session; its hints are on their way.
        return SessionState.CONNECTED

    @property
    def session_id(self) -> int:
        """The id of the session last connected; 0 before the first."""
        return self._session_id

    @property
    def password(self) -> bytes:
        """With the id, what it takes to resume the session: a secret."""
        return self._password

    @property
    def timeout_ms(self) -> int:
        """The session timeout that the server granted."""
        return self._negotiated_timeout_ms

    async def wait_connected(self) -> None:
        """Wait until the session is connected, be it the same or another one."""
        while self.state is not SessionState.CONNECTED:
            await self._changed.wait()

    def statistics(self) -> SessionStatistics:
        """How the session fares."""
        return SessionStatistics(
            state=self.state,
            session_id=self._session_id,
            negotiated_timeout_ms=self._negotiated_timeout_ms,
            requests_total=self._requests_total,
            in_flight_count=self._in_flight_count,
            latency_ms_total=self._latency_ms_total,
            suspensions_total=self._suspensions_total,
            expirations_total=self._expirations_total,
            given_up_total=self._given_up_total,
        )

    # --------------------------------------------------------------------------- requests

    async def get(self, path: str, *, watch: bool = False) -> tuple[bytes, NodeStat]:
        """A node's data. The watch fires when it changes or goes. Errors: `NoNode`."""
        data, stat = await self._request(
            path, lambda client: client.get_async(self._full(path), self._watcher(watch))
        )
        return data or b"", _stat(stat)

    async def children(self, path: str, *, watch: bool = False) -> list[str]:
        """Names of a node's children, sorted. The watch fires when one comes or goes, or when the
        node goes. Errors: `NoNode`."""
        names = await self._request(
            path, lambda client: client.get_children_async(self._full(path), self._watcher(watch))
        )
        return sorted(names)

    async def exists(self, path: str, *, watch: bool = False) -> NodeStat | None:
        """A node's bookkeeping, or None. The watch fires when it is created, changes or goes."""
        stat = await self._request(
            path, lambda client: client.exists_async(self._full(path), self._watcher(watch))
        )
        return None if stat is None else _stat(stat)

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequential: bool = False
    ) -> str:
        """Make a node; its path, with the counter appended if it is sequential.

        Errors: `NodeExists`; `NoNode` where the parent is missing.
        """
        check_size(Create(path, data))
        created = await self._request(
            path,
            lambda client: client.create_async(
                self._full(path), data, ephemeral=ephemeral, sequence=sequential
            ),
        )
        return self._relative(created)

    async def set(self, path: str, data: bytes, version: int = ANY_VERSION) -> NodeStat:
        """Replace a node's data. Errors: `NoNode`, `StaleVersion`."""
        check_size(Set(path, data))
        return _stat(
            await self._request(
                path, lambda client: client.set_async(self._full(path), data, version)
            )
        )

    async def delete(self, path: str, version: int = ANY_VERSION) -> None:
        """Remove a childless node. Errors: `NoNode`, `StaleVersion`, `NotEmpty`."""
        await self._request(path, lambda client: client.delete_async(self._full(path), version))

    async def multi(self, operations: Sequence[Operation]) -> list[Outcome]:
        """All the operations, or none of them; one outcome each, in order.

        Errors: `MultiFailed` says which one was refused, and why.
        """
        check_size(*operations)

        def start(client: KazooClient) -> Any:
            transaction = TransactionRequest(client)
            for operation in operations:
                self._add(transaction, operation)
            return transaction.commit_async()

        results = await self._request(operations[0].path, start)
        for index, result in enumerate(results):
            if isinstance(result, Exception) and not isinstance(
                result, kazoo_errors.RolledBackError | kazoo_errors.RuntimeInconsistency
            ):
                operation = operations[index]
                error = _translated(result, operation.path)
                raise MultiFailed(index, operation, error) from result
        assert len(results) == len(operations)
        return [self._outcome(result) for result in results]

    def _add(self, transaction: TransactionRequest, operation: Operation) -> None:
        path = self._full(operation.path)
        match operation:
            case Check(version=version):
                transaction.check(path, version)
            case Create(data=data, ephemeral=ephemeral, sequential=sequential):
                transaction.create(path, data, ephemeral=ephemeral, sequence=sequential)
            case Set(data=data, version=version):
                transaction.set_data(path, data, version)
            case Delete(version=version):
                transaction.delete(path, version)

    def _outcome(self, result: object) -> Outcome:
        if isinstance(result, str):
            return self._relative(result)
        return _stat(result) if isinstance(result, ZnodeStat) else True

    async def _request(self, path: str, start: Callable[[KazooClient], Any]) -> Any:
        """One request and its answer.

        Waits: for the answer, or the loss of the connection. A cancellation leaves the request on
        its way. Errors: those of `_translated`.
        """
        state = self.state
        if state is SessionState.LOST:
            raise SessionLost(f"no ZooKeeper session for {path}")
        if state is SessionState.SUSPENDED:
            raise SessionSuspended(f"no connection to ZooKeeper for {path}")
        assert self._client is not None
        done = trio.Event()
        began_ms = self._clock.monotonic_ms()
        self._requests_total += 1
        self._in_flight_count += 1
        try:
            result = start(self._client)
            result.rawlink(lambda _: self._soon(done.set))
            await done.wait()
        finally:
            self._in_flight_count -= 1
        self._latency_ms_total += self._clock.monotonic_ms() - began_ms
        try:
            return result.get_nowait()
        except kazoo_errors.KazooException as error:
            raise _translated(error, path) from error

    def _watcher(self, watch: bool) -> Callable[[WatchedEvent], None] | None:
        # One bound method for all: kazoo keeps a set of watchers for a path, so that reading a
        # node twice with a watch leaves one.
        return self._on_watch if watch else None

    def _full(self, path: str) -> str:
        assert path.startswith("/"), path
        return self._chroot + path if path != "/" else self._chroot or "/"

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._chroot) or "/"

    # ------------------------------------------------------------------- another's session

    async def resume_and_close(self, session_id: int, password: bytes) -> bool:
        """End the session that a killed run of this broker left, so that its ephemerals go now
        and not when it times out.

        True: it was resumed and is closed. False: ZooKeeper opened another one, because that one
        has expired already or the password is wrong; its nodes, if any are left, will go with
        its expiry. The caller makes sure that nobody uses the session any more. Waits: for a
        connection of its own. Errors: `CoordinationError` when there is none in time.
        """
        client = self._make_client((session_id, password))
        opened = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def on_link(state: str) -> None:
            if state == KazooState.CONNECTED:
                token.run_sync_soon(opened.set)

        client.add_listener(on_link)
        try:
            await trio.to_thread.run_sync(client.start_async)
            with trio.move_on_after(self._connection_timeout_ms / 1000):
                await opened.wait()
            identity = client.client_id
            if identity is None:
                raise CoordinationError(
                    f"session 0x{session_id:x} could not be resumed: no connection to {self.hosts}"
                )
            return bool(identity[0] == session_id)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_shut, client)


@asynccontextmanager
async def open_session(hosts: str, timeout_ms: int, clock: Clock) -> AsyncIterator[Session]:
    """A session for the length of a block: for tools and tests."""
    session = Session(hosts, timeout_ms, clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(session.run)
        try:
            yield session
        finally:
            nursery.cancel_scope.cancel()


def _shut(client: KazooClient) -> None:
    """Blocking: close the session, and stop kazoo's threads. Harmless when done before."""
    try:
        client.stop()
        client.close()
    except kazoo_errors.WriterNotClosedException:
        # The connection thread hangs in a connect that has not timed out. It is a daemon, it has
        # been told to stop, and it can no longer speak for this session.
        log.warning("kazoo's connection thread does not end hosts=%s", client.hosts)


def _stat(stat: ZnodeStat) -> NodeStat:
    return NodeStat(
        czxid=stat.czxid,
        mzxid=stat.mzxid,
        ctime_ms=stat.ctime,
        mtime_ms=stat.mtime,
        version=stat.version,
        cversion=stat.cversion,
        ephemeral_owner=stat.ephemeralOwner or 0,
        data_length=stat.dataLength,
        children_count=stat.numChildren,
    )


_TRANSLATIONS: tuple[tuple[type[Exception], type[CoordinationError], str], ...] = (
    (kazoo_errors.NoNodeError, NoNode, "no node {path}"),
    (kazoo_errors.NodeExistsError, NodeExists, "{path} exists already"),
    (kazoo_errors.BadVersionError, StaleVersion, "{path} has another version"),
    (kazoo_errors.NotEmptyError, NotEmpty, "{path} has children"),
    # ConnectionClosedError is a SessionExpiredError to kazoo.
    (kazoo_errors.SessionExpiredError, SessionLost, "the session ended before {path} was answered"),
    (kazoo_errors.AuthFailedError, SessionLost, "ZooKeeper refused who we are, for {path}"),
    (kazoo_errors.ConnectionLoss, SessionSuspended, "connection lost before {path} was answered"),
    (kazoo_errors.OperationTimeoutError, SessionSuspended, "no answer in time for {path}"),
    (kazoo_errors.SessionMovedError, SessionSuspended, "the session moved, for {path}"),
)


def _translated(error: Exception, path: str) -> CoordinationError:
    """kazoo's exception as one of ours; translated here and never again."""
    for theirs, ours, text in _TRANSLATIONS:
        if isinstance(error, theirs):
            return ours(text.format(path=path))
    return CoordinationError(f"ZooKeeper answered {type(error).__name__} for {path}: {error}")
