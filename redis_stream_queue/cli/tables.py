"""Tables: by rich on a terminal where that is installed (extra ``top``), else as plain text.

On a terminal that is too narrow for one, each row is a paragraph: what an operator has to copy, an
id say, is never cut.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .._plain import plain_cut
from .output import say

MOST_CELL = 60  # characters; JSON has all of them
BETWEEN = 3  # columns of the terminal between two of a table
NARROWEST = 12  # columns of the terminal that a name still needs
NAMES = {  # headings of what may be cut or broken
    *("stream", "group", "consumer", "held by", "how it is", "target", "reason", "last error"),
    *("task", "host"),
}

Rows = Iterable[Sequence[object]]


def show_table(heading: Sequence[str], rows: Rows) -> None:
    """Print a table on standard output, without columns that are empty."""
    cells = [[_cell(value) for value in row] for row in rows]
    kept = [i for i in range(len(heading)) if not cells or any(row[i] for row in cells)]
    heading, cells = [heading[i] for i in kept], [[row[i] for i in kept] for row in cells]
    if shown_by_rich(heading, cells):
        return
    narrow = sys.stdout.isatty() and not fits(heading, cells, shutil.get_terminal_size().columns)
    say(*(_paragraphs if narrow else text_table)(heading, cells))


def shown_by_rich(heading: Sequence[str], rows: Rows) -> bool:
    """Print a table on a terminal, if rich is there and the terminal is wide enough."""
    if not sys.stdout.isatty():
        return False
    with contextlib.suppress(ImportError):
        from rich.console import Console

        console, rows = Console(), list(rows)
        if fits(heading, rows, console.width):
            console.print(rich_table(heading, rows))
            return True
    return False


def fits(heading: Sequence[str], rows: Rows, columns: int) -> bool:
    """Is a terminal of so many columns wide enough, if names are cut or broken?"""
    return _room(heading, rows, columns) >= 0


def _room(heading: Sequence[str], rows: Rows, columns: int) -> int:
    """So many columns of the terminal are left for names, beyond the least that they need."""
    widths = zip(heading, _widths([heading, *rows]), strict=True)
    least = [min(width, NARROWEST) if name in NAMES else width for name, width in widths]
    return columns - 2 - BETWEEN * (len(heading) - 1) - sum(least)


def rich_table(heading: Sequence[str], rows: Rows, columns: int | None = None) -> Any:
    """A rich.table.Table; what is in the cells is no markup of rich's. Raises ImportError.

    columns: of the terminal, to which names are cut, so that a row is a line; None = they are
        broken. All else is as wide as it is.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = list(rows)
    room = 0 if columns is None else _room(heading, rows, columns)
    for name, width in zip(heading, _widths([heading, *rows]), strict=True):
        if name not in NAMES or columns is None:
            made.add_column(name, no_wrap=name not in NAMES, overflow="fold")
            continue
        shown = min(width, NARROWEST + max(room, 0))
        room -= max(shown - NARROWEST, 0)
        made.add_column(name, no_wrap=True, overflow="ellipsis", width=shown)
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    return made


def text_table(heading: Sequence[str], rows: Rows) -> Iterator[str]:
    """Lines of a table; columns are as wide as what is in them."""
    cells = [list(heading), *([_cell(value) for value in row] for row in rows)]
    widths = _widths(cells)
    for line in cells:
        padded = (c + " " * (w - _width(c)) for c, w in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _paragraphs(heading: Sequence[str], rows: Rows) -> Iterator[str]:
    widest = max(map(len, heading))
    for number, row in enumerate(rows):
        yield from [""] if number else []
        for name, value in zip(heading, row, strict=True):
            yield f"{name:{widest}}  {_cell(value)}".rstrip()


def _widths(cells: Rows) -> list[int]:
    return [max(_width(_cell(v)) for v in column) for column in zip(*cells, strict=True)]


def _width(text: str) -> int:
    """Columns of a terminal that it takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cell(value: object) -> str:
    return plain_cut(str(value), MOST_CELL)
