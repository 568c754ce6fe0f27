"""The tasks that handle one batch: one, or several where messages run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .batch import Batch


class HandlerTasks:
    """The calls of the handler for one batch.

    batch: the messages. most: how many calls may run now. begin: starts a call, which ends when the
    handler has returned or has had to wait; another call takes the messages that are left. It
    returns None if the call has ended already.
    running: calls under way. error: the first error that a call itself raised; no verdict.
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
        """Start as many calls as there is work for; each begins at once."""
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
        """Wake the task that waits in stirred()."""
        self._stirred = True
        if not self._waiter.done():
            self._waiter.set_result(None)

    async def stirred(self) -> None:
        """Wait until a call has ended and no other has taken its place, or stir() is called. One
        task may wait at a time."""
        if not self._stirred:
            if self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._stirred = False

    def cancel(self) -> None:
        """Cancel what is awaited; a call that may block cannot be interrupted."""
        self._cancelled = True
        for call in self.running:
            if call is not self.batch.plain:
                call.cancel()

    async def ended(self) -> None:
        if self.running:
            await asyncio.wait(self.running)
