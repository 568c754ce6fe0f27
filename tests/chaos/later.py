"""The verdict on what was asked for beside a push: later, once, unique, not too late, paused,
cancelled, periodic. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .executions import Execution
from .faults import Faults
from .verdict import Finding, Letter, Pushed

BEFORE_S = 1.5  # a fault so long before may still keep a host from hearing
HEARD_S = 0.5  # a pause or a cancellation has arrived everywhere by then, on a busy machine
LATE_S = 1.0  # what may not start any more does not start so long after that
BLOCKED_S = 15.0  # nothing keeps an acknowledgement from Redis for so long
CANCEL, PAUSE, JUMP = "cancelled", "paused", "clock jumps"


@dataclass(frozen=True)
class Refused:
    """A unique push that got the id of an earlier message: it was still unfinished then."""

    n: int
    id: str
    key: str
    begun_s: float


@dataclass(frozen=True)
class Cancelled:
    """said: what it was, "" = there was nothing to cancel, None = there was no answer."""

    id: str
    said: str | None
    begun_s: float
    at_s: float


def resolved(
    pushed: Sequence[Pushed], runs: Sequence[Execution], letters: Sequence[Letter]
) -> tuple[list[Pushed], dict[str, str], list[Finding]]:
    """What was pushed, and what must have been: ticks. Also the ids of entries that scheduled
    messages became, and each message that is in the stream twice."""
    ids_of: dict[int, dict[str, None]] = defaultdict(dict)
    for run in runs:
        ids_of[run.n][run.id] = None
    for letter in letters:
        ids_of[letter.n][letter.original_id] = None
    twice = [
        Finding("in the stream twice", " ".join(ids), f"n={n}")
        for n, ids in ids_of.items()
        if len(ids) > 1
    ]
    became: dict[str, str] = {}
    found = []
    for one in pushed:
        ids = ids_of.get(one.n)
        if one.id.startswith("@") and ids:
            became[one.id] = next(iter(ids))
        found.append(replace(one, id=became.get(one.id, one.id)))
    ticks = [n for n in ids_of if n < 0]
    for n in range(min(ticks, default=0), max(ticks, default=-1) + 1):
        [*ids] = ids_of.get(n, ())
        found.append(Pushed(n, ids[0] if ids else f"tick {-n}", "nothing", float(-n)))
    return found, became, twice


def withdrawn(
    pushed: Sequence[Pushed], cancelled: Sequence[Cancelled], became: dict[str, str]
) -> frozenset[str]:
    """Ids that need not come to an end: cancelled, perhaps cancelled, expired."""
    expired = {p.id for p in pushed if p.ttl_s is not None and p.ttl_s < BLOCKED_S}
    gone = {c.id for c in cancelled if c.said != ""}
    return frozenset(expired | gone | {became[i] for i in gone if i in became})


def judge_later(
    pushed: Sequence[Pushed],
    refused: Sequence[Refused],
    cancelled: Sequence[Cancelled],
    became: dict[str, str],
    runs: Sequence[Execution],
    letters: Sequence[Letter],
    faults: Faults,
) -> list[Finding]:
    """What must not happen; became: see resolved()."""
    of: dict[str, list[Execution]] = defaultdict(list)
    for run in runs:
        of[run.id].append(run)
    judge = _Judge(of, {letter.original_id for letter in letters}, became, faults)
    gone = withdrawn(pushed, cancelled, became)
    return [
        *judge.cancelled(cancelled),
        *judge.paused(runs),
        *judge.too_late(pushed),
        *judge.unique([p for p in pushed if p.key], gone),
        *judge.refused(refused),
    ]


@dataclass
class _Judge:
    of: dict[str, list[Execution]]
    dead: set[str]
    became: dict[str, str]
    faults: Faults

    def _deaf(self, run: Execution, since_s: float) -> bool:
        """Could its process not hear what was said since then?"""
        return any(
            f.overlaps(since_s - BEFORE_S, run.begin_s)
            for f in self.faults.all
            if (f.severs and f.host in ("", run.host))
            or (f.host == run.host and f.kind.startswith(("stop", "slow")))
        )

    def cancelled(self, cancelled: Sequence[Cancelled]) -> list[Finding]:
        found = []
        for one in cancelled:
            entry_id = self.became.get(one.id, one.id)
            runs = self.of.get(entry_id, [])
            if one.said is None or self.faults.dropped(entry_id):
                continue
            for run in runs:
                if run.begin_s > one.at_s + HEARD_S and not self._deaf(run, one.begun_s):
                    what = one.said or "nowhere any more"
                    found.append(Finding(f"started after its cancellation ({what})", entry_id))
        return found

    def paused(self, runs: Sequence[Execution]) -> list[Finding]:
        """Until the server's clock jumps: a pause that has an end may be over by it then."""
        jumps = [f.begin_s for f in self.faults.all if f.kind == JUMP]
        pauses = [
            (pause.begin_s, min([pause.end_s, *(at for at in jumps if at > pause.begin_s)]))
            for pause in self.faults.all
            if pause.kind == PAUSE
        ]
        return [
            Finding("started while paused", run.id, f"{run.begin_s - begin_s:.2f} s after it")
            for run in runs
            for begin_s, end_s in pauses
            if begin_s + HEARD_S < run.begin_s < end_s and not self._deaf(run, begin_s)
        ]

    def too_late(self, pushed: Sequence[Pushed]) -> list[Finding]:
        if any(f.kind == JUMP for f in self.faults.all):
            return []  # then ours says nothing about the server's
        return [
            Finding("started after its time", p.id, f"{run.begin_s - p.at_s:.2f} s, {p.ttl_s} s")
            for p in pushed
            if p.ttl_s is not None
            for run in self.of.get(p.id, [])
            if run.begin_s > p.at_s + p.ttl_s + LATE_S
        ]

    def unique(self, pushed: Sequence[Pushed], gone: frozenset[str]) -> list[Finding]:
        """The next one of a key is accepted only when the one before is finished."""
        found, before = [], dict[str, Pushed]()
        for one in pushed:
            earlier = before.get(one.key)
            before[one.key] = one
            if earlier is None or earlier.id in gone or earlier.id in self.dead:
                continue
            runs = self.of.get(earlier.id, [])
            done = any(r.how == "ended" and (r.end_s or 0) <= one.at_s for r in runs)
            if not done and not self.faults.dropped(earlier.id):
                detail = f"{one.key}: {one.id} was accepted at {one.at_s:.3f}"
                found.append(Finding("two unfinished of a key", earlier.id, detail))
        return found

    def refused(self, refused: Sequence[Refused]) -> list[Finding]:
        found = []
        for one in refused:
            runs = self.of.get(self.became.get(one.id, one.id), [])
            ends = [r.end_s for r in runs if r.how == "ended" and r.end_s]
            if ends and len(ends) == len(runs) and max(ends) < one.begun_s - BLOCKED_S:
                found.append(Finding("a key was blocked for longer than its message", one.id))
        return found
