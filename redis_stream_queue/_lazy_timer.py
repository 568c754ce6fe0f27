"""A timer whose time is moved far more often than it is reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

CLOCK_STEP_S = 0.001  # a timer may fire so much before its time
STAYS_S = 0.1  # where the loop's own timer was set before that, it is set anew


class LazyTimer:
    """Calls back once at a time, in the loop that this time was set in.

    The loop's own timer stays where the time is moved later, and looks again when it fires:
    setting one for each short piece of work costs more than the work. Where pieces of work are
    rare, it is set for each: waking up for nothing costs more than that.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._due_s: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._fires_s = self._stays_until_s = 0.0

    def set(self, due_s: float) -> None:
        """Call back then, by the clock of the loop that runs; no other time counts any more."""
        self._due_s, loop = due_s, asyncio.get_running_loop()
        if self._handle is not None and self._loop is loop:
            if self._fires_s <= due_s and loop.time() < self._stays_until_s:
                return
            self._handle.cancel()
        self._loop, self._fires_s = loop, due_s
        self._stays_until_s = loop.time() + STAYS_S
        self._handle = loop.call_at(due_s, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            return
        self._handle, due_s = None, self._due_s
        if due_s is None:
            return
        if loop.time() < due_s - CLOCK_STEP_S:
            self.set(due_s)
            return
        self._due_s = None
        self._callback()
