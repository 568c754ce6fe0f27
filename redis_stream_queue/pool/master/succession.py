"""Replaces workers that still work: first a new one gets ready, then the old one drains.

Fresh code is tried first, by a new template and one new worker of each crew (a canary). When the
canaries are ready, all other workers are replaced one by one. If a canary does not get ready, all
old workers stay, and so does the old template.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ... import _exits
from ..._exits import Failure
from ..._log import logger
from ...connection.backoff import Backoff
from .slots import Crew, WorkerRecord
from .spawner import Spawner
from .states import WorkerState
from .supervisor import MOST_FAILED_STARTS, RESTART_FIRST_S, RESTART_LONGEST_S, Supervisor

log = logger(__name__)

RETIRE_AGAIN_S = 1.0  # pause before the next try to replace a worker


class ReloadFailed(Exception):
    """The fresh code does not start; the text says why. partly: some workers already run it."""

    def __init__(self, why: str, *, partly: bool = False) -> None:
        super().__init__(why)
        self.partly = partly


class Succession:
    """One queue of workers to replace, and one reload at a time.

    on_fresh_code(canary): called with the first worker of each crew whose code is kept.
    """

    def __init__(self, supervisor: Supervisor, spawner: Spawner) -> None:
        self._supervisor = supervisor
        self._spawner = spawner
        self._to_retire: deque[WorkerRecord] = deque()
        self._retiring: asyncio.Task[None] | None = None
        self._refused = ""  # why a worker cannot load fresh code that the canaries could load
        self._again = Backoff(RESTART_FIRST_S, RESTART_LONGEST_S)
        self._early_deaths = 0  # of templates, before every crew has had a worker
        self.on_fresh_code: Callable[[WorkerRecord], None] = lambda _: None
        spawner.on_template_death = self._template_died

    def stop(self) -> None:
        """Replace no more workers, as the pool ends."""
        if self._retiring is not None:
            self._retiring.cancel()

    # -- one by one ----------------------------------------------------------------------------

    def retire(self, worker: WorkerRecord) -> None:
        """Replace a worker, when those that were to be replaced earlier have been."""
        if worker.retiring or self._supervisor.ending:
            return
        worker.retiring = True
        self._to_retire.append(worker)
        if self._retiring is None or self._retiring.done():
            self._retiring = asyncio.ensure_future(self._retire_all())

    async def _retire_all(self) -> None:
        while self._to_retire:
            await self._replace(self._to_retire.popleft())

    async def _replace(self, old: WorkerRecord) -> None:
        supervisor = self._supervisor
        slot = supervisor.slot_of(old)
        pause_s = RETIRE_AGAIN_S
        while old in slot.lives and slot.wanted and not supervisor.ending:
            if slot.lives[-1] is old and slot.is_full:
                self._to_retire.append(old)  # old workers still end in this slot: others first
                await asyncio.sleep(RETIRE_AGAIN_S)
                return
            new = supervisor.begin_life(slot) if slot.lives[-1] is old else slot.lives[-1]
            while new and new.state is WorkerState.STARTING:
                await supervisor.change()
            if new and new is not old and new.state is WorkerState.READY:
                supervisor.send_away(old)
                return
            if new and new.refused and new.code == supervisor.code:
                self._refused = new.refused
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_LONGEST_S)

    # -- fresh code ----------------------------------------------------------------------------

    async def reload(self) -> None:
        """Replace all workers by new ones with fresh code; returns when the last one is replaced.

        Raises ReloadFailed if that code does not start. May be cancelled, for another reload.
        """
        supervisor = self._supervisor
        try:
            self._spawner.try_template()
        except OSError as error:
            raise ReloadFailed(f"cannot start a process: {error}") from None
        supervisor.newest_code += 1
        canaries: list[WorkerRecord] = []
        try:
            for crew in supervisor.crews:
                canaries.append(self._canary(crew))
            await self._until_ready(canaries)
        except BaseException:  # a cancellation, too
            self._spawner.drop_trial()
            for canary in canaries:
                supervisor.send_away(canary)
            raise
        if not self._spawner.keep_trial():
            raise ReloadFailed(self._how_the_trial_ended)
        supervisor.code = code = supervisor.newest_code
        for canary in canaries:
            self.on_fresh_code(canary)
        for worker in supervisor.living():
            if worker.code < code and not worker.told_to_go:
                self.retire(worker)
        self._refused = ""
        while any(w.code < code and not w.told_to_go for w in supervisor.living()):
            if self._refused:  # the code has changed again; _replace goes on trying
                raise ReloadFailed(self._refused, partly=True)
            await supervisor.change()

    def _canary(self, crew: Crew) -> WorkerRecord:
        slot = min(crew.wanted, key=lambda slot: len(slot.lives))
        canary = None if slot.is_full else self._supervisor.begin_life(slot, fresh=True)
        if canary is None:
            raise ReloadFailed("long jobs of old workers still end: there is no room yet")
        return canary

    async def _until_ready(self, canaries: list[WorkerRecord]) -> None:
        while any(canary.state is not WorkerState.READY for canary in canaries):
            for number, canary in enumerate(canaries):
                if canary.told_to_go and not canary.refused:  # fewer workers are wanted now
                    canaries[number] = self._canary(self._supervisor.slot_of(canary).crew)
                elif canary.state in (WorkerState.GONE, WorkerState.DRAINING):
                    raise ReloadFailed(self._why(canary))
            await self._supervisor.change()

    def _why(self, canary: WorkerRecord) -> str:
        """Why a canary did not get ready."""
        never_forked = canary.pid == 0 and self._spawner.trial_ended
        return self._how_the_trial_ended if never_forked else canary.refused or canary.ended

    @property
    def _how_the_trial_ended(self) -> str:
        return f"the new template process has ended: {self._spawner.trial_ended}"

    # -- the template --------------------------------------------------------------------------

    def _template_died(self, how: str) -> None:
        """Start a new template; workers of the dead one finish what they run and are replaced."""
        supervisor = self._supervisor
        supervisor.template_died()
        if supervisor.ending:
            return
        if not supervisor.ever_ready:
            self._early_deaths += 1
            if self._early_deaths >= MOST_FAILED_STARTS:
                supervisor.on_failure(self._never_starts(how))
                return
        pause_s = self._again.next_s()
        if self._again.worth_a_line():
            log.warning(
                "the template process has ended (%s); starting a new one and replacing its workers",
                how,
            )
        asyncio.get_running_loop().call_later(pause_s, self._restart_template)

    def _restart_template(self) -> None:
        if self._supervisor.ending:
            return
        if not self._spawner.has_template:
            try:
                self._spawner.replace_template()
            except OSError as error:
                pause_s = self._again.next_s()
                if self._again.worth_a_line():
                    log.error("cannot start the template process: %s; trying again", error)
                asyncio.get_running_loop().call_later(pause_s, self._restart_template)
                return
        self._supervisor.fill_all()
        for worker in self._supervisor.living():
            if worker.pid:
                self.retire(worker)

    def _never_starts(self, how: str) -> Failure:
        waiting = [crew for crew in self._supervisor.crews if not crew.ever_ready]
        names = " or ".join(repr(crew.name) for crew in waiting)
        what = f"imports {names} (--preload)" if waiting[0].spec.preload else "starts"
        return Failure(
            _exits.LOAD_FAILED,
            f"the template process ends while it {what}: {how}, {self._early_deaths} times in a "
            "row.",
        )

    def worked(self) -> None:
        """Note that a worker is ready; when all are, the next trouble begins with short pauses."""
        if self._supervisor.all_ready:
            self._again.reset()
