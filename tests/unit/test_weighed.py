"""Which memory is the app's own, and which the running message has taken."""

from __future__ import annotations

import pytest

from redis_stream_queue.pool.master.health import Weighed, weighed

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
