"""Interrupts a plain @per_message handler whose message was taken back: Cancelled is raised there.

By a signal of our own, which arrives in the main thread, blocking system calls included. Nothing is
paid for it while no message is cancelled: it is the signal that looks at the stack for what runs.
"""

from __future__ import annotations

import signal
from _thread import get_ident
from types import FrameType

from ...delivery.per_message import PerMessage
from ...exceptions import Cancelled

INTERRUPT = signal.SIGRTMIN + 10
OURS = __name__.partition(".")[0]


class Cancellation:
    """Make it in the main thread, before an app can patch anything."""

    def __init__(self) -> None:
        self._main_thread = get_ident()
        self._id = ""
        signal.signal(INTERRUPT, self._interrupted)

    def interrupt(self, entry_id: str) -> None:
        """The handler that runs for this message, if one does."""
        self._id = entry_id
        signal.pthread_kill(self._main_thread, INTERRUPT)

    def _interrupted(self, _: int, frame: FrameType | None) -> None:
        entry_id, self._id = self._id, ""
        if entry_id and handled_in(frame) == entry_id:
            raise Cancelled(f"message {entry_id} was cancelled")


def handled_in(frame: FrameType | None) -> str:
    """Id of the message for which code of the app runs there; "" if none does."""
    of_app = False
    while frame is not None:
        if frame.f_code is PerMessage.run.__code__:
            return str(frame.f_locals["message"].id) if of_app else ""
        of_app |= str(frame.f_globals.get("__name__")).partition(".")[0] != OURS
        frame = frame.f_back
    return ""
