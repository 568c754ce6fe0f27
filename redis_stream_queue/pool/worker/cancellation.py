"""Interrupts a plain @per_message handler whose message was cancelled: Cancelled is raised in it.

A signal does that: it arrives in the main thread, also during a blocking system call. The handler
of the signal finds out from the stack which message runs, so messages that are not cancelled cost
nothing.
"""

from __future__ import annotations

import signal
from _thread import get_ident
from collections import deque
from types import FrameType

from ...delivery.per_message import PerMessage
from ...exceptions import Cancelled

INTERRUPT = signal.SIGRTMIN + 10
OURS = __name__.partition(".")[0]


class Cancellation:
    """Interrupts handlers. Make it in the main thread, before the app can patch the interpreter."""

    def __init__(self) -> None:
        self._main_thread = get_ident()
        self._ids: deque[str] = deque()  # one signal may stand for several
        signal.signal(INTERRUPT, self._interrupted)

    def interrupt(self, entry_id: str) -> None:
        """Raise Cancelled in the handler, if it runs for this message."""
        self._ids.append(entry_id)
        signal.pthread_kill(self._main_thread, INTERRUPT)

    def _interrupted(self, _: int, frame: FrameType | None) -> None:
        runs = handled_in(frame)
        while self._ids:
            if self._ids.popleft() == runs:
                raise Cancelled(f"message {runs} was cancelled")


def handled_in(frame: FrameType | None) -> str:
    """Id of the message for which the app's code runs in this frame; "" if none does."""
    of_app = False
    while frame is not None:
        if frame.f_code is PerMessage.run.__code__:
            return str(frame.f_locals["message"].id) if of_app else ""
        of_app |= str(frame.f_globals.get("__name__")).partition(".")[0] != OURS
        frame = frame.f_back
    return ""
