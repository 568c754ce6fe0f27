"""The workers as processes: starts them, replaces those that have ended, and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from ... import _exits
from ..._clock import mono_ms
from ..._exits import Failure
from ..._log import logger
from ...connection.backoff import Backoff
from ...exceptions import RedisStreamError
from ..metrics_pipe import Reports
from ..pipe import Channel
from ..protocol import Drain, Message
from .slots import Crew, Slot, WorkerRecord
from .spawner import Spawner, how_it_ended
from .states import WorkerState

log = logger(__name__)

RESTART_FIRST_S = 0.1  # pause after a failed start; it doubles
RESTART_LONGEST_S = 10.0  # up to this
MOST_FAILED_STARTS = 5  # in a row, before the first success: then the pool ends
FORKED_WAIT_S = 1.0  # how long a Forked message may be on its way
CUT_OFF_S = 1.0  # from the end of a worker's pipe to the end of its process, at most
REFILL_S = 0.02  # from the end of a worker to the start of the next one
ORPHANS_S = 3.0  # how long the end waits for processes that workers have left


class Supervisor:
    """The slots of all crews; each has one worker that works, and perhaps older ones that end.

    on_message(worker, message), on_death(worker, why), on_failure(error): called in the loop.
    code: number of the code that new workers run; each reload counts it up. newest_code: number of
    the code that was loaded last, and may be on trial.
    """

    def __init__(self, crews: list[Crew], spawner: Spawner) -> None:
        self.crews = crews
        self.slots: list[Slot] = []
        self.code = self.newest_code = 0
        self.ending = False
        self.on_message: Callable[[WorkerRecord, Message], None] = lambda *_: None
        self.on_death: Callable[[WorkerRecord, str], None] = lambda *_: None
        self.on_failure: Callable[[RedisStreamError | Failure], None] = lambda _: None
        self._spawner = spawner
        self._early_exits: dict[int, tuple[int, int]] = {}
        self._all_gone = asyncio.Event()
        self._changed = asyncio.Event()
        self._no_room = Backoff(RESTART_FIRST_S, RESTART_LONGEST_S)
        for crew in crews:
            for _ in range(crew.configured):
                self._add_slot(crew)

    def _add_slot(self, crew: Crew) -> Slot:
        slot = Slot(len(self.slots), crew)
        self.slots.append(slot)
        crew.slots.append(slot)
        return slot

    # -- starting ------------------------------------------------------------------------------

    def start(self) -> None:
        """Give every slot a worker; call this in the event loop."""
        self._spawner.on_forked = self._forked
        self._spawner.on_fork_failed = self._fork_failed
        self._spawner.on_exit = self._exited
        self._spawner.orphans.ours = lambda: {w.pid for w in self.living()} | self._spawner.others
        self._spawner.orphans.fork_pending = lambda: any(w.pid == 0 for w in self.living())
        self._spawner.attach()
        for slot in self.slots:
            self._fill(slot)

    def _fill(self, slot: Slot) -> None:
        """Give a slot a worker unless it has one."""
        if not self.ending and slot.wanted and slot.active is None:
            self.begin_life(slot)

    def begin_life(self, slot: Slot, *, fresh: bool = False) -> WorkerRecord | None:
        """Start one more worker in a slot; None = it is not possible now.

        fresh: it runs the code on trial.
        """
        crew = slot.crew
        slot.lives_so_far += 1
        row_number = crew.free_rows.popleft()
        spec = crew.spec._replace(row=row_number)
        try:
            pipes = self._spawner.fork(
                slot.number, slot.lives_so_far, spec, crew.scoreboard, on_trial=fresh
            )
        except OSError as error:
            self._fill_when_there_is_room(slot, str(error))
            pipes = None
        if pipes is None:  # also without a template: fill_all() is called when there is one again
            crew.free_rows.append(row_number)
            return None
        sock, reader = pipes
        row = crew.scoreboard.row(row_number)
        reports = Reports(reader, f"slot={slot.number}")
        worker = WorkerRecord(slot.number, slot.lives_so_far, row_number, row, reports=reports)
        worker.crew, worker.code = crew.name, self.newest_code if fresh else self.code
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
        """Try again later: the system has no more processes, memory or descriptors now."""
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
                elif self.ending:
                    self.send_away(worker)
                return

    def introduced(self, worker: WorkerRecord, pid: int) -> None:
        """A worker tells its pid, which a template that was replaced may not have told."""
        if worker.pid == 0:
            self._forked(worker.slot, worker.life, pid)

    def ready(self, worker: WorkerRecord) -> None:
        """Note that a worker reads messages now."""
        worker.move_to(WorkerState.READY)
        slot = self.slot_of(worker)
        slot.failed_starts = 0
        slot.crew.ever_ready = True
        self._no_room.reset()
        self._changed.set()

    def leaving(self, worker: WorkerRecord, threads: list[str]) -> None:
        """Note that a worker handles nothing more; it ends when its threads and processes have."""
        worker.move_to(WorkerState.DRAINING)
        worker.leaving_since_ms = mono_ms()
        worker.waits_for = f"thread(s) {', '.join(threads)}" if threads else "what it started"
        self._changed.set()
        asyncio.get_running_loop().call_later(REFILL_S, self._fill, self.slots[worker.slot])

    @property
    def all_ready(self) -> bool:
        """Does every slot have a worker that reads messages?"""
        return all(slot.is_ready for slot in self.slots if slot.wanted)

    @property
    def ever_ready(self) -> bool:
        """Has every crew had a worker that reads messages?"""
        return all(crew.ever_ready for crew in self.crews)

    def slot_of(self, worker: WorkerRecord) -> Slot:
        return self.slots[worker.slot]

    def living(self) -> list[WorkerRecord]:
        """All workers, in any state but GONE."""
        return [worker for slot in self.slots for worker in slot.lives]

    async def change(self) -> None:
        """Wait until a worker gets ready, is told to go or ends."""
        self._changed.clear()
        await self._changed.wait()

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
        if status == 0 and not worker.told_to_go and not self.ending:
            log.info("slot=%d pid=%d has left", worker.slot, pid)
        elif not worker.told_to_go and not self.ending:
            by = worker.ended_by(os.waitstatus_to_exitcode(status))
            self.slot_of(worker).crew.replaced[by] += 1
            log.warning("slot=%d pid=%d ended: %s", worker.slot, pid, why.partition("\n")[0])
        slot = self._remove(worker, why)
        self._spawner.orphans.worker_died()
        if was_starting and not self.ending:
            self._fill_later(slot, why)
        else:  # a little later: a start takes CPU time that handing over its messages needs
            asyncio.get_running_loop().call_later(REFILL_S, self._fill, slot)
        self._check_all_gone()

    def _remove(self, worker: WorkerRecord, why: str) -> Slot:
        worker.move_to(WorkerState.GONE)
        worker.ended = why
        if worker.channel is not None:
            worker.channel.close()
        self.on_death(worker, why)
        slot = self.slot_of(worker)
        slot.remove(worker)
        slot.crew.free_rows.append(worker.row_number)
        self._changed.set()
        return slot

    def _fill_later(self, slot: Slot, why: str) -> None:
        """Replace a worker that never got ready after a pause; after too many the pool ends."""
        slot.failed_starts += 1
        if not slot.crew.ever_ready and slot.failed_starts >= MOST_FAILED_STARTS:
            target = slot.crew.name
            text = f"workers end while they load {target!r} ({why}), {slot.failed_starts} in a row."
            self.on_failure(Failure(_exits.LOAD_FAILED, text))
            return
        pause_s = min(RESTART_FIRST_S * 2 ** min(slot.failed_starts, 10), RESTART_LONGEST_S)
        asyncio.get_running_loop().call_later(pause_s, self._fill, slot)

    def _pipe_ended(self, worker: WorkerRecord) -> None:
        if worker.pid == 0 and not self._spawner.has_template:
            self._never_forked(worker)
        elif worker.pid == 0:  # its Forked may be on its way, or went to a template that is gone
            asyncio.get_running_loop().call_later(FORKED_WAIT_S, self._never_forked, worker)
        else:  # as a rule the process has ended, too
            asyncio.get_running_loop().call_later(CUT_OFF_S, self._cut_off, worker)

    def _cut_off(self, worker: WorkerRecord) -> None:
        """Replace a worker that lives and cannot be told anything any more, or that has ended and
        whose template has ended, too, before it told so."""
        if worker not in self.living():
            return
        if not self._spawner.exists(worker.pid):
            worker.killed = worker.killed or "ended, and its template before it told how"
            self._exited(worker.pid, signal.SIGKILL, 0)
        elif not (worker.leaving_since_ms or worker.killed):
            log.error(
                "slot=%d pid=%d: the app closed descriptors that are not its own, the pipe to the "
                "master among them: this worker ends after what it runs and is replaced",
                worker.slot,
                worker.pid,
            )
            self._spawner.kill(worker.pid, signal.SIGTERM)

    def _never_forked(self, worker: WorkerRecord) -> None:
        if worker.pid == 0 and worker in self.slots[worker.slot].lives:
            self._fill(self._remove(worker, "never started"))
            self._check_all_gone()

    def kill(self, worker: WorkerRecord, why: str) -> None:
        """End a worker now; ``why`` becomes its cause of death."""
        if not worker.killed and worker.pid:
            worker.killed = why
            self._spawner.kill(worker.pid)

    def send_away(self, worker: WorkerRecord) -> None:
        """Ask a worker to finish what it runs and end; one that still loads is killed."""
        if worker.state is WorkerState.STARTING and not worker.loaded:
            self.kill(worker, "it was still loading")
            if worker.pid == 0:  # its template may be busy with an import (--preload)
                asyncio.get_running_loop().call_later(FORKED_WAIT_S, self._never_forked, worker)
        self._drain(worker)

    def _drain(self, worker: WorkerRecord) -> None:
        """Ask a worker to finish what it runs and end; one that still loads ends when it has."""
        worker.told_to_go = True
        worker.move_to(WorkerState.DRAINING)
        if worker.channel is not None:
            worker.channel.send(Drain())
        self._changed.set()

    def send_all_away(self) -> None:
        """Drain the whole pool; no worker is started any more."""
        self.ending = True
        for worker in self.living():
            self.send_away(worker)
        self._check_all_gone()

    async def until_all_gone(self) -> None:
        """Wait until the last worker has ended."""
        await self._all_gone.wait()

    async def kill_all(self) -> None:
        """Kill every worker, and wait until all of them and their processes have ended."""
        self.ending = True
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
        if self.ending and not self.living():
            self._all_gone.set()

    # -- how many ------------------------------------------------------------------------------

    def resize(self, crew: Crew, count: int) -> int:
        """Let a crew have ``count`` workers, 1 at least; those that are too many are drained.

        Returns how many it is to have now: fewer if old workers that still end take up all rows.
        """
        while len(crew.wanted) < count and len(crew.free_rows) > len(crew.slots):
            free = [slot for slot in crew.slots if not slot.wanted and not slot.lives]
            slot = free[0] if free else self._add_slot(crew)
            slot.wanted = True
            self._fill(slot)
        while len(crew.wanted) > max(count, 1):
            idle = [slot for slot in crew.wanted if not (slot.active and slot.active.busy)]
            slot = (idle or crew.wanted)[-1]
            slot.wanted = False
            for worker in slot.lives:
                self._drain(worker)
        return len(crew.wanted)

    def template_died(self) -> None:
        """Forget the workers that the dead template was asked for and has not told of."""
        for worker in self.living():
            if worker.pid == 0:
                self._never_forked(worker)

    def fill_all(self) -> None:
        """Give every slot a worker, as there is a template again."""
        for slot in self.slots:
            self._fill(slot)
