"""Standard input, output and error, where somebody has closed one of them.

Old init scripts and daemonizers close them, and some handlers. The next file that is opened would
get the number of the closed stream; printed text would go into that file, and a child process would
read from it.
"""

from __future__ import annotations

import io
import os
import sys
from fcntl import F_GETFD, fcntl

from .._log import logger

log = logger(__name__)

STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}
CLOSELY = 1000  # so many handler calls are checked one by one
REST_MS = 20  # later there is one check in this time


def open_those_closed() -> None:
    """Open /dev/null in place of each closed one; call this before any other file is opened."""
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
    """Opens the streams again that a handler has closed in its worker.

    Else the next handler call could not print, nor start a program. The first CLOSELY calls of a
    life are checked one by one, as are those after a find: an app that closes streams does so soon.
    Later there is one check in REST_MS.

    next_ms: when to check next, in ms of mono_ms().
    """

    def __init__(self) -> None:
        self._kept = [os.dup(number) for number in STREAMS]
        self._closely = CLOSELY
        self.next_ms = 0
        self._said = False

    def look(self, now_ms: int) -> None:
        """Check before the next message, in the handler's thread; not needed before ``next_ms``."""
        self._closely -= self._closely > 0
        self.open_again()
        self.next_ms = 0 if self._closely else now_ms + REST_MS

    def open_again(self) -> None:
        """Open each closed stream again, on the file that it had at the worker's start.

        The handler's thread and the loop's may call it at the same moment.
        """
        closed = []
        for number in STREAMS:
            try:
                fcntl(number, F_GETFD)  # (one poll object for two threads raises RuntimeError)
            except OSError:
                closed.append(number)
        if not closed:
            return
        self._closely, self.next_ms = CLOSELY, 0
        for number in closed:
            try:
                os.dup2(self._kept[number], number)
            except OSError:  # the app has closed the kept copy, too
                open_those_closed()
        if not self._said:
            self._said = True
            names = ", ".join(STREAMS[number] for number in closed)
            log.warning("a handler closed %s of its process: it is open again for others", names)


class _Unclosable(io.TextIOWrapper):
    """A stream whose ``close()`` closes nothing: the next messages of a worker need it."""

    def close(self) -> None:
        if not self.closed and self.writable():
            self.flush()


def make_unclosable() -> None:
    """Replace the streams of ``sys``: each line is written at once, and ``close()`` does nothing.

    The old stream objects stay open: an app that was imported before the fork may use them.
    """
    for number, name in STREAMS.items():
        if isinstance(old := getattr(sys, name), io.TextIOWrapper):
            raw = open(number, "wb" if number else "rb", closefd=False)  # noqa: SIM115
            stream = _Unclosable(raw, old.encoding, old.errors, line_buffering=True)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
