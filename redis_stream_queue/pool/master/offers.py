"""What waits for a worker: offers to idle workers, in an order that protects harmless messages.

A worker claims what it is offered by a guarded script. So an offer that is not taken, or is made
twice, does no harm.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice, takewhile

from ..._burial_mark import MAX_DELIVERIES
from ..._clock import mono_ms
from ...delivery.fate import Fate
from ...delivery.pending import SeenEntry
from ..protocol import NoWork, Take
from ..scoreboard import Field, Scoreboard
from .slots import WorkerRecord

LATE_MS = 3000  # a worker that hangs may still take an offer so much later
MOST_ALONE_WAIT_MS = 60_000  # how long a last delivery waits for others to end
MOST_LASTS = 50  # last deliveries that wait, of each kind; see Due.exclusive
OFFER_MS = 250  # how long a worker has to take an offer


@dataclass(frozen=True, slots=True)
class Due:
    """An entry that a worker should take now.

    error: why its last delivery failed, "" = unknown. last: this is its last permitted delivery.
    suspect: its last delivery ended together with its whole pool, and it may be the cause.
    """

    offer: SeenEntry
    decision: Fate
    error: str = ""
    last: bool = False
    suspect: bool = False
    since_ms: int = field(default_factory=mono_ms)

    @property
    def alone(self) -> bool:
        """Is it handled in a batch of its own?"""
        return self.last or self.decision in (Fate.CLAIM_ALONE, Fate.BURY)

    @property
    def exclusive(self) -> bool:
        """May no suspect and no other last delivery run at the same time, on any worker?

        If this one kills the pool again, they would die with it.
        """
        return self.last and self.suspect

    @property
    def risky(self) -> bool:
        """Must it wait while an exclusive one runs?"""
        return self.last or self.suspect


class Offers:
    """The offers of one crew.

    workers: returns the workers that live. known_error: returns the last error of a message, "" =
    unknown. paused: True = no worker is offered anything.
    """

    def __init__(
        self,
        scoreboard: Scoreboard,
        workers: Callable[[], Iterable[WorkerRecord]],
        known_error: Callable[[str], str],
    ) -> None:
        self._scoreboard = scoreboard
        self._workers = workers
        self._known_error = known_error
        self._waiting: deque[Due] = deque()
        self._ids: set[str] = set()  # of those that wait
        self._under_way: dict[str, int] = {}  # id -> until when its worker may take it
        self._risky: dict[WorkerRecord, list[Due]] = {}  # risky ones that a worker may run
        self.paused = False
        self._counts: Counter[bool] = Counter()  # waiting last deliveries, by exclusive

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, due: Due) -> None:
        """Queue an entry; of last deliveries, which wait for each other, MOST_LASTS at most."""
        if due.last:
            if self._counts[due.exclusive] >= MOST_LASTS:
                return  # it stays in Redis; the next sweep offers it
            self._counts[due.exclusive] += 1
        self._waiting.append(due)
        self._ids.add(due.offer.id)

    def _remove(self, due: Due) -> None:
        self._waiting.remove(due)
        self._ids.discard(due.offer.id)
        if due.last:
            self._counts[due.exclusive] -= 1

    def withdraw(self, owner: str) -> list[Due]:
        """Remove and return what waits and was seen under this consumer's name."""
        withdrawn = [due for due in self._waiting if due.offer.owner == owner]
        for due in withdrawn:
            self._remove(due)
        return withdrawn

    def has(self, entry_id: str) -> bool:
        """Does this entry wait, or is it on its way to a worker?"""
        return entry_id in self._ids or self._under_way.get(entry_id, 0) > mono_ms()

    def forget_old(self) -> None:
        """Forget offers that no worker can take any more."""
        now = mono_ms()
        self._under_way = {i: until for i, until in self._under_way.items() if until > now}

    # -- workers -------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Offer what is due to idle workers, and note on the scoreboard how much is left."""
        if self.paused:
            self._scoreboard.offers_waiting = 0  # so that no worker asks
            return
        now = mono_ms()
        self._scoreboard.offers_waiting = len(self._waiting)  # before looking who is idle
        idle = [worker for worker in self._workers() if worker.idle_now(now)]
        # Last come workers that did not take an offer, then those whose last read is longest ago.
        for worker in sorted(idle, key=lambda w: (w.passive, -w.row[Field.READ_AT])):
            if worker.channel is not None:
                if (take := self._take_for(worker, now)) is None:
                    break
                worker.channel.send(take)
        self._scoreboard.offers_waiting = len(self._waiting)

    def answer(self, worker: WorkerRecord, taken: int, beside: int = 0) -> None:
        """Answer a worker that asks before it reads; taken, beside: see AskForWork."""
        if taken < worker.offers:
            return  # an offer is on its way to it already
        worker.offered_until_ms = 0
        self._risky.pop(worker, None)
        if worker.channel is not None and self.paused:
            worker.channel.send(NoWork())
            return
        if worker.channel is not None:
            worker.channel.send(self._take_for(worker, mono_ms(), beside) or NoWork())
        self._scoreboard.offers_waiting = len(self._waiting)

    def declined(self, worker: WorkerRecord, ids: list[str]) -> None:
        """A worker did not take what it was offered: other workers may get it."""
        worker.offered_until_ms = 0
        for entry_id in ids:
            self._under_way.pop(entry_id, None)
        if worker in self._risky:
            self._risky[worker] = [d for d in self._risky[worker] if d.offer.id not in ids]

    def _take_for(self, worker: WorkerRecord, now_ms: int, beside: int = 0) -> Take | None:
        index = self._first_allowed(now_ms)
        if index is None:
            return None
        first = self._waiting[index]
        if beside and (first.alone or first.suspect):
            return None  # it waits for a worker that has ended its batch
        chosen = [first]
        if not first.alone:
            most = beside or worker.row[Field.BATCH]
            following = islice(self._waiting, index + 1, index + most)
            alike = takewhile(lambda d: not d.alone and d.suspect == first.suspect, following)
            chosen += alike
        for due in chosen:
            self._remove(due)
            self._under_way[due.offer.id] = now_ms + OFFER_MS
        if first.risky:
            self._risky[worker] = self._risky.get(worker, []) + chosen
        worker.offers += 1
        worker.offered_until_ms = now_ms + OFFER_MS
        worker.batches_before = worker.row[Field.BATCHES]
        return Take(
            [list(due.offer) for due in chosen],
            bury=MAX_DELIVERIES if first.decision is Fate.BURY else None,
            error=first.error or self._known_error(first.offer.id),
            alone=first.alone or first.suspect,
        )

    def _first_allowed(self, now_ms: int) -> int | None:
        """Index of the first entry that may run now, None = there is none; see Due.exclusive."""
        if not self._waiting:
            return None
        living = set(self._workers())
        self._risky = {
            worker: dues
            for worker, dues in self._risky.items()
            if worker in living and _may_run(worker, dues, now_ms)
        }
        exclusive_runs = any(due.exclusive for dues in self._risky.values() for due in dues)
        for index, due in enumerate(self._waiting):
            in_the_way = bool(self._risky) if due.exclusive else exclusive_runs
            if not due.risky or not in_the_way or now_ms - due.since_ms > MOST_ALONE_WAIT_MS:
                return index
        return None


def _may_run(worker: WorkerRecord, dues: list[Due], now_ms: int) -> bool:
    """Does this worker run one of them, or may it still take them?"""
    late_ms = LATE_MS if worker.passive else 0
    on_its_way = now_ms < worker.offered_until_ms + late_ms
    return on_its_way or any(worker.holds(due.offer.id) for due in dues)
