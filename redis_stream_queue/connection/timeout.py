"""A timeout for an exchange with Redis: it means silence, not the length of a transfer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .wire import Wire

LOOK_S = 0.5


class StallTolerantTimeout:
    """Ends an exchange in which nothing has moved for so long.

    It looks now and then whether bytes have passed, and counts the looks that saw none. So a loop
    that stood still (a handler that held the GIL, a stop of the process) counts as one look, and
    what waited in the socket meanwhile is seen before the next.

    limit: the context manager that raises TimeoutError. limit_s: seconds, None = for ever.
    on_late: called once when the silence has lasted for all but the last look.
    """

    def __init__(
        self, wire: Wire, limit_s: float | None, on_late: Callable[[], None] | None = None
    ) -> None:
        self.limit = asyncio.timeout(None)
        self.limit_s: float | None = None
        self._wire = wire
        self._on_late = on_late
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        if limit_s is not None:
            self.start(limit_s)

    def start(self, limit_s: float) -> None:
        """From now on so many seconds of silence."""
        self.end()
        if self.limit.when() is not None:
            self.limit.reschedule(None)
        self.limit_s = self._left_s = limit_s
        self._seen = self._wire.progress()
        self._wait()

    def _wait(self) -> None:
        assert self.limit_s is not None
        step_s = min(LOOK_S, self.limit_s / 2, self._left_s)
        self._timer = self._loop.call_later(step_s, self._look, step_s)

    def _look(self, step_s: float) -> None:
        assert self.limit_s is not None
        progress = self._wire.progress()
        if progress > self._seen:
            self._seen, self._left_s = progress, self.limit_s
            if self._wire.on_progress is not None:
                self._wire.on_progress()
        else:
            self._left_s -= step_s
        if self._left_s <= 0.001:
            self.limit.reschedule(self._loop.time())
            return
        if self._left_s <= LOOK_S and self._on_late is not None:
            on_late, self._on_late = self._on_late, None
            on_late()
        self._wait()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
