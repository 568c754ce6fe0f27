"""The pool's metrics in Prometheus' words: names with units, counters that never fall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
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
from ...histogram import BOUNDS_S, Histogram
from ...metrics import PoolMetrics, WorkerMetrics
from ..observation import Observation


class Exposition(Collector):
    """Asks nobody but this process.

    metrics: asked at each scrape. observation: what Redis said when it was last asked.
    """

    def __init__(self, metrics: Callable[[], PoolMetrics], observation: Observation) -> None:
        self._metrics = metrics
        self._observation = observation
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def describe(self) -> list[Metric]:
        """Nothing: to be registered is no scrape."""
        return []

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text for a scraper that accepts this, and its content type."""
        encoder, kind = choose_encoder(accept)
        return encoder(self._registry), kind

    def collect(self) -> Iterator[Metric]:
        """All families."""
        metrics = self._metrics()
        yield InfoMetricFamily("rsq_build", "The version that runs.", {"version": version()})
        yield from _totals(metrics)
        yield from _workers(metrics.workers)
        yield from _of_stream(self._observation, paused=metrics.paused)


def _totals(metrics: PoolMetrics) -> Iterator[Metric]:
    for name, text, value in (
        ("rsq_messages_read", "Messages that a worker got.", metrics.read),
        ("rsq_messages_acked", "Messages acknowledged.", metrics.acked),
        ("rsq_messages_dead", "Messages moved to the dead letters.", metrics.dead),
        ("rsq_messages_expired", "Messages not started as their time was over.", metrics.expired),
        ("rsq_handler_calls", "Batches that a handler has ended with.", metrics.batches),
        ("rsq_handler_errors", "Handler calls that raised.", metrics.errors),
        ("rsq_worker_restarts", "Workers that ended untold and were replaced.", metrics.replaced),
    ):
        yield CounterMetricFamily(name, text, value)
    yield _histogram(
        "rsq_handler_duration_seconds", "Calls of the handler, by time.", metrics.handling
    )
    yield _histogram(
        "rsq_message_wait_seconds",
        "Messages, by time from their push to their first start.",
        metrics.waiting,
    )
    errors = CounterMetricFamily(
        "rsq_handler_errors_by_kind",
        "Handler calls that raised or ended their worker, by error.",
        labels=["error"],
    )
    for failure in metrics.failures:
        errors.add_metric([failure.kind], failure.count)
    yield errors
    yield GaugeMetricFamily("rsq_uptime_seconds", "Since the pool started.", metrics.uptime_s)


def _histogram(name: str, text: str, seen: Histogram) -> HistogramMetricFamily:
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    below = accumulate(seen.counts)
    return HistogramMetricFamily(
        name, text, list(zip(bounds, below, strict=True)), sum_value=seen.sum_s
    )


def _workers(workers: list[WorkerMetrics]) -> Iterator[Metric]:
    states = GaugeMetricFamily("rsq_workers", "Workers by state.", labels=["state"])
    count = Counter("busy" if w.busy_ms else w.state for w in workers)
    for state in ("starting", "ready", "busy", "draining", "gone"):
        states.add_metric([state], count[state])
    yield states
    busy = GaugeMetricFamily(
        "rsq_worker_busy_seconds", "How long its handler has been running.", labels=["slot"]
    )
    age = GaugeMetricFamily(
        "rsq_worker_poll_age_seconds", "Since its last finished read.", labels=["slot"]
    )
    memory = GaugeMetricFamily(
        "rsq_worker_resident_memory_bytes", "Memory it has in use.", labels=["slot"]
    )
    used = CounterMetricFamily(
        "rsq_worker_cpu_seconds", "Processor time of all its lives.", labels=["slot"]
    )
    for worker in workers:
        slot = [str(worker.slot)]
        busy.add_metric(slot, worker.busy_ms / 1000)
        age.add_metric(slot, worker.poll_age_ms / 1000)
        memory.add_metric(slot, worker.memory_mb * 1e6)
        used.add_metric(slot, worker.cpu_ms / 1000)
    yield from (busy, age, memory, used)


def _of_stream(seen: Observation, *, paused: bool) -> Iterator[Metric]:
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
        family = GaugeMetricFamily(name, text, labels=["stream", "group"])
        family.add_metric([seen.stream, seen.group], value)
        yield family
