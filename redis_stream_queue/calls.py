"""The calls under way for one batch: one, or several where messages run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .work import Work


class Calls:
    """The calls of the handler for one batch.

    running: under way. error: what the first of them raised that failed; not a verdict.
    """

    def __init__(self, work: Work, call: Callable[[Work], Coroutine[Any, Any, None]]) -> None:
        self.running: dict[asyncio.Task[None], None] = {}  # in the order of their starts
        self._work = work
        self._call = call
        self.error: BaseException | None = None

    def start(self) -> None:
        task = asyncio.ensure_future(self._call(self._work))
        self.running[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.pop(task, None)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self.error = self.error or error
        self._work.stirred.set()

    def cancel(self) -> None:
        for task in self.running:
            task.cancel()

    async def ended(self) -> None:
        if self.running:
            await asyncio.wait(self.running)
