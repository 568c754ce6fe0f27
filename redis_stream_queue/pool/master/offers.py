"""What waits for a worker: offers to idle ones, in an order that keeps innocents alive.

A worker takes what it is offered by a guarded script, so an offer that comes to nothing, or comes
twice, does no harm.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice, takewhile

from ..._clock import mono_ms
from ...delivery.burial_mark import MAX_DELIVERIES
from ...delivery.fate import Fate
from ...delivery.pending import SeenEntry
from ..protocol import NoWork, Take
from ..scoreboard import Field, Scoreboard
from .slots import WorkerRecord

LATE_MS = 3000  # so late a worker may still carry out what it was offered
MOST_ALONE_WAIT_MS = 60_000  # a last delivery waits no longer for others to end
MOST_LASTS = 50
OFFER_MS = 250  # how long a worker has to take what it was offered


@dataclass(frozen=True, slots=True)
class Due:
    """An entry that somebody should take now.

    last: this is its last permitted delivery. suspect: its delivery before ended with its whole
    pool, and it may be what killed the pool.
    """

    offer: SeenEntry
    decision: Fate
    error: str = ""
    last: bool = False
    suspect: bool = False
    since_ms: int = field(default_factory=mono_ms)

    @property
    def alone(self) -> bool:
        """Does it come in a batch of its own?"""
        return self.last or self.decision in (Fate.CLAIM_ALONE, Fate.BURY)

    @property
    def exclusive(self) -> bool:
        """Does no suspect and no other last delivery run beside it? One of them would die, too."""
        return self.last and self.suspect

    @property
    def risky(self) -> bool:
        """May it be kept waiting by an exclusive one?"""
        return self.last or self.suspect


class Offers:
    """The queue of one master.

    workers: the live workers, asked anew each time. known_error: what is remembered of a message.
    paused: nobody is offered anything.
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
        self._ids: set[str] = set()  # of what waits
        self._under_way: dict[str, int] = {}  # id -> until when its worker may still take it
        self._risky: dict[WorkerRecord, list[Due]] = {}  # what workers have of these
        self.paused = False
        self._counts: Counter[bool] = Counter()  # waiting last deliveries, by exclusive

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, due: Due) -> None:
        """Queue it; of last deliveries, which may have to wait for each other, only a few."""
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
        """Take back what waits and was seen under this consumer's name."""
        withdrawn = [due for due in self._waiting if due.offer.owner == owner]
        for due in withdrawn:
            self._remove(due)
        return withdrawn

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
        if self.paused:
            self._scoreboard.offers_waiting = 0  # nobody is to ask
            return
        now = mono_ms()
        self._scoreboard.offers_waiting = len(self._waiting)  # before looking who is idle
        idle = [worker for worker in self._workers() if worker.idle_now(now)]
        # Last come those that let an offer pass, or have not been heard of for longest.
        for worker in sorted(idle, key=lambda w: (w.passive, -w.row[Field.READ_AT])):
            if worker.channel is not None:
                if (take := self._take_for(worker, now)) is None:
                    break
                worker.channel.send(take)
        self._scoreboard.offers_waiting = len(self._waiting)

    def answer(self, worker: WorkerRecord, taken: int, beside: int = 0) -> None:
        """A worker asks before it reads; taken, beside: see AskForWork."""
        if taken < worker.offers:
            return  # one is on its way: that is the answer
        worker.offered_until_ms = 0
        self._risky.pop(worker, None)
        if worker.channel is not None and self.paused:
            worker.channel.send(NoWork())
            return
        if worker.channel is not None:
            worker.channel.send(self._take_for(worker, mono_ms(), beside) or NoWork())
        self._scoreboard.offers_waiting = len(self._waiting)

    def declined(self, worker: WorkerRecord, ids: list[str]) -> None:
        """A worker had begun something else: what it was offered is free again."""
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
            return None  # in its turn, for a worker that has ended its batch
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
        """Index of the first that may be taken now; see Due.exclusive."""
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
    """Does this worker have them in hand, or may it still take them?"""
    late_ms = LATE_MS if worker.passive else 0
    on_its_way = now_ms < worker.offered_until_ms + late_ms
    return on_its_way or any(worker.holds(due.offer.id) for due in dues)
