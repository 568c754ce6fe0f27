"""What a worker times, and counts into its row."""

from __future__ import annotations

import pytest

from redis_stream_queue.message import StreamMessage
from redis_stream_queue.pool.histogram import WAITING, WORDS
from redis_stream_queue.pool.scoreboard import Scoreboard
from redis_stream_queue.pool.worker.stopwatch import Stopwatch


@pytest.mark.parametrize(
    ("deliveries", "counted"), [((1, 1), 2), ((2, 1), 1), ((1, 3), 1), ((2, 1, 4), 1), ((2, 2), 0)]
)
def test_the_wait_of_each_new_message_counts(deliveries: tuple[int, ...], counted: int) -> None:
    """Whatever else was started in the same millisecond."""
    row = Scoreboard().row(0)
    watch = Stopwatch(row)
    watch.started += [StreamMessage(f"1-{n}", b"", count) for n, count in enumerate(deliveries)]
    watch.tick(0)
    *counts, _sum_ms = row.times()[WAITING * WORDS : (WAITING + 1) * WORDS]
    assert sum(counts) == counted
