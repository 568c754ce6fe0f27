"""What each task of a queue took, among the counters of a life; pure.

A life knows its tasks by number. The master has to name them before it adds up lives: the code of
the next one may have others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from .._plain import plain_cut
from .histogram import BUCKETS, Histogram

MOST_TASKS = 32  # of one life that are told apart; 0 stands for all that are not
MOST_NAMES = 100  # that are told apart in a pool, over all reloads
OTHERS = "other"
MOST_NAME = 80  # characters
PARTS = [*(str(number) for number in range(BUCKETS)), "sum_ms"]
ERRORS = "errors"


@dataclass(frozen=True, slots=True)
class TaskMetrics:
    """One task. handling: how long its calls took. errors: calls that raised or ended their
    worker."""

    handling: Histogram
    errors: int


def counted_as(number: int) -> int:
    """Number of the place where a task is counted; its own number is from 1 on, 0 = unknown."""
    return number if number < MOST_TASKS else 0


@cache
def names(number: int) -> list[str]:
    """Of the counters of one task in a life, its histogram first."""
    return [counter(str(number), part) for part in [*PARTS, ERRORS]]


@cache
def all_names() -> frozenset[str]:
    """All that a life may send."""
    return frozenset(name for number in range(MOST_TASKS) for name in names(number))


def counter(task: str, part: str) -> str:
    """Name of a counter; no other counter has a ":" in its name."""
    return f"{task}:{part}"


class Labels:
    """Names of tasks as they are shown. There are MOST_NAMES at most."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        """What this task is called."""
        label = plain_cut(name, MOST_NAME)
        if label not in self._known and len(self._known) >= MOST_NAMES:
            return OTHERS
        self._known.add(label)
        return label


def named(totals: dict[str, int], labels: Sequence[str]) -> dict[str, int]:
    """The counters of a life, with its tasks by name. labels: of its tasks, in their order."""
    result: dict[str, int] = {}
    for name, count in totals.items():
        number, colon, part = name.rpartition(":")
        if colon:
            at = int(number)
            name = counter(labels[at - 1] if 0 < at <= len(labels) else OTHERS, part)
        result[name] = result.get(name, 0) + count
    return result


def of_totals(totals: dict[str, int]) -> dict[str, TaskMetrics]:
    """Each task of them, by name."""
    tasks = {name.rpartition(":")[0] for name in totals if ":" in name}
    return {task: _task(totals, task) for task in sorted(tasks)}


def _task(totals: dict[str, int], task: str) -> TaskMetrics:
    *counts, sum_ms, errors = (totals.get(counter(task, part), 0) for part in [*PARTS, ERRORS])
    return TaskMetrics(Histogram(counts, sum_ms / 1000), errors)
