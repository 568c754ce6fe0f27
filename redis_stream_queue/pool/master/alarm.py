"""Alarm: tells when something that is done again and again is to be done next."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import NoReturn

from ..._clock import mono_ms
from ..._log import logger

log = logger(__name__)

JITTER = 0.1  # share of the interval
LONGEST_MS = 3_600_000.0  # the longest wait at a time


class Alarm:
    """Goes off ``interval_s`` after the last time, up to 10 % more or less; None = only by soon().

    soon() makes it earlier, never later.
    """

    def __init__(self, interval_s: float | None = None) -> None:
        self._interval_s = interval_s
        self._waiting: asyncio.Future[None] | None = None
        self._set()

    def _set(self) -> None:
        self._at_ms = math.inf
        if self._interval_s is not None:
            jitter = 1 + JITTER * random.uniform(-1, 1)
            self._at_ms = mono_ms() + self._interval_s * jitter * 1000

    def soon(self, in_ms: float = 0) -> None:
        """Go off in ``in_ms`` at the latest."""
        at_ms = mono_ms() + in_ms
        if at_ms < self._at_ms:
            self._at_ms = at_ms
            if self._waiting is not None:
                _look_again(self._waiting)

    async def wait(self) -> None:
        """Wait until it goes off; then it is set anew."""
        loop = asyncio.get_running_loop()
        while (wait_ms := self._at_ms - mono_ms()) > 0:
            self._waiting = loop.create_future()
            longest_s = min(wait_ms, LONGEST_MS) / 1000
            timer = loop.call_later(longest_s, _look_again, self._waiting)
            try:  # costs half as much as asyncio.timeout()
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        self._set()


def _look_again(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


async def every(interval_s: float, what: str, work: Callable[[], object]) -> NoReturn:
    """Call ``work`` every ``interval_s``, for ever; errors are logged. what: for the log."""
    alarm = Alarm(interval_s)
    while True:
        await alarm.wait()
        try:
            work()
        except Exception as error:  # a defect of ours: the clock goes on
            log.exception("%s failed; trying again", what, exc_info=error)
