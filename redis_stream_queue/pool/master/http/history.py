"""The last 15 minutes of a pool, for the plots of its page; pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ...histogram import BOUNDS_S, Histogram

STEP_S = 5  # from one point of a plot to the next
STEPS = 15 * 60 // STEP_S


class Moment(NamedTuple):
    """Totals at one moment. at_s: since the epoch. lag: None = Redis did not say."""

    at_s: float
    acked: int
    errors: int
    lag: int | None
    handling: Histogram
    waiting: Histogram


class Step(NamedTuple):
    """What happened between two moments.

    handling_s, waiting_s: 95 % of the messages took so long at most; None = there was none.
    """

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
        """Add the step from the last moment to this one, which is later."""
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
    """The duration in s that ``share`` (0 to 1) of all durations do not exceed.

    Durations count as spread evenly within a bucket. None = there are no durations.
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
