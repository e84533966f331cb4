"""What processes cost, as the kernel counts it: CPU seconds and memory in MB (10**6 bytes)."""

import time
from collections.abc import Iterable
from pathlib import Path

import attrs

_CPUCLOCK_SCHED = 2


@attrs.define
class Usage:
    """What a set of processes cost while something was measured."""

    cpu_seconds: float = 0.0
    """User and system, all processes."""
    peak_mb: float = 0.0
    """The sum of each process's largest resident size in that time."""

    def values(self) -> dict[str, float]:
        """As the two quantities that every measurement has."""
        return {"cpu_s": self.cpu_seconds, "peak_mb": self.peak_mb}


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all threads so far; a process that has ended counts nothing.

    By the process's CPU clock, in nanoseconds: /proc/PID/stat counts hundredths of a second, more
    than an idle broker takes in one. Source: clock_getcpuclockid(3), the kernel's CPUCLOCK_SCHED.
    """
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
        except OSError:
            continue
    return total


def resident_mb(pids: Iterable[int]) -> float:
    """VmRSS of all."""
    return sum(_status_mb(pid, "VmRSS") for pid in pids)


def peak_mb(pids: Iterable[int]) -> float:
    """VmHWM of all: the most that was resident since `reset_peak`."""
    return sum(_status_mb(pid, "VmHWM") for pid in pids)


def reset_peak(pids: Iterable[int]) -> None:
    """Begin VmHWM anew at what is resident now. Source: proc(5), clear_refs, value 5."""
    for pid in pids:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except (FileNotFoundError, ProcessLookupError):
            continue


def bytes_read(pids: Iterable[int]) -> int:
    """Bytes that came from the disk, not from the page cache. Source: proc(5), io, read_bytes."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
    return total


def _status_mb(pid: int, key: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key)), 0.0)
