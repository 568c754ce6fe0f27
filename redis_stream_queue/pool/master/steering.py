"""Answers signals of operators to a running pool: fresh code, more or fewer workers, quiet."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..._log import logger
from ..._plain import plain_cut
from ..metrics import PoolMetrics
from ..standard_streams import STREAMS
from .crew import CrewLife
from .succession import ReloadFailed, Succession
from .supervisor import Supervisor
from .systemd import notify

log = logger(__name__)

MOST_REASON = 200  # characters


class Steering:
    """Answers the signals that do not end the pool.

    metrics: returns those of the pool. task: runs an awaitable in the background. quiet: does the
    pool start nothing new? reloads: how many there were, by result.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        succession: Succession,
        crews: list[CrewLife],
        metrics: Callable[[], PoolMetrics],
        task: Callable[[Awaitable[Any]], None],
    ) -> None:
        self.quiet = False
        self.reloads = {"ok": 0, "failed": 0}
        self._supervisor = supervisor
        self._succession = succession
        self._crews = crews
        self._metrics = metrics
        self._task = task
        self._reloading: asyncio.Task[None] | None = None
        self.reload_failed = ""  # why, if the last one did
        self.reload_failed_s = 0.0  # when, in seconds since the epoch
        self._asked_early = ""  # why to reload once the pool runs
        self._over = False

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen to signals from now on."""
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, _terminals())
        loop.add_signal_handler(signal.SIGTTIN, self._scale, "SIGTTIN", 1)
        loop.add_signal_handler(signal.SIGTTOU, self._scale, "SIGTTOU", -1)
        loop.add_signal_handler(signal.SIGTSTP, self._be_quiet, "SIGTSTP")
        loop.add_signal_handler(signal.SIGCONT, self._go_on)

    def stop(self) -> None:
        """Ignore all further signals, as the pool drains."""
        self._over = True
        if self._reloading is not None:
            self._reloading.cancel()

    def status_line(self) -> str:
        """The line about the pool's state for systemd."""
        failed = f"reload failed: {self.reload_failed}; " if self.reload_failed else ""
        return f"STATUS={failed}{self._metrics()}"

    def _is_heard(self, name: str) -> bool:
        if self._over or not self._supervisor.ever_ready:
            log.warning("%s: ignored, the pool is not running", name)
            return False
        return True

    def started(self) -> None:
        """Do now what was asked for before the pool ran."""
        if self._asked_early:
            self.reload(self._asked_early)
            self._asked_early = ""

    def _hang_up(self, terminals: set[int]) -> None:
        """Reload; but where a terminal was closed, its pool drains: nobody would see it any more.

        terminals: on which descriptors there were any.
        """
        if terminals and not _terminals() & terminals:
            log.warning("SIGHUP: the terminal was closed")
            signal.raise_signal(signal.SIGTERM)
        else:
            self.reload("SIGHUP")

    # -- fresh code ----------------------------------------------------------------------------

    def reload(self, why: str) -> None:
        """Replace all workers, if the fresh code starts; a reload under way is cancelled.

        why: who or what asks for it, for the log.
        """
        if not self._over and not self._supervisor.ever_ready:
            log.info("%s: the workers are replaced with fresh code as soon as the pool runs", why)
            self._asked_early = why  # some workers may have loaded the old code already
            return
        if not self._is_heard(why):
            return
        self._go_on()
        log.info("%s: replacing the workers with fresh code, one by one once it has started", why)
        if self._reloading is not None:
            self._reloading.cancel()
        self._reloading = asyncio.ensure_future(self._reload())
        self._task(self._reloading)

    async def _reload(self) -> None:
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            await self._succession.reload()
        except ReloadFailed as error:
            self.reloads["failed"] += 1
            self.reload_failed = _in_a_line(str(error))
            self.reload_failed_s = time.time()
            log.error(
                "reload failed: %s workers stay as they are. Mend it, and send SIGHUP again. Why: "
                "%s",
                "some" if error.partly else "all",
                self.reload_failed,
            )
        else:
            self.reloads["ok"] += 1
            self.reload_failed = ""
            log.info("all workers have been replaced")
        notify("READY=1", self.status_line())

    # -- how many, and whether they start anything ---------------------------------------------

    def _scale(self, name: str, by: int) -> None:
        if not self._is_heard(name):
            return
        for crew in self._supervisor.crews:
            count = self._supervisor.resize(crew, len(crew.wanted) + by)
            log.info(
                "%s: %s has %d worker(s), configured %d", name, crew.name, count, crew.configured
            )
        notify(self.status_line())

    def _be_quiet(self, name: str) -> None:
        if self._is_heard(name):
            log.info("%s: finishing what runs and starting nothing new, until SIGCONT", name)
            self._set_quiet(True)

    def _go_on(self) -> None:
        if self.quiet:
            log.info("going on")
            self._set_quiet(False)

    def _set_quiet(self, quiet: bool) -> None:
        self.quiet = quiet
        for crew in self._crews:
            if crew.running is not None:
                crew.running.be_quiet(quiet)
        notify(self.status_line())


def _terminals() -> set[int]:
    """Which of the standard streams are a terminal."""
    return {number for number in STREAMS if os.isatty(number)}


def _in_a_line(error: str) -> str:
    """The first and the last line of an error: of a traceback they say the most."""
    lines = error.splitlines() or ["the new worker ended"]
    return plain_cut(" ".join(dict.fromkeys([lines[0], lines[-1].strip()])), MOST_REASON)
