"""Which brokers have died before their ZooKeeper session has ended: evidence and judgement.

A broker whose process has died says so: its kernel resets its connections and refuses new ones. A
host that is dead or cut off says nothing. So only this is evidence against a broker, in this order:

1. a connection to it that stood has ended;
2. since then every attempt to connect was refused (ECONNREFUSED): `REFUSALS` of them at least,
   spread evenly over the suspicion timeout.

Any other outcome of an attempt (no answer, no route, no file descriptors of our own) is no evidence
and starts the count again; a connection is the end of the matter. The death of the process is what
ends connections and refuses them at once; a listener that is merely closed, or a firewall that
refuses, looks the same from here, and so a suspicion may be wrong. It must never be more than a
reason for an election.

Judgement. A broker that half of the cluster refuses has more reason to doubt itself. *Silent* is a
broker whose connection has ended and that has not taken another since, and whoever is suspected.
While the silent brokers are fewer than half of the registered ones, ours included, whoever the
evidence is complete against becomes *suspected*; otherwise nobody does, the evidence stands, and
the sessions decide. With three brokers one may be suspected, with one or two nobody. Of two that
fall silent together both are held back; of two that do so one after the other, the second.

A suspicion once acted upon stays, whatever becomes of the others or of their number: undoing it
would cost another election and prove nothing. It ends

- when a connection to that broker has stood for `ANSWER_MS`. Not at once: a supervisor starts a
  killed broker again, and the new process listens a moment before it registers, which is what
  the cluster has to wait for. A proxy that accepts for a dead broker, and hangs up, is no answer;
- when its registration is another (a new broker epoch) or gone. What is known of a broker is known
  of one registration of it, and forgotten with it.

Before there is any verdict there is a hint for clients: `avoided` are the brokers that hung up on
us and have refused us since, or have yet to be tried. Who asks for metadata then is told that a
partition led by such a broker has no leader, and asks again in a tenth of a second, where the old
leader's name would have it wait for its own timers (a second for librdkafka). A listener that
closes an idle connection is avoided for as long as it takes to connect. A hint lapses after
`patience_ms`, the session timeout: a broker whose session lives on may be refusing nobody but us.

Every broker judges for itself. The controller counts whom it suspects as failed
(`machine.py`); a broker that suspects the controller deposes it (`controller.py`).

One `Suspicions` judges all the other brokers. Events come from whoever holds the connections
(`sentinels.py`); times are monotonic milliseconds.
"""

import enum
from collections.abc import Mapping
from typing import Final, TypeAlias, assert_never

import attrs

from zkafka.model import BrokerEpoch, BrokerId

REFUSALS: Final = 3
"""Fewest refusals that are evidence; the first and the last are a suspicion timeout apart."""
RETRY_MAX_MS: Final = 1000
"""Longest pause between attempts, once there is no hurry."""
ANSWER_MS: Final = 1000
"""How long a connection must stand to clear a suspected broker: a broker that was started again is
registered anew by then (0.1 to 0.3 s measured from binding its address)."""

# Events.


@attrs.frozen
class BrokersRegistered:
    """The registrations that are watched, by their epochs, and how many there are at all, ours
    included."""

    watched: Mapping[BrokerId, BrokerEpoch]
    registered: int


@attrs.frozen
class Connected:
    """An attempt succeeded; the connection is held from now on."""

    broker_id: BrokerId


@attrs.frozen
class Stood:
    """The connection has stood for as long as `WaitStanding` asked."""

    broker_id: BrokerId


@attrs.frozen
class Lost:
    """The connection has ended, orderly or by a reset."""

    broker_id: BrokerId


@attrs.frozen
class Refused:
    """An attempt was refused: nobody listens there."""

    broker_id: BrokerId


@attrs.frozen
class Failed:
    """An attempt came to nothing in any other way."""

    broker_id: BrokerId


Event: TypeAlias = BrokersRegistered | Connected | Stood | Lost | Refused | Failed

# Effects.


@attrs.frozen
class TryAgain:
    """Attempt to connect, not before this time."""

    broker_id: BrokerId
    at_ms: int


@attrs.frozen
class WaitStanding:
    """Tell (`Stood`) if the connection still stands at this time."""

    broker_id: BrokerId
    until_ms: int


@attrs.frozen
class Suspect:
    """The broker is suspected from now on; `silent_ms` since its connection ended."""

    broker_id: BrokerId
    epoch: BrokerEpoch
    silent_ms: int
    refusals: int


@attrs.frozen
class HoldBack:
    """The evidence is complete, but too many are silent for it to be acted upon."""

    broker_id: BrokerId
    epoch: BrokerEpoch
    silent: tuple[BrokerId, ...]
    registered: int


class Reason(enum.Enum):
    """Why a suspicion is over."""

    ANSWERED = "it answers"
    REGISTERED_ANEW = "it has registered anew"
    GONE = "its registration is gone"


@attrs.frozen
class Withdraw:
    """The broker is not suspected any more, `suspected_ms` after it came to be."""

    broker_id: BrokerId
    epoch: BrokerEpoch
    reason: Reason
    suspected_ms: int


Effect: TypeAlias = TryAgain | WaitStanding | Suspect | HoldBack | Withdraw


@attrs.define
class _Subject:
    """What is known of one registration of one broker."""

    broker_id: BrokerId
    epoch: BrokerEpoch
    connected_ms: int = 0
    silent_since_ms: int | None = None
    """When the last connection ended; None while one stands, or none ever stood."""
    refusals: int = 0
    """In a row, since it fell silent."""
    refused_since_ms: int = 0
    convicted: bool = False
    """The evidence is complete."""
    suspected_since_ms: int | None = None
    held_back: bool = False
    """It was said that the evidence is not acted upon."""
    avoided: bool = False
    """It hung up after a while, or refused since; no attempt came to nothing otherwise."""
    pause_ms: int = 0
    """The last pause before an attempt that is in no hurry."""

    @property
    def is_silent(self) -> bool:
        return self.silent_since_ms is not None or self.suspected_since_ms is not None


class Suspicions:
    """This broker's judgement on all others. `step` is the only entrance."""

    def __init__(self, timeout_ms: int, patience_ms: int) -> None:
        assert timeout_ms > 0
        self._patience_ms = patience_ms
        self._timeout_ms = timeout_ms
        self._interval_ms = -(-timeout_ms // (REFUSALS - 1))
        self._registered = 0
        self._subjects: dict[BrokerId, _Subject] = {}
        self._effects: list[Effect] = []

    @property
    def suspects(self) -> dict[BrokerId, BrokerEpoch]:
        """Whom we suspect now, each by the epoch of the registration concerned."""
        return {
            subject.broker_id: subject.epoch
            for subject in self._subjects.values()
            if subject.suspected_since_ms is not None
        }

    def avoided(self, now_ms: int) -> frozenset[BrokerId]:
        """Whom clients are better not sent to now."""
        return frozenset(
            subject.broker_id
            for subject in self._subjects.values()
            if subject.avoided
            and subject.silent_since_ms is not None
            and now_ms - subject.silent_since_ms < self._patience_ms
        )

    @property
    def held_back_count(self) -> int:
        """Brokers against whom the evidence is complete and not acted upon."""
        return sum(
            subject.convicted and subject.suspected_since_ms is None
            for subject in self._subjects.values()
        )

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """Take one event. Each about an attempt or a connection has a `TryAgain` among its effects,
        unless a connection stands after it."""
        match event:
            case BrokersRegistered(watched, registered):
                self._registered = registered
                self._learn(watched, now_ms)
            case Connected(broker_id):
                self._connected(self._subjects[broker_id], now_ms)
            case Stood(broker_id):
                self._withdraw(self._subjects[broker_id], Reason.ANSWERED, now_ms)
            case Lost(broker_id):
                self._lost(self._subjects[broker_id], now_ms)
            case Refused(broker_id):
                self._refused(self._subjects[broker_id], now_ms)
            case Failed(broker_id):
                self._failed(self._subjects[broker_id], now_ms)
            case _:
                assert_never(event)
        self._judge(now_ms)
        effects, self._effects = self._effects, []
        return effects

    def _learn(self, watched: Mapping[BrokerId, BrokerEpoch], now_ms: int) -> None:
        for broker_id, subject in list(self._subjects.items()):
            if watched.get(broker_id) != subject.epoch:
                anew = broker_id in watched
                self._withdraw(subject, Reason.REGISTERED_ANEW if anew else Reason.GONE, now_ms)
                del self._subjects[broker_id]
        for broker_id, epoch in sorted(watched.items()):
            if broker_id not in self._subjects:
                self._subjects[broker_id] = _Subject(broker_id, epoch)

    def _connected(self, subject: _Subject, now_ms: int) -> None:
        subject.connected_ms = now_ms
        subject.silent_since_ms = None
        subject.refusals = 0
        subject.held_back = subject.avoided = False
        if subject.suspected_since_ms is None:
            subject.convicted = False
        else:
            self._effects.append(WaitStanding(subject.broker_id, now_ms + ANSWER_MS))

    def _lost(self, subject: _Subject, now_ms: int) -> None:
        subject.silent_since_ms = now_ms
        if now_ms - subject.connected_ms >= self._timeout_ms:
            subject.pause_ms = 0
            subject.avoided = True
            self._effects.append(TryAgain(subject.broker_id, now_ms))
        else:
            # Accepted and hung up on: whoever does that is there, and would do it again.
            self._try_at_leisure(subject, now_ms)

    def _refused(self, subject: _Subject, now_ms: int) -> None:
        subject.avoided = subject.silent_since_ms is not None
        if subject.silent_since_ms is None or subject.convicted:
            self._try_at_leisure(subject, now_ms)
            return
        if not subject.refusals:
            subject.refused_since_ms = now_ms
        subject.refusals += 1
        lasted_ms = now_ms - subject.refused_since_ms
        subject.convicted = subject.refusals >= REFUSALS and lasted_ms >= self._timeout_ms
        self._effects.append(TryAgain(subject.broker_id, now_ms + self._interval_ms))

    def _failed(self, subject: _Subject, now_ms: int) -> None:
        subject.refusals = 0
        subject.avoided = False
        if subject.suspected_since_ms is None:
            subject.convicted = False
            subject.held_back = False
        self._try_at_leisure(subject, now_ms)

    def _try_at_leisure(self, subject: _Subject, now_ms: int) -> None:
        subject.pause_ms = min(max(2 * subject.pause_ms, self._interval_ms), RETRY_MAX_MS)
        self._effects.append(TryAgain(subject.broker_id, now_ms + subject.pause_ms))

    def _withdraw(self, subject: _Subject, reason: Reason, now_ms: int) -> None:
        since_ms = subject.suspected_since_ms
        subject.suspected_since_ms = None
        subject.convicted = False
        if since_ms is not None:
            self._effects.append(
                Withdraw(subject.broker_id, subject.epoch, reason, now_ms - since_ms)
            )

    def _judge(self, now_ms: int) -> None:
        """Suspect all who are convicted, or none of those who are not suspected yet."""
        silent = tuple(s.broker_id for s in self._subjects.values() if s.is_silent)
        for subject in self._subjects.values():
            if not subject.convicted or subject.suspected_since_ms is not None:
                continue
            if 2 * len(silent) < self._registered:
                assert subject.silent_since_ms is not None
                subject.suspected_since_ms = now_ms
                self._effects.append(
                    Suspect(
                        subject.broker_id,
                        subject.epoch,
                        now_ms - subject.silent_since_ms,
                        subject.refusals,
                    )
                )
            elif not subject.held_back:
                subject.held_back = True
                self._effects.append(
                    HoldBack(subject.broker_id, subject.epoch, silent, self._registered)
                )
