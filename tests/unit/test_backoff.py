"""Pauses grow while it goes wrong, and lines about it get rare."""

from __future__ import annotations

import pytest

from redis_stream_queue.connection import backoff
from redis_stream_queue.connection.backoff import CALM_MS, Backoff


def lines(trouble: Backoff, times: int) -> int:
    """How often it is said; after each time it works again."""
    said = 0
    for _ in range(times):
        trouble.next_s()
        said += trouble.worth_a_line()
        trouble.reset()
    return said


def test_what_comes_and_goes_is_one_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = 1_000_000
    monkeypatch.setattr(backoff, "mono_ms", lambda: now_ms)
    trouble = Backoff()
    assert lines(trouble, 100) == 4  # the 1st, 4th, 16th and 64th
    assert trouble.next_s() < 0.06  # and yet each is short
    trouble.reset()
    now_ms += CALM_MS + 1
    trouble.reset()
    assert lines(trouble, 1) == 1  # another one
