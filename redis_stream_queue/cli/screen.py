"""Tables on a terminal, drawn again and again, and single keys (rich, extra ``top``)."""

from __future__ import annotations

import select
import sys
import termios
import tty
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .._plain import plain_cut
from .tables import Rows, rich_table

Tables = Iterable[tuple[Sequence[str], Rows]]


class Screen:
    """Takes the whole terminal, as a context manager, and restores it at the end."""

    def __init__(self) -> None:
        self._live = Live(console=Console(), screen=True, auto_refresh=False)

    def show(self, summary: str, tables: Tables, keys: str) -> None:
        """Draw the screen anew: a line on top, the tables, and a line about the keys."""
        parts: list[Any] = [Text(plain_cut(summary, 200), style="bold")]
        parts += [rich_table(*of_one) for of_one in tables]
        self._live.update(Group(*parts, Text(keys, style="dim")), refresh=True)

    def key(self, timeout_s: float) -> str:
        """The key that is pressed within this time; "" = none. Ctrl-C ends the program."""
        ready, _, _ = select.select([sys.stdin], [], [], timeout_s)
        return sys.stdin.read(1) if ready else ""

    def __enter__(self) -> Screen:
        self._before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
