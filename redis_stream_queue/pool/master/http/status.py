"""``/status``: all that the page shows, as JSON. Asks nobody but this process."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NoReturn, Protocol

from ...._plain import json_line
from ...._version import version
from ...histogram import Histogram
from ...metrics import PoolMetrics
from ..observation import Observation
from .history import STEP_S, History, Moment, Step, quantile

TOTALS = "read", "acked", "errors", "dead", "expired", "batches", "replaced", "acked_per_s"


class Part(Protocol):
    """Workers of one target: what they did, and what Redis says of their stream."""

    @property
    def observation(self) -> Observation: ...

    def metrics(self) -> PoolMetrics: ...


class Status:
    """The status of a pool. parts, state: asked each time."""

    def __init__(self, parts: Callable[[], Sequence[Part]], state: Callable[[], str]) -> None:
        self._parts = parts
        self._state = state
        self._histories: dict[int, History] = {}
        self._host = socket.gethostname().encode(errors="replace").decode()

    async def watch(self) -> NoReturn:
        """Keep the history."""
        while True:
            for number, part in enumerate(self._parts()):
                seen, metrics = part.observation, part.metrics()
                lag = seen.reading.stats.lag if seen.reading and not seen.error else None
                moment = Moment(time.time(), metrics.acked, lag, metrics.handling, metrics.waiting)
                self._histories.setdefault(number, History()).note(moment)
            await asyncio.sleep(STEP_S)

    def json(self) -> str:
        """On one line of visible ASCII."""
        return json_line(
            {
                "version": version(),
                "host": self._host,
                "pid": os.getpid(),
                "state": self._state(),
                "now_s": time.time(),
                "crews": [self._crew(*numbered) for numbered in enumerate(self._parts())],
            }
        )

    def _crew(self, number: int, part: Part) -> dict[str, Any]:
        seen, metrics = part.observation, part.metrics()
        steps = list(self._histories.get(number, History()).steps)
        return {
            "target": seen.target,
            "stream": seen.stream,
            "group": seen.group,
            "dlq_stream": seen.dlq_stream,
            "uptime_s": metrics.uptime_s,
            "paused": metrics.paused,
            "redis": {"error": seen.error, "since_s": seen.failing_since_s, "asked_s": seen.at_s},
            **_of_stream(seen),
            "totals": {name: getattr(metrics, name) for name in TOTALS},
            "handling": _times(metrics.handling),
            "waiting": _times(metrics.waiting),
            "workers": [asdict(worker) for worker in metrics.workers],
            "failures": [asdict(failure) for failure in metrics.failures],
            "letters": seen.letters,
            "step_s": STEP_S,
            "history": {name: [getattr(s, name) for s in steps] for name in Step._fields},
        }


def _of_stream(seen: Observation) -> dict[str, Any]:
    """What Redis said last; None = it has said nothing yet."""
    reading = seen.reading
    stats = reading.stats if reading else None
    return {
        "length": stats and stats.stream_length,
        "lag": stats and stats.lag,
        "pending": stats and stats.group_pel_size,
        "retry_waiting": stats and stats.waiting_retries,
        "dead_letters": stats and (stats.dlq_length or 0),
        "oldest_waiting_s": reading and reading.oldest_waiting_ms / 1000,
        "oldest_pending_s": reading and reading.oldest_pending_ms / 1000,
    }


def _times(seen: Histogram) -> dict[str, Any]:
    return {
        "count": seen.total,
        "mean_s": round(seen.sum_s / seen.total, 6) if seen.total else None,
        **{f"p{share}_s": quantile(seen, share / 100) for share in (50, 95, 99)},
    }
