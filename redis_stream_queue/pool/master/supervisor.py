"""The workers as processes: started, watched, sent away, replaced. Knows nothing of Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from ... import _exits
from ..._clock import mono_ms
from ..._exits import Failure
from ..._log import logger
from ...connection.backoff import Backoff
from ...exceptions import RedisStreamError
from ..metrics_pipe import Reports
from ..pipe import Channel
from ..protocol import Drain, Message, WorkerSpec
from ..scoreboard import MAX_ROWS, Scoreboard
from .slots import Slot, WorkerRecord
from .spawner import Spawner, how_it_ended
from .states import WorkerState

log = logger(__name__)

RESTART_FIRST_S = 0.1
RESTART_LONGEST_S = 10.0
MOST_FAILED_STARTS = 5
RETIRE_AGAIN_S = 1.0
FORKED_WAIT_S = 1.0
MOST_LIVES = 4  # of one slot: old ones that finish long jobs, and a new one
REFILL_S = 0.02
ORPHANS_S = 3.0


class Supervisor:
    """N slots, each with at most one living worker.

    spec: what a new worker is told at its fork.
    on_message(worker, message), on_death(worker, why), on_failure(error): called in the loop.
    """

    def __init__(
        self, count: int, scoreboard: Scoreboard, spawner: Spawner, spec: WorkerSpec
    ) -> None:
        self.slots = [Slot(number) for number in range(count)]
        self.replaced = 0
        self.ever_ready = False
        self.on_message: Callable[[WorkerRecord, Message], None] = lambda *_: None
        self.on_death: Callable[[WorkerRecord, str], None] = lambda *_: None
        self.on_failure: Callable[[RedisStreamError | Failure], None] = lambda _: None
        self._scoreboard = scoreboard
        self._free_rows = deque(range(MAX_ROWS))
        self._spawner = spawner
        self._spec = spec
        self._early_exits: dict[int, tuple[int, int]] = {}
        self._leaving = False
        self._all_gone = asyncio.Event()
        self._changed = asyncio.Event()
        self._to_retire: deque[WorkerRecord] = deque()
        self._retiring: asyncio.Task[None] | None = None
        self._reloading = False
        self._reloads = 0  # so often was fresh code asked for
        self._proven = False  # the newest has been seen to start
        self._no_room = Backoff(RESTART_FIRST_S, RESTART_LONGEST_S)
        self._template_ends = Backoff(RESTART_FIRST_S, RESTART_LONGEST_S)

    # -- starting ------------------------------------------------------------------------------

    def start(self) -> None:
        """Fill every slot; call it in the running loop."""
        self._spawner.on_forked = self._forked
        self._spawner.on_fork_failed = self._fork_failed
        self._spawner.on_exit = self._exited
        self._spawner.on_template_death = self._template_died
        self._spawner.orphans.ours = lambda: (
            {w.pid for w in self.living()} | self._spawner.templates
        )
        self._spawner.orphans.unborn = lambda: any(w.pid == 0 for w in self.living())
        self._spawner.attach()
        for slot in self.slots:
            self._fill(slot)

    def _fill(self, slot: Slot) -> None:
        """Give a slot a worker unless it has one."""
        if not self._leaving and slot.active is None:
            self._begin_life(slot)

    def _begin_life(self, slot: Slot) -> WorkerRecord | None:
        slot.lives_so_far += 1
        row_number = self._free_rows.popleft()
        spec = self._spec._replace(row=row_number)
        try:
            pipes = self._spawner.fork(slot.number, slot.lives_so_far, spec)
        except OSError as error:
            self._fill_when_there_is_room(slot, str(error))
            pipes = None
        if pipes is None:  # or no template now: its successor will start us
            self._free_rows.append(row_number)
            return None
        sock, reader = pipes
        row = self._scoreboard.row(row_number)
        reports = Reports(reader, f"slot={slot.number}")
        worker = WorkerRecord(slot.number, slot.lives_so_far, row_number, row, reports=reports)
        worker.code = self._reloads
        slot.lives.append(worker)
        worker.channel = Channel(
            sock,
            lambda message: self.on_message(worker, message),
            lambda: self._pipe_ended(worker),
        )
        return worker

    def _fork_failed(self, slot: int, life: int, error: str) -> None:
        for worker in self.slots[slot].lives:
            if worker.life == life:
                self._fill_when_there_is_room(self._remove(worker, error), error)
                self._check_all_gone()
                return

    def _fill_when_there_is_room(self, slot: Slot, error: str) -> None:
        """The system has no more processes, memory or descriptors now."""
        pause_s = self._no_room.next_s()
        if self._no_room.worth_a_line():
            log.error(
                "slot=%d cannot start a worker: %s; trying again until it can, next in %.1f s",
                slot.number,
                error,
                pause_s,
            )
        asyncio.get_running_loop().call_later(pause_s, self._fill, slot)

    def _forked(self, slot: int, life: int, pid: int) -> None:
        for worker in self.slots[slot].lives:
            if worker.life == life:
                worker.pid = pid
                if pid in self._early_exits:
                    self._exited(pid, *self._early_exits.pop(pid))
                elif self._leaving:
                    self.send_away(worker)
                return

    def introduced(self, worker: WorkerRecord, pid: int) -> None:
        """A worker says who it is; a template that was replaced may not have told."""
        if worker.pid == 0:
            self._forked(worker.slot, worker.life, pid)

    def ready(self, worker: WorkerRecord) -> None:
        """A worker reads messages now."""
        worker.go(WorkerState.READY)
        self.slots[worker.slot].failed_starts = 0
        self.ever_ready = True
        self._no_room.reset()
        self._template_ends.reset()
        self._changed.set()

    def leaving(self, worker: WorkerRecord, threads: list[str]) -> None:
        """A worker handles nothing more; it ends when its threads and processes have."""
        worker.go(WorkerState.DRAINING)
        worker.leaving_since_ms = mono_ms()
        worker.waits_for = f"thread(s) {', '.join(threads[:5])}" if threads else "what it started"
        self._changed.set()
        asyncio.get_running_loop().call_later(REFILL_S, self._fill, self.slots[worker.slot])

    def note_background(self) -> None:
        """Call it now and then: see Orphans.note()."""
        self._spawner.orphans.note()

    @property
    def all_ready(self) -> bool:
        """Does every slot have a worker that reads messages?"""
        return all(s.active and s.active.state is WorkerState.READY for s in self.slots)

    def living(self) -> list[WorkerRecord]:
        """The workers there are, in any state but GONE."""
        return [worker for slot in self.slots for worker in slot.lives]

    # -- ending --------------------------------------------------------------------------------

    def _exited(self, pid: int, status: int, cpu_ms: int) -> None:
        worker = next((w for w in self.living() if w.pid == pid), None)
        if worker is None:
            if any(w.pid == 0 for w in self.living()):  # its Forked is still on its way
                self._early_exits[pid] = status, cpu_ms
            return
        if worker.channel is not None:
            worker.channel.finish()
        worker.cpu_ms = max(worker.cpu_ms, cpu_ms)
        was_starting = worker.state is WorkerState.STARTING
        why = worker.killed or how_it_ended(status)
        if status == 0 and not worker.told_to_go and not self._leaving:
            log.info("slot=%d pid=%d has left", worker.slot, pid)
        elif not worker.told_to_go and not self._leaving:
            self.replaced += 1
            log.warning("slot=%d pid=%d ended: %s", worker.slot, pid, why.partition("\n")[0])
        slot = self._remove(worker, why)
        self._spawner.orphans.worker_died()
        if was_starting and not self._leaving:
            self._fill_later(slot, why)
        else:  # what it leaves is handed over first: booting takes more CPU than that
            asyncio.get_running_loop().call_later(REFILL_S, self._fill, slot)
        self._check_all_gone()

    def _remove(self, worker: WorkerRecord, why: str) -> Slot:
        worker.go(WorkerState.GONE)
        if worker.channel is not None:
            worker.channel.close()
        self.on_death(worker, why)
        slot = self.slots[worker.slot]
        slot.remove(worker)
        self._free_rows.append(worker.row_number)
        self._changed.set()
        return slot

    def _fill_later(self, slot: Slot, why: str) -> None:
        """A worker that never got ready is replaced with backoff, or ends the pool."""
        slot.failed_starts += 1
        if not self.ever_ready and slot.failed_starts >= MOST_FAILED_STARTS:
            target = self._spec.target
            text = f"workers end while they load {target!r} ({why}), {slot.failed_starts} in a row."
            self.on_failure(Failure(_exits.LOAD_FAILED, text))
            return
        pause_s = min(RESTART_FIRST_S * 2 ** min(slot.failed_starts, 10), RESTART_LONGEST_S)
        asyncio.get_running_loop().call_later(pause_s, self._fill, slot)

    def _pipe_ended(self, worker: WorkerRecord) -> None:
        if worker.pid == 0 and not self._spawner.template_pid:
            self._never_forked(worker)
        elif worker.pid == 0:  # its Forked may be on its way, or went to a template that is gone
            asyncio.get_running_loop().call_later(FORKED_WAIT_S, self._never_forked, worker)

    def _never_forked(self, worker: WorkerRecord) -> None:
        if worker.pid == 0 and worker in self.slots[worker.slot].lives:
            self._fill(self._remove(worker, "never started"))
            self._check_all_gone()

    def kill(self, worker: WorkerRecord, why: str) -> None:
        """End a worker now; ``why`` becomes its cause of death."""
        if not worker.killed and worker.pid:
            worker.killed = why
            self._spawner.kill(worker.pid)

    def freeze(self) -> None:
        """The pool ends: nothing is started or replaced any more."""
        self._leaving = True

    def send_away(self, worker: WorkerRecord) -> None:
        """Ask a worker to finish what it runs and leave; one that still loads runs nothing."""
        worker.told_to_go = True
        if worker.state is WorkerState.STARTING and not worker.loaded:
            self.kill(worker, "it was still loading")
        worker.go(WorkerState.DRAINING)
        if worker.channel is not None:
            worker.channel.send(Drain())

    def send_all_away(self) -> None:
        """Drain the whole pool; nothing is started any more."""
        self._leaving = True
        for worker in self.living():
            self.send_away(worker)
        self._check_all_gone()

    async def until_all_gone(self) -> None:
        """Wait for the last worker to be gone."""
        await self._all_gone.wait()

    async def kill_all(self) -> None:
        """End every worker now, and wait until the last one is gone."""
        self._leaving = True
        if self._retiring is not None:
            self._retiring.cancel()
        for worker in self.living():
            if worker.pid:
                self._spawner.kill(worker.pid)
            self._never_forked(worker)
        self._check_all_gone()
        await self._all_gone.wait()
        with contextlib.suppress(TimeoutError):  # a process may be stuck in the kernel
            async with asyncio.timeout(ORPHANS_S):
                await self._spawner.orphans.end_all()

    def _check_all_gone(self) -> None:
        if self._leaving and not self.living():
            self._all_gone.set()

    # -- replacing -----------------------------------------------------------------------------

    def retire(self, worker: WorkerRecord) -> None:
        """Replace a worker: first a new one gets ready, then this one drains; one at a time."""
        worker.must_go = True
        self._queue_to_retire(worker)

    def _queue_to_retire(self, worker: WorkerRecord) -> None:
        if worker.retiring or self._leaving:
            return
        worker.retiring = True
        self._to_retire.append(worker)
        if self._retiring is None or self._retiring.done():
            self._retiring = asyncio.ensure_future(self._retire_all())

    async def _retire_all(self) -> None:
        while self._to_retire:
            await self._replace(self._to_retire.popleft())
        if self._reloading and not self._leaving:
            self._reloading = False
            log.info("all workers have been replaced")

    async def _replace(self, old: WorkerRecord) -> None:
        slot = self.slots[old.slot]
        pause_s = RETIRE_AGAIN_S
        while old in slot.lives and not self._leaving:
            scarce = len(self._free_rows) < len(self.slots)
            if slot.lives[-1] is old and len(slot.lives) >= (2 if scarce else MOST_LIVES):
                self._to_retire.append(old)  # long jobs still end there: the others first
                await asyncio.sleep(RETIRE_AGAIN_S)
                return
            new = self._begin_life(slot) if slot.lives[-1] is old else slot.lives[-1]
            while new and new.state is WorkerState.STARTING:
                self._changed.clear()
                await self._changed.wait()
            if new and new is not old and new.state is WorkerState.READY:
                self._proven = self._proven or new.code == self._reloads
                self.send_away(old)
                return
            if new and new.code == self._reloads and self._reloading and not self._proven:
                self._give_up_reload(old)
                if not old.must_go:
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_LONGEST_S)

    def reload(self) -> None:
        """Fresh code: a new template and one worker of it; when that is ready, all are replaced one
        by one; if it does not get ready, all stay."""
        try:
            self._spawner.replace_template()
        except OSError as error:
            log.error("SIGHUP: cannot start a process: %s; all workers stay as they are", error)
            return
        self._reloads += 1
        self._reloading, self._proven = True, False
        for slot in self.slots:
            for worker in slot.lives:
                if worker.state is WorkerState.STARTING and worker is not slot.lives[0]:
                    self.send_away(worker)  # it would only be replaced
                elif worker.pid:
                    self._queue_to_retire(worker)

    def _give_up_reload(self, tried: WorkerRecord) -> None:
        self._reloading = False
        log.error(
            "the fresh code does not start: all workers stay as they are. Mend it, and send SIGHUP "
            "again"
        )
        for worker in (tried, *self._to_retire):
            worker.retiring = worker.must_go
        self._to_retire = deque(worker for worker in self._to_retire if worker.must_go)

    def _template_died(self) -> None:
        """Its workers live on; they finish what they run and are replaced one by one."""
        for worker in self.living():
            if worker.pid == 0:
                self._never_forked(worker)
        if self._leaving:
            return
        pause_s = self._template_ends.next_s()
        if self._template_ends.worth_a_line():
            log.warning(
                "the template process has ended; starting a new one and replacing its workers"
            )
        asyncio.get_running_loop().call_later(pause_s, self._restart_template)

    def _restart_template(self) -> None:
        if self._leaving:
            return
        if not self._spawner.template_pid:  # else a reload came first
            try:
                self._spawner.replace_template()
            except OSError as error:
                pause_s = self._no_room.next_s()
                if self._no_room.worth_a_line():
                    log.error("cannot start the template process: %s; trying again", error)
                asyncio.get_running_loop().call_later(pause_s, self._restart_template)
                return
        for slot in self.slots:
            self._fill(slot)
        for worker in self.living():
            if worker.pid:
                self.retire(worker)
