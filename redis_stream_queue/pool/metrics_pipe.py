"""The one-way pipe that a worker's metrics travel on: ``multiprocessing.Pipe(duplex=False)``.

Neither end ever waits. A worker writes a snapshot of its totals each second while they move, and a
last one before it ends; one that does not fit, because nobody reads, is dropped: the next one says
the same and more. The master reads when it looks at the metrics and when the worker has died.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

from .._log import logger
from .totals import MAX_SNAPSHOT, NAMES, Totals, decode, encode, latest, portions

log = logger(__name__)

REPORT_S = 1.0
MOST_AT_ONCE = 20  # snapshots read at a time: a worker that floods its pipe holds up no other


def pipe() -> tuple[Connection, Connection]:
    """The master's end, to read from, and the worker's, to write to; neither ever waits."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    for end in (reader, writer):
        os.set_blocking(end.fileno(), False)
    return reader, writer


class Reporter:
    """A worker's end. totals: asked for what to send."""

    def __init__(self, writer: Connection, totals: Callable[[], Totals]) -> None:
        self._writer = writer
        self._totals = totals
        self._sent: Totals = dict.fromkeys(NAMES, 0)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Report from now on, each second while something moves; call it in the loop."""
        self._timer = asyncio.get_running_loop().call_later(REPORT_S, self.start)
        self.report()

    def report(self) -> None:
        """Send a snapshot if it says anything new."""
        totals = self._totals()
        if totals == self._sent:
            return
        try:
            for portion in portions(totals):
                self._writer.send_bytes(encode(portion))
        except OSError as error:  # the pipe is full, or the master is gone or does not listen
            log.debug("no snapshot was sent: %s", error)
        else:
            self._sent = totals

    def close(self) -> None:
        """Send the last one."""
        if self._timer is not None:
            self._timer.cancel()
        self.report()
        self._writer.close()


class Reports:
    """The master's end: the newest totals of one life.

    snapshots: how many have come.
    """

    def __init__(self, reader: Connection, who: str) -> None:
        self.totals: Totals = dict.fromkeys(NAMES, 0)
        self.snapshots = 0
        self._reader = reader
        self._who = who

    def read(self) -> Totals:
        """Take what has come; returns the newest totals."""
        for _ in range(MOST_AT_ONCE):
            if self._reader.closed:
                break
            try:
                if not self._reader.poll():
                    break
                # It is all there, or it was no single write, and so none of ours.
                self._note(decode(self._reader.recv_bytes(MAX_SNAPSHOT)))
            except EOFError:
                self._reader.close()
            except OSError:
                log.warning(
                    "%s wrote to its metrics pipe what is no snapshot; the shared row still counts",
                    self._who,
                )
                self._reader.close()
        return self.totals

    def _note(self, totals: Totals) -> None:
        if totals:
            self.totals = latest(self.totals, totals)
            self.snapshots += 1

    def close(self) -> None:
        """Read what is left, then close."""
        self.read()
        self._reader.close()
