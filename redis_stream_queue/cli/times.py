"""How dates and spans are written on the command line."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import click

UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Span(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A span of time such as ``500ms``, ``90s``, ``15m``, ``2h`` or ``7d``; converts to seconds.

    most_days: a longer one is refused; None = any length.
    """

    name = "SPAN"

    def __init__(self, most_days: int | None = None) -> None:
        self._most_days = most_days

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|[smhd])", str(value))
        if found is None:
            self.fail(
                f"expected a number and ms, s, m, h or d, as in 15m, got {value!r}.", param, ctx
            )
        span_s = float(found[1]) * UNITS_S[found[2]]
        if self._most_days is not None and span_s > self._most_days * UNITS_S["d"]:
            self.fail(f"expected {self._most_days}d at most, got {value!r}.", param, ctx)
        return span_s


class Date(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A date with a time zone in the form of ISO 8601."""

    name = "DATE"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        try:
            date = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"expected a date as in 2027-01-01T09:00+01:00, got {value!r}.", param, ctx)
        if date.utcoffset() is None:
            full = str(value) if len(str(value)) > len("2027-01-01") else f"{value}T00:00"
            self.fail(
                f"{value} has no time zone: add one, as in {full}+01:00, or {full}Z for UTC.",
                param,
                ctx,
            )
        return date
