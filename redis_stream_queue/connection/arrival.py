"""What a task waits for, and goes on with as it comes: not with the loop's next turn."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any

Wake = Callable[["Arrival"], None]


class Arrival:
    """One task waits at a time, again and again.

    A future's callbacks wait for a turn of the loop, which looks at all its sockets first. This one
    runs the task's next step inside ``come``. To the task it is a future; so the methods below.

    Source: https://docs.python.org/3/library/asyncio-extending.html
    """

    _asyncio_future_blocking = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wake: Wake | None = None
        self._context: Context
        self._came: Any = None
        self._cancelled: asyncio.CancelledError | None = None

    def come(self, what: Any) -> bool:
        """Give the task that waits what it waits for; returns False if none waits.

        To be called in the loop.
        """
        wake, self._wake = self._wake, None
        if wake is None:
            return False
        self._came = what
        if asyncio.current_task(self._loop) is None:
            self._context.run(wake, self)
        else:  # a task has called us, and its own step ends first
            self._loop.call_soon(wake, self, context=self._context)
        return True

    @types.coroutine
    def wait(self) -> Generator[Any, None, Any]:
        """Wait until it comes; returns it."""
        self._asyncio_future_blocking = True
        yield self
        came, self._came = self._came, None
        return came

    # -- what a task asks of a future ------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Wake, *, context: Context) -> None:
        self._wake, self._context, self._cancelled = wake, context, None

    def cancel(self, msg: Any = None) -> bool:
        wake, self._wake = self._wake, None
        if wake is None:
            return False
        self._cancelled = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self._loop.call_soon(wake, self, context=self._context)
        return True

    def result(self) -> None:
        if self._cancelled is not None:
            raise self._cancelled
