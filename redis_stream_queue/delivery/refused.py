"""What is refused until somebody changes something."""

from __future__ import annotations

from .._log import logger
from ..connection.backoff import Backoff
from ..exceptions import RedisStreamError

log = logger(__name__)

REFUSED_LONGEST_S = 10.0


class Refusal:
    """What is refused until somebody changes something: said once, tried again ever less often."""

    def __init__(self) -> None:
        self._backoff = Backoff(longest_s=REFUSED_LONGEST_S)
        self._said = ""

    def pause_s(self, error: RedisStreamError, group: str) -> float:
        """How long to wait before the next try."""
        if str(error) != self._said:
            self._said = str(error)
            log.error("consumer of group %s cannot work, trying again: %s", group, error)
        return self._backoff.next_s()
