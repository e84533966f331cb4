"""Standing for election, and carrying out what the machine decides.

One task stands for election and, when elected, governs: it takes one event at a time from a queue,
lets the machine decide, carries out the effects in order, and gives back what they brought. All
tasks of a term of office (the channels to brokers, the balance timer) live in one nursery that ends
with it, so that resigning is one cancellation.

What enters the queue:

- *looks*: something watched has moved, read it again (and arm the watch again by reading). A look
  that is already queued is not queued twice, so that looks are bounded by what is watched.
- *requests* of brokers and operators, each with a task asleep until it is answered; bounded by the
  connections, since a connection has one such request in flight.
- *answers* of brokers to our requests; bounded by those requests.

The session decides how much may be done:

| session   | the controller                                                                  |
|-----------|---------------------------------------------------------------------------------|
| CONNECTED | governs                                                                         |
| SUSPENDED | takes no event; an effect that was interrupted is repeated after the            |
|           | reconnection: each write is fenced and conditional, and the machine reads back  |
|           | what it cannot tell (laws of `machine.py`). Then everything watched is looked at |
| LOST      | has resigned, at once, with its queue cleared; those waiting get NOT_CONTROLLER  |

Whom the broker's own sentinels suspect to be dead (`suspicion.py`) it is told by `suspect`. In
office that is one more thing to look at: a suspect counts as failed from the first event of the
term. A candidate that suspects the controller *deposes* it: it removes /controller, fenced by the
epoch of that very term, and stands like everybody else. Once per suspicion: a controller that is
alive may be elected again, and the doubt of one broker must not keep the cluster without any. One
that finds its own /controller removed lets the others stand first (`DEPOSED_PAUSE_S`).

A write that is fenced (`FencedEpoch`) ends the term as well: somebody else was elected. So does any
other failure that leaves an effect undone; then /controller is given up (fenced), so that another
broker, or this one again, can begin afresh from what ZooKeeper holds.

Source: `KafkaController` and `ControllerEventManager` of Apache Kafka 3.9; znodes of KIP-380.
"""

import collections
import logging
import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, assert_never

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import BrokerConfig, LogConfig
from zkafka.controller.channels import Channels, ChannelStatistics
from zkafka.controller.context import LiveBroker
from zkafka.controller.events import (
    AlterPartitionRequested,
    Answer,
    BalanceCheckDue,
    BrokersChanged,
    ClearPreferredElections,
    ClearTopicDeletion,
    CloseChannel,
    ControlledShutdownRequested,
    ControlRequest,
    DeleteTopicNodes,
    Effect,
    ElectionResult,
    ElectLeadersRequested,
    Event,
    IsrChangesNoted,
    LeaderAndIsrAnswered,
    LogDirsFailed,
    NoteState,
    NoteTrouble,
    OpenChannel,
    Outcome,
    PartitionStatesRead,
    PartitionStatesWritten,
    PreferredElectionsMarked,
    ReadPartitionStates,
    ReadUncleanElection,
    RewriteTopic,
    SendRequest,
    ShutdownResult,
    StopReplicaAnswered,
    SuspectsChanged,
    TookOffice,
    TopicChanged,
    TopicDeletionsMarked,
    TopicsChanged,
    UncleanElectionEnabled,
    UncleanElectionRead,
    WritePartitionStates,
)
from zkafka.controller.machine import ControllerMachine
from zkafka.errors import (
    ConfigError,
    CoordinationError,
    ErrorCode,
    FencedEpoch,
    SessionLost,
    SessionSuspended,
)
from zkafka.model import (
    NO_EPOCH,
    BrokerEpoch,
    BrokerId,
    BrokerInfo,
    ControllerEpoch,
    TopicPartition,
)
from zkafka.protocol.messages.allocate_producer_ids import (
    AllocateProducerIdsRequest,
    AllocateProducerIdsResponse,
)
from zkafka.protocol.messages.alter_partition import (
    AlterPartitionRequest,
    AlterPartitionResponse,
)
from zkafka.protocol.messages.controlled_shutdown import (
    ControlledShutdownRequest,
    ControlledShutdownResponse,
    RemainingPartition,
)
from zkafka.protocol.messages.leader_and_isr import LeaderAndIsrRequest
from zkafka.protocol.messages.stop_replica import StopReplicaRequest
from zkafka.zk import znodes
from zkafka.zk.operations import Hint, HintKind
from zkafka.zk.znodes import Fence, TopicZnode

if TYPE_CHECKING:
    from zkafka.net.peer import Peer
    from zkafka.zk.session import Session
    from zkafka.zk.store import Store

log = logging.getLogger(__name__)
state_change = logging.getLogger("zkafka.state_change")

FIRST_BALANCE_S: Final = 5.0
"""From taking office to the first look at the leaders' balance; Kafka's number."""
RESTAND_PAUSE_S: Final = 0.5
"""After a failed term, before standing again: long enough for another broker to be elected first,
and for a cause that does not go away not to fill the log."""
DEPOSED_PAUSE_S: Final = 5.0
"""How long a controller whose /controller was removed by somebody else leaves the office to the
others, who stand at once: it is not deposed a second time, and they may have had a reason. Half a
second was too short on a machine whose disk was busy."""
GIVE_UP_S: Final = 2.0
"""Longest wait for ZooKeeper when giving up the office: the session's end will do it as well."""

T = TypeVar("T")


@attrs.frozen
class Look:
    """Read something again: `what` is a path that is watched, or `SUSPECTS`."""

    what: str


Item: TypeAlias = Look | Event

SUSPECTS: Final = "suspects"
"""No path: whom our own sentinels suspect."""


class Ask:
    """One waiting request: `done` with its response, or with None when the term ended first."""

    def __init__(self) -> None:
        self.response: Any = None
        self._answered = trio.Event()

    def answer(self, response: Any) -> None:
        """Let the waiting task go on."""
        self.response = response
        self._answered.set()

    async def wait(self) -> Any:
        """The response; None: we are not the controller, or no longer."""
        await self._answered.wait()
        return self.response


class EventQueue:
    """What is still to be processed, in order; see the module's docstring for its bound."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._items: collections.deque[tuple[int, Item]] = collections.deque()
        self._looks: set[Look] = set()
        self._filled = trio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Queue it; a look that waits already is not queued again."""
        if isinstance(item, Look):
            if item in self._looks:
                return
            self._looks.add(item)
        self._items.append((self._clock.monotonic_ms(), item))
        self._filled.set()

    async def get(self) -> tuple[int, Item]:
        """The oldest item, and when it was put. Waits until there is one."""
        while not self._items:
            self._filled = trio.Event()
            await self._filled.wait()
        put_ms, item = self._items.popleft()
        if isinstance(item, Look):
            # From here on a new hint means a new look: this one has yet to read.
            self._looks.discard(item)
        return put_ms, item


@attrs.define
class Timing:
    """How often something was done, and how long it took."""

    count: int = 0
    total_ms: int = 0
    max_ms: int = 0

    def add(self, elapsed_ms: int) -> None:
        """One more."""
        self.count += 1
        self.total_ms += elapsed_ms
        self.max_ms = max(self.max_ms, elapsed_ms)


@attrs.frozen(kw_only=True)
class ControllerStatistics:
    """What operators watch. Counts of the cluster are 0 on a broker that is not the controller."""

    is_active: bool
    controller_epoch: ControllerEpoch
    controller_state: int
    """Kafka's `ControllerState` gauge: 0 idle, else what is being processed."""
    active_broker_count: int
    global_topic_count: int
    global_partition_count: int
    offline_partitions_count: int
    preferred_replica_imbalance_count: int
    topics_to_delete_count: int
    topics_ineligible_to_delete_count: int
    event_queue_size: int
    event_queue_time: Timing
    event_times: Mapping[str, Timing]
    """By the event's class name: `BrokersChanged` is Kafka's LeaderElectionRateAndTimeMs."""
    clean_elections_total: int
    unclean_elections_total: int
    failed_elections_total: int
    terms_total: int
    """How often this broker was elected."""
    depositions_total: int
    """How often this broker removed a controller that it suspected."""
    channels: Mapping[BrokerId, ChannelStatistics]


_STATE_OF_EVENT: Mapping[type[Any], int] = {
    TookOffice: 1,
    BrokersChanged: 2,
    SuspectsChanged: 2,
    TopicsChanged: 3,
    TopicChanged: 3,
    TopicDeletionsMarked: 4,
    StopReplicaAnswered: 4,
    BalanceCheckDue: 6,
    ElectLeadersRequested: 7,
    PreferredElectionsMarked: 7,
    ControlledShutdownRequested: 8,
    AlterPartitionRequested: 9,
    IsrChangesNoted: 9,
    LeaderAndIsrAnswered: 10,
    LogDirsFailed: 11,
    UncleanElectionEnabled: 14,
}
"""The values that the `ControllerState` gauge of Apache Kafka 3.9 has for them."""


class _Term:
    """One term of office: what must vanish with it."""

    def __init__(
        self, fence: Fence, machine: ControllerMachine, channels: Channels, queue: EventQueue
    ) -> None:
        self.fence = fence
        self.machine = machine
        self.channels = channels
        self.queue = queue
        self.scope = trio.CancelScope()
        self.asks: set[Ask] = set()
        self.in_office = False
        """Whether everything was read; until then there is nothing to judge requests by."""


class Controller:
    """This broker's part in controlling the cluster: candidate, or controller.

    `run` is the only task; the methods may be called from any other task of the loop. `connect`
    makes a connection to a broker for control requests (on demand, retried by the channels).
    `log_defaults` is what topics without overrides get now, dynamic settings included.
    """

    def __init__(
        self,
        *,
        broker_id: BrokerId,
        store: "Store",
        session: "Session",
        connect: "Callable[[BrokerInfo], Peer]",
        config: BrokerConfig,
        clock: Clock,
        log_defaults: Callable[[], LogConfig] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._log_defaults = log_defaults or (lambda: config.log_defaults)
        self._broker_id = broker_id
        self._store = store
        self._session = session
        self._connect = connect
        self._config = config
        self._clock = clock
        self._rng = rng or random.Random()
        self._term: _Term | None = None
        self._retired = False
        self._stands_at = -math.inf
        """Not before this time, once we were deposed."""
        self._suspects: Mapping[BrokerId, BrokerEpoch] = {}
        self._deposed: Mapping[BrokerId, BrokerEpoch] = {}
        """Suspected controllers that were deposed, for as long as they are suspected."""
        self._depositions_total = 0
        self._stirred = trio.Event()
        self._busy_with = 0
        self._queue_time = Timing()
        self._event_times: dict[str, Timing] = {}
        self._past_elections = [0, 0, 0]
        self._terms_total = 0

    # What others ask.

    @property
    def is_active(self) -> bool:
        """Whether this broker is the controller, as far as it knows."""
        return self._term is not None

    @property
    def controller_epoch(self) -> ControllerEpoch:
        """Our term's epoch; -1 when not the controller."""
        return NO_EPOCH if self._term is None else self._term.fence.controller_epoch

    async def alter_partition(
        self, request: AlterPartitionRequest, version: int = 3
    ) -> AlterPartitionResponse:
        """A leader's ISR proposals. Waits until they are decided, written or refused."""
        response = await self._ask(lambda ask: AlterPartitionRequested(request, version, ask))
        if response is None:
            return AlterPartitionResponse(error_code=ErrorCode.NOT_CONTROLLER)
        assert isinstance(response, AlterPartitionResponse)
        return response

    async def controlled_shutdown(
        self, request: ControlledShutdownRequest, version: int = 3
    ) -> ControlledShutdownResponse:
        """A broker asks to leave. Waits until its leaders are moved as far as they can be."""
        epoch = request.broker_epoch if version >= 2 else NO_EPOCH
        result = await self._ask(
            lambda ask: ControlledShutdownRequested(request.broker_id, epoch, ask)
        )
        if result is None:
            return ControlledShutdownResponse(error_code=ErrorCode.NOT_CONTROLLER)
        assert isinstance(result, ShutdownResult)
        return ControlledShutdownResponse(
            error_code=result.error,
            remaining_partitions=[
                RemainingPartition(topic_name=tp.topic, partition_index=tp.partition)
                for tp in result.remaining
            ],
        )

    async def elect_leaders(
        self, partitions: Sequence[TopicPartition] | None, *, unclean: bool
    ) -> Mapping[TopicPartition, ElectionResult] | None:
        """Elections by request; `partitions` None means all. None: not the controller."""
        results: Mapping[TopicPartition, ElectionResult] | None = await self._ask(
            lambda ask: ElectLeadersRequested(partitions, unclean, ask)
        )
        return results

    async def allocate_producer_ids(
        self, request: AllocateProducerIdsRequest
    ) -> AllocateProducerIdsResponse:
        """A block of producer ids for a registered broker, never given to anybody else.

        Errors, as codes: NOT_CONTROLLER, BROKER_ID_NOT_REGISTERED, STALE_BROKER_EPOCH; and
        COORDINATOR_LOAD_IN_PROGRESS, which is retriable, while ZooKeeper does not answer. A block
        whose reply is lost is lost with it.
        """
        term = self._term
        if term is None or not term.in_office:
            return AllocateProducerIdsResponse(error_code=ErrorCode.NOT_CONTROLLER)
        broker = term.machine.context.registered.get(request.broker_id)
        if broker is None:
            return AllocateProducerIdsResponse(error_code=ErrorCode.BROKER_ID_NOT_REGISTERED)
        if broker.epoch != request.broker_epoch:
            return AllocateProducerIdsResponse(error_code=ErrorCode.STALE_BROKER_EPOCH)
        try:
            block = await self._store.allocate_producer_id_block(request.broker_id)
        except CoordinationError as error:
            log.warning("no producer ids broker=%d error=%s", request.broker_id, error)
            return AllocateProducerIdsResponse(error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        return AllocateProducerIdsResponse(
            producer_id_start=block.first, producer_id_len=block.size
        )

    def unclean_election_enabled(self, topic: str | None) -> None:
        """unclean.leader.election.enable was turned on for a topic, or (None) everywhere."""
        self._put(UncleanElectionEnabled(topic))

    def suspect(self, suspects: Mapping[BrokerId, BrokerEpoch]) -> None:
        """Whom this broker suspects to be dead from now on, all of them; see `SuspectsChanged`."""
        self._suspects = suspects
        self._deposed = {b: e for b, e in self._deposed.items() if suspects.get(b) == e}
        self._put(Look(SUSPECTS))
        self._stirred.set()

    def statistics(self) -> ControllerStatistics:
        """How the controller fares; counts the cluster's partitions, so not for the hot path."""
        term = self._term
        context = None if term is None else term.machine.context
        clean, unclean, failed = self._elections()
        return ControllerStatistics(
            is_active=term is not None,
            controller_epoch=self.controller_epoch,
            controller_state=self._busy_with,
            active_broker_count=len(context.brokers) if context else 0,
            global_topic_count=len(context.topic_ids) if context else 0,
            global_partition_count=len(context.assignments) if context else 0,
            offline_partitions_count=context.offline_partition_count() if context else 0,
            preferred_replica_imbalance_count=(
                context.preferred_replica_imbalance_count() if context else 0
            ),
            topics_to_delete_count=len(context.topics_to_delete) if context else 0,
            topics_ineligible_to_delete_count=len(context.deletions_ineligible) if context else 0,
            event_queue_size=len(term.queue) if term else 0,
            event_queue_time=attrs.evolve(self._queue_time),
            event_times={name: attrs.evolve(t) for name, t in sorted(self._event_times.items())},
            clean_elections_total=clean,
            unclean_elections_total=unclean,
            failed_elections_total=failed,
            terms_total=self._terms_total,
            depositions_total=self._depositions_total,
            channels=term.channels.statistics() if term else {},
        )

    def _elections(self) -> tuple[int, int, int]:
        clean, unclean, failed = self._past_elections
        if self._term is not None:
            counts = self._term.machine.elections
            clean, unclean, failed = (
                clean + counts.clean,
                unclean + counts.unclean,
                failed + counts.failed,
            )
        return clean, unclean, failed

    async def _ask(self, event: Callable[[Ask], Event]) -> Any:
        term = self._term
        if term is None:
            return None
        ask = Ask()
        term.asks.add(ask)
        term.queue.put(event(ask))
        try:
            return await ask.wait()
        finally:
            # The event may still be processed, for nobody.
            term.asks.discard(ask)

    def _put(self, item: Item) -> None:
        if self._term is not None:
            self._term.queue.put(item)

    # The task.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stand for election, govern while elected, again and again; until cancelled.

        A cancellation leaves /controller to the end of the session, as a killed broker does, unless
        `resign` was called before.
        """
        hints = self._session.subscribe()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, hints)
            task_status.started()
            while True:
                fence = await self._stand()
                await self._govern(fence)

    async def resign(self) -> None:
        """Give up the office, if we hold it, and stand no more: another broker is elected at once.

        For an orderly shutdown. Errors: none; what ZooKeeper refuses, its session's end will do.
        """
        self._retired = True
        term = self._term
        if term is None:
            return
        self._leave(term, "shutting down")
        with trio.move_on_after(GIVE_UP_S):
            await self._give_up(term.fence)

    async def _listen(self, hints: "trio.MemoryReceiveChannel[Hint]") -> None:
        """Turn hints into looks; forget the office at once when the session is lost."""
        async for hint in hints:
            match hint.kind:
                case HintKind.SUSPENDED:
                    continue
                case HintKind.EXPIRED:
                    if self._term is not None:
                        self._leave(self._term, "session lost")
                case HintKind.CONNECTED:
                    # Watches do not survive a lost connection.
                    if self._term is not None:
                        self._look_at_everything(self._term)
                case HintKind.DATA | HintKind.CHILDREN | HintKind.CREATED | HintKind.DELETED:
                    self._put_look(hint.path)
                case _:
                    assert_never(hint.kind)
            if hint.is_session or hint.path == znodes.CONTROLLER:
                self._stirred.set()

    def _put_look(self, path: str) -> None:
        if path.startswith(f"{znodes.BROKER_IDS}/"):
            path = znodes.BROKER_IDS  # one broker's data changed: all are read in one go
        if path in _WATCHED or path.startswith(f"{znodes.TOPICS}/"):
            self._put(Look(path))

    def _look_at_everything(self, term: _Term) -> None:
        for path in _WATCHED:
            term.queue.put(Look(path))
        for name in sorted(term.machine.context.topic_ids):
            term.queue.put(Look(znodes.topic_path(name)))

    # Candidate.

    async def _stand(self) -> Fence:
        """Wait until we are elected."""
        while True:
            await self._session.wait_connected()
            self._stirred = trio.Event()
            if self._retired:
                await trio.sleep_forever()
            try:
                holder = await self._store.controller(watch=True)
                if holder is not None and holder in self._suspects:
                    await self._depose(holder, self._suspects[holder])
                if holder is None and trio.current_time() < self._stands_at:
                    with trio.move_on_at(self._stands_at):
                        await self._stirred.wait()
                    continue
                if holder in (None, self._broker_id):
                    # Our own id is there either by a won election whose reply was lost, which
                    # `elect` recognizes, or from a session of ours that is ending.
                    fence = await self._store.elect(self._broker_id, self._clock.wall_ms())
                    if fence is not None:
                        return fence
                    if holder is None:
                        continue  # lost to another, whom we read and watch now
            except (SessionSuspended, SessionLost):
                continue
            except CoordinationError as error:
                log.error("cannot stand for election broker=%d error=%s", self._broker_id, error)
                await trio.sleep(RESTAND_PAUSE_S)
                continue
            await self._stirred.wait()

    async def _depose(self, suspect: BrokerId, broker_epoch: BrokerEpoch) -> None:
        """Remove a controller that we suspect, once; our watch on /controller tells the rest."""
        if self._deposed.get(suspect) == broker_epoch:
            return
        if await self._store.depose(suspect, broker_epoch):
            if self._suspects.get(suspect) == broker_epoch:
                self._deposed = {**self._deposed, suspect: broker_epoch}
            self._depositions_total += 1
            state_change.warning(
                "deposed a controller that is suspected broker=%d controller=%d broker_epoch=%d",
                self._broker_id,
                suspect,
                broker_epoch,
            )

    # In office.

    async def _govern(self, fence: Fence) -> None:
        """One term of office, from being elected to resigning."""
        queue = EventQueue(self._clock)
        machine = ControllerMachine(
            controller_id=self._broker_id,
            controller_epoch=fence.controller_epoch,
            inter_broker_listener=self._config.inter_broker_listener_name,
            rng=self._rng,
            imbalance_percentage=self._config.leader_imbalance_per_broker_percentage,
            deletion_enabled=self._config.delete_topic_enable,
        )

        def answered(broker_id: BrokerId, request: ControlRequest, response: Any) -> None:
            match request:
                case LeaderAndIsrRequest():
                    queue.put(LeaderAndIsrAnswered(broker_id, request, response))
                case StopReplicaRequest():
                    queue.put(StopReplicaAnswered(broker_id, request, response))
                case _:
                    pass  # UpdateMetadata's answer tells nothing

        term = _Term(fence, machine, Channels(self._connect, answered), queue)
        self._term = term
        self._terms_total += 1
        state_change.info(
            "became controller broker=%d controller_epoch=%d",
            self._broker_id,
            fence.controller_epoch,
        )
        given_up = False
        with term.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(term.channels.run)
                try:
                    await self._take_office(term)
                    if self._config.auto_leader_rebalance_enable:
                        nursery.start_soon(self._balance, term)
                    while True:
                        put_ms, item = await queue.get()
                        self._queue_time.add(self._clock.monotonic_ms() - put_ms)
                        await self._process(term, item)
                except FencedEpoch as error:
                    self._leave(term, f"fenced: {error}")
                except SessionLost as error:
                    self._leave(term, f"session lost: {error}")
                except CoordinationError as error:
                    log.error(
                        "controller gives up its office broker=%d controller_epoch=%d error=%s",
                        self._broker_id,
                        fence.controller_epoch,
                        error,
                        exc_info=True,
                    )
                    given_up = True
                    self._leave(term, str(error))
        if given_up:
            await self._give_up(fence)
            await trio.sleep(RESTAND_PAUSE_S)

    def _leave(self, term: _Term, reason: str) -> None:
        """Be controller no longer, from this very moment; whoever waits gets NOT_CONTROLLER."""
        if self._term is not term:
            return
        clean, unclean, failed = self._elections()
        self._past_elections = [clean, unclean, failed]
        self._term = None
        self._busy_with = 0
        for ask in list(term.asks):
            ask.answer(None)
        term.scope.cancel()
        state_change.info(
            "resigned as controller broker=%d controller_epoch=%d reason=%s",
            self._broker_id,
            term.fence.controller_epoch,
            reason,
        )

    async def _give_up(self, fence: Fence) -> None:
        try:
            await self._store.resign(fence)
        except CoordinationError as error:
            # Somebody else holds it, or the session's end will remove it.
            log.info("could not delete /controller broker=%d error=%s", self._broker_id, error)

    async def _take_office(self, term: _Term) -> None:
        """Read everything, with watches armed, and let the machine settle it.

        In an order in which nothing is missed: each watch is armed by the read that it guards, and
        notifications are deleted before the states are read that they would tell of.
        """
        began_ms = self._clock.monotonic_ms()
        event = await self._patiently(lambda: self._read_everything(term))
        await self._play(term, event)
        term.in_office = True
        log.info(
            "took office broker=%d controller_epoch=%d brokers=%d partitions=%d elapsed_ms=%d",
            self._broker_id,
            term.fence.controller_epoch,
            len(event.brokers),
            len(event.states),
            self._clock.monotonic_ms() - began_ms,
        )

    async def _read_everything(self, term: _Term) -> TookOffice:
        store, fence = self._store, term.fence
        await store.ensure_feature()
        await store.delete_log_dir_events(fence, await store.log_dir_events(watch=True))
        await store.delete_isr_change_notifications(
            fence, await store.isr_change_notifications(watch=True)
        )
        preferred = await store.preferred_elections(watch=True)
        brokers = await self._read_brokers()
        names = await store.topics(watch=True)
        topics = await self._read_topics(names)
        partitions = [
            TopicPartition(name, index)
            for name, topic in sorted(topics.items())
            for index in sorted(topic.assignments)
        ]
        states = await store.partition_states(partitions)
        deletions = await store.topic_deletions(watch=True)
        await store.controller(watch=True)
        return TookOffice(
            brokers=brokers,
            topics=topics,
            states=states,
            deletions=frozenset(deletions),
            preferred_elections=frozenset(preferred or ()),
            suspects=self._suspects,
        )

    async def _read_brokers(self) -> dict[BrokerId, LiveBroker]:
        registered = await self._store.brokers(watch=True)
        return {
            broker_id: LiveBroker(broker.registration.info, broker.broker_epoch)
            for broker_id, broker in registered.items()
        }

    async def _read_topics(self, names: Collection[str]) -> dict[str, TopicZnode]:
        """The topics, with a watch on each. One that cannot be read (somebody wrote it by hand) is
        left out, and leaves the others alone."""
        try:
            return await self._store.read_topics(names, watch=True)
        except (SessionSuspended, SessionLost):
            raise
        except CoordinationError as error:
            if len(names) <= 1:
                log.error("topic left alone topics=%s error=%s", _listed(names), error)
                return {}
        read: dict[str, TopicZnode] = {}
        for name in sorted(names):
            read.update(await self._read_topics({name}))
        return read

    async def _balance(self, term: _Term) -> None:
        await trio.sleep(FIRST_BALANCE_S)
        while True:
            term.queue.put(BalanceCheckDue())
            await trio.sleep(self._config.leader_imbalance_check_interval_seconds)

    # Events.

    async def _process(self, term: _Term, item: Item) -> None:
        """One item of the queue, to its end."""
        await self._session.wait_connected()
        if not isinstance(item, Look):
            await self._play(term, item)
            return
        store, fence = self._store, term.fence
        match item.what:
            case znodes.CONTROLLER:
                holder = await self._patiently(lambda: store.controller(watch=True))
                if holder is None:
                    self._stands_at = trio.current_time() + DEPOSED_PAUSE_S
                    raise FencedEpoch("/controller was removed")
                if holder != self._broker_id:
                    raise FencedEpoch(f"/controller is held by {holder}")
            case znodes.BROKER_IDS:
                await self._play(term, BrokersChanged(await self._patiently(self._read_brokers)))
            case what if what == SUSPECTS:
                await self._play(term, SuspectsChanged(self._suspects))
            case znodes.TOPICS:
                await self._patiently(lambda: self._look_at_topics(term))
            case znodes.TOPIC_DELETIONS:
                marked = await self._patiently(lambda: store.topic_deletions(watch=True))
                await self._play(term, TopicDeletionsMarked(frozenset(marked)))
            case znodes.PREFERRED_ELECTION:
                preferred = await self._patiently(lambda: store.preferred_elections(watch=True))
                if preferred is not None:
                    await self._play(term, PreferredElectionsMarked(frozenset(preferred)))
            case znodes.LOG_DIR_EVENTS:
                failed = await self._patiently(lambda: store.log_dir_events(watch=True))
                if failed:
                    await self._play(term, LogDirsFailed(frozenset(failed.values())))
                    await self._patiently(lambda: store.delete_log_dir_events(fence, failed))
            case znodes.ISR_CHANGES:
                changed = await self._patiently(lambda: store.isr_change_notifications(watch=True))
                if changed:
                    partitions = frozenset().union(*changed.values())
                    await self._play(term, IsrChangesNoted(partitions))
                    await self._patiently(
                        lambda: store.delete_isr_change_notifications(fence, changed)
                    )
            case path:
                await self._look_at_topic(term, path.removeprefix(f"{znodes.TOPICS}/"))

    async def _look_at_topics(self, term: _Term) -> None:
        """Topics that came are read, with a watch on each; those that went are named."""
        known = term.machine.context.topic_ids.keys()
        names = await self._patiently(lambda: self._store.topics(watch=True))
        new = set(names) - known
        read = await self._patiently(lambda: self._read_topics(new))
        removed = frozenset(known - set(names))
        if read or removed:
            await self._play(term, TopicsChanged(read, removed))

    async def _look_at_topic(self, term: _Term, name: str) -> None:
        if name not in term.machine.context.topic_ids:
            return
        read = await self._patiently(lambda: self._read_topics({name}))
        if name in read:
            await self._play(term, TopicChanged(name, read[name]))

    async def _play(self, term: _Term, event: Event) -> None:
        """Let the machine take an event, and carry out its effects and those that follow."""
        began_ms = self._clock.monotonic_ms()
        self._busy_with = _STATE_OF_EVENT[type(event)]
        try:
            step: Event | None = event
            while step is not None:
                effects = term.machine.step(step, self._clock.monotonic_ms())
                step = None
                for effect in effects:
                    step = await self._carry_out(term, effect)
        finally:
            self._busy_with = 0
        elapsed_ms = self._clock.monotonic_ms() - began_ms
        self._event_times.setdefault(type(event).__name__, Timing()).add(elapsed_ms)

    async def _carry_out(self, term: _Term, effect: Effect) -> Outcome | None:
        """Do it; the outcome, if the effect asks for one, else None."""
        store, fence = self._store, term.fence
        match effect:
            case WritePartitionStates():
                write = (
                    store.create_partition_states if effect.create else store.write_partition_states
                )
                return PartitionStatesWritten(
                    await self._patiently(lambda: write(fence, effect.states))
                )
            case ReadPartitionStates():
                return PartitionStatesRead(
                    await self._patiently(lambda: store.partition_states(effect.partitions))
                )
            case ReadUncleanElection():
                return await self._patiently(lambda: self._read_unclean_election(effect.topics))
            case OpenChannel():
                term.channels.open(effect.broker)
            case CloseChannel():
                term.channels.close(effect.broker_id)
            case SendRequest():
                term.channels.send(effect.broker_id, effect.request)
            case RewriteTopic():
                await self._patiently(
                    lambda: store.rewrite_topic(
                        fence, effect.name, effect.topic_id, effect.assignments
                    )
                )
            case DeleteTopicNodes():
                await self._patiently(lambda: store.delete_topic_nodes(fence, effect.name))
                await self._patiently(lambda: store.clear_topic_deletion(fence, effect.name))
                log.info("topic deleted topic=%s", effect.name)
            case ClearTopicDeletion():
                await self._patiently(lambda: store.clear_topic_deletion(fence, effect.name))
            case ClearPreferredElections():
                await self._patiently(lambda: store.clear_preferred_elections(fence))
                await self._patiently(lambda: store.preferred_elections(watch=True))
            case Answer():
                assert isinstance(effect.token, Ask)
                effect.token.answer(effect.response)
            case NoteState():
                state_change.info(
                    "%s broker=%d partition=%s controller_epoch=%d leader=%d->%d leader_epoch=%d "
                    "isr=%s->%s partition_epoch=%d",
                    effect.reason,
                    self._broker_id,
                    effect.topic_partition,
                    effect.after.controller_epoch,
                    -1 if effect.before is None else effect.before.leader,
                    effect.after.leader,
                    effect.after.leader_epoch,
                    _listed(() if effect.before is None else effect.before.isr),
                    _listed(effect.after.isr),
                    effect.after.partition_epoch,
                )
            case NoteTrouble():
                log.warning("%s", effect.message)
            case _:
                assert_never(effect)
        return None

    async def _read_unclean_election(self, topics: Sequence[str]) -> UncleanElectionRead:
        """Which topics allow unclean election; a topic whose settings cannot be read does not."""
        allowed: set[str] = set()
        for topic in topics:
            overrides = await self._store.entity_config("topics", topic)
            try:
                config = self._log_defaults().with_overrides(overrides)
            except ConfigError as error:
                log.error("settings not usable topic=%s error=%s", topic, error)
                continue
            if config.unclean_leader_election_enable:
                allowed.add(topic)
        return UncleanElectionRead(frozenset(allowed))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """`call`, repeated after each reconnection for as long as the connection was lost in it."""
        while True:
            await self._session.wait_connected()
            try:
                return await call()
            except SessionSuspended as error:
                log.info("waiting for ZooKeeper broker=%d error=%s", self._broker_id, error)


_WATCHED: Final = (
    znodes.CONTROLLER,
    znodes.BROKER_IDS,
    znodes.TOPICS,
    znodes.TOPIC_DELETIONS,
    znodes.LOG_DIR_EVENTS,
    znodes.ISR_CHANGES,
    znodes.PREFERRED_ELECTION,
)
"""What is read again after a reconnection, besides each topic's own znode."""


def _listed(things: Collection[object]) -> str:
    return ",".join(map(str, things)) or "-"
