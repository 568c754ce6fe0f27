"""Middleware: what an app puts around each call of its handler.

``def m(message, call_next)``, or ``async def`` around an async handler. It calls ``call_next`` with
the message (a batch handler's: the list) and returns what that returns. What it raises is the
handler's failure; a message for which it does not call ``call_next`` is handled by it.
``around`` makes one of a context manager, for plain and async handlers alike.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

from .delivery.invocation import (
    check_runs,
    discard,
    looks_async,
    looks_async_inside,
    must_be_awaited,
    to_its_end,
)
from .exceptions import ConfigError


class Source(NamedTuple):
    """What a handler is fed from. max_deliveries: the last of them makes a dead letter."""

    stream: str
    group: str
    max_deliveries: int


class CallNext:
    """The rest of the way of one call: the next middleware, or the handler.

    source: what the handler is fed from.
    """

    __slots__ = ("_func", "_given", "source")

    def __init__(self, func: Callable[[Any], Any], source: Source) -> None:
        self.source = source
        self._func = func
        self._given: list[tuple[Any, Any]] = []

    def __call__(self, argument: Any) -> Any:
        """Call it with a message or a batch; of an async handler: a coroutine."""
        given = self._func(argument)
        if given is None or not must_be_awaited(given):
            return given
        rest = to_its_end(given)
        self._given.append((rest, given))
        return rest

    def check_ended(self, middleware: Callable[..., Any]) -> None:
        """Raise TypeError for a handler that has not run to its end: it would count as done."""
        if left := [both for both in self._given if both[0].cr_frame is not None]:
            for unfinished in itertools.chain(*left):
                discard(unfinished)
            raise TypeError(
                f"middleware {_name(middleware)} has returned, but the handler below it has not "
                "run to its end: await call_next(...), or return what it gives"
            )


Middleware = Callable[[Any, CallNext], Any]


def around(
    scope: Callable[[Any, Source], AbstractContextManager[Any]],
) -> Middleware:
    """Middleware of a context manager that is entered before each call and left after it.

    >>> @around
    ... @contextmanager
    ... def timed(message, source):
    ...     began = time.monotonic()
    ...     yield
    ...     print(source.stream, time.monotonic() - began)

    scope: called with the message (a batch handler's: the list) and where it came from.
    """

    @functools.wraps(scope)
    def middleware(argument: Any, call_next: CallNext) -> Any:
        result = None
        with ExitStack() as stack:
            stack.enter_context(scope(argument, call_next.source))
            result = call_next(argument)
            if must_be_awaited(result):
                return _left_later(result, stack.pop_all())
        return result

    return middleware


async def _left_later(result: Any, stack: ExitStack) -> Any:
    with stack:
        return await to_its_end(result)


def chained(
    func: Callable[[Any], Any], middleware: Iterable[Middleware], source: Source
) -> Callable[[Any], Any]:
    """The function with middleware around each call of it, the first one outermost."""
    for one in reversed(list(middleware)):
        func = _layer(one, func, source)
    return func


def _layer(
    middleware: Middleware, func: Callable[[Any], Any], source: Source
) -> Callable[[Any], Any]:
    def call(argument: Any) -> Any:
        call_next = CallNext(func, source)
        result = middleware(argument, call_next)
        if result is not None and must_be_awaited(result):
            return _checked_later(result, middleware, call_next)
        call_next.check_ended(middleware)
        return result

    return call


async def _checked_later(result: Any, middleware: Middleware, call_next: CallNext) -> Any:
    result = await to_its_end(result)
    call_next.check_ended(middleware)
    return result


def checked(middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """What an app gave as ``middleware``. Raises ConfigError for what cannot be any."""
    found = tuple(middleware) if isinstance(middleware, Iterable) else (middleware,)
    for one in found:
        if not callable(one) or isinstance(one, type):
            raise ConfigError(
                f"middleware must be a list of functions f(message, call_next), got {one!r:.80} in "
                "it. A middleware that is made by a function has to be called: [traced()]."
            )
        check_runs(one)
    return found


def check_fits(middleware: Iterable[Middleware], handler: Callable[..., Any]) -> None:
    """Raise ConfigError for async middleware around a plain handler: that runs in no loop."""
    if looks_async_inside(handler):
        return
    for one in middleware:
        if looks_async(one):
            raise ConfigError(
                f"middleware {_name(one)} is async, but handler {_name(handler)} is a plain "
                "function. Make both 'async def', or both plain."
            )


def _name(func: Callable[..., Any]) -> str:
    return repr(getattr(func, "__name__", func))
