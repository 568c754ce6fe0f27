"""What a worker times, and counts into its row."""

from __future__ import annotations

import pytest

from redis_stream_queue.message import StreamMessage
from redis_stream_queue.pool.histogram import BUCKETS, WAITING, WORDS
from redis_stream_queue.pool.scoreboard import Field, Scoreboard
from redis_stream_queue.pool.task_times import MOST_TASKS
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


def test_waits_are_counted_by_task_too() -> None:
    """Of all that started in one millisecond; what is tried again has waited for nobody."""
    row = Scoreboard().row(0)
    row[Field.TASKS] = MOST_TASKS
    watch = Stopwatch(row)
    for tick in (watch.tick, watch.tick_side_by_side):
        watch.started += [StreamMessage(f"1-{n}", b"", 1 + n // 3) for n in range(4)]
        watch.tasks += [1, 2, 1, 1]
        tick(0)
    words = row.tasks()
    waits = [sum(of_one[WAITING * WORDS : WAITING * WORDS + BUCKETS]) for of_one in words[:3]]
    assert waits == [0, 4, 2]
    assert sum(words[1][:BUCKETS]) == 3  # side by side, calls are counted as they end
    assert watch.tasks == watch.started == []
