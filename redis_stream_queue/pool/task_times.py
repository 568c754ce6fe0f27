"""How long the messages of each task of a queue waited, and their calls took, among the counters of
a life; pure.

A life knows its tasks by number. The master replaces numbers by names before it adds up lives: in
the next life, with newer code, the numbers may belong to other tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from .._plain import plain_cut
from .histogram import BUCKETS, Histogram

MOST_TASKS = 32  # places for tasks in one life; place 0 is for all that have none of their own
MOST_NAMES = 100  # names that one pool tells apart, over all reloads
OTHERS = "other"  # the name of all further ones
MOST_NAME = 80  # characters
HANDLING_PARTS = [*(str(number) for number in range(BUCKETS)), "sum_ms"]
WAITING_PARTS = [f"waiting_{part}" for part in HANDLING_PARTS]
ERRORS = "errors"


@dataclass(frozen=True, slots=True)
class TaskMetrics:
    """Metrics of one task.

    handling: how long its calls took. errors: calls that raised or ended their worker. waiting: how
    long its messages lay in the stream before they were handled first.
    """

    handling: Histogram
    errors: int
    waiting: Histogram


def counted_as(number: int) -> int:
    """The place where a task is counted. number: of the task, from 1 on; 0 = unknown."""
    return number if number < MOST_TASKS else 0


@cache
def names(number: int) -> list[str]:
    """Names of the counters of one task in a life, in the order of a row: its histograms, then its
    errors."""
    return [counter(str(number), part) for part in [*HANDLING_PARTS, *WAITING_PARTS, ERRORS]]


@cache
def all_names() -> frozenset[str]:
    """All names of counters of tasks that a life may send."""
    return frozenset(name for number in range(MOST_TASKS) for name in names(number))


def counter(task: str, part: str) -> str:
    """Name of a counter of a task; no counter of anything else has a ":" in its name."""
    return f"{task}:{part}"


class Labels:
    """Names of tasks as they are shown: MOST_NAMES at most, then all others are OTHERS."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        """The name under which a task is shown."""
        label = plain_cut(name, MOST_NAME)
        if label not in self._known and len(self._known) >= MOST_NAMES:
            return OTHERS
        self._known.add(label)
        return label


def named(totals: dict[str, int], labels: Sequence[str]) -> dict[str, int]:
    """The counters of a life, with names of tasks in place of numbers.

    labels: the names of its tasks as they are shown, by number.
    """
    result: dict[str, int] = {}
    for name, count in totals.items():
        number, colon, part = name.rpartition(":")
        if colon:
            at = int(number)
            name = counter(labels[at - 1] if 0 < at <= len(labels) else OTHERS, part)
        result[name] = result.get(name, 0) + count
    return result


def of_totals(totals: dict[str, int]) -> dict[str, TaskMetrics]:
    """The metrics of each task in these totals, by name."""
    tasks = {name.rpartition(":")[0] for name in totals if ":" in name}
    return {task: _task(totals, task) for task in sorted(tasks)}


def _task(totals: dict[str, int], task: str) -> TaskMetrics:
    handling, waiting = (_histogram(totals, task, p) for p in (HANDLING_PARTS, WAITING_PARTS))
    return TaskMetrics(handling, totals.get(counter(task, ERRORS), 0), waiting)


def _histogram(totals: dict[str, int], task: str, parts: Sequence[str]) -> Histogram:
    *counts, sum_ms = (totals.get(counter(task, part), 0) for part in parts)
    return Histogram(counts, sum_ms / 1000)
