"""Tables of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .._plain import plain_cut

MOST_CELL = 60  # characters; JSON has all of them


def table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Lines of a table; columns are as wide as what is in them."""
    cells = [list(heading), *([plain_cut(str(c), MOST_CELL) for c in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
