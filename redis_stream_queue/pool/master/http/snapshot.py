"""How the pool was a moment ago: all that is told of it over HTTP is made of this, and once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...metrics import PoolMetrics
from ..observation import Observation

if TYPE_CHECKING:
    from .repeated import Response


class Part(NamedTuple):
    """Workers of one target: what Redis says of their stream, and what they did."""

    observation: Observation
    metrics: PoolMetrics


class Snapshot(NamedTuple):
    """at_s: seconds since the epoch. state: of the pool, in one word. parts: one a target.
    reloads: how many there were, by how they ended. reload_failed: why the last one did, "" = it
    did not; reload_failed_s: when."""

    at_s: float
    state: str
    parts: Sequence[Part]
    reloads: Mapping[str, int]
    reload_failed: str = ""
    reload_failed_s: float = 0.0


class Renderings:
    """Answers made of the newest snapshot, however many ask for it. newest: tells which it is."""

    def __init__(self, newest: Callable[[], Snapshot]) -> None:
        self._newest = newest
        self._of: Snapshot | None = None
        self._made: dict[str, Response] = {}

    def get(self, name: str, make: Callable[[Snapshot], Response]) -> Response:
        """What is called so."""
        newest = self._newest()
        if newest is not self._of:
            self._of, self._made = newest, {}
        if name not in self._made:
            self._made[name] = make(newest)
        return self._made[name]
