"""PoolMetrics: the totals of a whole pool, and the state of each worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..later.lateness import LatenessMetrics, of_all
from .failures import Failure, merged
from .histogram import BUCKETS, Histogram, together
from .task_times import TaskMetrics
from .totals import NAMES


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """One slot now. Its counters are sums over all its lives.

    crew: the target that it runs.
    state: as in docs/states.md, or ``busy`` while it handles a batch.
    busy_ms: how long the current handler call has been running, 0 = idle.
    poll_age_ms: time since the last finished read.
    snapshots: how many reports have come through its metrics pipes.
    cpu_ms: processor time of all its lives. memory_mb: memory in use now.
    message_id: the message that has been running longest, "" = none. message_ms: for how long.
    task: name of the task that this message calls, "" = none.
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
    expired: int = 0
    cpu_ms: int = 0
    memory_mb: float = 0.0
    message_id: str = ""
    message_ms: int = 0
    crew: str = ""
    retried: int = 0
    released: int = 0
    redis_errors: int = 0
    task: str = ""


def _nothing() -> Histogram:
    return Histogram([0] * BUCKETS, 0.0)


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """Totals of a pool, or of one of its crews, since it started. They never go back.

    | field | unit | |
    |---|---|---|
    | `read` | messages | that a worker got, new or taken over |
    | `acked` | messages | acknowledgements that reached Redis |
    | `errors` | handler calls | that raised |
    | `dead` | messages | moved to the dead letters |
    | `dead_for` | messages | the same by reason, without those that a killed worker has not told |
    | `batches` | handler calls | that ended |
    | `expired` | messages | acknowledged unstarted, as their `ttl_ms` was over |
    | `retried` | messages | that failed and wait for another delivery, each time |
    | `released` | messages | given back unstarted: others were idle, or the worker ended |
    | `redis_errors` | commands | of workers or the master, that Redis refused or did not answer |
    | `replaced` | workers | that ended although nobody had told them to |
    | `replaced_for` | workers | `replaced` by cause: time_limit, stuck, signal, exit |
    | `snapshots` | reports | that have come through the workers' metrics pipes |
    | `scheduled` | LatenessMetrics | of scheduled messages that this pool has moved |
    | `paused` | | is the stream paused for this group? |
    | `quiet` | | does this pool start nothing new (SIGTSTP)? |
    | `redis_error` | | what Redis refuses the master, or does not answer; empty = nothing |
    | `acked_per_s` | messages per second | over the last 60 s |
    | `uptime_s` | seconds | since the start |
    | `handling` | Histogram | how long calls of the handler took, for a message or a batch |
    | `waiting` | Histogram | how long messages lay in the stream before they were handled first |
    | `failures` | | what handlers raised, one Failure a type, the newest first |
    | `tasks` | | one TaskMetrics a task of a queue, by name |
    | `workers` | | one WorkerMetrics a slot |
    | `configured` | workers | at start; signals may have changed how many there are now |
    | `crew` | | the target of a crew, empty for the totals of a pool with several |
    """

    uptime_s: float = 0.0
    read: int = 0
    acked: int = 0
    errors: int = 0
    dead: int = 0
    batches: int = 0
    replaced: int = 0
    snapshots: int = 0
    acked_per_s: float = 0.0
    expired: int = 0
    paused: bool = False
    scheduled: LatenessMetrics = field(default_factory=LatenessMetrics)
    handling: Histogram = field(default_factory=_nothing)
    waiting: Histogram = field(default_factory=_nothing)
    failures: list[Failure] = field(default_factory=list)
    workers: list[WorkerMetrics] = field(default_factory=list)
    configured: int = 0
    crew: str = ""
    quiet: bool = False
    redis_error: str = ""
    retried: int = 0
    released: int = 0
    redis_errors: int = 0
    dead_for: dict[str, int] = field(default_factory=dict)
    replaced_for: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, TaskMetrics] = field(default_factory=dict)

    @property
    def busy(self) -> int:
        """Workers whose handler is running."""
        return sum(worker.busy_ms > 0 for worker in self.workers)

    def __str__(self) -> str:
        moved = self.scheduled.moved
        scheduled = f"moved {moved}, latest {self.scheduled.late_ms_max} ms, " if moved else ""
        paused = ("PAUSED, " if self.paused else "") + ("QUIET, " if self.quiet else "")
        redis = f"REDIS FAILS ({self.redis_error}), " if self.redis_error else ""
        count = len(self.workers)
        configured = f"configured {self.configured}, " if self.configured != count else ""
        return (
            f"{redis}{paused}{count} workers ({configured}{self.busy} busy), handled {self.acked} "
            f"({self.acked_per_s:.1f}/s), errors {self.errors}, dead {self.dead}, "
            f"{scheduled}replaced {self.replaced}, up {self.uptime_s:.0f} s"
        )


def _summed(several: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counts in several:
        total.update(counts)
    return dict(total)


def _all_tasks(crews: list[PoolMetrics]) -> dict[str, TaskMetrics]:
    """The metrics of each task; those of one name in several crews are added up."""
    tasks: dict[str, TaskMetrics] = {}
    for name, one in (pair for crew in crews for pair in crew.tasks.items()):
        if (known := tasks.get(name)) is not None:
            handling = together([known.handling, one.handling])
            waiting = together([known.waiting, one.waiting])
            one = TaskMetrics(handling, known.errors + one.errors, waiting)
        tasks[name] = one
    return tasks


def added(crews: list[PoolMetrics]) -> PoolMetrics:
    """The metrics of a whole pool from those of its crews."""
    if len(crews) == 1:
        return crews[0]
    summed = *NAMES, "replaced", "snapshots", "acked_per_s", "configured"
    return PoolMetrics(
        dead_for=_summed(crew.dead_for for crew in crews),
        replaced_for=_summed(crew.replaced_for for crew in crews),
        **{name: sum(getattr(crew, name) for crew in crews) for name in summed},
        uptime_s=max(crew.uptime_s for crew in crews),
        paused=any(crew.paused for crew in crews),
        scheduled=of_all([crew.scheduled for crew in crews]),
        handling=together([crew.handling for crew in crews]),
        waiting=together([crew.waiting for crew in crews]),
        tasks=_all_tasks(crews),
        failures=merged(failure for crew in crews for failure in crew.failures),
        workers=[worker for crew in crews for worker in crew.workers],
    )
