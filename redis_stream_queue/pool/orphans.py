"""Ends the processes that handlers have started and that outlive their worker.

When a worker has ended, its children become children of the master (a subreaper), and so do their
children later. A program that a worker started has the worker's pid in its environment, a fork of
the worker has it in its process name. So background processes of a worker that lives are left
alone. A process without such a mark (a program with an environment of its own) is ended if it
became a child of the master just now. A process that has made a session of its own is never ended.

All workers and their children stay in the session and the process group of the pool: Ctrl-C and
``kill -- -PID`` reach them. A child keeps its pid until the master waits for it, so a signal cannot
hit another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from . import _linux

VARIABLE = "RSQ_WORKER_PID"
FORK = "rsq-of-"  # and the worker's pid
GRACE_S = 0.5  # from SIGTERM to SIGKILL: for those that clean up after themselves


def mark_children() -> None:
    """In a worker: mark the processes that it starts from now on with its pid."""
    pid = os.getpid()
    os.environ[VARIABLE] = str(pid)
    os.register_at_fork(after_in_child=lambda: _linux.set_process_name(f"{FORK}{pid}"))


class Orphans:
    """Ends the children of this process that a dead worker has left; make it in the event loop.

    ours: returns the pids of templates and workers. fork_pending: is there a worker that is being
    forked, so that its pid is not known yet?
    """

    def __init__(self) -> None:
        self.ours: Callable[[], set[int]] = set
        self.fork_pending: Callable[[], bool] = lambda: False
        self._ending = False
        self._background: set[int] = set()
        self._kill_at: dict[int, float] = {}  # by pid: SIGKILL at this loop.time()
        self._none_left = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        os.environ.pop(VARIABLE, None)  # set if a handler of another pool has started this pool

    def note_background(self) -> None:
        """Note which processes are here now: a worker that dies later has not left them.

        Call this again and again.
        """
        if not self._ending:
            with contextlib.suppress(OSError):  # no descriptor is free: those of before count
                self._background = set(self._strangers())

    def worker_died(self) -> None:
        """End the processes that a dead worker has left."""
        self._ending = True
        self.look()

    async def end_all(self) -> None:
        """End all processes that workers have left, and wait until they are gone.

        Call this when there is no worker any more.
        """
        self._background.clear()
        self.worker_died()
        while self._ending:
            self._none_left.clear()
            await self._none_left.wait()

    def look(self) -> None:
        """Go on with ending. Call this when a child has ended: the master has its children now."""
        if not self._ending:
            return
        ours, now = self.ours(), asyncio.get_running_loop().time()
        try:
            strangers = self._strangers()
        except OSError:  # no descriptor is free: later
            self._look_again()
            return
        left = [p for p in strangers if p in self._kill_at or not self._is_kept(p, ours)]
        for pid in left:
            if pid not in self._kill_at:
                _signal(pid, signal.SIGTERM)
            elif now >= self._kill_at[pid]:
                _signal(pid, signal.SIGKILL)
        self._kill_at = {pid: self._kill_at.get(pid, now + GRACE_S) for pid in left}
        if left:
            self._look_again()
        else:
            self._ending = False
            self._none_left.set()

    def _look_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(GRACE_S, self.look)

    def _strangers(self) -> list[int]:
        ours, session = self.ours(), os.getsid(0)
        return [pid for pid in _linux.children() if pid not in ours and _session(pid) == session]

    def _is_kept(self, pid: int, ours: set[int]) -> bool:
        name, worker = _linux.process_name(pid), _worker_of(pid)
        if name.startswith(FORK):
            worker = name.removeprefix(FORK)
        elif name.startswith("rsq-") and self.fork_pending():
            return True
        return int(worker) in ours if worker.isdecimal() else pid in self._background


def _worker_of(pid: int) -> str:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or belongs to another user
        return ""
    begin = f"{VARIABLE}=".encode()
    found = [v.removeprefix(begin) for v in variables if v.startswith(begin)]
    return found[0].decode(errors="replace") if found else ""


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _signal(pid: int, number: signal.Signals) -> None:
    """Signal a child, and its whole process group if that is not the pool's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        group = os.getpgid(pid)
        if group == os.getpgid(0):
            os.kill(pid, number)
        else:
            os.killpg(group, number)
