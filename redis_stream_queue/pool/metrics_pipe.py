"""The one-way pipe that a worker's metrics travel on: ``multiprocessing.Pipe(duplex=False)``.

Neither end ever waits. A worker writes a snapshot of its totals each second while they change, and
one more before it ends. A snapshot that does not fit, because nobody reads, is dropped: the next
one has newer values of the same counters. The master reads when it looks at the metrics and when
the worker has died.
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
    """A new pipe: the master's end, to read from, and the worker's end, to write to."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    for end in (reader, writer):
        os.set_blocking(end.fileno(), False)
    return reader, writer


class Reporter:
    """A worker's end of the pipe. totals: returns the totals to be sent."""

    def __init__(self, writer: Connection, totals: Callable[[], Totals]) -> None:
        self._writer = writer
        self._totals = totals
        self._sent: Totals = dict.fromkeys(NAMES, 0)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Report now and each second while the totals change; call this in the event loop."""
        self._timer = asyncio.get_running_loop().call_later(REPORT_S, self.start)
        self.report()

    def report(self) -> None:
        """Send a snapshot if the totals have changed since the last one."""
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
        """Send the last snapshot, then close the pipe."""
        if self._timer is not None:
            self._timer.cancel()
        self.report()
        self._writer.close()


class Reports:
    """The master's end of the pipe: the newest totals of one life.

    who: names the worker in the log. snapshots: how many have come.
    """

    def __init__(self, reader: Connection, who: str) -> None:
        self.totals: Totals = dict.fromkeys(NAMES, 0)
        self.snapshots = 0
        self._reader = reader
        self._who = who

    def read(self) -> Totals:
        """Read the snapshots that have come, MOST_AT_ONCE at most; returns the newest totals."""
        for _ in range(MOST_AT_ONCE):
            if self._reader.closed:
                break
            try:
                if not self._reader.poll():
                    break
                # recv_bytes cannot wait: a snapshot of ours is one write, which arrives whole.
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
        """Read the snapshots that are left, then close the pipe."""
        self.read()
        self._reader.close()
