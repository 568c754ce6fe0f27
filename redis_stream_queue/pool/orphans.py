"""Ends what dead workers leave behind.

Each worker is the leader of a session. What its handlers have started is in it, unless it made a
session of its own, and becomes a child of the master (a subreaper) when the worker has ended. So
nothing has to be noted while workers live, and nobody else's process can be meant: a child that
nobody has waited for keeps its pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from . import _linux

GRACE_S = 0.5  # from SIGTERM to SIGKILL: for those that clean up after themselves


class Orphans:
    """The sessions of dead workers that are not empty yet. Call it in the loop."""

    def __init__(self) -> None:
        self._sessions: dict[int, float] = {}  # until when its processes have time, loop.time()
        self._told: set[int] = set()
        self._none_left = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None

    def worker_died(self, pid: int) -> None:
        """End what is left of its session; the worker was the process with this pid."""
        self._sessions[pid] = asyncio.get_running_loop().time() + GRACE_S
        self.look()

    def look(self) -> None:
        """Go on with it. Call it whenever a child has ended: its own children are ours then."""
        if not self._sessions:
            return
        left = {pid: sid for pid in _linux.children() if (sid := _session(pid)) in self._sessions}
        now = asyncio.get_running_loop().time()
        for pid, session in left.items():
            if now >= self._sessions[session]:
                _signal_group_of(pid, signal.SIGKILL)
            elif pid not in self._told:
                self._told.add(pid)
                _signal_group_of(pid, signal.SIGTERM)
        self._told.intersection_update(left)
        kept = set(left.values())
        self._sessions = {sid: until for sid, until in self._sessions.items() if sid in kept}
        if self._again is not None:
            self._again.cancel()
        if self._sessions:
            self._again = asyncio.get_running_loop().call_later(GRACE_S, self.look)
        else:
            self._none_left.set()

    async def until_none_left(self) -> None:
        """Wait until all of them have ended."""
        while self._sessions:
            self._none_left.clear()
            await self._none_left.wait()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _signal_group_of(pid: int, number: signal.Signals) -> None:
    """To the child and what shares its process group, as a terminal would."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(os.getpgid(pid), number)
