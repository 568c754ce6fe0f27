"""Runs a plain handler in the process's main thread, for a loop in a second thread.

There, timer signals arrive at once, and libraries that insist on the main thread work.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Coroutine
from typing import Any

from . import loop


class MainThread:
    """Runs calls of the loop's thread in the main thread."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], asyncio.Future[None]] | None] = (
            queue.SimpleQueue()
        )

    async def run(self, call: Callable[[], None]) -> None:
        """Run a call there and wait for it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.put((call, done))
        await done

    def around(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Body of the loop's thread: run the loop, then let the main thread go."""
        try:
            loop.run(main())
        finally:
            self._calls.put(None)

    def serve(self) -> None:
        """Body of the main thread."""
        while (item := self._calls.get()) is not None:
            call, done = item
            error: BaseException | None = None
            try:
                call()
            except BaseException as caught:  # it belongs to whoever waits for the call
                error = caught
            done.get_loop().call_soon_threadsafe(_resolve, done, error)


def _resolve(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
