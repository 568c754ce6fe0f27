"""Watches the workers: kills those that are stuck, replaces those that use too much memory."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from ..._clock import mono_ms
from ..._log import logger
from .._linux import memory_mb
from ..scoreboard import DUMP_SIGNAL, Field
from .limits import LONG_HANDLER_MS, Action, Limits, Vitals, judge, memory_limit_mb
from .slots import WorkerRecord
from .states import WorkerState

log = logger(__name__)

LIMITED_S = 0.1  # between two looks if there is a time limit
UNLIMITED_S = 1.0  # between two looks if there is none
MEMORY_EVERY_MS = 800  # less than UNLIMITED_S, also of a short one: memory is read at each look
DUMP_WAIT_S = 0.2  # how long a worker has to write its stacks
MOST_DUMP = 1500  # bytes of them that are read
LOADING_LOOK_S, NONE_LOADING_LOOK_S = 1.0, 5.0
SLOW_LOADING_MS = 10_000  # a worker that loads for longer is logged
NOT_LOOKED_AT = WorkerState.STARTING, WorkerState.GONE  # a row may be another life's by now
MOST_FRAMES = 8  # innermost frames that are shown; further out is the import system


class HealthCheck:
    """Looks at every worker; look() is to be called every ``interval_s``.

    living: returns the workers. redis_ok_ms: returns for how long Redis has answered the master
    without a break. limited: is there a time limit, of the pool or of a task? kill(worker, why):
    ends a worker at once. retire(worker): replaces it.
    """

    def __init__(
        self,
        living: Callable[[], list[WorkerRecord]],
        limits: Limits,
        redis_ok_ms: Callable[[], int],
        *,
        limited: bool,
        kill: Callable[[WorkerRecord, str], None],
        retire: Callable[[WorkerRecord], None],
    ) -> None:
        self._living = living
        self._kill_worker = kill
        self._retire = retire
        self.interval_s = LIMITED_S if limited else UNLIMITED_S
        self._limits = limits
        self._redis_ok_ms = redis_ok_ms
        self._next_memory_ms = 0
        self._named: dict[WorkerRecord, int] = {}
        self._weighed: dict[WorkerRecord, Weighed] = {}

    async def look(self) -> None:
        """One round over all workers."""
        now = mono_ms()
        weigh = self._limits.memory_mb is not None and now >= self._next_memory_ms
        if weigh:
            self._next_memory_ms = now + MEMORY_EVERY_MS
            self._weighed = {w: self._weigh(w) for w in self._living()}
        for worker in self._living():
            if worker.state in NOT_LOOKED_AT or worker.killed or not worker.pid:
                continue
            runs = worker.running()
            limits = self._limits_for(worker)  # before the time: see Field.LIMIT_MS
            vitals = self._vitals(worker, now, weighed=weigh)
            self._name_long_handler(worker, vitals)
            match judge(vitals, limits):
                case (Action.KILL | Action.TIME_OUT as action, why):
                    if worker.waits_for:
                        why = f"{why}: it waits for {worker.waits_for}"
                    stack = await dump_stack(worker)
                    if worker.running() != runs or worker.state is WorkerState.GONE:
                        continue  # that message has just ended; the next one is not to blame
                    worker.overran = runs[0] if action is Action.TIME_OUT else None
                    self._kill(worker, why, stack)
                case (Action.RETIRE, why) if not worker.retiring:
                    log.info("slot=%d pid=%d is replaced: %s", worker.slot, worker.pid, why)
                    self._retire(worker)

    def _limits_for(self, worker: WorkerRecord) -> Limits:
        limits, own_ms = self._limits, worker.row[Field.LIMIT_MS]
        if own_ms:
            limits = limits._replace(time_limit_s=own_ms / 1000)
        if limits.memory_mb is None:
            return limits
        return limits._replace(memory_mb=memory_limit_mb(limits.memory_mb, worker.own_mb))

    def _weigh(self, worker: WorkerRecord) -> Weighed:
        return weighed(
            self._weighed.get(worker),
            memory_mb(worker.pid),
            worker.row[Field.OWN_MB],
            worker.row[Field.MESSAGE_SINCE],
        )

    def _vitals(self, worker: WorkerRecord, now: int, *, weighed: bool) -> Vitals:
        row = worker.row
        since, read_at = row[Field.MESSAGE_SINCE], row[Field.READ_AT]
        memory = self._weighed.get(worker) if weighed else None
        return Vitals(
            busy=worker.busy,
            message_ms=now - since if worker.busy and since else 0,
            poll_age_ms=now - max(read_at, row[Field.BUSY_UNTIL], worker.began_ms),
            redis_ok_ms=self._redis_ok_ms(),
            memory_mb=memory.used_mb if memory else None,
            taken_mb=memory.taken_mb if memory else 0,
            leaving_ms=now - worker.leaving_since_ms if worker.leaving_since_ms else 0,
        )

    def _name_long_handler(self, worker: WorkerRecord, vitals: Vitals) -> None:
        """Log a message that runs for very long, once: without a limit it is not killed."""
        since = worker.row[Field.MESSAGE_SINCE]
        if vitals.message_ms > LONG_HANDLER_MS and self._named.get(worker) != since:
            self._named[worker] = since
            log.warning(
                "slot=%d pid=%d has been handling message %s for %d s",
                worker.slot,
                worker.pid,
                worker.row.id(Field.CURRENT),
                vitals.message_ms // 1000,
            )

    def _kill(self, worker: WorkerRecord, why: str, stack: str) -> None:
        log.error(
            "slot=%d pid=%d is killed: %s%s", worker.slot, worker.pid, why, stack and f"\n{stack}"
        )
        self._kill_worker(worker, f"{why}\n{stack}" if stack else why)


class Weighed(NamedTuple):
    """Memory of a worker.

    since: start of the message that runs, 0 = none, or the first one of a life, which is not looked
    at. at_start_mb: memory when that message was started. used_mb: memory now, None = unknown.
    """

    since: int
    at_start_mb: float | None
    used_mb: float | None

    @property
    def taken_mb(self) -> float:
        """How much of the memory the running message has taken."""
        return (self.used_mb or 0) - (self.at_start_mb or 0)


def weighed(before: Weighed | None, used_mb: float | None, own_mb: int, since: int) -> Weighed:
    """The memory of a worker now.

    before: the result of the last call, some messages ago perhaps. used_mb: memory in use now.
    own_mb: memory after its first message, 0 = that has not ended. since: start of the message that
    runs, 0 = none.
    """
    if not own_mb or not since:
        return Weighed(0, used_mb, used_mb)
    if before is None or since != before.since:
        seen_mb = (before.used_mb or 0) if before else 0
        return Weighed(since, max(seen_mb, own_mb), used_mb)
    return Weighed(since, before.at_start_mb, used_mb)


async def watch_loading(living: Callable[[], list[WorkerRecord]], target: str) -> NoReturn:
    """Log workers that take long to load the app, and where in the code one of them is."""
    say_at_ms, loading = SLOW_LOADING_MS, living()
    while True:
        await asyncio.sleep(LOADING_LOOK_S if loading else NONE_LOADING_LOOK_S)
        loading = [w for w in living() if not w.loaded and not w.told_to_go]
        slow_ms = max((mono_ms() - w.began_ms for w in loading), default=0)
        if not loading:
            say_at_ms = SLOW_LOADING_MS
        elif slow_ms >= say_at_ms:
            say_at_ms = slow_ms * 2
            stack = "\n".join((await dump_stack(loading[0])).splitlines()[:MOST_FRAMES])
            log.warning(
                "%d worker(s) have been loading %r for %d s%s",
                len(loading),
                target,
                slow_ms // 1000,
                stack and f", one of them here:\n{stack}",
            )


async def dump_stack(worker: WorkerRecord) -> str:
    """The stacks of a worker's threads as faulthandler prints them; "" if it cannot write them."""
    if not worker.pid:
        return ""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # an app may have put any file there
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
