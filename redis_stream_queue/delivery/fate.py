"""What to do with one pending entry, and why. Pure: no I/O, no clock.

The first line that fits decides (``docs/recovery.md`` shows the same table):

| the entry is held by | and | fate |
|---|---|---|
| me, and I run it | | RENEW |
| a live mate of my pool | | LEAVE |
| a stranger | idle < min_idle_ms, or not watched long enough | LEAVE |
| a parking name ``<group>:retry:<D>`` | idle < D | LEAVE |
| a dead mate or me, but it never started there | deliveries <= max_deliveries | HAND_OVER |
| a dead mate or me, but it never started there | more deliveries | BURY |
| all others (nobody, too: XNACK) | deliveries >= max_deliveries | BURY |
| a dead mate, which was running it, or ``<group>:retry:2`` | fewer deliveries | CLAIM_ALONE |
| all others | the next delivery is the last permitted one | CLAIM_ALONE |
| all others | | CLAIM |
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from .._names import SUSPECT_DUE_MS, parking_due_ms
from ..message import PendingEntry


class Fate(Enum):
    RENEW = "renew"  # keep the lease fresh
    LEAVE = "leave"  # somebody handles it, or it is not due
    CLAIM = "claim"  # deliver it again; the delivery counts
    CLAIM_ALONE = "claim_alone"  # the same, in a batch of its own: a suspect, or for the last time
    HAND_OVER = "hand_over"  # deliver it again; the one before reached no handler: not counted
    BURY = "bury"  # to the dead letters


class Owner(Enum):
    """What we know of the consumer that holds an entry."""

    ME_RUNNING = "me_running"  # this consumer runs it now
    ME_STRANDED = "me_stranded"  # under this consumer's name, but it never arrived here
    MATE = "mate"  # a live worker of this pool
    DEAD_RUNNING = "dead_running"  # a dead worker of this pool, which was running it
    DEAD_WAITING = "dead_waiting"  # a dead worker of this pool, which had not started it
    STRANGER = "stranger"  # anybody else, parking names included


class Policy(NamedTuple):
    """Limits of a group: idle time that counts as abandoned, in ms, and permitted deliveries."""

    group: str
    min_idle_ms: int
    max_deliveries: int

    def is_last(self, delivery_count: int) -> bool:
        """Is a delivery with this count the last permitted one (and not the first)?"""
        return delivery_count >= max(self.max_deliveries, 2)


def due_idle_ms(entry: PendingEntry, policy: Policy) -> int:
    """Idle time in ms from which an entry of a stranger may be taken."""
    if not entry.consumer:
        return 0
    due_ms = parking_due_ms(policy.group, entry.consumer)
    return policy.min_idle_ms if due_ms is None else due_ms


def due_in_ms(entry: PendingEntry, policy: Policy) -> int:
    """Milliseconds until a stranger's entry may be taken; 0 = now."""
    return max(due_idle_ms(entry, policy) - max(entry.idle_ms, 0), 0)


def is_watched(entry: PendingEntry, policy: Policy, watched_ms: int) -> bool:
    """Have we watched an entry for so long that we would have seen its renewal?

    Entries that are parked, or that no consumer holds, are never renewed, so they need no watching.
    watched_ms: the idle time from which on an entry is watched, see sightings.py. With
    ``min_idle_ms=0`` nothing is watched.
    """
    parked = not entry.consumer or parking_due_ms(policy.group, entry.consumer) is not None
    return parked or policy.min_idle_ms == 0 or entry.idle_ms >= watched_ms


def fate(entry: PendingEntry, owner: Owner, policy: Policy, watched_ms: int) -> Fate:
    """Decide for one entry; see the table on top. watched_ms: see is_watched()."""
    if owner is Owner.ME_RUNNING:
        return Fate.RENEW
    if owner is Owner.MATE:
        return Fate.LEAVE
    if owner is Owner.STRANGER and (
        due_in_ms(entry, policy) > 0 or not is_watched(entry, policy, watched_ms)
    ):
        return Fate.LEAVE
    if owner in (Owner.DEAD_WAITING, Owner.ME_STRANDED):
        # That delivery reached no handler, so even a count at the limit leaves it one.
        return Fate.BURY if entry.delivery_count > policy.max_deliveries else Fate.HAND_OVER
    if entry.delivery_count >= policy.max_deliveries:
        return Fate.BURY
    suspect = (
        owner is Owner.DEAD_RUNNING
        or parking_due_ms(policy.group, entry.consumer) == SUSPECT_DUE_MS
    )
    last = policy.is_last(entry.delivery_count + 1)
    return Fate.CLAIM_ALONE if suspect or last else Fate.CLAIM
