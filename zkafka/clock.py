"""One clock with two readings.

Monotonic for deadlines (trio's, so that a test's `MockClock` drives it), wall for timestamps and
retention (the system's, which may step). A simulation hands in another `wall`.
"""

import time
from collections.abc import Callable

import attrs
import trio


@attrs.frozen
class Clock:
    """Asked for the time by the driving parts; machines get `now_ms` as an argument."""

    wall: Callable[[], float] = time.time

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary start; never goes back."""
        return int(trio.current_time() * 1000)

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, for timestamps of records, znodes and retention."""
        return int(self.wall() * 1000)
