"""Tables: by rich on a terminal where that is installed (extra ``top``), else as plain text."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .._plain import plain_cut
from .output import say

MOST_CELL = 60  # characters; JSON has all of them

Rows = Iterable[Sequence[object]]


def show_table(heading: Sequence[str], rows: Rows) -> None:
    """Print a table on standard output."""
    if not shown_by_rich(heading, rows):
        say(*text_table(heading, rows))


def shown_by_rich(heading: Sequence[str], rows: Rows) -> bool:
    """Print a table if this is a terminal and rich is installed; returns whether it did."""
    if not sys.stdout.isatty():
        return False
    with contextlib.suppress(ImportError):
        from rich.console import Console

        made = rich_table(heading, rows)
        Console().print(made)
        return True
    return False


def rich_table(heading: Sequence[str], rows: Rows) -> Any:
    """A rich.table.Table whose cells are plain text, not rich's markup. Raises ImportError."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(*heading, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    return made


def text_table(heading: Sequence[str], rows: Rows) -> Iterator[str]:
    """The lines of a table; each column is as wide as its longest cell."""
    cells = [list(heading), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()


def _cell(value: object) -> str:
    return plain_cut(str(value), MOST_CELL)
