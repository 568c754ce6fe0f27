"""How late scheduled messages were moved into their stream. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

BOUNDS_MS = (5, 10, 25, 100, 1000, 10_000, 60_000)


@dataclass(frozen=True, slots=True)
class LatenessMetrics:
    """How late scheduled messages were moved, since the start.

    moved: how many messages. late_ms_total: the sum of their lateness. late_ms_max: the largest.
    at_most_ms: by each bound in BOUNDS_MS, how many were late by at most so many ms.
    """

    moved: int = 0
    late_ms_total: int = 0
    late_ms_max: int = 0
    at_most_ms: dict[int, int] = field(default_factory=lambda: dict.fromkeys(BOUNDS_MS, 0))


def of_all(several: Sequence[LatenessMetrics]) -> LatenessMetrics:
    """The sum over several streams."""
    return LatenessMetrics(
        sum(one.moved for one in several),
        sum(one.late_ms_total for one in several),
        max((one.late_ms_max for one in several), default=0),
        {bound: sum(one.at_most_ms[bound] for one in several) for bound in BOUNDS_MS},
    )


class Lateness:
    """Counts how late messages were moved; see LatenessMetrics."""

    def __init__(self) -> None:
        self._moved = self._total = self._max = 0
        self._at_most = dict.fromkeys(BOUNDS_MS, 0)

    def record(self, late_ms: int, count: int) -> None:
        """Note that ``count`` messages have been moved, each of them late by ``late_ms``."""
        self._moved += count
        self._total += late_ms * count
        self._max = max(self._max, late_ms)
        for bound in BOUNDS_MS:
            self._at_most[bound] += count * (late_ms <= bound)

    def metrics(self) -> LatenessMetrics:
        """The counts so far."""
        return LatenessMetrics(self._moved, self._total, self._max, dict(self._at_most))
