"""When a mover calls next. All times are ms since the epoch by the server's clock.

All movers of a stream know when the next message is due. One that comes too late waits a random
moment longer the next time, up to a second; one that moved something does not. So the winner stays
first without being elected, and when it dies, the least of the others' waits takes over.
"""

from __future__ import annotations

import random

STEP_MS, LONGEST_MS = 4.0, 1000.0
MOST_LOSSES = 8


class Timer:
    """due_ms: when the next message is due, None = none is known, 0 = at once, to see."""

    def __init__(self) -> None:
        self.due_ms: float | None = None
        self._losses = 0
        self._politeness_ms = 0.0

    @property
    def call_at_ms(self) -> float | None:
        """When to call, None = not before something is known."""
        return None if self.due_ms is None else self.due_ms + self._politeness_ms

    def scheduled(self, due_ms: float) -> None:
        """One is due then, perhaps earlier than what is known."""
        self.due_ms = due_ms if self.due_ms is None else min(self.due_ms, due_ms)

    def answered(self, now_ms: float, moved: int, next_ms: float | None) -> None:
        """What a call has moved, and when the next one is due."""
        if moved:
            self._losses, self._politeness_ms = 0, 0.0
        elif self.due_ms and self.due_ms <= now_ms:  # it was there, for somebody else
            self._losses = min(self._losses + 1, MOST_LOSSES)
            longest_ms = min(STEP_MS * 2.0**self._losses, LONGEST_MS)
            self._politeness_ms = random.random() * longest_ms
        self.due_ms = next_ms
