"""What waits for a worker: offers to idle ones, in an order that keeps innocents alive.

A worker takes what it is offered by a guarded script, so an offer that comes to nothing, or comes
twice, does no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass

from .._clock import mono_ms
from ..burial import MAX_DELIVERIES
from ..fate import Fate, Policy
from ..pending import Offer
from .protocol import Nothing, Take
from .roster import Worker
from .rows import Field, Rows

OFFER_MS = 250  # how long a worker has to take what it was offered


@dataclass(frozen=True, slots=True)
class Due:
    """An entry that somebody should take now.

    exclusive: its last permitted delivery, after one that ended with its whole pool. It may be what
    killed the pool, so no other message has its last delivery meanwhile: that one would die, too.
    """

    offer: Offer
    decision: Fate
    error: str = ""
    exclusive: bool = False


class Offers:
    """The queue of one master.

    workers: the live workers, asked anew each time. known_error: what is remembered of a message.
    """

    def __init__(
        self,
        policy: Policy,
        rows: Rows,
        workers: Callable[[], Iterable[Worker]],
        known_error: Callable[[str], str],
    ) -> None:
        self._policy = policy
        self._rows = rows
        self._workers = workers
        self._known_error = known_error
        self._waiting: deque[Due] = deque()
        self._ids: set[str] = set()  # of what waits
        self._under_way: dict[str, int] = {}  # id -> until when its worker may still take it
        self._lasts: dict[Worker, Due] = {}  # last permitted deliveries that workers have

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def exclusive(self) -> int:
        """How many of those that wait are exclusive."""
        return sum(due.exclusive for due in self._waiting)

    def add(self, due: Due) -> None:
        self._waiting.append(due)
        self._ids.add(due.offer.id)

    def withdraw(self, owner: str) -> list[Offer]:
        """Take back what waits and was seen under this consumer's name."""
        withdrawn = [due for due in self._waiting if due.offer.owner == owner]
        for due in withdrawn:
            self._waiting.remove(due)
            self._ids.discard(due.offer.id)
        return [due.offer for due in withdrawn]

    def has(self, entry_id: str) -> bool:
        """Does it wait, or is it on its way to a worker?"""
        return entry_id in self._ids or self._under_way.get(entry_id, 0) > mono_ms()

    def forget_old(self) -> None:
        """What was offered long ago has been taken, or has come to nothing."""
        now = mono_ms()
        self._under_way = {i: until for i, until in self._under_way.items() if until > now}

    # -- workers -------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Offer what is due to idle workers, and note how much is left for those who ask."""
        now = mono_ms()
        idle = [w for w in self._workers() if w.idle_now(now) and w.channel is not None]
        # One that let an offer pass may hang: the others come first.
        for worker in sorted(idle, key=lambda w: w.offered_until_ms):
            if worker.channel is not None:
                if (take := self._take_for(worker, now)) is None:
                    break
                worker.channel.send(take)
        self._rows.offers_waiting = len(self._waiting)

    def answer(self, worker: Worker, taken: int) -> None:
        """A worker asks before it reads; taken: how many offers have reached it so far."""
        if taken < worker.offers:
            return  # one is on its way: that is the answer
        worker.offered_until_ms = 0
        if worker.channel is not None:
            worker.channel.send(self._take_for(worker, mono_ms()) or Nothing())
        self._rows.offers_waiting = len(self._waiting)

    def declined(self, worker: Worker, ids: list[str]) -> None:
        """A worker had begun something else: what it was offered is free again."""
        worker.offered_until_ms = 0
        for entry_id in ids:
            self._under_way.pop(entry_id, None)

    def _take_for(self, worker: Worker, now_ms: int) -> Take | None:
        index = self._first_allowed(now_ms)
        if index is None:
            return None
        first = self._waiting[index]
        alone = self._comes_alone(first)
        most = 1 if alone else worker.row[Field.BATCH]
        chosen: list[Due] = []
        while index < len(self._waiting) and len(chosen) < most:
            if chosen and self._comes_alone(self._waiting[index]):
                break
            chosen.append(self._waiting[index])
            del self._waiting[index]
        if alone and first.decision is not Fate.BURY:
            self._lasts[worker] = first
        for due in chosen:
            self._ids.discard(due.offer.id)
            self._under_way[due.offer.id] = now_ms + OFFER_MS
        worker.offers += 1
        worker.offered_until_ms = now_ms + OFFER_MS
        return Take(
            [list(astuple(due.offer)) for due in chosen],
            bury=MAX_DELIVERIES if first.decision is Fate.BURY else None,
            error=first.error or self._known_error(first.offer.id),
        )

    def _first_allowed(self, now_ms: int) -> int | None:
        """Index of the first that may be taken now; see Due.exclusive."""
        if not self._waiting:
            return None
        living = set(self._workers())
        self._lasts = {
            worker: due
            for worker, due in self._lasts.items()
            if worker in living and (worker.offered_until_ms > now_ms or worker.holds(due.offer.id))
        }
        one_waits = any(due.exclusive for due in self._lasts.values())
        for index, due in enumerate(self._waiting):
            if due.decision is Fate.BURY or not self._comes_alone(due):
                return index
            if not one_waits and not (due.exclusive and self._lasts):
                return index
            one_waits = one_waits or due.exclusive
        return None

    def _comes_alone(self, due: Due) -> bool:
        return due.decision is Fate.BURY or self._policy.is_last(due.offer.new_count)
