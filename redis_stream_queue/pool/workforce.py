"""The workers as processes: started, watched, sent away, replaced. Knows nothing of Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ..exceptions import RedisStreamError
from . import exits
from .channel import Channel
from .exits import Failure
from .protocol import Drain, Message
from .roster import Slot, Worker
from .rows import Rows
from .spawner import Spawner, how_it_ended
from .states import WorkerState

log = logging.getLogger("redis_stream_queue")

RESTART_FIRST_S = 0.1
RESTART_LONGEST_S = 10.0
MOST_FAILED_STARTS = 5


class Workforce:
    """N slots, each with at most one living worker.

    spec: what a new worker is told at its fork.
    on_message(worker, message), on_death(worker, why), on_failure(error): called in the loop.
    """

    def __init__(self, count: int, rows: Rows, spawner: Spawner, spec: dict[str, Any]) -> None:
        self.slots = [Slot(number, rows.row(number)) for number in range(count)]
        self.replaced = 0
        self.ever_ready = False
        self.on_message: Callable[[Worker, Message], None] = lambda *_: None
        self.on_death: Callable[[Worker, str], None] = lambda *_: None
        self.on_failure: Callable[[RedisStreamError | Failure], None] = lambda _: None
        self._spawner = spawner
        self._spec = spec
        self._by_pid: dict[int, Worker] = {}
        self._early_exits: dict[int, int] = {}
        self._leaving = False
        self._all_gone = asyncio.Event()
        self._changed = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None

    # -- starting ------------------------------------------------------------------------------

    def start(self) -> None:
        """Fill every slot; call it in the running loop."""
        self._spawner.on_forked = self._forked
        self._spawner.on_exit = self._exited
        self._spawner.on_template_death = self._template_died
        self._spawner.attach()
        for slot in self.slots:
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        """Begin a new life in a slot."""
        if self._leaving or slot.worker is not None:
            return
        slot.lives += 1
        sock = self._spawner.fork(slot.number, slot.lives, self._spec)
        if sock is None:  # no template now: its successor will start us
            return
        worker = slot.worker = Worker(slot.number, slot.lives, slot.row, sock)
        worker.channel = Channel(
            sock,
            lambda message: self.on_message(worker, message),
            lambda: self._pipe_ended(worker),
        )

    def _forked(self, slot: int, life: int, pid: int) -> None:
        worker = self.slots[slot].worker
        if worker is None or worker.life != life:
            return
        worker.pid = pid
        self._by_pid[pid] = worker
        if pid in self._early_exits:
            self._exited(pid, self._early_exits.pop(pid))
        elif self._leaving:
            self.send_away(worker)

    def ready(self, worker: Worker) -> None:
        """A worker reads messages now."""
        worker.go(WorkerState.READY)
        self.slots[worker.slot].failed_starts = 0
        self.ever_ready = True
        self._changed.set()

    @property
    def all_ready(self) -> bool:
        """Does every slot have a worker that reads messages?"""
        return all(s.worker and s.worker.state is WorkerState.READY for s in self.slots)

    def living(self) -> list[Worker]:
        """The workers there are, in any state but GONE."""
        return [slot.worker for slot in self.slots if slot.worker is not None]

    # -- ending --------------------------------------------------------------------------------

    def _exited(self, pid: int, status: int) -> None:
        worker = self._by_pid.pop(pid, None)
        if worker is None:
            if any(w.pid == 0 for w in self.living()):  # its Forked is still on its way
                self._early_exits[pid] = status
            return
        was_starting = worker.state is WorkerState.STARTING
        why = worker.killed or how_it_ended(status)
        worker.go(WorkerState.GONE)
        if worker.channel is not None:
            worker.channel.close()
        self.on_death(worker, why)
        slot = self.slots[worker.slot]
        slot.bury_life()
        slot.worker = None
        if self._leaving:
            self._check_all_gone()
            return
        if not worker.told_to_go:
            self.replaced += 1
            log.warning("slot=%d pid=%d ended: %s", worker.slot, pid, why)
        if was_starting:
            self._start_later(slot, why)
        else:
            self._start(slot)

    def _start_later(self, slot: Slot, why: str) -> None:
        """A worker that never got ready is replaced with backoff, or ends the pool."""
        slot.failed_starts += 1
        if not self.ever_ready and slot.failed_starts >= MOST_FAILED_STARTS:
            target = self._spec["target"]
            text = f"workers end while they load {target!r} ({why}), {slot.failed_starts} in a row."
            self.on_failure(Failure(exits.LOAD_FAILED, text))
            return
        pause_s = min(RESTART_FIRST_S * 2 ** min(slot.failed_starts, 10), RESTART_LONGEST_S)
        asyncio.get_running_loop().call_later(pause_s, self._start, slot)

    def _pipe_ended(self, worker: Worker) -> None:
        if worker.pid == 0 and not self._spawner.template_pid:
            self._never_forked(worker)

    def _never_forked(self, worker: Worker) -> None:
        slot = self.slots[worker.slot]
        if slot.worker is worker:
            if worker.channel is not None:
                worker.channel.close()
            slot.worker = None
            self._start(slot)
            self._check_all_gone()

    def send_away(self, worker: Worker) -> None:
        """Ask a worker to finish what it runs and leave."""
        worker.told_to_go = True
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
        await self._all_gone.wait()

    async def kill_all(self) -> None:
        """End every worker now, and wait until the last one is gone."""
        self._leaving = True
        if self._replacing is not None:
            self._replacing.cancel()
        for worker in list(self._by_pid.values()):
            self._spawner.kill(worker.pid)
        self._check_all_gone()
        await self._all_gone.wait()

    def _check_all_gone(self) -> None:
        if self._leaving and not self.living():
            self._all_gone.set()

    # -- the template --------------------------------------------------------------------------

    def _template_died(self) -> None:
        """Its workers live on; they finish what they run and are replaced one by one."""
        unborn = [worker for worker in self.living() if worker.pid == 0]
        if self._leaving:
            for worker in unborn:
                self._never_forked(worker)
            return
        log.warning("the template process has ended; starting a new one and replacing its workers")
        self._spawner.replace_template()
        for worker in unborn:
            self._never_forked(worker)
        orphans = list(self._by_pid.values())
        for slot in self.slots:
            self._start(slot)
        self._replacing = asyncio.ensure_future(self._replace(orphans))

    async def _replace(self, workers: list[Worker]) -> None:
        """Drain workers one by one, each after its predecessor's replacement is ready."""
        for worker in workers:
            if worker.state is WorkerState.GONE:
                continue
            self.send_away(worker)
            while not self._leaving and not self._is_replaced(worker):
                self._changed.clear()
                await self._changed.wait()

    def _is_replaced(self, worker: Worker) -> bool:
        successor = self.slots[worker.slot].worker
        return (
            successor is not None
            and successor is not worker
            and successor.state is not WorkerState.STARTING
        )
