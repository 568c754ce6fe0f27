"""What a session asks its surroundings: a pool's worker, or a program with a StreamConsumer."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ..message import StreamMessage
from .batch import Batch
from .payloads import Decode

RunPlain = Callable[[Callable[[], None]], asyncio.Future[None]]


def run_in_thread(call: Callable[[], None]) -> asyncio.Future[None]:
    """Run a plain handler beside the loop, so that the loop stays alive.

    A thread cannot be interrupted, so neither is the wait for it.
    """
    return asyncio.ensure_future(_in_thread(call))


async def _in_thread(call: Callable[[], None]) -> None:
    context, loop = contextvars.copy_context(), asyncio.get_running_loop()
    thread = loop.run_in_executor(None, context.run, call)
    while not thread.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(thread)
    thread.result()


class Host(NamedTuple):
    """Decides for a session; the defaults are for a program with a StreamConsumer.

    run_plain: runs a plain (not async) handler. between: see Batch. wanted: returns how many more
    messages to read now, while a batch is handled. fetch: reads them; None = the session's
    ``read``.
    gives_back: called every 50 ms while a handler runs; returns messages to give back unstarted.
    interrupt: called with the id of a message that was cancelled and may run.
    limit_decoding: wraps the function that decodes a payload.
    put_off: is something else to be done before more is read? Asked just before each read.
    """

    run_plain: RunPlain = run_in_thread
    between: Callable[[int], int] = lambda now_ms: now_ms
    wanted: Callable[[Batch], int] = lambda _: 0
    fetch: Callable[[int], Awaitable[list[StreamMessage]]] | None = None
    gives_back: Callable[[Batch], list[StreamMessage]] = lambda _: []
    interrupt: Callable[[str], None] = lambda _: None
    limit_decoding: Callable[[Decode], Decode] = lambda decode: decode
    put_off: Callable[[], bool] = lambda: False
