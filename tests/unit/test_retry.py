"""Retry: what may be a delay, and what is refused where it is raised."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue import ConfigError, Retry
from redis_stream_queue.exceptions import MOST_DELAY_MS


@pytest.mark.parametrize(
    ("given_ms", "waits_ms"),
    [
        (0, 0),
        (1500.0, 1500),
        (1000 * 1.0001, 1001),
        (Decimal("250.2"), 251),
        (Fraction(7, 2), 4),
        (timedelta(seconds=1.5), 1500),
        (timedelta(days=366), MOST_DELAY_MS),
    ],
)
def test_any_real_number_or_timedelta_is_a_delay(given_ms: Any, waits_ms: int) -> None:
    """In whole milliseconds, never less than was asked for."""
    delay_ms = Retry(delay_ms=given_ms).delay_ms
    assert (delay_ms, type(delay_ms)) == (waits_ms, int)


@pytest.mark.parametrize(
    "nonsense",
    [
        -1,
        -0.5,
        timedelta(seconds=-1),
        timedelta.max,
        MOST_DELAY_MS + 1,
        10**25,
        pytest.param(10**5000, id="5,000 digits"),
        float("nan"),
        float("inf"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        1j,
        "1000",
        True,
        [],
    ],
)
def test_what_cannot_be_a_delay_is_refused_where_it_is_raised(nonsense: Any) -> None:
    with pytest.raises(ConfigError, match="delay_ms must be a number of milliseconds or a timed"):
        Retry(delay_ms=nonsense)


@given(st.floats() | st.decimals() | st.fractions() | st.timedeltas() | st.integers())
def test_every_number_is_a_delay_or_refused(number: Any) -> None:
    try:
        delay_ms = Retry(delay_ms=number).delay_ms
    except ConfigError:
        return
    assert delay_ms is not None
    assert 0 <= delay_ms <= MOST_DELAY_MS
