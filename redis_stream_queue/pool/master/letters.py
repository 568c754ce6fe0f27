"""Dead letters of a crew, counted by the reason that they give."""

from __future__ import annotations

from ...delivery.burial_mark import REASONS
from ...delivery.hooks import Hooks


class LetterCounts(Hooks):
    """Those that workers tell of, and those of the master itself. What a worker that was killed had
    no time to tell is missing."""

    def __init__(self) -> None:
        self.by_reason = dict.fromkeys(REASONS, 0)

    def buried(self, reason: str) -> None:
        if reason in self.by_reason:  # of a mad worker it may be anything
            self.by_reason[reason] += 1
