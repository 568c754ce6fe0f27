"""How late scheduled messages were moved into their stream. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

BOUNDS_MS = (5, 10, 25, 100, 1000, 10_000, 60_000)


@dataclass(frozen=True, slots=True)
class LatenessMetrics:
    """Since the start.

    moved: messages. late_ms_total: their lateness together, in ms; late_ms_max: the worst one.
    at_most_ms: how many were late by at most 5, 10, 25, 100, 1,000, 10,000 and 60,000 ms.
    """

    moved: int = 0
    late_ms_total: int = 0
    late_ms_max: int = 0
    at_most_ms: dict[int, int] = field(default_factory=lambda: dict.fromkeys(BOUNDS_MS, 0))


def of_all(several: Sequence[LatenessMetrics]) -> LatenessMetrics:
    """Those of several streams together."""
    return LatenessMetrics(
        sum(one.moved for one in several),
        sum(one.late_ms_total for one in several),
        max((one.late_ms_max for one in several), default=0),
        {bound: sum(one.at_most_ms[bound] for one in several) for bound in BOUNDS_MS},
    )


class Lateness:
    """Counts; see LatenessMetrics."""

    def __init__(self) -> None:
        self._moved = self._total = self._max = 0
        self._at_most = dict.fromkeys(BOUNDS_MS, 0)

    def record(self, late_ms: int, count: int) -> None:
        """So many messages have just been moved, each so late."""
        self._moved += count
        self._total += late_ms * count
        self._max = max(self._max, late_ms)
        for bound in BOUNDS_MS:
            self._at_most[bound] += count * (late_ms <= bound)

    def metrics(self) -> LatenessMetrics:
        """As of now."""
        return LatenessMetrics(self._moved, self._total, self._max, dict(self._at_most))
