"""One task per leader followed: fetch, append, fetch again.

A fetcher asks one leader for all partitions that this broker follows there, in one request after
the other, each sent as soon as the last answer is appended. A fetch that finds nothing is held by
the leader for up to replica.fetch.wait.max.ms; a fetch session (`session.py`) keeps the request
empty then, whatever the number of partitions.

An answer counts only where it is for the state it was asked in. Between request and answer a
partition may have been stopped, deleted and created anew, re-led, or cut; so each one's answer is
held against what the leader was told (topic id, leader epoch, fetch offset) and what is true now,
and dropped where they differ. Appending happens in the loop, a partition at a time, so nothing
moves between that look and the append.

What an answer can say, per partition:

    records, or none           append them; high watermark and log start follow the leader's
    diverging epoch            cut (`truncation.py`), fetch again
    OFFSET_OUT_OF_RANGE        ask where the leader's log begins and ends, resume there
    FENCED_LEADER_EPOCH        we lag behind: fetch no more until a LeaderAndIsr says what to be
    anything else              a pause, growing from 50 ms to replica.fetch.backoff.ms, as the
                               usual cause is a leader that does not know yet that it leads

The fetcher ends when nothing is left to follow at its leader.

Where we differ from Kafka: a partition that joins does not wait for the held fetch of the others to
end; that fetch is given up after `JOIN_GRACE_MS`, and its connection with it.

Sources: KIP-227 (sessions), KIP-279, KIP-320, KIP-595 (divergence), KIP-903 (replica state);
Kafka's `AbstractFetcherThread`.
"""

import logging
import math
import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs
import trio

from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errors import ApiError, ErrorCode, PeerUnreachable, StorageError
from zkafka.model import BrokerEpoch, BrokerId, EpochEndOffset, LeaderEpoch, Offset, TopicPartition
from zkafka.protocol.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    ForgottenTopic,
    PartitionData,
    ReplicaState,
)
from zkafka.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from zkafka.replication.links import PeerLink
from zkafka.replication.partition import Role
from zkafka.replication.replica import Replica
from zkafka.replication.session import FetchPosition, FetchSession, SessionRequest
from zkafka.replication.truncation import resume_out_of_range, truncation_point

if TYPE_CHECKING:
    from zkafka.replication.replicas import Replicas

logger = logging.getLogger(__name__)

JOIN_GRACE_MS = 50
"""How long a fetch in flight may go on when a partition is to join: a busy leader answers in time,
a held fetch is given up."""

FIRST_PAUSE_MS = 50

PATIENCE_STEP_S = 1.0
"""By how much more than replica.socket.timeout.ms an answer may be waited for: so often at most the
deadline is moved on, instead of with every fetch."""

YIELD_BYTES = 1 << 20
"""After this many bytes appended from one answer other tasks get their turn."""

LATEST = -1
EARLIEST = -2

_SESSION_ERRORS = frozenset(
    {
        ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
        ErrorCode.INVALID_FETCH_SESSION_EPOCH,
        ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
    }
)
"""A session that ended: expired, evicted, or the leader restarted. Nothing is wrong."""


@attrs.define(eq=False)
class Following:
    """One partition followed, in one leader epoch."""

    replica: Replica
    leader_epoch: LeaderEpoch
    failures: int = 0
    """In a row."""
    retry_ms: int = 0
    """Monotonic time before which it is not fetched."""
    lag: int = 0
    """Offsets behind the leader's high watermark, at the last answer."""


class Fetcher:
    """Follows one leader. Its partitions come and go by `follow` and `unfollow`."""

    def __init__(
        self,
        leader: BrokerId,
        *,
        broker_id: BrokerId,
        broker_epoch: Callable[[], BrokerEpoch],
        config: BrokerConfig,
        clock: Clock,
        connect: Callable[[BrokerId], PeerLink],
        replicas: "Replicas",
    ) -> None:
        self.leader = leader
        self._broker_id = broker_id
        self._broker_epoch = broker_epoch
        self._config = config
        self._clock = clock
        self._connect = connect
        self._replicas = replicas
        self._followed: dict[TopicPartition, Following] = {}
        # Followed, but not fetched before their time: small, since failing is rare.
        self._paused: dict[TopicPartition, Following] = {}
        # What must be flushed before the next fetch.
        self._unflushed: list[Following] = []
        self._session = FetchSession()
        # By the number of the topic id: a UUID's own hash is computed in Python, each time.
        self._names: dict[int, str] = {}
        self._in_flight: trio.CancelScope | None = None
        self._hurried = False
        """Whether the deadline of what is in flight was drawn near, for somebody who joins."""
        self._joined = trio.Event()
        self._unreachable = 0

    @property
    def followed(self) -> Iterator[Following]:
        """All that is followed, paused or not."""
        return iter(self._followed.values())

    def __len__(self) -> int:
        return len(self._followed)

    # What the roles say.

    def follow(self, replica: Replica, leader_epoch: LeaderEpoch) -> None:
        """Fetch the partition from where its log ends, in this epoch."""
        following = Following(replica, leader_epoch)
        tp = replica.topic_partition
        self._followed[tp] = following
        self._paused.pop(tp, None)
        self._want(following)
        self._joined.set()
        if self._in_flight is not None:
            grace = trio.current_time() + JOIN_GRACE_MS / 1000
            self._in_flight.deadline = min(self._in_flight.deadline, grace)
            self._hurried = True

    def unfollow(self, tp: TopicPartition) -> None:
        """Fetch the partition no more, if it was followed."""
        if self._followed.pop(tp, None) is not None:
            self._paused.pop(tp, None)
            self._session.drop(tp)
            # With the last one the task ends, even while it waits.
            self._joined.set()

    def _want(self, following: Following) -> None:
        replica = following.replica
        position = replica.fetch_position()
        self._names[position.topic_id.int] = replica.topic_partition.topic
        self._session.want(replica.topic_partition, position)

    def _pause(self, following: Following, duration_ms: int) -> None:
        tp = following.replica.topic_partition
        following.retry_ms = self._clock.monotonic_ms() + duration_ms
        self._paused[tp] = following
        self._session.drop(tp)

    def _fail(self, following: Following, error: ErrorCode) -> None:
        """Pause it, longer from time to time."""
        following.failures += 1
        logger.log(
            logging.INFO if following.failures == 1 else logging.DEBUG,
            "cannot fetch partition=%s leader=%d leader_epoch=%d error=%s failures=%d",
            following.replica.topic_partition,
            self.leader,
            following.leader_epoch,
            error.name,
            following.failures,
        )
        self._pause(following, self._pause_ms(following.failures))

    def _pause_ms(self, failures: int) -> int:
        longest = self._config.replica_fetch_backoff_ms
        return min(longest, FIRST_PAUSE_MS << min(failures - 1, 10))

    def _give_up(self, following: Following, why: str) -> None:
        # Ordinary: the leader heard of its new epoch a little before us.
        logger.info(
            "stopped fetching partition=%s leader=%d leader_epoch=%d cause=%s",
            following.replica.topic_partition,
            self.leader,
            following.leader_epoch,
            why,
        )
        self.unfollow(following.replica.topic_partition)

    # The task.

    async def run(self) -> None:
        """Fetch until nothing is followed any more."""
        link: PeerLink | None = None
        try:
            while self._followed:
                self._joined = trio.Event()
                pause_ms = self._resume_paused()
                if not self._session.wanted:
                    await self._wait(pause_ms)
                    continue
                try:
                    if link is None:
                        link = self._connect(self.leader)
                    answered = await self._converse(link)
                except PeerUnreachable as error:
                    self._unreachable += 1
                    logger.log(
                        logging.INFO if self._unreachable == 1 else logging.DEBUG,
                        "leader unreachable leader=%d cause=%s", self.leader, error,
                    )  # fmt: skip
                    self._session.lost()
                    # The leader may come back elsewhere, so the next link is a new one.
                    if link is not None:
                        gone, link = link, None
                        await gone.aclose()
                    await self._wait(self._pause_ms(self._unreachable))
                    continue
                if not answered:
                    self._session.lost()
                    await link.aclose()
        finally:
            if link is not None:
                await link.aclose()

    async def _wait(self, duration_ms: int) -> None:
        """Until a partition joins or the last one leaves, but no longer than that."""
        with trio.move_on_after(duration_ms / 1000):
            await self._joined.wait()

    def _resume_paused(self) -> int:
        """Take up those whose time has come; in how many ms the next one's comes."""
        longest = self._config.replica_fetch_wait_max_ms
        if not self._paused:
            return longest
        now_ms = self._clock.monotonic_ms()
        for tp, following in list(self._paused.items()):
            if following.retry_ms <= now_ms:
                del self._paused[tp]
                self._want(following)
            else:
                longest = min(longest, following.retry_ms - now_ms)
        return longest

    async def _converse(self, link: PeerLink) -> bool:
        """One request after the other, in one cancel scope, as long as the answers are ordinary;
        False if the last was given up. Errors: `PeerUnreachable`."""
        response: FetchResponse | None = None
        with trio.CancelScope() as scope:
            while self._session.wanted:
                response = None
                response = await self._ask(link, scope, self._resume_paused())
                if scope.cancel_called or not self._is_ordinary(response):
                    break
                await self._take(response)
            else:
                return True
        if response is not None:
            await self._finish(link, response)
            return True
        if not self._hurried:
            raise PeerUnreachable(f"broker {self.leader}: no answer to a fetch in time")
        return False

    def _is_ordinary(self, response: FetchResponse) -> bool:
        """Whether what it says needs no more requests."""
        return response.error_code == ErrorCode.NONE and not any(
            data.error_code == ErrorCode.OFFSET_OUT_OF_RANGE
            for topic in response.responses
            for data in topic.partitions
        )

    async def _finish(self, link: PeerLink, response: FetchResponse) -> None:
        """Do all that an answer says."""
        if response.error_code != ErrorCode.NONE:
            await self._refused(ErrorCode.of(response.error_code))
            return
        for following in await self._take(response):
            await self._resume_lost(link, following)

    async def _ask(
        self, link: PeerLink, scope: trio.CancelScope, max_wait_ms: int
    ) -> FetchResponse:
        """One request, and its answer."""
        request = self._request(self._session.next_request(), max_wait_ms)
        patience_s = self._config.replica_socket_timeout_ms / 1000
        now = trio.current_time()
        if self._hurried or not patience_s <= scope.deadline - now <= patience_s + PATIENCE_STEP_S:
            self._hurried = False
            scope.deadline = now + patience_s + PATIENCE_STEP_S
        self._in_flight = scope
        try:
            response = await link.request(request, timeout_ms=math.inf)
        finally:
            self._in_flight = None
        assert isinstance(response, FetchResponse)
        self._unreachable = 0
        if response.error_code == ErrorCode.NONE:
            self._session.answered(response.session_id)
        return response

    async def _refused(self, error: ErrorCode) -> None:
        self._session.refused(error)
        if error in _SESSION_ERRORS:
            logger.info("fetch session ended leader=%d error=%s", self.leader, error.name)
        else:
            logger.warning("fetch refused leader=%d error=%s", self.leader, error.name)
            await self._wait(self._config.replica_fetch_backoff_ms)

    def _request(self, asked: SessionRequest, max_wait_ms: int) -> FetchRequest:
        per_partition = self._config.replica_fetch_max_bytes
        topics: dict[int, tuple[uuid.UUID, list[FetchPartition]]] = {}
        for tp, position in asked.listed.items():
            topic_id, leader_epoch, fetch_offset, last_fetched_epoch, log_start_offset = position
            topics.setdefault(topic_id.int, (topic_id, []))[1].append(
                FetchPartition(
                    partition=tp.partition,
                    current_leader_epoch=leader_epoch,
                    fetch_offset=fetch_offset,
                    last_fetched_epoch=last_fetched_epoch,
                    log_start_offset=log_start_offset,
                    partition_max_bytes=per_partition,
                )
            )
        forgotten: dict[uuid.UUID, list[int]] = {}
        for tp, topic_id in asked.forgotten.items():
            forgotten.setdefault(topic_id, []).append(tp.partition)
        return FetchRequest(
            replica_state=ReplicaState(
                replica_id=self._broker_id, replica_epoch=self._broker_epoch()
            ),
            max_wait_ms=max_wait_ms,
            min_bytes=self._config.replica_fetch_min_bytes,
            max_bytes=self._config.replica_fetch_response_max_bytes,
            session_id=asked.session_id,
            session_epoch=asked.epoch,
            topics=[
                FetchTopic(topic_id=topic_id, partitions=partitions)
                for topic_id, partitions in topics.values()
            ],
            forgotten_topics_data=[
                ForgottenTopic(topic_id=topic_id, partitions=partitions)
                for topic_id, partitions in forgotten.items()
            ],
        )

    # Answers.

    async def _take(self, response: FetchResponse) -> list[Following]:
        """Do what an answer says, but for the partitions returned: of those our log end lies
        outside the leader's log."""
        lost: list[Following] = []
        since_yield = 0
        for topic in response.responses:
            name = self._names.get(topic.topic_id.int)
            if name is None:
                continue  # Not what we asked for; the leader's mistake harms nobody.
            for data in topic.partitions:
                tp = TopicPartition(name, data.partition_index)
                following = self._current(tp, topic.topic_id)
                if following is None:
                    continue
                if data.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:
                    lost.append(following)
                    continue
                since_yield += self._take_partition(following, data)
                if self._replicas.must_flush(following.replica):
                    self._unflushed.append(following)
                if since_yield >= YIELD_BYTES:
                    since_yield = 0
                    await trio.lowlevel.checkpoint()
        if self._unflushed:
            await self._flush()
        return lost

    async def _flush(self) -> None:
        """Wait until what flush.messages asks for is flushed: the next fetch tells the leader that
        we have what it sent."""
        replicas = [following.replica for following in self._unflushed]
        deadline_ms = self._clock.monotonic_ms() + self._config.replica_lag_time_max_ms // 2
        await self._replicas.wait_flushed(replicas, deadline_ms)
        unflushed, self._unflushed = self._unflushed, []
        for following in unflushed:
            replica = following.replica
            current = self._followed.get(replica.topic_partition) is following
            if current and self._replicas.must_flush(replica):
                self._fail(following, ErrorCode.KAFKA_STORAGE_ERROR)

    def _current(self, tp: TopicPartition, topic_id: uuid.UUID) -> Following | None:
        """The partition, if an answer to what was asked still means something."""
        following = self._followed.get(tp)
        told = self._session.told.get(tp)
        if following is None or told is None or told.topic_id.int != topic_id.int:
            return None
        if self._is_current(following, told):
            return following
        # Where the leader was told another place than ours, tell it again: it would go on sending
        # what we drop.
        if tp not in self._paused:
            self._want(following)
        return None

    def _is_current(self, following: Following, told: FetchPosition) -> bool:
        replica = following.replica
        machine = replica.machine
        return (
            self._followed.get(replica.topic_partition) is following
            and machine.role is Role.FOLLOWER
            and machine.leader_epoch == following.leader_epoch == told.leader_epoch
            and replica.log.log_end_offset == told.fetch_offset
            and replica.topic_id.int == told.topic_id.int
        )

    def _take_partition(self, following: Following, data: PartitionData) -> int:
        """Do what one partition's answer says; bytes appended."""
        error = ErrorCode.of(data.error_code)
        if error is ErrorCode.FENCED_LEADER_EPOCH:
            self._give_up(following, error.name)
            return 0
        if error is not ErrorCode.NONE:
            self._fail(following, error)
            return 0
        replica = following.replica
        try:
            if data.diverging_epoch.end_offset >= 0:
                self._cut(following, data)
                appended = 0
            else:
                appended = self._replicas.append_fetched(
                    replica,
                    data.records,
                    high_watermark=data.high_watermark,
                    log_start_offset=data.log_start_offset,
                )
        except ApiError as refusal:
            # What came is not a log. Perhaps it was broken on the way: ask once more, later.
            logger.warning(
                "fetched records refused partition=%s leader=%d cause=%s",
                replica.topic_partition,
                self.leader,
                refusal,
            )
            self._fail(following, refusal.code)
            return 0
        except StorageError as failure:
            self._storage_failed(following, failure)
            return 0
        if following.failures:
            following.failures = 0
        following.lag = max(0, data.high_watermark - replica.log.log_end_offset)
        self._want(following)
        if appended:
            self._session.to_end(replica.topic_partition)
        return appended

    def _cut(self, following: Following, data: PartitionData) -> None:
        replica = following.replica
        diverging = EpochEndOffset(data.diverging_epoch.epoch, data.diverging_epoch.end_offset)
        cut = truncation_point(replica.log.epochs, replica.log.log_end_offset, diverging)
        self._replicas.cut(replica, cut)

    def _storage_failed(self, following: Following, failure: StorageError) -> None:
        self._replicas.storage_failed(failure)
        # With its directory gone the partition has been taken away. If it is still followed, the
        # write was cut back off the log (a full disk, usually): there may be room later.
        if self._followed.get(following.replica.topic_partition) is following:
            self._fail(following, ErrorCode.KAFKA_STORAGE_ERROR)

    async def _resume_lost(self, link: PeerLink, following: Following) -> None:
        """Our log end lies outside the leader's log: find out where to go on."""
        replica = following.replica
        told = self._session.told.get(replica.topic_partition)
        if told is None or not self._is_current(following, told):
            return
        ends: list[Offset] = []
        for timestamp in (EARLIEST, LATEST):
            found = await self._leader_offset(link, following, timestamp)
            if isinstance(found, ErrorCode):
                # It may have been taken away meanwhile.
                if self._is_current(following, told):
                    self._fail(following, found)
                return
            ends.append(found)
        if not self._is_current(following, told):
            return
        leader_start, leader_end = ends
        if leader_start > leader_end:
            # Deleted to its end between the two questions.
            leader_end = leader_start
        place = resume_out_of_range(replica.log.log_end_offset, leader_start, leader_end)
        logger.warning(
            "log end outside the leader's log partition=%s leader=%d leader_epoch=%d"
            " log_end_offset=%d leader_log=%d..%d",
            replica.topic_partition,
            self.leader,
            following.leader_epoch,
            replica.log.log_end_offset,
            leader_start,
            leader_end,
        )
        before = replica.log.log_end_offset
        try:
            self._replicas.cut(replica, place)
        except StorageError as failure:
            self._storage_failed(following, failure)
            return
        if replica.log.log_end_offset == before:
            # The leader has grown up to us meanwhile, or nothing helps: not at once again.
            self._fail(following, ErrorCode.OFFSET_OUT_OF_RANGE)
        else:
            self._want(following)

    async def _leader_offset(
        self, link: PeerLink, following: Following, timestamp: int
    ) -> Offset | ErrorCode:
        """Where the leader's log begins (EARLIEST) or ends (LATEST)."""
        tp = following.replica.topic_partition
        response = await link.request(
            ListOffsetsRequest(
                replica_id=self._broker_id,
                topics=[
                    ListOffsetsTopic(
                        name=tp.topic,
                        partitions=[
                            ListOffsetsPartition(
                                partition_index=tp.partition,
                                current_leader_epoch=following.leader_epoch,
                                timestamp=timestamp,
                            )
                        ],
                    )
                ],
            )
        )
        assert isinstance(response, ListOffsetsResponse)
        for topic in response.topics:
            for partition in topic.partitions:
                if (topic.name, partition.partition_index) == tp:
                    if partition.error_code != ErrorCode.NONE:
                        return ErrorCode.of(partition.error_code)
                    return partition.offset
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@attrs.frozen
class FetchersStatistics:
    """`max_lag` in offsets; `failed_partitions` were given up and wait for the controller."""

    fetchers: int
    followed: int
    failed_partitions: int
    max_lag: int


class Fetchers:
    """The fetchers of one broker, one per leader followed (num.replica.fetchers of them)."""

    def __init__(self, make: Callable[[BrokerId], Fetcher], fetchers_per_leader: int) -> None:
        self._make = make
        self._per_leader = fetchers_per_leader
        self._fetchers: dict[tuple[BrokerId, int], Fetcher] = {}
        self._home: dict[TopicPartition, Fetcher] = {}
        self._nursery: trio.Nursery | None = None
        self._leaving = False

    def leave(self) -> None:
        """Take up nothing new from now on; what is followed goes on being so.

        For a broker that shuts down. Should it follow those to whom it hands its partitions over,
        they would take it for one about to join, and wait for it when it is gone.
        """
        self._leaving = True

    def follow(self, replica: Replica, leader: BrokerId, leader_epoch: LeaderEpoch) -> None:
        """Fetch the partition from `leader`, and from nobody else."""
        tp = replica.topic_partition
        self.unfollow(tp)
        if self._leaving:
            return
        key = (leader, self._share(tp))
        fetcher = self._fetchers.get(key)
        if fetcher is None:
            fetcher = self._fetchers[key] = self._make(leader)
            if self._nursery is not None:
                self._nursery.start_soon(self._run_one, key, fetcher)
        self._home[tp] = fetcher
        fetcher.follow(replica, leader_epoch)

    def unfollow(self, tp: TopicPartition) -> None:
        """Fetch the partition no more. What is in flight for it will be dropped."""
        fetcher = self._home.pop(tp, None)
        if fetcher is not None:
            fetcher.unfollow(tp)

    def _share(self, tp: TopicPartition) -> int:
        if self._per_leader == 1:
            return 0
        return (zlib.crc32(tp.topic.encode()) + tp.partition) % self._per_leader

    async def run(self) -> None:
        """Run the fetchers, present and future, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for key, fetcher in self._fetchers.items():
                    nursery.start_soon(self._run_one, key, fetcher)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def _run_one(self, key: tuple[BrokerId, int], fetcher: Fetcher) -> None:
        try:
            # Closing its link on the way out may let other tasks run, which may give it partitions
            # again: then it goes on.
            while len(fetcher):
                await fetcher.run()
        finally:
            if self._fetchers.get(key) is fetcher:
                del self._fetchers[key]

    def statistics(self) -> FetchersStatistics:
        """How following goes."""
        followed = [f for fetcher in self._fetchers.values() for f in fetcher.followed]
        return FetchersStatistics(
            fetchers=len(self._fetchers),
            followed=len(followed),
            failed_partitions=len(self._home) - len(followed),
            max_lag=max((following.lag for following in followed), default=0),
        )
