"""A follower's fetch of one partition, where nothing else in its session is due.

The same as `fetch` would do, for the case that comes with every record written alone: asked of
whom and answered as there, but with one look instead of a collection of them, and read and written
by hand (`protocol/hot_fetch.py`). Where it turns out to be another case after all (an error, logs
that part, other partitions that moved meanwhile) what was found so far is handed to `fetch`, which
goes on from there. A test holds the answers of both equal (tests/unit/server/test_lone_fetch.py).
"""

from collections.abc import Callable

from zkafka.errors import ErrorCode
from zkafka.model import TopicPartition
from zkafka.protocol.codec import Parts
from zkafka.protocol.hot_fetch import LoneFetch, answer
from zkafka.protocol.messages.fetch import FetchResponse
from zkafka.replication.replicas import PartitionRead
from zkafka.server.context import RequestContext
from zkafka.server.fetch_sessions import FetchedPartition, FetchSession, Waiting
from zkafka.server.handlers import fetch


def begin(
    request: LoneFetch, context: RequestContext
) -> "Parts | FetchResponse | fetch.WaitingFetch | WaitingLoneFetch | None":
    """As `fetch.begin`, though the answer may be in its final form; None, with nothing done, where
    the session has more to tell, or is not what the request takes it for."""
    parts = context.parts
    if request.replica_id < 0:
        return None
    now_ms = parts.clock.monotonic_ms()
    found = parts.fetch_sessions.begin_alone(request, parts.metadata.image, now_ms)
    if found is None:
        return None
    session, fetched = found
    waiting = WaitingLoneFetch(request, context, session, fetched, now_ms + request.max_wait_ms)
    read = waiting.look(first_pass=True)
    if read.error is not ErrorCode.NONE or read.diverging is not None:
        general = waiting.in_general()
        with general:
            return general.conclude(len(session))
    if read.size < request.min_bytes and request.max_wait_ms > 0:
        return waiting
    try:
        return waiting.answer()
    finally:
        waiting.close()


class WaitingLoneFetch:
    """As `fetch.WaitingFetch`. Ownership: whoever has it closes it."""

    __slots__ = (
        "_context", "_deadline_ms", "_epoch", "_fetched", "_general", "_read", "_session", "_sleep",
        "request",
    )  # fmt: skip

    def __init__(
        self,
        request: LoneFetch,
        context: RequestContext,
        session: FetchSession,
        fetched: FetchedPartition,
        deadline_ms: int,
    ) -> None:
        self.request = request
        self._context = context
        self._session = session
        self._epoch = session.epoch
        self._fetched = fetched
        self._deadline_ms = deadline_ms
        self._read: PartitionRead | None = None
        self._sleep: Waiting | None = None
        self._general: fetch.WaitingFetch | None = None

    def look(self, *, first_pass: bool) -> PartitionRead:
        """Read the partition, in place of what was read of it before."""
        self._release()
        request, parts = self.request, self._context.parts
        read = self._read = parts.replicas.read(
            self._fetched,
            replica_id=request.replica_id,
            replica_epoch=request.replica_epoch,
            isolation=request.isolation_level,
            max_bytes=min(request.max_bytes, parts.config.fetch_max_bytes),
            at_least_one=True,
            first_pass=first_pass,
        )
        return read

    def when_over(self, call: Callable[[], None]) -> None:
        """Have it called when there may be enough to answer, or time is up."""
        self._sleep = self._session.watch.call_after(self._judge, self._deadline_ms, call)

    def _judge(self, name: TopicPartition) -> bool:
        request = self.request
        if self._general is None and name == self._fetched.topic_partition:
            available = self._context.parts.replicas.bytes_available(
                self._fetched,
                replica_id=request.replica_id,
                isolation=request.isolation_level,
                wanted=request.min_bytes,
            )
            return available is None or available >= request.min_bytes
        # Another partition of the session, or there was one: what counts is the sum.
        first = self._general is None
        general = self.in_general()
        return (first and general.judge(self._fetched.topic_partition)) or general.judge(name)

    def answer(self) -> Parts | FetchResponse:
        """What there is now, whether or not it is enough. No checkpoint in here."""
        session, fetched, context = self._session, self._fetched, self._context
        moved = session.moved()
        if self._general is not None or (
            moved and (moved != [fetched] or fetched.named_in is not context.parts.metadata.image)
        ):
            return self.in_general().answer(moved)
        if moved:
            self.look(first_pass=False)
        read = self._read
        assert read is not None
        if (
            read.error is not ErrorCode.NONE
            or read.diverging is not None
            or session.epoch != self._epoch
        ):
            return self.in_general().answer([])
        size = read.size
        if not fetched.told(
            read.high_watermark, read.log_start_offset, failed=False, urgent=size > 0
        ):
            return self.in_general().answer([])
        session.settled(fetched, sent=size > 0, settled=not size)
        context.parts.traffic.fetched(
            fetched.topic_partition.topic, size=size, replica_id=self.request.replica_id
        )
        head, end = answer(
            context.header.correlation_id,
            session.session_id,
            self.request.topic_id,
            fetched.partition,
            read.high_watermark,
            read.last_stable_offset,
            read.log_start_offset,
            size,
        )
        self._read = None
        return [head, read.slice, end] if read.slice is not None else [head + end]

    def in_general(self) -> fetch.WaitingFetch:
        """The same, with what was read so far, as the general way has it."""
        if self._general is None:
            self._general = fetch.resumed(
                self.request,
                self._context,
                self._session,
                self._epoch,
                self._fetched,
                self._read,
                self._deadline_ms,
            )
            self._read = None
        return self._general

    def _release(self) -> None:
        read, self._read = self._read, None
        if read is not None and read.slice is not None:
            read.slice.release()

    def close(self) -> None:
        """Wait no longer, and give back what was read."""
        if self._sleep is not None:
            self._sleep.cancel()
        self._release()
        if self._general is not None:
            self._general.close()
