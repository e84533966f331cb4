"""The whole broker on one page: builds the parts, starts them in order, takes them down in reverse.

Start: lock the log directories; open the ZooKeeper session; agree on whose cluster and which broker
this is; read the topics' settings; load the logs; bind the listeners; register; run the parts;
serve. The address is bound before the registration, so that a former session of ours may be closed
(`zk.registration`), and peers that see the registration a moment early wait in the backlog.

Stop: ask the controller to move our leaderships away while everything still serves; accept no more
and answer what was begun; stop the parts; flush, checkpoint and mark the log directories; close the
session. A broker that fails instead of stopping leaves its directories unmarked: the next start
recovers them.

Source: `KafkaServer` of Apache Kafka 3.9 for the order; KIP-380 for broker epochs.
"""

import contextlib
import functools
import logging
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

import zkafka
from zkafka.clock import Clock
from zkafka.config import BrokerConfig, LogConfig
from zkafka.controller.controller import Controller
from zkafka.controller.sentinels import Sentinels, SentinelStatistics
from zkafka.errands import Errands
from zkafka.errors import (
    CoordinationError,
    ErrorCode,
    PeerUnreachable,
    StartupError,
    StorageError,
)
from zkafka.groups.coordinator import GroupCoordinator
from zkafka.log.directory import LogDirectory, MetaProperties, settle
from zkafka.log.files import Files
from zkafka.log.partition_log import PartitionLog
from zkafka.model import NO_BROKER, BrokerId, BrokerState, TopicPartition
from zkafka.net.listener import Admission, Limits, Listener
from zkafka.net.peer import ControllerLink, Peers, tcp_connector
from zkafka.offload import Offload, in_threads
from zkafka.protocol.connection import Budget
from zkafka.protocol.messages.controlled_shutdown import ControlledShutdownRequest
from zkafka.replication.purgatory import METADATA, Purgatory
from zkafka.replication.replicas import Replicas
from zkafka.server.configs import Configs, ConfigsChanged
from zkafka.server.context import Parts
from zkafka.server.dispatch import Dispatcher
from zkafka.server.fetch_sessions import SWEEP_MS, FetchSessions
from zkafka.server.metadata import MetadataCache
from zkafka.server.topics import Topics
from zkafka.transactions.producer_ids import ProducerIds
from zkafka.zk.operations import SessionState
from zkafka.zk.registration import Registration
from zkafka.zk.session import Session
from zkafka.zk.store import Store
from zkafka.zk.znodes import BrokerRegistration

log = logging.getLogger(__name__)

SESSION_FILE = "zookeeper.session"
"""In the first log directory: the session's id and password, for a quick start after a kill."""

DEPOSED_MS = 2000
"""How long a stopping broker waits for the LeaderAndIsr that follows the controller's answer."""

DRAIN_S = 10.0
"""How long a stopping broker lets what was begun be answered."""


class Broker:
    """One broker, from `run` to its end. Any number may live in one process."""

    def __init__(
        self, config: BrokerConfig, *, clock: Clock | None = None, files: Files | None = None
    ) -> None:
        self.config = config
        self.broker_id: BrokerId = config.broker_id
        self.cluster_id = ""
        self.state = BrokerState.NOT_RUNNING
        self._clock = clock or Clock()
        self._files = files or Files()
        self._stop = trio.Event()
        self._life = trio.CancelScope()
        self._session = Session(
            config.zookeeper_connect,
            config.zookeeper_session_timeout_ms,
            self._clock,
            connection_timeout_ms=config.zookeeper_connection_timeout_ms,
        )
        self._store = Store(self._session)
        self._offload = Offload(config.background_threads)
        self._errands = Errands()
        self._purgatory = Purgatory(self._errands)
        self._log_dirs: list[LogDirectory] = []
        self._listeners: list[Listener] = []
        self._controller_link: ControllerLink | None = None
        self._sentinels: Sentinels | None = None

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask for a controlled shutdown; `run` returns when it is done. A broker that has not
        started yet has nothing to hand over: it gives up starting."""
        self._stop.set()
        if self.state in (BrokerState.NOT_RUNNING, BrokerState.STARTING, BrokerState.RECOVERY):
            self._life.cancel()

    async def run(
        self,
        *,
        on_started: Callable[[], object] = lambda: None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be a broker until `stop`. `started()`, then `on_started`, are called once it serves.

        Errors: `StartupError` when it cannot start, `StorageError` when the last log directory has
        failed; both inside an exception group. A cancellation is a crash: nothing is handed over
        or marked clean, though the session is closed.
        """
        self.state = BrokerState.STARTING
        try:
            with self._life:
                await self._open_log_dirs()
                async with trio.open_nursery() as nursery:
                    with self._needing_zookeeper():
                        await nursery.start(self._session.run)
                        await self._store.create_base_paths()
                        parts, registration, replicas = await self._build()
                    await self._live(parts, registration, replicas, on_started, task_status)
                    await replicas.checkpoint()
                    await self._close_log_dirs(clean=True, broker_epoch=parts.broker_epoch())
                    nursery.cancel_scope.cancel()
            before = " before it had started" if self._life.cancelled_caught else ""
            log.info("stopped%s broker=%d", before, self.broker_id)
        finally:
            self.state = BrokerState.NOT_RUNNING
            with trio.CancelScope(shield=True):
                for listener in self._listeners:
                    await listener.aclose()
                if self._controller_link is not None:
                    await self._controller_link.aclose()
                await self._close_log_dirs(clean=False)

    # ------------------------------------------------------------------------------- start

    async def _open_log_dirs(self) -> None:
        """Lock every directory. One whose disk fails is left out while another is there."""
        failures: list[StorageError] = []
        for path in self.config.log_dirs:
            try:
                opened = await self._offload.run(
                    functools.partial(
                        LogDirectory.open,
                        path,
                        self._files,
                        each=in_threads,
                        recovery_threads=self.config.num_recovery_threads_per_data_dir,
                    )
                )
            except StorageError as error:
                log.error("log directory cannot be used path=%s error=%s", path, error)
                failures.append(error)
            else:
                self._log_dirs.append(opened)
        if not self._log_dirs:
            raise StartupError(f"no directory of log.dirs can be used: {failures[0]}")

    async def _close_log_dirs(self, *, clean: bool, broker_epoch: int = -1) -> None:
        """Harmless where it has been done before."""
        directories, self._log_dirs = self._log_dirs, []
        for directory in directories:
            close = functools.partial(directory.close, clean=clean, broker_epoch=broker_epoch)
            try:
                await self._offload.run(close)
            except StorageError as error:
                # The other directories are no worse for it.
                log.error("not closed cleanly, to be recovered dir=%s error=%s", directory, error)

    @contextlib.contextmanager
    def _needing_zookeeper(self) -> Iterator[None]:
        """What a starting broker does while it has nothing to fall back on: `StartupError`."""
        try:
            yield
        except CoordinationError as error:
            raise StartupError(
                f"zookeeper.connect={self.config.zookeeper_connect}: {error}"
            ) from error

    async def _identify(self) -> None:
        """Settle the cluster's id and ours, and claim directories that are nobody's yet."""
        metas = {directory.path: directory.meta for directory in self._log_dirs}
        owned = {path: meta for path, meta in metas.items() if meta is not None}
        cluster_id = await self._store.cluster_id(create=not owned)
        for path, meta in owned.items():
            if cluster_id is None:
                raise StartupError(
                    f"log directory {path} belongs to cluster {meta.cluster_id}, and the ZooKeeper "
                    f"at {self.config.zookeeper_connect} holds no cluster at all: refusing to "
                    "invent a new one over old data"
                )
            if meta.cluster_id != cluster_id:
                raise StartupError(
                    f"log directory {path} belongs to cluster {meta.cluster_id}, not to cluster "
                    f"{cluster_id} at {self.config.zookeeper_connect}"
                )
        assert cluster_id is not None, "created where nothing was owned"
        self.cluster_id = cluster_id
        self.broker_id = await self._settle_broker_id(owned)
        for directory in self._log_dirs:
            if metas[directory.path] is None:
                meta = MetaProperties(self.broker_id, cluster_id)
                await self._offload.run(directory.write_meta, meta)

    async def _settle_broker_id(self, owned: dict[str, MetaProperties]) -> BrokerId:
        stored = {meta.broker_id: path for path, meta in owned.items()}
        if len(stored) > 1:
            raise StartupError(f"log.dirs belong to several brokers: {stored}")
        configured = self.config.broker_id
        for broker_id, path in stored.items():
            if configured not in (broker_id, NO_BROKER):
                raise StartupError(
                    f"broker.id={configured}, but log directory {path} is broker {broker_id}'s"
                )
            return broker_id
        if configured != NO_BROKER:
            return configured
        return await self._store.next_broker_id(self.config.reserved_broker_max_id)

    async def _build(self) -> tuple[Parts, Registration, Replicas]:
        """Make the parts, each from those below it; logs are loaded, addresses bound on the way."""
        config, clock = self.config, self._clock
        await self._identify()
        log.info(
            "starting zkafka version=%s broker=%d cluster=%s",
            zkafka.__version__,
            self.broker_id,
            self.cluster_id,
        )
        configs = Configs(
            store=self._store,
            session=self._session,
            config=config,
            broker_id=self.broker_id,
            clock=clock,
        )
        await configs.load()
        self.state = BrokerState.RECOVERY
        logs = await self._load_logs(configs.config_for)
        self.state = BrokerState.STARTING

        metadata = MetadataCache(self.cluster_id)
        open_transport = tcp_connector(
            self._offload.run,
            bind_address=config.bind_address,
            receive_buffer_bytes=config.replica_socket_receive_buffer_bytes,
        )
        peers = Peers(
            lambda: metadata.image,
            config.inter_broker_listener_name,
            client_id=f"broker-{self.broker_id}",
            open_transport=open_transport,
            request_timeout_ms=config.replica_socket_timeout_ms,
        )
        controller_link = ControllerLink(lambda: metadata.image, peers)
        controller = Controller(
            broker_id=self.broker_id,
            store=self._store,
            session=self._session,
            connect=functools.partial(
                peers.connect_to, request_timeout_ms=config.controller_socket_timeout_ms
            ),
            config=config,
            clock=clock,
            log_defaults=lambda: configs.log_defaults,
        )
        if config.broker_suspicion_timeout_ms > 0:
            self._sentinels = Sentinels(
                broker_id=self.broker_id,
                store=self._store,
                session=self._session,
                open_transport=open_transport,
                listener_name=config.inter_broker_listener_name,
                timeout_ms=config.broker_suspicion_timeout_ms,
                clock=clock,
                suspects_changed=controller.suspect,
                avoided_changed=metadata.avoid,
            )
        # The registration needs the bound ports, the dispatcher the parts: hence the late binding.
        registered: list[Registration] = []
        replicas = Replicas(
            broker_id=self.broker_id,
            broker_epoch=lambda: registered[0].broker_epoch,
            config=config,
            config_for=configs.config_for,
            log_dirs=self._log_dirs,
            logs=logs,
            metadata=metadata,
            purgatory=self._purgatory,
            offload=self._offload,
            clock=clock,
            connect=peers.connect,
            controller=controller_link,
            may_propose=lambda: self._session.state is SessionState.CONNECTED,
            on_log_dir_failure=lambda path: self._failed_dirs_send.send_nowait(path),
        )
        replicas.reconfigure_broker(configs.broker_config)
        parts = Parts(
            broker_id=self.broker_id,
            broker_epoch=lambda: registered[0].broker_epoch,
            config=config,
            clock=clock,
            metadata=metadata,
            purgatory=self._purgatory,
            offload=self._offload,
            replicas=replicas,
            groups=GroupCoordinator(
                replicas=replicas,
                metadata=metadata,
                purgatory=self._purgatory,
                offload=self._offload,
                config=config,
                clock=clock,
            ),
            controller=controller,
            controller_changed=controller_link.controller_changed,
            topics=Topics(
                store=self._store,
                metadata=metadata,
                purgatory=self._purgatory,
                config=config,
                clock=clock,
                is_controller=lambda: controller.is_active,
                log_defaults=lambda: configs.log_defaults,
            ),
            configs=configs,
            producer_ids=ProducerIds(
                broker_id=self.broker_id,
                broker_epoch=lambda: registered[0].broker_epoch,
                ask_controller=controller_link.request,
            ),
            fetch_sessions=FetchSessions(
                watch=self._purgatory.watch,
                rng=random.Random(),
                slots=config.max_incremental_fetch_session_cache_slots,
                sweep_ms=min(SWEEP_MS, max(1, config.replica_lag_time_max_ms // 6)),
            ),
            store=self._store,
            log_dirs=self._log_dirs,
        )
        self._controller_link = controller_link
        # One line per failed directory; no more than there are directories.
        self._failed_dirs_send, self._failed_dirs = trio.open_memory_channel[str](
            len(self._log_dirs)
        )
        self._bind(Dispatcher(parts))
        registered.append(self._registration())
        return parts, registered[0], replicas

    async def _load_logs(
        self, config_for: Callable[[str], LogConfig]
    ) -> dict[TopicPartition, PartitionLog]:
        """Open every log, the directories side by side. A directory that fails is left offline."""

        async def load(directory: LogDirectory) -> None:
            try:
                await self._offload.run(directory.load, config_for)
            except StorageError as error:
                log.error("log directory failed while loading path=%s error=%s", error.path, error)

        async with trio.open_nursery() as nursery:
            for directory in self._log_dirs:
                nursery.start_soon(load, directory)
        if all(directory.offline for directory in self._log_dirs):
            raise StartupError(f"no log directory can be used: {self._log_dirs[0].offline}")
        return await self._offload.run(settle, self._log_dirs)

    def _bind(self, dispatcher: Dispatcher) -> None:
        limits = Limits.of(self.config)
        admission = Admission.of(self.config)
        budget = Budget()
        several = len(self.config.listeners) > 1
        for endpoint in self.config.listeners:
            listener = Listener(
                endpoint,
                dispatcher,
                limits=limits,
                budget=budget,
                admission=admission,
                clock=self._clock,
                run_in_thread=self._offload.run,
                errands=self._errands,
                exempt=several and endpoint.listener == self.config.inter_broker_listener_name,
            )
            listener.bind()
            self._listeners.append(listener)

    def _registration(self) -> Registration:
        ports = {listener.endpoint.listener: listener.port for listener in self._listeners}
        return Registration(
            self._store,
            self._session,
            BrokerRegistration(
                broker_id=self.broker_id,
                endpoints=self.config.advertised(socket.getfqdn(), ports),
                rack=self.config.broker_rack,
            ),
            cluster_id=self.cluster_id,
            session_path=Path(self._log_dirs[0].path) / SESSION_FILE,
            clock=self._clock,
        )

    # -------------------------------------------------------------------------------- life

    async def _live(
        self,
        parts: Parts,
        registration: Registration,
        replicas: Replicas,
        on_started: Callable[[], object],
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Run the parts until `stop`, then take them down while the session still stands."""
        async with trio.open_nursery() as running:
            await running.start(replicas.run)
            await running.start(parts.groups.run)
            await running.start(parts.producer_ids.run)
            await running.start(
                parts.configs.run, functools.partial(self._settings_changed, parts, replicas)
            )
            running.start_soon(self._report_failed_dirs)
            if self.config.admin_listener is not None:
                await self._serve_admin(running, parts)
            async with trio.open_nursery() as serving:
                for listener in self._listeners:
                    await serving.start(listener.serve)
                with self._needing_zookeeper():
                    await running.start(registration.run)
                await running.start(parts.controller.run)
                if self._sentinels is not None:
                    running.start_soon(self._sentinels.run)
                self.state = BrokerState.RUNNING
                log.info("started broker=%d listeners=%s", self.broker_id, self._bound())
                on_started()
                task_status.started()
                await self._stop.wait()
                self.state = BrokerState.PENDING_CONTROLLED_SHUTDOWN
                await self._hand_over(parts, replicas)
                self.state = BrokerState.SHUTTING_DOWN
                for listener in self._listeners:
                    listener.stop()
                # Not before: a successor would have us follow again what we just handed over. Not
                # later: closing the logs takes seconds, for which nobody would be controller.
                await parts.controller.resign()
                serving.cancel_scope.deadline = trio.current_time() + DRAIN_S
            running.cancel_scope.cancel()

    def _bound(self) -> str:
        return ",".join(
            f"{listener.endpoint.listener}:{listener.port}" for listener in self._listeners
        )

    async def _serve_admin(self, nursery: trio.Nursery, parts: Parts) -> None:
        # Here, since a broker without this listener starts a tenth sooner without them.
        from zkafka.admin.http import AdminServer, Pages
        from zkafka.admin.loop import LoopMeter
        from zkafka.admin.metrics import Sources, metrics_page
        from zkafka.admin.readiness import healthz, readyz

        endpoint = self.config.admin_listener
        assert endpoint is not None
        meter = LoopMeter()
        await nursery.start(meter.run)
        sources = Sources(
            parts=parts,
            state=lambda: self.state,
            session=self._session,
            listeners=self._listeners,
            loop=meter.statistics,
            sentinels=(
                SentinelStatistics if self._sentinels is None else self._sentinels.statistics
            ),
        )
        pages: Pages = {
            "/healthz": healthz,
            "/readyz": functools.partial(readyz, parts),
            "/metrics": functools.partial(metrics_page, sources, self._offload),
        }
        try:
            await nursery.start(AdminServer(endpoint.host, endpoint.port, pages).run)
        except OSError as error:
            raise StartupError(
                f"zkafka.admin.listener={endpoint.address} cannot be bound: {error.strerror}"
            ) from error

    def _settings_changed(self, parts: Parts, replicas: Replicas, changed: ConfigsChanged) -> None:
        """Let logs and controller have the settings they live by."""
        topics = changed.topics
        if topics is None:
            topics = frozenset(tp.topic for tp in replicas.hosted)
        for topic in sorted(topics):
            replicas.reconfigure(topic, parts.configs.config_for(topic))
        replicas.reconfigure_broker(parts.configs.broker_config)
        if changed.unclean_enabled is None:
            parts.controller.unclean_election_enabled(None)
        else:
            for topic in sorted(changed.unclean_enabled):
                parts.controller.unclean_election_enabled(topic)

    async def _report_failed_dirs(self) -> None:
        """Tell the controller, by a znode, that replicas here went offline."""
        async for path in self._failed_dirs:
            log.error("log directory is offline broker=%d path=%s", self.broker_id, path)
            try:
                await self._store.notify_log_dir_failure(self.broker_id)
            except CoordinationError as error:
                # Without a session this broker is dead to the cluster anyway; when it registers
                # anew the controller learns of the directory from our LeaderAndIsr answers.
                log.warning("log directory failure not announced path=%s error=%s", path, error)

    async def _hand_over(self, parts: Parts, replicas: Replicas) -> None:
        """Ask the controller to lead our partitions elsewhere (ControlledShutdown)."""
        if not self.config.controlled_shutdown_enable:
            return
        replicas.fetchers.leave()
        asked = NO_BROKER
        for attempt in range(self.config.controlled_shutdown_max_retries):
            if attempt:
                await self._wait_for_news(parts, asked)
            asked = parts.metadata.image.controller_id
            request = ControlledShutdownRequest(
                broker_id=self.broker_id, broker_epoch=parts.broker_epoch()
            )
            try:
                assert self._controller_link is not None
                response = await self._controller_link.request(request)
            except PeerUnreachable as error:
                log.warning("controlled shutdown: no controller to ask error=%s", error)
                continue
            remaining = len(response.remaining_partitions)
            if response.error_code == ErrorCode.NONE and not remaining:
                await self._wait_deposed(replicas)
                log.info("controlled shutdown: every leadership is handed over")
                return
            log.info(
                "controlled shutdown: not done yet error=%s remaining=%d",
                ErrorCode.of(response.error_code).name,
                remaining,
            )
            if self._is_alone(parts):
                log.info("controlled shutdown: nobody else is left to take over")
                return
        log.warning("stopping with leaderships that nobody took over")

    def _is_alone(self, parts: Parts) -> bool:
        """Whether the controller knows of no broker but us."""
        return parts.metadata.image.brokers.keys() == {self.broker_id}

    async def _wait_for_news(self, parts: Parts, asked: BrokerId) -> None:
        """Until there is a controller other than `asked`, or nobody else is left; but no longer
        than Kafka's pause."""
        await self._purgatory.wait_until(
            [METADATA],
            lambda: (
                parts.metadata.image.controller_id not in (NO_BROKER, asked)
                or self._is_alone(parts)
            ),
            self._clock.monotonic_ms() + self.config.controlled_shutdown_retry_backoff_ms,
        )

    async def _wait_deposed(self, replicas: Replicas) -> None:
        """Wait until we have been told that we lead no more: what waits here for followers, which
        now follow others, is answered then and asked again there."""
        led = [
            replica
            for replica in replicas.hosted.values()
            if replica.machine.is_leader and len(replica.machine.replicas) > 1
        ]
        deposed = await self._purgatory.wait_until(
            [replica.topic_partition for replica in led],
            lambda: not any(replica.machine.is_leader for replica in led),
            self._clock.monotonic_ms() + DEPOSED_MS,
        )
        if not deposed:
            log.warning("controlled shutdown: still a leader after ms=%d", DEPOSED_MS)
