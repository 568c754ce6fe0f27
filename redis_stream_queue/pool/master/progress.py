"""The progress bar of ``--burst``, among log lines that other processes write meanwhile."""

from __future__ import annotations

import shutil
import sys

from ..._clock import mono_ms
from ..logs import erases_lines

WIDTH = 30


class Progress:
    """A line at the bottom of a terminal; log lines erase it, and then it is drawn again.

    total: how many messages there are. Does nothing if standard error is no terminal.
    """

    def __init__(self, total: int) -> None:
        self._shown = erases_lines(sys.stderr)
        self._total = total
        self._began_ms = mono_ms()

    def show(self, handled: int) -> None:
        """Draw the line, also if it has not changed."""
        if not self._shown:
            return
        self._total = max(self._total, handled)
        line = bar(handled, self._total, mono_ms() - self._began_ms)
        columns = shutil.get_terminal_size().columns - 1
        self._write(f"\r{line[:columns]}\x1b[K")

    def end(self) -> None:
        """Leave the line where it is, and go to the next one."""
        if self._shown:
            self._write("\n")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # the terminal is gone
            self._shown = False


def bar(handled: int, total: int, took_ms: int) -> str:
    """The text of the bar, such as ``handling [####------] 40 of 100, 00:12 left``."""
    filled = WIDTH * handled // total if total else WIDTH
    left = ""
    if 0 < handled < total:
        minutes, seconds = divmod(took_ms * (total - handled) // handled // 1000, 60)
        left = f", {minutes:02}:{seconds:02} left"
    return f"handling [{'#' * filled}{'-' * (WIDTH - filled)}] {handled} of {total}{left}"
