"""Soft time limit: raise SoftTimeLimitExceeded inside a handler that runs too long.

A plain handler runs in the main thread, so a timer signal (SIGALRM) interrupts it at once, blocking
system calls included. An async one is woken up by a cancellation that arrives as our exception.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from ..exceptions import SoftTimeLimitExceeded
from ..handlers import Handler, PerMessage, is_async


def soft_limited(handler: Handler, limit_s: float) -> Handler:
    """The same handler, each call (of a message, or of a batch) limited to ``limit_s`` seconds."""
    wrap = _limit_async if is_async(handler) else _limit_plain
    if isinstance(handler, PerMessage):
        return PerMessage(wrap(handler.func, limit_s), handler.concurrency)
    return wrap(handler, limit_s)


def _exceeded(limit_s: float) -> SoftTimeLimitExceeded:
    return SoftTimeLimitExceeded(f"the handler ran for more than {limit_s:g} s")


def _limit_plain(func: Callable[[Any], Any], limit_s: float) -> Callable[[Any], Any]:
    running = False

    def alarm(*_: object) -> None:
        if running:  # else it rang while the call was just ending
            raise _exceeded(limit_s)

    def limited(argument: Any) -> Any:
        nonlocal running
        signal.signal(signal.SIGALRM, alarm)
        running = True
        try:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            return func(argument)
        finally:
            running = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    return limited


def _limit_async(func: Callable[[Any], Any], limit_s: float) -> Callable[[Any], Any]:
    async def limited(argument: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        call = _Interruptible(func(argument), limit_s)
        timer = asyncio.get_running_loop().call_later(limit_s, call.interrupt, task)
        try:
            return await call
        finally:
            timer.cancel()
            if call.interrupted:
                task.uncancel()

    return limited


class _Interruptible:
    """Awaits a coroutine and turns the cancellation by ``interrupt`` into our exception."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], limit_s: float) -> None:
        self.interrupted = False
        self._steps = coroutine.__await__()
        self._limit_s = limit_s
        self._thrown = False

    def interrupt(self, task: asyncio.Task[Any]) -> None:
        self.interrupted = True
        task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = self._steps.send(value) if error is None else self._steps.throw(error)
            except StopIteration as end:
                return end.value
            value, error = None, None
            try:
                value = yield step
            except asyncio.CancelledError as cancelled:
                error = cancelled
                if self.interrupted and not self._thrown:
                    self._thrown = True
                    error = _exceeded(self._limit_s)
            except BaseException as thrown:  # whatever is thrown in goes to the coroutine
                error = thrown
