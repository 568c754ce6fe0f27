"""Pauses between tries that grow, and log lines that get rarer with them."""

from __future__ import annotations

import random

FIRST_S = 0.05
LONGEST_S = 1.0  # Redis is back within two seconds for everybody
JITTER = 0.25


class Backoff:
    """Pauses of 50 ms, 100 ms, ... up to a second, each minus up to 25 % jitter."""

    def __init__(self, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self.tries = 0
        self.pause_s = 0.0  # the pause that next_s() gave last; 0 while all is well

    def reset(self) -> None:
        """It worked."""
        self.tries = 0
        self.pause_s = 0.0

    def next_s(self) -> float:
        """The next pause in seconds."""
        pause_s = min(self._first_s * float(1 << min(self.tries, 30)), self._longest_s)
        self.tries += 1
        self.pause_s = pause_s * (1 - JITTER * random.random())
        return self.pause_s

    def worth_a_line(self) -> bool:
        """Say so the 1st, 4th, 16th, ... time: an outage of an hour is a handful of lines."""
        return self.tries & (self.tries - 1) == 0 and self.tries.bit_length() % 2 == 1
