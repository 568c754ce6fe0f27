"""What Redis refuses or does not answer, as the master hears it: told once for all crews."""

from __future__ import annotations

from collections.abc import Hashable

from ..._log import logger
from ..._plain import plain_cut
from ...connection.backoff import Backoff
from ...connection.refusals import words_of

MOST_TEXT = 200  # characters

log = logger(__name__)


class Outage:
    """The outage that is under way. error: what was heard last, "" = there is none."""

    def __init__(self) -> None:
        self.error = ""
        self._failing: set[Hashable] = set()
        self._tries = Backoff()

    def failed(self, who: Hashable, what: str, error: Exception) -> None:
        """A task of the master has failed. who: is it. what: names it in the log."""
        self._failing.add(who)
        self.error = plain_cut(words_of(error) or type(error).__name__, MOST_TEXT)
        self._tries.next_s()  # for the log alone
        if self._tries.worth_a_line():
            log.error("%s: %s; trying again until Redis is back", what, self.error)

    def worked(self, who: Hashable) -> None:
        """The same task has worked."""
        self._failing.discard(who)
        if self.error and not self._failing:
            self.error = ""
            self._tries.reset()
            log.info("Redis answers again")
