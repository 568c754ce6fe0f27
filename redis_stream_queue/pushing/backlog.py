"""How many messages a producer may still push before it has to look at the backlog again."""

from __future__ import annotations

import time

from .._validate import Maybe, Number, Whole, check
from ..exceptions import BacklogFull

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.5
SHARE = 4  # of the room that was seen, one producer uses so much before it looks again


class Backlog:
    """The bound ``max_backlog`` of one producer.

    most: unfinished messages that are allowed; 0 = no bound.
    timeout_s: how long a push waits for room; 0 = not at all, None = for ever.

    Raises ConfigError naming the setting.
    """

    def __init__(self, most: int | None, timeout_s: float | None) -> None:
        check("max_backlog", most, Maybe(Whole(1), none="no bound"))
        check("backlog_timeout_s", timeout_s, Maybe(Number(), none="no limit"))
        self.most = most or 0
        self.timeout_s = timeout_s
        self.credit = 0


class RoomRequest:
    """One push that wants room for ``count`` messages."""

    def __init__(self, backlog: Backlog, count: int) -> None:
        self._backlog = backlog
        self._count = count
        self._since_s = time.monotonic()
        self._seen: int | None = None
        self._pause_s = FIRST_PAUSE_S

    def wait_s(self) -> float | None:
        """None = push now; else wait so many seconds, look at the backlog, and say saw().

        Raises BacklogFull when the time is up.
        """
        backlog, count = self._backlog, self._count
        if not backlog.most:
            return None
        if backlog.credit >= count:
            backlog.credit -= count
            return None
        if self._seen is None:
            return 0.0
        if self._seen + count <= backlog.most:
            backlog.credit = max((backlog.most - self._seen - count) // SHARE, 0)
            return None
        waited_s = time.monotonic() - self._since_s
        if backlog.timeout_s is not None and waited_s >= backlog.timeout_s:
            raise BacklogFull(
                f"{self._seen} messages are unfinished, and {count} more would exceed max_backlog="
                f"{backlog.most}. Add workers, push later, or wait with backlog_timeout_s."
            )
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, LONGEST_PAUSE_S)
        return pause_s

    def saw(self, unfinished: int) -> None:
        """The backlog as Redis has it now."""
        self._seen = unfinished
