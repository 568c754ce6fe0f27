"""How many messages to ask for at once, so that the answer is small enough to arrive. Pure.

An answer that is too large for the line, for ``client-output-buffer-limit`` or for something in
between never arrives, however often it is asked for; a smaller one does.
"""

from __future__ import annotations

BYTES = 1 << 20  # of an answer
FORGETS = 0.9  # share of the known size that stays after each answer with smaller entries


class Portion:
    """Learns from each answer how large entries are, and from each broken one that it was too
    much."""

    def __init__(self) -> None:
        self._entry_bytes = 0.0
        self._most: int | None = None

    def of(self, count: int) -> int:
        """How many of ``count`` to ask for at once."""
        if self._most is not None:
            count = min(count, self._most)
        if count * self._entry_bytes > BYTES:
            count = max(int(BYTES / self._entry_bytes), 1)
        return count

    def arrived(self, entries: int, size: int) -> None:
        """Note that an answer of ``size`` bytes with so many entries has arrived."""
        if entries:
            self._entry_bytes = max(size / entries, self._entry_bytes * FORGETS)
            if self._most is not None:
                self._most *= 2
                if self._most * self._entry_bytes > BYTES or self._most > BYTES:
                    self._most = None  # the bytes bound it again

    def broke(self, asked: int) -> None:
        """Note that the answer to a request for ``asked`` entries did not arrive."""
        self._most = max(asked // 2, 1)
