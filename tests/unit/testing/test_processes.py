"""Processes beside us: small shells, which end when they are told to."""

import signal
import socket
import sys
from pathlib import Path

import trio

from zkafka.testing.processes import ChildProcess, free_ports, log_tail

# Says when it is ready, and ends at once on SIGTERM unless told to be deaf.
SERVER = "import signal, sys; {deaf}; print('ready', flush=True); signal.pause()"
POLITE = SERVER.format(deaf="pass")
DEAF = SERVER.format(deaf="signal.signal(signal.SIGTERM, signal.SIG_IGN)")


async def spawn(tmp_path: Path, script: str, *, detached: bool = False) -> ChildProcess:
    child = ChildProcess.spawn(
        "server",
        [sys.executable, "-S", "-c", script],
        log_path=tmp_path / "server.log",
        pid_path=tmp_path / "server.pid",
        detached=detached,
    )
    with trio.fail_after(60):
        # Another process: nothing but its output tells us.
        while "ready" not in (tmp_path / "server.log").read_text():  # noqa: ASYNC110
            await trio.sleep(0.005)
    return child


async def test_a_child_ends_on_sigterm_and_its_words_are_kept(tmp_path: Path) -> None:
    child = await spawn(tmp_path, POLITE)
    assert child.running
    assert child.exit_code is None
    await child.end_async()
    assert not child.running
    assert child.exit_code == -signal.SIGTERM
    assert child.log_tail() == "  ready"


async def test_a_deaf_child_is_killed(tmp_path: Path) -> None:
    child = await spawn(tmp_path, DEAF)
    await child.end_async(grace=0.01)
    assert child.exit_code == -signal.SIGKILL


async def test_the_same_without_trio(tmp_path: Path) -> None:
    child = await spawn(tmp_path, DEAF)
    child.end(grace=0.01)
    assert child.exit_code == -signal.SIGKILL


async def test_a_stopped_child_is_running_and_still_ends(tmp_path: Path) -> None:
    child = await spawn(tmp_path, POLITE)
    child.signal(signal.SIGSTOP)
    assert child.running
    await child.end_async()
    assert not child.running


async def test_an_ended_child_is_signalled_no_more(tmp_path: Path) -> None:
    child = await spawn(tmp_path, POLITE)
    await child.end_async()
    child.signal(signal.SIGKILL)
    await child.end_async()
    assert child.exit_code == -signal.SIGTERM


async def test_a_later_run_finds_the_process_by_its_pid_file_and_ends_it(tmp_path: Path) -> None:
    child = await spawn(tmp_path, POLITE, detached=True)
    found = ChildProcess.find(
        "server", pid_path=tmp_path / "server.pid", log_path=tmp_path / "server.log"
    )
    assert found is not None
    assert found.pid == child.pid
    assert found.running
    found.end()
    assert not found.running
    assert found.exit_code is None, "not our child: nobody tells us"
    assert child.wait(60)


def test_a_pid_that_is_another_process_by_now_is_not_found(tmp_path: Path) -> None:
    """The pid is ours, the time of its start is not."""
    import os

    path = tmp_path / "server.pid"
    path.write_text(f"{os.getpid()} 12345\n")
    assert ChildProcess.find("server", pid_path=path, log_path=tmp_path / "log") is None


def test_no_pid_file_no_process(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    assert ChildProcess.find("server", pid_path=path, log_path=tmp_path / "log") is None
    path.write_text("nonsense\n")
    assert ChildProcess.find("server", pid_path=path, log_path=tmp_path / "log") is None


def test_free_ports_differ_and_lie_below_the_ephemeral_range() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(port < 32_768 for port in ports)
    for port in ports[:3]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    assert not set(ports) & set(free_ports(1000)), "whoever got them binds them later"


def test_a_tail_is_the_end_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert "no log" in log_tail(path)
    path.write_text("")
    assert "empty" in log_tail(path)
    path.write_text("".join(f"line {i}\n" for i in range(100)))
    assert log_tail(path, 2) == "  line 98\n  line 99"
