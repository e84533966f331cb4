"""A cluster for tests without trio: the same faults, as ordinary calls.

    with BlockingCluster(brokers=3) as cluster:
        cluster.create_topic("orders", partitions=3)
        ...
        cluster.kill(cluster.leader("orders", 0))

The cluster lives in a trio loop of its own, in a thread of its own, so that the proxies go on
forwarding while the test blocks in its client. Calls may come from any thread; each blocks until
its work is done, and raises what `Cluster` raises.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import trio

from zkafka.testing.cluster import START_SECONDS, Cluster, ClusterBroker, ClusterError
from zkafka.testing.history import ReplicaContents
from zkafka.testing.inquiry import NoAnswer
from zkafka.testing.processes import ProcessFailed
from zkafka.testing.proxy import Party
from zkafka.testing.zookeeper import ZooKeeper

T = TypeVar("T")

_Call = Callable[[], Awaitable[None]]


class BlockingCluster:
    """`Cluster` with its arguments, for the length of a `with`."""

    def __init__(self, brokers: int = 3, **arguments: Any) -> None:
        self._arguments = {"brokers": brokers, **arguments}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="zkafka-cluster")
        self._entered: Future[Cluster] = Future()
        self._life: Future[None] | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._calls: trio.MemorySendChannel[_Call] | None = None

    def __enter__(self) -> "BlockingCluster":
        self._life = self._thread.submit(trio.run, self._live)
        _wait_for_any(self._entered, self._life)
        if not self._entered.done():
            self._thread.shutdown()
            self._life.result()  # raises why it could not be entered
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._life is not None
        if not self._life.done():
            assert self._token is not None
            assert self._calls is not None
            self._token.run_sync_soon(self._calls.close)
        self._thread.shutdown()
        if error is None:
            self._life.result()

    @property
    def cluster(self) -> Cluster:
        """The cluster itself; what is awaited there is called here."""
        return self._entered.result(0)

    async def _live(self) -> None:
        # Unbounded, and bounded all the same: each caller blocks until its one call is done.
        calls, receive = trio.open_memory_channel[_Call](math.inf)
        async with Cluster(**self._arguments) as cluster, trio.open_nursery() as nursery:
            self._token, self._calls = trio.lowlevel.current_trio_token(), calls
            self._entered.set_result(cluster)
            async for call in receive:
                nursery.start_soon(call)
            nursery.cancel_scope.cancel()

    def _call(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Run `function` in the cluster's loop; if the loop ends first, raise why."""
        assert self._token is not None, "the cluster has not been entered"
        assert self._calls is not None
        assert self._life is not None
        done: Future[T] = Future()

        async def carry_out() -> None:
            try:
                done.set_result(await function(*args, **kwargs))
            except (ClusterError, NoAnswer, ProcessFailed) as error:
                done.set_exception(error)

        try:
            self._token.run_sync_soon(self._calls.send_nowait, carry_out)
        except trio.RunFinishedError:
            self._life.result()
        _wait_for_any(done, self._life)
        if not done.done():
            self._life.result()
            raise ClusterError("the cluster was left in the middle of a call")
        return done.result()

    def _call_sync(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run what does not wait in the cluster's loop, where its state belongs."""

        async def whole() -> T:
            return function(*args, **kwargs)

        return self._call(whole)

    @property
    def bootstrap(self) -> str:
        """What clients are given."""
        return self.cluster.bootstrap

    @property
    def brokers(self) -> Mapping[int, ClusterBroker]:
        """The brokers by id."""
        return self.cluster.brokers

    @property
    def zookeeper(self) -> ZooKeeper:
        """The ZooKeeper beside it."""
        return self.cluster.zookeeper

    def start(self, broker_id: int) -> None:
        """`Cluster.start`."""
        self._call(self.cluster.start, broker_id)

    def stop(self, broker_id: int) -> None:
        """`Cluster.stop`."""
        self._call(self.cluster.stop, broker_id)

    def kill(self, broker_id: int) -> None:
        """`Cluster.kill`."""
        self._call(self.cluster.kill, broker_id)

    def restart(self, broker_id: int) -> None:
        """`Cluster.restart`."""
        self._call(self.cluster.restart, broker_id)

    def pause(self, broker_id: int) -> None:
        """`Cluster.pause`."""
        self._call_sync(self.cluster.pause, broker_id)

    def resume(self, broker_id: int) -> None:
        """`Cluster.resume`."""
        self._call_sync(self.cluster.resume, broker_id)

    def expire_session(self, broker_id: int) -> None:
        """`Cluster.expire_session`."""
        self._call(self.cluster.expire_session, broker_id)

    def cut(self, a: Party, b: Party) -> None:
        """`Cluster.cut`."""
        self._call_sync(self.cluster.cut, a, b)

    def black_hole(self, a: Party, b: Party) -> None:
        """`Cluster.black_hole`."""
        self._call_sync(self.cluster.black_hole, a, b)

    def isolate(self, broker_id: int, *, silently: bool = False) -> None:
        """`Cluster.isolate`."""
        self._call_sync(self.cluster.isolate, broker_id, silently=silently)

    def heal(self, a: Party | None = None, b: Party | None = None) -> None:
        """`Cluster.heal`."""
        self._call_sync(self.cluster.heal, a, b)

    def leader(self, topic: str, partition: int, *, other_than: int = -1) -> int:
        """`Cluster.leader`."""
        return self._call(self.cluster.leader, topic, partition, other_than=other_than)

    def controller(self, *, other_than: int = -1) -> int:
        """`Cluster.controller`."""
        return self._call(self.cluster.controller, other_than=other_than)

    def coordinator(self, group: str, *, other_than: int = -1) -> int:
        """`Cluster.coordinator`."""
        return self._call(self.cluster.coordinator, group, other_than=other_than)

    def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        replication_factor: int = -1,
        assignments: Sequence[Sequence[int]] | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        """`Cluster.create_topic`."""
        self._call(
            self.cluster.create_topic,
            name,
            partitions=partitions,
            replication_factor=replication_factor,
            assignments=assignments,
            config=config,
        )

    def wait_until_whole(
        self, *, topics: Sequence[str] | None = None, timeout: float = START_SECONDS
    ) -> None:
        """`Cluster.wait_until_whole`."""
        self._call(self.cluster.wait_until_whole, topics=topics, timeout=timeout)

    def replica_contents(self, topic: str, partition: int) -> list[ReplicaContents]:
        """`Cluster.replica_contents`."""
        return self.cluster.replica_contents(topic, partition)

    @property
    def directory(self) -> Path:
        """Where everything of this cluster is kept."""
        return self.cluster.directory


def _wait_for_any(*futures: Future[Any]) -> None:
    wait(futures, return_when=FIRST_COMPLETED)
