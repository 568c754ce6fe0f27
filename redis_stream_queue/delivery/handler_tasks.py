"""The tasks that handle one batch: one, or several where messages run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .batch import Batch


class HandlerTasks:
    """The calls of the handler for one batch.

    batch: what they handle. most: at a time, as things stand. begin: starts one, which ends when
    the handler has returned or has had to wait: what is left then is for another; returns None if
    it has ended already.
    running: under way. error: what the first of them raised that failed; not a verdict.
    """

    def __init__(
        self,
        batch: Batch,
        begin: Callable[[Batch], asyncio.Future[None] | None],
        most: Callable[[Batch], int],
    ) -> None:
        self.running: dict[asyncio.Future[None], None] = {}  # in the order of their starts
        self.batch = batch
        self._begin = begin
        self._most = most
        self.error: BaseException | None = None
        self._cancelled = False  # by us
        self._stirred = False
        self._waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """As many as there is work for; each begins now."""
        batch, running = self.batch, self.running
        while len(running) < self._most(batch) and batch.has_work:
            if (call := self._begin(batch)) is not None:
                running[call] = None
                batch.lanes = len(running)
                call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Future[None]) -> None:
        del self.running[call]
        self.batch.lanes = len(self.running)
        error: BaseException | None = None
        if not call.cancelled():
            error = call.exception()
        elif self._cancelled:  # else the app has cancelled its own call, at its very end
            error = asyncio.CancelledError()
        self.error = self.error or error
        others = len(self.running)
        if self.error is None:
            self.start()
        if len(self.running) <= others:
            self.stir()

    def stir(self) -> None:
        """Wake who waits in ``stirred``."""
        self._stirred = True
        if not self._waiter.done():
            self._waiter.set_result(None)

    async def stirred(self) -> None:
        """Until a call has ended and no other taken its place, or ``stir`` is called. One may
        wait at a time."""
        if not self._stirred:
            if self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._stirred = False

    def cancel(self) -> None:
        """What is awaited; a call that may block cannot be interrupted."""
        self._cancelled = True
        for call in self.running:
            if call is not self.batch.plain:
                call.cancel()

    async def ended(self) -> None:
        if self.running:
            await asyncio.wait(self.running)
