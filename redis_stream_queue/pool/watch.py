"""Watches the workers' vitals: kills what is stuck, retires what has grown too large."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable

from .._clock import mono_ms
from .._log import log
from .limits import LONG_HANDLER_MS, Action, Limits, Vitals, judge
from .roster import Worker
from .rows import DUMP_SIGNAL, Field
from .states import WorkerState
from .workforce import Workforce

LIMITED_S = 0.1  # between two looks where a time limit is set
UNLIMITED_S = 0.5
MEMORY_EVERY_MS = 1000
DUMP_WAIT_S = 0.2
MOST_DUMP = 1500  # characters


class Watch:
    """Looks at every worker, every ``interval_s``.

    redis_ok_ms: for how long Redis has answered the master without a break.
    """

    def __init__(
        self, workforce: Workforce, limits: Limits, redis_ok_ms: Callable[[], int]
    ) -> None:
        self._workforce = workforce
        self.interval_s = UNLIMITED_S if limits.time_limit_s is None else LIMITED_S
        self._limits = limits
        self._redis_ok_ms = redis_ok_ms
        self._next_memory_ms = 0
        self._named: dict[Worker, int] = {}

    async def look(self) -> None:
        """One round over all workers."""
        now = mono_ms()
        weigh = self._limits.memory_mb is not None and now >= self._next_memory_ms
        if weigh:
            self._next_memory_ms = now + MEMORY_EVERY_MS
        for worker in self._workforce.living():
            if worker.state is WorkerState.STARTING or worker.killed:
                continue
            vitals = self._vitals(worker, now, weigh=weigh)
            self._name_long_handler(worker, vitals)
            match judge(vitals, self._limits):
                case (Action.KILL, why):
                    await self._kill(worker, why)
                case (Action.RETIRE, why) if not worker.retiring:
                    log.info("slot=%d pid=%d is replaced: %s", worker.slot, worker.pid, why)
                    self._workforce.retire(worker)

    def _vitals(self, worker: Worker, now: int, *, weigh: bool) -> Vitals:
        row = worker.row
        since, read_at = row[Field.MESSAGE_SINCE], row[Field.READ_AT]
        return Vitals(
            busy=worker.busy,
            message_ms=now - since if worker.busy and since else 0,
            poll_age_ms=now - max(read_at, row[Field.BUSY_UNTIL]),
            redis_ok_ms=self._redis_ok_ms(),
            memory_mb=_memory_mb(worker.pid) if weigh else None,
        )

    def _name_long_handler(self, worker: Worker, vitals: Vitals) -> None:
        """Once for each message: nothing is killed without a limit, but somebody should know."""
        since = worker.row[Field.MESSAGE_SINCE]
        if vitals.message_ms > LONG_HANDLER_MS and self._named.get(worker) != since:
            self._named[worker] = since
            ms, seq = worker.row.id(Field.CURRENT_MS)
            log.warning(
                "slot=%d pid=%d has been handling message %d-%d for %d s",
                worker.slot,
                worker.pid,
                ms,
                seq,
                vitals.message_ms // 1000,
            )

    async def _kill(self, worker: Worker, why: str) -> None:
        stack = await dump_stack(worker)
        log.error(
            "slot=%d pid=%d is killed: %s%s", worker.slot, worker.pid, why, stack and f"\n{stack}"
        )
        self._workforce.kill(worker, f"{why}\n{stack}" if stack else why)


def _memory_mb(pid: int) -> float | None:
    import psutil  # only where there is a memory limit: it takes as long as all modules of ours

    try:
        return float(psutil.Process(pid).memory_info().rss / 1e6)
    except psutil.Error:
        return None


async def dump_stack(worker: Worker) -> str:
    """Where a worker's threads are now, as faulthandler prints it; "" if it cannot tell."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # whatever the worker has there by now
    try:
        dump = os.open(f"/proc/{worker.pid}/fd/{worker.row[Field.DUMP_FD]}", flags)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(dump).st_mode):
            return ""
        os.lseek(dump, 0, os.SEEK_END)
        os.kill(worker.pid, DUMP_SIGNAL)
        await asyncio.sleep(DUMP_WAIT_S)
        return os.read(dump, MOST_DUMP).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(dump)
