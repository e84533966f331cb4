"""`zkafka-start` as an operator meets it: real processes, their output, their exit codes.

Each test has a chroot of its own in the session's ZooKeeper, so that clusters do not meet.
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from confluent_kafka import KafkaError, Message, Producer
from kazoo.client import KazooClient

from zkafka.broker import SESSION_FILE, Broker
from zkafka.config import BrokerConfig
from zkafka.errors import SessionSuspended, StartupError
from zkafka.testing.blocking import BlockingCluster
from zkafka.testing.processes import free_ports
from zkafka.testing.zookeeper import ZooKeeper

LAUNCHER = Path(__file__).resolve().parents[2] / "bin" / "zkafka-start"
MODULE = (sys.executable, "-m", "zkafka")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("ZKAFKA_")}
CHROOTS = itertools.count()
IGNORED = "num.network.threads"
"""In every server.properties of Kafka, and without a meaning here."""
PATIENCE_S = 60.0
"""How long a busy machine may take for what is only waited for."""


@attrs.define(eq=False)
class Run:
    """One broker process with its two streams in files."""

    process: "subprocess.Popen[bytes]"
    out_path: Path
    err_path: Path

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    @property
    def err(self) -> str:
        return self.err_path.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it has logged `text`."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.out:
            assert self.process.poll() is None, f"it ended:\n{self.out}\n{self.err}"
            assert time.monotonic() < deadline, f"no {text!r} in\n{self.out}\n{self.err}"
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)


class Place:
    """A directory, a chroot and free ports for the brokers of one test."""

    def __init__(self, directory: Path, zookeeper: ZooKeeper) -> None:
        self.directory = directory
        self.chroot = f"/start-{os.getpid()}-{next(CHROOTS)}"
        self.zookeeper = zookeeper
        self.connect = f"{zookeeper.connect}{self.chroot}"
        self.port, self.admin_port = free_ports(2)
        self.data = directory / "data"
        self.runs: list[Run] = []

    def settings(self, **changed: str | None) -> dict[str, str]:
        """A whole server.properties; keyword names are keys with _ for dots, None leaves out."""
        settings: dict[str, str | None] = {
            "broker.id": "1",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "log.dirs": str(self.data),
            "zookeeper.connect": self.connect,
            "zookeeper.session.timeout.ms": "6000",
            "zookeeper.connection.timeout.ms": "30000",
            "zkafka.admin.listener": f"127.0.0.1:{self.admin_port}",
        }
        settings |= {key.replace("_", "."): value for key, value in changed.items()}
        return {key: value for key, value in settings.items() if value is not None}

    def start(
        self,
        *arguments: str,
        command: tuple[str, ...] = MODULE,
        environment: Mapping[str, str] | None = None,
        **changed: str | None,
    ) -> Run:
        """Start a broker in the background."""
        number = len(self.runs)
        properties = self.directory / f"server-{number}.properties"
        lines = [f"{key}={value}\n" for key, value in self.settings(**changed).items()]
        properties.write_text("".join(lines))
        paths = self.directory / f"{number}.out", self.directory / f"{number}.err"
        with paths[0].open("wb") as out, paths[1].open("wb") as err:
            process = subprocess.Popen(
                [*command, str(properties), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**ENVIRONMENT, **(environment or {})},
                cwd=self.directory,
            )
        run = Run(process, *paths)
        self.runs.append(run)
        return run

    def started(self, *arguments: str, **changed: str | None) -> Run:
        """Start a broker, and wait until it serves."""
        run = self.start(*arguments, **changed)
        run.wait_for("started broker=")
        return run

    def refusal(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        **changed: str | None,
    ) -> str:
        """What a broker that must not start says: one line, after which it exits with 1."""
        run = self.start(*arguments, environment=environment, **changed)
        assert run.exit_code() == 1, run.out + run.err
        return the_one_line(run)

    def own(self, *, broker_id: int = 1, cluster_id: str) -> None:
        """Make the data directory some broker's of some cluster."""
        self.data.mkdir()
        meta = f"version=0\nbroker.id={broker_id}\ncluster.id={cluster_id}\n"
        (self.data / "meta.properties").write_text(meta)

    def close(self) -> None:
        for run in self.runs:
            run.kill()


def the_one_line(run: Run) -> str:
    """Standard error's only line, without its prefix."""
    lines = run.err.splitlines()
    assert len(lines) == 1, run.err
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.fixture
def place(tmp_path: Path, zookeeper: ZooKeeper) -> Iterator[Place]:
    place = Place(tmp_path, zookeeper)
    yield place
    place.close()


@pytest.fixture(scope="module")
def resident(
    tmp_path_factory: pytest.TempPathFactory, zookeeper: ZooKeeper
) -> Iterator[tuple[Place, Run]]:
    """A broker that runs, for others to collide with; started with settings from everywhere."""
    place = Place(tmp_path_factory.mktemp("resident"), zookeeper)
    run = place.start(
        "--override",
        "broker.rack=from-override",
        environment={
            "ZKAFKA_BROKER_RACK": "from-environment",
            "ZKAFKA_NUM_PARTITIONS": "5",
        },
        num_partitions="4",
        bogus_key="1",
        num_network_threads="3",
    )
    run.wait_for("started broker=")
    yield place, run
    place.close()


def path_below_a_file(directory: Path) -> Path:
    """Where nobody can make a directory, root least of all."""
    (directory / "file").touch()
    return directory / "file" / "below"


# --- What it refuses --------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MODULE, "missing.properties"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr == "error: cannot read missing.properties: No such file or directory\n"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"num_partitions": "some"},
            "num.partitions='some' is not allowed: it must be a whole number",
        ),
        ({"num_partitions": "0"}, "num.partitions='0' is not allowed: it must be a whole number"),
        ({"log_cleanup_policy": "shred"}, "log.cleanup.policy='shred' is not allowed"),
        ({"listeners": "127.0.0.1:9092"}, "listeners='127.0.0.1:9092' is not allowed"),
        ({"zookeeper_connect": None}, "zookeeper.connect is not set"),
    ],
    ids=["no number", "out of bounds", "unknown value", "no listener", "missing"],
)
def test_a_wrong_setting_is_named(place: Place, changed: dict[str, str | None], said: str) -> None:
    assert said in place.refusal(**changed)
    assert not place.data.exists()


def test_override_wins_over_environment_wins_over_file(place: Place) -> None:
    environment = {"ZKAFKA_NUM_PARTITIONS": "of-environment"}
    override = ("--override", "num.partitions=of-override")

    of_file = place.refusal(num_partitions="of-file")
    of_environment = place.refusal(environment=environment, num_partitions="of-file")
    of_override = place.refusal(*override, environment=environment, num_partitions="of-file")

    assert of_file.startswith("num.partitions='of-file'")
    assert of_environment.startswith("num.partitions='of-environment'")
    assert of_override.startswith("num.partitions='of-override'")


def test_an_unknown_log_level_is_refused(place: Place) -> None:
    said = place.refusal(environment={"ZKAFKA_LOG_LEVEL": "loud"})

    assert said == (
        "ZKAFKA_LOG_LEVEL='LOUD' is not allowed: it must be one of DEBUG, INFO, WARNING, ERROR"
    )


@pytest.mark.parametrize("key", ["listeners", "zkafka.admin.listener"])
def test_a_taken_port_is_named_with_its_key(place: Place, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        value = f"PLAINTEXT://{address}" if key == "listeners" else address

        said = place.refusal("--override", f"{key}={value}")

    assert said == f"{key}={value} cannot be bound: Address already in use"


def test_a_data_directory_that_cannot_be_made_is_named(place: Place) -> None:
    path = path_below_a_file(place.directory)

    assert place.refusal(log_dirs=str(path)) == (
        f"no directory of log.dirs can be used: mkdir {path}: Not a directory"
    )


def test_an_unreachable_zookeeper_is_named(place: Place) -> None:
    [port] = free_ports(1)

    said = place.refusal(
        zookeeper_connect=f"127.0.0.1:{port}", zookeeper_connection_timeout_ms="500"
    )

    assert said.startswith(f"zookeeper.connect=127.0.0.1:{port}: ")
    assert "within 500 ms" in said


def test_a_data_directory_of_another_broker_is_named(
    place: Place, resident: tuple[Place, Run]
) -> None:
    place.own(broker_id=7, cluster_id=cluster_id(resident))

    said = place.refusal(zookeeper_connect=resident[0].connect)

    assert said == f"broker.id=1, but log directory {place.data} is broker 7's"


def test_a_data_directory_of_another_cluster_is_named(
    place: Place, resident: tuple[Place, Run]
) -> None:
    place.own(cluster_id="some-other-cluster")

    said = place.refusal(zookeeper_connect=resident[0].connect)

    assert said == (
        f"log directory {place.data} belongs to cluster some-other-cluster, "
        f"not to cluster {cluster_id(resident)} at {resident[0].connect}"
    )


def test_over_old_data_no_new_cluster_is_invented(place: Place) -> None:
    place.own(cluster_id="the-old-one")

    said = place.refusal()

    assert said.startswith(f"log directory {place.data} belongs to cluster the-old-one")
    assert said.endswith("refusing to invent a new one over old data")


def test_a_locked_data_directory_is_named(resident: tuple[Place, Run]) -> None:
    place, _ = resident

    said = place.refusal("--override", f"listeners=PLAINTEXT://127.0.0.1:{free_ports(1)[0]}")

    assert said == f"log directory {place.data} is in use by another broker"


def test_an_id_that_somebody_holds_is_refused_by_name(
    place: Place, resident: tuple[Place, Run]
) -> None:
    said = place.refusal(zookeeper_connect=resident[0].connect)

    holder = f"PLAINTEXT://127.0.0.1:{resident[0].port}"
    assert re.fullmatch(f"broker id 1 is registered by {holder} in session 0x[0-9a-f]+", said)


def test_an_address_that_somebody_advertises_is_refused_by_name(
    place: Place, resident: tuple[Place, Run]
) -> None:
    address = f"127.0.0.1:{resident[0].port}"

    said = place.refusal(
        zookeeper_connect=resident[0].connect,
        broker_id="2",
        advertised_listeners=f"PLAINTEXT://{address}",
    )

    assert said.startswith(f"{address} is advertised by broker 1 already")


async def test_a_zookeeper_lost_while_starting_is_a_refusal(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback: there is nothing yet that could go on without it."""
    broker = Broker(BrokerConfig.parse(place.settings()))

    async def cut_off(*, create: bool) -> str:
        raise SessionSuspended("no connection to ZooKeeper for /cluster/id")

    monkeypatch.setattr(broker._store, "cluster_id", cut_off)
    with pytest.raises(ExceptionGroup) as ended:
        await broker.run()

    [error] = ended.value.exceptions
    assert isinstance(error, StartupError)
    assert str(error) == (
        f"zookeeper.connect={place.connect}: no connection to ZooKeeper for /cluster/id"
    )


# --- What it says of its settings -------------------------------------------------------------


def test_settings_without_meaning_are_warned_of_once(resident: tuple[Place, Run]) -> None:
    _, run = resident

    [unknown] = [line for line in run.out.splitlines() if "bogus.key" in line]
    [ignored] = [line for line in run.out.splitlines() if IGNORED in line]
    assert unknown.endswith("unknown settings are ignored keys=bogus.key")
    assert "WARNING" in unknown
    assert ignored.endswith(f"settings without effect here keys={IGNORED}")
    assert run.err == ""


def test_settings_come_from_everywhere(resident: tuple[Place, Run]) -> None:
    place, _ = resident

    with znodes_of(place) as client:
        registered = json.loads(client.get(f"{place.chroot}/brokers/ids/1")[0])
    assert registered["rack"] == "from-override"


# --- How it ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_it_in_order(place: Place, number: signal.Signals) -> None:
    """Through the launcher, which becomes the broker: the signal reaches nobody between.

    Just started it may not know the controller, which is itself, and asks again as soon as it does.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = place.start(
        command=(str(LAUNCHER),),
        environment={"PATH": path},
        controlled_shutdown_retry_backoff_ms="60000",
    )
    run.wait_for("started broker=")

    began = time.monotonic()
    run.send(number)

    assert run.exit_code() == 0, run.out + run.err
    assert time.monotonic() - began < 30, "without the pause of a minute between two attempts"
    assert run.err == ""
    assert run.out.splitlines()[-1].endswith("stopped broker=1")
    assert "closed cleanly" in run.out
    with znodes_of(place) as client:
        assert client.get_children(f"{place.chroot}/brokers/ids") == []
        assert not client.exists(f"{place.chroot}/controller")


def test_a_second_signal_does_not_wait(place: Place) -> None:
    """The first one asks the controller to take over; the controller is stopped, and says nothing
    for as long as its session lasts, which is a minute here."""
    patient = {"zookeeper_session_timeout_ms": "60000"}
    controller = place.started(zkafka_admin_listener="", **patient)
    port = free_ports(1)[0]
    run = place.started(
        broker_id="2",
        listeners=f"PLAINTEXT://127.0.0.1:{port}",
        log_dirs=str(place.directory / "data-2"),
        **patient,
    )
    run.wait_for("live brokers changed broker=2 live=1,2")
    controller.send(signal.SIGSTOP)

    run.send(signal.SIGTERM)
    run.wait_for("asked to stop signal=SIGTERM")
    began = time.monotonic()
    run.send(signal.SIGTERM)

    assert run.exit_code() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 30
    assert "stopping at once signal=SIGTERM" in run.out
    assert "closed cleanly" not in run.out


def test_a_broker_that_waits_for_zookeeper_can_be_stopped(place: Place) -> None:
    [port] = free_ports(1)
    run = place.start(
        zookeeper_connect=f"127.0.0.1:{port}", zookeeper_connection_timeout_ms="60000"
    )
    run.wait_for("Connection refused")
    began = time.monotonic()

    run.send(signal.SIGTERM)

    assert run.exit_code() == 0, run.out + run.err
    assert time.monotonic() - began < 30
    assert run.out.splitlines()[-1].endswith("stopped before it had started broker=1")
    place.started()  # it has left the directory alone


def test_a_killed_broker_is_back_without_waiting_for_its_old_session(place: Place) -> None:
    killed = place.started(zookeeper_session_timeout_ms="90000")
    killed.kill()

    began = time.monotonic()
    back = place.started(zookeeper_session_timeout_ms="90000")

    wait_until(lambda: ready(place))
    # Measured: 0.8 s on two cores, nearly all of it Python's imports.
    assert time.monotonic() - began < 45
    assert "closed the session of a former run" in back.out


def test_a_running_broker_does_not_go_on_over_a_wiped_zookeeper(place: Place) -> None:
    """When its session ends and the tree it knew is gone, it stops, and says why."""
    run = place.started()
    saved = json.loads((place.data / SESSION_FILE).read_text())
    identity = int(saved["session_id"], 16), bytes.fromhex(saved["password"])
    [cluster] = re.findall(r"cluster=(\S+)", run.out)

    with znodes_of(place) as client:
        client.delete(f"{place.chroot}/cluster/id")
    former = KazooClient(place.zookeeper.connect, client_id=identity)
    former.start(PATIENCE_S)
    former.stop()
    former.close()

    assert run.exit_code() == 1, run.out
    assert the_one_line(run) == (
        f"broker 1 belongs to cluster {cluster}, and ZooKeeper now holds no cluster at all: "
        "refusing to go on there over old data"
    )
    assert "refusing to invent a new one over old data" in place.refusal()


@pytest.mark.zkafka(brokers=3, config={"zookeeper.session.timeout.ms": "60000"})
def test_a_stopped_broker_leaves_no_partition_without_a_leader(
    zkafka_cluster: BlockingCluster,
) -> None:
    """A crash would stop writing for the session timeout, a minute here; a controlled shutdown for
    as long as clients take to learn of the new leaders."""
    zkafka_cluster.create_topic("t", partitions=6)
    stopped = zkafka_cluster.leader("t", 0)
    acknowledged: dict[int, list[float]] = defaultdict(list)
    failures: list[str] = []
    enough = threading.Event()

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(error.str())
        acknowledged[message.partition() or 0].append(time.monotonic())

    producer = Producer(
        {"bootstrap.servers": zkafka_cluster.bootstrap, "enable.idempotence": True, "linger.ms": 0}
    )

    def write() -> None:
        while not enough.is_set():
            for partition in range(6):
                producer.produce("t", b"x", partition=partition, on_delivery=delivered)
            producer.poll(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(lambda: all(len(acknowledged[p]) > 10 for p in range(6)))
        zkafka_cluster.stop(stopped)
        counts = {p: len(acknowledged[p]) for p in range(6)}
        wait_until(lambda: all(len(acknowledged[p]) > counts[p] + 10 for p in range(6)))
    finally:
        enough.set()
        writer.join()
    assert producer.flush(PATIENCE_S) == 0

    assert failures == []
    pauses = {
        p: max(after - before for before, after in itertools.pairwise(times))
        for p, times in acknowledged.items()
    }
    # Measured: 0.15 s at most on two cores.
    assert max(pauses.values()) < 10, pauses
    log = zkafka_cluster.brokers[stopped].log_text()
    assert "controlled shutdown: every leadership is handed over" in log
    for partition in range(6):
        zkafka_cluster.leader("t", partition, other_than=stopped)


# --- What the tests ask -----------------------------------------------------------------------


def cluster_id(resident: tuple[Place, Run]) -> str:
    [found] = re.findall(r" starting zkafka .*cluster=(\S+)", resident[1].out)
    return str(found)


class znodes_of:
    """The ZooKeeper of a place, past every broker."""

    def __init__(self, place: Place) -> None:
        self.client = KazooClient(place.zookeeper.connect)

    def __enter__(self) -> KazooClient:
        self.client.start(PATIENCE_S)
        return self.client

    def __exit__(self, *exc_info: object) -> None:
        self.client.stop()
        self.client.close()


def ready(place: Place) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{place.admin_port}/readyz", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
