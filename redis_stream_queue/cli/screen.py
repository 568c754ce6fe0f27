"""Tables on a terminal, drawn again and again, and single keys (rich, extra ``top``)."""

from __future__ import annotations

import select
import sys
import termios
import tty
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .._plain import plain_cut
from .tables import Rows, fits, rich_table

Table = tuple[Sequence[str], Rows]

AROUND = 4  # lines of a table beside its rows


class Screen:
    """The whole terminal, until it is left. least: headings of columns that are left out first
    where it is narrow."""

    def __init__(self, least: Sequence[str]) -> None:
        self._console = Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._least = least

    def show(self, summary: str, tables: Iterable[Table], keys: str) -> None:
        """Draw anew, as much as there is room for."""
        columns, lines = self._console.size
        head = Text(plain_cut(summary, 400), style="bold")
        room = lines - 1 - len(head.wrap(self._console, columns))
        parts: list[Any] = [head]
        hidden = 0
        for heading, rows in _narrowed(tables, self._least, columns):
            shown = list(rows)[: max(room - AROUND, 0)]
            hidden += len(rows) - len(shown)
            if shown:
                parts.append(rich_table(heading, shown, columns))
                room -= AROUND + len(shown)
        more = f"; {hidden} rows more: rsq top --once" if hidden else ""
        last = Text(f"{keys}{more}", style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(*parts, last), refresh=True)

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


def _narrowed(
    tables: Iterable[Table], least: Sequence[str], columns: int
) -> Iterator[tuple[list[str], list[list[object]]]]:
    """The tables with as many columns as there is room for."""
    for heading, rows in tables:
        names, cells = list(heading), [list(row) for row in rows]
        for name in least:
            if fits(names, cells, columns):
                break
            if name in names:
                place = names.index(name)
                del names[place]
                for row in cells:
                    del row[place]
        yield names, cells
