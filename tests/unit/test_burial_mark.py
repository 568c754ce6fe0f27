"""What a delivery count says of a message whose burial has begun."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue._burial_mark import REASONS, marked, read_count, uncounted

COUNTS = st.integers(0, 10**9 - 1)


@given(COUNTS)
def test_a_count_that_says_nothing_is_itself(count: int) -> None:
    assert read_count(count) == (0, "", count)


@given(COUNTS, st.lists(st.sampled_from(REASONS), min_size=1, max_size=5))
def test_it_keeps_the_first_reason_and_counts_the_burials(count: int, reasons: list[str]) -> None:
    noted = count
    for reason in reasons:
        noted = marked(noted, reason)
    assert read_count(noted) == (len(reasons), reasons[0], count)
    assert noted > 10**9  # more than any max_deliveries
    assert float(noted) == noted  # Lua's numbers are such
    assert uncounted(noted) == noted


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0), (3, 2)])
def test_uncounted(count: int, expected: int) -> None:
    assert uncounted(count) == expected


@pytest.mark.parametrize("count", [10**9, 17 * 10**9 + 2, 10**17, 2**63 - 1])
def test_a_number_of_somebody_else_is_many_deliveries(count: int) -> None:
    assert read_count(count) == (0, "", 10**9 - 1)
    assert read_count(marked(count, "rejected")) == (1, "rejected", 10**9 - 1)
