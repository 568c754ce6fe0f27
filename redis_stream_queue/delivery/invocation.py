"""One call of the app's code, and what calling it gave.

A call gets a context of its own (contextvars), so what one sets the next does not see. What it
gives decides how it goes on, not how the function looks: an awaitable is awaited in the loop, and
something that has run nothing (a generator) is refused. A process that the app forked never comes
back out of a call: it would be a second worker on the same connections.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import os
import sys
import traceback
import types
from collections.abc import AsyncIterator, Callable, Generator
from contextvars import Context, copy_context
from typing import Any

from .._log import logger
from ..exceptions import ConfigError

log = logger(__name__)
OURS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")  # the package's directory


class Forks:
    """How many forks lie between the first process and this one: see end_forked_child()."""

    count = 0


def _count_fork() -> None:
    Forks.count += 1


os.register_at_fork(after_in_child=_count_fork)


def forks() -> int:
    """To be kept, and given to end_forked_child() later."""
    return Forks.count


def end_forked_child(forks_then: int, error: BaseException | None = None) -> None:
    """End this process if it was forked since then.

    error: what the child's call ended with; the exit code is the one that it would have in a plain
    Python program.
    """
    if Forks.count != forks_then:
        _end_child(error)


def _end_child(error: BaseException | None) -> None:
    code: object = 0
    if isinstance(error, SystemExit):
        code = error.code or 0
    elif error is not None:
        code = 1
    with contextlib.suppress(BaseException):  # what the app made of its streams
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        elif error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    log.warning("a handler forked, and its child came back: the child ends here, with %s", code)
    os._exit(code & 0xFF if isinstance(code, int) else 1)


# -- how it looks ----------------------------------------------------------------------------------


def looks_async(func: Callable[..., Any]) -> bool:
    """Will calling it give a coroutine? A guess that says where to call it; its result decides."""
    return any(map(inspect.iscoroutinefunction, _forms(func)))


def looks_async_inside(func: Callable[..., Any]) -> bool:
    """The same, or does it wrap a function of which that is true?"""
    return looks_async(func) or looks_async(inspect.unwrap(func))


def check_runs(func: Callable[..., Any]) -> None:
    """Raise ConfigError for a function with a ``yield``: calling it runs nothing of it."""
    for form in _forms(func):
        if inspect.isgeneratorfunction(form) or inspect.isasyncgenfunction(form):
            raise ConfigError(
                f"{getattr(func, '__name__', func)!r} has a 'yield', so calling it runs nothing. "
                "Make it a plain or an 'async def' function that returns."
            )


def _forms(func: Callable[..., Any]) -> tuple[Any, Any]:
    """It, and what an object of a class of the app's calls."""
    while isinstance(func, functools.partial):
        func = func.func
    return func, getattr(func, "__call__", None)  # noqa: B004


# -- what it gave ----------------------------------------------------------------------------------


VALUES = frozenset((type(None), bool, int, float, str, bytes, list, tuple, dict, set))


def must_be_awaited(result: Any) -> bool:
    """Is what a call gave still to be waited for, in the loop?

    Raises TypeError for something that has run nothing and that nobody would run.
    """
    kind = type(result)
    if kind in VALUES:
        return False
    if kind is types.CoroutineType:
        return True
    if inspect.isawaitable(result) or isinstance(result, concurrent.futures.Future):
        return True
    if isinstance(result, Generator | AsyncIterator):
        if isinstance(result, Generator):
            result.close()
        raise TypeError(
            f"the handler gave a {type(result).__name__}, which has run nothing yet: return only "
            "when the work is done (a batch handler: a list of ids)"
        )
    return False


def discard(result: Any) -> None:
    """Of an awaitable that is not awaited any more: no warning about that."""
    if inspect.iscoroutine(result):
        result.close()
    elif isinstance(result, concurrent.futures.Future | asyncio.Future):
        result.cancel()


_ENDED: Any = object()


async def to_its_end(given: Any) -> Any:
    """Await what a call gave for as long as that has to be awaited."""
    while must_be_awaited(given):
        if isinstance(given, concurrent.futures.Future):
            given = asyncio.wrap_future(given)
        given = await given
    return given


@types.coroutine
def _steps(func: Callable[[Any], Any], results: list[Any]) -> Generator[Any, Any, None]:
    """One generator for many calls: neither a coroutine nor an exception for the end of each."""
    argument = yield
    while True:
        result: Any = func(argument)
        while result is not None:
            if type(result) is types.CoroutineType:
                result = yield from result  # type: ignore[misc] # as @types.coroutine allows
            elif must_be_awaited(result):
                result = yield from to_its_end(result)
            else:
                break
        results[0] = result
        del argument, result
        argument = yield _ENDED


class Calls:
    """Calls a function, one call after the other, and awaits what it gives for as long as that has
    to be awaited. To be made anew after a call that raised.

    result: what came of the last call.
    """

    __slots__ = ("_results", "_steps", "send")

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self._results: list[Any] = [None]
        self._steps = _steps(func, self._results)
        self.send = self._steps.send
        self.send(None)

    @property
    def result(self) -> Any:
        return self._results[0]

    def begin(self, context: Context, forks_then: int, argument: Any) -> Rest | None:
        """Run a call in this context to its end, or until it waits in the loop.

        Returns what is left in that case, to be ended.
        """
        waits_for = context.run(self.send, argument)
        if waits_for is _ENDED:
            return None
        return Rest(context, forks_then, self._steps, waits_for)


class Rest:
    """What is left of a call that waits in the loop, each step of it in the context of the call.

    abandoned: was it closed before its end?
    """

    __slots__ = ("_forks", "_run", "_steps", "_waits_for", "abandoned")

    def __init__(
        self,
        context: Context,
        forks_then: int,
        steps: Generator[Any, Any, None],
        waits_for: Any,
    ) -> None:
        self._run = context.run
        self._forks = forks_then
        self._steps = steps
        self._waits_for = waits_for
        self.abandoned = False

    @types.coroutine
    def end(self) -> Generator[Any, Any, None]:
        """Go on until nothing is to be waited for any more."""
        run, steps, waits_for, self._waits_for = self._run, self._steps, self._waits_for, None
        while waits_for is not _ENDED:
            end_forked_child(self._forks)  # a child must not get into the loop
            step, argument = steps.send, None
            try:
                argument = yield waits_for
            except GeneratorExit:  # nobody goes on with us
                self.abandoned = True
                run(steps.close)
                raise
            except BaseException as thrown:  # whatever is thrown in is the app's call's
                step, argument = steps.throw, thrown
            waits_for = run(step, argument)


def itself(given: Any) -> Any:
    """Stands for a call that was made before: this is what it gave."""
    return given


def leave_out_ours(error: BaseException) -> None:
    """Its traceback begins with the app's code: whoever reads it looks for his own mistake."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(OURS):
        trace = trace.tb_next
    if trace is not None:
        with contextlib.suppress(Exception):  # an error of the app's own may take no attributes
            error.__traceback__ = trace


async def call_hook(hook: Callable[..., Any], *args: Any) -> None:
    """Call a hook of the app's in the loop, plain or async. Raises what it raises."""
    context, forks_then = copy_context(), forks()
    try:
        if rest := Calls(lambda _: hook(*args)).begin(context, forks_then, None):
            await rest.end()
    except BaseException as error:  # a SystemExit ends a forked child only
        end_forked_child(forks_then, error)
        raise
    end_forked_child(forks_then)


def heed_cancellation() -> None:
    """Raise a cancellation that something below has swallowed."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
