"""How many messages a producer may still push before it has to look at the backlog again. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

from .exceptions import BacklogFull

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.5
SHARE = 4  # of the room that was seen, one producer uses so much before it looks again


class Backlog:
    """The bound ``max_backlog`` of one producer.

    most: unfinished messages that are allowed; 0 = no bound.
    timeout_s: how long to wait for room; 0 = not at all, None = for ever.
    """

    def __init__(
        self,
        most: int | None,
        timeout_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most or 0
        self._timeout_s = timeout_s
        self._clock = clock
        self._credit = 0
        self._seen: int | None = None
        self._full_since: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def claim(self, count: int) -> float | None:
        """Room for ``count`` messages: None = go on; else wait so many seconds and look (saw()).

        Raises BacklogFull when the time is up.
        """
        if not self.most:
            return None
        if self._credit >= count:
            self._credit -= count
            return None
        seen, self._seen = self._seen, None
        if seen is None:
            return 0.0
        if seen + count <= self.most:
            self._credit = max((self.most - seen - count) // SHARE, 0)
            self._full_since, self._pause_s = None, FIRST_PAUSE_S
            return None
        now = self._clock()
        if self._full_since is None:
            self._full_since = now
        if self._timeout_s is not None and now - self._full_since >= self._timeout_s:
            self._full_since, self._pause_s = None, FIRST_PAUSE_S
            raise BacklogFull(
                f"{seen} messages are unfinished, and {count} more would exceed max_backlog="
                f"{self.most}. Add workers, push later, or wait with backlog_timeout_s."
            )
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, LONGEST_PAUSE_S)
        return pause_s

    def saw(self, unfinished: int) -> None:
        """The backlog as Redis has it now."""
        self._seen = unfinished
