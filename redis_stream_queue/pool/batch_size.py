"""How many messages a worker reads at once: as many as take about 100 ms. Pure."""

from __future__ import annotations

TARGET_MS = 100.0
LARGEST = 512  # a read of so many holds Redis for a millisecond or two
WEIGHT = 0.5  # of the newest measurement


class AdaptiveBatch:
    """Starts at 1, at most doubles, shrinks at once.

    largest: never more than this.
    """

    def __init__(self, largest: int = LARGEST) -> None:
        self.size = 1
        self._largest = largest
        self._ms_per_message: float | None = None

    def observe(self, count: int, elapsed_ms: float) -> None:
        """A batch of ``count`` messages took so long."""
        if count < 1:
            return
        newest = max(elapsed_ms, 0.001) / count
        known = self._ms_per_message
        if known is None or newest > known:
            self._ms_per_message = newest
        else:
            self._ms_per_message = known + WEIGHT * (newest - known)
        wanted = int(TARGET_MS / self._ms_per_message)
        self.size = max(1, min(wanted, self.size * 2, self._largest))


def batch_size(fixed: int | None, concurrency: int) -> AdaptiveBatch | FixedBatch:
    """The rule for a worker.

    fixed: what the user asked for. concurrency: messages that the handler runs side by side; more
    than one are read as many at once as can be started.
    """
    if fixed is None and concurrency == 1:
        return AdaptiveBatch()
    return FixedBatch(fixed or concurrency)


class FixedBatch:
    """Always the same size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def observe(self, count: int, elapsed_ms: float) -> None:
        """Fixed is fixed."""
