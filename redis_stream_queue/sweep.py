"""Walk the pending list page by page and say what is due; bounded per step, resumed by cursor."""

from __future__ import annotations

from collections.abc import Callable

from .fate import Fate, Owner, Policy, due_idle_ms, due_in_ms, fate
from .message import GREATEST_ID, PendingEntry
from .pending import Offer, PendingList

PAGE = 500  # entries per XPENDING: well under a millisecond of Redis's time

OwnerOf = Callable[[PendingEntry], Owner]


class Sweep:
    """A cursor through the pending list.

    owner_of: what is known of an entry's holder.
    next_due_ms: after a full walk, milliseconds until the next waiting entry is due (None = no
        entry waits).
    """

    def __init__(self, pending: PendingList, policy: Policy, owner_of: OwnerOf) -> None:
        self.pending = pending
        self.policy = policy
        self.owner_of = owner_of
        self.at_start = True
        self.next_due_ms: int | None = None
        self._cursor: str | None = None
        self._end = "+"
        self._soonest_ms: int | None = None

    async def page(self, count: int = PAGE) -> list[tuple[PendingEntry, Fate]]:
        """Look at the next ``count`` entries; returns those with something to do.

        ``at_start`` is True afterwards if the walk is complete.
        """
        entries = await self.pending.page(self._cursor, count, end=self._end)
        due: list[tuple[PendingEntry, Fate]] = []
        for entry in entries:
            decision = fate(entry, self.owner_of(entry), self.policy)
            if decision is Fate.LEAVE:
                wait_ms = due_in_ms(entry, self.policy)
                if self._soonest_ms is None or wait_ms < self._soonest_ms:
                    self._soonest_ms = wait_ms
            elif decision is not Fate.RENEW:
                due.append((entry, decision))
        if len(entries) < count or entries[-1].id == GREATEST_ID:
            self.restart()
        else:
            if self._end == "+":  # or the walk would follow busy workers for ever
                self._end = await self.pending.newest()
            self._cursor, self.at_start = entries[-1].id, False
        return due

    def restart(self) -> None:
        """Begin the next page at the start of the list."""
        self.next_due_ms, self._soonest_ms = self._soonest_ms, None
        self._cursor, self._end, self.at_start = None, "+", True


def offer(entry: PendingEntry, decision: Fate, policy: Policy) -> Offer:
    """How to take an entry over, guarded by what was seen."""
    counted = decision in (Fate.CLAIM, Fate.CLAIM_ALONE)
    return Offer(
        entry.id,
        entry.consumer,
        entry.delivery_count,
        min(due_idle_ms(entry, policy), entry.idle_ms),
        entry.delivery_count + counted,
    )
