"""What one process has seen of a pending list over time, measured by its own clock. Pure.

The server's idle time alone proves nothing: after an outage nobody could renew, and a clock that
jumps makes all holds look old (or new). So a stranger's hold counts as abandoned only once this
process has watched it for WATCH_MS without a renewal, while the server answered and its clock ran
as ours. That takes no memory for each entry: an idle time that reaches back to before the watching
began says that there was no renewal since.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ..message import PendingEntry

LEASE_MS = 500  # who runs a message renews its hold at least so often
WATCH_MS = 3 * LEASE_MS
LOOK_MS = 300  # how soon to look again at what is not watched long enough
LOOKS = 2 * WATCH_MS // LOOK_MS + 3  # so many do, also on a slow line or after a gap
NOT_WATCHED_MS = 2**62
_MOST_CREDIT_MS = 300  # of the time between two answers counts as watching, at most
_GAP_MS = 1000  # without an answer: others may have been unable to renew, so watching starts anew
_CLOCK_TOLERANCE_MS = 100  # a greater difference between two clocks is a jump of one
_MARK_EVERY_MS = 50
MOST_REMEMBERED = 10_000


def lease_interval_ms(min_idle_ms: int) -> int:
    """How often what is held is renewed: often enough for everybody who may take it over."""
    return min(max(min_idle_ms // 3, 20), LEASE_MS) if min_idle_ms else LEASE_MS


class _Seen(NamedTuple):
    consumer: str
    delivery_count: int
    since_ms: int  # by our clock: when its idle time was 0


class Sightings:
    """See the module's text; times are ms of mono_ms(), server times ms of the server's clock.

    watched_ms: an entry that has been idle for so long was not renewed while this process watched
    it, which was long enough.
    """

    def __init__(self) -> None:
        self.watched_ms = NOT_WATCHED_MS
        self._marks: deque[tuple[int, int]] = deque()  # (time of an answer, credit so far)
        self._credit_ms = 0
        self._last_ms: int | None = None
        self._took_ms: deque[int] = deque(maxlen=8)  # what the last answers took
        self._told: tuple[int, int, int] | None = None  # asked, answered, the server's time then
        self._seen: dict[str, _Seen] = {}
        self._seen_before: dict[str, _Seen] = {}  # in the walk before this one

    def answered(self, asked_ms: int, now_ms: int, server_ms: int | None) -> None:
        """The server has answered; server_ms: None if it was not asked, or an ACL forbids TIME."""
        self._took_ms.append(now_ms - asked_ms)
        if self._last_ms is not None:
            passed_ms = now_ms - self._last_ms
            self._credit_ms += min(passed_ms, _MOST_CREDIT_MS)
            if passed_ms > max(_GAP_MS, 3 * min(self._took_ms)):  # longer than slow answers explain
                self._marks.clear()
        self._last_ms = now_ms
        if server_ms is not None:
            if self._told is not None and _steps(self._told, (asked_ms, now_ms, server_ms)):
                self._marks.clear()  # idle times from before it say nothing
            self._told = (asked_ms, now_ms, server_ms)
        marks = self._marks
        if not marks or now_ms - marks[-1][0] >= _MARK_EVERY_MS:
            marks.append((now_ms, self._credit_ms))
        while len(marks) > 1 and self._credit_ms - marks[1][1] >= WATCH_MS:
            marks.popleft()
        watched = self._credit_ms - marks[0][1] >= WATCH_MS
        self.watched_ms = now_ms - marks[0][0] if watched else NOT_WATCHED_MS

    def as_seen(self, entry: PendingEntry, now_ms: int, *, parked: bool) -> PendingEntry:
        """The entry with the idle time that is due to it by our clock.

        The server says 0 for what its clock says will be delivered in the future: its clock went
        back. Then an entry is as old as we have seen it grow. parked: a retry that waits, whose
        age is kept in mind before that happens.
        """
        known = self._seen.get(entry.id) or self._seen_before.get(entry.id)
        if entry.idle_ms < 0 or (entry.idle_ms and not parked):
            self._seen.pop(entry.id, None)
            self._seen_before.pop(entry.id, None)
            return entry
        since_ms = now_ms - entry.idle_ms
        if not entry.idle_ms and known and known[:2] == (entry.consumer, entry.delivery_count):
            since_ms = min(since_ms, known.since_ms)
        if known is not None or len(self._seen) < MOST_REMEMBERED:
            self._seen[entry.id] = _Seen(entry.consumer, entry.delivery_count, since_ms)
            if since_ms < now_ms - entry.idle_ms:
                return PendingEntry(
                    entry.id, entry.consumer, now_ms - since_ms, entry.delivery_count
                )
        return entry

    def walked(self) -> None:
        """Note that a walk through the list is complete: entries not seen in it are forgotten."""
        self._seen_before, self._seen = self._seen, {}


def _steps(before: tuple[int, int, int], after: tuple[int, int, int]) -> bool:
    """Did the server's clock step? before, after: (asked, answered, the server's time) each."""
    asked_before_ms, answered_before_ms, server_before_ms = before
    asked_ms, answered_ms, server_ms = after
    least = asked_ms - answered_before_ms - _CLOCK_TOLERANCE_MS
    most = answered_ms - asked_before_ms + _CLOCK_TOLERANCE_MS
    return not least <= server_ms - server_before_ms <= most
