"""Blocks of producer ids, taken from the controller ahead of need.

The controller gives a block of a thousand ids to a broker for good (AllocateProducerIds, KIP-730);
what a broker does not use is lost when it stops, and nobody minds. When a tenth of the block is
left, the next one is asked for, so that a producer waits for the controller only at a broker's
start, or when ids go faster than the controller answers. Those who wait are served in the order in
which they came.

Holds: no id is given out twice, by this broker or by any other; ids of one block go out in order.

Source: `RPCProducerIdManager` of Apache Kafka 3.9. Where we differ: it refuses whom it cannot serve
at once, for the client to ask again; we let them wait, and the handler decides how long.
"""

import collections
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from zkafka.errors import ErrorCode, PeerUnreachable
from zkafka.model import BrokerEpoch, BrokerId, ProducerId
from zkafka.protocol.messages.allocate_producer_ids import (
    AllocateProducerIdsRequest,
    AllocateProducerIdsResponse,
)

log = logging.getLogger(__name__)

_PREFETCH_SHARE: Final = 0.1
"""The next block is asked for when this share of the current one is left; Kafka's number."""

_RETRY_MS: Final = 50
_RETRY_MAX_MS: Final = 1000
"""Pauses between attempts, doubling: a controller's election takes a moment, ZooKeeper's outage
longer."""


@attrs.frozen(kw_only=True)
class ProducerIdStatistics:
    """`available_count` ids can be given out without asking; `waiting_count` producers wait."""

    available_count: int
    waiting_count: int
    blocks_total: int


@attrs.define(eq=False)
class _Waiter:
    served: trio.Event
    producer_id: ProducerId = -1


class ProducerIds:
    """Gives out producer ids; `run` is the task that fetches blocks of them.

    `ask_controller` sends a request to whoever is the controller and returns the response; it
    raises `PeerUnreachable`.
    """

    def __init__(
        self,
        *,
        broker_id: BrokerId,
        broker_epoch: Callable[[], BrokerEpoch],
        ask_controller: Callable[[AllocateProducerIdsRequest], Awaitable[Any]],
    ) -> None:
        self._broker_id = broker_id
        self._broker_epoch = broker_epoch
        self._ask_controller = ask_controller
        self._current = range(0)
        self._next = range(0)
        # No more of them than requests being served, which the connections bound.
        self._waiters: collections.deque[_Waiter] = collections.deque()
        self._wanted = trio.Event()
        self._block_size = 0
        self._blocks_total = 0

    async def allocate(self) -> ProducerId:
        """An id that nobody has had.

        Waits: for a block, in the order of the calls, for as long as there is none. A cancellation
        loses no place of others, and at most one id.
        """
        await trio.lowlevel.checkpoint()
        if not self._waiters:
            producer_id = self._take()
            if producer_id is not None:
                return producer_id
        waiter = _Waiter(trio.Event())
        self._waiters.append(waiter)
        self._wanted.set()
        try:
            await waiter.served.wait()
        finally:
            if not waiter.served.is_set():
                self._waiters.remove(waiter)
        return waiter.producer_id

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch the next block whenever one is wanted. Ends only by cancellation.

        The first block is fetched when the first producer asks: most clusters have brokers that
        none ever asks.
        """
        task_status.started()
        while True:
            await self._wanted.wait()
            block = await self._fetch()
            assert not self._next, "a block was fetched that nobody wanted"
            self._next = block
            self._block_size = len(block)
            self._blocks_total += 1
            self._wanted = trio.Event()
            self._serve()

    def _take(self) -> ProducerId | None:
        """The next id at hand; asks for another block when few are left."""
        if not self._current and self._next:
            self._current, self._next = self._next, range(0)
        if not self._current:
            return None
        producer_id, self._current = self._current[0], self._current[1:]
        if not self._next and len(self._current) <= self._block_size * _PREFETCH_SHARE:
            self._wanted.set()
        return producer_id

    def _serve(self) -> None:
        while self._waiters:
            producer_id = self._take()
            if producer_id is None:
                self._wanted.set()
                return
            waiter = self._waiters.popleft()
            waiter.producer_id = producer_id
            waiter.served.set()

    async def _fetch(self) -> range:
        """A block, however long it takes to get one."""
        pause_ms = _RETRY_MS
        while True:
            block = await self._try_fetch()
            if block is not None:
                return block
            await trio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, _RETRY_MAX_MS)

    async def _try_fetch(self) -> range | None:
        request = AllocateProducerIdsRequest(
            broker_id=self._broker_id, broker_epoch=self._broker_epoch()
        )
        try:
            response = await self._ask_controller(request)
        except PeerUnreachable as error:
            log.info("no producer ids yet broker=%d: %s", self._broker_id, error)
            return None
        assert isinstance(response, AllocateProducerIdsResponse)
        if response.error_code != ErrorCode.NONE or response.producer_id_len <= 0:
            log.info(
                "no producer ids yet broker=%d error=%s",
                self._broker_id,
                ErrorCode.of(response.error_code).name,
            )
            return None
        first = response.producer_id_start
        return range(first, first + response.producer_id_len)

    def statistics(self) -> ProducerIdStatistics:
        """Ids at hand, and who waits for one."""
        return ProducerIdStatistics(
            available_count=len(self._current) + len(self._next),
            waiting_count=len(self._waiters),
            blocks_total=self._blocks_total,
        )
