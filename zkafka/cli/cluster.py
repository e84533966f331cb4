"""`zkafka-cluster`: one ZooKeeper and some brokers on this machine, to use, watch and break.

Everything it keeps is under `.zkafka/`: `cluster.json` (ids and ports, so that a second `up` is the
same cluster), `zookeeper/`, and per broker a directory with its settings, data, log and pid. Each
command finds the processes by their pid files; nothing but those is ever signalled.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import click
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from rich.live import Live
from rich.text import Text

from zkafka.cli import client
from zkafka.cli.output import as_json, console, fail, say, table
from zkafka.testing.processes import ChildProcess, ProcessFailed, free_ports, is_free
from zkafka.testing.zookeeper import ZooKeeper, ZooKeeperNotFound, ZooKeeperServer

HOST = "127.0.0.1"
START_SECONDS = 60.0
ZOOKEEPER_PORT = 2181
FIRST_PORT = 9092
STOP_SECONDS = 45.0
"""A broker asked to leave tries three times, five seconds apart, to hand its partitions over."""


@attrs.define(eq=False)
class LocalBroker:
    """One broker of the local cluster: its directory, its ports, its process if it runs."""

    broker_id: int
    port: int
    admin_port: int
    directory: Path
    process: ChildProcess | None = None

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"{HOST}:{self.port}"

    @property
    def log_path(self) -> Path:
        """What the broker prints."""
        return self.directory / "broker.log"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.running

    def attach(self) -> None:
        """Find the process an earlier command started."""
        self.process = ChildProcess.find(
            f"broker {self.broker_id}",
            pid_path=self.directory / "broker.pid",
            log_path=self.log_path,
        )

    def start(self, zookeeper: str, replicas: int, *, detached: bool) -> None:
        """Start it in the background; `ready` tells when it serves."""
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = self.directory / "server.properties"
        settings.write_text(
            f"# Written by zkafka-cluster; changes are kept until the next start of this broker.\n"
            f"broker.id={self.broker_id}\n"
            f"listeners=PLAINTEXT://{self.address}\n"
            f"log.dirs={self.directory / 'data'}\n"
            f"zookeeper.connect={zookeeper}\n"
            f"zookeeper.session.timeout.ms=6000\n"
            f"zkafka.admin.listener={HOST}:{self.admin_port}\n"
            f"default.replication.factor={replicas}\n"
            f"offsets.topic.replication.factor={replicas}\n"
            f"min.insync.replicas={min(2, replicas)}\n"
            f"num.partitions=3\n"
            f"group.initial.rebalance.delay.ms=500\n"
        )
        self.process = ChildProcess.spawn(
            f"broker {self.broker_id}",
            [sys.executable, "-m", "zkafka", str(settings)],
            log_path=self.log_path,
            pid_path=self.directory / "broker.pid",
            detached=detached,
        )

    def ready(self) -> bool:
        """Whether it is registered, knows the cluster and serves (its /readyz)."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.admin_port}/readyz", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> bool:
        """Ask it to leave, and wait; True if it had to be killed in the end."""
        if self.process is None or not self.running:
            return False
        self.process.signal(signal.SIGCONT)
        self.process.signal(signal.SIGTERM)
        if self.process.wait(STOP_SECONDS):
            return False
        self.process.signal(signal.SIGKILL)
        self.process.wait(5.0)
        return True


@attrs.define(eq=False)
class LocalCluster:
    """The cluster under one directory, running or not."""

    directory: Path
    zookeeper: ZooKeeper
    brokers: dict[int, LocalBroker]

    @classmethod
    def lay_out(cls, directory: Path, count: int) -> "LocalCluster":
        """The cluster that `directory` holds, or a new one of `count` brokers."""
        if not (directory / "cluster.json").exists():
            ports = free_ports(count)
            plan = {
                "zookeeper_port": ZOOKEEPER_PORT,
                "brokers": {
                    str(i): {"port": FIRST_PORT + i - 1, "admin_port": ports[i - 1]}
                    for i in range(1, count + 1)
                },
            }
            directory.mkdir(parents=True, exist_ok=True)
            _write_plan(directory, plan)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path) -> "LocalCluster":
        """The cluster that `directory` holds; fails with a sentence if it holds none."""
        plan_path = directory / "cluster.json"
        if not plan_path.exists():
            fail(f"no cluster under {directory}: start one with 'zkafka-cluster up'")
        try:
            plan: dict[str, Any] = json.loads(plan_path.read_text())
        except ValueError as error:
            fail(f"{plan_path} is not what zkafka-cluster wrote ({error}): start over with --wipe")
        try:
            zookeeper = ZooKeeper.create(
                directory / "zookeeper", client_port=plan["zookeeper_port"]
            )
        except ZooKeeperNotFound as error:
            fail(str(error))
        brokers = {
            int(i): LocalBroker(
                int(i), ports["port"], ports["admin_port"], directory / f"broker-{i}"
            )
            for i, ports in plan["brokers"].items()
        }
        for server in zookeeper.servers:
            server.attach()
        for broker in brokers.values():
            broker.attach()
        return cls(directory, zookeeper, brokers)

    def avoid_taken_ports(self) -> None:
        """Give whoever is down another port where somebody else has taken theirs meanwhile."""
        [server] = self.zookeeper.servers
        places: list[tuple[Any, str]] = [(server, "client_port")]
        places += [
            (broker, name) for broker in self.brokers.values() for name in ("port", "admin_port")
        ]
        taken = [
            (owner, name)
            for owner, name in places
            if not owner.running and not is_free(getattr(owner, name))
        ]
        known = {getattr(owner, name) for owner, name in places}
        spare = [port for port in free_ports(len(taken) + len(known)) if port not in known]
        for (owner, name), port in zip(taken, spare, strict=False):
            setattr(owner, name, port)
        if taken:
            brokers = self.brokers.items()
            plan = {
                "zookeeper_port": server.client_port,
                "brokers": {
                    str(i): {"port": b.port, "admin_port": b.admin_port} for i, b in brokers
                },
            }
            _write_plan(self.directory, plan)

    @property
    def parts(self) -> list[LocalBroker | ZooKeeperServer]:
        """All that has a process, in the order in which they may be killed."""
        return [*self.brokers.values(), *self.zookeeper.servers]

    @property
    def bootstrap(self) -> str:
        """What clients are given."""
        return ",".join(broker.address for broker in self.brokers.values())

    @property
    def replicas(self) -> int:
        """Replicas of a topic by default: three, or as many as there are brokers."""
        return min(3, len(self.brokers))

    def broker(self, broker_id: int) -> LocalBroker:
        """The broker of that id; fails with a sentence if there is none."""
        if broker_id not in self.brokers:
            fail(f"no broker {broker_id} here: there are {_listed(self.brokers)}")
        return self.brokers[broker_id]

    def controller(self) -> int | None:
        """Who is controller, as the brokers say; None while nobody is, or nobody answers."""
        up = ",".join(broker.address for broker in self.brokers.values() if broker.running)
        if not up:
            return None
        admin = AdminClient(client.settings(up))
        try:
            described = admin.describe_cluster(request_timeout=5).result(6)
        except (KafkaException, TimeoutError):
            return None
        known = described.controller.id if described.controller else -1
        return known if known >= 0 else None

    def start_broker(self, broker_id: int, *, detached: bool) -> None:
        """Start one broker in the background, unless it runs."""
        broker = self.broker(broker_id)
        if not broker.running:
            broker.start(self.zookeeper.connect, self.replicas, detached=detached)

    def wait_ready(self, wanted: Iterable[LocalBroker]) -> None:
        """Show who is up yet until all of `wanted` are; fails with the log of one that ended."""
        wanted = list(wanted)
        started = time.monotonic()
        with Live(console=console, transient=True, refresh_per_second=10) as live:
            while True:
                ready = [broker for broker in wanted if broker.ready()]
                live.update(_progress(wanted, ready, time.monotonic() - started))
                if len(ready) == len(wanted):
                    return
                for broker in wanted:
                    if not broker.running:
                        tail = broker.process.log_tail(8) if broker.process else ""
                        fail(f"broker {broker.broker_id} ended while starting:\n{tail}")
                if time.monotonic() - started > START_SECONDS:
                    missing = _listed(b.broker_id for b in wanted if b not in ready)
                    fail(f"broker {missing} not ready after {START_SECONDS:.0f} s: see 'logs'")
                time.sleep(0.05)  # readiness is asked for over HTTP; nobody tells

    def take_down(self) -> None:
        """Stop the brokers, the controller last so that each leaving is looked after; then
        ZooKeeper."""
        controller = self.controller()
        order = sorted(
            self.brokers.values(), key=lambda b: (b.broker_id == controller, b.broker_id)
        )
        for broker in order:
            if broker.running:
                forced = broker.stop()
                say(f"broker {broker.broker_id} {'had to be killed' if forced else 'stopped'}")
        if any(server.running for server in self.zookeeper.servers):
            self.zookeeper.stop()
            say("ZooKeeper stopped")

    def kill(self) -> None:
        """End everything where it stands."""
        for part in self.parts:
            if part.process is not None:
                part.process.signal(signal.SIGKILL)
                part.process.wait(5.0)


def _progress(wanted: list[LocalBroker], ready: list[LocalBroker], seconds: float) -> Text:
    parts = [f"waiting for the cluster, {seconds:.1f} s: "]
    parts += [f"broker {b.broker_id} {'ready' if b in ready else '...'}  " for b in wanted]
    return Text("".join(parts))


def _write_plan(directory: Path, plan: dict[str, Any]) -> None:
    (directory / "cluster.json").write_text(json.dumps(plan, indent=2) + "\n")


def _listed(ids: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(ids)))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The cluster is kept in .zkafka/ under this directory.",
)
@click.pass_context
def main(context: click.Context, root: Path) -> None:
    """A whole cluster on this machine: one ZooKeeper and three brokers, yours to break."""
    context.obj = root.absolute() / ".zkafka"


@main.command()
@click.option("--brokers", type=click.IntRange(1, 99), help="Default: 3, or as many as last time.")
@click.option("--detach", is_flag=True, help="Leave it running in the background.")
@click.option("--wipe", is_flag=True, help="Forget the data of an earlier run first.")
@click.pass_obj
def up(directory: Path, brokers: int | None, detach: bool, wipe: bool) -> None:
    """Start the cluster; Ctrl-C takes it down (with --detach: `down` does)."""
    if wipe:
        _wipe(directory)
    cluster = LocalCluster.lay_out(directory, brokers or 3)
    if brokers is not None and brokers != len(cluster.brokers):
        fail(f"the cluster here has {len(cluster.brokers)} brokers: --wipe to make another")
    if not detach:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGHUP, _hung_up)
    if all(part.running for part in cluster.parts):
        say("the cluster runs already")
    else:
        _start(cluster, detach)
    if detach:
        _show(cluster)
        _suggest(cluster, detach)
    else:
        _stay(cluster)


def _start(cluster: LocalCluster, detach: bool) -> None:
    """Start what does not run, and wait until all of it serves. Where nothing ran before, nothing
    is left running by a start that fails."""
    whole = not any(part.running for part in cluster.parts)
    cluster.avoid_taken_ports()
    started = time.monotonic()
    try:
        with console.status("starting ZooKeeper"):
            cluster.zookeeper.start(detached=detach)
        for broker_id in cluster.brokers:
            cluster.start_broker(broker_id, detached=detach)
        cluster.wait_ready(cluster.brokers.values())
    except (ProcessFailed, KeyboardInterrupt, click.ClickException) as error:
        if whole:
            cluster.take_down()
        if isinstance(error, ProcessFailed):
            fail(str(error))
        raise
    say(f"the cluster is up after {time.monotonic() - started:.1f} s")


def _stay(cluster: LocalCluster) -> None:
    """Hold the cluster until Ctrl-C, SIGTERM or the end of the terminal, telling when a broker ends
    or returns. A second Ctrl-C does not wait for anybody to leave in order."""
    running = {i: broker.running for i, broker in cluster.brokers.items()}
    try:
        _show(cluster)
        _suggest(cluster, detached=False)
        while True:
            time.sleep(0.5)  # other terminals may start and stop brokers: their pid files tell
            for i, broker in cluster.brokers.items():
                if not broker.running:
                    broker.attach()
                if broker.running != running[i]:
                    running[i] = broker.running
                    say(f"broker {i} {'is back' if running[i] else 'ended'}")
    except KeyboardInterrupt:
        pass
    try:
        say("\ntaking the cluster down (Ctrl-C again: at once)")
        cluster.take_down()
    except KeyboardInterrupt:
        cluster.kill()
        fail("killed; the next 'up' recovers the data")


def _hung_up(_number: int, _frame: FrameType | None) -> None:
    """The terminal is gone, and nobody reads what we say."""
    console.file = open(os.devnull, "w")  # noqa: SIM115, for the rest of our life
    raise KeyboardInterrupt


def _suggest(cluster: LocalCluster, detached: bool) -> None:
    """What to type next, in lines that fit 80 columns."""
    own = "" if Path(sys.argv[0]).name == "zkafka-cluster" else "bin/"
    first = next(iter(cluster.brokers.values())).address
    lines: list[tuple[str, str]] = []
    if first != client.DEFAULT_BOOTSTRAP:
        lines.append((f"export KAFKA_BOOTSTRAP_SERVERS={first}", ""))
    if cluster.zookeeper.connect != f"{HOST}:{ZOOKEEPER_PORT}":
        lines.append((f"export ZOOKEEPER_CONNECT={cluster.zookeeper.connect}", ""))
    lines += [
        (f"{own}zkafka-cluster demo", "kill a leader under load, lose nothing"),
        (f"{own}zkafka topics create hello", ""),
        (f"echo hi | {own}zkafka produce hello", ""),
        (f"{own}zkafka consume hello --exit-at-end", ""),
        (f"{own}zkafka znodes", "the cluster's state in ZooKeeper"),
        (f"{own}zkafka-cluster kill 1", "then: status, logs 2, start 1"),
    ]
    if detached:
        lines.append((f"{own}zkafka-cluster down", "with --wipe: forget its data too"))
    say("try next" + (":" if detached else ", in another terminal:"))
    for command, comment in lines:
        say(f"  {command:<37}  [dim]{comment}[/dim]" if comment else f"  {command}")
    if not detached:
        say("\nCtrl-C here takes the cluster down")


def _show(cluster: LocalCluster, json_output: bool = False) -> None:
    controller = cluster.controller()
    rows: list[dict[str, Any]] = [
        {
            "broker": broker.broker_id,
            "address": broker.address,
            "pid": broker.process.pid if broker.running and broker.process else None,
            "state": ("ready" if broker.ready() else "not ready") if broker.running else "down",
            "controller": broker.broker_id == controller,
            "admin": f"{HOST}:{broker.admin_port}",
        }
        for broker in cluster.brokers.values()
    ]
    zookeeper_up = all(server.running for server in cluster.zookeeper.servers)
    if json_output:
        as_json(
            {
                "bootstrap": cluster.bootstrap,
                "zookeeper": {"connect": cluster.zookeeper.connect, "running": zookeeper_up},
                "controller": controller,
                "brokers": rows,
            }
        )
        return
    table(
        None,
        ["broker", "address", "pid", "state", "controller", "admin"],
        [
            [r["broker"], r["address"], r["pid"], r["state"], "yes" * r["controller"], r["admin"]]
            for r in rows
        ],
    )
    say(f"[dim]bootstrap[/dim]  {cluster.bootstrap}")
    say(f"[dim]zookeeper[/dim]  {cluster.zookeeper.connect}{'' if zookeeper_up else ', down'}")
    say(f"[dim]admin[/dim]      http://{rows[0]['admin']}/metrics, /healthz, /readyz")
    say(f"[dim]data[/dim]       {cluster.directory}\n")


def _wipe(directory: Path) -> None:
    if not directory.exists():
        return
    if (directory / "cluster.json").exists():
        cluster = LocalCluster.open(directory)
        if any(broker.running for broker in cluster.brokers.values()):
            fail("the cluster is running: take it down first")
        cluster.zookeeper.stop()
    shutil.rmtree(directory)


@main.command()
@click.option("--wipe", is_flag=True, help="Delete its data as well.")
@click.pass_obj
def down(directory: Path, wipe: bool) -> None:
    """Stop the brokers politely, then ZooKeeper."""
    LocalCluster.open(directory).take_down()
    if wipe:
        _wipe(directory)
        say("its data is gone")


@main.command()
@client.json_option
@click.pass_obj
def status(directory: Path, json_output: bool) -> None:
    """Who runs, who is controller."""
    _show(LocalCluster.open(directory), json_output)


@main.command()
@click.argument("broker_id", type=int, metavar="N")
@click.option("-f", "--follow", is_flag=True, help="Keep printing what comes.")
@click.option("-n", "--lines", default=40, show_default=True)
@click.pass_obj
def logs(directory: Path, broker_id: int, follow: bool, lines: int) -> None:
    """What broker N has logged."""
    broker = LocalCluster.open(directory).broker(broker_id)
    if not broker.log_path.exists():
        fail(f"broker {broker_id} has not been started yet")
    options = ["-n", str(lines)] + (["-F"] if follow else [])
    try:
        subprocess.run(["tail", *options, str(broker.log_path)], check=False)
    except KeyboardInterrupt:
        pass  # how one stops following


@main.command()
@click.argument("broker_id", type=int, metavar="N")
@click.pass_obj
def stop(directory: Path, broker_id: int) -> None:
    """Ask broker N to hand over its partitions and leave."""
    broker = LocalCluster.open(directory).broker(broker_id)
    if not broker.running:
        fail(f"broker {broker_id} is not running")
    started = time.monotonic()
    forced = broker.stop()
    how = "had to be killed" if forced else "stopped"
    say(f"broker {broker_id} {how} after {time.monotonic() - started:.1f} s")


@main.command()
@click.argument("broker_id", type=int, metavar="N")
@click.pass_obj
def kill(directory: Path, broker_id: int) -> None:
    """Kill broker N where it stands (SIGKILL)."""
    broker = LocalCluster.open(directory).broker(broker_id)
    if broker.process is None or not broker.running:
        fail(f"broker {broker_id} is not running")
    broker.process.signal(signal.SIGKILL)
    broker.process.wait(5.0)
    say(f"broker {broker_id} is dead; its partitions move as soon as the others notice")


@main.command()
@click.argument("broker_id", type=int, metavar="N")
@click.pass_obj
def start(directory: Path, broker_id: int) -> None:
    """Start broker N again, and wait until it serves."""
    cluster = LocalCluster.open(directory)
    broker = cluster.broker(broker_id)
    if broker.running:
        fail(f"broker {broker_id} is running")
    started = time.monotonic()
    cluster.start_broker(broker_id, detached=True)
    cluster.wait_ready([broker])
    say(f"broker {broker_id} is back after {time.monotonic() - started:.1f} s")


@main.command()
@click.option("--seconds", default=20.0, show_default=True, help="How long traffic runs.")
@client.json_option
@click.pass_obj
def demo(directory: Path, seconds: float, json_output: bool) -> None:
    """Run traffic, kill the leader in the middle, and count what was lost: nothing."""
    from zkafka.cli.demo import run

    cluster = LocalCluster.open(directory)
    if not all(broker.ready() for broker in cluster.brokers.values()):
        fail("the cluster is not up: 'zkafka-cluster up --detach' first")
    if len(cluster.brokers) < 2:
        fail("one broker has nobody to take over: 'zkafka-cluster up --wipe --brokers 3'")
    run(cluster, seconds, json_output)


if __name__ == "__main__":
    main(prog_name="zkafka-cluster")
