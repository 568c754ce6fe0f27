"""When a mover calls its script next. All times are ms since the epoch by the server's clock.

All movers of a stream know when the next message is due. A mover that finds that another one has
moved it waits a random time longer at the next message, up to a second. A mover that has moved
something does not. So one mover does the work without an election, and when it ends, the one whose
extra wait is shortest goes on.
"""

from __future__ import annotations

import random

STEP_MS, LONGEST_MS = 4.0, 1000.0  # the extra wait doubles from the one up to the other
MOST_LOSSES = 8  # doublings


class Timer:
    """due_ms: when the next message is due, None = none is known, 0 = call now to find out."""

    def __init__(self) -> None:
        self.due_ms: float | None = None
        self._losses = 0
        self._extra_ms = 0.0

    @property
    def call_at_ms(self) -> float | None:
        """When to call the script, None = no message is known to be due."""
        return None if self.due_ms is None else self.due_ms + self._extra_ms

    def scheduled(self, due_ms: float) -> None:
        """Note that a message is due then, perhaps earlier than what is known."""
        self.due_ms = due_ms if self.due_ms is None else min(self.due_ms, due_ms)

    def answered(
        self, now_ms: float, moved: int, next_ms: float | None, *, crossed: bool = False
    ) -> None:
        """Note how many messages a call has moved, and when the next one is due (None = none).

        crossed: of a message was heard since that call was asked for. Redis may have run the call
        before that message came, so its answer does not tell: another call does.
        """
        if moved:
            self._losses, self._extra_ms = 0, 0.0
        elif self.due_ms and self.due_ms <= now_ms:  # another mover has moved it
            self._losses = min(self._losses + 1, MOST_LOSSES)
            longest_ms = min(STEP_MS * 2.0**self._losses, LONGEST_MS)
            self._extra_ms = random.random() * longest_ms
        self.due_ms = next_ms
        if crossed:
            self.scheduled(now_ms if self._losses else 0.0)
