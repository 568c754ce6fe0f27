"""How long a failed message waits: first * 2**(n-1), up to a ceiling, minus at most 25 %."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue.delivery.retry_delay import retry_delay_ms

FAILURES = st.integers(1, 10**9)
MS = st.integers(0, 10**9)
SHARE = st.floats(0, 1)


@pytest.mark.parametrize(
    ("failures", "wanted"),
    [(1, 1000), (2, 2000), (3, 4000), (6, 32_000), (7, 60_000), (99, 60_000)],
)
def test_doubles_up_to_the_ceiling(failures: int, wanted: int) -> None:
    assert retry_delay_ms(failures, 1000, 60_000, 0.0) == wanted


@pytest.mark.parametrize("failures", [1, 2, 50])
def test_does_not_grow_without_a_ceiling(failures: int) -> None:
    assert retry_delay_ms(failures, 1000, None, 0.0) == 1000


@given(failures=FAILURES, first_ms=MS, extra_ms=MS, share=SHARE)
def test_jitter_takes_off_a_quarter_at_most(
    failures: int, first_ms: int, extra_ms: int, share: float
) -> None:
    whole = retry_delay_ms(failures, first_ms, first_ms + extra_ms, 0.0)
    assert (
        whole * 0.75 - 1 <= retry_delay_ms(failures, first_ms, first_ms + extra_ms, share) <= whole
    )


@given(failures=FAILURES, first_ms=MS, extra_ms=MS)
def test_never_shrinks_from_one_failure_to_the_next(
    failures: int, first_ms: int, extra_ms: int
) -> None:
    one, next_one = (
        retry_delay_ms(n, first_ms, first_ms + extra_ms, 0.0) for n in (failures, failures + 1)
    )
    assert first_ms <= one <= next_one <= first_ms + extra_ms


def test_no_delay_stays_none() -> None:
    assert retry_delay_ms(5, 0, None, 0.5) == 0
