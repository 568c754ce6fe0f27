"""A process that a handler forks is never a worker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.apps.conftest import QUICK, Scene
from tests.support.extras import UVLOOP

FORKS = """
import asyncio

async def waits():
    await asyncio.sleep(0.01)

def in_child(way):
    if way == "exit":
        sys.exit(4)
    if way == "raise":
        raise LookupError("in the child")
    if way == "_exit":
        os._exit(5)
    if way == "base":
        raise BaseExceptionGroup("b", [KeyboardInterrupt()])
    return "return"

def forks(message):
    note("ran", message.id, message.delivery_count)
    pid = os.fork() if "way" in message.data else 1
    if pid == 0:
        in_child(message.data["way"])
        return False
    if pid > 1:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        note("child", message.data["way"], code)
    note("done", message.id)
    return True

@handled
@per_message
def handler(message):
    forks(message)

@handled
@per_message
async def one_by_one(message):
    await asyncio.sleep(0.001)
    if not forks(message) and message.data["way"] == "await":
        await asyncio.sleep(0)
        await asyncio.sleep(30)

@handled
@per_message(concurrency=3)
async def lanes(message):
    await asyncio.sleep(0.001)
    if not forks(message) and message.data["way"] == "await":
        await asyncio.sleep(0)

@handled
def batch(messages):
    for message in messages:
        if not forks(message):
            break
    return [m.id for m in messages]

async def sub(message):
    return forks(message)

@handled
@per_message(concurrency=2)
async def subtasks(message):
    await asyncio.create_task(sub(message))
"""
CODES = {"exit": 4, "raise": 1, "_exit": 5, "base": 1, "return": 0}


@pytest.mark.parametrize(
    ("target", "loop"),
    [
        *((target, "") for target in ("handler", "one_by_one", "lanes", "batch", "subtasks")),
        ("subtasks", UVLOOP),
    ],
)
def test_a_forked_child_is_never_a_worker(scene: Scene, target: str, loop: str | Path) -> None:
    """However it ends, its exit code is the one of plain Python, nothing runs twice, and the
    parent goes on."""
    codes = CODES | ({"await": 0 if target == "lanes" else 1} if target == "one_by_one" else {})
    pool = scene.start(FORKS, *QUICK, target=f"app:{target}", env={"PYTHONPATH": str(loop)})
    [worker] = pool.workers()
    ids = scene.push(*({"way": way} for way in CODES), *({} for _ in range(5)))
    scene.ledger.wait_settled(ids)
    more = scene.push({}, {})
    scene.ledger.wait_settled(more)

    runs = Counter(line.split()[1] for line in scene.notes("ran"))
    assert runs == dict.fromkeys([*ids, *more], 1)
    ended = dict(line.split()[1:] for line in scene.notes("child"))
    if target != "subtasks":  # what a child's task raises, nobody hears
        assert ended == {way: str(codes[way]) for way in CODES}
    assert set(ended) == set(CODES)
    assert scene.ledger.letters() == []
    assert pool.workers() == [worker]
    assert pool.drain() == 0


def test_a_forked_child_that_waits_in_the_loop_ends_there(scene: Scene) -> None:
    pool = scene.start(FORKS, *QUICK, target="app:one_by_one")
    ids = scene.push({"way": "await"}, {"way": "await"}, {})
    scene.ledger.wait_settled(ids)
    assert [line.split()[1] for line in scene.notes("done")] == ids
    assert len(scene.notes("child await")) == 2
    assert pool.drain() == 0
