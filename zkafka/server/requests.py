"""How many requests of which API came, how they ended and how long they took: Kafka's
RequestMetrics.

Counted once per request, by the dispatcher; a Fetch counts as FetchConsumer or FetchFollower. Time
runs from the dispatcher's first look at a request until its answer is ready to be sent, so it
includes the waiting for replicas or bytes, and excludes the queue before and the socket after.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

import attrs

BOUNDS_MS = (
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0,
    10_000.0, 30_000.0,
)  # fmt: skip
"""Upper bounds of the histogram's buckets, inclusive; a last one has no bound. Wide enough for a
lone produce (a tenth of a millisecond) and for request.timeout.ms."""


@attrs.define
class ApiCounters:
    """One API's totals since the start; `buckets` has one count more than `BOUNDS_MS`."""

    requests: Counter[int] = attrs.Factory(Counter)
    """By version."""
    errors: Counter[int] = attrs.Factory(Counter)
    """By code, one for each place of a response that has one; 0 counts too, as in Kafka."""
    request_bytes: int = 0
    time_ms: float = 0.0
    buckets: list[int] = attrs.Factory(lambda: [0] * (len(BOUNDS_MS) + 1))

    def came(self, version: int, size: int) -> None:
        """A request of `size` bytes is about to be answered."""
        self.requests[version] += 1
        self.request_bytes += size

    def took(self, time_ms: float) -> None:
        """A request was answered."""
        self.time_ms += time_ms
        self.buckets[bisect_left(BOUNDS_MS, time_ms)] += 1

    @property
    def count(self) -> int:
        """Requests answered."""
        return sum(self.buckets)


class RequestCounters:
    """The counters of one broker, by request name: `Produce`, `FetchConsumer`, ..."""

    def __init__(self) -> None:
        self._apis: dict[str, ApiCounters] = {}

    def of(self, name: str) -> ApiCounters:
        """The counters of one kind of request."""
        counters = self._apis.get(name)
        if counters is None:
            counters = self._apis[name] = ApiCounters()
        return counters

    def statistics(self) -> Mapping[str, ApiCounters]:
        """All of them."""
        return dict(self._apis)
