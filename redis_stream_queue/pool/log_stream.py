"""Standard error of the master, which must not wait: a reader of the log may stop reading (a pager,
Ctrl-S, a log driver that hangs), and recovery, probes and signals have to go on.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
from collections.abc import Callable
from typing import TextIO

PATIENCE_MS = 100  # a reader that is only slow gets so long; one that has stopped, once


class Unheld:
    """A stream whose write() waits PATIENCE_MS at most; what does not fit is left out.

    write: writes some of the bytes and returns how many; raises BlockingIOError for none.
    fd: what to wait for. lost: how many texts were left out since the last that was not.
    """

    def __init__(self, write: Callable[[bytes], int], fd: int) -> None:
        self.lost = 0
        self._write = write
        self._fd = fd
        self._rest = b""  # of a text that was written in part

    def write(self, text: str) -> int:
        """Write a text as a whole, as soon as there is room for more than its beginning."""
        raw = text.encode(errors="backslashreplace")
        if self._finish() and self._put(raw):
            self.lost = 0
        else:
            self.lost += 1
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back but the end of a text."""

    def _finish(self) -> bool:
        rest, self._rest = self._rest, b""
        if not rest or self._put(rest):
            return not self._rest
        self._rest = rest
        return False

    def _put(self, raw: bytes) -> bool:
        """Write it, the end perhaps later; False = none of it was written."""
        patient = not self.lost
        begun = False
        while raw:
            try:
                raw = raw[self._write(raw) :]
                begun = True
            except BlockingIOError:
                if not patient:
                    break
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(PATIENCE_MS)
                patient = False
        if begun:
            self._rest = raw
        return begun


class UnheldHandler(logging.StreamHandler[TextIO]):
    """Writes to an Unheld; where lines were left out, one says how many."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = self.stream
        if isinstance(stream, Unheld) and stream.lost:
            text = f"{stream.lost} line(s) of this log were left out: nobody read it"
            gap = logging.makeLogRecord({**vars(record), "msg": text, "args": None})
            gap.levelno, gap.levelname = logging.WARNING, "WARNING"
            gap.exc_info = gap.exc_text = gap.stack_info = None
            super().emit(gap)
            if stream.lost:
                stream.lost -= 1  # (the line about them is none of them)
        super().emit(record)


def unheld(stream: TextIO | None) -> Unheld | None:
    """The same file as this stream, without waiting; None = it need not or cannot be had so."""
    try:
        assert stream is not None
        fd = stream.fileno()
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            sock = socket.socket(fileno=os.dup(fd))
            return Unheld(lambda raw: sock.send(raw, socket.MSG_DONTWAIT), sock.fileno())
        if not (stat.S_ISFIFO(mode) or os.isatty(fd)):
            return None
        # An open file of its own: others who share this one still wait, as they expect to.
        own = open(  # noqa: SIM115
            f"/proc/self/fd/{fd}",
            "wb",
            buffering=0,
            opener=lambda path, _: os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY),
        )
    except (AssertionError, OSError, ValueError):
        return None
    return Unheld(lambda raw: os.write(own.fileno(), raw), own.fileno())
