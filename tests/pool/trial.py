"""One fault and what came after it: how soon everybody worked again, what was lost, what was said.

One message that is handled shows that somebody works; a worker that hangs would hide behind it, and
so would the master. So it is not the only one that is waited for.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from tests.support.ledger import DLQ, GROUP, STREAM, Note, Notes
from tests.support.servers import Server
from tests.support.waiting import wait_until

RECOVERY_S = 2.0
SETTLED_S = 5.0  # half the default min_idle_claim_ms: nothing waits for an idle timeout
MOST_LINES = 12  # of one process in one outage of up to 5 s
PATIENCE_S = 15.0  # so that a failure says how long it took
MOST_SHOWN = 6000  # characters of the log in a failure
RUNNING_S = 0.4  # how long a message runs while the fault begins

T = TypeVar("T")

_LINE = re.compile(r"\S+Z [A-Z]+ (\S+) pid=\d+ ")


class Subject(Protocol):
    """Who has to get over the fault."""

    @property
    def alive(self) -> bool: ...

    @property
    def stderr(self) -> str: ...

    def workers(self) -> list[int]: ...


@dataclass(frozen=True)
class Recovery:
    """Seconds from the end of a fault's cause, or of the handler that ran then, to the end of the
    first message that was pushed after it, to every worker's first one, and to a message's second
    delivery, which takes the master."""

    first_s: float
    every_worker_s: float
    retry_s: float

    def __str__(self) -> str:
        return (
            f"{self.first_s:.2f} s, every worker: {self.every_worker_s:.2f} s, "
            f"a retry: {self.retry_s:.2f} s"
        )


@dataclass
class Fault:
    """running: the message that ran when it began, where, since when. end_s: when its cause ended,
    in seconds since the epoch."""

    running: Note
    end_s: float = float("inf")


class Trial:
    """Feeds the workers, past any proxy, and reads the notes of their app."""

    def __init__(
        self,
        server: Server,
        subject: Subject,
        notes: Notes,
        record_property: Callable[[str, object], None],
    ) -> None:
        self.redis: Any = server.client()
        self._subject = subject
        self._workers = subject.workers()
        self._notes = notes
        self._record_property = record_property
        self._killed: set[int] = set()
        self._pushed: dict[str, dict[str, Any]] = {}

    # -- feeding -------------------------------------------------------------------------------

    def move_to(self, server: Server) -> None:
        """Push to this server from now on: a failover."""
        self.close()
        self.redis = server.client()

    def close(self) -> None:
        self.redis.close()

    def push(self, **data: Any) -> str:
        """Add a message; returns its id."""
        entry_id = str(self.redis.xadd(STREAM, {"data": json.dumps(data)}).decode())
        self._pushed[entry_id] = data
        return entry_id

    def kill(self, pid: int) -> None:
        """kill -9 of a worker: another one has to take its place."""
        self._killed.add(pid)
        os.kill(pid, signal.SIGKILL)

    # -- looking -------------------------------------------------------------------------------

    def runs(self, kind: str) -> list[Note]:
        """What the app noted: kind is ``started`` or ``ended``."""
        return self._notes.of(kind)

    def wait_run(self, entry_id: str, kind: str = "ended") -> Note:
        """Wait until this message has started, or ended."""

        def first() -> Note | None:
            return next((run for run in self.runs(kind) if run.id == entry_id), None)

        found = self._wait(first, PATIENCE_S, f"message {entry_id} {kind}")
        assert found is not None
        return found

    # -- the trial -----------------------------------------------------------------------------

    @contextmanager
    def through(
        self,
        what: str,
        *,
        running: dict[str, Any] | None = None,
        deletes: bool = False,
        repeats: bool = False,
        says: str = "",
    ) -> Iterator[Fault]:
        """The block is the fault. When it begins one message runs, and the other worker waits for
        the next one; after it everything must be as good as before.

        running: what that message says. deletes: the fault removes what was pushed before its end.
        repeats: messages that were in somebody's hands may run twice. says: what the log must tell,
        a regular expression.
        """
        self._until_all_work()
        self._wait_settled()
        message = self.push(**{"s": RUNNING_S, **(running or {})})
        fault = Fault(self.wait_run(message, "started"))
        said = len(self._subject.stderr)
        yield fault
        fault.end_s = time.time()
        if deletes:
            self._pushed.clear()

        recovery = self._recover(fault.end_s, fault.running)
        print(f"recovery after {what}: {recovery}")
        for name, value in {"fault": what, **asdict(recovery)}.items():
            self._record_property(name, value)
        self._wait_settled()

        log = self._subject.stderr[said:]
        most_lines = max(lines_by_process(log).values(), default=0)
        self._record_property("most_lines", most_lines)
        assert max(asdict(recovery).values()) < RECOVERY_S, f"{recovery}\n{log}"
        assert self._subject.alive, log
        assert set(self._subject.workers()) >= set(self._workers) - self._killed, log
        assert re.search(says, log), log
        assert most_lines <= MOST_LINES, log
        count = Counter(run.id for run in self.runs("started"))
        twice = [i for i, data in self._pushed.items() if count[i] > 1 + ("do" in data)]
        assert repeats or not twice, log

    def _recover(self, end_s: float, busy: Note) -> Recovery:
        retry = self.push(do="retry")
        first = self._until_all_work()
        ends = {run.pid: run.at_s for run in self.runs("ended") if run.id == busy.id}
        since = dict.fromkeys(first, end_s)
        since[busy.pid] = max(end_s, ends.get(busy.pid, 0.0))
        return Recovery(
            first_s=min(first.values()) - end_s,
            every_worker_s=max(at_s - since[pid] for pid, at_s in first.items()),
            retry_s=self.wait_run(retry).at_s - end_s,
        )

    def _until_all_work(self) -> dict[int, float]:
        """Push until every worker has handled some of it; returns when each first had done so."""
        mine: set[str] = set()
        first: dict[int, float] = {}

        def all_work() -> bool:
            mine.add(self.push(s=0.005))
            for run in self.runs("ended"):
                if run.id in mine:
                    first.setdefault(run.pid, run.at_s)
            return len(first) >= len(self._workers)

        def so_far() -> str:
            after = {pid: round(at_s - began_s, 2) for pid, at_s in first.items()}
            return f"workers {self._workers}, at work after (s): {after}"

        began_s = time.time()
        self._wait(all_work, PATIENCE_S, "every worker handles messages", so_far)
        return first

    def _wait(
        self,
        condition: Callable[[], T],
        timeout_s: float,
        what: str,
        so_far: Callable[[], object] = str,
    ) -> T:
        """wait_until, and when that fails, what is known so far and the end of the log."""
        try:
            return wait_until(condition, timeout_s, what)
        except AssertionError as error:
            log = self._subject.stderr[-MOST_SHOWN:]
            raise AssertionError(f"{error}; {so_far()}\n{log}") from None

    def _wait_settled(self) -> None:
        what = "all that was pushed is handled (or dead) and acknowledged"
        self._wait(lambda: not self._unfinished(), SETTLED_S, what, self._unfinished)

    def _unfinished(self) -> list[str]:
        """The first of what was pushed that are not done, in words."""
        done = {run.id for run in self.runs("ended")}
        done |= {fields[b"original_id"].decode() for _, fields in self.redis.xrange(DLQ)}
        lost = [f"{entry_id} was not handled" for entry_id in self._pushed if entry_id not in done]
        pending = self.redis.xpending_range(STREAM, GROUP, "-", "+", 5)
        return lost[:5] + [f"not acknowledged: {line}" for line in pending]


def lines_by_process(log: str) -> Counter[str]:
    """How many lines each process wrote; a traceback counts for the one that wrote it."""
    count: Counter[str] = Counter()
    who = "nobody"
    for line in log.splitlines():
        if found := _LINE.match(line):
            who = found[1]
        count[who] += 1
    return count
