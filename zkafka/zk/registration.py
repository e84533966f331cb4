"""Keeps this broker registered, from one ZooKeeper session to the next.

A registration is an ephemeral node: it lives as long as the session. When the session ends, the
broker is dead to the cluster until it registers in the next one, under a new broker epoch; the
controller then treats it as one that failed and came back (KIP-380), and tells it its roles anew.

A broker that is killed leaves its session behind. Until ZooKeeper times it out (18 seconds, by
default) the id is taken and the partitions it led have no leader, although the broker may be back
within one. So the session's id and password are kept in a file of the data directory, readable by
nobody else. At the next start, if the id is held by exactly that session, it is resumed and closed:
its nodes go at once, /controller included. Whoever does that must be sure that the former process
is gone. It is: the caller holds the directory's lock and has bound the broker's address. A start
may itself be killed before it has closed anything, so the former sessions stay in the file until
it is registered.

Where we differ from Kafka: it has no such file, and a killed broker that comes back too early stops
with an error, to be started again by its supervisor.
"""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs
import trio

from zkafka.clock import Clock
from zkafka.errors import SessionLost, SessionSuspended, StartupError
from zkafka.model import NO_EPOCH, BrokerEpoch
from zkafka.zk.operations import Hint, HintKind, SessionState
from zkafka.zk.store import AddressTaken, BrokerIdTaken, Store
from zkafka.zk.znodes import BrokerRegistration

if TYPE_CHECKING:
    from zkafka.zk.session import Session

log = logging.getLogger(__name__)
state_change = logging.getLogger("zkafka.state_change")

_EXPIRY_GRACE_MS: Final = 2000
"""How much longer than the session timeout a former session's node may linger: ZooKeeper looks for
expired sessions once a tick, which is 2 seconds by default."""

_POLL_MS: Final = 100

_KEPT_MAX: Final = 16
"""Sessions in the file at most: so many starts may be killed one after the other."""


class SavedSession(NamedTuple):
    """What a former run of this broker left behind; the password is a secret."""

    session_id: int
    password: bytes


class Registration:
    """This broker's registration. `run` is the task that keeps it."""

    def __init__(
        self,
        store: Store,
        session: "Session",
        registration: BrokerRegistration,
        *,
        cluster_id: str,
        session_path: Path,
        clock: Clock,
    ) -> None:
        self._store = store
        self._session = session
        self._registration = registration
        self._cluster_id = cluster_id
        self._session_path = session_path
        self._clock = clock
        self._broker_epoch: BrokerEpoch = NO_EPOCH
        self._session_id = 0
        self._kept: list[SavedSession] = []
        """What is in the file, newest last: this run's sessions, and the former ones until this run
        is registered."""
        self._hints = session.subscribe()

    @property
    def broker_epoch(self) -> BrokerEpoch:
        """The epoch of the registration in the current session; -1 while there is none. While the
        session is suspended it is still the last one: nobody said that it ended."""
        current = self._session.session_id == self._session_id
        if not current or self._session.state is SessionState.LOST:
            return NO_EPOCH
        return self._broker_epoch

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register, then register again in every new session.

        `started()` is called once registered. Errors: `StartupError` naming who holds the id or
        the address, be it now or since the session was lost, or that this ZooKeeper is not our
        cluster's any more: this broker must not go on. Before `started()` also `CoordinationError`.
        """
        async with self._hints:
            await self._register_at_start()
            task_status.started()
            async for hint in self._hints:
                await self._heed(hint)

    async def _heed(self, hint: Hint) -> None:
        if hint.kind is HintKind.EXPIRED:
            state_change.warning("registration lost broker=%d", self._registration.broker_id)
        elif hint.kind is HintKind.CONNECTED and hint.session_id != self._session_id:
            try:
                await self._register()
            except BrokerIdTaken as error:
                raise StartupError(str(error)) from error
            except (SessionSuspended, SessionLost) as error:
                # The session went again. The next CONNECTED comes back here: it names another
                # session, or the same one, in which we are not registered either.
                log.info("not registered yet broker=%d: %s", self._registration.broker_id, error)

    async def _register(self) -> None:
        session_id, previous = self._session.session_id, self._session_id
        await self._check_cluster()
        current = SavedSession(session_id, self._session.password)
        if current not in self._kept:
            self._keep([*self._kept, current])
        registration = attrs.evolve(self._registration, timestamp_ms=self._clock.wall_ms())
        try:
            epoch = await self._store.register_broker(registration, previous_session_id=previous)
        except AddressTaken as error:
            raise StartupError(str(error)) from error
        self._broker_epoch = epoch
        self._session_id = session_id
        self._keep([current])
        state_change.info("registered broker=%d broker_epoch=%d", registration.broker_id, epoch)

    async def _check_cluster(self) -> None:
        """Refuse a ZooKeeper that lost its data, or another cluster's behind the same address.

        A server whose transactions are fewer than those we have seen turns us away by itself, but
        only until it has caught up. Registered there, we would be told that our topics do not
        exist, and the controller among us would rule over nothing.
        """
        found = await self._store.cluster_id(create=False)
        if found != self._cluster_id:
            held = "no cluster at all" if found is None else f"cluster {found}"
            raise StartupError(
                f"broker {self._registration.broker_id} belongs to cluster {self._cluster_id}, and "
                f"ZooKeeper now holds {held}: refusing to go on there over old data"
            )

    async def _register_at_start(self) -> None:
        self._kept = self._load_sessions()
        former = {saved.session_id: saved for saved in self._kept}
        tried: set[int] = set()
        deadline_ms = self._clock.monotonic_ms() + self._session.timeout_ms + _EXPIRY_GRACE_MS
        while True:
            try:
                return await self._register()
            except BrokerIdTaken as error:
                saved = former.get(error.holder.session_id)
                if saved is None or self._clock.monotonic_ms() > deadline_ms:
                    raise StartupError(str(error)) from error
            if saved.session_id not in tried:
                tried.add(saved.session_id)
                if await self._session.resume_and_close(*saved):
                    log.info("closed the session of a former run session_id=0x%x", saved[0])
                    continue
                log.info("waiting for a former run's session to end session_id=0x%x", saved[0])
            await trio.sleep(_POLL_MS / 1000)

    def _keep(self, sessions: list[SavedSession]) -> None:
        """Have these sessions in the file, unless they are.

        Written anew beside and renamed, so that a reader finds the old or the new one. Not
        fsynced: what survives a machine's death is of no use, its session will have expired."""
        if sessions == self._kept:
            return
        self._kept = sessions[-_KEPT_MAX:]
        *former, saved = [
            {"session_id": f"{session_id:x}", "password": password.hex()}
            for session_id, password in self._kept
        ]
        beside = self._session_path.with_name(self._session_path.name + ".tmp")
        try:
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(saved | ({"former": former} if former else {}), file)
            beside.replace(self._session_path)
        except OSError as error:
            # Without it the next start after a kill waits for the session timeout, no more.
            log.warning("cannot keep the session path=%s: %s", self._session_path, error)

    def _load_sessions(self) -> list[SavedSession]:
        try:
            saved = json.loads(self._session_path.read_text())
            return [
                SavedSession(int(one["session_id"], 16), bytes.fromhex(one["password"]))
                for one in (*saved.get("former", ()), saved)
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("cannot read a former session path=%s: %s", self._session_path, error)
            return []
