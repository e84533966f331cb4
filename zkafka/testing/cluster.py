"""Brokers beside a real ZooKeeper, and whatever can go wrong between them.

    async with Cluster(brokers=3) as cluster:
        await cluster.create_topic("orders", partitions=3)
        producer = Producer({"bootstrap.servers": cluster.bootstrap})
        ...
        await cluster.kill(await cluster.leader("orders", 0))
        ...
        await cluster.start(1)
        await cluster.wait_until_whole()

Two modes. `process`: each broker is a real process, `python -m zkafka`, which can be killed and
paused. `in_loop`: the brokers are tasks of the caller's trio loop, quicker to start and open to a
debugger; there `kill` drops the broker's sockets without closing its ZooKeeper session, and
`pause` is refused, since a loop cannot stop a part of itself.

Every broker advertises the address of a proxy, and reaches ZooKeeper through another: see
`zkafka.testing.proxy` for how `cut` and `black_hole` tell who is talking. The proxies run in the
caller's loop: a test that blocks it stalls the network. Tests without trio take
`zkafka.testing.blocking.BlockingCluster`, which has a loop of its own.

The harness itself asks brokers directly, past the proxies, so that what it learns does not depend
on the faults it has made.

A broker that ends without having been told to is an error, raised by whatever waits next, or when
the cluster is left.
"""

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import attrs
import trio

from zkafka.broker import SESSION_FILE, Broker
from zkafka.clock import Clock
from zkafka.config import BrokerConfig
from zkafka.errors import ErrorCode, StartupError
from zkafka.model import TopicPartition
from zkafka.protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from zkafka.protocol.messages.find_coordinator import (
    FindCoordinatorRequest,
    FindCoordinatorResponse,
)
from zkafka.protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponsePartition,
)
from zkafka.testing.contents import read_replica
from zkafka.testing.history import ReplicaContents
from zkafka.testing.inquiry import NoAnswer, ask
from zkafka.testing.processes import ChildProcess, free_ports, log_tail
from zkafka.testing.proxy import Network, Party, Proxy
from zkafka.testing.zookeeper import ZooKeeper
from zkafka.zk.session import open_session

T = TypeVar("T")

Mode = Literal["process", "in_loop"]

START_SECONDS = 60.0
STOP_SECONDS = 60.0
WAIT_SECONDS = 60.0
"""How long a busy machine may take for what is only waited for; what is to be quick says so."""
_POLL_SECONDS = 0.05
_METADATA_VERSION = 9

COMMAND = (sys.executable, "-m", "zkafka")
"""What starts a broker process; the path of its properties file follows."""


class ClusterError(Exception):
    """The cluster did not do what the test asked for, or something a test cannot ask for."""


class BrokerEnded(ClusterError):
    """A broker process ended when it should serve; `exit_code` and `output` say how."""

    def __init__(self, broker_id: int, exit_code: int | None, output: str) -> None:
        super().__init__(f"broker {broker_id} ended with exit code {exit_code}\n{output}")
        self.broker_id = broker_id
        self.exit_code = exit_code
        self.output = output


# --- One broker ---------------------------------------------------------------------------------


@attrs.define(eq=False)
class ProcessRun:
    """A broker as a process, from its start to its end."""

    process: ChildProcess

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.running

    @property
    def exit_code(self) -> int | None:
        """As the shell would see it; negative for a signal."""
        return self.process.exit_code

    async def kill(self) -> None:
        """SIGKILL; nothing is tidied up."""
        self.process.signal(signal.SIGKILL)
        await self.process.wait_ended()

    async def stop(self) -> None:
        """SIGTERM, and wait for the controlled shutdown."""
        self.process.signal(signal.SIGTERM)
        await self.process.wait_ended()

    def send(self, number: signal.Signals) -> None:
        """Pause or resume it."""
        self.process.signal(number)

    def kill_now(self) -> None:
        """SIGKILL from a place that cannot wait for long."""
        self.process.signal(signal.SIGKILL)
        self.process.wait(5.0)


@attrs.define(eq=False)
class LoopRun:
    """A broker as a task of the caller's loop, from its start to its end."""

    broker: Broker
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _ended: trio.Event = attrs.field(factory=trio.Event)
    refusal: StartupError | None = None
    """Why it did not start, in the sentence that a process would have printed."""

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    @property
    def running(self) -> bool:
        """Whether its task lives."""
        return not self._ended.is_set()

    @property
    def exit_code(self) -> int | None:
        """What its process would have answered; None while it runs."""
        if self.running:
            return None
        return 0 if self.refusal is None else 1

    async def run(self) -> None:
        """The broker's task. Anything but a refusal to start ends the cluster's nursery."""
        try:
            with self._scope:
                await self.broker.run()
        except* StartupError as group:
            self.refusal = _first(group)
        finally:
            self._ended.set()

    async def kill(self) -> None:
        """Cancel it where it stands; the caller has cut it off first."""
        self._scope.cancel()
        await self._ended.wait()

    async def stop(self) -> None:
        """A controlled shutdown."""
        self.broker.stop()
        await self._ended.wait()

    def send(self, number: signal.Signals) -> None:
        """Refused: nothing can stop one task and leave its sockets as a stopped process would."""
        raise ClusterError(
            f"{number.name} needs a process: a broker inside the loop cannot be paused; "
            'use Cluster(mode="process")'
        )

    def kill_now(self) -> None:
        """Cancel it; its task ends with the nursery."""
        self._scope.cancel()


@attrs.define(eq=False)
class ClusterBroker:
    """One broker of a cluster, running or not: where it listens, what it keeps, what it says."""

    broker_id: int
    port: int
    admin_port: int
    directory: Path
    proxy: Proxy
    peer_proxy: Proxy
    """What the other brokers connect to; `proxy` too, unless they have a listener of their own."""
    zookeeper_proxies: Sequence[Proxy]
    log_path: Path
    """What it says; the brokers of one loop share a file."""
    properties: dict[str, str]
    """Its settings; a change takes effect at its next start."""
    run: ProcessRun | LoopRun | None = None
    paused: bool = False
    should_run: bool = False

    @property
    def address(self) -> str:
        """Where it really listens; what clients are told is `advertised_address`."""
        return f"127.0.0.1:{self.port}"

    @property
    def advertised_address(self) -> str:
        """The address of its proxy: what clients and peers connect to."""
        return self.proxy.address

    @property
    def admin_address(self) -> str:
        """`host:port` of /metrics, /healthz and /readyz."""
        return f"127.0.0.1:{self.admin_port}"

    @property
    def proxies(self) -> set[Proxy]:
        """Those that stand before it."""
        return {self.proxy, self.peer_proxy}

    @property
    def data_directory(self) -> Path:
        """Its log.dirs."""
        return self.directory / "data"

    @property
    def running(self) -> bool:
        """Whether it lives; it may be paused, or not serving yet."""
        return self.run is not None and self.run.running

    @property
    def pid(self) -> int:
        """Its process id. ClusterError if it does not run."""
        if self.run is None or not self.run.running:
            raise ClusterError(f"broker {self.broker_id} does not run")
        return self.run.pid

    def log_text(self) -> str:
        """Everything it said in all its lives."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def ended(self) -> BrokerEnded:
        """How it ended, as an error to raise."""
        assert self.run is not None
        refusal = self.run.refusal if isinstance(self.run, LoopRun) else None
        output = log_tail(self.log_path, 30) if refusal is None else str(refusal)
        return BrokerEnded(self.broker_id, self.run.exit_code, output)


# --- The cluster --------------------------------------------------------------------------------


class Cluster:
    """Some brokers and their ZooKeeper, for the length of an `async with`.

    `config` goes to every broker, over the harness's own settings (short waits, replication over
    all brokers up to three). With `inter_broker_listener` the brokers speak to each other on a
    listener of their own, behind a proxy of its own. `zookeeper` is one that runs already, and
    outlives the cluster; otherwise the cluster has its own, of `zookeepers` servers. With a shared
    ZooKeeper a `chroot` ("/somewhere") keeps clusters apart. `racks` are given to the brokers in
    order. Data is kept
    under `directory`, or in a temporary one that goes away with the cluster.
    """

    def __init__(
        self,
        brokers: int = 3,
        *,
        mode: Mode = "process",
        config: Mapping[str, str] | None = None,
        zookeeper: ZooKeeper | None = None,
        zookeepers: Literal[1, 3, 5] = 1,
        chroot: str = "",
        racks: Sequence[str] | None = None,
        directory: Path | None = None,
        command: Sequence[str] = COMMAND,
        inter_broker_listener: bool = False,
    ) -> None:
        if brokers < 1:
            raise ClusterError("a cluster has at least one broker")
        if racks is not None and len(racks) != brokers:
            raise ClusterError(f"{len(racks)} racks for {brokers} brokers")
        self.mode: Mode = mode
        self.network = Network()
        self.brokers: dict[int, ClusterBroker] = {}
        self._size = brokers
        self._config = dict(config or {})
        self._given_zookeeper = zookeeper
        self._zookeeper = zookeeper
        self._zookeepers = zookeepers
        self._chroot = chroot
        self._racks = racks
        self._command = tuple(command)
        self._inter_broker_listener = inter_broker_listener
        self._directory = directory
        self._nursery: trio.Nursery | None = None
        self._stack = AsyncExitStack()

    # What there is.

    @property
    def bootstrap(self) -> str:
        """What clients are given: every broker's advertised address."""
        return ",".join(broker.advertised_address for broker in self.brokers.values())

    @property
    def zookeeper(self) -> ZooKeeper:
        """The ZooKeeper beside it, to be stopped, started, wiped and paused."""
        assert self._zookeeper is not None, "the cluster has not been entered"
        return self._zookeeper

    @property
    def zookeeper_connect(self) -> str:
        """ZooKeeper's own addresses with the chroot, past the proxies."""
        return f"{self.zookeeper.connect}{self._chroot}"

    @property
    def directory(self) -> Path:
        """Where everything of this cluster is kept."""
        assert self._directory is not None, "the cluster has not been entered"
        return self._directory

    @property
    def running(self) -> list[int]:
        """The brokers that live and are not paused, in order."""
        return [i for i, broker in self.brokers.items() if broker.running and not broker.paused]

    # Its life.

    async def __aenter__(self) -> "Cluster":
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        try:
            await self._enter()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            error = self._first_dead()
        await self._leave()
        try:
            await self._stack.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # A broker inside the loop failed: that is the news, and the test's failure its effect.
            if error is not None:
                raise group from error
            raise
        if error is not None:
            raise error

    async def _enter(self) -> None:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="zkafka-cluster-"))
            self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self._directory = self._directory.absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._zookeeper is None:
            self._zookeeper = ZooKeeper.create(self._directory / "zookeeper", size=self._zookeepers)
            await self._zookeeper.start_async()
        if self.mode == "in_loop":
            self._stack.enter_context(_logging_to(self.directory / "brokers.log"))
        ports = free_ports(2 * self._size)
        for index in range(self._size):
            await self._lay_out(index + 1, ports[2 * index], ports[2 * index + 1])
        async with trio.open_nursery() as nursery:
            for broker_id in self.brokers:
                nursery.start_soon(self.start, broker_id)
        await self.wait_until_whole()

    async def _leave(self) -> None:
        """End everything at once: what is kept is looked at by nobody."""
        with trio.CancelScope(shield=True):
            self.network.heal()
            for broker in self.brokers.values():
                broker.should_run = False
                if isinstance(broker.run, LoopRun):
                    await self._cut_off_and_kill(broker, broker.run)
                elif broker.run is not None:
                    broker.run.kill_now()
            if self._zookeeper is not None and self._given_zookeeper is None:
                self._zookeeper._kill_now()
            assert self._nursery is not None
            self._nursery.cancel_scope.cancel()

    async def _lay_out(self, broker_id: int, port: int, admin_port: int) -> None:
        """Make the proxies, the directory and the settings of one broker."""
        assert self._nursery is not None
        sources = self._sources
        proxy = await Proxy.open(
            self.network, broker_id, ("127.0.0.1", port), lambda host: sources.get(host, "clients")
        )
        to_zookeeper = [
            await Proxy.open(self.network, "zookeeper", address, lambda _: broker_id)
            for address in self.zookeeper.addresses
        ]
        peer_proxy = proxy
        if self._inter_broker_listener:
            [peer_port] = free_ports(1)
            peer_proxy = await Proxy.open(
                self.network, broker_id, ("127.0.0.1", peer_port), proxy.source_of
            )
        for each in {proxy, peer_proxy, *to_zookeeper}:
            await self._nursery.start(each.run)
        directory = self.directory / f"broker-{broker_id}"
        directory.mkdir(exist_ok=True)
        zookeeper = ",".join(each.address for each in to_zookeeper)
        replicas = min(3, self._size)
        properties = {
            "broker.id": str(broker_id),
            "listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "advertised.listeners": f"PLAINTEXT://{proxy.address}",
            "zookeeper.connect": f"{zookeeper}{self._chroot}",
            "zookeeper.session.timeout.ms": "6000",
            # Its default is the session's: too short for whoever starts while ZooKeeper is down.
            "zookeeper.connection.timeout.ms": "30000",
            "log.dirs": str(directory / "data"),
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(min(2, replicas)),
            "offsets.topic.replication.factor": str(replicas),
            "offsets.topic.num.partitions": "5",
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(min(2, replicas)),
            "transaction.state.log.num.partitions": "5",
            "group.initial.rebalance.delay.ms": "0",
            "controlled.shutdown.retry.backoff.ms": "500",
            "zkafka.admin.listener": f"127.0.0.1:{admin_port}",
            "zkafka.bind.address": _source_address(broker_id),
        }
        if self._inter_broker_listener:
            properties |= {
                "listeners": f"{properties['listeners']},PEERS://127.0.0.1:{peer_port}",
                "advertised.listeners": (
                    f"{properties['advertised.listeners']},PEERS://{peer_proxy.address}"
                ),
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PEERS:PLAINTEXT",
                "inter.broker.listener.name": "PEERS",
            }
        if self._racks is not None:
            properties["broker.rack"] = self._racks[broker_id - 1]
        self.brokers[broker_id] = ClusterBroker(
            broker_id=broker_id,
            port=port,
            admin_port=admin_port,
            directory=directory,
            proxy=proxy,
            peer_proxy=peer_proxy,
            zookeeper_proxies=to_zookeeper,
            log_path=self._log_path(directory),
            properties=properties | self._config,
        )

    def _log_path(self, directory: Path) -> Path:
        in_loop = self.mode == "in_loop"
        return self.directory / "brokers.log" if in_loop else directory / "broker.log"

    @property
    def _sources(self) -> dict[str, Party]:
        return {_source_address(i): i for i in range(1, self._size + 1)}

    # Lives of brokers.

    async def start(self, broker_id: int, *, timeout: float = START_SECONDS) -> None:
        """Start a broker that is down, with the data it left, and wait until it serves.

        It serves when it answers, and knows itself to be a part of the cluster.
        Errors: BrokerEnded if it refuses; ClusterError if it is not there within `timeout`.
        """
        broker = self._broker(broker_id)
        if broker.running:
            raise ClusterError(f"broker {broker_id} runs already")
        broker.should_run = True
        broker.paused = False
        broker.run = self._begin(broker)
        assert self._nursery is not None
        for proxy in broker.proxies:
            self._nursery.start_soon(proxy.accept_with_target)
        try:
            await self.wait_until(
                f"broker {broker_id} serves", lambda: self._serves(broker_id), timeout=timeout
            )
        except BrokerEnded:
            broker.should_run = False  # it said why; that is the caller's to judge
            raise

    def _begin(self, broker: ClusterBroker) -> ProcessRun | LoopRun:
        if self.mode == "in_loop":
            assert self._nursery is not None
            run = LoopRun(Broker(BrokerConfig.parse(broker.properties)))
            self._nursery.start_soon(run.run, name=f"broker {broker.broker_id}")
            return run
        path = broker.directory / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in broker.properties.items()))
        # Settings in our own environment are meant for somebody else's broker.
        kept = ("ZKAFKA_LOG_LEVEL", "ZOOKEEPER_HOME")
        env = {k: v for k, v in os.environ.items() if k in kept or not k.startswith("ZKAFKA_")}
        return ProcessRun(
            ChildProcess.spawn(
                f"broker {broker.broker_id}",
                [*self._command, str(path)],
                log_path=broker.log_path,
                env=env,
                cwd=broker.directory,
            )
        )

    async def stop(self, broker_id: int, *, timeout: float = STOP_SECONDS) -> None:
        """Ask a broker to leave in order (SIGTERM), and wait until it has. It must exit 0."""
        broker, run = self._running_broker(broker_id)
        broker.should_run = False
        with trio.move_on_after(timeout) as patience:
            await run.stop()
        if patience.cancelled_caught:
            raise ClusterError(
                f"broker {broker_id} did not leave within {timeout:g} s\n"
                f"{log_tail(broker.log_path, 30)}"
            )
        self._refuse_all(broker)
        if run.exit_code != 0:
            raise broker.ended()

    def _refuse_all(self, broker: ClusterBroker) -> None:
        """Its process is no more: its proxies say what its ports would."""
        for proxy in broker.proxies:
            proxy.refuse()

    async def kill(self, broker_id: int) -> None:
        """SIGKILL; inside the loop its sockets drop and its ZooKeeper session is left to expire."""
        broker, run = self._running_broker(broker_id)
        broker.should_run = False
        broker.paused = False
        if isinstance(run, LoopRun):
            await self._cut_off_and_kill(broker, run)
        else:
            await run.kill()
        self._refuse_all(broker)

    async def restart(self, broker_id: int) -> None:
        """`stop`, then `start`."""
        await self.stop(broker_id)
        await self.start(broker_id)

    def pause(self, broker_id: int) -> None:
        """SIGSTOP: alive, connected, and silent. Refused inside the loop."""
        broker, run = self._running_broker(broker_id)
        run.send(signal.SIGSTOP)
        broker.paused = True

    def resume(self, broker_id: int) -> None:
        """SIGCONT after `pause`."""
        broker, run = self._running_broker(broker_id)
        run.send(signal.SIGCONT)
        broker.paused = False

    async def expire_session(self, broker_id: int) -> None:
        """End a broker's ZooKeeper session behind its back, as an expiry would.

        Whoever shows a session's id and password may close it; the broker keeps both in its data
        directory. Its ephemeral nodes go at once, and it learns of it from its own connection.
        """
        broker, _ = self._running_broker(broker_id)
        saved = json.loads((broker.data_directory / SESSION_FILE).read_text())
        identity = int(saved["session_id"], 16), bytes.fromhex(saved["password"])
        async with open_session(self.zookeeper_connect, 10_000, Clock()) as session:
            if not await session.resume_and_close(*identity):
                raise ClusterError(f"broker {broker_id} had no session 0x{identity[0]:x} any more")

    async def _cut_off_and_kill(self, broker: ClusterBroker, run: LoopRun) -> None:
        """Cancel a broker of this loop while it can tell nobody, least of all ZooKeeper."""
        parties: list[Party] = [i for i in self.brokers if i != broker.broker_id]
        parties += ["zookeeper", "clients"]
        before = {party: self.network.link(broker.broker_id, party).condition for party in parties}
        for party in parties:
            self.network.cut(broker.broker_id, party)
        await run.kill()
        for party, condition in before.items():
            self.network.link(broker.broker_id, party).set(condition)

    # Faults of the network.

    def cut(self, a: Party, b: Party) -> None:
        """Reset every connection between two parties, and every new one, until `heal`.

        A party is a broker's id, `"zookeeper"` or `"clients"`.
        """
        self._check_parties(a, b)
        self.network.cut(a, b)

    def black_hole(self, a: Party, b: Party) -> None:
        """Let nothing pass between two parties and tell neither, until `heal`."""
        self._check_parties(a, b)
        self.network.black_hole(a, b)

    def heal(self, a: Party | None = None, b: Party | None = None) -> None:
        """Mend the link between two parties, all links of one, or all there are."""
        self.network.heal(a, b)
        for broker in self.brokers.values():
            if broker.running and (a is b is None or broker.broker_id in (a, b)):
                broker.peer_proxy.accept()

    def refuse(self, broker_id: int) -> None:
        """Have a broker refuse its peers, as a firewall would that rejects, until `heal`: their
        connections to it are reset and new ones refused. Clients are spared if the brokers have a
        listener of their own."""
        self._broker(broker_id).peer_proxy.refuse()

    def isolate(self, broker_id: int, *, silently: bool = False) -> None:
        """Cut a broker off from all its peers, and from nobody else."""
        for other in self.brokers:
            if other != broker_id:
                if silently:
                    self.black_hole(broker_id, other)
                else:
                    self.cut(broker_id, other)

    def _check_parties(self, *parties: Party) -> None:
        for party in parties:
            if party not in ("zookeeper", "clients") and party not in self.brokers:
                raise ClusterError(f"no such party: {party!r}")
        if not any(party in self.brokers for party in parties) or parties[0] == parties[1]:
            raise ClusterError(f"nothing connects {parties[0]!r} and {parties[1]!r}")

    # What the brokers believe.

    async def metadata(
        self, broker_id: int, topics: Sequence[str] | None = None
    ) -> MetadataResponse:
        """What one broker says of the cluster; of all topics when none are named.

        Errors: NoAnswer.
        """
        wanted = None if topics is None else [MetadataRequestTopic(name=name) for name in topics]
        request = MetadataRequest(topics=wanted, allow_auto_topic_creation=False)
        port = self._broker(broker_id).port
        return await ask(port, request, MetadataResponse, _METADATA_VERSION)

    async def partition(self, topic: str, partition: int) -> MetadataResponsePartition | None:
        """The partition as the broker with the latest news of it knows it.

        That is the highest leader epoch, and among those who know it the leader itself: its ISR may
        have changed since others were last told.
        """
        accounts: list[tuple[int, bool, MetadataResponsePartition]] = []
        for broker_id in self.running:
            try:
                answer = await self.metadata(broker_id, [topic])
            except NoAnswer:
                continue
            accounts += [
                (known.leader_epoch, known.leader_id == broker_id, known)
                for known in answer.topics[0].partitions
                if known.partition_index == partition
            ]
        return max(accounts, key=lambda account: account[:2])[2] if accounts else None

    async def leader(
        self, topic: str, partition: int, *, other_than: int = -1, timeout: float = WAIT_SECONDS
    ) -> int:
        """Who leads the partition; waits for a leader, if asked one `other_than` a former one."""

        async def led() -> int | None:
            known = await self.partition(topic, partition)
            if known is None or known.leader_id in (-1, other_than):
                return None
            return known.leader_id

        what = f"{topic}-{partition} has a leader"
        if other_than >= 0:
            what += f" other than {other_than}"
        return await self.wait_for(what, led, timeout=timeout)

    async def controller(self, *, other_than: int = -1, timeout: float = WAIT_SECONDS) -> int:
        """The controller on which all running brokers agree, waiting for it."""

        async def agreed() -> int | None:
            said = {(await self.metadata(i, [])).controller_id for i in self.running}
            [controller] = said if len(said) == 1 else {-1}
            return None if controller in (-1, other_than) else controller

        return await self.wait_for("one controller", agreed, timeout=timeout)

    async def coordinator(
        self, group: str, *, other_than: int = -1, timeout: float = WAIT_SECONDS
    ) -> int:
        """The coordinator of a consumer group, waiting until somebody knows one; if asked, one
        `other_than` a former one."""
        request = FindCoordinatorRequest(key=group, key_type=0)

        async def known() -> int | None:
            port = self.brokers[self.running[0]].port
            answer = await ask(port, request, FindCoordinatorResponse, 3)
            if answer.error_code != ErrorCode.NONE or answer.node_id == other_than:
                return None
            return answer.node_id

        return await self.wait_for(f"a coordinator of group {group}", known, timeout=timeout)

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        replication_factor: int = -1,
        assignments: Sequence[Sequence[int]] | None = None,
        config: Mapping[str, str] | None = None,
        timeout: float = WAIT_SECONDS,
    ) -> None:
        """Create a topic, and wait until every broker knows it and all replicas are in sync.

        `assignments` names the replicas of each partition, the first one preferred as leader.
        """
        placed = [
            CreatableReplicaAssignment(partition_index=index, broker_ids=list(replicas))
            for index, replicas in enumerate(assignments or ())
        ]
        topic = CreatableTopic(
            name=name,
            num_partitions=-1 if placed else partitions,
            replication_factor=-1 if placed else replication_factor,
            assignments=placed,
            configs=[CreatableTopicConfig(name=k, value=v) for k, v in (config or {}).items()],
        )
        request = CreateTopicsRequest(topics=[topic], timeout_ms=int(timeout * 1000))
        port = self.brokers[await self.controller(timeout=timeout)].port
        response = await ask(port, request, CreateTopicsResponse, 5, timeout=timeout + 5)
        [result] = response.topics
        if result.error_code != ErrorCode.NONE:
            code = ErrorCode.of(result.error_code).name
            raise ClusterError(f"topic {name} was not created: {code} {result.error_message or ''}")
        await self.wait_until_whole(topics=[name], timeout=timeout)

    def replica_contents(self, topic: str, partition: int) -> list[ReplicaContents]:
        """What each broker keeps of a partition, read from its files; blocks for a moment."""
        at_ms = time.monotonic_ns() // 1_000_000  # the clock of a history
        found = [
            read_replica(
                broker.data_directory,
                TopicPartition(topic, partition),
                broker=broker.broker_id,
                at_ms=at_ms,
            )
            for broker in self.brokers.values()
        ]
        return [contents for contents in found if contents is not None]

    # Waiting.

    async def wait_until_whole(
        self, *, topics: Sequence[str] | None = None, timeout: float = START_SECONDS
    ) -> None:
        """Wait until the running brokers are one healthy cluster, and all of them know it.

        That is: each lists exactly the running ones, all name one controller among them, every
        partition (of `topics`, or of all) has a running leader, and the in-sync replicas are all
        its replicas that run. With every broker running, nothing is under-replicated any more.
        Errors: ClusterError, which says what is still missing.
        """
        missing = "nothing was asked yet"

        async def whole() -> bool | None:
            nonlocal missing
            missing = await self._missing(topics)
            return True if not missing else None

        try:
            await self.wait_for("the cluster is whole", whole, timeout=timeout)
        except BrokerEnded:
            raise
        except ClusterError as error:
            raise ClusterError(f"{error}\nmissing: {missing}") from None

    async def wait_until_replicas_agree(
        self, topic: str, partitions: int, *, timeout: float = WAIT_SECONDS
    ) -> None:
        """Wait until, for each partition, every replica on disk ends at the same offset."""

        async def agree() -> bool:
            for partition in range(partitions):
                contents = self.replica_contents(topic, partition)
                if len({replica.log_end_offset for replica in contents}) > 1:
                    return False
            return True

        await self.wait_until(f"replicas of {topic} end together", agree, timeout=timeout)

    async def wait_until(
        self,
        what: str,
        condition: Callable[[], Awaitable[bool]],
        *,
        timeout: float = WAIT_SECONDS,
    ) -> None:
        """Ask again and again until `condition` holds. Errors as `wait_for`."""

        async def held() -> bool | None:
            return await condition() or None

        await self.wait_for(what, held, timeout=timeout)

    async def wait_for(
        self,
        what: str,
        question: Callable[[], Awaitable[T | None]],
        *,
        timeout: float = WAIT_SECONDS,
    ) -> T:
        """Ask again and again until the answer is not None; a broker's silence counts as None.

        Errors: BrokerEnded as soon as a broker has ended that should run; ClusterError, naming
        `what`, when `timeout` seconds were not enough.
        """
        with trio.move_on_after(timeout):
            while True:
                died = self._first_dead()
                if died is not None:
                    raise died
                try:
                    answer = await question()
                except NoAnswer:
                    answer = None
                if answer is not None:
                    return answer
                await trio.sleep(_POLL_SECONDS)
        raise ClusterError(f"not within {timeout:g} s: {what}\n{self._log_tails()}")

    async def _serves(self, broker_id: int) -> bool:
        answer = await self.metadata(broker_id, [])
        return any(broker.node_id == broker_id for broker in answer.brokers)

    async def _missing(self, topics: Sequence[str] | None) -> str:
        """What keeps the running brokers from being whole; empty when nothing does."""
        running = self.running
        controllers: set[int] = set()
        for broker_id in running:
            answer = await self.metadata(broker_id, topics)
            listed = sorted(broker.node_id for broker in answer.brokers)
            if listed != running:
                return f"broker {broker_id} lists {listed}, running are {running}"
            controllers.add(answer.controller_id)
            for topic in answer.topics:
                if topic.error_code != ErrorCode.NONE:
                    code = ErrorCode.of(topic.error_code).name
                    return f"broker {broker_id} says {code} of topic {topic.name}"
                for partition in topic.partitions:
                    lack = _lack(partition, running)
                    if lack:
                        index = partition.partition_index
                        return f"broker {broker_id} says {topic.name}-{index} {lack}"
        if len(controllers) != 1 or not controllers <= set(running):
            return f"one controller: {sorted(controllers)} are named"
        return ""

    def _first_dead(self) -> BrokerEnded | None:
        for broker in self.brokers.values():
            if broker.should_run and broker.run is not None and not broker.run.running:
                return broker.ended()
        return None

    def _log_tails(self) -> str:
        down = [i for i, broker in self.brokers.items() if not broker.running]
        paused = [i for i, broker in self.brokers.items() if broker.running and broker.paused]
        paths = sorted({broker.log_path for broker in self.brokers.values()})
        tails = [f"{path}:\n{log_tail(path, 36 // len(paths))}" for path in paths]
        return "\n".join([f"up: {self.running}, paused: {paused}, down: {down}", *tails])

    def _broker(self, broker_id: int) -> ClusterBroker:
        if broker_id not in self.brokers:
            raise ClusterError(f"no broker {broker_id}: there are {sorted(self.brokers)}")
        return self.brokers[broker_id]

    def _running_broker(self, broker_id: int) -> tuple[ClusterBroker, ProcessRun | LoopRun]:
        broker = self._broker(broker_id)
        if broker.run is None or not broker.run.running:
            raise ClusterError(f"broker {broker_id} does not run")
        return broker, broker.run


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Have what brokers of this process say written to a file, beside wherever else it goes."""
    logger = logging.getLogger("zkafka")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    before = logger.level
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


def _source_address(broker_id: int) -> str:
    """The loopback address a broker's own connections come from; 127.0.0.1 is the clients'."""
    return f"127.0.{broker_id // 200}.{10 + broker_id % 200}"


def _lack(partition: MetadataResponsePartition, running: Sequence[int]) -> str:
    """What a partition lacks of health, given who runs; empty when nothing."""
    if partition.leader_id not in running:
        return f"is led by {partition.leader_id}"
    expected = sorted(set(partition.replica_nodes) & set(running))
    in_sync = sorted(partition.isr_nodes)
    return "" if in_sync == expected else f"has in sync {in_sync}, running replicas are {expected}"


def _first(group: BaseExceptionGroup[StartupError]) -> StartupError:
    """One of the errors in a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, StartupError)
    return error
