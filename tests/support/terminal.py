"""A program on a terminal: what it shows, and keys for it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

SPACE = re.compile(r"\s+")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Runs a command on a terminal of its own; it is gone at the end.

    shown: since the last key, any space as one.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**env, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"},
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def wait_shown(self, text: str, timeout_s: float = 15) -> None:
        """Until it has shown this since the last key."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{text!r} is not shown, but: {self.shown[-3000:]}"
            if select.select([self._ours], [], [], left_s)[0]:
                try:
                    raw = os.read(self._ours, 65_536)
                except OSError:  # it has ended
                    raise AssertionError(f"it ended and has shown: {self.shown[-3000:]}") from None
                self.shown += SPACE.sub(" ", ESCAPES.sub("", raw.decode(errors="replace")))

    def press(self, key: str) -> None:
        self.shown = ""
        os.write(self._ours, key.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
