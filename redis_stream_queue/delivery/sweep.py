"""Walks the pending list page by page and finds what is due; each step is bounded."""

from __future__ import annotations

from collections.abc import Callable

from .._clock import mono_ms
from .._log import logger
from .._names import parking_due_ms
from .._plain import plain_cut
from ..message import GREATEST_ID, PendingEntry
from .fate import Fate, Owner, Policy, due_idle_ms, due_in_ms, fate, is_watched
from .pending import STANDS_STILL, PendingList, SeenEntry
from .sightings import LOOK_MS, WATCH_MS, Sightings

log = logger(__name__)

SAY_ODD_EVERY_MS = 60_000
PAGE = 500  # entries per XPENDING: well under a millisecond of Redis's time

OwnerOf = Callable[[PendingEntry], Owner]


class Sweep:
    """A cursor through the pending list.

    owner_of: what is known of an entry's holder.
    next_due_ms: after a full walk, milliseconds until the next waiting entry is due (None = no
        entry waits).
    found_none: the last walk has met no entry at all.
    unwatched: this walk has found what would be due, had it been watched long enough.
    """

    def __init__(self, pending: PendingList, policy: Policy, owner_of: OwnerOf) -> None:
        self.pending = pending
        self.policy = policy
        self.owner_of = owner_of
        self.at_start = True
        self.next_due_ms: int | None = None
        self.found_none = False
        self.unwatched = False
        self.sightings = Sightings()
        self._cursor: str | None = None
        self._end = "+"
        self._soonest_ms: int | None = None
        self._say_odd_at_ms = 0

    async def look(self) -> None:
        """Only ask the server for its time, so that the watching has no gap."""
        asked_ms = mono_ms()
        server_ms = await self.pending.server_ms()
        self.sightings.answered(asked_ms, mono_ms(), server_ms)

    async def page(self, count: int = PAGE) -> list[tuple[PendingEntry, Fate]]:
        """Look at the next ``count`` entries; returns those with something to do.

        ``at_start`` is True afterwards if the walk is complete.
        """
        if begins := self.at_start:
            self.unwatched = False
        asked_ms = mono_ms()
        entries, server_ms = await self.pending.look(self._cursor, count, end=self._end)
        now_ms = mono_ms()
        self.sightings.answered(asked_ms, now_ms, server_ms)
        self.found_none = begins and not entries
        due: list[tuple[PendingEntry, Fate]] = []
        for entry in entries:
            try:
                decision = self._decide(entry, now_ms)
            except Exception:  # an entry with damaged fields must not hold up the others
                self._say_odd(entry, now_ms)
                continue
            if decision not in (Fate.LEAVE, Fate.RENEW):
                due.append((entry, decision))
        if len(entries) < count or entries[-1].id == GREATEST_ID:
            self.sightings.walked()
            self.restart()
        else:
            if self._end == "+":  # else the walk would never end while workers read new messages
                self._end = await self.pending.newest()
            self._cursor, self.at_start = entries[-1].id, False
        return due

    def _decide(self, entry: PendingEntry, now_ms: int) -> Fate:
        parked = parking_due_ms(self.policy.group, entry.consumer) is not None
        seen = self.sightings.as_seen(entry, now_ms, parked=parked)
        owner = self.owner_of(seen)
        decision = fate(seen, owner, self.policy, self.sightings.watched_ms)
        if decision is Fate.LEAVE and owner is Owner.STRANGER:
            self._note_wait(seen)
        return decision

    def _say_odd(self, entry: PendingEntry, now_ms: int) -> None:
        if now_ms >= self._say_odd_at_ms:
            self._say_odd_at_ms = now_ms + SAY_ODD_EVERY_MS
            log.exception(
                "entry %s, held by %s, is passed over", entry.id, plain_cut(entry.consumer, 100)
            )

    def _note_wait(self, entry: PendingEntry) -> None:
        wait_ms = due_in_ms(entry, self.policy)
        if not is_watched(entry, self.policy, self.sightings.watched_ms):
            self.unwatched |= wait_ms == 0
            wait_ms = max(wait_ms - WATCH_MS - LOOK_MS, LOOK_MS)  # it is watched when it is due
        if self._soonest_ms is None or wait_ms < self._soonest_ms:
            self._soonest_ms = wait_ms

    def restart(self) -> None:
        """Begin the next page at the start of the list."""
        self.next_due_ms, self._soonest_ms = self._soonest_ms, None
        self._cursor, self._end, self.at_start = None, "+", True


def offer(entry: PendingEntry, decision: Fate, policy: Policy) -> SeenEntry:
    """How to take an entry over, guarded by what was seen."""
    counted = decision in (Fate.CLAIM, Fate.CLAIM_ALONE)
    due_ms = due_idle_ms(entry, policy)
    still = entry.idle_ms <= 0 < due_ms and parking_due_ms(policy.group, entry.consumer) is None
    return SeenEntry(
        entry.id,
        entry.consumer,
        entry.delivery_count,
        STANDS_STILL if still else min(due_ms, entry.idle_ms),
        entry.delivery_count + counted,
    )
