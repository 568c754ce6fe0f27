"""A handler that is called with a batch, and what its answer says about the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

from .._log import logger
from ..message import StreamMessage
from .batch import NOT_ACKNOWLEDGED, Batch, Handed
from .invocation import Calls, Rest, end_forked_child, itself, looks_async, must_be_awaited

log = logger(__name__)


class PerBatch:
    """A handler that is called with the whole batch, as a session runs it."""

    concurrency = 1
    mixed = False

    def __init__(
        self, func: Callable[[list[StreamMessage]], Any], *, is_async: bool | None = None
    ) -> None:
        self.func = func
        self.is_async = looks_async(func) if is_async is None else is_async

    def lanes(self, batch: Batch) -> int:
        """How many calls may be under way now."""
        return 1

    def awaits(self, batch: Batch) -> bool:
        """Is what comes next called in the loop?"""
        return self.is_async

    def run(self, batch: Batch) -> None:
        """Call it; what it gave may be left to ``finish``."""
        messages = batch.start_all()
        if not messages:
            return
        context = copy_context()
        try:
            result = context.run(self.func, list(messages))
            waits = must_be_awaited(result)
        except BaseException as error:  # whatever is raised is the batch's verdict
            end_forked_child(batch.forks, error)
            batch.fail_batch(messages, error)
            return
        end_forked_child(batch.forks)
        if waits:
            batch.handed = Handed(messages, result, context)
        else:
            _note(batch, messages, result)

    async def finish(self, batch: Batch) -> None:
        """Await, in the loop, what it gave."""
        if (handed := batch.take_handed()) is not None:
            call = self._finish(batch, handed.messages, handed.context, itself, handed.result)
            await apart(batch, call)

    async def run_async(self, batch: Batch) -> None:
        """Call it in the loop."""
        if messages := batch.start_all():
            await self._finish(batch, messages, copy_context(), self.func, list(messages))

    async def _finish(
        self,
        batch: Batch,
        messages: list[StreamMessage],
        context: Context,
        call: Callable[[Any], Any],
        argument: Any,
    ) -> None:
        rest, calls = None, Calls(call)
        try:
            if rest := calls.begin(context, batch.forks, argument):
                await rest.end()
        except BaseException as error:  # whatever is raised: see heed()
            heed(error, rest, batch)
            batch.fail_batch(messages, error)
        else:
            end_forked_child(batch.forks)
            _note(batch, messages, calls.result)


def heed(error: BaseException, rest: Rest | None, batch: Batch) -> None:
    """Whatever is raised is a verdict, unless it is the end of the consumer or of a child."""
    end_forked_child(batch.forks, error)
    if (rest is not None and rest.abandoned) or batch.is_cancelled(error):
        raise error


async def apart(batch: Batch, call: Coroutine[Any, Any, None]) -> None:
    """Run it in a task of its own, which it may cancel."""
    try:
        await asyncio.create_task(call)
    except asyncio.CancelledError as error:
        if batch.is_cancelled(error):
            raise
        # else the app has cancelled it at its very end


def _note(batch: Batch, messages: list[StreamMessage], result: Any) -> None:
    try:
        _note_result(batch, messages, result)
    except BaseException as error:  # an iterator's own code runs only now
        end_forked_child(batch.forks, error)
        batch.fail_batch(messages, error)


def _note_result(batch: Batch, messages: list[StreamMessage], result: Any) -> None:
    if isinstance(result, list) and result == [message.id for message in messages]:
        batch.finish_batch(messages, messages, NOT_ACKNOWLEDGED)  # all of them: the usual case
        return
    ids: set[str] = set()
    if result is None:
        log.warning(
            "the handler returned None, so nothing is acknowledged: return the list of ids that "
            "are done ([] for none)"
        )
    elif isinstance(result, str) or not hasattr(result, "__iter__"):
        log.warning(
            "the handler must return a list of ids, got %s: nothing is acknowledged",
            type(result).__name__,
        )
    else:
        known = {m.id for m in messages}
        returned = list(result)
        texts = {item for item in returned if isinstance(item, str)}
        ids = texts & known
        earlier = [item for item in texts - known if batch.was_kept(item)]
        batch.finish_kept(earlier)
        ours = ids.union(earlier)
        if foreign := [item for item in returned if not isinstance(item, str) or item not in ours]:
            log.warning(
                "the handler returned %d id(s) that this consumer does not hold, ignored: %s",
                len(foreign),
                ", ".join(repr(item)[:80] for item in foreign[:5]),
            )
    done = messages if len(ids) == len(messages) else [m for m in messages if m.id in ids]
    batch.finish_batch(messages, done, NOT_ACKNOWLEDGED)
