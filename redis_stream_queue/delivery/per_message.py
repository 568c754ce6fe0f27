"""A handler made of a function for one message: how its calls begin and end.

Plain calls follow each other in the handler's thread; async ones run in the loop, side by side up
to ``concurrency``.
"""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

from .._clock import mono_ms
from .._log import logger
from ..message import StreamMessage
from .batch import DONE, Batch, Handed
from .invocation import Calls, Forks, end_forked_child, itself, must_be_awaited
from .per_batch import apart, heed
from .rules import Rules, RulesOf

log = logger(__name__)


class PerMessage:
    """A handler made of a function for one message; see per_message.

    is_async: it is called in the loop; else where it may block, though what it gives may have to
        be awaited all the same.
    mixed: some messages are handled in the loop, others where they may block.
    rules_of: what it knows of a message before it runs it; None = nothing. rules: all that it may
        say, by their numbers from 1 on.
    attach: called with URL, prefix, stream and group of the pool that runs it.
    """

    mixed = False
    rules_of: RulesOf | None = None
    rules: Sequence[Rules] = ()
    attach: Callable[[str, str, str, str], None] | None = None

    def __init__(
        self, func: Callable[[StreamMessage], Any], concurrency: int, *, is_async: bool
    ) -> None:
        functools.update_wrapper(self, func)
        self.func = func
        self.concurrency = concurrency
        self.is_async = is_async

    def __get__(self, instance: Any, owner: type | None = None) -> PerMessage:
        """In the body of a class: the handler of one instance."""
        if instance is None:
            return self
        return self.calling(self.func.__get__(instance, owner), is_async=self.is_async)

    def calling(self, func: Callable[[StreamMessage], Any], *, is_async: bool) -> PerMessage:
        """The same handler, but for what it calls."""
        made = copy.copy(self)
        made.func, made.is_async = func, is_async
        return made

    def __call__(self, messages: StreamMessage | list[StreamMessage]) -> Any:
        """Handle messages outside a consumer (in a test, say).

        One StreamMessage: returns what the function returns, and raises what it raises. A list:
        returns the ids that succeeded; errors are logged. Of an async function: an awaitable.
        """
        if isinstance(messages, StreamMessage):
            result = self.func(messages)
            must_be_awaited(result)  # raises if it has run nothing
            return result
        batch = Batch(messages)
        if not self.is_async:
            self.run(batch)
            if batch.handed is None and not batch.waiting:
                return _succeeded(batch)
        return self._finish_all(batch)

    async def _finish_all(self, batch: Batch) -> list[str]:
        batch.owner = asyncio.current_task()
        if self.is_async:
            lanes = min(self.concurrency, batch.waiting)
            await asyncio.gather(*(self._lane(batch) for _ in range(lanes)))
        while batch.handed is not None or batch.waiting:
            if batch.handed is not None:
                await self.finish(batch)
            else:
                await apart(batch, self.run_async(batch))
            self.run(batch)
        return _succeeded(batch)

    async def _lane(self, batch: Batch) -> None:
        while batch.waiting:
            await apart(batch, self.run_async(batch))

    def lanes(self, batch: Batch) -> int:
        """How many calls may be under way, as things stand."""
        return self.concurrency

    def awaits(self, batch: Batch) -> bool:
        """Is the next message handled in the loop?"""
        return self.is_async

    def run(self, batch: Batch) -> None:
        """Handle one message after the other; stops where one gave something to ``finish``, and
        before one that is handled in the loop."""
        func, mixed = self.func, self.mixed
        while not (mixed and self.awaits(batch)) and (message := batch.next()) is not None:
            context = copy_context()  # with what a hook has put in for this message
            try:
                result = context.run(func, message)
                waits = result is not None and must_be_awaited(result)
            except BaseException as error:  # whatever is raised is that message's verdict
                end_forked_child(batch.forks, error)
                batch.fail(message, error)
                continue
            if Forks.count != batch.forks:
                end_forked_child(batch.forks)
            if waits:
                batch.handed = Handed([message], result, context)
                return
            batch.done(message)

    async def finish(self, batch: Batch) -> None:
        """Await, in the loop, what the call of ``run`` gave that was the last."""
        if (handed := batch.take_handed()) is not None:
            await apart(batch, self._finish(batch, handed))

    async def _finish(self, batch: Batch, handed: Handed) -> None:
        [message] = handed.messages
        rest = None
        try:
            if rest := Calls(itself).begin(handed.context, batch.forks, handed.result):
                batch.awaited[message.id] = asyncio.current_task()
                await rest.end()
        except BaseException as error:  # whatever is raised: see heed()
            heed(error, rest, batch)
            batch.fail(message, error)
        else:
            end_forked_child(batch.forks)
            batch.done(message)
        finally:
            batch.awaited.pop(message.id, None)

    async def run_async(self, batch: Batch) -> None:
        """Handle messages until one has had to wait, or none is left.

        What that one may have left behind in this task (a cancellation, a timer) is not for the
        next one: it is called in another task.
        """
        calls, task = Calls(self.func), None
        while not self.mixed or self.awaits(batch):
            now_ms = mono_ms()
            if now_ms >= batch.look_up_ms:
                now_ms = await batch.look_up_in_loop(now_ms)
            if (message := batch.start_one(now_ms)) is None:
                return
            rest = None
            try:
                if rest := calls.begin(copy_context(), batch.forks, message):
                    task = batch.awaited[message.id] = asyncio.current_task()
                    await rest.end()
            except BaseException as error:  # whatever is raised: see heed()
                heed(error, rest, batch)
                batch.fail(message, error)
                calls = Calls(self.func)
            else:
                end_forked_child(batch.forks)
                batch.done(message)
            task = task or asyncio.current_task()
            if rest is not None or (task is not None and task.cancelling()):
                batch.awaited.pop(message.id, None)
                return


def _succeeded(batch: Batch) -> list[str]:
    for error, _ in batch.errors:
        log.error("message handler failed", exc_info=error)
    return [m.id for done, verdict in batch.collect() if verdict is DONE for m in done]
