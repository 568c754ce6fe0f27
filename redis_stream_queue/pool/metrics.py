"""PoolMetrics: what the whole pool did, and each worker's line. Totals never go back.

| counter | unit | moves when |
|---|---|---|
| read | messages | a worker got a message, new or taken over |
| acked | messages | an acknowledgement reached Redis |
| errors | handler calls | a handler raised |
| dead | messages | a message was moved to the dead letters |
| batches | handler calls | a batch ended |
| replaced | workers | a worker ended that nobody had told to |
| snapshots | reports | a worker's totals have come through its metrics pipe |
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """One slot now. The counters are those of the slot, over all its lives.

    busy_ms: how long the current handler has been running, 0 = idle.
    poll_age_ms: since the last finished read.
    snapshots: how many reports have come through its metrics pipes.
    """

    slot: int
    pid: int
    state: str
    consumer: str
    busy_ms: int
    poll_age_ms: int
    read: int
    acked: int
    errors: int
    dead: int
    batches: int
    snapshots: int


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """Totals of a pool since it started; rate in acknowledged messages per second over 60 s."""

    uptime_s: float = 0.0
    read: int = 0
    acked: int = 0
    errors: int = 0
    dead: int = 0
    batches: int = 0
    replaced: int = 0
    snapshots: int = 0
    acked_per_s: float = 0.0
    workers: list[WorkerMetrics] = field(default_factory=list)

    @property
    def busy(self) -> int:
        """Workers whose handler is running."""
        return sum(worker.busy_ms > 0 for worker in self.workers)

    def __str__(self) -> str:
        return (
            f"{len(self.workers)} workers ({self.busy} busy), handled {self.acked} "
            f"({self.acked_per_s:.1f}/s), errors {self.errors}, dead {self.dead}, "
            f"replaced {self.replaced}, up {self.uptime_s:.0f} s"
        )
