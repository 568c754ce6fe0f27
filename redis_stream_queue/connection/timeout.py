"""A timeout for exchanges with Redis: of silence, however long a transfer takes in all."""

from __future__ import annotations

from collections.abc import Callable

from .._lazy_timer import LazyTimer

LOOK_S = 0.5  # how often it looks whether bytes have passed


class Silence:
    """Ends an exchange on its connection in which not one byte has passed for ``limit_s``.

    It looks every LOOK_S whether bytes have passed, and counts the looks that found none. So a
    loop that stood still (a handler held the GIL, the process was stopped) counts as one look, and
    what has arrived in the socket meanwhile is found before the next.

    now: the loop's clock, in s. progress: a number that grows with what passes. on_progress: called
    at each look after which it has grown. abort: ends the exchange.
    limit_s: seconds, of the exchange under way; None = no exchange, or one without a limit.
    ended: was the exchange aborted?
    """

    def __init__(
        self,
        now: Callable[[], float],
        progress: Callable[[], int],
        on_progress: Callable[[], None],
        abort: Callable[[], None],
    ) -> None:
        self.limit_s: float | None = None
        self.ended = False
        self._now = now
        self._progress = progress
        self._on_progress = on_progress
        self._abort = abort
        self._on_late: Callable[[], None] | None = None
        self._timer = LazyTimer(self._look)

    def begin(
        self,
        limit_s: float | None,
        now_s: float,
        on_late: Callable[[], None] | None = None,
        *,
        waits: bool = False,
    ) -> None:
        """Begin an exchange that may be silent for limit_s.

        on_late: called once when there is silence until the last look but one.
        waits: its command blocks at the server, so that it is not worth looking until shortly
        before the end, or until moves().
        """
        self.limit_s, self._on_late = limit_s, on_late
        if limit_s is not None:
            self._left_s = limit_s
            self._seen = self._progress()
            self._look_after(now_s, limit_s - LOOK_S if waits else 0.0)

    def moves(self) -> None:
        """Note that a part of the reply has arrived."""
        if self.limit_s is not None and self._step_s > LOOK_S:
            self._look_after(self._now())

    def end(self) -> None:
        """Note that the exchange is over."""
        self.limit_s = self._on_late = None  # the timer finds nothing to do

    def _look_after(self, now_s: float, least_s: float = 0.0) -> None:
        assert self.limit_s is not None
        self._step_s = max(min(LOOK_S, self.limit_s / 2, self._left_s), least_s)
        self._timer.set(now_s + self._step_s)

    def _look(self) -> None:
        if self.limit_s is None:
            return
        progress = self._progress()
        if progress > self._seen:
            self._seen, self._left_s = progress, self.limit_s
            self._on_progress()
        else:
            self._left_s -= self._step_s
        if self._left_s <= 0.001:
            self.ended = True
            self._abort()
            return
        if self._left_s <= LOOK_S and self._on_late is not None:
            on_late, self._on_late = self._on_late, None
            on_late()
        self._look_after(self._now())
