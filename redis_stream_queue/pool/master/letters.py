"""Counts the dead letters of a crew by reason."""

from __future__ import annotations

from ..._burial_mark import REASONS
from ...delivery.hooks import Hooks


class LetterCounts(Hooks):
    """The letters that workers tell of, and those that the master itself makes.

    A worker that was killed may not have told its last one.
    """

    def __init__(self) -> None:
        self.by_reason = dict.fromkeys(REASONS, 0)

    def buried(self, reason: str) -> None:
        if reason in self.by_reason:  # a damaged worker may tell any text
            self.by_reason[reason] += 1
