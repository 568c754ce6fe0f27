"""The pool's metrics in Prometheus' formats: names with units, counters that never fall.

Each crew is one pair of labels: its stream and its group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ...._version import version
from ....later.lateness import LatenessMetrics
from ...histogram import BOUNDS_S, Histogram
from ...metrics import PoolMetrics, WorkerMetrics
from ..observation import Observation
from .snapshot import Snapshot

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
KINDS = {True: choose_encoder(OPENMETRICS)[1], False: choose_encoder("")[1]}
LABELS = "stream", "group"
STATES = "starting", "ready", "busy", "draining", "gone"
BOUNDS = [*map(str, BOUNDS_S), "+Inf"]


def wants_openmetrics(accept: str) -> bool:
    """Does a scraper with this ``Accept`` want OpenMetrics, and not Prometheus' own text?"""
    return "application/openmetrics-text" in accept


def render(snapshot: Snapshot, *, openmetrics: bool) -> bytes:
    """The metrics in one of the two formats; KINDS are their content types."""
    # "allow-utf-8" skips the search for characters to escape, which takes a third of the time.
    encoder, _ = choose_encoder(f"{OPENMETRICS}; escaping=allow-utf-8" if openmetrics else "")
    return encoder(_Pool(snapshot))


class _Pool(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield InfoMetricFamily("rsq_build", "The version that runs.", {"version": version()})
        reloads = CounterMetricFamily(
            "rsq_reloads", "Fresh code asked for, by what came of it.", labels=["result"]
        )
        for result, count in self._snapshot.reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        families = _Families()
        for seen, metrics in self._snapshot.parts:
            if seen.stream:  # not known before the handler is loaded; nothing is counted until then
                families.labels = [_text(seen.stream), _text(seen.group)]
                _totals(families, metrics)
                for worker in metrics.workers:
                    _worker(families, worker)
                _stream(families, seen, paused=metrics.paused)
        yield from families.by_name.values()


def _text(name: str) -> str:
    """A name as a label; bytes that are not UTF-8 are escaped."""
    return name.encode(errors="backslashreplace").decode()


class _Families:
    """Each metric family once, with the samples of all crews.

    labels: stream and group of the crew whose samples are being added.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}
        self.labels: list[str] = []

    def _family(self, kind: type[Any], name: str, text: str, further: Sequence[str] = ()) -> Any:
        if name not in self.by_name:
            self.by_name[name] = kind(name, text, labels=[*LABELS, *further])
        return self.by_name[name]

    def counter(self, name: str, text: str, value: float, **further: str) -> None:
        family = self._family(CounterMetricFamily, name, text, list(further))
        family.add_metric([*self.labels, *further.values()], value)

    def gauge(self, name: str, text: str, value: float, **further: str) -> None:
        family = self._family(GaugeMetricFamily, name, text, list(further))
        family.add_metric([*self.labels, *further.values()], value)

    def histogram(self, name: str, text: str, seen: Histogram, **further: str) -> None:
        below = list(zip(BOUNDS, accumulate(seen.counts), strict=True))
        family = self._family(HistogramMetricFamily, name, text, list(further))
        family.add_metric([*self.labels, *further.values()], below, seen.sum_s)

    def lateness(self, name: str, text: str, seen: LatenessMetrics) -> None:
        below = [(str(ms / 1000), count) for ms, count in seen.at_most_ms.items()]
        below.append(("+Inf", seen.moved))
        family = self._family(HistogramMetricFamily, name, text)
        family.add_metric(self.labels, below, seen.late_ms_total / 1000)


def _totals(families: _Families, metrics: PoolMetrics) -> None:
    for name, text, value in (
        ("rsq_messages_read", "Messages that a worker got.", metrics.read),
        ("rsq_messages_acked", "Messages acknowledged.", metrics.acked),
        ("rsq_messages_dead", "Messages moved to the dead letters.", metrics.dead),
        ("rsq_messages_expired", "Messages not started as their time was over.", metrics.expired),
        ("rsq_messages_retried", "Failures that wait for another delivery.", metrics.retried),
        ("rsq_messages_released", "Messages given back unstarted.", metrics.released),
        ("rsq_redis_errors", "Times that Redis did not answer, or refused.", metrics.redis_errors),
        ("rsq_handler_calls", "Batches that a handler has ended with.", metrics.batches),
        ("rsq_handler_errors", "Handler calls that raised.", metrics.errors),
    ):
        families.counter(name, text, value)
    for reason, count in metrics.dead_for.items():
        text = "The same by the reason that their letters give."
        families.counter("rsq_messages_dead_by_reason", text, count, reason=reason)
    for reason, count in metrics.replaced_for.items():
        text = "Workers that ended untold and were replaced."
        families.counter("rsq_worker_restarts", text, count, reason=reason)
    text = "Handler calls that raised or ended their worker, by error."
    for failure in metrics.failures:
        families.counter("rsq_handler_errors_by_kind", text, failure.count, error=failure.kind)
    families.histogram(
        "rsq_handler_duration_seconds", "Calls of the handler, by time.", metrics.handling
    )
    families.histogram(
        "rsq_message_wait_seconds",
        "Messages, by time from their push to their first start.",
        metrics.waiting,
    )
    families.lateness(
        "rsq_scheduled_lateness_seconds",
        "Scheduled messages that this pool has moved, by time behind their due time.",
        metrics.scheduled,
    )
    for name, task in metrics.tasks.items():
        text = "Calls of a task, by time."
        families.histogram("rsq_task_duration_seconds", text, task.handling, task=name)
        text = "From a message's push, or when it was due, to the first start of its task."
        families.histogram("rsq_task_wait_seconds", text, task.waiting, task=name)
        text = "Calls of a task that raised or ended their worker."
        families.counter("rsq_task_errors", text, task.errors, task=name)
    families.gauge("rsq_uptime_seconds", "Since the pool started.", metrics.uptime_s)
    states = Counter(worker.state for worker in metrics.workers)
    for state in STATES:
        families.gauge("rsq_workers", "Workers by state.", states[state], state=state)


def _worker(families: _Families, worker: WorkerMetrics) -> None:
    slot = str(worker.slot)
    for name, text, value in (
        ("busy_seconds", "How long its handler has been running.", worker.busy_ms / 1000),
        ("poll_age_seconds", "Since its last finished read.", worker.poll_age_ms / 1000),
        ("resident_memory_bytes", "Memory it has in use.", worker.memory_mb * 1e6),
    ):
        families.gauge(f"rsq_worker_{name}", text, value, slot=slot)
    text = "Processor time of all its lives."
    families.counter("rsq_worker_cpu_seconds", text, worker.cpu_ms / 1000, slot=slot)


def _stream(families: _Families, seen: Observation, *, paused: bool) -> None:
    if seen.reading is None:
        return
    stats = seen.reading.stats
    for name, text, value in (
        ("rsq_lag", "Messages not delivered to the group yet.", stats.lag),
        ("rsq_pending", "Messages delivered and not acknowledged.", stats.group_pel_size),
        ("rsq_retry_waiting", "Pending messages that wait for a retry.", stats.waiting_retries),
        ("rsq_dead_letters", "Entries of the dead-letter stream.", stats.dlq_length or 0),
        (
            "rsq_oldest_waiting_age_seconds",
            "Since the oldest undelivered message was pushed, 0 = there is none.",
            seen.reading.oldest_waiting_ms / 1000,
        ),
        (
            "rsq_oldest_pending_age_seconds",
            "Since the oldest pending message was pushed, 0 = there is none.",
            seen.reading.oldest_pending_ms / 1000,
        ),
        ("rsq_paused", "1 = the stream is paused for this group.", int(paused)),
        ("rsq_reading_timestamp_seconds", "When Redis was last asked for these.", seen.at_s),
    ):
        families.gauge(name, text, value)
