"""A figure: what was measured in each round, beside what it is measured against. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Goal:
    """What a figure should reach: in words, and how to tell."""

    text: str
    is_met: Callable[[Figure], bool]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    ours: our measurement of each round, in ``unit``.
    base: what it is compared with, of the same rounds (empty = nothing).
    versus: what the base is.
    """

    name: str
    unit: str
    ours: Sequence[float]
    base: Sequence[float] = ()
    versus: str = "raw loop"
    goal: Goal | None = None

    @property
    def value(self) -> float:
        return median(self.ours)

    @property
    def base_value(self) -> float | None:
        return median(self.base) if self.base else None

    @property
    def ratios(self) -> list[float]:
        """Ours over base, round by round."""
        if not self.base:
            return []
        return [mine / other for mine, other in zip(self.ours, self.base, strict=True) if other]

    @property
    def ratio(self) -> float | None:
        return median(self.ratios) if self.ratios else None

    @property
    def spread(self) -> tuple[float, float]:
        """Least and greatest ratio; of our own values where there is no ratio."""
        values = self.ratios or self.ours
        return min(values), max(values)

    @property
    def met(self) -> bool | None:
        """Is the goal reached? None if there is none."""
        return None if self.goal is None else self.goal.is_met(self)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.value,
            "base": self.base_value,
            "versus": self.versus if self.base else None,
            "ratio": self.ratio,
            "spread": self.spread,
            "goal": self.goal.text if self.goal else None,
            "met": self.met,
            "rounds": {"ours": list(self.ours), "base": list(self.base)},
        }


def ratio_at_least(least: float) -> Goal:
    """A rate: at least so many times the base."""
    return Goal(f">= {least:.2f} x", lambda f: f.ratio is not None and f.ratio >= least)


def ratio_at_most(most: float) -> Goal:
    """A time: at most so many times the base."""
    return Goal(f"<= {most:.2f} x", lambda f: f.ratio is not None and f.ratio <= most)


def ratio_above(least: float) -> Goal:
    return Goal(f"> {least:.2f} x", lambda f: f.ratio is not None and f.ratio > least)


def below(most: float, unit: str) -> Goal:
    """Our value itself stays below a limit."""
    return Goal(f"< {most:g} {unit}", lambda f: f.value < most)


def at_most(most: float, unit: str) -> Goal:
    return Goal(f"<= {most:g} {unit}", lambda f: f.value <= most)


def at_least(least: float, unit: str) -> Goal:
    return Goal(f">= {least:g} {unit}", lambda f: f.value >= least)


def over_base_below(most: float, unit: str) -> Goal:
    """We take less than so much longer than the base."""

    def is_met(figure: Figure) -> bool:
        base = figure.base_value
        return base is not None and figure.value - base < most

    return Goal(f"< base + {most:g} {unit}", is_met)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
