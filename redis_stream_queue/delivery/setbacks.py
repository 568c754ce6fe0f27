"""Errors in a loop that has to go on: how long to wait after each, and what to log."""

from __future__ import annotations

from .._log import logger
from ..connection.backoff import Backoff
from ..connection.exchange import OUTAGES
from ..connection.refusals import words_of
from ..exceptions import RedisStreamError

log = logger(__name__)

REFUSED_LONGEST_S = 10.0
GROUP_PAUSE_S = 0.05  # for a group that is lost: it is made again at once


class Setbacks:
    """Errors of one loop, tried again ever less often.

    An outage or a bug is said now and then; what is refused until somebody changes something (a
    RedisStreamError) once, while it stays the same.
    """

    def __init__(self) -> None:
        self._backoff = Backoff()
        self._refused = Backoff(longest_s=REFUSED_LONGEST_S)
        self._said = ""

    def over(self) -> None:
        """Note that the loop works again."""
        self._backoff.reset()
        self._refused.reset()
        self._said = ""

    def pause_s(self, error: Exception, who: str = "") -> float:
        """How long to wait before the next try. who: begins the line about it."""
        if isinstance(error, RedisStreamError):
            if str(error) != self._said:
                self._said = str(error)
                log.error("%scannot work, trying again: %s", who, error)
            return self._refused.next_s()
        pause_s = self._backoff.next_s()
        if self._backoff.worth_a_line():
            log.error(
                "%s%s; trying again in %.2g s",
                who,
                words_of(error) or type(error).__name__,
                pause_s,
                exc_info=None if isinstance(error, OUTAGES) else error,
            )
        return pause_s
