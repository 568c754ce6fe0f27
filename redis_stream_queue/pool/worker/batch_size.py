"""How many messages a worker reads at once: as many as take about 100 ms. Pure."""

from __future__ import annotations

TARGET_MS = 100.0
LARGEST = 512  # a read of so many holds Redis for a millisecond or two
MEMORY = 0.5  # weight of all measurements before, when there is a new one
LEAST_GROWING = 4  # longer messages are read when nothing runs: they could wait behind a long one


class AdaptiveBatch:
    """Starts at 1, at most doubles, shrinks at once; follows the mean, not the longest message.

    largest: never more than this.
    """

    def __init__(self, largest: int = LARGEST) -> None:
        self.size = 1
        self._largest = largest
        self._ms = self._count = 0.0

    def observe(self, count: int, elapsed_ms: float) -> None:
        """So many messages took so long."""
        if count < 1:
            return
        self._ms = self._ms * MEMORY + max(elapsed_ms, 0.001)
        self._count = self._count * MEMORY + count
        wanted = int(TARGET_MS * self._count / self._ms)
        self.size = max(1, min(wanted, self.size * 2, self._largest))

    def more(self, newly_handled: int, waiting: int, running: int, blocks: bool = False) -> int:
        """How many more to read while a batch is handled, so that it need not end.

        blocks: what runs runs alone.
        """
        grows = newly_handled > 0 and self.size >= LEAST_GROWING
        return self.size - waiting if grows else 0


class MixedBatch(AdaptiveBatch):
    """Where some messages block and others run side by side: no more are read at once than take
    100 ms, and then as many as can be started beside what runs."""

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

    fixed: what the user asked for. concurrency: messages that the handler runs side by side; more
    than one are read as many at once as can be started. mixed: only some of them run so.
    """
    if fixed is None and mixed:
        return MixedBatch(concurrency)
    if fixed is None and concurrency == 1:
        return AdaptiveBatch()
    return FixedBatch(fixed or concurrency, grows=concurrency > 1)


class FixedBatch:
    """Always the same size; it grows where messages run side by side, so that no lane is idle."""

    def __init__(self, size: int, *, grows: bool) -> None:
        self.size = size
        self._grows = grows

    def observe(self, count: int, elapsed_ms: float) -> None:
        """Fixed is fixed."""

    def more(self, newly_handled: int, waiting: int, running: int, blocks: bool = False) -> int:
        """How many more to read while others run."""
        return self.size - waiting - running if self._grows else 0
