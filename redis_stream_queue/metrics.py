"""Counters and rates of producers and consumers.

Rates are over a sliding window of 60 s; a span under 1 s counts as 1 s.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_S = 60.0


@dataclass
class ConsumerMetrics:
    """Snapshot of one consumer.

    | field | unit | |
    |---|---|---|
    | `total_read` | messages | handed to this consumer, new or reclaimed |
    | `total_acked` | messages | acknowledgements that reached Redis |
    | `total_dlq` | messages | buried, for whatever reason |
    | `total_errors` | handler calls | that raised |
    | `tps_in`, `tps_out` | messages per second | read, acknowledged; over the last 60 s |
    | `tps_total` | messages per second | both together |
    | `avg_tps` | messages per second | acknowledged since the first message |
    | `uptime_secs` | seconds | since the first message |
    | `total_expired` | messages | acknowledged unstarted, as their `ttl_ms` was over |
    """

    total_read: int = 0
    total_acked: int = 0
    total_dlq: int = 0
    total_errors: int = 0
    tps_in: float = 0.0
    tps_out: float = 0.0
    tps_total: float = 0.0
    avg_tps: float = 0.0
    uptime_secs: float = 0.0
    total_expired: int = 0


@dataclass
class ProducerMetrics:
    """Snapshot of one producer.

    | field | unit | |
    |---|---|---|
    | `total_pushed` | messages | pushes that returned an id |
    | `tps` | messages per second | over the last 60 s |
    | `avg_tps` | messages per second | since the first push |
    | `uptime_secs` | seconds | since the first push |
    """

    total_pushed: int = 0
    tps: float = 0.0
    avg_tps: float = 0.0
    uptime_secs: float = 0.0


class RateWindow:
    """Events per second over the last 60 s, kept in one bucket a second (constant memory)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: deque[tuple[int, int]] = deque()
        self.started_at: float | None = None
        self.total = 0

    def record(self, count: int) -> None:
        """Add ``count`` events now."""
        if count <= 0:
            return
        now = self._clock()
        if self.started_at is None:
            self.started_at = now
        self.total += count
        second = int(now)
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1] = (second, self._buckets[-1][1] + count)
        else:
            self._buckets.append((second, count))
            self._drop(now)

    def rate(self) -> float:
        """Events per second over the window, or over the time since the first event if shorter."""
        if self.started_at is None:
            return 0.0
        now = self._clock()
        self._drop(now)
        span_s = min(max(now - self.started_at, 1.0), WINDOW_S)
        return sum(count for _, count in self._buckets) / span_s

    def _drop(self, now: float) -> None:
        while self._buckets and self._buckets[0][0] <= now - WINDOW_S:
            self._buckets.popleft()


def uptime_s(*windows: RateWindow, clock: Callable[[], float] = time.monotonic) -> float:
    """Seconds since the first event of any of the windows; 0.0 before it."""
    starts = [w.started_at for w in windows if w.started_at is not None]
    return clock() - min(starts) if starts else 0.0


class ConsumerMeter:
    """The counting side of ConsumerMetrics."""

    def __init__(self) -> None:
        self.read = RateWindow()
        self.acked = RateWindow()
        self.dlq = 0
        self.errors = 0
        self.expired = 0

    def snapshot(self) -> ConsumerMetrics:
        uptime = uptime_s(self.read, self.acked)
        tps_in, tps_out = self.read.rate(), self.acked.rate()
        return ConsumerMetrics(
            total_read=self.read.total,
            total_acked=self.acked.total,
            total_dlq=self.dlq,
            total_errors=self.errors,
            tps_in=tps_in,
            tps_out=tps_out,
            tps_total=tps_in + tps_out,
            avg_tps=self.acked.total / max(uptime, 1.0) if uptime else 0.0,
            uptime_secs=uptime,
            total_expired=self.expired,
        )


class ProducerMeter:
    """The counting side of ProducerMetrics."""

    def __init__(self) -> None:
        self.pushed = RateWindow()

    def snapshot(self) -> ProducerMetrics:
        uptime = uptime_s(self.pushed)
        return ProducerMetrics(
            total_pushed=self.pushed.total,
            tps=self.pushed.rate(),
            avg_tps=self.pushed.total / max(uptime, 1.0) if uptime else 0.0,
            uptime_secs=uptime,
        )
