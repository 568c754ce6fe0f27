"""Rates over a sliding window of 60 s; a span under 1 s counts as 1 s; constant memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue.metrics import ConsumerMeter, ProducerMeter, RateWindow, uptime_s


class Clock:
    def __init__(self, now: float = 1000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_yet(clock: Clock) -> None:
    assert RateWindow(clock).rate() == 0.0
    assert uptime_s(RateWindow(clock), clock=clock) == 0.0


def test_a_span_under_a_second_counts_as_a_second(clock: Clock) -> None:
    window = RateWindow(clock)
    window.record(10)
    clock.now += 0.1
    window.record(10)
    assert window.rate() == 20.0


def test_rate_over_the_time_since_the_first_event(clock: Clock) -> None:
    window = RateWindow(clock)
    window.record(10)
    clock.now += 10
    window.record(10)
    assert window.rate() == pytest.approx(2.0)


def test_steady_rate_is_told_right(clock: Clock) -> None:
    """100 a second for five minutes is 100 a second."""
    window = RateWindow(clock)
    for _ in range(3000):
        window.record(10)
        clock.now += 0.1
    assert window.rate() == pytest.approx(100, rel=0.02)


def test_what_is_older_than_the_window_no_longer_counts(clock: Clock) -> None:
    window = RateWindow(clock)
    window.record(1000)
    clock.now += 61.1
    assert window.rate() == 0.0
    assert window.total == 1000


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(-1, 50)), max_size=100))
def test_constant_memory_and_true_totals(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    window = RateWindow(clock)
    for pause_s, count in steps:
        clock.now += pause_s
        window.record(count)
        assert len(window._buckets) <= 62
        assert 0 <= window.rate() <= window.total
    assert window.total == sum(max(count, 0) for _, count in steps)


def test_uptime_begins_with_the_first_message(clock: Clock) -> None:
    early, late = RateWindow(clock), RateWindow(clock)
    clock.now += 5
    early.record(1)
    clock.now += 5
    late.record(1)
    clock.now += 1
    assert uptime_s(late, early, clock=clock) == pytest.approx(6)


def test_consumer_snapshot_adds_up() -> None:
    meter = ConsumerMeter()
    meter.read.record(4)
    meter.acked.record(3)
    meter.dlq, meter.errors = 1, 2
    seen = meter.snapshot()
    assert (seen.total_read, seen.total_acked, seen.total_dlq, seen.total_errors) == (4, 3, 1, 2)
    assert (seen.tps_in, seen.tps_out, seen.tps_total, seen.avg_tps) == (4.0, 3.0, 7.0, 3.0)


def test_producer_snapshot_adds_up() -> None:
    meter = ProducerMeter()
    assert meter.snapshot() == type(meter.snapshot())(0, 0.0, 0.0, 0.0)
    meter.pushed.record(5)
    seen = meter.snapshot()
    assert (seen.total_pushed, seen.tps, seen.avg_tps) == (5, 5.0, 5.0)
    assert seen.uptime_secs < 1
