"""The last 15 minutes of a pool, for the plots of its page; pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ...histogram import BOUNDS_S, Histogram

STEP_S = 5
STEPS = 15 * 60 // STEP_S


class Moment(NamedTuple):
    """Totals at one moment. lag: None = Redis did not say."""

    at_s: float
    acked: int
    errors: int
    lag: int | None
    handling: Histogram
    waiting: Histogram


class Step(NamedTuple):
    """What happened between two moments; times of 95 of 100, in s, None = there was nothing."""

    at_s: float
    acked_per_s: float
    errors: int
    lag: int | None
    handling_s: float | None
    waiting_s: float | None


class History:
    """One step every STEP_S seconds."""

    def __init__(self) -> None:
        self.steps: deque[Step] = deque(maxlen=STEPS)
        self._last: Moment | None = None

    def note(self, now: Moment) -> None:
        """A moment later than all before."""
        if (last := self._last) is not None and now.at_s > last.at_s:
            self.steps.append(
                Step(
                    round(now.at_s, 1),
                    round((now.acked - last.acked) / (now.at_s - last.at_s), 2),
                    now.errors - last.errors,
                    now.lag,
                    quantile(_since(now.handling, last.handling), 0.95),
                    quantile(_since(now.waiting, last.waiting), 0.95),
                )
            )
        self._last = now


def _since(now: Histogram, then: Histogram) -> Histogram:
    counts = [a - b for a, b in zip(now.counts, then.counts, strict=True)]
    return Histogram(counts, now.sum_s - then.sum_s)


def quantile(seen: Histogram, share: float) -> float | None:
    """So long, in s, this share of the durations took at most; within a bucket by proportion.

    None if there are none.
    """
    wanted = share * seen.total
    if wanted <= 0:
        return None
    lower_s = 0.0
    for count, upper_s in zip(seen.counts, [*BOUNDS_S, BOUNDS_S[-1]], strict=True):
        if count and wanted <= count:
            return round(lower_s + (upper_s - lower_s) * wanted / count, 6)
        wanted -= count
        lower_s = upper_s
    return BOUNDS_S[-1]
