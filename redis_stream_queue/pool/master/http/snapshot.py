"""The state of the pool a moment ago; each HTTP answer about it is made once per snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...metrics import PoolMetrics
from ..observation import Observation

if TYPE_CHECKING:
    from .repeated import Response


class Part(NamedTuple):
    """One crew: what Redis says of its stream, and its metrics."""

    observation: Observation
    metrics: PoolMetrics


class Snapshot(NamedTuple):
    """The state of a pool. Times are seconds since the epoch.

    state: in one word. parts: one for each crew. reloads: how many there were, by result.
    reload_failed: why the last reload failed, "" = it did not. reload_failed_s: when it failed.
    redis_error: what Redis refuses or does not answer, "" = nothing.
    """

    at_s: float
    state: str
    parts: Sequence[Part]
    reloads: Mapping[str, int]
    reload_failed: str = ""
    reload_failed_s: float = 0.0
    redis_error: str = ""


class Renderings:
    """Answers made of the newest snapshot, each once. newest: returns that snapshot."""

    def __init__(self, newest: Callable[[], Snapshot]) -> None:
        self._newest = newest
        self._of: Snapshot | None = None
        self._made: dict[str, Response] = {}

    def get(self, name: str, make: Callable[[Snapshot], Response]) -> Response:
        """The answer ``name``: made now, or earlier of the same snapshot."""
        newest = self._newest()
        if newest is not self._of:
            self._of, self._made = newest, {}
        if name not in self._made:
            self._made[name] = make(newest)
        return self._made[name]
