"""So many bytes per second, over all who pay for what they moved."""

import math

import trio

from zkafka.config import DOUBLE_MAX


class Throttle:
    """Bytes are paid for in the order of their `pay`; time in which nobody owes is not saved up.

    A rate of nothing, which Kafka accepts as well, has everybody wait for another rate.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._owed = self._paid = 0.0
        self._settled_at = -math.inf
        self._changed = trio.Event()

    def change(self, bytes_per_s: float) -> None:
        """Go on at this rate, also those who wait."""
        self._settle()
        self._bytes_per_s = bytes_per_s
        self._changed.set()
        self._changed = trio.Event()

    async def pay(self, size: int) -> None:
        """Waits until `size` bytes more may have been moved; not at all without a limit."""
        self._settle()
        self._owed += size
        mine = self._owed
        while self._paid < mine and self._bytes_per_s < DOUBLE_MAX:
            wait_s = math.inf
            if self._bytes_per_s > 0:
                wait_s = (mine - self._paid) / self._bytes_per_s
            with trio.move_on_after(wait_s) as waiting:
                await self._changed.wait()
            self._settle()
            if waiting.cancelled_caught:
                self._paid = max(self._paid, mine)  # Whatever has been lost in rounding.

    def _settle(self) -> None:
        """Count what was paid until now."""
        now = trio.current_time()
        if self._bytes_per_s >= DOUBLE_MAX:
            self._paid = self._owed
        elif self._paid < self._owed and self._bytes_per_s > 0:
            self._paid = min(self._owed, self._paid + self._bytes_per_s * (now - self._settled_at))
        self._settled_at = now
