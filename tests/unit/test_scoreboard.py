"""The scoreboard: what a worker writes, others see."""

from __future__ import annotations

import pytest

from redis_stream_queue.pool.scoreboard import MOMENT_MS, Field, Scoreboard

NOW_MS = 1_000_000
EARLIER_MS = NOW_MS - MOMENT_MS - 1


@pytest.mark.parametrize(
    ("read_at", "busy_since", "busy_until", "idle"),
    [
        (0, 0, 0, False),  # nobody, or a worker that starts
        (EARLIER_MS, 0, 0, True),
        (EARLIER_MS, EARLIER_MS, 0, False),
        (EARLIER_MS, 0, EARLIER_MS, True),
        (EARLIER_MS, 0, NOW_MS, False),  # between two batches
        (NOW_MS, 0, EARLIER_MS, False),
    ],
)
def test_someone_idle(read_at: int, busy_since: int, busy_until: int, idle: bool) -> None:
    scoreboard = Scoreboard()
    busy, other = scoreboard.row(0), scoreboard.row(7)
    busy[Field.READ_AT] = busy[Field.BUSY_SINCE] = EARLIER_MS
    other[Field.READ_AT], other[Field.BUSY_SINCE] = read_at, busy_since
    other[Field.BUSY_UNTIL] = busy_until
    assert scoreboard.someone_idle(NOW_MS) is idle


def test_the_last_row_counts_too() -> None:
    scoreboard = Scoreboard()
    scoreboard.row(1023)[Field.READ_AT] = EARLIER_MS
    assert scoreboard.someone_idle(NOW_MS)
