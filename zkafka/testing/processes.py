"""Processes beside us: started with their output in a file, signalled without races, waited for.

A child is known by its pid and the time the kernel started it, and is signalled through a pidfd: a
pid that was given to somebody else in the meantime is never hit. Both can be kept in a small file,
so that a later command (`zkafka-cluster down`) finds what an earlier one left running.
"""

import os
import select
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import attrs
import trio


class ProcessFailed(Exception):
    """A process ended, or did not end, against what was asked; carries the end of its log."""


@attrs.define(eq=False)
class ChildProcess:
    """One process started by us or found by its pid file; ended by whoever holds it."""

    name: str
    pid: int
    log_path: Path
    _pidfd: int
    _popen: "subprocess.Popen[bytes] | None" = None
    _closed: bool = False

    @classmethod
    def spawn(
        cls,
        name: str,
        argv: Sequence[str],
        *,
        log_path: Path,
        pid_path: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        detached: bool = False,
    ) -> "ChildProcess":
        """Start `argv` with stdout and stderr appended to `log_path`.

        In a process group of its own, so that Ctrl-C in a terminal reaches us alone and we decide
        the order in which things end; `detached` also leaves the terminal's session.
        """
        with log_path.open("ab") as log:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=detached,
                process_group=None if detached else 0,
            )
        child = cls(name, popen.pid, log_path, os.pidfd_open(popen.pid), popen)
        if pid_path is not None:
            pid_path.write_text(f"{popen.pid} {_started_at(popen.pid)}\n")
        return child

    @classmethod
    def find(cls, name: str, *, pid_path: Path, log_path: Path) -> "ChildProcess | None":
        """The process named by a pid file, if it still is that process."""
        try:
            pid_text, started = pid_path.read_text().split()
            pid = int(pid_text)
            pidfd = os.pidfd_open(pid)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        if _started_at(pid) != int(started):
            os.close(pidfd)
            return None
        return cls(name, pid, log_path, pidfd)

    @property
    def running(self) -> bool:
        """Whether it has not ended; a paused process is running."""
        if self._closed:
            return False
        if self._popen is not None:
            return self._popen.poll() is None
        return not _readable(self._pidfd, 0.0)

    @property
    def exit_code(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs, or if it is not our child."""
        return None if self._popen is None else self._popen.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended is left in peace."""
        if not self.running:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass  # it ended between the two lines

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; False when `timeout` seconds were not enough."""
        if self.running and not _readable(self._pidfd, timeout):
            return False
        self._reap()
        return True

    async def wait_ended(self) -> None:
        """Wait until it has ended; cancel to give up."""
        while self.running:
            await trio.lowlevel.wait_readable(self._pidfd)
        self._reap()

    def end(self, grace: float = 5.0) -> None:
        """SIGTERM, and SIGKILL if that was not heard within `grace` seconds. Blocks."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if not self.wait(grace):
            self.signal(signal.SIGKILL)
            self.wait(grace)

    async def end_async(self, grace: float = 5.0) -> None:
        """`end` for trio. A cancellation in the middle leaves it signalled and unwaited."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with trio.move_on_after(grace):
            await self.wait_ended()
            return
        self.signal(signal.SIGKILL)
        await self.wait_ended()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines it wrote, for an error message."""
        return log_tail(self.log_path, lines)

    def _reap(self) -> None:
        """Collect the exit status, and let the pidfd go."""
        if self._closed:
            return
        if self._popen is not None:
            self._popen.wait()
        os.close(self._pidfd)
        self._closed = True


def log_tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log file, indented; a sentence when there is none."""
    if not path.exists():
        return f"  (no log at {path})"
    with path.open("rb") as log:
        log.seek(0, os.SEEK_END)
        log.seek(max(0, log.tell() - 64 * 1024))
        tail = log.read().decode(errors="replace").splitlines()[-lines:]
    return "\n".join(f"  {line}" for line in tail) or f"  ({path} is empty)"


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports nobody listens on now, outside the range the kernel takes for outgoing connections.

    A port from that range would be free now and the local end of somebody's connection by the time
    a broker is started again on it. Whoever gets a port binds it later, so this process gives none
    twice, as far as it remembers.
    """
    ports: list[int] = []
    for port in _candidate_ports():
        if port not in _given and is_free(port, host):
            _given.append(port)
            ports.append(port)
        if len(ports) == count:
            break
    return ports


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nobody listens on a port now; closed connections lingering there do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


_given: deque[int] = deque(maxlen=5000)
"""The ports that `free_ports` gave last: more than one run needs, fewer than there are."""


def _candidate_ports() -> Iterator[int]:
    """Random, so that two runs on one machine seldom try the same port at the same moment."""
    random = Random()
    while True:
        yield random.randrange(12_000, 32_000)


def _readable(pidfd: int, timeout: float) -> bool:
    """Whether the process has ended, waiting for at most `timeout` seconds."""
    poll = select.poll()  # select() refuses descriptors above 1023, which a test run may reach
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _started_at(pid: int) -> int:
    """When the kernel started `pid`, in clock ticks since boot; -1 if it is no more.

    Source: proc(5), field 22 of stat; the name in parentheses may itself hold spaces.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(stat.rpartition(")")[2].split()[19])
