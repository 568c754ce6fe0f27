"""The verdict: what became of each message, judged from the notes, the letters and the faults.

Pure: values in, values out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from .app import DOOMED, MAX_DELIVERIES
from .executions import KILLED_ITSELF, Execution
from .faults import Fault, Faults, longest_span_s

MOMENT_S = 0.15  # after its end a message is acknowledged within this time (50 ms), if all is well
SLOW_MOMENT_S = 0.5  # the same through a slow network: up to 80 ms each way
MIN_IDLE_S = 1.0  # the pools' min_idle_claim_ms
RENEWAL_S = 0.4  # a lease may be that old when a fault begins
SEVERED_S = MIN_IDLE_S - RENEWAL_S  # long enough for others to take over what runs
SIDE_BY_SIDE = "B"  # the host whose handler is async
CLAIM_BACK_S = 2.0  # a worker that lives so long has noticed that its name was deleted
CHAIN_GAP_S = RENEWAL_S  # faults in such short succession leave no time to renew a lease


@dataclass(frozen=True)
class Pushed:
    """A message whose push returned its id.

    at_s, begun_s: when the call ended and began. key: it is unique. ttl_s: so long it may start.
    """

    n: int
    id: str
    do: str
    at_s: float
    begun_s: float = 0.0
    key: str = ""
    ttl_s: float | None = None


@dataclass(frozen=True)
class Letter:
    """A dead letter; n, do: of the payload."""

    id: str
    original_id: str
    n: int
    do: str
    reason: str
    last_error: str
    delivery_count: int


@dataclass(frozen=True)
class Finding:
    """Something that must not happen. id: of the message, "" = none."""

    what: str
    id: str = ""
    detail: str = ""


@dataclass
class Verdict:
    """findings: what is wrong; twice: why messages ran again, by cause; overlaps: likewise.

    dropped: lost with a consumer that was deleted, before it could know or after its death.
    unlucky: innocents among the dead whose every permitted execution was killed by a fault.
    withdrawn: cancelled, or expired.
    """

    pushed: int = 0
    unconfirmed: int = 0
    handled: int = 0
    dead: int = 0
    unlucky: int = 0
    executions: int = 0
    lost: int = 0
    dropped: int = 0
    withdrawn: int = 0
    findings: list[Finding] = field(default_factory=list)
    twice: Counter[str] = field(default_factory=Counter)
    overlaps: Counter[str] = field(default_factory=Counter)


def judge(
    pushed: list[Pushed],
    unconfirmed: set[int],
    executions: list[Execution],
    letters: list[Letter],
    faults: Faults,
    withdrawn: frozenset[str] = frozenset(),
) -> Verdict:
    """The verdict on a run.

    unconfirmed: numbers of messages whose push failed; they may be in the stream or not.
    executions: in the order of their start. withdrawn: ids that need not come to an end.
    """
    faults = _with_self_kills(faults, executions)
    verdict = Verdict(len(pushed), len(unconfirmed), executions=len(executions))
    of: dict[str, list[Execution]] = defaultdict(list)
    for execution in executions:
        of[execution.id].append(execution)
    known = {p.id for p in pushed}
    ended = {i for i, runs in of.items() if any(e.how == "ended" for e in runs)}
    verdict.handled, verdict.dead = len(ended), len(letters)
    verdict.withdrawn = len(withdrawn - ended)
    must_end = [p for p in pushed if p.id not in withdrawn]
    begun = {i: runs for i, runs in of.items() if i not in withdrawn}
    _judge_losses(verdict, must_end, begun, ended, letters, faults)
    _judge_letters(verdict, must_end, of, letters, faults)
    for entry_id, runs in of.items():
        if entry_id not in known and runs[0].n not in unconfirmed:
            verdict.findings.append(Finding("executed, never pushed", entry_id))
        _judge_runs(verdict, runs, faults, may_stop=entry_id in withdrawn)
    return verdict


def _judge_losses(
    verdict: Verdict,
    pushed: list[Pushed],
    of: dict[str, list[Execution]],
    ended: set[str],
    letters: list[Letter],
    faults: Faults,
) -> None:
    """Also of messages whose push failed: what was begun must come to an end."""
    settled = ended | {letter.original_id for letter in letters}
    for message in pushed:
        if message.id not in settled:
            if is_dropped(message.id, of.get(message.id, []), faults):
                verdict.dropped += 1
                continue
            runs = len(of.get(message.id, []))
            detail = f"{message.do}, pushed {message.at_s:.3f}, {runs} execution(s)"
            verdict.findings.append(Finding("LOST", message.id, detail))
            verdict.lost += 1
    for entry_id in of.keys() - settled - {p.id for p in pushed}:
        if is_dropped(entry_id, of[entry_id], faults):
            verdict.dropped += 1
            continue
        verdict.findings.append(Finding("LOST (its push was not confirmed)", entry_id))
        verdict.lost += 1


def is_dropped(entry_id: str, runs: list[Execution], faults: Faults) -> bool:
    """Was it deleted with its consumer, and did nobody live who had it in memory and noticed?"""
    for fault in faults.dropped(entry_id):
        last = runs[-1] if runs else None
        if last is None:
            return True  # its reply never arrived, or its worker died before it began
        died_s = _death_s(last, faults) or faults.killed_at(last.pid, last.pool)
        if died_s is not None and died_s < fault.end_s + CLAIM_BACK_S:
            return True
        # Side by side: the next read makes the name again, and nobody looks at it before each.
        until_s = (last.end_s or last.begin_s) + MOMENT_S
        if last.host == SIDE_BY_SIDE and last.how != "ended":
            return fault.overlaps(last.begin_s - MOMENT_S, until_s)
    return False


def _judge_letters(
    verdict: Verdict,
    pushed: list[Pushed],
    of: dict[str, list[Execution]],
    letters: list[Letter],
    faults: Faults,
) -> None:
    """The dead are the doomed, each once."""
    buried = Counter(letter.original_id for letter in letters)
    for entry_id, times in buried.items():
        if times > 1:
            verdict.findings.append(Finding(f"buried {times} times", entry_id))
    for letter in letters:
        if letter.do in DOOMED:
            continue
        if any(e.how == "ended" for e in of.get(letter.original_id, [])):
            verdict.findings.append(Finding("buried although it ran", letter.original_id))
            continue
        killed = sum(_death_s(e, faults) is not None for e in of.get(letter.original_id, []))
        if killed >= MAX_DELIVERIES:
            verdict.unlucky += 1
            continue
        detail = f"{letter.do}, {letter.reason}, {killed} of its executions were killed"
        verdict.findings.append(Finding("innocent buried", letter.original_id, detail))
    for message in pushed:
        if message.do not in DOOMED or message.id in buried or message.id not in of:
            continue
        if not is_dropped(message.id, of[message.id], faults):
            verdict.findings.append(Finding("doomed, not buried", message.id, message.do))


def _judge_runs(verdict: Verdict, runs: list[Execution], faults: Faults, *, may_stop: bool) -> None:
    """Every execution after the first needs a reason."""
    for run in runs:
        if run.end_s is None and _death_s(run, faults) is None and not may_stop:
            detail = f"pool {run.pool} pid {run.pid} at {run.begin_s:.3f}"
            verdict.findings.append(Finding("begun, not ended, not killed", run.id, detail))
    for first, second in pairwise(runs):
        why = _why_again(first, second, faults)
        verdict.twice[why or "UNEXPLAINED"] += 1
        if not why:
            detail = f"{first.pool}/{first.pid} then {second.pool}/{second.pid}"
            verdict.findings.append(Finding("unexplained double execution", first.id, detail))
        until_s = first.end_s or _death_s(first, faults)
        if until_s is not None and second.begin_s < until_s:
            cut_s = _severed_s(first, second, faults)
            if cut_s >= SEVERED_S:
                verdict.overlaps["severed long enough"] += 1
                continue
            verdict.overlaps["UNEXPLAINED"] += 1
            detail = (
                f"{first.pool}/{first.pid} until {until_s:.3f}, {second.pool}/{second.pid} from "
                f"{second.begin_s:.3f}; the first was severed for {cut_s:.2f} s"
            )
            verdict.findings.append(Finding("unexplained overlap", first.id, detail))


def _with_self_kills(faults: Faults, executions: list[Execution]) -> Faults:
    """A message that kills its process is a fault for the others that this process ran."""
    own = [
        Fault("kill", e.end_s, e.end_s, e.host, e.pool, e.pid)
        for e in executions
        if e.how == KILLED_ITSELF and e.end_s is not None
    ]
    return Faults([*faults.all, *own])


def _death_s(run: Execution, faults: Faults) -> float | None:
    """When the process that ran it was killed in the midst of it, by us or by the message."""
    if run.how == KILLED_ITSELF:
        return run.end_s
    if run.end_s is not None:
        return None
    return faults.killed_at(run.pid, run.pool)


def _why_again(first: Execution, second: Execution, faults: Faults) -> str:
    """Why a message may run again after this execution; "" = no reason is known."""
    if first.how == "raised":
        return "raised"
    if first.end_s is None or first.how == KILLED_ITSELF:
        return "killed" if _death_s(first, faults) is not None else ""
    moment_s = SLOW_MOMENT_S if faults.slow(first.host, first.end_s) else MOMENT_S
    until_s = faults.has_run_for(first.pid, first.pool, first.end_s, moment_s)
    killed_s = faults.killed_at(first.pid, first.pool)
    if killed_s is not None and first.begin_s <= killed_s <= until_s:
        return "killed before its ack"
    severed = faults.severed(first.host, first.pool, first.pid)
    causes = [f.kind for f in severed if f.overlaps(first.begin_s, until_s)]
    if not causes:
        return ""
    span_s = longest_span_s(severed, first.begin_s, second.begin_s, CHAIN_GAP_S)
    return causes[0] if span_s >= SEVERED_S else f"short {causes[0]}"


def _severed_s(first: Execution, second: Execution, faults: Faults) -> float:
    severed = faults.severed(first.host, first.pool, first.pid)
    return longest_span_s(severed, first.begin_s, second.begin_s, CHAIN_GAP_S)
