"""`zkafka-cluster`: a whole cluster from a terminal, watched, broken, and taken down.

Each test keeps its cluster under a directory of its own, on ports of its own: a developer's cluster
on this machine is never touched.
"""

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zkafka.cli.cluster import LocalCluster, main
from zkafka.testing.plugin import require_zookeeper
from zkafka.testing.processes import free_ports

COMMAND = (sys.executable, "-m", "zkafka.cli.cluster")
ENVIRONMENT = {
    k: v for k, v in os.environ.items() if not k.startswith("ZKAFKA_") and k != "COLUMNS"
}
PATIENCE_S = 180.0
"""How long a busy machine may take for what is only waited for."""


class Commands:
    """`zkafka-cluster --root ...`, and what it left running."""

    def __init__(self, root: Path, brokers: int) -> None:
        self.root = root
        self.directory = root / ".zkafka"
        self.directory.mkdir(parents=True)
        ports = free_ports(2 * brokers + 1)
        plan = {
            "zookeeper_port": ports.pop(),
            "brokers": {
                str(i): {"port": ports.pop(), "admin_port": ports.pop()}
                for i in range(1, brokers + 1)
            },
        }
        self.plan_path.write_text(json.dumps(plan))

    @property
    def plan_path(self) -> Path:
        return self.directory / "cluster.json"

    def says(self, *arguments: str) -> str:
        """What a command that must succeed prints."""
        done = subprocess.run(
            [*COMMAND, "--root", str(self.root), *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=ENVIRONMENT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refuses(self, *arguments: str) -> str:
        """The sentence of a command that must fail; in this process, which is quicker."""
        done = CliRunner().invoke(main, ["--root", str(self.root), *arguments])
        assert done.exit_code == 1, done.output
        assert isinstance(done.exception, SystemExit)
        return done.output

    def status(self) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["--root", str(self.root), "status", "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def states(self) -> list[str]:
        return [broker["state"] for broker in self.status()["brokers"]]

    def logs(self) -> list[Path]:
        """What each broker says is kept there."""
        return sorted(self.directory.glob("broker-*/broker.log"))

    def running(self) -> list[int]:
        """The processes whose pid files say that they run."""
        pids = [
            int(path.read_text().split()[0])
            for path in self.directory.glob("**/*.pid")
            if path.exists()
        ]
        return [pid for pid in pids if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]

    def clean_up(self) -> None:
        if self.plan_path.exists():
            LocalCluster.open(self.directory).kill()


def is_zombie(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Callable[[int], Commands]]:
    require_zookeeper()
    made: list[Commands] = []

    def make(brokers: int) -> Commands:
        made.append(Commands(tmp_path, brokers))
        return made[-1]

    yield make
    for each in made:
        each.clean_up()


class Terminal:
    """A command in a terminal of 80 columns, as a person has it."""

    def __init__(self, *argv: str) -> None:
        pid, self._master = pty.fork()
        if pid == 0:
            ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
            os.environ.clear()
            os.environ.update(ENVIRONMENT, TERM="xterm")
            os.execv(argv[0], argv)
        self.pid = pid
        self.shown = ""
        self._decoder = getincrementaldecoder("utf-8")()  # a read may end inside a character

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            assert self._read(), f"it ended without {text!r}:\n{self.shown}"

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def hang_up(self) -> None:
        """Close the terminal's window."""
        os.close(self._master)

    def exit_code(self) -> int:
        """The exit code, having read the rest; negative for a signal."""
        while self._read():
            pass
        return self.wait()

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def lines(self) -> list[str]:
        """What it shows in the end, line by line, without colours and what was overwritten."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown)
        return [line.rpartition("\r")[2] for line in plain.replace("\r\n", "\n").split("\n")]

    def _read(self) -> bool:
        if not select.select([self._master], [], [], PATIENCE_S)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self.shown += self._decoder.decode(data)
        return bool(data)


def test_a_cluster_from_up_to_down(commands: Callable[[int], Commands]) -> None:
    cluster = commands(3)
    shown = cluster.says("up", "--detach")

    assert "the cluster is up after" in shown
    found = cluster.status()
    assert f"bootstrap  {found['bootstrap']}" in shown
    assert [broker["state"] for broker in found["brokers"]] == ["ready"] * 3
    assert [broker["controller"] for broker in found["brokers"]].count(True) == 1
    assert found["controller"] in (1, 2, 3)
    assert all(str(broker["pid"]) in shown for broker in found["brokers"])

    assert "the cluster runs already" in cluster.says("up", "--detach")
    assert "--wipe to make another" in cluster.refuses("up", "--detach", "--brokers", "2")
    assert "take it down first" in cluster.refuses("up", "--detach", "--wipe")

    assert len(cluster.says("logs", "1", "-n", "5").splitlines()) == 5
    assert "there are 1, 2, 3" in cluster.refuses("logs", "9")

    assert "broker 2 is dead" in cluster.says("kill", "2")
    assert cluster.states() == ["ready", "down", "ready"]
    assert "broker 2 is not running" in cluster.refuses("kill", "2")
    assert "the cluster is not up" in cluster.refuses("demo")
    assert "broker 2 is back" in cluster.says("start", "2")
    assert "broker 2 is running" in cluster.refuses("start", "2")

    assert "broker 3 stopped" in cluster.says("stop", "3")
    assert "stopped broker=3" in (cluster.directory / "broker-3/broker.log").read_text()
    assert "broker 3 is not running" in cluster.refuses("stop", "3")
    assert "the cluster is up after" in cluster.says("up", "--detach"), "the missing one is started"
    before = cluster.status()
    assert [broker["state"] for broker in before["brokers"]] == ["ready"] * 3

    account = json.loads(cluster.says("demo", "--seconds", "3", "--json"))
    assert account["acknowledged"] > 0
    assert account["lost"] == account["doubled"] == account["not_consumed"] == 0
    assert account["leader_before"] != account["leader_after"]

    sizes = {path: path.stat().st_size for path in cluster.logs()}
    said = cluster.says("down")
    assert said.count(" stopped") == 4, said
    assert cluster.running() == []
    words = "".join(path.read_text()[size:] for path, size in sizes.items())
    assert words.count("nobody else is left to take over") == 1, "the last one"
    assert words.count("every leadership is handed over") == 2, "the others"
    assert "stopping with leaderships that nobody took over" not in words, "after ten seconds"
    assert cluster.states() == ["down"] * 3
    again = cluster.says("up", "--detach")
    assert before["bootstrap"] in again, "the same cluster"
    assert "its data is gone" in cluster.says("down", "--wipe")
    assert not cluster.directory.exists()
    assert "start one with" in cluster.refuses("status")


def test_ctrl_c_takes_the_cluster_down(commands: Callable[[int], Commands]) -> None:
    cluster = commands(2)
    terminal = Terminal(*COMMAND, "--root", str(cluster.root), "up")
    terminal.wait_for("Ctrl-C here takes the cluster down")
    cluster.says("kill", "1")
    terminal.wait_for("broker 1 ended")
    cluster.says("start", "1")
    terminal.wait_for("broker 1 is back")

    terminal.type(b"\x03")

    assert terminal.exit_code() == 0, terminal.shown
    for said in ("broker 1 stopped", "broker 2 stopped", "ZooKeeper stopped"):
        assert said in terminal.shown
    assert cluster.running() == []
    wide = [line for line in terminal.lines if len(line) > 80 and not line.startswith("data ")]
    assert wide == [], "every line but that of a long path fits a terminal"


def test_a_lost_terminal_takes_the_cluster_down(commands: Callable[[int], Commands]) -> None:
    cluster = commands(1)
    terminal = Terminal(*COMMAND, "--root", str(cluster.root), "up")
    terminal.wait_for("Ctrl-C here takes the cluster down")

    terminal.hang_up()

    assert terminal.wait() == 0
    assert cluster.running() == []


def test_a_second_ctrl_c_kills_the_cluster(commands: Callable[[int], Commands]) -> None:
    """The first one waits for a broker that is stopped and will not leave for a while."""
    cluster = commands(1)
    terminal = Terminal(*COMMAND, "--root", str(cluster.root), "up")
    terminal.wait_for("Ctrl-C here takes the cluster down")
    [zookeeper] = [
        int(path.read_text().split()[0]) for path in cluster.directory.glob("zookeeper/**/*.pid")
    ]
    os.kill(zookeeper, signal.SIGSTOP)
    terminal.type(b"\x03")
    terminal.wait_for("taking the cluster down")
    [log] = cluster.logs()
    deadline = time.monotonic() + PATIENCE_S
    while "asked to stop signal=SIGTERM" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)

    terminal.type(b"\x03")

    assert terminal.exit_code() == 1
    assert "killed; the next 'up' recovers the data" in terminal.shown
    assert cluster.running() == []


def test_following_a_log_ends_with_ctrl_c(tmp_path: Path) -> None:
    require_zookeeper()
    cluster = Commands(tmp_path, 1)
    log = cluster.directory / "broker-1" / "broker.log"
    log.parent.mkdir()
    log.write_text("".join(f"line {n}\n" for n in range(50)))
    terminal = Terminal(*COMMAND, "--root", str(tmp_path), "logs", "1", "-f", "-n", "2")
    terminal.wait_for("line 49")
    assert "line 47" not in terminal.shown
    with log.open("a") as more:
        more.write("what came later\n")
    terminal.wait_for("what came later")

    terminal.type(b"\x03")

    assert terminal.exit_code() == 0


def test_a_broker_that_refuses_to_start_is_quoted_and_nothing_is_left_running(
    commands: Callable[[int], Commands],
) -> None:
    cluster = commands(1)
    data = cluster.directory / "broker-1" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=0\nbroker.id=1\ncluster.id=elsewhere\n")

    said = cluster.refuses("up", "--detach")

    assert "broker 1 ended while starting" in said
    assert "belongs to cluster elsewhere" in said
    assert cluster.running() == []


def test_a_port_that_somebody_took_is_left_to_them(commands: Callable[[int], Commands]) -> None:
    cluster = commands(2)
    planned = json.loads(cluster.plan_path.read_text())
    port = planned["brokers"]["1"]["port"]

    with socket.create_server(("127.0.0.1", port)):
        LocalCluster.open(cluster.directory).avoid_taken_ports()

    changed = json.loads(cluster.plan_path.read_text())
    assert changed["brokers"]["1"].pop("port") != port
    del planned["brokers"]["1"]["port"]
    assert changed == planned, "and nobody else's"


def test_a_new_cluster_gets_the_ports_people_know_where_they_are_free(tmp_path: Path) -> None:
    require_zookeeper()
    cluster = LocalCluster.lay_out(tmp_path / ".zkafka", 3)

    assert [broker.port for broker in cluster.brokers.values()] == [9092, 9093, 9094]
    assert cluster.zookeeper.connect == "127.0.0.1:2181"
    assert cluster.replicas == 3


def test_a_machine_without_zookeeper_is_told_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--root", str(tmp_path), "up"],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "ZOOKEEPER_HOME": "/nowhere"},
        check=False,
    )

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ZOOKEEPER_HOME=/nowhere holds no lib/zookeeper-*.jar")


def test_a_damaged_plan_is_one_sentence_and_can_be_wiped(tmp_path: Path) -> None:
    require_zookeeper()
    cluster = Commands(tmp_path, 1)
    cluster.plan_path.write_text("{")
    try:
        assert "start over with --wipe" in cluster.refuses("status")
    finally:
        shutil.rmtree(cluster.directory)
