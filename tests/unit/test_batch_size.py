"""How many messages a worker reads at once: as many as take about 100 ms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue.pool.worker.batch_size import LARGEST, TARGET_MS, AdaptiveBatch, FixedBatch

MEASURED = st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 1e7)), max_size=50)


def run(batch: AdaptiveBatch, ms_per_message: float, batches: int) -> list[int]:
    sizes = []
    for _ in range(batches):
        sizes.append(batch.size)
        batch.observe(batch.size, batch.size * ms_per_message)
    return sizes


def test_starts_at_one_and_doubles_while_messages_are_tiny() -> None:
    assert run(AdaptiveBatch(), 0.001, 11) == [1, 2, 4, 8, 16, 32, 64, 128, 256, LARGEST, LARGEST]


def test_settles_at_what_takes_the_target_time() -> None:
    assert run(AdaptiveBatch(), 5, 12)[-1] == int(TARGET_MS / 5)


def test_long_messages_come_one_by_one() -> None:
    assert set(run(AdaptiveBatch(), 5000, 5)) == {1}


def test_shrinks_at_once_when_messages_become_long() -> None:
    batch = AdaptiveBatch()
    run(batch, 0.001, 12)
    batch.observe(batch.size, batch.size * 5000)
    assert batch.size == 1


@given(MEASURED)
def test_stays_between_one_and_the_largest_and_at_most_doubles(
    measured: list[tuple[int, float]],
) -> None:
    batch = AdaptiveBatch()
    run(batch, 0.001, 8)
    for count, elapsed_ms in measured:
        before = batch.size
        batch.observe(count, elapsed_ms)
        assert 1 <= batch.size <= min(LARGEST, before * 2)


@given(MEASURED)
def test_a_batch_of_nothing_tells_nothing(measured: list[tuple[int, float]]) -> None:
    batch = AdaptiveBatch()
    for count, elapsed_ms in measured:
        batch.observe(count, elapsed_ms)
        before = batch.size
        batch.observe(0, elapsed_ms)
        assert batch.size == before


def test_fixed_is_fixed() -> None:
    batch = FixedBatch(7, grows=False)
    batch.observe(7, 1e9)
    assert batch.size == 7
    assert batch.more(3, waiting=0, running=1) == 0


def test_lanes_that_are_free_get_more() -> None:
    batch = FixedBatch(7, grows=True)
    assert batch.more(0, waiting=0, running=3) == 4
    assert batch.more(0, waiting=2, running=5) == 0


def test_grows_by_what_was_handled_while_messages_are_short() -> None:
    batch = AdaptiveBatch()
    run(batch, 2, 12)
    assert batch.more(25, waiting=25, running=0) == 25
    assert batch.more(0, waiting=25, running=0) == 0, "what runs now is a long one"
    run(batch, 50, 12)
    assert batch.more(1, waiting=0, running=0) == 0, "they could wait behind each other"
