"""Durations counted by size, in buckets of powers of two; pure.

Each bucket is a counter as in totals.py: it never falls, and of two reports of one life the larger
number is the newer one. So histograms are sent and added up as counters are.
"""

from __future__ import annotations

from typing import NamedTuple

HANDLING, WAITING = range(2)
KINDS = "handling", "waiting"
BUCKETS = 24  # below 1 ms, 2 ms, 4 ms ... 2**22 ms (70 min), and longer
WORDS = BUCKETS + 1  # of one histogram: its buckets, then the sum in ms

BOUNDS_S: list[float] = [2**number / 1000 for number in range(BUCKETS - 1)]
NAMES = [
    f"{kind}_{part}" for kind in KINDS for part in [*(str(n) for n in range(BUCKETS)), "sum_ms"]
]


def bucket(ms: int) -> int:
    """Number of the bucket that a duration of whole ms, rounded down, belongs to."""
    return min(ms.bit_length(), BUCKETS - 1)


class Histogram(NamedTuple):
    """counts: durations in each bucket. sum_s: the sum of all durations, in s."""

    counts: list[int]
    sum_s: float

    @property
    def total(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)


def histogram(totals: dict[str, int], kind: int) -> Histogram:
    """The histogram of this kind (HANDLING or WAITING) out of the totals of a life."""
    *counts, sum_ms = (totals.get(name, 0) for name in NAMES[kind * WORDS : (kind + 1) * WORDS])
    return Histogram(counts, sum_ms / 1000)


def together(several: list[Histogram]) -> Histogram:
    """The sum of histograms."""
    counts = [sum(column) for column in zip(*(one.counts for one in several), strict=True)]
    return Histogram(counts, sum(one.sum_s for one in several))
