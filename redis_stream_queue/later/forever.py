"""Repeats a step for ever, also after errors; the same error is logged only once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from redis.exceptions import ResponseError

from .._log import logger
from ..connection.backoff import Backoff
from ..connection.exchange import OUTAGES
from ..connection.refusals import is_forbidden
from ..connection.shapes import WrongReplyError

log = logger(__name__)

REFUSED_S = 60.0  # pause after a step for which this user has no right
AGAIN_S = 600.0  # an error that was away for so long is logged again


class Forever:
    """Repeats a step.

    what: a text for the log that says what does not happen while the step fails. rights: the ACL
    rules that the step needs, for the log, too.
    """

    def __init__(self, what: str, rights: str = "") -> None:
        self._what = what
        self._rights = rights
        self._said: dict[str, float] = {}
        self._before: Forever | None = None

    def beside(self, what: str) -> Forever:
        """Another step with the same rights, of which one of them says what lacks."""
        made = Forever(what, self._rights)
        made._before = self
        return made

    async def repeat(self, step: Callable[[], Awaitable[Any]]) -> NoReturn:
        """Repeat the step until cancelled, with growing pauses while it fails."""
        backoff = Backoff()
        while True:
            try:
                await step()
                backoff.reset()
            except Exception as error:  # also a defect of ours: the next step may work
                await asyncio.sleep(self._pause_s(error, backoff))

    def _pause_s(self, error: Exception, backoff: Backoff) -> float:
        pause_s = backoff.next_s()
        refused = isinstance(error, ResponseError)
        if refused or isinstance(error, WrongReplyError) or not isinstance(error, OUTAGES):
            self.say(error)
        elif backoff.worth_a_line():
            log.debug("%s: waiting for Redis: %s", self._what, error)
        return REFUSED_S if refused and is_forbidden(error) else pause_s

    def say(self, error: Exception) -> None:
        """Log an error, unless the same one has come within the last ten minutes.

        All errors about rights count as the same: the line names all rights that are needed.
        """
        if self._before is not None and is_forbidden(error):
            self._before.say(error)
            return
        trouble, now_s = "forbidden" if is_forbidden(error) else str(error), time.monotonic()
        lately = {said: at_s for said, at_s in self._said.items() if at_s > now_s - AGAIN_S}
        self._said = {**lately, trouble: now_s}
        if trouble in lately:
            return
        allow = f". Allow it: ACL SETUSER name {self._rights}" if self._rights else ""
        log.warning(
            "%s: %s%s",
            self._what,
            error,
            allow if is_forbidden(error) else "",
            exc_info=None if isinstance(error, OUTAGES) else error,
        )
