"""Carries out what fate() decides about entries that nobody in this pool is running.

The master never claims for a worker: it offers entries to idle ones, which take them by a guarded
script. What no idle worker can take is parked as due now, and offered as soon as one is free.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass

from .._clock import mono_ms
from ..burial import MAX_DELIVERIES
from ..client import StreamClient
from ..fate import Fate, Owner, fate
from ..message import PendingEntry
from ..pending import Offer, Parked, PendingList
from ..session import Session
from ..sweep import Sweep, offer
from .config import Settings
from .protocol import Nothing, Take
from .roster import Worker
from .rows import Field, Rows

log = logging.getLogger("redis_stream_queue")

OFFER_MS = 250  # how long a worker has to take what it was offered
PAGES_PER_TICK = 4
MOST_OFFERS = 2000  # enough to keep all workers busy; the rest stays in Redis until then
NAME_LINGERS_MS = 1000  # a dead worker's last read may still be on its way to Redis


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended, and what was in its handler's hands then.

    suspects: tells for an entry id whether it was running.
    why: for ``last_error``.
    """

    consumer: str
    at_ms: int
    suspects: Callable[[str], bool]
    why: str


@dataclass(frozen=True, slots=True)
class Due:
    """An entry that somebody should take now."""

    offer: Offer
    decision: Fate
    error: str = ""


class Recovery:
    """Offers, dead workers' leftovers, sweeps and burials of one pool.

    workers: the live workers, asked anew each time.
    """

    def __init__(
        self,
        client: StreamClient,
        settings: Settings,
        rows: Rows,
        workers: Callable[[], Iterable[Worker]],
    ) -> None:
        self.settings = settings
        self.policy = settings.consumer.policy
        self.pending = PendingList(
            client, settings.stream, settings.consumer.group, settings.consumer.payload_field
        )
        self.undertaker = Session(client, settings.stream, settings.consumer, _no_handler)
        self._rows = rows
        self._workers = workers
        self._sweep = Sweep(self.pending, self.policy, self._owner)
        self._sweeping = asyncio.Lock()
        self._burying = asyncio.Lock()
        self._deaths: dict[str, Death] = {}
        self._offers: deque[Due] = deque()
        self._queued: set[str] = set()
        self._in_flight: dict[str, int] = {}  # id -> until when its worker may still take it

    # -- what the master asks ------------------------------------------------------------------

    @property
    def buried(self) -> int:
        """Dead letters made here."""
        return self.undertaker.meter.dlq

    @property
    def has_deaths(self) -> bool:
        """Is some dead worker's name still there?"""
        return bool(self._deaths)

    def died(self, death: Death) -> None:
        """Note a death; the next look_at_deaths() sees to it."""
        self._deaths[death.consumer] = death

    def remember(self, entry_id: str, error: str) -> None:
        """Keep a worker's error for the letter that the message may become."""
        self.undertaker.burial.remember(entry_id, error)

    # -- dead workers --------------------------------------------------------------------------

    async def look_at_deaths(self) -> None:
        """Hand over or bury what dead workers held; remove their names when nothing is left."""
        for death in list(self._deaths.values()):
            now = mono_ms()
            held = await self.pending.held_by(death.consumer)
            dead: list[Due] = []
            blamed: list[str] = []
            for entry in held:
                if self._is_offered(entry.id, now):
                    continue
                suspect = death.suspects(entry.id)
                owner = Owner.DEAD_RUNNING if suspect else Owner.DEAD_WAITING
                decision = fate(entry, owner, self.policy)
                due = Due(offer(entry, decision, self.policy), decision, death.why)
                if decision is Fate.BURY:
                    dead.append(due)
                else:
                    self._queue(due)
                if suspect:
                    self.remember(entry.id, death.why)
                    fate_text = decision.value.replace("_", " ")
                    blamed.append(f"{entry.id} (delivery {entry.delivery_count}): {fate_text}")
            if blamed:
                shown = ", ".join(blamed[:5])
                log.warning("%d message(s) were running there: %s", len(blamed), shown)
            await self._bury(dead)
            self.dispatch()
            await self._park_unoffered(death)
            if now - death.at_ms >= NAME_LINGERS_MS or not held:
                await self._remove_name(death)

    async def _park_unoffered(self, death: Death) -> None:
        """No idle worker: put it where every pool finds it, and tell ours to ask for it."""
        left = [due for due in self._offers if due.offer.owner == death.consumer]
        if not left:
            return
        for due in left:  # before anything is awaited: nobody may be offered them meanwhile
            self._offers.remove(due)
            self._queued.discard(due.offer.id)
        await self.pending.park(
            death.consumer,
            [
                Parked(
                    due.offer.id,
                    count=max(due.offer.new_count - 1, 0),
                    seen_count=due.offer.seen_count,
                )
                for due in left
            ],
        )
        await self.sweep()

    async def _remove_name(self, death: Death) -> None:
        if await self.pending.prune(death.consumer) and (
            mono_ms() - death.at_ms >= NAME_LINGERS_MS
        ):
            del self._deaths[death.consumer]

    async def release_all(self) -> None:
        """The pool leaves: give back what dead workers held, uncounted, and remove their names."""
        for death in list(self._deaths.values()):
            held = await self.pending.held_by(death.consumer)
            await self.pending.park(
                death.consumer,
                [Parked(e.id, count=max(e.delivery_count - 1, 0)) for e in held],
            )
            await self.pending.prune(death.consumer)
            del self._deaths[death.consumer]

    # -- sweep ---------------------------------------------------------------------------------

    async def sweep(self) -> int | None:
        """Look through the pending list for what is due; returns ms until the next known one.

        Bounded: a long list is continued by the next call (0 = call again at once).
        """
        async with self._burying:
            await self.undertaker.settle()  # a burial that an outage interrupted
        async with self._sweeping:
            return await self._sweep_pages()

    async def _sweep_pages(self) -> int | None:
        dead: list[Due] = []
        now = mono_ms()
        self._in_flight = {i: until for i, until in self._in_flight.items() if until > now}
        for _ in range(PAGES_PER_TICK):
            if len(self._offers) >= MOST_OFFERS:
                break
            now = mono_ms()
            for entry, decision in await self._sweep.page():
                if self._is_offered(entry.id, now):
                    continue
                due = Due(offer(entry, decision, self.policy), decision)
                if decision is Fate.BURY:
                    dead.append(due)
                else:
                    self._queue(due)
            if self._sweep.at_start:
                break
        await self._bury(dead)
        self.dispatch()
        if self._sweep.at_start:
            return self._sweep.next_due_ms
        return None if self._offers else 0

    def _owner(self, entry: PendingEntry) -> Owner:
        if entry.consumer in self._deaths:
            return Owner.MATE  # look_at_deaths() sees to it
        for worker in self._workers():
            if worker.consumer == entry.consumer:
                return Owner.MATE if worker.holds(entry.id) else Owner.STRANGER
        return Owner.STRANGER

    async def renew_leases(self, interval_ms: int) -> None:
        """The second rope: renew for workers whose loop cannot (a handler holds the GIL)."""
        now = mono_ms()
        for worker in self._workers():
            row = worker.row
            if not worker.busy or now - row[Field.RENEWED_AT] <= interval_ms * 3 // 2:
                continue
            (first_ms, first_seq), (last_ms, last_seq) = (
                row.id(Field.FIRST_MS),
                row.id(Field.LAST_MS),
            )
            await self.pending.renew_range(
                worker.consumer,
                f"{first_ms}-{first_seq}",
                f"{last_ms}-{last_seq}",
                row[Field.HELD],
            )

    # -- burials -------------------------------------------------------------------------------

    async def _bury(self, dead: list[Due]) -> None:
        if not dead:
            return
        if self.settings.dlq_handler:
            for due in dead:  # the dlq_handler lives in the workers
                self._queue(due)
            return
        undertaker = self.undertaker
        async with self._burying:
            if not undertaker.name:
                await undertaker.reserve_name()
            for due in dead:
                known = undertaker.burial.known_error(due.offer.id)
                await undertaker.bury([due.offer], MAX_DELIVERIES, due.error or known)
            await self.pending.prune(undertaker.name)

    # -- offers --------------------------------------------------------------------------------

    def _queue(self, due: Due) -> None:
        self._offers.append(due)
        self._queued.add(due.offer.id)

    def _is_offered(self, entry_id: str, now_ms: int) -> bool:
        if entry_id in self._queued:
            return True
        until_ms = self._in_flight.get(entry_id)
        if until_ms is None:
            return False
        if until_ms > now_ms:
            return True
        del self._in_flight[entry_id]
        return False

    def dispatch(self) -> None:
        """Offer what is due to idle workers, and note how much is left for those who ask."""
        now = mono_ms()
        for worker in self._workers():
            if not self._offers:
                break
            if worker.idle_now(now) and worker.channel is not None:
                worker.channel.send(self._take_for(worker, now))
        self._rows.offers_waiting = len(self._offers)

    def answer(self, worker: Worker) -> None:
        """A worker asks for offers before it reads."""
        if worker.channel is not None:
            now = mono_ms()
            worker.channel.send(self._take_for(worker, now) if self._offers else Nothing())
        self._rows.offers_waiting = len(self._offers)

    def declined(self, worker: Worker, ids: list[str]) -> None:
        """A worker had begun something else: what it was offered is free again."""
        worker.offered_until_ms = 0
        for entry_id in ids:
            self._in_flight.pop(entry_id, None)

    def _take_for(self, worker: Worker, now_ms: int) -> Take:
        first = self._offers[0]
        most = 1 if self._comes_alone(first) else worker.row[Field.BATCH]
        chosen = [self._offers.popleft()]
        while self._offers and len(chosen) < most and not self._comes_alone(self._offers[0]):
            chosen.append(self._offers.popleft())
        for due in chosen:
            self._queued.discard(due.offer.id)
            self._in_flight[due.offer.id] = now_ms + OFFER_MS
        worker.offered_until_ms = now_ms + OFFER_MS
        return Take(
            [list(astuple(due.offer)) for due in chosen],
            bury=MAX_DELIVERIES if first.decision is Fate.BURY else None,
            error=first.error or self.undertaker.burial.known_error(first.offer.id),
        )

    def _comes_alone(self, due: Due) -> bool:
        return due.decision is Fate.BURY or self.policy.is_last(due.offer.new_count)

    async def close(self) -> None:
        """Remove the names that this pool leaves behind, as far as they hold nothing."""
        group = self.settings.consumer.group
        for exponent in range(40):
            await self.pending.prune(f"{group}:retry:{1 << exponent}")
        if self.undertaker.name:
            await self.pending.prune(self.undertaker.name)


def _no_handler(_: object) -> list[str]:
    raise AssertionError("the master handles no messages")
