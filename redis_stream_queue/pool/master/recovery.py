"""Carries out what fate() decides about entries that no worker of this pool runs.

The master never claims an entry for a worker: it offers entries to idle workers, which claim them
by a guarded script. An entry for which no worker is idle is parked as due now, and offered as soon
as one is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from redis.exceptions import ResponseError

from ..._burial_mark import read_count, uncounted
from ..._clock import mono_ms
from ..._log import logger
from ..._names import parking_due_ms
from ...client import StreamClient
from ...connection.carrying import size_text
from ...connection.refusals import passes
from ...delivery.fate import Fate, Owner, Policy, fate
from ...delivery.in_flight import InFlight
from ...delivery.pending import Parked, PendingList
from ...delivery.sightings import NOT_WATCHED_MS, WATCH_MS
from ...delivery.sweep import PAGE, Sweep, offer
from ...message import PendingEntry
from ..scoreboard import Field, Scoreboard
from ..settings import Settings
from ..totals import Unconfirmed
from .alarm import Alarm
from .letters import LetterCounts
from .offers import Due, Offers
from .slots import WorkerRecord

log = logger(__name__)

PAGES_PER_TICK = 4  # of one sweep
REST = 4  # a pause between pages is so many times as long as looking at them took
MOST_OFFERS = 2000  # enough to keep all workers busy; the rest stays in Redis until then
LARGE_BYTES = 1 << 20  # a worker may run out of memory while it reads a message above this
SWEEP_S = 0.3
PENDING_SWEEP_MS = 170  # while other consumers hold messages: given back, they wait < 200 ms
DEATHS_MS = 100  # between two looks at what dead workers hold
NAME_LINGERS_MS = 1000  # the last read of a dead worker may arrive at Redis so late


@dataclass(slots=True)
class Death:
    """How a worker ended, and what it ran then.

    suspects: tells for an entry id whether it may be the cause. why: how the worker ended, for
    ``last_error``. reading: the worker ran no message; what it holds was on its way to it.
    said: the suspects have been logged. own_most: max_deliveries by id, where a task sets its own.
    unconfirmed: what it asked of Redis last and did not count. confirm(name, count): called for
    what Redis turns out to have done.
    """

    consumer: str
    at_ms: int
    suspects: Callable[[str], bool]
    why: str
    reading: bool = False
    said: bool = False
    own_most: dict[str, int] = field(default_factory=dict)
    unconfirmed: list[Unconfirmed] = field(default_factory=list)
    confirm: Callable[[str, int], None] = lambda *_: None


class Recovery:
    """Offers, messages of dead workers, sweeps and burials of one crew.

    workers: returns the workers that live. lone: there is never more than one. sweeping, looking:
    tell when to call sweep() and look_at_deaths() next.
    """

    def __init__(
        self,
        client: StreamClient,
        settings: Settings,
        scoreboard: Scoreboard,
        workers: Callable[[], Iterable[WorkerRecord]],
        *,
        lone: bool = False,
    ) -> None:
        self.sweeping = Alarm(SWEEP_S)
        self._lone = lone
        self.sweeping.soon()
        self.looking = Alarm()
        self.settings = settings
        self.policy = settings.policy
        self.pending = PendingList(
            client,
            settings.stream,
            settings.consumer.group,
            settings.consumer.payload_field,
            only_reads=True,
        )
        self.letters = LetterCounts()
        self.dead_letter_writer = InFlight(
            client, settings.stream, settings.consumer, hooks=self.letters
        )
        self.offers = Offers(scoreboard, workers, self.dead_letter_writer.letters.known_error)
        self._workers = workers
        self._sweep = Sweep(self.pending, self.policy, self._owner)
        self._one_sweep = asyncio.Lock()
        self._burying = asyncio.Lock()
        self._deaths: dict[str, Death] = {}
        self._mates: dict[str, WorkerRecord] = {}
        self._unrenewed: set[str] = set()  # consumers whose leases Redis does not renew for us

    def adopt(self, settings: Settings) -> None:
        """Go on by these settings, of which stream and group are the same."""
        self.settings, self.policy = settings, settings.policy
        self._sweep.policy = settings.policy

    # -- what the master asks ------------------------------------------------------------------

    @property
    def buried(self) -> int:
        """How many dead letters the master itself has made."""
        return self.dead_letter_writer.meter.dlq

    def died(self, death: Death) -> None:
        """Note a death; look_at_deaths() is called soon."""
        self._deaths[death.consumer] = death
        self._unrenewed.discard(death.consumer)
        self.looking.soon()

    def declined(self, worker: WorkerRecord, ids: list[str]) -> None:
        """A worker did not take what it was offered: offer it to another one."""
        self.offers.declined(worker, ids)
        self.sweeping.soon()
        self.looking.soon()

    def retrying(self, entry_id: str, error: str, due_in_ms: int) -> None:
        """A worker has parked a message that failed."""
        self.remember(entry_id, error)
        self.sweeping.soon(due_in_ms + 1)

    def remember(self, entry_id: str, error: str) -> None:
        """Keep an error of a message for the dead letter that it may become."""
        self.dead_letter_writer.letters.remember(entry_id, error)

    # -- dead workers --------------------------------------------------------------------------

    async def look_at_deaths(self) -> None:
        """Hand over or bury what dead workers hold; remove names that hold nothing any more."""
        for death in reversed(list(self._deaths.values())):  # the newest is the most urgent
            now = mono_ms()
            held = await self._held_by(death)
            dead: list[Due] = []
            blamed: list[str] = []
            unread = await self._unread(death, held)
            for entry in held:
                if self.offers.has(entry.id):
                    continue
                suspect = death.suspects(entry.id)
                if entry.id in unread:
                    due = self._unread_due(
                        entry, f"{unread[entry.id]}: its worker was lost ({death.why})"
                    )
                    dead.append(due) if due.decision is Fate.BURY else self.offers.add(due)
                    continue
                owner = Owner.DEAD_RUNNING if suspect else Owner.DEAD_WAITING
                decision = fate(entry, owner, self._policy(death, entry), NOT_WATCHED_MS)
                due = self._due(entry, decision, death.why)
                if decision is Fate.BURY:
                    dead.append(due)
                else:
                    self.offers.add(due)
                if suspect:
                    self.remember(entry.id, death.why)
                    fate_text = decision.value.replace("_", " ")
                    _, _, deliveries = read_count(entry.delivery_count)
                    blamed.append(f"{entry.id} (delivery {deliveries}): {fate_text}")
            if blamed and not death.said:
                death.said = True
                shown = ", ".join(blamed[:5])
                log.warning(
                    "%d message(s) were running there: %s; why: %s", len(blamed), shown, death.why
                )
            self.offers.dispatch()
            await self._park_unoffered(death)
            await self._bury(dead)
            if now - death.at_ms >= NAME_LINGERS_MS or not held:
                await self._remove_name(death)
        if self._deaths:
            self.looking.soon(DEATHS_MS)

    def _policy(self, death: Death, entry: PendingEntry) -> Policy:
        most = death.own_most.get(entry.id)
        return self.policy if most is None else self.policy._replace(max_deliveries=most)

    async def _unread(self, death: Death, held: list[PendingEntry]) -> dict[str, str]:
        """Messages on their way to a dead worker that are so large that it may have died of them.

        Returns a text about the size, by id.
        """
        if not death.reading:
            return {}
        ids = [e.id for e in held if not death.suspects(e.id) and not self.offers.has(e.id)]
        sizes = await self.pending.sizes(ids)
        large = {i: size for i, size in sizes.items() if size >= LARGE_BYTES}
        return {i: f"{size_text(size)} could not be read in" for i, size in large.items()}

    def _unread_due(self, entry: PendingEntry, why: str) -> Due:
        """What to do with a message that a worker could not read: its next delivery is alone."""
        _, _, deliveries = read_count(entry.delivery_count)
        log.warning(
            "message %s of stream %s: %s; delivery %d of %d",
            entry.id,
            self.pending.stream,
            why,
            deliveries,
            self.policy.max_deliveries,
        )
        self.remember(entry.id, why)
        decision = fate(entry, Owner.DEAD_RUNNING, self.policy, NOT_WATCHED_MS)
        return self._due(entry, decision, why)

    async def _held_by(self, death: Death) -> list[PendingEntry]:
        """What a dead worker holds; also counts what it had done and not counted."""
        held = await self.pending.held_by(death.consumer)
        still = {entry.id for entry in held} if death.unconfirmed else ()
        for name, missing, entry_id in death.unconfirmed:
            if entry_id not in still:
                death.confirm(name, missing)
        death.unconfirmed = []
        return held

    async def _park_unoffered(self, death: Death) -> None:
        """Park what no worker is idle for, so that every pool finds it, and sweep for it."""
        # Withdrawn before anything is awaited: else a worker could get such an offer meanwhile.
        left = self.offers.withdraw(death.consumer)
        if not left:
            return
        await self.pending.park(
            death.consumer,
            [
                Parked(
                    due.offer.id,
                    deliveries=due.offer.new_count
                    if due.decision is Fate.BURY
                    else max(due.offer.new_count - 1, 0),
                    seen_count=due.offer.seen_count,
                    suspect=due.decision is Fate.CLAIM_ALONE,
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
        """At the end of the pool: give back what dead workers hold, and remove their names.

        These deliveries do not count.
        """
        for death in list(self._deaths.values()):
            held = await self._held_by(death)
            await self.pending.park(
                death.consumer,
                [Parked(e.id, deliveries=uncounted(e.delivery_count)) for e in held],
            )
            await self.pending.prune(death.consumer)
            del self._deaths[death.consumer]

    # -- sweep ---------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Look through the pending list for what is due; the next call continues a long list."""
        async with self._one_sweep:
            next_ms = await self._sweep_pages()
        if next_ms is not None:
            self.sweeping.soon(next_ms)
        if not (self._lone or self._sweep.found_none):
            self.sweeping.soon(PENDING_SWEEP_MS)
        async with self._burying:
            await self.dead_letter_writer.settle()  # a burial that an outage interrupted

    async def _sweep_pages(self) -> int | None:
        """Look at some pages; returns ms until the next message is known to be due, None = none."""
        dead: list[Due] = []
        began_ms = mono_ms()
        self.offers.forget_old()
        consumer = self.settings.consumer
        passes = consumer.max_claim_passes
        for _ in range(passes or PAGES_PER_TICK):
            if len(self.offers) >= MOST_OFFERS:
                await self._sweep.look()
                break
            self._mates = {w.consumer: w for w in self._workers() if w.consumer}
            page_size = PAGE if passes is None else consumer.batch_size
            for entry, decision in await self._sweep.page(page_size):
                if self.offers.has(entry.id):
                    continue
                due = self._due(entry, decision, suspect=self._was_running(entry))
                if decision is Fate.BURY:
                    dead.append(due)
                else:
                    self.offers.add(due)
            if self._sweep.at_start:
                break
        self.offers.dispatch()
        rest_ms = None if self.offers else REST * (mono_ms() - began_ms)
        await self._bury(dead)  # last, as letters that cannot be written would hold up the rest
        return self._sweep.next_due_ms if self._sweep.at_start else rest_ms

    def _due(
        self, entry: PendingEntry, decision: Fate, error: str = "", *, suspect: bool = False
    ) -> Due:
        made = offer(entry, decision, self.policy)
        if decision is Fate.BURY:
            return Due(made, decision, error)
        return Due(made, decision, error, self.policy.is_last(made.new_count), suspect)

    def _was_running(self, entry: PendingEntry) -> bool:
        """Is the entry held by a consumer that is gone, and not parked?"""
        parked = parking_due_ms(self.policy.group, entry.consumer) is not None
        return bool(entry.consumer) and not parked

    def _owner(self, entry: PendingEntry) -> Owner:
        if entry.consumer in self._deaths:
            return Owner.MATE  # look_at_deaths() decides about it
        mate = self._mates.get(entry.consumer)
        if mate is None:
            return Owner.STRANGER
        fresh = entry.idle_ms < max(self.policy.min_idle_ms, WATCH_MS)
        return Owner.MATE if fresh or mate.may_hold(entry.id) else Owner.STRANGER

    async def renew_leases(self, interval_ms: int) -> None:
        """Renew leases for workers that have not: a handler that holds the GIL stops their loop."""
        now = mono_ms()
        for worker in self._workers():
            row = worker.row
            if not worker.holding or now - row[Field.RENEWED_AT] <= interval_ms * 5 // 4:
                continue
            try:
                await self.pending.renew_range(
                    worker.consumer,
                    row.id(Field.FIRST),
                    row.id(Field.LAST),
                )
                self._unrenewed.discard(worker.consumer)
            except ResponseError as error:
                if passes(error):  # Redis refuses those of other workers, too
                    raise
                if worker.consumer not in self._unrenewed:  # ids in its row may be damaged
                    self._unrenewed.add(worker.consumer)
                    log.warning("slot=%d: its leases could not be renewed: %s", worker.slot, error)

    # -- burials -------------------------------------------------------------------------------

    async def _bury(self, dead: list[Due]) -> None:
        if not dead:
            return
        if self.settings.dlq_handler:
            for due in dead:  # workers bury, as they have the dlq_handler
                self.offers.add(due)
            return
        async with self._burying:
            for due in dead:
                await self.dead_letter_writer.bury([due.offer], error=due.error)
            await self.pending.prune(self.dead_letter_writer.name)

    async def close(self) -> None:
        """Remove the consumer names that hold nothing: parking names, and that of the master."""
        group, own = self.settings.consumer.group, self.dead_letter_writer.name
        parking = [f"{group}:retry:{1 << exponent}" for exponent in range(40)]
        await self.pending.prune(*parking, *filter(None, [own]))
