"""How many messages a worker reads at once: as many as take about 100 ms. Pure."""

from __future__ import annotations

TARGET_MS = 100.0
LARGEST = 512  # a read of so many takes Redis a millisecond or two
MEMORY = 0.5  # weight of all earlier measurements when there is a new one
LEAST_GROWING = 4  # smaller batches do not grow: their messages are long, others would wait


class AdaptiveBatch:
    """Starts at 1, at most doubles, shrinks at once; follows the mean, not the longest message."""

    def __init__(self) -> None:
        self.size = 1
        self._ms = self._count = 0.0

    def observe(self, count: int, elapsed_ms: float) -> None:
        """Note how long ``count`` messages took together."""
        if count < 1:
            return
        self._ms = self._ms * MEMORY + max(elapsed_ms, 0.001)
        self._count = self._count * MEMORY + count
        wanted = int(TARGET_MS * self._count / self._ms)
        self.size = max(1, min(wanted, self.size * 2, LARGEST))

    def more(self, newly_handled: int, waiting: int, running: int, blocks: bool = False) -> int:
        """How many more to read while a batch is handled, so that it goes on; 0 or less = none.

        newly_handled: messages done since the last call. waiting: messages of the batch that have
        not started. running: those that run. blocks: does the one that runs stop all others?
        """
        grows = newly_handled > 0 and self.size >= LEAST_GROWING
        return self.size - waiting if grows else 0


class MixedBatch(AdaptiveBatch):
    """For handlers of which some calls block and others run side by side.

    Reads as many as take about 100 ms; while nothing blocks also as many as can be started.
    """

    def __init__(self, concurrency: int) -> None:
        super().__init__()
        self._concurrency = concurrency

    def more(self, newly_handled: int, waiting: int, running: int, blocks: bool = False) -> int:
        if blocks:
            return super().more(newly_handled, waiting, running, blocks)
        return max(self._concurrency - running, self.size if newly_handled else 0) - waiting


def batch_size(
    fixed: int | None, concurrency: int, *, mixed: bool = False
) -> AdaptiveBatch | FixedBatch:
    """The rule for a worker.

    fixed: a size that the user has set, None = adaptive. concurrency: how many messages the handler
    runs side by side. mixed: only some of its messages run side by side.
    """
    if fixed is None and mixed:
        return MixedBatch(concurrency)
    if fixed is None and concurrency == 1:
        return AdaptiveBatch()
    return FixedBatch(fixed or concurrency, grows=concurrency > 1)


class FixedBatch:
    """Always the same size. grows: read more as soon as one of several lanes is free."""

    def __init__(self, size: int, *, grows: bool) -> None:
        self.size = size
        self._grows = grows

    def observe(self, count: int, elapsed_ms: float) -> None:
        """Does nothing: the size is fixed."""

    def more(self, newly_handled: int, waiting: int, running: int, blocks: bool = False) -> int:
        """How many more to read while a batch is handled; see AdaptiveBatch."""
        return self.size - waiting - running if self._grows else 0
