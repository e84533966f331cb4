"""The two kinds of cluster behind one interface: brokers started, stopped, killed and asked.

Settings are the same few lines for both sides, `SETTINGS`; all else is each product's default.
Apache Kafka runs as its `kafka-server-start.sh` runs it: heap of 1 GB, G1, its flags and logging.
"""

import os
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
from apache_kafka import jars  # tests/integration: gathers the jars, once, with Maven

from bench import accounting, wire
from bench.accounting import Usage
from zkafka.testing.processes import ChildProcess, free_ports

START_SECONDS = 180.0
STOP_SECONDS = 60.0
SETTINGS = {
    # Of Apache Kafka's own config/server.properties: a group does not wait 3 s for more members.
    "group.initial.rebalance.delay.ms": "0",
    # What a round wrote is unlinked at once, not while another round is measured.
    "log.segment.delete.delay.ms": "0",
}

_JVM = (
    # kafka-server-start.sh and kafka-run-class.sh of Apache Kafka 3.9.
    *("-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
    *("-XX:MaxInlineLevel=15", "-Djava.awt.headless=true", "-Dcom.sun.management.jmxremote"),
    *(
        "-Dcom.sun.management.jmxremote.authenticate=false",
        "-Dcom.sun.management.jmxremote.ssl=false",
    ),
)
_LOG4J = """\
log4j.rootLogger=INFO, stdout
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=[%d] %p %m (%c)%n
log4j.logger.kafka.request.logger=WARN
"""


class BenchError(Exception):
    """Something could not be measured; says what."""


@attrs.frozen
class Side(ABC):
    """One product, or one build of it."""

    name: str
    """As in tables and JSON: `zkafka`, `kafka`, or what --build named."""

    @abstractmethod
    def command(self, settings: Path) -> list[str]:
        """What starts a broker in the foreground."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """Variables beside our own environment."""


@attrs.frozen
class Zkafka(Side):
    """A checkout of this project."""

    checkout: Path

    def command(self, settings: Path) -> list[str]:
        return [sys.executable, "-m", "zkafka", str(settings)]

    def environment(self) -> Mapping[str, str]:
        # A start after the first finds its modules compiled, as anybody's does, also where our own
        # environment says that nothing is to be kept.
        return {"PYTHONPATH": str(self.checkout), "PYTHONDONTWRITEBYTECODE": ""}


@attrs.frozen
class ApacheKafka(Side):
    """Apache Kafka 3.9 in ZooKeeper mode."""

    def command(self, settings: Path) -> list[str]:
        logging = settings.with_suffix(".log4j")
        logging.write_text(_LOG4J)
        gc_log = (
            f"-Xlog:gc*:file={settings.with_suffix('.gc')}:time,tags:filecount=10,filesize=100M"
        )
        flags = [*_JVM, gc_log, f"-Dlog4j.configuration=file:{logging}"]
        return ["java", *flags, "-cp", f"{jars()}/*", "kafka.Kafka", str(settings)]

    def environment(self) -> Mapping[str, str]:
        return {}


@attrs.define(eq=False)
class Broker:
    """One broker: its port, its settings, and its process while it has one."""

    broker_id: int
    port: int
    settings: Path
    process: ChildProcess | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running


@attrs.define(eq=False)
class Cluster:
    """Brokers of one side beside a ZooKeeper, numbered from 1."""

    side: Side
    directory: Path
    brokers: dict[int, Broker]
    _ended_cpu: float = 0.0

    @classmethod
    def create(cls, side: Side, directory: Path, zookeeper: str, count: int) -> "Cluster":
        """Lay out `count` brokers on free ports; nothing is started yet.

        `zookeeper` is `host:port`; the cluster takes a chroot of its own there.
        """
        directory.mkdir(parents=True)
        brokers = {}
        for broker_id, port in enumerate(free_ports(count), start=1):
            settings = directory / f"{broker_id}.properties"
            properties = {
                "broker.id": str(broker_id),
                "listeners": f"PLAINTEXT://127.0.0.1:{port}",
                "log.dirs": str(directory / f"data-{broker_id}"),
                "zookeeper.connect": f"{zookeeper}/{directory.name}",
                "offsets.topic.replication.factor": str(min(3, count)),
                **SETTINGS,
            }
            settings.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
            brokers[broker_id] = Broker(broker_id, port, settings)
        return cls(side, directory, brokers)

    @property
    def bootstrap(self) -> str:
        """`host:port,...` of all brokers, running or not."""
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers.values())

    @property
    def pids(self) -> list[int]:
        """Of the brokers that run."""
        return [b.process.pid for b in self.brokers.values() if b.running and b.process]

    def start(self) -> "Cluster":
        """Start every broker that is down, and wait until all serve and know each other."""
        for broker_id, broker in self.brokers.items():
            if not broker.running:
                self.spawn(broker_id)
        self.wait_ready()
        return self

    def spawn(self, broker_id: int) -> None:
        """Start one broker without waiting for it."""
        broker = self.brokers[broker_id]
        command = self.side.command(broker.settings)
        if shutil.which("setpriv"):  # a bench that is killed outright leaves nothing running
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        broker.process = ChildProcess.spawn(
            f"{self.side.name} {broker_id}",
            command,
            log_path=self.directory / f"{broker_id}.log",
            env={**os.environ, **self.side.environment()},
            cwd=self.directory,
        )

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Wait until every running broker lists all running ones and a controller among them."""
        running = {broker.broker_id for broker in self.brokers.values() if broker.process}
        deadline = time.monotonic() + timeout
        for broker_id in running:
            while not self._serves(broker_id, running):
                self.check_running()
                if time.monotonic() > deadline:
                    raise BenchError(f"not ready in {timeout:g} s:\n{self._log_tail(broker_id)}")
                wire.pause()

    def revive(self, broker_id: int, timeout: float = START_SECONDS) -> None:
        """Start a broker that was killed, again whenever it ends by itself, as a supervisor would.

        Apache Kafka ends at once while ZooKeeper still holds the session of its former life.
        """
        broker = self.brokers[broker_id]
        deadline = time.monotonic() + timeout
        running = {i for i, other in self.brokers.items() if other.running} | {broker_id}
        while True:
            if not broker.running:
                self.spawn(broker_id)
            if self._serves(broker_id, running):
                return
            if time.monotonic() > deadline:
                raise BenchError(f"not back in {timeout:g} s:\n{self._log_tail(broker_id)}")
            wire.pause()

    def killed(self, broker_id: int) -> None:
        """A broker was ended by somebody else: take leave of its process."""
        broker = self.brokers[broker_id]
        assert broker.process is not None
        if not broker.process.wait(STOP_SECONDS):
            raise BenchError(f"{self.side.name} {broker_id} has not ended")
        broker.process = None

    def controller(self) -> int:
        """The id of the controller, as any running broker says; -1 if none is known."""
        for broker in self.brokers.values():
            if broker.running:
                try:
                    return wire.metadata(broker.port).controller_id
                except wire.NoAnswer:
                    continue
        return -1

    def any_port(self) -> int:
        """The port of some running broker."""
        return next(broker.port for broker in self.brokers.values() if broker.running)

    def check_running(self) -> None:
        """Errors: BenchError if a broker has ended by itself."""
        for broker in self.brokers.values():
            if broker.process is not None and not broker.process.running:
                raise BenchError(
                    f"{broker.process.name} ended:\n{self._log_tail(broker.broker_id)}"
                )

    def end(self, broker_id: int, number: signal.Signals = signal.SIGTERM) -> None:
        """End one broker by a signal and wait until it is gone."""
        broker = self.brokers[broker_id]
        assert broker.process is not None
        self._ended_cpu += accounting.cpu_seconds([broker.process.pid])
        broker.process.signal(number)
        if not broker.process.wait(STOP_SECONDS):
            broker.process.signal(signal.SIGKILL)
            broker.process.wait(STOP_SECONDS)
            raise BenchError(f"{self.side.name} {broker_id} did not end in {STOP_SECONDS:g} s")
        broker.process = None

    def stop(self) -> None:
        """End every broker, at once and by force: its data is not needed any more."""
        for broker in self.brokers.values():
            if broker.process is not None:
                broker.process.signal(signal.SIGKILL)
        for broker in self.brokers.values():
            if broker.process is not None:
                broker.process.wait(STOP_SECONDS)
                broker.process = None

    @contextmanager
    def counted(self) -> Iterator[Usage]:
        """What all brokers cost inside the block; filled in when it ends."""
        usage = Usage()
        accounting.reset_peak(self.pids)
        before = self._cpu_seconds()
        yield usage
        usage.cpu_seconds = self._cpu_seconds() - before
        usage.peak_mb = accounting.peak_mb(self.pids)

    def data_files(self, topic: str) -> Sequence[Path]:
        """All files of a topic on all brokers; those of a deleted one as long as they are there."""
        found: list[Path] = []
        for folder in self.directory.glob("data-*"):
            for name in os.listdir(folder):
                if name.startswith(f"{topic}-"):
                    try:
                        found += [folder / name / file for file in os.listdir(folder / name)]
                    except FileNotFoundError:
                        continue  # deleted between the two lines
        return found

    def _cpu_seconds(self) -> float:
        return self._ended_cpu + accounting.cpu_seconds(self.pids)

    def _serves(self, broker_id: int, running: set[int]) -> bool:
        try:
            answer = wire.metadata(self.brokers[broker_id].port)
        except wire.NoAnswer:
            return False
        listed = {broker.node_id for broker in answer.brokers}
        return listed == running and answer.controller_id in running

    def _log_tail(self, broker_id: int) -> str:
        process = self.brokers[broker_id].process
        return "" if process is None else process.log_tail()
