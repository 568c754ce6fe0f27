"""The master's clocks: sweep, recover what dead workers held, renew leases, trim and others.

Each is a task of its own. After an error it waits, each time longer, and tries again for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from ..._clock import mono_ms
from ..._log import logger
from ...connection.backoff import Backoff
from ...connection.exchange import OUTAGES
from ...delivery.retention import TRIM_INTERVAL_S, Retention
from ...delivery.sightings import lease_interval_ms
from ...group import GHOST_IDLE_MS, ConsumerGroup, group_is_lost
from ..settings import Settings
from .alarm import Alarm
from .outage import Outage
from .recovery import Recovery

log = logger(__name__)


class Maintenance:
    """Does what has to be done for a group again and again.

    redis_errors: how often Redis refused or did not answer. outage: that of the pool.
    """

    def __init__(
        self, settings: Settings, group: ConsumerGroup, recovery: Recovery, outage: Outage
    ) -> None:
        self._group = group
        self._recovery = recovery
        self._retention = Retention(recovery.pending, settings.consumer.max_stream_size)
        self.redis_errors = 0
        self._ok_since_ms: int | None = None
        self._outage = outage
        self._restoring = Backoff()
        self._lease_interval_ms = lease_interval_ms(settings.consumer.min_idle_claim_ms)

    def clocks(self) -> list[Awaitable[NoReturn]]:
        """The clocks; each is to be run as a task of its own."""
        return [
            self._whenever(self._recovery.sweeping, "sweeping", self._sweep),
            self._whenever(self._recovery.looking, "recovering", self._recovery.look_at_deaths),
            self.every(self._lease_interval_ms / 1000, "renewing leases", self._renew),
            self.every(TRIM_INTERVAL_S, "trimming", self._retention.trim),
            self.every(GHOST_IDLE_MS / 1000, "removing idle consumers", self._prune),
        ]

    async def every(
        self, interval_s: float, what: str, work: Callable[[], Awaitable[None]]
    ) -> NoReturn:
        """Do work every ``interval_s``, for ever. what: names it in the log."""
        await self._whenever(Alarm(interval_s), what, work)

    async def _whenever(
        self, alarm: Alarm, what: str, work: Callable[[], Awaitable[None]]
    ) -> NoReturn:
        backoff = Backoff()
        while True:
            await alarm.wait()
            try:
                await work()
            except Exception as error:  # also a defect of ours: the clock goes on
                await self._survive(what, error, backoff)
                alarm.soon()
            else:
                backoff.reset()
                self.worked(what)

    async def _survive(self, what: str, error: Exception, backoff: Backoff) -> None:
        pause_s = backoff.next_s()
        self._ok_since_ms = None
        if group_is_lost(error):
            self.redis_errors += 1
            await self.restore_group()
        elif not isinstance(error, OUTAGES):
            if backoff.worth_a_line():
                log.exception("%s failed; trying again", what, exc_info=error)
        else:
            self.failed(what, error)
        await asyncio.sleep(pause_s)

    def failed(self, what: str, error: Exception) -> None:
        """Redis has refused something, or did not answer. what: names it in the log."""
        self.redis_errors += 1
        self._outage.failed((self, what), what, error)

    def worked(self, what: str) -> None:
        """The same has worked."""
        self._outage.worked((self, what))

    def redis_ok_ms(self) -> int:
        """For how long Redis has answered without a break, in ms; 0 = it does not now."""
        return 0 if self._ok_since_ms is None else mono_ms() - self._ok_since_ms

    # -- what the clocks do --------------------------------------------------------------------

    async def _sweep(self) -> None:
        await self._recovery.sweep()
        self._ok_since_ms = self._ok_since_ms or mono_ms()

    async def _renew(self) -> None:
        await self._recovery.renew_leases(self._lease_interval_ms)

    async def _prune(self) -> None:
        await self._group.prune_consumers(GHOST_IDLE_MS)

    async def restore_group(self) -> None:
        """Create a lost group again; it goes on behind entries that are known to be finished."""
        try:
            await self._group.recreate(self._retention.restart_id)
            self._restoring.reset()
        except OUTAGES as error:
            self._restoring.next_s()  # each worker asks for it, again and again
            if self._restoring.worth_a_line():
                log.warning("cannot create the group again yet: %s", error)
        except Exception as error:  # also a defect of ours: the next read tries it again
            log.exception("cannot create the group again", exc_info=error)
