"""Pushes of a producer on their way: a lone one goes at once, those of one moment go together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from .bulk import own_copy

T = TypeVar("T")


class Outbox(Generic[T]):
    """Sends by ``send``, which returns an id or an error for each push, or raises for all.

    A push that nothing else accompanies is sent by its own caller, without a task, unless
    ``together``. Those that come while it is on its way are collected until the loop's next turn.
    """

    def __init__(
        self, send: Callable[[Sequence[T]], Awaitable[list[Any]]], together: bool = False
    ) -> None:
        self._send = send
        self._together = together
        # Loops with such a push under way, and who waits for its end.
        self._alone: dict[asyncio.AbstractEventLoop, asyncio.Event | None] = {}
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[T, asyncio.Future[Any]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def push(self, one: T) -> Any:
        """The id of the message. Raises its error."""
        loop = asyncio.get_running_loop()
        if self._together or loop in self._alone or loop in self._waiting:
            return await self._with_others(one, loop)
        self._alone[loop] = None
        try:
            [result] = await self._send((one,))
        finally:
            if (ended := self._alone.pop(loop)) is not None:
                ended.set()
        if isinstance(result, Exception):
            raise result
        return result

    def _with_others(self, one: T, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = loop.create_future()
        waiting = self._waiting.setdefault(loop, [])
        waiting.append((one, future))
        if len(waiting) == 1:
            loop.call_soon(self._send_waiting, loop)
        return future

    def _send_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        # Whose caller has given up meanwhile is not sent.
        wanted = [entry for entry in self._waiting.pop(loop) if not entry[1].done()]
        if wanted:
            task = loop.create_task(self._send_together(wanted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if self._together:  # it may wait for room for long: for nobody once all have given up
                futures = [future for _, future in wanted]
                for future in futures:
                    future.add_done_callback(
                        lambda _: task.cancel() if all(f.done() for f in futures) else None
                    )

    async def _send_together(self, waiting: list[tuple[T, asyncio.Future[Any]]]) -> None:
        results: Sequence[Any]
        try:
            results = await self._send([one for one, _ in waiting])
        except Exception as error:  # each caller gets it as its own
            results = [own_copy(error) for _ in waiting]
        for (_, future), result in zip(waiting, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    async def until_sent(self) -> None:
        """Wait for what is under way in this loop."""
        loop = asyncio.get_running_loop()
        if loop in self._waiting:
            await asyncio.sleep(0)
        # Other loops, of threads or of the process before a fork, wait for their own.
        if mine := [task for task in self._tasks if task.get_loop() is loop]:
            await asyncio.gather(*mine, return_exceptions=True)
        if loop in self._alone:
            ended = self._alone[loop] = self._alone[loop] or asyncio.Event()
            await ended.wait()
