"""Pauses between tries that grow, and log lines that get rarer with them."""

from __future__ import annotations

import random

from .._clock import mono_ms

FIRST_S = 0.05
LONGEST_S = 1.0  # a server that is back is used again within about this time
JITTER = 0.25
CALM_MS = 2000  # errors that are less than this apart belong to one outage


class Backoff:
    """Pauses of 50 ms, 100 ms, ... up to a second, each minus up to 25 % jitter."""

    def __init__(self, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self.tries = 0
        self.pause_s = 0.0  # the pause that next_s() gave last; 0 while all is well
        self._errors = 0
        self._error_ms = 0

    def reset(self) -> None:
        """Note that a try has worked."""
        self.tries = 0
        self.pause_s = 0.0
        if self._errors and mono_ms() - self._error_ms > CALM_MS:
            self._errors = 0

    def next_s(self) -> float:
        """The next pause in seconds."""
        pause_s = min(self._first_s * float(1 << min(self.tries, 30)), self._longest_s)
        self.tries += 1
        self._errors += 1
        self._error_ms = mono_ms()
        self.pause_s = pause_s * (1 - JITTER * random.random())
        return self.pause_s

    def worth_a_line(self) -> bool:
        """Is this error to be logged? The 1st, 4th, 16th, ... of an outage is."""
        return self._errors & (self._errors - 1) == 0 and self._errors.bit_length() % 2 == 1
