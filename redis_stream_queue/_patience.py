"""A timeout for an exchange with Redis, which a loop that stood still does not use up."""

from __future__ import annotations

import asyncio

LAST_PART_S = 0.35  # shorter than what a read is given beyond its block


class Patience:
    """Its last part begins when the end of the first one is noticed, so what a handler that held
    the GIL or a stop of the process took is not taken for silence of the server.

    limit: the context manager that raises TimeoutError. limit_s: seconds, None = for ever.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit = asyncio.timeout(None)
        self.limit_s: float | None = None
        self._loop = asyncio.get_running_loop()
        self._first: asyncio.TimerHandle | None = None
        if limit_s is not None:
            self.start(limit_s)

    def start(self, limit_s: float) -> None:
        """From now on so many seconds."""
        self.end()
        if self.limit.when() is not None:
            self.limit.reschedule(None)
        self.limit_s = limit_s
        last_part_s = min(LAST_PART_S, limit_s / 2)
        self._first = self._loop.call_later(limit_s - last_part_s, self._go_on, last_part_s)

    def _go_on(self, left_s: float) -> None:
        self.limit.reschedule(self._loop.time() + left_s)

    def end(self) -> None:
        if self._first is not None:
            self._first.cancel()
