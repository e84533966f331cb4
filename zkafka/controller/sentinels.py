"""One idle connection to every other broker, whose end tells that the broker may have died.

A sentinel is a task and a connection to the registered inter-broker listener of one registration of
one broker. It connects, waits for the end of the connection, and tells `suspicion.py`, which says
when to try again and who is suspected. Nothing is ever sent: the connection is closed by the other
side after its connections.max.idle.ms, and the next one is made at once.

Registrations are read from ZooKeeper, and watched: the metadata that brokers are sent have no
broker epochs, and leave out whom the controller suspects. While ZooKeeper cannot be reached, what
was read last stands.

`suspects_changed` is called, in the loop, with all suspects whenever there is one more or one
fewer; `avoided_changed` with those that clients are better not sent to just now.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import attrs
import trio

from zkafka.clock import Clock
from zkafka.controller.suspicion import (
    BrokersRegistered,
    Connected,
    Event,
    Failed,
    HoldBack,
    Lost,
    Reason,
    Refused,
    Stood,
    Suspect,
    Suspicions,
    TryAgain,
    WaitStanding,
    Withdraw,
)
from zkafka.errors import CoordinationError, SessionLost, SessionSuspended
from zkafka.model import BrokerEpoch, BrokerId, Endpoint
from zkafka.net.peer import OpenTransport
from zkafka.net.transport import ConnectionLost, Transport
from zkafka.zk import znodes
from zkafka.zk.operations import Hint, HintKind

if TYPE_CHECKING:
    from zkafka.zk.session import Session
    from zkafka.zk.store import Store

log = logging.getLogger(__name__)
state_change = logging.getLogger("zkafka.state_change")

CONNECT_TIMEOUT_S: Final = 10.0
"""Kafka's socket.connection.setup.timeout.ms."""


@attrs.frozen
class SentinelStatistics:
    """How this broker judges the others. Without sentinels all are 0."""

    watched: int = 0
    """Brokers to which a connection is held, or tried."""
    suspected: int = 0
    held_back: int = 0
    """Brokers that refuse us, and are not suspected since too many are silent."""
    suspicions_total: int = 0
    answered_total: int = 0
    """Suspicions that were wrong, or that the broker outlived: it answered under the same epoch."""


@attrs.define(eq=False)
class _Sentinel:
    """What one task watches, and what it was told to do next."""

    broker_id: BrokerId
    epoch: BrokerEpoch
    endpoint: Endpoint
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    try_at_ms: int = 0
    standing_at_ms: int | None = None

    def watches(self, epoch: BrokerEpoch, endpoint: Endpoint | None) -> bool:
        """Whether this is about that registration."""
        return (self.epoch, self.endpoint) == (epoch, endpoint)


class Sentinels:
    """The sentinels of one broker. `run` is the task that keeps them."""

    def __init__(
        self,
        *,
        broker_id: BrokerId,
        store: "Store",
        session: "Session",
        open_transport: OpenTransport,
        listener_name: str,
        timeout_ms: int,
        clock: Clock,
        suspects_changed: Callable[[Mapping[BrokerId, BrokerEpoch]], None],
        avoided_changed: Callable[[frozenset[BrokerId]], None],
    ) -> None:
        self._broker_id = broker_id
        self._store = store
        self._session = session
        self._open_transport = open_transport
        self._listener_name = listener_name
        self._clock = clock
        self._suspects_changed = suspects_changed
        self._avoided_changed = avoided_changed
        self._suspicions = Suspicions(timeout_ms, session.timeout_ms)
        self._avoided: frozenset[BrokerId] = frozenset()
        self._sentinels: dict[BrokerId, _Sentinel] = {}
        self._suspicions_total = 0
        self._answered_total = 0

    def statistics(self) -> SentinelStatistics:
        """How this broker judges the others."""
        return SentinelStatistics(
            watched=len(self._sentinels),
            suspected=len(self._suspicions.suspects),
            held_back=self._suspicions.held_back_count,
            suspicions_total=self._suspicions_total,
            answered_total=self._answered_total,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch whoever is registered, until cancelled."""
        hints = self._session.subscribe()
        async with hints, trio.open_nursery() as nursery:
            await self._look(nursery)
            task_status.started()
            async for hint in hints:
                if _concerns_registrations(hint):
                    await self._look(nursery)

    async def _look(self, nursery: trio.Nursery) -> None:
        """Read who is registered, and have a sentinel for each of the others."""
        try:
            registered = await self._store.brokers(watch=True)
        except (SessionSuspended, SessionLost):
            return  # CONNECTED comes back here
        except CoordinationError as error:
            log.warning("registrations cannot be read broker=%d: %s", self._broker_id, error)
            return
        wanted: dict[BrokerId, tuple[BrokerEpoch, Endpoint]] = {}
        for broker_id, broker in registered.items():
            endpoint = broker.registration.info.endpoints.get(self._listener_name)
            if broker_id != self._broker_id and endpoint is not None:
                wanted[broker_id] = (broker.broker_epoch, endpoint)
        for broker_id, sentinel in list(self._sentinels.items()):
            if not sentinel.watches(*wanted.get(broker_id, (sentinel.epoch, None))):
                sentinel.scope.cancel()
                del self._sentinels[broker_id]
        for broker_id, (epoch, endpoint) in wanted.items():
            if broker_id not in self._sentinels:
                sentinel = _Sentinel(broker_id, epoch, endpoint)
                self._sentinels[broker_id] = sentinel
                nursery.start_soon(self._watch, sentinel)
        epochs = {broker_id: epoch for broker_id, (epoch, _) in wanted.items()}
        self._step(BrokersRegistered(epochs, len(registered)))

    # One broker.

    async def _watch(self, sentinel: _Sentinel) -> None:
        """Hold a connection, or try to; each attempt is made when the last one's effects say so."""
        broker_id = sentinel.broker_id
        with sentinel.scope:
            while True:
                transport: Transport | None = None
                event: Event = Failed(broker_id)
                with trio.move_on_after(CONNECT_TIMEOUT_S):
                    try:
                        endpoint = sentinel.endpoint
                        transport = await self._open_transport(endpoint.host, endpoint.port)
                        event = Connected(broker_id)
                    except ConnectionRefusedError:
                        event = Refused(broker_id)
                    except OSError as error:
                        log.debug(
                            "no connection broker=%d to=%d: %s", self._broker_id, broker_id, error
                        )
                if transport is None:
                    self._tell(sentinel, event)
                else:
                    try:
                        self._tell(sentinel, event)
                        await self._wait_lost(sentinel, transport)
                    finally:
                        await transport.aclose()
                await trio.sleep_until(sentinel.try_at_ms / 1000)

    async def _wait_lost(self, sentinel: _Sentinel, transport: Transport) -> None:
        """Until the connection ends. Bytes that nobody asked for are no better than an end."""
        while True:
            until_ms, sentinel.standing_at_ms = sentinel.standing_at_ms, None
            deadline = float("inf") if until_ms is None else until_ms / 1000
            with trio.move_on_at(deadline):
                await _end_of(transport)
                self._tell(sentinel, Lost(sentinel.broker_id))
                return
            self._tell(sentinel, Stood(sentinel.broker_id))

    # Judgement.

    def _tell(self, sentinel: _Sentinel, event: Event) -> None:
        """Unless the sentinel was called off while it heard this."""
        if self._sentinels.get(sentinel.broker_id) is sentinel:
            self._step(event)

    def _step(self, event: Event) -> None:
        before = self._suspicions.suspects
        now_ms = self._clock.monotonic_ms()
        for effect in self._suspicions.step(event, now_ms):
            match effect:
                case TryAgain():
                    self._sentinels[effect.broker_id].try_at_ms = effect.at_ms
                case WaitStanding():
                    self._sentinels[effect.broker_id].standing_at_ms = effect.until_ms
                case Suspect():
                    self._suspicions_total += 1
                    state_change.warning(
                        "suspected broker=%d suspect=%d broker_epoch=%d address=%s silent_ms=%d "
                        "refusals=%d: its connection has ended, and new ones are refused",
                        self._broker_id,
                        effect.broker_id,
                        effect.epoch,
                        self._sentinels[effect.broker_id].endpoint.address,
                        effect.silent_ms,
                        effect.refusals,
                    )
                case HoldBack():
                    state_change.warning(
                        "not suspected broker=%d refused_by=%d broker_epoch=%d silent=%s "
                        "registered=%d: too many are silent at once, the sessions decide",
                        self._broker_id,
                        effect.broker_id,
                        effect.epoch,
                        ",".join(map(str, effect.silent)),
                        effect.registered,
                    )
                case Withdraw():
                    self._answered_total += effect.reason is Reason.ANSWERED
                    state_change.info(
                        "not suspected any more broker=%d suspect=%d broker_epoch=%d "
                        "suspected_ms=%d: %s",
                        self._broker_id,
                        effect.broker_id,
                        effect.epoch,
                        effect.suspected_ms,
                        effect.reason.value,
                    )
        if self._suspicions.suspects != before:
            self._suspects_changed(self._suspicions.suspects)
        avoided = self._suspicions.avoided(now_ms)
        if avoided != self._avoided:
            self._avoided = avoided
            self._avoided_changed(avoided)


async def _end_of(transport: Transport) -> None:
    """Wait until the other side has ended the connection, or spoken."""
    room = memoryview(bytearray(1))
    try:
        while transport.receive_nowait(room) is None:
            await transport.wait_readable()
    except ConnectionLost:
        return


def _concerns_registrations(hint: Hint) -> bool:
    """Whether to read again; watches do not survive a lost connection."""
    return (
        hint.kind is HintKind.CONNECTED
        or hint.path == znodes.BROKER_IDS
        or hint.path.startswith(f"{znodes.BROKER_IDS}/")
    )
