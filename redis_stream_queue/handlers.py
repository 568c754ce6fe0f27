"""Handlers: what the user writes, and the two decorators around it.

A handler is called with a batch and returns the ids to acknowledge; ``per_message`` makes one of a
function for a single message; ``stream_handler`` notes which stream a pool feeds it from.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar, overload

from ._log import log
from .config import ConsumerConfig
from .exceptions import ConfigError
from .message import StreamMessage
from .serializers import Serializer
from .work import DONE, NOT_ACKNOWLEDGED, Work

Handler = Callable[[list[StreamMessage]], Any]
DLQHandler = Callable[[StreamMessage, str], Awaitable[None]]
F = TypeVar("F", bound=Callable[..., Any])

DECLARATION = "__stream_handler__"


def is_async(handler: Callable[..., Any]) -> bool:
    """Does calling it give an awaitable?"""
    if isinstance(handler, PerMessage):
        return handler.is_async
    handler = inspect.unwrap(handler) if not isinstance(handler, functools.partial) else handler
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


class PerMessage:
    """A handler made of a function for one message; see per_message."""

    def __init__(self, func: Callable[[StreamMessage], Any], concurrency: int) -> None:
        functools.update_wrapper(self, func)
        self.func = func
        self.concurrency = concurrency
        self.is_async = is_async(func)

    def __call__(self, messages: list[StreamMessage]) -> Any:
        """Handle a batch outside a consumer (in a test, say): returns the ids that succeeded."""
        work = Work(messages)

        def succeeded() -> list[str]:
            for error, _ in work.errors:
                log.error("message handler failed", exc_info=error)
            return [m.id for done, verdict in work.collect() if verdict is DONE for m in done]

        async def run() -> list[str]:
            await self.run_async(work)
            return succeeded()

        if self.is_async:
            return run()
        self.run(work)
        return succeeded()

    def run(self, work: Work) -> None:
        """Handle one message after the other."""
        func = self.func
        while (message := work.next()) is not None:
            try:
                result = func(message)
                if result is not None and inspect.isawaitable(result):
                    raise _never_awaited(result)
            except (Exception, SystemExit) as error:  # the app's error is that message's verdict
                work.fail(message, error)
            else:
                work.done(message)

    async def run_async(self, work: Work) -> None:
        """Handle up to ``concurrency`` messages side by side."""
        lanes = min(self.concurrency - work.lanes, work.waiting)
        if lanes == 1:
            await self._lane(work)
            return
        ended = await asyncio.gather(
            *(self._lane(work) for _ in range(lanes)),
            return_exceptions=True,  # a lane that could not ask Redis must not cut off the others
        )
        for error in filter(None, ended):
            raise error

    async def _lane(self, work: Work) -> None:
        work.lanes += 1
        try:
            while (message := await work.next_async()) is not None:
                try:
                    await self.func(message)
                except (Exception, SystemExit, asyncio.CancelledError) as error:
                    if _is_cancelled(error):
                        raise
                    work.fail(message, error)
                else:
                    work.done(message)
        finally:
            work.lanes -= 1


def _never_awaited(result: Any) -> TypeError:
    if inspect.iscoroutine(result):
        result.close()
    return TypeError(
        "the handler is a plain function but returned an awaitable, so nothing has run: make it "
        "'async def', or let its decorator use functools.wraps"
    )


@overload
def per_message(func: Callable[[StreamMessage], Any], /) -> PerMessage: ...
@overload
def per_message(
    *, concurrency: int = 1
) -> Callable[[Callable[[StreamMessage], Any]], PerMessage]: ...


def per_message(
    func: Callable[[StreamMessage], Any] | None = None, /, *, concurrency: int = 1
) -> PerMessage | Callable[[Callable[[StreamMessage], Any]], PerMessage]:
    """Make a handler of a function for one message, sync or async.

    >>> @per_message
    ... def handle(message):
    ...     print(message.data)

    Each message is acknowledged when its call returns; one that raises fails alone.
    concurrency: how many calls of an async function run side by side.
    Raises ConfigError for a concurrency below 1, or above 1 with a plain function.
    """

    def decorate(target: Callable[[StreamMessage], Any]) -> PerMessage:
        if not callable(target):
            raise ConfigError(f"@per_message wants a function, got {target!r}.")
        made = PerMessage(target, concurrency)
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigError(f"concurrency must be 1 or more, got {concurrency!r}.")
        if concurrency > 1 and not made.is_async:
            raise ConfigError(
                f"concurrency={concurrency} needs an 'async def' function, but "
                f"{getattr(target, '__name__', target)!r} is a plain one. "
                "Leave concurrency out and run more workers."
            )
        return made

    return decorate if func is None else decorate(func)


def run_batch(handler: Handler, work: Work) -> None:
    """Call a plain batch handler and note the verdicts."""
    batch = work.start_all()
    if not batch:
        return
    try:
        result = handler(list(batch))
    except (Exception, SystemExit) as error:  # the app's error is the batch's verdict
        work.fail_batch(batch, error)
        return
    try:
        _note_result(work, batch, result)
    except Exception as error:  # a generator's body runs only now
        work.fail_batch(batch, error)


async def run_batch_async(handler: Handler, work: Work) -> None:
    """The same for an async batch handler."""
    batch = work.start_all()
    if not batch:
        return
    try:
        result = await handler(list(batch))
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        if _is_cancelled(error):
            raise
        work.fail_batch(batch, error)
        return
    try:
        _note_result(work, batch, result)
    except Exception as error:  # a generator's body runs only now
        work.fail_batch(batch, error)


def _is_cancelled(error: BaseException) -> bool:
    """Is this the cancellation of the consumer, and not something the app cancelled itself?"""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _note_result(work: Work, batch: list[StreamMessage], result: Any) -> None:
    if isinstance(result, list) and result == [message.id for message in batch]:
        work.finish_batch(batch, batch, NOT_ACKNOWLEDGED)  # all of them: the usual case
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
        known = {m.id for m in batch}
        returned = list(result)
        texts = {item for item in returned if isinstance(item, str)}
        ids = texts & known
        earlier = [item for item in texts - known if work.was_kept(item)]
        work.finish_kept(earlier)
        ours = ids.union(earlier)
        if foreign := [item for item in returned if not isinstance(item, str) or item not in ours]:
            log.warning(
                "the handler returned %d id(s) that this consumer does not hold, ignored: %s",
                len(foreign),
                ", ".join(repr(item)[:80] for item in foreign[:5]),
            )
    done = batch if len(ids) == len(batch) else [m for m in batch if m.id in ids]
    work.finish_batch(batch, done, NOT_ACKNOWLEDGED)


class Declaration(NamedTuple):
    """What ``stream_handler`` notes on a handler: its stream and the settings that were given."""

    stream: str
    settings: dict[str, Any]
    serializer: Serializer | None = None
    dlq_handler: DLQHandler | None = None


def stream_handler(
    stream: str,
    *,
    serializer: Serializer | None = None,
    dlq_handler: DLQHandler | None = None,
    **settings: Any,
) -> Callable[[F], F]:
    """Say which stream a pool feeds this handler from; the function stays callable as it is.

    >>> @stream_handler("orders", group="order_workers", max_deliveries=5)
    ... def handle(messages):
    ...     return [m.id for m in messages]

    settings: any ConsumerConfig field; ``group`` defaults to the stream's name + ``_workers``.
    dlq_handler: called with each dead message and the reason; in the worker's event loop, but not
        always in the same thread.
    Raises ConfigError naming a wrong setting.
    """
    if not isinstance(stream, str) or not stream:
        raise ConfigError(
            f"@stream_handler wants the stream's name first, as in @stream_handler('orders'), "
            f"got {stream!r}."
        )
    known = {f.name for f in fields(ConsumerConfig)}
    if unknown := sorted(set(settings) - known):
        raise ConfigError(
            f"@stream_handler does not know {', '.join(unknown)}. "
            f"Known: {', '.join(sorted(known))}, serializer, dlq_handler."
        )
    ConsumerConfig(**{"group": f"{stream}_workers", **settings})

    def decorate(func: F) -> F:
        setattr(func, DECLARATION, Declaration(stream, settings, serializer, dlq_handler))
        return func

    return decorate


def declaration_of(handler: Any) -> Declaration | None:
    """What ``stream_handler`` noted, if anything."""
    declared = getattr(handler, DECLARATION, None)
    return declared if isinstance(declared, Declaration) else None
