"""Apache Kafka 3.9 in ZooKeeper mode, from Maven Central: the judge when in doubt.

Its jars are gathered once into `.cache/` at the top of the checkout, never committed.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from zkafka.testing.processes import ChildProcess, free_ports

ROOT = Path(__file__).resolve().parents[2]
POM = Path(__file__).parent / "clients" / "java" / "pom.xml"
CACHE = ROOT / ".cache" / "apache-kafka"


def jars() -> Path:
    """The folder of Apache Kafka's jars, gathered by Maven if it is not there yet.

    Gathered beside and renamed, so that an interrupted run leaves nothing half done.
    """
    if not CACHE.exists():
        gathering = CACHE.with_suffix(f".{os.getpid()}")
        gathering.parent.mkdir(exist_ok=True)
        command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
        command += [f"-DoutputDirectory={gathering}", "-DincludeScope=runtime"]
        subprocess.run(command, check=True, timeout=1800)
        try:
            gathering.rename(CACHE)
        except OSError:  # another run was faster
            shutil.rmtree(gathering)
    return CACHE


def command(name: str, *arguments: str) -> list[str]:
    """What runs one of Kafka's command line classes."""
    java = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{jars()}/*"]
    return [*java, name, *arguments]


def tool(name: str, *arguments: str, timeout: float = 240) -> str:
    """What one of Kafka's command line classes prints; raises if it exits non-zero."""
    done = subprocess.run(
        command(name, *arguments), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{name} {arguments}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


class ApacheKafka:
    """Brokers of Apache Kafka 3.9 beside a ZooKeeper; `start` them, `stop` them."""

    def __init__(self, directory: Path, connect: str, brokers: int = 3, **settings: str) -> None:
        self.directory = directory
        self.ports = free_ports(brokers)
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.processes: dict[int, ChildProcess] = {}
        for broker_id, port in enumerate(self.ports, start=1):
            properties = {
                "broker.id": str(broker_id),
                "listeners": f"PLAINTEXT://127.0.0.1:{port}",
                "zookeeper.connect": connect,
                "log.dirs": str(directory / f"kafka-{broker_id}"),
                "log.cleaner.dedupe.buffer.size": "2097152",
                **settings,
            }
            text = "".join(f"{key}={value}\n" for key, value in properties.items())
            self._settings(broker_id).write_text(text)

    def _settings(self, broker_id: int) -> Path:
        return self.directory / f"kafka-{broker_id}.properties"

    def start(self) -> "ApacheKafka":
        """Start every broker, and wait until each of them knows all."""
        java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        for broker_id in range(1, len(self.ports) + 1):
            self.processes[broker_id] = ChildProcess.spawn(
                f"apache kafka {broker_id}",
                [*java, "-cp", f"{jars()}/*", "kafka.Kafka", str(self._settings(broker_id))],
                log_path=self.directory / f"kafka-{broker_id}.log",
            )
        deadline = time.monotonic() + 240
        for broker_id, port in enumerate(self.ports, start=1):
            while _brokers_known_to(port) != len(self.ports):
                process = self.processes[broker_id]
                assert process.running, process.log_tail()
                assert time.monotonic() < deadline, process.log_tail()
                time.sleep(0.1)
        return self

    def kill(self, broker_id: int) -> None:
        """SIGKILL one broker."""
        process = self.processes.pop(broker_id)
        process.signal(signal.SIGKILL)
        assert process.wait(60)

    def stop(self) -> None:
        """End every broker."""
        for process in self.processes.values():
            process.end(20)


def _brokers_known_to(port: int) -> int:
    """How many brokers the one on this port counts; 0 while it does not answer."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"})
        return len(admin.list_topics(timeout=10).brokers)
    except (OSError, KafkaException):
        return 0
