"""Reclaiming: a consumer takes over what is due in the pending list, and buries what is dead."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from .._clock import mono_ms
from ..config import ConsumerConfig
from ..message import PendingEntry, StreamMessage
from .fate import Fate, Owner
from .in_flight import InFlight
from .pending import SeenEntry
from .sightings import LOOK_MS, LOOKS, WATCH_MS
from .sweep import PAGE, Sweep, offer

SWEEP_INTERVAL_MS = 1000
JITTER = 0.1


class Reclaiming:
    """Walks the pending list of a group for one consumer of it.

    handle: called with messages that were taken over. may_go_on: may more be taken over?
    """

    def __init__(
        self,
        in_flight: InFlight,
        config: ConsumerConfig,
        handle: Callable[[list[StreamMessage]], Awaitable[None]],
        may_go_on: Callable[[], bool],
    ) -> None:
        self.sweep = Sweep(in_flight.pending, config.policy, self._owner)
        sightings = self.sweep.sightings
        in_flight.leases.on_answer = lambda asked, now: sightings.answered(asked, now, None)
        self._in_flight = in_flight
        self._config = config
        self._handle = handle
        self._may_go_on = may_go_on
        self._next_sweep_ms = 0
        self._walked_ms = mono_ms()
        self._passes = 0  # pages of the sweep under way

    async def tick(self) -> None:
        """Look at one page of the list, if it is time."""
        if mono_ms() < self.due_ms():
            return
        await self._in_flight.flush_acks()
        await self._in_flight.bury(await self._page())
        self._passes += 1
        if self.sweep.at_start or self._passes == self._config.max_claim_passes:
            self._passes = 0
            await self._watch_if_idle_is_rare()
            self._schedule_sweep()

    async def reclaim(self) -> None:
        """Handle what is due and bury what is dead; watches messages of strangers first."""
        for _ in range(LOOKS):
            await self._in_flight.bury(await self._walk())
            if not self.sweep.unwatched:
                break
            await asyncio.sleep(LOOK_MS / 1000)

    async def _walk(self) -> list[SeenEntry]:
        """Look at the pending list from its start; claim and handle; returns what is dead."""
        self.sweep.restart()
        dead: list[SeenEntry] = []
        passes = 0
        while self._config.max_claim_passes is None or passes < self._config.max_claim_passes:
            passes += 1
            dead += await self._page()
            if self.sweep.at_start:
                break
        return dead

    def _owner(self, entry: PendingEntry) -> Owner:
        if entry.id in self._in_flight.held:
            return Owner.ME_RUNNING
        if entry.consumer == self._in_flight.name and self._config.worker_name is None:
            # The name is of this life alone, so nobody has seen it. Known of, the next read brings
            # it in: the large ones alone, which a sweep does not.
            return Owner.MATE if self._in_flight.unsure else Owner.ME_STRANDED
        return Owner.STRANGER

    async def _page(self) -> list[SeenEntry]:
        """Look at the next page of the pending list; claim and handle; returns what is dead."""
        policy = self._config.policy
        together: list[SeenEntry] = []
        alone: list[SeenEntry] = []
        dead: list[SeenEntry] = []
        passes = self._config.max_claim_passes
        for entry, decision in await self.sweep.page(
            PAGE if passes is None else self._config.batch_size
        ):
            made = offer(entry, decision, policy)
            if decision is Fate.BURY:
                dead.append(made)
            else:
                by_itself = decision is Fate.CLAIM_ALONE or policy.is_last(made.new_count)
                (alone if by_itself else together).append(made)
        size = self._config.batch_size
        for start in range(0, len(together), size):
            await self._claim(together[start : start + size])
        for one in alone:
            await self._claim([one])
        return dead

    async def _claim(self, offers: list[SeenEntry]) -> None:
        if self._may_go_on():
            await self._handle(await self._in_flight.take(offers))

    async def _watch_if_idle_is_rare(self) -> None:
        """Watch strangers' messages now, if handlers that block the loop leave no other time."""
        rare = mono_ms() - self._walked_ms > 2 * WATCH_MS
        for _ in range(LOOKS if rare else 0):
            if not self._may_go_on() or not self.sweep.unwatched:
                break
            await asyncio.sleep(LOOK_MS / 1000)
            await self._in_flight.bury(await self._walk())
        self._walked_ms = mono_ms()

    def due_ms(self) -> int:
        retry_at = self._in_flight.unsettled.next_retry_at_ms
        return self._next_sweep_ms if retry_at is None else min(self._next_sweep_ms, retry_at)

    def _schedule_sweep(self) -> None:
        now = mono_ms()
        pause_ms = SWEEP_INTERVAL_MS * (1 + JITTER * random.uniform(-1, 1))
        if not self.sweep.at_start:  # cut short, and the watching must have no gap meanwhile
            pause_ms = LOOK_MS
        elif self.sweep.next_due_ms is not None:
            pause_ms = min(pause_ms, max(self.sweep.next_due_ms, 1))
        self._next_sweep_ms = now + int(pause_ms)
        self._in_flight.unsettled.next_retry_at_ms = None
