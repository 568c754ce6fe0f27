"""Soft time limit: SoftTimeLimitExceeded is raised in a call or a decoding that takes too long.

Code in the main thread is interrupted by a signal, also in a blocking system call. A thread of ours
sends it: SIGALRM and the timers belong to the app, and the loop stands still during a decoding.
An awaitable is cancelled as by a timeout, so everything that it runs (wait_for, a TaskGroup) ends,
too. That cancellation is a SoftTimeLimitExceeded as well, so a handler can catch it as one.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
from _thread import get_ident, start_new_thread
from collections.abc import Callable, Generator
from time import monotonic, sleep
from typing import Any

from ..._log import logger
from ...delivery.payloads import Decode
from ...delivery.per_batch import PerBatch
from ...delivery.per_message import PerMessage
from ...delivery.rules import RulesOf, as_configured
from ...exceptions import SoftTimeLimitExceeded
from ...handlers import Handler, runner_of
from ...message import StreamMessage

log = logger(__name__)

INTERRUPT = signal.SIGRTMIN + 9
RUNNING, DECODING = "the handler ran for", "decoding took"
AGAIN_S = 0.05  # until the next signal: the first may have been lost, in a __del__ for example


class _Cancelled(asyncio.CancelledError, SoftTimeLimitExceeded):
    """Raised in an awaitable that takes too long."""


class SoftLimit:
    """Limits each call of a handler, for a message or for a batch, and each decoding.

    limit_s: None = only messages with rules of their own are limited. Make it in the main thread,
    before the app can patch the interpreter.
    """

    def __init__(self, limit_s: float | None, rules_of: RulesOf = as_configured) -> None:
        self._limit_s = limit_s
        self._rules_of = rules_of
        self._running_s = 0.0  # the limit of what runs
        self._watching = False
        self._main_thread = get_ident()
        self._ends_at = 0.0  # when the call must end, by monotonic(); 0 = none runs
        self._what = RUNNING

    def limited(self, handler: Handler) -> Any:
        """The handler with a limit around each call, if there is any limit."""
        runner = runner_of(handler)
        if not self._watching:
            return runner
        call = self._calling(runner, plain=not runner.is_async)
        if isinstance(runner, PerBatch):
            return PerBatch(call, is_async=runner.is_async)
        return runner.calling(call, is_async=runner.is_async)

    def _limit_of(self, argument: Any) -> float | None:
        """The limit of the call for this message or batch, None = none."""
        if not isinstance(argument, StreamMessage):
            return self._limit_s
        own_s = self._rules_of(argument).soft_time_limit_s
        return self._limit_s if own_s is None else own_s

    def _calling(self, runner: PerMessage | PerBatch, *, plain: bool) -> Callable[[Any], Any]:
        func = runner.func

        def call(argument: Any) -> Any:
            limit_s = self._limit_of(argument)
            if limit_s is None:
                return func(argument)
            if plain:
                self._begin(RUNNING, limit_s)
            try:
                result = func(argument)
            finally:
                self._ends_at = 0.0
            return _Limited(result, limit_s) if inspect.isawaitable(result) else result

        return call

    def _begin(self, what: str, limit_s: float) -> None:
        self._what, self._running_s, self._ends_at = what, limit_s, monotonic() + limit_s

    def _interrupted(self, *_: object) -> None:
        if self._ends_at and monotonic() >= self._ends_at:  # else the call was just ending
            self._ends_at = 0.0
            raise _exceeded(self._running_s, self._what)

    def decoding(self, decode: Decode) -> Decode:
        """The decoding with a limit. One that cannot be interrupted fails when it has ended."""
        limit_s = self._limit_s
        if limit_s is None:
            return decode

        def limited(raw: bytes) -> Any:
            ends_at = monotonic() + limit_s
            if get_ident() == self._main_thread:  # not while a handler runs there
                self._begin(DECODING, limit_s)
            try:
                return decode(raw)
            finally:
                if get_ident() == self._main_thread:
                    self._ends_at = 0.0
                if monotonic() >= ends_at:  # also if the serializer has caught the interruption
                    raise _exceeded(limit_s, DECODING)

        return limited

    def watch(self, least_s: float) -> None:
        """Start the thread that sends the signal when a call is over its limit.

        least_s: the lowest limit of all.
        """
        self._watching = True
        signal.signal(INTERRUPT, self._interrupted)
        try:
            start_new_thread(self._watch, (least_s,))
        except (RuntimeError, MemoryError) as error:
            log.warning("no thread can be started (%s): there is no soft time limit", error)

    def _watch(self, least_s: float) -> None:
        while True:
            ends_at = self._ends_at
            left_s = ends_at - monotonic() if ends_at else least_s
            if left_s <= 0:
                signal.pthread_kill(self._main_thread, INTERRUPT)
                left_s = AGAIN_S
            sleep(min(left_s, least_s))


def _exceeded(limit_s: float, what: str = RUNNING) -> SoftTimeLimitExceeded:
    return SoftTimeLimitExceeded(f"{what} more than {limit_s:g} s")


class _Limited:
    """Awaits the awaitable that a call has returned, and cancels it when the limit has passed."""

    def __init__(self, result: Any, limit_s: float) -> None:
        self._result = result
        self._limit_s = limit_s
        self._passed = False

    def _interrupt(self, task: asyncio.Task[Any]) -> None:
        self._passed = True
        task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._limit_s, self._interrupt, task)
        try:
            return (yield from self._steps(task))
        except asyncio.CancelledError:
            if self._passed and not task.cancelling():
                raise _exceeded(self._limit_s) from None
            raise
        except BaseExceptionGroup as group:  # a TaskGroup has wrapped the cancellation
            if group.subgroup(_Cancelled):
                raise _exceeded(self._limit_s) from group
            raise
        finally:
            timer.cancel()

    def _steps(self, task: asyncio.Task[Any]) -> Generator[Any, Any, Any]:
        steps = self._result.__await__()
        value: Any = None
        error: BaseException | None = None
        thrown = False
        while True:
            try:
                step = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            value = error = None
            try:
                value = yield step
            except asyncio.CancelledError as cancelled:
                error = cancelled
                if self._passed and not thrown:
                    thrown = True
                    if not task.uncancel():  # else the consumer is cancelled as well
                        error = _Cancelled(str(_exceeded(self._limit_s)))
            except BaseException as other:  # all that is thrown in goes to the coroutine
                error = other
