"""The calls under way for one batch: one, or several where messages run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .batch import Work
from .eager import start_now


class Calls:
    """The calls of the handler for one batch, each in a task of its own, which the app may cancel.

    most: at a time. call: until it returns, or has had to wait: what is left then is for another.
    running: under way. error: what the first of them raised that failed; not a verdict.
    """

    def __init__(
        self, work: Work, call: Callable[[Work], Coroutine[Any, Any, None]], most: int
    ) -> None:
        self.running: dict[asyncio.Task[None], None] = {}  # in the order of their starts
        self._work = work
        self._call = call
        self._most = most
        self.error: BaseException | None = None
        self._cancelled = False  # by us

    def start(self) -> None:
        """As many as there is work for; each begins now."""
        work, running = self._work, self.running
        while len(running) < self._most and work.waiting:
            task = start_now(self._call(work))
            running[task] = None
            work.lanes = len(running)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self.running[task]
        self._work.lanes = len(self.running)
        error: BaseException | None = None
        if not task.cancelled():
            error = task.exception()
        elif self._cancelled:  # else the app has cancelled its own call, at its very end
            error = asyncio.CancelledError()
        self.error = self.error or error
        if self.error is None and self._work.waiting:
            self.start()
        else:
            self._work.stirred.set()

    def cancel(self) -> None:
        self._cancelled = True
        for task in self.running:
            task.cancel()

    async def ended(self) -> None:
        if self.running:
            await asyncio.wait(self.running)
