"""Errors that handlers have raised, grouped by type; bounded, whatever the handlers raise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .._clock import wall_ms
from .._plain import plain_cut

MOST_KINDS = 30  # kinds of errors that are told apart: those that happened last
OTHERS = "other"  # the kind of all others
DEATH = "worker died"  # the kind of a message that ended its worker process
MOST_KIND, MOST_TEXT = 80, 300  # characters


@dataclass(frozen=True, slots=True)
class Failure:
    """Errors of one type.

    kind: name of the type. text, entry_id, at_ms (since the epoch): those of the last such error.
    """

    kind: str
    text: str
    entry_id: str
    count: int
    at_ms: int


class Failures:
    """The failures of a pool since it started."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Failure] = {}  # the one that happened last is the last
        self._others: Failure | None = None

    def note(self, kind: str, text: str, entry_id: str, count: int = 1) -> None:
        """Note that ``count`` errors of this kind have happened, the last one just now."""
        failure = Failure(
            plain_cut(kind, MOST_KIND), plain_cut(text, MOST_TEXT), entry_id, count, wall_ms()
        )
        if failure.kind == OTHERS:
            self._others = _added(failure, self._others)
            return
        self._by_kind[failure.kind] = _added(failure, self._by_kind.pop(failure.kind, None))
        if len(self._by_kind) > MOST_KINDS:
            longest_ago = self._by_kind.pop(next(iter(self._by_kind)))
            self._others = _added(replace(longest_ago, kind=OTHERS), self._others)

    def note_all(self, errors: Iterable[list[Any]]) -> None:
        """Note the errors that a worker has told, as protocol.Failed has them."""
        for error in errors:
            kind, text, entry_id, count = error
            if type(count) is int and count > 0:
                self.note(str(kind), str(text), str(entry_id), count)

    def all(self) -> list[Failure]:
        """One Failure a kind, the newest first."""
        failures = [*self._by_kind.values(), *([self._others] if self._others else [])]
        return sorted(failures, key=lambda failure: -failure.at_ms)


def _added(failure: Failure, before: Failure | None) -> Failure:
    """A failure with the count of those of its kind before it."""
    return replace(failure, count=failure.count + before.count) if before else failure


def merged(failures: Iterable[Failure]) -> list[Failure]:
    """Failures of several crews: one a type, the newest first."""
    by_kind: dict[str, Failure] = {}
    for failure in sorted(failures, key=lambda failure: -failure.at_ms):
        newest = by_kind.get(failure.kind)
        if newest is not None:
            failure = replace(newest, count=newest.count + failure.count)
        by_kind[failure.kind] = failure
    return list(by_kind.values())
