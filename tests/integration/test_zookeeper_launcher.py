"""`zookeeper/run`, on a copy with other ports, so that it meets nobody's ZooKeeper."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from zkafka.testing.plugin import require_zookeeper
from zkafka.testing.processes import ChildProcess, free_ports
from zkafka.testing.zookeeper import ask_async

SOURCE = Path(__file__).resolve().parents[2] / "zookeeper"
PORTS = ("2181", "2182", "2183", "2888", "2889", "2890", "3888", "3889", "3890")
GRACE_S = 60.0
"""How long a busy machine may take to end a JVM that was asked to."""


@attrs.define
class Launcher:
    """A copy of the launcher beside templates with free ports."""

    run: Path
    ports: list[int]
    """The client ports of the three servers."""
    children: list[ChildProcess] = attrs.field(factory=list)

    def launch(self, *arguments: str) -> ChildProcess:
        env = {**os.environ, "ZOOKEEPER_DATA": str(self.run.parent / "data")}
        child = ChildProcess.spawn(
            "zookeeper/run", [str(self.run), *arguments], log_path=self.run.parent / "log", env=env
        )
        self.children.append(child)
        return child


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    require_zookeeper()
    copy = tmp_path / "zookeeper"
    shutil.copytree(SOURCE, copy)
    ports = free_ports(len(PORTS))
    others = dict(zip(PORTS, map(str, ports), strict=True))
    for template in copy.glob("*.cfg"):
        text = template.read_text()
        template.write_text(
            re.sub(r"(?<=[=:])\d{4}\b", lambda port: others.get(port[0], port[0]), text)
        )
    made = Launcher(copy / "run", ports[:3])
    yield made
    for child in made.children:
        child.end(GRACE_S)


async def modes(ports: list[int]) -> set[str]:
    """What the servers say they are, once all of them serve."""
    with trio.fail_after(90):
        while True:
            answers = [await ask_async(port, "srvr") for port in ports]
            said = [line for answer in answers for line in answer.splitlines() if "Mode:" in line]
            if len(said) == len(ports):
                return {line.split()[1] for line in said}
            await trio.sleep(0.05)


async def test_one_server_in_the_foreground(launcher: Launcher) -> None:
    child = launcher.launch()
    assert await modes(launcher.ports[:1]) == {"standalone"}
    await child.end_async(GRACE_S)
    assert child.exit_code == 128 + signal.SIGTERM
    assert (launcher.run.parent / "data" / "standalone" / "version-2").is_dir()
    assert "standalone from" in child.log_path.read_text()


async def test_three_servers_end_together(launcher: Launcher) -> None:
    child = launcher.launch("ensemble")
    assert await modes(launcher.ports) == {"leader", "follower"}
    await child.end_async(GRACE_S)
    assert child.exit_code == 0
    assert [await ask_async(port, "ruok") for port in launcher.ports] == ["", "", ""]


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "words"),
    [
        (["sideways"], {}, 2, "usage:"),
        (["ensemble", "4"], {}, 2, "usage:"),
        ([], {"ZOOKEEPER_HOME": "/nowhere"}, 1, "ZOOKEEPER_HOME=/nowhere holds no"),
        ([], {"JAVA_HOME": "/nowhere"}, 1, "JAVA_HOME=/nowhere holds no bin/java"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], environ: dict[str, str], code: int, words: str
) -> None:
    done = subprocess.run(
        [SOURCE / "run", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
