"""Handlers that close, or put something else in the place of, descriptors that are not theirs."""

from __future__ import annotations

from typing import Any

import pytest

CLOSES = """
def dup2_all():
    null = os.open("/dev/null", os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != null:
            try:
                os.dup2(null, number)
            except OSError:
                pass  # the list's own

def close_the_selector():
    for number in map(int, os.listdir("/proc/self/fd")):
        path = f"/proc/self/fd/{number}"
        if os.path.lexists(path) and "eventpoll" in os.readlink(path):
            os.close(number)

WAYS = {
    "range": lambda: os.closerange(3, 256),
    "dup2": dup2_all,
    "selector": close_the_selector,
}

def act(message):
    way = message.data.get("way")
    if way and message.delivery_count == 1:
        WAYS[way]()
    note("ran", message.id)

@handled
@per_message
def plain(message):
    act(message)

@handled
@per_message(concurrency=3)
async def lanes(message):
    act(message)
"""
WAYS = ["range", "dup2", "selector"]


@pytest.mark.parametrize("target", ["plain", "lanes"])
def test_a_worker_whose_descriptors_a_handler_closed_is_replaced(scene: Any, target: str) -> None:
    """Nothing is lost or buried, the log has a few lines, and the pool ends as it should."""
    pool = scene.start(CLOSES, "--max-deliveries", "10", target=f"app:{target}")
    ids = [scene.push({"way": way}, {}, {}) for way in WAYS]
    pushed = [id for three in ids for id in three]
    scene.ledger.wait_settled(pushed, 25)
    assert {line.split()[1] for line in scene.notes("ran")} == set(pushed)
    assert scene.ledger.letters() == []
    assert "closed descriptors that are not its own" in pool.stderr
    assert len(pool.stderr.splitlines()) < 250, "no flood"
    assert pool.drain() == 0
