"""``/status``: all that the page shows, as JSON; made of what the master knows already."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NoReturn

from ...._plain import json_line
from ...._version import version
from ...histogram import Histogram
from ..observation import Observation
from .history import STEP_S, History, Moment, Step, quantile
from .snapshot import Part, Snapshot

TOTALS = (
    *("read", "acked", "errors", "retried", "released", "dead", "expired", "batches"),
    *("replaced", "redis_errors", "acked_per_s"),
)


class Status:
    """The status of a pool. newest: returns the newest snapshot, for the history."""

    def __init__(self, newest: Callable[[], Snapshot]) -> None:
        self._newest = newest
        self._histories: dict[int, History] = {}
        self._host = socket.gethostname().encode(errors="replace").decode()

    async def watch(self) -> NoReturn:
        """Add to the history every STEP_S, for ever."""
        while True:
            snapshot = self._newest()
            for number, (seen, metrics) in enumerate(snapshot.parts):
                lag = seen.reading.stats.lag if seen.reading and not seen.error else None
                times = metrics.handling, metrics.waiting
                moment = Moment(snapshot.at_s, metrics.acked, metrics.errors, lag, *times)
                self._histories.setdefault(number, History()).note(moment)
            await asyncio.sleep(STEP_S)

    def json(self, snapshot: Snapshot) -> bytes:
        """The status as JSON, on one line of visible ASCII."""
        return json_line(
            {
                "version": version(),
                "host": self._host,
                "pid": os.getpid(),
                "state": snapshot.state,
                "now_s": snapshot.at_s,
                "redis_error": snapshot.redis_error,
                "reloads": {
                    **snapshot.reloads,
                    "failed_why": snapshot.reload_failed,
                    "failed_s": snapshot.reload_failed_s,
                },
                "crews": [self._crew(*numbered) for numbered in enumerate(snapshot.parts)],
            }
        ).encode()

    def _crew(self, number: int, part: Part) -> dict[str, Any]:
        seen, metrics = part
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
            "tasks": {
                name: {
                    "errors": task.errors,
                    **_times(task.handling),
                    "waiting": _times(task.waiting),
                }
                for name, task in metrics.tasks.items()
            },
            "failures": [asdict(failure) for failure in metrics.failures],
            "letters": seen.letters,
            "step_s": STEP_S,
            "history": {name: [getattr(s, name) for s in steps] for name in Step._fields},
        }


def _of_stream(seen: Observation) -> dict[str, Any]:
    """What Redis has told of the stream; None each = nothing yet."""
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
