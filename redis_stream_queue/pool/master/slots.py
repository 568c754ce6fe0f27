"""One record per worker life, per slot and per crew, with what the scoreboard shows of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..._clock import mono_ms
from ...later.lateness import LatenessMetrics
from ...message import id_key
from ...metrics import RateWindow
from .._linux import cpu_ms, memory_mb, usable_cores
from ..failures import Failure
from ..histogram import HANDLING, WAITING, histogram
from ..metrics import PoolMetrics, WorkerMetrics
from ..metrics_pipe import Reports
from ..pipe import Channel
from ..protocol import Loaded, WorkerSpec
from ..scoreboard import MAX_ROWS, NO_ID, Field, Row, Scoreboard
from ..task_times import ERRORS, Labels, counter, named, of_totals
from ..totals import NAMES, Totals, added, latest, of_row
from .states import WorkerState, move

TIME_LIMIT, STUCK, SIGNAL, EXIT = ENDS = "time_limit", "stuck", "signal", "exit"
BUSY = "busy"  # how the state of a worker that handles a batch is shown
MOST_LIVES = 4  # of one slot at a time: a new one, and old ones that finish long messages


def nobody(_: str) -> bool:
    """No message is a suspect."""
    return False


@dataclass(eq=False)
class WorkerRecord:
    """One life of one slot: a worker process."""

    slot: int
    life: int
    row_number: int
    row: Row
    channel: Channel | None = None
    reports: Reports | None = None
    crew: str = ""
    pid: int = 0
    consumer: str = ""
    state: WorkerState = WorkerState.STARTING
    loaded: Loaded | None = None  # what its code says of the app, once it is imported
    told_to_go: bool = False
    own_mb: int = 0  # memory of the app by itself; 0 = not known
    tasks: Sequence[str] = ()  # names of its tasks; the row has their numbers, from 1 on
    labels: Sequence[str] = ()  # the names under which these tasks are counted
    periodic: list[list[Any]] = field(default_factory=list)  # told so far, see MorePeriodic
    overran: str | None = None  # the message that it was killed for, as that ran for too long
    began_ms: int = field(default_factory=mono_ms)
    code: int = 0  # number of the code that it runs, see Supervisor
    retiring: bool = False  # it is to be replaced
    leaving_since_ms: int = 0  # since then it waits for its threads and processes, 0 = it does not
    waits_for: str = ""  # names them
    killed: str = ""  # why the master killed it
    refused: str = ""  # why it could not load the app
    ended: str = ""  # how it ended
    offers: int = 0  # how many Take messages were sent to it
    offered_until_ms: int = 0  # until then it may take the newest; 0 = it has asked or declined
    batches_before: int = 0  # how many batches it had handled when it got the newest offer
    cpu_ms: int = 0  # processor time, when it was last looked at

    def totals(self) -> Totals:
        """Its counters: those of its reports, or of its row where that has counted more."""
        reported = self.reports.read() if self.reports is not None else {}
        return named(latest(reported, of_row(self.row)), self.labels)

    def processor_ms(self) -> int:
        """Processor time that it has used so far, in ms."""
        self.cpu_ms = max(self.cpu_ms, cpu_ms(self.pid) if self.pid else 0)
        return self.cpu_ms

    def running(self) -> tuple[str, int]:
        """The message that has been running longest, and when it began (mono_ms()), or ("", 0)."""
        entry_id, since_ms = self.row.id(Field.CURRENT), self.row[Field.MESSAGE_SINCE]
        runs = self.busy and since_ms and entry_id != NO_ID
        return (entry_id, since_ms) if runs else ("", 0)

    def move_to(self, state: WorkerState) -> None:
        """Change the state, if the move is legal."""
        self.state = move(self.state, state)

    def ended_by(self, exit_code: int) -> str:
        """Which of ENDS has ended it. exit_code: below 0 = minus the signal's number."""
        if self.killed:
            return STUCK if self.overran is None else TIME_LIMIT
        return SIGNAL if exit_code < 0 else EXIT

    @property
    def busy(self) -> bool:
        """Does it handle a batch?"""
        return self.row[Field.BUSY_SINCE] > 0

    @property
    def holding(self) -> bool:
        """Is it busy, or may Redis not know yet that its last batch is done?"""
        return self.busy or self.row[Field.BUSY_UNTIL] >= self.row[Field.READ_AT] > 0

    @property
    def passive(self) -> bool:
        """Has it finished no batch since its newest offer? It may hang."""
        return self.offered_until_ms > 0 and self.row[Field.BATCHES] == self.batches_before

    def idle_now(self, now_ms: int) -> bool:
        """Can it take an offer at once?"""
        waiting = self.passive and self.offered_until_ms > now_ms
        engaged = self.busy or waiting or self.row[Field.ONLY_NEW]
        return self.state is WorkerState.READY and not engaged

    def suspects(self, *, one_at_a_time: bool) -> Callable[[str], bool]:
        """A function that tells for an id whether this message may be the cause of the death.

        It copies what it needs from the row, so it may be called when the row is cleared.

        - A message that was killed by its time limit, or a task that ran alone, is the only one.
          Others that are held may not have begun, even if their ids are lower.
        - one_at_a_time: the messages of the batch up to the one that runs. Those before it may have
          ended, but Redis does not know that yet. Otherwise the whole batch.
        - Before the first message is started: the whole batch, as it is being decoded.
        - Between two batches: the last batch, of whose end Redis may not know yet.

        A message that kills while it is added to a running batch is not found the first time; it is
        found when it comes again, at the start of a batch.
        """
        first, last = self._bounds()
        current = id_key(self.row.id(Field.CURRENT))
        if self.overran:
            only = id_key(self.overran)  # the row may show the next one by now
            return lambda entry_id: id_key(entry_id) == only
        if self.busy and self.row[Field.ALONE] and current > (0, 0):
            return lambda entry_id: id_key(entry_id) == current
        if one_at_a_time and self.busy and current > (0, 0):
            last = current
        return lambda entry_id: first <= id_key(entry_id) <= last

    @property
    def task_errors(self) -> str:
        """Name of the counter of errors of the task that runs, "" if there is none."""
        number = self.row[Field.TASK]
        return counter(self.labels[number - 1], ERRORS) if 0 < number <= len(self.labels) else ""

    def own_most(self) -> dict[str, int]:
        """The max_deliveries of the message that runs, by its id, if its task sets one; else {}."""
        most = self.row[Field.MOST]
        return {self.row.id(Field.CURRENT): most} if most else {}

    @property
    def task(self) -> str:
        """Name of the task that runs, "" if there is none."""
        number = self.row[Field.TASK]
        return self.tasks[number - 1] if 0 < number <= len(self.tasks) else ""

    def holds(self, entry_id: str) -> bool:
        """Is this message in the batch that it handles now?"""
        return self.busy and self._in_batch(entry_id)

    def may_hold(self, entry_id: str) -> bool:
        """Is this message in the batch that it handles, or in one whose end Redis may not know?"""
        return self.holding and self._in_batch(entry_id)

    def _bounds(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return id_key(self.row.id(Field.FIRST)), id_key(self.row.id(Field.LAST))

    def _in_batch(self, entry_id: str) -> bool:
        first, last = self._bounds()
        return first <= id_key(entry_id) <= last


@dataclass(eq=False)
class Slot:
    """A worker number with all its lives; it may have several at a time, of which one is new.

    wanted: is it to have a worker? failed_starts: lives in a row that ended before they were ready.
    past, past_snapshots, past_cpu_ms: sums over the lives that have ended.
    """

    number: int
    crew: Crew = field(repr=False)
    wanted: bool = True
    lives: list[WorkerRecord] = field(default_factory=list)
    lives_so_far: int = 0
    failed_starts: int = 0
    past: Totals = field(default_factory=dict)
    past_snapshots: int = 0
    past_cpu_ms: int = 0

    @property
    def active(self) -> WorkerRecord | None:
        """The life that works or is starting; None while the slot needs a new one."""
        for worker in reversed(self.lives):
            if worker.state in (WorkerState.STARTING, WorkerState.READY):
                return worker
        return None

    @property
    def is_full(self) -> bool:
        """Has it as many lives at a time as it may have?"""
        scarce = len(self.crew.free_rows) < len(self.crew.slots)
        return len(self.lives) >= (2 if scarce else MOST_LIVES)

    @property
    def is_ready(self) -> bool:
        """Does its worker read messages?"""
        return self.active is not None and self.active.state is WorkerState.READY

    def totals(self) -> Totals:
        """The counters of all its lives together."""
        return added(self.past, *(worker.totals() for worker in self.lives))

    def confirm(self, name: str, count: int) -> None:
        """Add to a counter what a life that has ended had done and not counted."""
        self.past = added(self.past, {name: count})

    @property
    def snapshots(self) -> int:
        """How many snapshots have come through its metrics pipes."""
        return self.past_snapshots + sum(w.reports.snapshots for w in self.lives if w.reports)

    def processor_ms(self) -> int:
        """Processor time that all its lives have used."""
        return self.past_cpu_ms + sum(worker.processor_ms() for worker in self.lives)

    def remove(self, worker: WorkerRecord) -> None:
        """Remove a life that has ended: keep its counters, and clear its row for another life."""
        if worker.reports is not None:
            worker.reports.close()
            self.past_snapshots += worker.reports.snapshots
        self.past = added(self.past, worker.totals())
        self.past_cpu_ms += worker.cpu_ms
        worker.row.clear()
        self.lives.remove(worker)


class Crew:
    """The slots whose workers run one target, and the scoreboard that they share.

    spec: what a new worker is told at its fork. workers: how many there are at start; None = one
    per core, until the app says how many it wants. replaced: workers that ended although nobody had
    told them to, by cause.
    """

    def __init__(self, spec: WorkerSpec, scoreboard: Scoreboard, workers: int | None) -> None:
        self.name = spec.target
        self.spec = spec
        self.scoreboard = scoreboard
        self.configured = workers or usable_cores()
        self.slots: list[Slot] = []
        self.free_rows = deque(range(MAX_ROWS))
        self.began_ms = mono_ms()
        self.ever_ready = False
        self.labels = Labels()
        self.replaced = dict.fromkeys(ENDS, 0)

    @property
    def wanted(self) -> list[Slot]:
        """The slots that are to have a worker."""
        return [slot for slot in self.slots if slot.wanted]

    def living(self) -> list[WorkerRecord]:
        """All workers, in any state but GONE."""
        return [worker for slot in self.slots for worker in slot.lives]

    def slot_of(self, worker: WorkerRecord) -> Slot:
        return next(slot for slot in self.slots if slot.number == worker.slot)


def crew_metrics(
    crew: Crew,
    *,
    paused: bool,
    buried: int,
    redis_errors: int,
    dead_for: dict[str, int],
    scheduled: LatenessMetrics,
    acked: RateWindow,
    failures: list[Failure],
) -> PoolMetrics:
    """The metrics of a crew: what its workers report, and what the master itself has counted.

    buried, redis_errors: counted by the master; those of workers are added. dead_for: all dead
    letters by reason. scheduled: of messages that the master moved. acked: for the rate; this call
    tells it how many messages have been acknowledged since the last call.
    """
    totals = [slot.totals() for slot in crew.slots]
    workers = [_line(*pair, mono_ms()) for pair in zip(crew.slots, totals, strict=True)]
    counted = added(*totals)
    acked.record(counted["acked"] - acked.total)
    counts: dict[str, Any] = {name: counted[name] for name in NAMES}
    counts["dead"] += buried
    counts["redis_errors"] += redis_errors
    return PoolMetrics(
        crew=crew.name,
        uptime_s=(mono_ms() - crew.began_ms) / 1000,
        configured=crew.configured,
        dead_for=dict(dead_for),
        replaced=sum(crew.replaced.values()),
        replaced_for=dict(crew.replaced),
        paused=paused,
        snapshots=sum(w.snapshots for w in workers),
        scheduled=scheduled,
        acked_per_s=acked.rate(),
        handling=histogram(counted, HANDLING),
        waiting=histogram(counted, WAITING),
        failures=failures,
        tasks=of_totals(counted),
        workers=[
            line
            for slot, line in zip(crew.slots, workers, strict=True)
            if slot.wanted or slot.lives
        ],
        **counts,
    )


def _line(slot: Slot, totals: Totals, now_ms: int) -> WorkerMetrics:
    worker = slot.active or (slot.lives[-1] if slot.lives else None)
    busy_since = worker.row[Field.BUSY_SINCE] if worker else 0
    read_at = worker.row[Field.READ_AT] if worker else 0
    message_id, since_ms = worker.running() if worker else ("", 0)
    state = worker.state.value if worker else WorkerState.GONE.value
    return WorkerMetrics(
        slot=slot.number,
        crew=slot.crew.name,
        pid=worker.pid if worker else 0,
        state=BUSY if busy_since else state,
        consumer=worker.consumer if worker else "",
        busy_ms=max(now_ms - busy_since, 1) if busy_since else 0,
        poll_age_ms=now_ms - read_at if read_at else 0,
        snapshots=slot.snapshots,
        cpu_ms=slot.processor_ms(),
        memory_mb=(memory_mb(worker.pid) or 0) if worker and worker.pid else 0,
        message_id=message_id,
        message_ms=max(now_ms - since_ms, 1) if since_ms else 0,
        task=worker.task if worker and message_id else "",
        **{name: totals[name] for name in NAMES},
    )
