"""Alarm: tells when something that is done again and again is to be done next.

Where there is nothing to do, most of the cost is that the process wakes up. So what need not be
exact is done at common times.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from typing import NoReturn

from ..._log import logger
from ...connection.arrival import Arrival

log = logger(__name__)

TICK_S = 0.3  # between common times; shorter intervals have times of their own
LONGEST_S = 3600.0  # the longest wait at a time
_first_s = random.random()  # pools that start together do not tick together


class Alarm:
    """Goes off ``interval_s`` after the last time, or TICK_S / 2 from it; None = only by soon().

    soon() makes it earlier, never later.
    """

    def __init__(self, interval_s: float | None = None) -> None:
        self._interval_s = interval_s
        self._waiting: Arrival | None = None
        self._set()

    def _set(self) -> None:
        self._at_s = math.inf
        if self._interval_s is not None:
            self._at_s = time.monotonic() + self._interval_s
            if self._interval_s >= TICK_S:
                half_s = TICK_S / 2
                self._at_s += half_s - (self._at_s - _first_s + half_s) % TICK_S

    def soon(self, in_ms: float = 0) -> None:
        """Go off in ``in_ms`` at the latest."""
        at_s = time.monotonic() + in_ms / 1000
        if at_s < self._at_s:
            self._at_s = at_s
            if self._waiting is not None:
                asyncio.get_running_loop().call_soon(self._waiting.come, None)

    async def wait(self) -> None:
        """Wait until it goes off; then it is set anew."""
        loop = asyncio.get_running_loop()
        while (now_s := time.monotonic()) < self._at_s:
            self._waiting = waiting = Arrival(loop)
            timer = loop.call_at(min(self._at_s, now_s + LONGEST_S), waiting.come, None)
            try:
                await waiting.wait()
            finally:
                timer.cancel()
                self._waiting = None
        self._set()


async def every(interval_s: float, what: str, work: Callable[[], object]) -> NoReturn:
    """Call ``work`` every ``interval_s``, for ever; errors are logged. what: for the log."""
    alarm = Alarm(interval_s)
    while True:
        await alarm.wait()
        try:
            work()
        except Exception as error:  # a defect of ours: the clock goes on
            log.exception("%s failed; trying again", what, exc_info=error)
