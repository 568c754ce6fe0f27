"""Handlers that close, or put something else in the place of, descriptors that are not theirs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.waiting import wait_until

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


PAIRS = """
import socket

@handled
@per_message
def handler(message):
    note("ran", message.id, os.getpid())
    for fd in map(int, os.listdir("/proc/self/fd") if message.data else ()):
        try:
            sock = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if sock.family == socket.AF_UNIX and not sock.getpeername():
            os.close(fd)
        sock.close()
"""


def test_a_worker_that_the_master_cannot_reach_is_replaced(scene: Any) -> None:
    """It handles messages still, but would hear of no drain, no take-over and no pause."""
    pool = scene.start(PAIRS, target="app:handler")
    [deaf] = pool.workers()
    scene.ledger.wait_settled([scene.push({"close": True})[0]])
    pool.wait_log("the pipe to the master among them")
    wait_until(lambda: pool.workers() and deaf not in pool.workers(), 15, "it is replaced")
    scene.ledger.wait_settled(ids := scene.push({}, {}))
    assert {line.split()[2] for line in scene.notes(f"ran {ids[0]}")} == {str(*pool.workers())}
    assert pool.drain() == 0
