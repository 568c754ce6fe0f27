"""Standard input, output and error, where somebody has closed one of them.

Old init scripts and daemonizers do, and handlers. The next file that is opened would get such a
number, and whatever is printed, or read by a child, would go to it.
"""

from __future__ import annotations

import io
import os
import sys
from select import POLLNVAL, poll

from .._log import logger

log = logger(__name__)

STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}
CLOSELY = 1000  # calls after which a worker looks, one by one
REST_MS = 20  # between two looks, after those


def open_those_closed() -> None:
    """Let /dev/null stand in; call it before any other file is opened to stay."""
    for number, name in STREAMS.items():
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(null, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = open(number, mode, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


class StandardStreams:
    """Puts right what a handler closes in a worker: the next file that we open would get such a
    number, and the next message could not print, nor start a program.

    The first calls of a worker's life are looked after one by one, and those after a find: an app
    that does such a thing does it soon. All others are once in ``REST_MS``.

    next_ms: when to look next, in ms of mono_ms().
    """

    def __init__(self) -> None:
        self._kept = [os.dup(number) for number in STREAMS]
        self._poll = poll()
        for number in STREAMS:
            self._poll.register(number, 0)
        self._closely = CLOSELY
        self.next_ms = 0
        self._said = False

    def look(self, now_ms: int) -> None:
        """Before the next message, in the handler's thread; not needed before ``next_ms``."""
        self._closely -= self._closely > 0
        self.open_again()
        self.next_ms = 0 if self._closely else now_ms + REST_MS

    def open_again(self) -> None:
        """What is closed goes where it went at the worker's start."""
        closed = [number for number, event in self._poll.poll(0) if event & POLLNVAL]
        if not closed:
            return
        self._closely, self.next_ms = CLOSELY, 0
        for number in closed:
            try:
                os.dup2(self._kept[number], number)
            except OSError:  # that is closed, too
                open_those_closed()
        if not self._said:
            self._said = True
            names = ", ".join(STREAMS[number] for number in closed)
            log.warning("a handler closed %s of its process: open again for the others", names)


class _Unclosable(io.TextIOWrapper):
    """Of the app's code, ``sys.stdout.close()`` is for one message; others want to print."""

    def close(self) -> None:
        if not self.closed and self.writable():
            self.flush()


def make_unclosable() -> None:
    """From now on they write whole lines, and each at once, and their ``close`` closes nothing.

    The old ones stay as they are: an app that was imported before the fork may have them.
    """
    for number, name in STREAMS.items():
        if isinstance(old := getattr(sys, name), io.TextIOWrapper):
            raw = open(number, "wb" if number else "rb", closefd=False)  # noqa: SIM115
            stream = _Unclosable(raw, old.encoding, old.errors, line_buffering=True)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
