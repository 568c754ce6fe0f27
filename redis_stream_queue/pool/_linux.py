"""The few Linux calls that Python has no function for."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

TICKS = os.sysconf("SC_CLK_TCK")  # clock ticks in a second
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Orphaned grandchildren become our children, so that we can wait for them."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_process_name(name: str) -> None:
    """Name shown by ps and top, at most 15 characters."""
    _prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def process_name(pid: int) -> str:
    """The name that ps shows, see set_process_name(); "" if the process has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def children() -> list[int]:
    """Pids of this process's living children, adopted orphans included. Call it in the main thread,
    which has them."""
    try:
        with open("/proc/thread-self/children", "rb", buffering=0) as file:
            found = file.read().split()
    except OSError:  # the kernel has no such list
        found = [name.encode() for name in os.listdir("/proc") if name.isdecimal()]
    return [pid for pid in map(int, found) if _state_and_parent(pid) == (True, os.getpid())]


def _state_and_parent(pid: int) -> tuple[bool, int]:
    """Does the process live, and what is the pid of its parent?"""
    try:
        state, parent = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return False, 0
    return state not in (b"Z", b"X"), int(parent)


def memory_mb(pid: int | str = "self") -> float | None:
    """Memory that a process has in use (resident), in MB; None = unknown."""
    try:
        pages = int(_read(f"/proc/{pid}/statm").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * PAGE_BYTES / 1e6


def _read(path: str) -> bytes:
    """The first 4096 bytes of a file in /proc, in a fifth of the time that a Path takes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def cpu_ms(pid: int) -> int:
    """Processor time of a process and of the children that it has waited for; 0 = unknown.

    Source: proc(5), /proc/PID/stat: utime, stime, cutime and cstime in ticks.
    """
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        return sum(map(int, fields[11:15])) * 1000 // TICKS
    except (OSError, ValueError):
        return 0


def ended_children() -> Iterator[tuple[int, int, int]]:
    """Pid, wait status and used processor time in ms of each child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            yield pid, status, round((usage.ru_utime + usage.ru_stime) * 1000)


def usable_cores() -> int:
    """Cores that this process may use, a CPU limit of its container included; 1 at least."""
    cores = len(os.sched_getaffinity(0)) or 1
    limit = cpu_limit()
    return cores if limit is None else max(min(cores, math.ceil(limit)), 1)


def cpu_limit(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Cores that the container or the unit may use (cgroup v2), None = no limit is known.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max)
    """
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                quota, period = (cgroups / path.lstrip("/") / "cpu.max").read_text().split()
                return int(quota) / int(period)  # quota "max" is no number: no limit
    return None


def _prctl(option: int, value: object) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
