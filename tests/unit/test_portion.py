"""Portion: how many entries to ask for at once."""

from __future__ import annotations

from redis_stream_queue.delivery.portion import BYTES, Portion


def test_small_entries_are_bounded_by_number_only() -> None:
    portion = Portion()
    portion.arrived(100, 100 * 200)
    assert portion.of(1000) == 1000


def test_large_entries_are_bounded_by_bytes() -> None:
    portion = Portion()
    portion.arrived(10, 10 * (BYTES // 4))
    assert portion.of(100) == 4
    portion.arrived(1, 3 * BYTES)
    assert portion.of(100) == 1


def test_large_entries_are_forgotten_after_a_while() -> None:
    portion = Portion()
    portion.arrived(1, BYTES)
    for _ in range(100):
        portion.arrived(1, 100)
    assert portion.of(100) == 100


def test_what_did_not_arrive_is_asked_for_in_halves_down_to_one() -> None:
    portion, asked = Portion(), [100]
    while asked[-1] > 1:
        portion.broke(asked[-1])
        asked.append(portion.of(100))
    assert asked == [100, 50, 25, 12, 6, 3, 1]
    portion.broke(1)
    assert portion.of(100) == 1


def test_what_arrives_makes_it_grow_again() -> None:
    portion = Portion()
    portion.broke(8)
    for _ in range(3):
        portion.arrived(4, 400)
    assert portion.of(20) == 20
