"""The table that people read and the JSON that programs read. Pure, but for writing the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import Figure

HEADINGS = ("", "ours", "base", "ratio", "min..max", "goal", "met", "base is")
MET = {True: "yes", False: "NO", None: ""}


def table(groups: Mapping[str, Sequence[Figure]]) -> str:
    """All figures, a heading for each group."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for name, figures in groups.items():
        rows.append((name.upper(), *[""] * (len(HEADINGS) - 1)))
        rows += [_row(figure) for figure in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if column in (0, 5, 6, 7) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _row(figure: Figure) -> tuple[str, ...]:
    low, high = figure.spread
    base, ratio = figure.base_value, figure.ratio
    return (
        f"  {figure.name}",
        f"{number(figure.value)} {figure.unit}",
        "" if base is None else number(base),
        "" if ratio is None else f"{ratio:.2f}",
        f"{number(low)}..{number(high)}" if ratio is None else f"{low:.2f}..{high:.2f}",
        figure.goal.text if figure.goal else "",
        MET[figure.met],
        figure.versus if figure.base else "",
    )


def number(value: float) -> str:
    """Three digits that count; thousands in groups."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def write_json(
    path: Path,
    about: Mapping[str, Any],
    groups: Mapping[str, Sequence[Figure]],
    failures: Mapping[str, str],
) -> None:
    """Everything, with the values of each round."""
    content = {
        **about,
        "groups": {name: [f.as_json() for f in figures] for name, figures in groups.items()},
        "failures": dict(failures),
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
