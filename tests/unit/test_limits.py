"""When a worker has to go; which memory is the app's own, and which the running message took."""

from __future__ import annotations

import pytest

from redis_stream_queue.pool.master.health import Weighed, weighed
from redis_stream_queue.pool.master.limits import (
    POLL_LIMIT_MS,
    Action,
    Limits,
    Vitals,
    judge,
    memory_limit_mb,
)

BOOTED, LOADED, LEAKED = 30, 290, 700  # MB
IDLE = Weighed(0, BOOTED, BOOTED)


@pytest.mark.parametrize(
    ("before", "used", "own", "since", "taken"),
    [
        pytest.param(None, LOADED, 0, 5, 0, id="the first message runs, seen for the first time"),
        pytest.param(IDLE, LOADED, 0, 5, 0, id="the first message runs"),
        pytest.param(None, LOADED, LOADED, 9, 0, id="the first one was never seen"),
        pytest.param(IDLE, LOADED, LOADED, 9, 0, id="the first one was too short to be seen"),
        pytest.param(IDLE, LEAKED, LOADED, 9, LEAKED - LOADED, id="the second has taken more"),
        pytest.param(
            Weighed(5, LOADED, LOADED), LEAKED, LOADED, 9, LEAKED - LOADED, id="a later one has"
        ),
        pytest.param(
            Weighed(5, LEAKED, LEAKED), LEAKED, LOADED, 9, 0, id="the ones before have taken it"
        ),
        pytest.param(
            Weighed(9, LOADED, LEAKED), LEAKED, LOADED, 9, LEAKED - LOADED, id="it still has it"
        ),
        pytest.param(None, LEAKED, LOADED, 0, 0, id="nothing runs"),
    ],
)
def test_taken_is_what_the_running_message_added(
    before: Weighed | None, used: int, own: int, since: int, taken: int
) -> None:
    assert weighed(before, used, own, since).taken_mb == taken


SILENT_MS = POLL_LIMIT_MS + 1
FINE = Vitals(busy=True, message_ms=900, poll_age_ms=SILENT_MS, redis_ok_ms=SILENT_MS)
IDLE_SILENT = FINE._replace(busy=False, message_ms=0)
LIMITS = Limits(time_limit_s=1, memory_mb=100, leave_s=2)


@pytest.mark.parametrize(
    ("vitals", "action"),
    [
        (FINE, None),
        (FINE._replace(message_ms=1000), None),
        (FINE._replace(message_ms=1001), Action.TIME_OUT),
        (FINE._replace(memory_mb=100), None),
        (FINE._replace(memory_mb=101), Action.RETIRE),
        (
            FINE._replace(memory_mb=201, taken_mb=100),
            Action.RETIRE,
        ),  # its message took no more than the limit
        (FINE._replace(memory_mb=200, taken_mb=101), Action.RETIRE),
        (FINE._replace(memory_mb=201, taken_mb=101), Action.KILL),
        (IDLE_SILENT, Action.KILL),
        (IDLE_SILENT._replace(poll_age_ms=POLL_LIMIT_MS), None),
        (IDLE_SILENT._replace(redis_ok_ms=POLL_LIMIT_MS), None),  # Redis was away
        (IDLE_SILENT._replace(leaving_ms=2000), None),  # it waits for its threads
        (IDLE_SILENT._replace(leaving_ms=2001), Action.KILL),
    ],
)
def test_when_a_worker_has_to_go(vitals: Vitals, action: Action | None) -> None:
    """And without limits only one that neither reads nor handles."""
    verdict = judge(vitals, LIMITS)
    assert (verdict and verdict[0]) == action
    unlimited = judge(vitals, Limits())
    assert (unlimited is not None) == (vitals == IDLE_SILENT)


def test_a_limit_below_the_apps_own_memory_is_raised_above_it() -> None:
    assert memory_limit_mb(100, 100) == 100
    assert memory_limit_mb(100, 120) == 180
